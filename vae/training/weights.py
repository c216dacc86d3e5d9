"""Weights files: safetensors whose header carries the complete settings, written whole or not at all."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vae.training.files import write_whole

HEADER = "settings"


def save_weights(path: Path, tensors: Mapping[str, Tensor], settings: dict, dtype: torch.dtype | None = None):
    """Saves tensors with their settings in the header; `dtype` converts the floating ones."""
    plain = {
        name: tensor.detach()
        .cpu()
        .to(dtype if dtype and tensor.is_floating_point() else tensor.dtype)
        .contiguous()
        for name, tensor in tensors.items()
    }
    header = {HEADER: json.dumps(settings, sort_keys=True)}
    write_whole(path, lambda temporary: save_file(plain, temporary, metadata=header))


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors and settings of a weights file; raises ValueError naming a file that is not one of ours."""
    settings = read_settings(path)
    return load_file(path), settings


def read_settings(path: Path) -> dict:
    """The settings in a weights file's header; raises ValueError naming a file that is not one of ours."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such weights file")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error})") from None
    if HEADER not in header:
        raise ValueError(f"{path} carries no settings: it was not written by this project")
    return json.loads(header[HEADER])


def fill(module: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Loads tensors into a module, as fp32; raises ValueError naming the first ones that do not fit."""
    own = module.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in tensors]
    for name, tensor in tensors.items():
        if name not in own:
            wrong.append(f"{name} has no place")
        elif tensor.shape != own[name].shape:
            wrong.append(f"{name} is {tuple(tensor.shape)}, not {tuple(own[name].shape)}")
    if wrong:
        more = f" and {len(wrong) - 2} more" if len(wrong) > 2 else ""
        raise ValueError(f"{source} does not fit the model's settings: {'; '.join(wrong[:2])}{more}")
    module.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of named tensors' values, whatever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
