"""Weights files: safetensors whose header says kind, settings and facts, written whole or not at all."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vae.training.files import write_whole

KINDS = {  # of weights files, and the verb that makes each
    "transformer": "dit train",
    "transformer checkpoint": "dit train",
    "autoencoder": "dit vae train",
    "autoencoder checkpoint": "dit vae train",
    "latents": "dit vae encode",
    "texts": "dit vae encode",
    "features": "dit eval fvd",
}
TRANSFORMERS = ("transformer", "transformer checkpoint")
AUTOENCODERS = ("autoencoder", "autoencoder checkpoint")


@dataclass(frozen=True)
class Header:
    """What a weights file says of itself: its kind, the settings that made it, and facts of its making."""

    kind: str
    settings: dict
    facts: dict = field(default_factory=dict)


def save_weights(
    path: Path, tensors: Mapping[str, Tensor], kind: str, settings: dict, facts: dict | None = None
) -> None:
    """Saves tensors with kind, settings and facts in the header."""
    assert kind in KINDS, kind
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"kind": kind}
    header |= {
        name: json.dumps(part or {}, sort_keys=True)
        for name, part in {"settings": settings, "facts": facts}.items()
    }
    write_whole(path, lambda temporary: save_file(plain, temporary, metadata=header))


def load_weights(path: Path, *kinds: str) -> tuple[dict[str, Tensor], Header]:
    """Tensors and header of a weights file of one of `kinds`; raises ValueError as `read_header` does."""
    header = read_header(path, *kinds)
    return load_file(path), header


def read_header(path: Path, *kinds: str) -> Header:
    """The header of a weights file; raises ValueError naming one that is not ours, or of none of `kinds`.

    Without `kinds` it may be of any.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such weights file")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error})") from None
    if not {"kind", "settings", "facts"} <= set(header):
        raise ValueError(
            f"{path} says no kind, settings and facts: it was not written by this project, or by a version "
            f"whose files are no longer read; make it again"
        )
    if kinds and (kind := header["kind"]) not in kinds:
        raise ValueError(
            f"{path} is of kind {kind}, where {kinds[0]} is needed: `{KINDS[kinds[0]]}` makes one"
        )
    try:
        settings, facts = json.loads(header["settings"]), json.loads(header["facts"])
        whole = isinstance(settings, dict) and isinstance(facts.get("step", 0), int)
    except (ValueError, AttributeError):
        whole = False
    if not whole:
        raise ValueError(f"{path} has damaged settings or facts in its header: make it again")
    return Header(header["kind"], settings, facts)


def load_strictly(
    module: nn.Module, tensors: Mapping[str, Tensor], source: str | Path, absent: tuple[str, ...] = ()
) -> None:
    """Loads tensors into a module as fp32, all of them or none; raises ValueError as `check_tensors` does.

    Names that begin with one of `absent` may be missing.
    """
    own = module.state_dict()
    kept = {name: tensor for name, tensor in own.items() if absent and name.startswith(absent)}
    check_tensors(kept | dict(tensors), own, source)
    module.load_state_dict(kept | {name: tensor.float() for name, tensor in tensors.items()})


def check_tensors(tensors: Mapping[str, Tensor], known: Mapping[str, Tensor], source: str | Path) -> None:
    """Raises ValueError naming the first tensors of a source that are missing, unknown or misshapen."""
    wrong = [f"{name} is missing" for name in known if name not in tensors]
    for name, tensor in tensors.items():
        if name not in known:
            wrong.append(f"{name} has no place")
        elif tensor.shape != known[name].shape:
            wrong.append(f"{name} is {tuple(tensor.shape)}, not {tuple(known[name].shape)}")
    if wrong:
        more = f" and {len(wrong) - 2} more" if len(wrong) > 2 else ""
        raise ValueError(f"{source} does not fit the model's settings: {'; '.join(wrong[:2])}{more}")


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of named tensors' values, whatever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
