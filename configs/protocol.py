"""What a score means: every choice that moves it, frozen, named and hashed."""

import dataclasses
import hashlib
import importlib
import json
import pkgutil
from dataclasses import dataclass
from types import ModuleType
from typing import Literal, Self

from configs import protocols
from configs.load import nearest


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One way to compute a score; two scores compare where all of it is equal."""

    name: str
    """Its name on the command line."""
    metric: str
    """What is computed: `dit eval METRIC` takes it."""
    fake: int
    """Clips of the generated side."""

    @property
    def least(self) -> int:
        """The fewest clips of a side that have any score."""
        return 1

    def canonical(self) -> str:
        """All of it as JSON with sorted keys and no spaces."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    def hash(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class ClipChoice:
    """Which clips of a folder's videos are scored."""

    videos: Literal["first", "random", "windows"] = "random"
    """Which clips, where there are more: of the first videos by name, of a seeded choice of videos, or a
    seeded choice of all clips of all videos, so that a long video has more and may have several."""
    start: Literal["first", "random", "middle"] = "random"
    """Where in its video a clip starts; random is a function of the seed and of what the video is."""
    fake_start: Literal["same", "first"] = "same"
    """Where a generated clip starts: where `start` says, or at its video's first frame, one a video."""
    whole_steps: bool = False
    """Whether a video needs `frames` times the step, a step after the last frame too."""
    seed: int = 0
    """Seed of videos and starts."""
    frames: int = 16
    """Frames of a clip; 0 takes all of a video."""
    fake_stride: int = 1
    """Step between two frames of a generated clip."""

    def least_frames(self, stride: int) -> int:
        """The fewest frames of a video that has a clip of this step."""
        span = (self.frames - 1) * stride + 1
        return max(1, self.frames * stride if self.whole_steps else span)

    def of_side(self, which: str) -> Self:
        """The choice for the clips of one side, `real` or `fake`."""
        if which == "real" or self.fake_start == "same":
            return self
        return dataclasses.replace(self, start="first", videos=self.videos.replace("windows", "random"))


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What becomes of a clip's frames before a feature network sees them."""

    stored_size: int = 0
    """Side of the square frames that are made of a video before the network's own resize; 0 makes none."""
    stored_order: Literal["resize-crop", "crop-resize"] = "resize-crop"
    """Whether such a frame's shorter side is resized and the middle cut out, or the other way round."""
    stored_kernel: Literal["bilinear", "bilinear-plain", "bicubic", "lanczos"] = "lanczos"
    """Kernel of that resize: bilinear as PyTorch's, antialiased or plain; bicubic and lanczos as Pillow's."""
    stored_longer: Literal["floor", "ceil"] = "floor"
    """What becomes of a fraction of a pixel in the longer side."""
    stored_rounding: Literal["round", "floor", "floor-halves"] = "round"
    """How that resize comes to whole bytes; `floor-halves` first takes a half of the range and gives it back
    in fp32, as VideoGPT's loader, by which a quarter of the levels lose one."""
    stored_codec: Literal["none", "jpeg-75"] = "none"
    """What those frames are written to and read from."""
    size: int = 224
    """Side of the network's frames."""
    fit: Literal["squash", "crop"] = "squash"
    """Whether a frame is squashed to a square, or its shorter side resized and the middle cut out."""
    kernel: Literal["bilinear", "bilinear-tf1", "bilinear-corners"] = "bilinear"
    """Kernel of that resize, without antialiasing; TensorFlow 1's has no half-pixel centres, and `corners`
    aligns the corners' pixels."""


@dataclass(frozen=True, kw_only=True)
class FeatureProtocol(Preprocessing, ClipChoice, Protocol):
    """A score of a network's features of one clip of every video."""


@dataclass(frozen=True, kw_only=True)
class DistanceProtocol(FeatureProtocol):
    """A distance of two sides' features, in fp32 without TF32."""

    data: str = "any"
    """Data set of the real videos; `any` leaves it to the user, and the files' hash says which they were."""
    split: str = ""
    """Which part of the data set the real videos are."""
    list_sha256: str = ""
    """SHA-256 of the sorted names of that part's videos, a line each, without folders and endings."""
    real: int
    """Clips of the real side; 0 takes one of every video."""
    real_stride: int = 1
    """Step between two frames of a real clip."""
    network: Literal["i3d", "videomae", "vjepa2", "clip-vision"] = "i3d"
    """Feature network: I3D, whose weights are certified tensor by tensor, or a model of transformers."""
    network_sha256: str = ""
    """What certifies a model of transformers: the SHA-256 of its weights' files and of its configuration, as
    `dit eval weights --encoder FOLDER` says them; empty leaves it uncertified."""
    pixels: Literal["symmetric", "unit", "imagenet", "clip"] = "symmetric"
    """What the network's colours are: from -1 to 1, from 0 to 1, or those less the mean and by the deviation
    of ImageNet's or CLIP's pictures."""
    pooling: Literal["mean", "mean-norm", "attentive"] = "mean"
    """How a clip's outputs become its features: their mean over places and times, that mean normalized by the
    classifier's layer norm, or the attention of the classifier's pooler."""
    eps: float = 1e-3
    """I3D's batch norm adds this to the variance."""

    @property
    def least(self) -> int:
        """A spread needs two clips."""
        return 2

    def making(self) -> dict:
        """The fields that make features of a clip's frames: protocols that share them share features."""
        names = {field.name for field in dataclasses.fields(Preprocessing)}
        names |= {"network", "network_sha256", "pixels", "pooling", "eps"}
        return {name: value for name, value in dataclasses.asdict(self).items() if name in names}


