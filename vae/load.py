"""Any autoencoder by its name: a weights file or run of ours, `builtin`, or a folder of diffusers."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from configs.load import from_json
from configs.settings import AutoencoderConfig
from vae.diffusers_folder import load_wan
from vae.model import Autoencoder
from vae.weights import fill, load_weights, tensors_hash

BUILTIN = Path(__file__).parent.parent / "dit" / "builtin"
WEIGHTS = "autoencoder.safetensors"


def load_autoencoder(source: str | Path, device: str | torch.device = "cpu") -> Autoencoder:
    """An autoencoder from a weights file of ours or its folder, `builtin`, or a diffusers folder.

    fp32, for inference. Raises ValueError where there is none.
    """
    path = BUILTIN if str(source) == "builtin" else Path(source)
    if path.is_file():
        model = load_ours(path)
    elif (path / WEIGHTS).is_file():
        model = load_ours(path / WEIGHTS)
    elif (folder := diffusers_folder(path)) is not None:
        model = load_wan(folder)
    else:
        raise ValueError(f"{source}: no autoencoder there; it is a weights file, or a folder with {WEIGHTS}")
    return model.to(device).eval().requires_grad_(False)


def diffusers_folder(path: Path) -> Path | None:
    """Where a diffusers pipeline's or autoencoder's folder has the autoencoder's `config.json`, if it has."""
    return next((folder for folder in (path / "vae", path) if (folder / "config.json").is_file()), None)


def load_ours(path: Path) -> Autoencoder:
    """An autoencoder from its weights file, fp32.

    Raises ValueError for other weights, and for a checkpoint's, whose latents have no statistics yet.
    """
    tensors, settings = load_weights(path)
    config = from_json(AutoencoderConfig, settings["model"])
    if "smoothed" in settings and config == unmeasured(config):
        raise ValueError(
            f"{path} is of a checkpoint, and its latents' statistics are measured when its run ends: "
            f"finish that, with --train.steps {settings['step']} to end here"
        )
    autoencoder = Autoencoder(config)
    fill(autoencoder, tensors, path)
    return autoencoder


def unmeasured(config: AutoencoderConfig) -> AutoencoderConfig:
    """The shape of an autoencoder whose latents' statistics are not known yet."""
    channels = max(0, config.latent_channels)
    return replace(config, latent_mean=(0.0,) * channels, latent_std=(1.0,) * channels)


def autoencoder_hash(autoencoder: nn.Module) -> str:
    """SHA-256 of all that latents depend on: the weights, and the latents' mean and standard deviation."""
    statistics = {"latent mean": autoencoder.latent_mean, "latent std": autoencoder.latent_std}
    return tensors_hash(autoencoder.state_dict() | statistics)
