"""The door to other people's text-to-video models: any pipeline of diffusers, from its folder."""

import hashlib
import inspect
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy
import torch
from einops import rearrange
from torch import Tensor

from vae.training.files import file_hash, out_of_memory, read_json
from vae.training.weights import check_finite, weights_files

OURS = "WanPipeline"  # what this project samples itself
WEIGHTS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}  # what their files are named
ARGUMENTS = {  # our settings -> what pipelines call them
    "steps": ("num_inference_steps",),
    "guidance": ("guidance_scale",),
    "frames": ("num_frames", "video_length"),
}


@dataclass(frozen=True)
class Pipeline:
    """A pipeline that turns a prompt into a video, and what it is: its folder, class, weights by hash."""

    call: object
    takes: frozenset[str]
    weights: str
    facts: dict


def is_foreign(folder: str) -> bool:
    """Whether a folder holds a pipeline that this project does not sample itself: another than Wan 2.1's."""
    file = Path(folder) / "model_index.json"
    if not file.is_file():
        return False
    index, autoencoder = read_json(file), Path(folder) / "vae" / "config.json"
    newer = autoencoder.is_file() and read_json(autoencoder).get("is_residual", False)
    return index.get("_class_name") != OURS or index.get("transformer_2") not in (None, [None, None]) or newer


def _folder_hash(folder: Path) -> str:
    """SHA-256 over the names and hashes of all weights files of a folder."""
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} holds no *.safetensors, and other weights are not read")
    lines = [f"{file.relative_to(folder).as_posix()} {file_hash(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _check_parts(folder: Path) -> None:
    """Raises ValueError where a part is of another package, brings code, or has files that nothing names."""
    for part, entry in read_json(folder / "model_index.json").items():
        if not isinstance(entry, list) or entry in ([], [None, None]):
            continue
        if entry[0] in WEIGHTS:
            weights_files(folder / part, WEIGHTS[entry[0]])
        elif not str(entry[0]).isidentifier() or not find_spec(f"diffusers.pipelines.{entry[0]}"):
            raise ValueError(
                f"{folder / part} is of {entry[0]}: only parts of {', '.join(WEIGHTS)} are loaded"
            )
        for file in (folder / part).glob("*config.json"):
            if "auto_map" in read_json(file):
                raise ValueError(f"{file} names code of the folder (auto_map), which is not run")


def load_pipeline(folder: str, device: torch.device, dtype: torch.dtype) -> Pipeline:
    """The pipeline of a folder, from safetensors only; no code of the folder is run.

    Raises ValueError where diffusers cannot load it, or where it takes no prompt.
    """
    import diffusers

    path = Path(folder)
    weights = _folder_hash(path)
    _check_parts(path)
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of its own use of diffusers
            pipeline = diffusers.DiffusionPipeline.from_pretrained(
                path, torch_dtype=dtype, use_safetensors=True, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # whatever a foreign folder does wrong is the answer
        if out_of_memory(error):
            raise
        raise ValueError(f"{folder}: diffusers cannot load it: {error}") from None
    for part, module in pipeline.components.items():
        if isinstance(module, torch.nn.Module):
            check_finite(module.state_dict(), path / part)
    pipeline.set_progress_bar_config(disable=True)
    takes = frozenset(inspect.signature(pipeline.__call__).parameters)
    needed = {"prompt", "generator", "output_type", "num_inference_steps"}
    if not needed <= takes:
        raise ValueError(f"{folder}: {type(pipeline).__name__} makes no video of a prompt")
    facts = {"folder": path.name, "class": type(pipeline).__name__, "diffusers": diffusers.__version__}
    return Pipeline(pipeline.to(device), takes, weights, facts)


def _arguments(pipeline: Pipeline, settings: dict[str, float]) -> dict:
    """Settings by the pipeline's names of them; raises ValueError for one that it does not take."""
    arguments = {}
    for name, value in settings.items():
        argument = next((key for key in ARGUMENTS.get(name, (name,)) if key in pipeline.takes), "")
        if not argument:
            raise ValueError(f"{pipeline.facts['class']} takes no {name}: leave it to the model")
        arguments[argument] = value
    return arguments


@torch.no_grad()
def generate_with(pipeline: Pipeline, prompt: str, seed: int, settings: dict) -> Tensor:
    """One video C T H W in [-1, 1] of a prompt; the noise is drawn on the CPU, the same on every device.

    Raises ValueError for a seed of more bits than the pipeline's noise keeps, and where it gives no video.
    """
    if seed >= 2**32:
        raise ValueError(
            f"seed = {seed}: {pipeline.facts['class']} draws by PyTorch, which keeps 32 bits of it"
        )
    noise = torch.Generator().manual_seed(seed)
    output = pipeline.call(prompt=prompt, generator=noise, output_type="np", **_arguments(pipeline, settings))
    frames = getattr(output, "frames", None)
    if frames is None:
        raise ValueError(f"{pipeline.facts['class']} makes no video: its output has no frames")
    video_THWC = torch.from_numpy(numpy.asarray(frames[0])).float()
    if video_THWC.dim() != 4 or video_THWC.shape[-1] != 3:
        raise ValueError(
            f"{pipeline.facts['class']} gave frames of shape {tuple(video_THWC.shape)}, not T H W 3"
        )
    return rearrange(video_THWC * 2 - 1, "t h w c -> c t h w").contiguous()
