"""Checkpoints: every state of a run as safetensors, whole or not at all."""

import re
import shutil
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import AdamW

from vae.training.processes import gathered, on_main
from vae.training.weights import read_header, read_tensors, shards

CHECKPOINTS_KEPT = 2
NAME = r"step-\d{8}"


def finished_step(folder: Path, weights: Path, steps: int) -> int | None:
    """The step of a run at its end, with its weights written; None where something is left to do."""
    steps_kept = checkpoints(folder)
    if not steps_kept or not weights.is_file():
        return None
    step = step_of(steps_kept[-1])
    return step if step >= steps and read_header(weights).facts.get("step") == step else None


def checkpoint_folder(folder: Path, step: int) -> Path:
    """The folder of a run's checkpoint at a step."""
    return folder / f"step-{step:08d}"


def prune(folder: Path, kept_for_good: int = 0) -> None:
    """Drops a run's checkpoints but the newest two, and those whose step is a multiple that is kept."""
    for old in checkpoints(folder)[:-CHECKPOINTS_KEPT]:
        if not kept_for_good or step_of(old) % kept_for_good:
            shutil.rmtree(old)


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first; a user's copies under other names are none."""
    return sorted(path for path in folder.glob("step-*/") if re.fullmatch(NAME, path.name))


def newest_sound(folder: Path, kind: str, parts: Collection[str], from_older: bool) -> Path | None:
    """The newest checkpoint of a run, or None where there is none yet; every process calls it.

    Raises ValueError naming what is wrong with it, and what to do: with `from_older`, damaged ones are put
    aside under other names, and the newest sound one is taken.
    """
    main = not dist.is_initialized() or dist.get_rank() == 0
    steps, first = on_main(main, lambda: checkpoints(folder)), ""
    for checkpoint in reversed(steps):
        if not (wrong := wrong_with(checkpoint, kind, parts)):
            break
        first = first or wrong
    else:
        if steps:
            raise ValueError(f"{first}; no other checkpoint is sound: give another --out")
        return None
    if first and not from_older:
        raise ValueError(f"{first}; --train.from-older goes on from {checkpoint.name}")

    def put_aside() -> None:
        for damaged in steps[steps.index(checkpoint) + 1 :]:
            aside = folder / f"damaged-{damaged.name}"
            shutil.rmtree(aside, ignore_errors=True)
            damaged.rename(aside)
            print(f"{damaged} is damaged: now {aside.name}, going on from {checkpoint.name}", file=sys.stderr)

    on_main(main, put_aside)
    return checkpoint


def wrong_with(checkpoint: Path, kind: str, parts: Collection[str]) -> str:
    """What is wrong with a checkpoint: a part that is not there, whole, or of its kind, step and run; or "".

    Every process reads its share of the files. A user's copy, of any name, is of its first part's step.
    """
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    known = step_of(checkpoint) if re.fullmatch(NAME, checkpoint.name) else None
    wrong, headers = "", {}
    try:
        files = []
        for part in parts:
            file = checkpoint / f"{part}.safetensors"
            if not (found := shards(file)):
                raise ValueError(f"{checkpoint} has no {file.name}")
            headers[file.name] = header = read_header(file, f"{kind} checkpoint")
            step = header.facts["step"]
            known = step if known is None else known
            if step != known:
                raise ValueError(f"{file} is of step {step}")
            name, first = next(iter(headers.items()))
            if header != first:  # all parts are written with the same settings, data, hashes and loss
                raise ValueError(f"{file} is of another run than {name} beside it")
            files += found
        for file in files[rank::ranks]:
            read_tensors(file)
    except (ValueError, OSError, MemoryError, RuntimeError) as error:  # of one process, for all to hear
        wrong = str(error) or type(error).__name__
    return next(filter(None, gathered([wrong])), "")


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint's name says."""
    return int(checkpoint.name.removeprefix("step-"))


def read_facts(checkpoint: Path, part: str) -> dict:
    """The facts in a checkpoint."""
    return read_header(checkpoint / f"{part}.safetensors").facts


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, whose class takes long to import where none is."""
    return hasattr(tensor, "to_local")


def local_part(tensor: Tensor) -> Tensor:
    """What of a tensor lies in this process."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def optimizer_tensors(optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """The optimizer's state by its parameters' names, as `blocks.0.ffn_in.bias.exp_avg`; at first all zeros.

    Kinds that have a state of their own say it: `first_state`.
    """
    tensors, first_state = {}, getattr(optimizer, "first_state", adamw_state)
    for group in optimizer.param_groups:
        for name, parameter in zip(group["param_names"], group["params"], strict=True):
            if not (state := optimizer.state[parameter]):
                state |= first_state(parameter, group)
            tensors |= {f"{name}.{key}": value for key, value in state.items()}
    return tensors


def adamw_state(parameter: Tensor, group: dict) -> dict[str, Tensor]:
    """AdamW's state of a parameter before its first update.

    Moments lie in memory, and in processes, as their weights do: the fused kernel pairs them by their place.
    """
    state = {"step": torch.zeros((), device=parameter.device)}
    return state | {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}


def tensors_of(parts: Mapping[str, Mapping[str, Tensor] | AdamW]) -> dict[str, Mapping[str, Tensor]]:
    """The tensors of named states, of which some are optimizers."""
    return {
        name: optimizer_tensors(part) if isinstance(part, AdamW) else part for name, part in parts.items()
    }


def check_optimizer(optimizer: torch.optim.AdamW, updates: int) -> None:
    """Raises ValueError naming a state that is not one of an optimizer after so many updates."""
    for name, value in optimizer_tensors(optimizer).items():
        value = local_part(value)
        if name.endswith(".step") and value != updates:
            raise ValueError(f"{name} is of {value:g} updates, not {updates}")
        if name.endswith((".exp_avg_sq", ".exp_avg_sq_scale")) and value.numel() and value.min() < 0:
            raise ValueError(f"{name} has squares below 0")
