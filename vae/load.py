"""Any autoencoder by its name: a weights file or run of ours, `builtin`, or a folder of diffusers."""

import hashlib
import json
import shutil
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from configs.load import from_json, to_json
from configs.model import AutoencoderConfig
from vae.diffusers_folder import load_wan
from vae.diffusers_models import OtherAutoencoder, load_other
from vae.model import Autoencoder
from vae.statistics import FILE as MEASURED
from vae.statistics import Statistics, read_statistics, weights_files
from vae.training.files import file_hash, read_json
from vae.training.weights import AUTOENCODERS, Header, fill, load_weights, save_weights, tensors_hash

BUILTIN = Path(__file__).parent.parent / "dit" / "builtin"
WEIGHTS = "autoencoder.safetensors"


def load_autoencoder(
    source: str | Path, device: str | torch.device = "cpu", as_shipped: bool = False
) -> Autoencoder | OtherAutoencoder:
    """An autoencoder from a weights file of ours or its folder, `builtin`, or a diffusers folder.

    fp32, for inference. Statistics that `dit vae stats` left in a diffusers folder hold, unless it is taken
    `as_shipped`. Raises ValueError where there is none.
    """
    path = find_autoencoder(source)
    model = load_ours(path) if path.is_file() else load_folder(path, as_shipped)
    return model.to(device).eval().requires_grad_(False)


def find_autoencoder(source: str | Path) -> Path:
    """The weights file of ours, or diffusers' folder, that a name means; raises ValueError where none is."""
    path = BUILTIN if str(source) == "builtin" else Path(source)
    for place in (path, path / WEIGHTS):
        if place.is_file():
            return place
    for folder in (path / "vae", path):  # a pipeline's, a run's, or the autoencoder's own
        if (folder / "config.json").is_file():
            return folder
    raise ValueError(f"{source}: no autoencoder there; it is a weights file, or a folder with {WEIGHTS}")


def stored_hash(source: str | Path) -> str:
    """SHA-256 of an autoencoder's weights file; of a folder that of all its files, statistics included."""
    path = find_autoencoder(source)
    if path.is_file():
        return file_hash(path)
    return hashlib.sha256("".join(map(file_hash, folder_files(path))).encode()).hexdigest()


def folder_files(folder: Path) -> list[Path]:
    """The files of diffusers' folder that an autoencoder is made of."""
    files = [folder / "config.json", *weights_files(folder), folder / MEASURED]
    return [file for file in files if file.is_file()]


def keep_copy(source: str | Path, autoencoder: Autoencoder | OtherAutoencoder, out: Path) -> None:
    """Writes the autoencoder that came from `source` into a run's folder, whole or not at all."""
    if isinstance(autoencoder, Autoencoder):
        settings = {"model": to_json(autoencoder.config)}
        save_weights(out / WEIGHTS, autoencoder.state_dict(), "autoencoder", settings)
        return
    temporary = out / ".vae.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for file in folder_files(find_autoencoder(source)):
        shutil.copyfile(file, temporary / file.name)
    shutil.rmtree(out / "vae", ignore_errors=True)
    temporary.rename(out / "vae")


def load_folder(folder: Path, as_shipped: bool = False) -> Autoencoder | OtherAutoencoder:
    """An autoencoder from diffusers' folder of one: Wan 2.1's into our own network, others into their own."""
    settings = read_json(folder / "config.json")
    if settings.get("_class_name", "AutoencoderKLWan") == "AutoencoderKLWan" and not settings.get(
        "is_residual"
    ):
        model = load_wan(folder)
    else:
        model = load_other(folder)
    if as_shipped:
        return model
    if (measured := read_statistics(folder, model.channels)) is not None:
        take_statistics(model, measured)
    elif isinstance(model, OtherAutoencoder) and not model.ships_statistics:
        say_unmeasured(folder)
    return model


def take_statistics(model: Autoencoder | OtherAutoencoder, statistics: Statistics) -> None:
    """Gives an autoencoder other statistics of its latents."""
    if isinstance(model, OtherAutoencoder):
        model.set_statistics(statistics)
    else:
        config = replace(model.config, latent_mean=statistics.mean, latent_std=statistics.std)
        model.set_statistics(config, model.latent_mean)


@lru_cache
def say_unmeasured(folder: Path) -> None:
    """Says once that latents are scaled by one factor for all channels, and what would measure them."""
    print(
        f"note: {folder} ships no statistics by channel, so its latents are scaled by its one factor; "
        f"dit vae stats {folder} --data MANIFEST measures them",
        file=sys.stderr,
    )


def load_ours(path: Path) -> Autoencoder:
    """An autoencoder from its weights file, fp32.

    Raises ValueError for other weights, and for a checkpoint's, whose latents have no statistics yet.
    """
    tensors, header = load_weights(path, *AUTOENCODERS)
    autoencoder = Autoencoder(measured_config(path, header))
    fill(autoencoder, tensors, path)
    return autoencoder


def measured_config(path: Path, header: Header) -> AutoencoderConfig:
    """The shape and statistics in a weights file's settings; raises ValueError for a checkpoint's."""
    config = from_json(AutoencoderConfig, header.settings["model"])
    if header.kind == "autoencoder checkpoint" and config == unmeasured(config):
        raise ValueError(
            f"{path} is of a checkpoint, and its latents' statistics are measured when its run ends: "
            f"finish that, with --train.steps {header.facts['step']} to end here"
        )
    return config


def unmeasured(config: AutoencoderConfig) -> AutoencoderConfig:
    """The shape of an autoencoder whose latents' statistics are not known yet."""
    channels = max(0, config.latent_channels)
    return replace(config, latent_mean=(0.0,) * channels, latent_std=(1.0,) * channels)


def autoencoder_hash(autoencoder: nn.Module) -> str:
    """SHA-256 of all that latents depend on: weights, settings, the latents' mean and standard deviation."""
    statistics = {"latent mean": autoencoder.latent_mean, "latent std": autoencoder.latent_std}
    about = json.dumps(autoencoder.settings, sort_keys=True, default=str)
    return hashlib.sha256((tensors_hash(autoencoder.state_dict() | statistics) + about).encode()).hexdigest()
