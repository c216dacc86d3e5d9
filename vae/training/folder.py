"""A run's folder: its lock, and its complete settings, which a run goes on with."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from typing_extensions import TypedDict

from configs.load import from_json, to_json
from vae.training.checkpoints import checkpoints
from vae.training.files import acquired, read_json, remove_stale, write_json
from vae.training.weights import read_header

MAY_CHANGE = {
    "out",
    "data.source",
    "data.sources",
    "data.workers",
    "data.held_out",
    "data.group",
}  # what data there is, its identity says
MAY_CHANGE |= {"train.steps", "train.log_every", "train.save_every", "train.keep_every", "train.show_every"}
MAY_CHANGE |= {"train.from_older", "train.spike", "train.spike_factor", "train.tracker"}
MAY_CHANGE |= {"train.pack_tokens", "train.round_tokens", "train.crossover_tokens"}  # who computes what
MAY_CHANGE |= {"parallel.shard", "parallel.shard_size", "parallel.context"}
MAY_CHANGE |= {"compile", "checkpoint_activations"}
LOCK_PATIENCE = 10.0  # seconds; processes that read ahead live on for some after a kill, and hold the lock


class DataFacts(TypedDict):
    """The identity of the data that a run is on."""

    data: str


class RunFile(TypedDict):
    """The parts of `run.json`."""

    kind: str
    settings: dict
    facts: DataFacts


def check_own(folder: Path) -> None:
    """Raises ValueError where a folder that is to be a run's own holds data."""
    for name, what in {"manifest.parquet": "manifest", "index.parquet": "cache"}.items():
        if (folder / name).is_file():
            raise ValueError(f"{folder} holds a {what}: give the run a folder of its own with --out")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a run's folder; raises ValueError where one is in it."""
    from filelock import Timeout

    folder.mkdir(parents=True, exist_ok=True)
    file = folder / ".lock"
    try:
        lock = acquired(file, LOCK_PATIENCE)
    except Timeout:
        raise ValueError(f"{folder} is in use by another run: let it end, or give another --out") from None
    with lock:
        try:
            yield
        finally:
            with suppress(PermissionError):  # Windows removes no open file
                file.unlink(missing_ok=True)


def open_run(
    folder: Path, kind: str, config, data: str, came_from: dict | None = None
) -> tuple[dict, dict[str, list]]:
    """Writes the run's complete settings before its first step, or checks that they are those of the run.

    Returns the facts that the run has for good: the identity of its data, and where it came from, if it did;
    and the settings that changed since its last start, each as it was and is.
    A run may be made longer: what `MAY_CHANGE` lists may change, and a setting newer than the run takes its
    default. Anything else raises ValueError that names the setting, as does other `data`, its identity.
    Until the first checkpoint there is nothing to keep, and the settings are written anew. What a kill left
    half-written is removed; the folder must be locked.
    """
    remove_stale(folder)
    file = folder / "run.json"
    facts, changed = {"data": data} | ({"from": came_from} if came_from else {}), {}
    if checkpoints(folder):
        saved = _saved(folder, file)
        if saved["kind"] != kind:
            raise ValueError(f"{folder} holds a run of kind {saved['kind']}, not {kind}: give another --out")
        before = flat(to_json(from_json(type(config), saved["settings"], file)))
        now = flat(to_json(config))
        for key in now:
            if before[key] != now[key] and key not in MAY_CHANGE:
                raise ValueError(
                    f"{folder} holds a run with {key} = {before[key]!r}, not {now[key]!r}: "
                    f"give that value, or another folder with --out (and --from {folder} to go on from there)"
                )
        changed = {key: [before[key], now[key]] for key in now if before[key] != now[key] and key != "out"}
        if saved["facts"].get("data") != data:
            source = ", ".join(config.data.sources) or config.data.source
            raise ValueError(
                f"{folder} holds a run on other data than {source} now has: "
                f"bring back what it began with, or give another folder with --out"
            )
        facts = {name: saved["facts"][name] for name in ("data", "from") if name in saved["facts"]}
    write_json(file, {"kind": kind, "settings": to_json(config), "facts": facts})
    return facts, changed


def _saved(folder: Path, file: Path) -> dict:
    """What a run's `run.json` says; where that is gone or damaged, its newest readable checkpoint."""
    try:
        if not file.is_file():
            raise ValueError(f"{file}: no such file")
        return read_json(file, RunFile)
    except ValueError as error:
        for part in [part for step in reversed(checkpoints(folder)) for part in step.glob("*.safetensors")]:
            with suppress(ValueError):
                header = read_header(part)
                print(f"{error}: its settings are those of {part.parent.name}", file=sys.stderr)
                return asdict(header) | {"kind": header.kind.removesuffix(" checkpoint")}
        raise


def flat(settings: dict, prefix: str = "") -> dict:
    """Nested settings as one dict with dotted keys; lists count as values."""
    result = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = list(value) if isinstance(value, tuple) else value
    return result
