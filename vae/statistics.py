"""Mean and standard deviation of every latent channel: measured on clips, kept beside the weights."""

import hashlib
import math
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import TypedDict

from vae.interface import Statistics, VideoAutoencoder
from vae.training.files import file_hash, naming, read_json, write_json
from vae.training.weights import weights_files

FILE = "latent_statistics.json"
VERSION = 1  # of that file
FLAT = 1e-6  # std, in units of the mean or 1, of a channel that varies by rounding alone


class Measured(TypedDict):
    """The parts of that file."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: str
    version: int


def posterior_sums(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Sums over a posterior's latents, float64 4 x C: z, z squared, its variance, and 1, of z drawn from it.

    The square's is E[z^2] = mean^2 + variance, so that no noise is drawn.
    """
    mean, variance = mean.double(), log_variance.double().exp()
    parts = (mean, mean**2 + variance, variance, torch.ones_like(mean))
    return torch.stack([part.sum(dim=(0, 2, 3, 4)) for part in parts])


def raw_sums(autoencoder: VideoAutoencoder, mean: Tensor, log_variance: Tensor) -> Tensor:
    """`posterior_sums` of the raw latents whose normalised posterior is given."""
    shift, scale = autoencoder.latent_mean.double(), autoencoder.latent_std.double()
    return posterior_sums(mean.double() * scale + shift, log_variance.double() + 2 * scale.log())


@torch.no_grad()
def latent_sums(autoencoder: VideoAutoencoder, video_CTHW: Tensor) -> Tensor:
    """`posterior_sums` of a clip's raw latents, on the CPU."""
    posterior = autoencoder.posterior(video_CTHW[None].to(autoencoder.latent_mean.device))
    return raw_sums(autoencoder, *posterior).cpu()


def statistics_of(sums: list[Tensor]) -> Statistics:
    """The statistics of all latents together, from the sums of every clip; added in the order of the list."""
    first, second, _, count = sum(sums[1:], sums[0])
    mean = first / count
    return Statistics(tuple(mean.tolist()), tuple((second / count - mean**2).sqrt().tolist()))


def _weights_hash(folder: Path) -> str:
    """SHA-256 of the hashes of a diffusers folder's weights."""
    return hashlib.sha256("".join(map(file_hash, weights_files(folder))).encode()).hexdigest()


def write_statistics(folder: Path, statistics: Statistics, measured: dict) -> Path:
    """Writes statistics beside their weights, with what they were `measured` on; returns the file."""
    values = {"mean": statistics.mean, "std": statistics.std, "weights": _weights_hash(folder)}
    write_json(folder / FILE, values | {"version": VERSION} | measured)
    return folder / FILE


def read_statistics(folder: Path, channels: int) -> Statistics | None:
    """The statistics measured of a folder's autoencoder; None without a file of them.

    Raises ValueError for a file that is damaged, or was measured of other weights.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    values = read_json(file, Measured)
    again = f"measure again: dit vae stats {folder} --data MANIFEST, or remove the file"
    mean, std = values["mean"], values["std"]
    if len(mean) != channels or len(std) != channels or values["version"] != VERSION:
        raise ValueError(f"{file} holds no mean and std of {channels} channels; {again}")
    if values["weights"] != _weights_hash(folder):
        raise ValueError(f"{file} was measured of other weights than lie beside it; {again}")
    with naming(file):
        return checked(Statistics(mean, std))


def checked(statistics: Statistics) -> Statistics:
    """The same statistics; raises ValueError where they cannot scale latents."""
    for channel, (mean, std) in enumerate(zip(statistics.mean, statistics.std, strict=True)):
        if not (abs(mean) < math.inf and FLAT * max(1.0, abs(mean)) < std < math.inf):
            raise ValueError(
                f"latent channel {channel} has the mean {mean:g} and the std {std:g}: not usable"
            )
    return statistics