@dataclass(frozen=True, kw_only=True)
class FvdProtocol(DistanceProtocol):
    """The Frechet distance of two sides' features."""

    metric: str = "fvd"
    """What is computed."""
    ddof: Literal[0, 1] = 1
    """The covariance divides by the number of clips less this."""


@dataclass(frozen=True, kw_only=True)
class KernelProtocol(DistanceProtocol):
    """The square of the maximum mean discrepancy of two sides' features by a kernel (Gretton et al. 2012)."""

    metric: str = "mmd"
    """What is computed."""
    title: str
    """What papers call it."""
    mmd_kernel: Literal["polynomial", "gaussian"] = "polynomial"
    """(x y / D + offset)^degree of features of D numbers, or exp(-|x - y|^2 / (2 sigma^2))."""
    degree: int = 3
    """Power of the polynomial kernel."""
    offset: float = 1.0
    """What that kernel adds before the power is taken."""
    sigma: float = 10.0
    """Width of the Gaussian kernel."""
    unbiased: bool = True
    """Whether a clip beside itself is left out, so that equal distributions have 0 on average."""
    scale: float = 1.0
    """The score is the discrepancy times this."""


def kernel_beside(protocol: FvdProtocol, **own) -> KernelProtocol:
    """A kernel distance of the very features of FVD, under the name of its protocol."""
    shared = {field.name: getattr(protocol, field.name) for field in dataclasses.fields(DistanceProtocol)}
    return KernelProtocol(**shared | {"metric": "mmd"} | own)


@dataclass(frozen=True, kw_only=True)
class ClipsimProtocol(ClipChoice, Protocol):
    """The mean cosine of frames and prompts by CLIP, preprocessed as OpenAI's code does, not scaled."""

    metric: str = "clipsim"
    """What is computed."""
    network: Literal["clip-vit-base-patch32"] = "clip-vit-base-patch32"
    """Network of pictures and prompts; its weights are certified."""


@dataclass(frozen=True, kw_only=True)
class InceptionProtocol(FeatureProtocol):
    """The Inception score of a classifier's probabilities, the softmax of its last layer."""

    metric: str = "is"
    """What is computed."""
    network: Literal["c3d-ucf101"] = "c3d-ucf101"
    """The classifier."""
    splits: int = 1
    """Parts of the clips, each of which has an Inception score; their mean is the score."""
    shuffle: int | None = None
    """Seed of numpy's `RandomState` that shuffles the clips before they are parted; none: no shuffle."""
    added: float = 0.0
    """What is added to a probability before its logarithm."""

    @property
    def least(self) -> int:
        """Every split needs a clip."""
        return self.splits


@dataclass(frozen=True, kw_only=True)
class ReconstructionProtocol(Protocol):
    """Which measures of videos beside their originals a table has, under its names PSNR, SSIM and LPIPS."""

    metric: str = "reconstruction"
    """What is computed."""
    fake: int = 0
    """Videos of the generated side; 0 takes all that have an original."""
    psnr: Literal["psnr", "wrapped_psnr"] = "psnr"
    """What PSNR is: each frame's, or the same with squared differences that wrap as bytes do."""
    ssim: Literal["ssim", "ssim_grey_uniform"] = "ssim"
    """What SSIM is: of colours by a Gaussian window, or of grey by scikit-image's default."""
    lpips: Literal["lpips", "unit_lpips"] = "lpips"
    """What LPIPS is given: frames in [-1, 1], for which it is made, or in [0, 1]."""
    trunk: Literal["alex", "vgg", "squeeze"] = "alex"
    """Trunk of LPIPS."""
    mean: Literal["videos", "frames"] = "videos"
    """Whether a score is the mean over videos of their own, or over the frames of all videos alike."""


def protocol_names() -> list[str]:
    """Names of all protocols, of the files in `configs/protocols`."""
    return sorted(file.name.replace("_", "-") for file in pkgutil.iter_modules(protocols.__path__))


def protocol_module(name: str) -> ModuleType:
    """The file of a protocol, whose docstring says what it follows; ValueError naming the nearest one."""
    _check_name(name, protocol_names())
    return importlib.import_module(f"configs.protocols.{name.replace('-', '_')}")


def _check_name(name: str, names: list[str]) -> None:
    """Raises ValueError naming the nearest protocol, or all of them."""
    if name not in names:
        close = nearest(name, names)
        raise ValueError(f"no protocol {name or '(none given)'}{close or ': ' + ', '.join(names)}")


def load_protocols(name: str) -> dict[str, Protocol]:
    """The protocols of a name by their metrics: one file may say how several scores are computed."""
    values = vars(protocol_module(name)).values()
    return {p.metric: p for p in values if isinstance(p, Protocol) and p.name == name}


def load_protocol(name: str, metric: str) -> Protocol:
    """The protocol of a name and metric; raises ValueError where the name is another metric's."""
    if name not in protocol_names():
        _check_name(name, [other for other in protocol_names() if metric in load_protocols(other)])
    by_metric = load_protocols(name)
    if metric not in by_metric:
        raise ValueError(f"{name} is a protocol of {' and '.join(by_metric)}, not of {metric}")
    return by_metric[metric]


def job_protocols(job: str) -> dict[str, Protocol]:
    """The protocols by which a job of `dit eval run` is scored, by their metrics; none for no job."""
    mine = [name for name in protocol_names() if job in getattr(protocol_module(name), "JOBS", ())]
    by_metric = {metric: p for name in mine for metric, p in load_protocols(name).items()}
    return {metric: by_metric[metric] for metric in sorted(by_metric)}


def differences(one: dict, other: dict) -> list[str]:
    """The fields in which two protocols differ, as sentences; the name comes last."""
    names = [*sorted({*one, *other} - {"name"}), "name"]
    return [
        f"{name}: {one.get(name)!r} and {other.get(name)!r}"
        for name in names
        if one.get(name) != other.get(name)
    ]
