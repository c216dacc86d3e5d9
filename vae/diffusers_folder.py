"""diffusers' model folders: `config.json` beside safetensors; and Wan 2.1's autoencoder in one, both ways."""

import json
import re
from collections.abc import Mapping, Set
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from configs.load import from_json
from configs.model import AutoencoderConfig
from vae.interface import STATISTICS, Statistics
from vae.model import Autoencoder
from vae.training.files import naming, read_json, write_json
from vae.training.weights import check_fit, load_strictly, read_model

WAN = "AutoencoderKLWan"
READ = {"in_channels", "out_channels", "patch_size", "is_residual", "base_dim", "decoder_base_dim", "z_dim"}
READ |= {"dim_mult", "num_res_blocks", "temperal_downsample", "latents_mean", "latents_std"}
READ |= {"dropout", "scale_factor_temporal", "scale_factor_spatial"}  # without effect here
ONLY = {"_class_name": [WAN], "attn_scales": [[]]}
MOST_BLOCKS, MOST_WIDE = 1000, 2**21  # of a network that a foreign file describes


def read_folder(folder: Path) -> tuple[dict, dict[str, Tensor]]:
    """`config.json` and all tensors of one model folder, sharded or not; raises ValueError without them."""
    settings = folder / "config.json"
    if not settings.is_file() or not (tensors := read_model(folder)):
        raise ValueError(f"{folder} is not a diffusers model folder: it needs config.json and *.safetensors")
    return read_config(settings), tensors


def read_config(file: Path) -> dict:
    """The `config.json` of a model; raises ValueError for sizes that no network has, before one is made."""
    settings = read_json(file)
    for name, value in settings.items():
        most = MOST_BLOCKS if re.search("layers|blocks|depth", name) else MOST_WIDE
        numbers = value if isinstance(value, list) else [value]
        large = [n for n in numbers if isinstance(n, int | float) and not abs(n) <= most]  # NaN among them
        if large or len(numbers) > MOST_BLOCKS:
            raise ValueError(f"{file}: {name} = {value!r}: no network with that number is read")
    return settings


def check_settings(settings: Mapping, read: Set[str], only: Mapping[str, list]) -> None:
    """Raises ValueError naming a setting of diffusers that is not done here.

    Of those in `only` the values there are done; what is not in `read` either must be null or false.
    """
    for key, value in settings.items():
        if key not in only and (key in read or key.startswith("_") or value is None or value is False):
            continue
        if key not in only or value not in only[key]:
            rule = f", only {' or '.join(json.dumps(good) for good in only[key])}" if key in only else ""
            raise ValueError(f"{key} = {json.dumps(value)[:80]} is not supported{rule}")


def write_folder(folder: Path, settings: dict, tensors: dict[str, Tensor]) -> None:
    """Writes one model's `config.json` and weights; the inverse of `read_folder`."""
    write_json(folder / "config.json", settings)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors", {"format": "pt"})


def write_wan(folder: Path, autoencoder: Autoencoder) -> None:
    """The folder of an `AutoencoderKLWan`; `load_wan` is its inverse."""
    write_folder(folder, autoencoder_settings(autoencoder), autoencoder.weights())


def autoencoder_settings(autoencoder: Autoencoder) -> dict:
    """Our settings and statistics as the `config.json` of `AutoencoderKLWan`."""
    config, statistics = autoencoder.config, autoencoder.statistics
    return {
        "_class_name": WAN,
        "in_channels": 3 * config.patch**2,
        "out_channels": 3 * config.patch**2,
        "patch_size": config.patch if config.patch > 1 else None,
        "is_residual": False,
        "base_dim": config.base_width,
        "decoder_base_dim": config.decoder_base_width,
        "z_dim": config.latent_channels,
        "dim_mult": list(config.width_multipliers),
        "num_res_blocks": config.residual_blocks,
        "attn_scales": [],
        "temperal_downsample": list(config.time_downsample),
        "dropout": 0.0,
        "latents_mean": list(statistics.mean),
        "latents_std": list(statistics.std),
        "scale_factor_temporal": autoencoder.compression.temporal,
        "scale_factor_spatial": autoencoder.compression.spatial,
    }


def autoencoder_config(settings: dict) -> AutoencoderConfig:
    """Our settings from a `config.json`; raises ValueError naming what this architecture does not have."""
    if settings.get("is_residual"):
        raise ValueError("the Wan 2.2 TI2V autoencoder (residual) is not supported, only Wan 2.1's")
    check_settings(settings, READ, ONLY)
    patch = settings.get("patch_size") or 1
    for key in ("in_channels", "out_channels"):
        if settings.get(key, 3) != 3 * patch**2:
            raise ValueError(f"{key} is {settings[key]}, but patches of {patch} have {3 * patch**2} channels")
    shape = {
        "base_width": settings["base_dim"],
        "decoder_base_width": settings.get("decoder_base_dim") or settings["base_dim"],
        "latent_channels": settings["z_dim"],
        "width_multipliers": settings["dim_mult"],
        "residual_blocks": settings["num_res_blocks"],
        "time_downsample": settings["temperal_downsample"],
        "patch": patch,
    }
    return from_json(AutoencoderConfig, shape)


def load_wan(folder: Path) -> Autoencoder:
    """An autoencoder from a diffusers Wan pipeline's `vae` folder; raises ValueError naming it."""
    settings, tensors = read_folder(folder)
    with naming(folder):
        config = autoencoder_config(settings)
    check_fit(lambda: Autoencoder(config), tensors, folder, absent=STATISTICS)
    with naming(folder):
        with torch.device("meta"):  # nothing is drawn to be overwritten
            model = Autoencoder(config)
        model.to_empty(device="cpu")
        model.set_statistics(Statistics(tuple(settings["latents_mean"]), tuple(settings["latents_std"])))
    load_strictly(model, tensors, folder, absent=STATISTICS)
    return model
