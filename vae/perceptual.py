"""The perceptual loss: how far apart frames are to a frozen network, LPIPS' or an autoencoder's encoder."""

from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from configs.train import PerceptualConfig
from vae.load import autoencoder_hash, load_autoencoder
from vae.model import Autoencoder, Downsample
from vae.quality.lpips import SMALLEST, TRUNKS, Lpips, load_lpips
from vae.training.files import file_hash
from vae.training.weights import read_tensors

NONE = "none"


class FrameDistance(nn.Module):
    """The mean over frames of a distance of pictures; frames too small for its network are padded."""

    def __init__(self, lpips: Lpips):
        super().__init__()
        self.lpips = lpips

    def forward(self, one_BCTHW: Tensor, other_BCTHW: Tensor) -> Tensor:
        height, width = (max(0, SMALLEST - side) for side in one_BCTHW.shape[3:])
        sides = [rearrange(video, "b c t h w -> (b t) c h w") for video in (one_BCTHW, other_BCTHW)]
        return self.lpips(*(F.pad(side, (0, width, 0, height), mode="replicate") for side in sides)).mean()


class EncoderDistance(nn.Module):
    """How far apart frames are in a frozen autoencoder's encoder; features of each place have unit length."""

    def __init__(self, autoencoder: Autoencoder):
        super().__init__()
        self.autoencoder = autoencoder

    def features(self, video_BCTHW: Tensor) -> list[Tensor]:
        """What goes into every down-sampler, and what comes out of the last layer."""
        encoder, features = self.autoencoder.encoder, []
        frames = rearrange(video_BCTHW, "b c t h w -> (b t) c 1 h w")
        x = encoder.conv_in(frames.contiguous(memory_format=torch.channels_last_3d))
        for layer in encoder.layers():
            if isinstance(layer, Downsample):
                features.append(x)
            x = layer(x)
        return [F.normalize(x.float(), dim=1) for x in (*features, x)]

    def forward(self, one_BCTHW: Tensor, other_BCTHW: Tensor) -> Tensor:
        pairs = zip(self.features(one_BCTHW), self.features(other_BCTHW), strict=True)
        return torch.stack([(x - y).square().sum(1).mean() for x, y in pairs]).sum()


def load_perceptual(config: PerceptualConfig) -> tuple[nn.Module | None, str, str]:
    """The frozen network of the perceptual loss, its weights' hash, and what to say of it.

    A trunk's name is LPIPS with certified weights; where they are missing there is no perceptual loss, and it
    is said why. A file is a trunk's weights as torchvision names them, whose features all count alike; or
    an autoencoder, by any of its names. Raises ValueError for what is neither.
    """
    name = config.network
    if name == NONE:
        return None, "", ""
    if name in TRUNKS:
        lpips, hashes = load_lpips(name, config.trunk, config.heads)
        if lpips is None:
            return None, "", f"note: the perceptual loss is {hashes}. Training goes on without it"
        return frozen(FrameDistance(lpips)), hashes, f"perceptual loss: LPIPS {name}"
    file = Path(name)
    if file.is_file() and file.suffix in (".pth", ".pt"):
        trunk, lpips = _read_trunk(file)
        return (
            frozen(FrameDistance(lpips)),
            file_hash(file),
            f"perceptual loss: features of {trunk} in {file}",
        )
    try:
        autoencoder = load_autoencoder(name)
    except ValueError as error:
        raise ValueError(
            f"perceptual.network = {name} is none of {', '.join(TRUNKS)}, no torchvision file of one, and no "
            f"autoencoder ({error})"
        ) from None
    if not isinstance(autoencoder, Autoencoder) or autoencoder.config.patch > 1:
        raise ValueError(
            f"perceptual.network = {name}: only features of autoencoders of ours, unpatched, work"
        )
    message = f"perceptual loss: features of the autoencoder {name}"
    return frozen(EncoderDistance(autoencoder)), autoencoder_hash(autoencoder), message


def frozen(network: nn.Module) -> nn.Module:
    """A network that is used and not trained."""
    return network.eval().requires_grad_(False)


def _read_trunk(file: Path) -> tuple[str, Lpips]:
    """Which trunk a file of torchvision's names holds, and the trunk with every feature counting alike."""
    tensors = read_tensors(file)
    for trunk in TRUNKS:
        lpips = Lpips(trunk)
        try:
            lpips.load_trunk(tensors)
        except ValueError:
            continue
        for head in lpips.heads:
            head.data.fill_(1.0)
        return trunk, lpips
    raise ValueError(f"{file} holds no network of torchvision's that is known: {', '.join(TRUNKS)}")
