"""What a training run keeps on disk and shows: its settings, checkpoints, log, curve and live line."""

import json
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from vae.weights import load_weights, save_weights, write_text, write_whole

CHECKPOINTS_KEPT = 2


class StopSignal:
    """Notes Ctrl-C and SIGTERM, so that the loop can end after the step at hand; a second one interrupts at once."""

    def __init__(self):
        self.asked = False
        self.before = {s: signal.signal(s, self.note) for s in (signal.SIGINT, signal.SIGTERM)}

    def note(self, number, frame):
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def restore(self):
        """Gives the signals back to whoever had them."""
        for number, handler in self.before.items():
            signal.signal(number, handler)


def open_run(folder: Path, settings: dict) -> None:
    """Writes the run's complete settings before its first step, or checks that they are those of the run there.

    A run may be made longer: `train.steps` and how often it saves and reports may change. Anything else raises
    ValueError that names the setting.
    """
    file = folder / "run.json"
    if not file.exists():
        write_text(file, json.dumps(settings, indent=2) + "\n")
        return
    before = flat(json.loads(file.read_text()))
    now = flat(settings)
    free = {"train.steps", "train.log_every", "train.save_every", "train.show_every", "data.workers", "out"}
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key) and key not in free]
    if changed:
        key = changed[0]
        raise ValueError(
            f"{folder} holds a run with {key} = {before.get(key)!r}, not {now.get(key)!r}: "
            f"give that value, or another folder with --out"
        )
    write_text(file, json.dumps(settings, indent=2) + "\n")


def flat(settings: dict, prefix: str = "") -> dict:
    """Nested settings as one dict with dotted keys; lists count as values."""
    result = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = list(value) if isinstance(value, tuple) else value
    return result


def save_checkpoint(folder: Path, step: int, parts: dict[str, dict[str, Tensor]], settings: dict) -> None:
    """Writes `folder/step-N/PART.safetensors` for each part, whole or not at all, and drops the oldest ones."""
    final = folder / f"step-{step:08d}"
    temporary = folder / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    for part, tensors in parts.items():
        save_weights(temporary / f"{part}.safetensors", tensors, settings | {"step": step})
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    for old in checkpoints(folder)[:-CHECKPOINTS_KEPT]:
        shutil.rmtree(old)


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(folder.glob("step-*"))


def load_checkpoint(folder: Path) -> tuple[int, dict[str, dict[str, Tensor]]] | None:
    """Step and parts of a run's newest checkpoint, or None where there is none yet."""
    found = checkpoints(folder)
    if not found:
        return None
    loaded = {file.stem: load_weights(file) for file in sorted(found[-1].glob("*.safetensors"))}
    return next(iter(loaded.values()))[1]["step"], {part: tensors for part, (tensors, _) in loaded.items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as flat named tensors."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{key}": value for index, values in state.items() for key, value in values.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})


class Log:
    """Appends rows to `log.jsonl` and keeps one live line on the terminal with the time that is left."""

    def __init__(self, folder: Path, step: int, steps: int):
        self.file = folder / "log.jsonl"
        self.rows = [row for row in read_log(self.file) if row["step"] <= step]
        write_text(self.file, "".join(json.dumps(row) + "\n" for row in self.rows))
        self.steps, self.first, self.started = steps, step, time.monotonic()
        self.live = sys.stderr.isatty()

    def add(self, row: dict) -> None:
        """Appends one row."""
        self.rows.append(row)
        with open(self.file, "a") as file:
            file.write(json.dumps(row) + "\n")

    def show(self, step: int, text: str) -> None:
        """Shows the live line: step, text, time left."""
        rate = (time.monotonic() - self.started) / max(1, step - self.first)
        left = time.strftime("%H:%M:%S", time.gmtime(rate * (self.steps - step)))
        line = f"step {step}/{self.steps}  {text}  {rate:.2f} s/step  {left} left"
        print(f"\r\x1b[K{line}" if self.live else line, end="" if self.live else "\n", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        print(f"\r\x1b[K{text}" if self.live else text, file=sys.stderr, flush=True)


def read_log(file: Path) -> list[dict]:
    """Rows of a log; a last line that a kill cut short is left out."""
    if not file.exists():
        return []
    lines = file.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def draw_curve(rows: list[dict], series: dict[str, str], path: Path) -> None:
    """Draws the curves of a log, one panel per series: a dict from the log's key to the panel's title."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(series), 3.2), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, len(series), squeeze=False)[0], series.items(), strict=True):
        points = [(row["step"], row[key]) for row in rows if key in row]
        if points:
            axes.plot(*zip(*points, strict=True), lw=1, marker="." if len(points) < 30 else None)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))
