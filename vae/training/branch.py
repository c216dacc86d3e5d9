"""A new run from another's checkpoint: which one that is, and what the new run has otherwise."""

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import TypedDict

from configs.load import from_json, to_json
from vae.training.checkpoints import checkpoints
from vae.training.files import naming
from vae.training.folder import flat
from vae.training.processes import gathered, on_main
from vae.training.weights import read_header, shards, weights_hash

MODEL = "model.safetensors"  # of every checkpoint
NOT_COMPARED = {
    "out",
    "init",
    "new_latents",
    "from_run",
    "from_optimizer",
    "train.from_older",
}  # how it began


class Record(TypedDict):
    """Where a run came from, in its `run.json` and in the header of all that it writes."""

    checkpoint: str
    step: int
    sha256: str
    optimizer: bool
    changed: dict


@dataclass(frozen=True)
class Origin:
    """The checkpoint that a new run begins from, and what is recorded of it."""

    checkpoint: Path
    record: Record


def find_checkpoint(name: str) -> Path:
    """The checkpoint that `RUN@STEP` names, or `RUN`, whose newest it is, or that has the name itself."""
    if shards(Path(name) / MODEL):
        return Path(name)
    run, _, step = name.rpartition("@") if re.search(r"@\d+$", name) else (name, "", "")
    if not (found := {int(path.name.removeprefix("step-")): path for path in checkpoints(Path(run))}):
        raise ValueError(f"--from-run {name}: {run} has no checkpoint; RUN or RUN@STEP names one of a run")
    if step and int(step) not in found:
        there = ", ".join(map(str, found))
        raise ValueError(f"--from-run {name}: {run} has no checkpoint of step {step}, but of {there}")
    return found[int(step) if step else max(found)]


def origin_of(config, kind: str, data: str, main: bool) -> Origin:
    """The checkpoint that `from_run` names, and what the run, on this data, has otherwise. Every process.

    Raises ValueError for one of another kind of run, or of a step that is the new run's last or later.
    """
    checkpoint = on_main(main, lambda: find_checkpoint(config.from_run))
    header = read_header(checkpoint / MODEL, f"{kind} checkpoint")
    with naming(checkpoint / MODEL):
        before = flat(to_json(from_json(type(config), header.settings)))
    now, step = flat(to_json(config)), header.facts["step"]
    was, now_is = before.get("optimizer.kind"), config.optimizer.kind
    if config.from_optimizer and was != now_is:
        raise ValueError(
            f"--from-run {config.from_run} has the state of {was}, not {now_is}: --no-from-optimizer begins "
            f"anew"
        )
    if step >= config.train.steps:
        raise ValueError(
            f"--from-run {config.from_run} is of step {step}, from which steps count on: --train.steps "
            f"{config.train.steps} ends before"
        )
    names = sorted({re.sub(r"-\d{5}-of-\d{5}", "", f.name) for f in checkpoint.glob("*.safetensors")})
    hashes = gathered([weights_hash(checkpoint / name) for name in names] if main else [])
    if header.facts.get("data") != data:
        before["data"], now["data"] = header.facts.get("data"), data
    record = Record(
        checkpoint=str(checkpoint),
        step=step,
        sha256=hashlib.sha256("".join(hashes).encode()).hexdigest(),
        optimizer=config.from_optimizer,
        changed={
            key: [before[key], value]
            for key, value in now.items()
            if before.get(key) != value and key not in NOT_COMPARED
        },
    )
    return Origin(checkpoint, record)


def in_words(changed: dict[str, list]) -> list[str]:
    """Settings that changed, each as it was and is."""
    return [f"{key} {before!r} -> {now!r}" for key, (before, now) in changed.items()]


def told(record: Record) -> str:
    """What a run says of where it came from."""
    changed = ", ".join(in_words(record["changed"]))
    optimizer = "" if record["optimizer"] else "; its optimizer begins anew"
    where = f"from {record['checkpoint']} ({record['sha256'][:12]}), steps count on from {record['step']}"
    return f"{where}{optimizer}; changed: {changed or 'nothing'}"


def taken(
    checkpoint: Path, parts: Collection[str], optimizers: Collection[str], with_optimizer: bool
) -> list[str]:
    """The parts that a new run takes from a checkpoint: its weights, its optimizers where they are asked for.

    A network that the checkpoint does not know, such as a new discriminator, begins anew with its optimizer.
    """
    new = {part for part in parts if not shards(checkpoint / f"{part}.safetensors")} - {"model", "average"}
    return [part for part in parts if part not in new and (with_optimizer or part not in optimizers)]
