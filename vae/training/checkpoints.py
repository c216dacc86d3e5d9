"""Checkpoints: every state of a run as safetensors, whole or not at all."""

import re
import shutil
import sys
from collections.abc import Collection
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from vae.training.files import whole
from vae.training.weights import check_tensors, load_weights, read_header, read_tensors, save_weights

CHECKPOINTS_KEPT = 2


def finished_step(folder: Path, weights: Path, steps: int) -> int | None:
    """The step of a run at its end, with its weights written; None where something is left to do."""
    steps_kept = checkpoints(folder)
    if not steps_kept or not weights.is_file():
        return None
    step = step_of(steps_kept[-1])
    return step if step >= steps and read_header(weights).facts.get("step") == step else None


def save_checkpoint(
    folder: Path, kind: str, parts: dict[str, dict[str, Tensor]], settings: dict, facts: dict
) -> None:
    """Writes `folder/step-N/PART.safetensors` of each part, whole or not at all; drops the oldest ones.

    `kind` is that of the weights which the run ends in; `facts` has the `step` and the `smoothed` loss.
    """
    final = folder / f"step-{facts['step']:08d}"
    with whole(final) as place:
        for part, tensors in parts.items():
            save_weights(place / f"{part}.safetensors", tensors, f"{kind} checkpoint", settings, facts)
        shutil.rmtree(final, ignore_errors=True)
    for old in checkpoints(folder)[:-CHECKPOINTS_KEPT]:
        shutil.rmtree(old)


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first; a user's copies under other names are none."""
    return sorted(path for path in folder.glob("step-*/") if re.fullmatch(r"step-\d{8}", path.name))


def newest_sound(folder: Path, kind: str, parts: Collection[str], from_older: bool) -> Path | None:
    """The newest checkpoint of a run, or None where there is none yet.

    Raises ValueError naming what is wrong with it, and what to do: with `from_older`, damaged ones are put
    aside under other names, and the newest sound one is taken.
    """
    wrong = ""
    for checkpoint in reversed(steps := checkpoints(folder)):
        try:
            _check_parts(checkpoint, kind, parts, from_older)
        except ValueError as error:
            wrong = wrong or str(error)
        else:
            break
    else:
        if steps:
            raise ValueError(f"{wrong}; no other checkpoint is sound: give another --out")
        return None
    if wrong and not from_older:
        raise ValueError(f"{wrong}; --train.from-older goes on from {checkpoint.name}")
    for damaged in steps[steps.index(checkpoint) + 1 :]:
        aside = folder / f"damaged-{damaged.name}"
        shutil.rmtree(aside, ignore_errors=True)
        damaged.rename(aside)
        print(f"{damaged} is damaged: now {aside.name}, going on from {checkpoint.name}", file=sys.stderr)
    return checkpoint


def _check_parts(checkpoint: Path, kind: str, parts: Collection[str], numbers: bool) -> None:
    """Raises ValueError unless a checkpoint has every part, each a whole file of its kind and step.

    Where `numbers` are looked at, they must be finite.
    """
    for part in parts:
        file = checkpoint / f"{part}.safetensors"
        if not file.is_file():
            raise ValueError(f"{checkpoint} has no {file.name}")
        if (step := read_header(file, f"{kind} checkpoint").facts.get("step")) != step_of(checkpoint):
            raise ValueError(f"{file} is of step {step}")
        if numbers:
            read_tensors(file)


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint's name says."""
    return int(checkpoint.name.removeprefix("step-"))


def load_checkpoint(checkpoint: Path, kind: str) -> tuple[dict, dict[str, dict[str, Tensor]]]:
    """Facts and parts of a checkpoint."""
    files = sorted(checkpoint.glob("*.safetensors"))
    loaded = {file.stem: load_weights(file, f"{kind} checkpoint") for file in files}
    facts = next(iter(loaded.values()))[1].facts
    return facts, {part: tensors for part, (tensors, _) in loaded.items()}


def _named_parameters(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The parameters by their names, in the optimizer's order."""
    groups = [zip(group["param_names"], group["params"], strict=True) for group in optimizer.param_groups]
    return dict(chain(*groups))


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as flat tensors, named by its parameters: `blocks.0.ffn_in.bias.exp_avg`."""
    states = {name: optimizer.state.get(p, {}) for name, p in _named_parameters(optimizer).items()}
    return {f"{name}.{key}": value for name, values in states.items() for key, value in values.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], updates: int) -> None:
    """The inverse of `optimizer_tensors`, of an optimizer after so many updates.

    Moments take the memory layout of their weights: the fused kernel pairs them by their place in memory.
    Raises ValueError naming what is missing, has no place or another shape or type, or is of other updates.
    """
    parameters = _named_parameters(optimizer)
    keys = {"exp_avg": None, "exp_avg_sq": None, "step": torch.tensor(0.0)}
    known = {
        f"{name}.{key}": parameter if value is None else value
        for name, parameter in (parameters if updates else {}).items()
        for key, value in keys.items()
    }
    check_tensors(tensors, known, "the state")
    indices = {name: index for index, name in enumerate(parameters)}
    state: dict[int, dict[str, Tensor]] = {}
    for full_name, value in tensors.items():
        name, key = full_name.rsplit(".", 1)
        if key == "step" and value != updates:
            raise ValueError(f"{full_name} is of {value:g} updates, not {updates}")
        if key == "exp_avg_sq" and value.numel() and value.min() < 0:
            raise ValueError(f"{full_name} has squares below 0")
        if value.shape == parameters[name].shape:
            value = torch.empty_like(parameters[name]).copy_(value)
        state.setdefault(indices[name], {})[key] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
