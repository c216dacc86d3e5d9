"""Weights files: safetensors whose header carries the complete settings, written whole or not at all."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

HEADER = "settings"


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` on a temporary neighbour of `path` and renames it: no half file has the final name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # safetensors would let nobody else read the file
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(text))


def read_json(file: Path) -> dict:
    """The object in a JSON file; raises ValueError naming the file where there is none."""
    try:
        values = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds {values!r}, which is no set of settings")
    return values


def check_writable(file: Path) -> None:
    """Raises ValueError or OSError where a file cannot be written, before what it is for is measured."""
    if file.is_dir():
        raise ValueError(f"{file} is a folder: give a file in it")
    write_text(file.with_name(f"{file.name}.part"), "")
    file.with_name(f"{file.name}.part").unlink()


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


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, the name of a set of weights."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
