"""What a training run keeps on disk and shows: its settings, checkpoints, log, curve and live line."""

import json
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from configs.load import from_json, to_json
from configs.settings import LoopConfig, OptimizerConfig
from vae.data.manifest import NAME
from vae.training.weights import load_weights, read_settings, save_weights, write_text, write_whole

Result = TypeVar("Result")
CHECKPOINTS_KEPT = 2
MAY_CHANGE = {"train.steps", "train.log_every", "train.save_every", "train.show_every", "data.workers", "out"}
PATIENCE = timedelta(
    hours=2
)  # how long a process waits for the others: encoding a shard or a picture takes a while
LOCK_PATIENCE = 10.0  # seconds; processes that read ahead live on for some after a kill, and hold the lock
HALF_WRITTEN = (  # names that a kill leaves in a run's folder
    ".step-*.tmp",
    ".vae.tmp",
    ".run.json.*.tmp",
    ".log.jsonl.*.tmp",
    ".*.png.*.tmp",
    ".*.safetensors.*.tmp",
    "latents/.latents-*.safetensors.*.tmp",
)
SMOOTHING = 0.98


class StopSignal:
    """Within it, Ctrl-C and SIGTERM are noted, so that the loop can end after the step at hand.

    A launcher may pass on a Ctrl-C that the terminal already sent; only one that comes later interrupts.
    """

    def __enter__(self) -> "StopSignal":
        self.asked, self.since = False, 0.0
        self.before = {s: signal.signal(s, self.note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, frame) -> None:
        """Handles a signal."""
        if self.asked and number == signal.SIGINT and time.monotonic() - self.since > 1:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self.since = True, time.monotonic()


def check_loop(loop: LoopConfig, optimizer: OptimizerConfig, ranks: int) -> None:
    """Raises ValueError for numbers that make no loop, or no step of AdamW."""
    for name in ("steps", "batch", "log_every", "save_every", "show_every"):
        if getattr(loop, name) < 1:
            raise ValueError(f"train.{name} = {getattr(loop, name)}: it must be at least 1")
    if loop.batch % ranks:
        raise ValueError(f"train.batch = {loop.batch} does not divide by the {ranks} processes")
    if not 0 <= loop.seed < 2**63:
        raise ValueError(f"train.seed = {loop.seed}: it must be from 0 to 2^63 - 1")
    if optimizer.max_gradient_norm <= 0:
        raise ValueError(f"optimizer.max_gradient_norm = {optimizer.max_gradient_norm}: it must be above 0")
    for name in ("learning_rate", "warmup_steps", "decay_steps", "weight_decay"):
        if getattr(optimizer, name) < 0:
            raise ValueError(f"optimizer.{name} = {getattr(optimizer, name)}: it must be at least 0")
    for name in ("beta2", "ema_decay"):
        if not 0 <= getattr(optimizer, name) < 1:
            raise ValueError(f"optimizer.{name} = {getattr(optimizer, name)}: it must be from 0 to below 1")


def on_main(main: bool, work: Callable[[], Result]) -> Result:
    """What `work` gives on the main process, which alone runs it, and what it raises: for all of them."""
    told, error = ["", None], None
    if main:
        try:
            told[1] = work()
        except Exception as caught:
            told, error = [str(caught) or repr(caught), None], caught
    if torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(told)
    if error or told[0]:
        raise error or ValueError(told[0])
    return told[1]


def holding(train: Callable) -> Callable:
    """Gives a trainer a stack beside its settings, for what it holds until it ends, in whatever way."""

    @wraps(train)
    def trainer(config) -> Path:
        with ExitStack() as held:
            return train(config, held)

    return trainer


def lock(folder: Path, held: ExitStack) -> None:
    """Keeps other processes out of a run's folder until `held` ends; raises ValueError where one is in it."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    file = folder / ".lock"
    try:
        held.enter_context(FileLock(file, timeout=LOCK_PATIENCE))
    except Timeout:
        raise ValueError(f"{folder} is in use by another run: let it end, or give another --out") from None
    held.callback(remove_lock, file)


def remove_lock(file: Path) -> None:
    """Removes the file of a lock that is still held, where the system can."""
    with suppress(PermissionError):  # Windows removes no open file
        file.unlink(missing_ok=True)


def open_run(folder: Path, config, files: str, held: ExitStack) -> None:
    """Writes the run's complete settings before its first step, or checks that they are those of the run.

    A run may be made longer: what `MAY_CHANGE` lists may change, and a setting newer than the run takes its
    default. Anything else raises ValueError that names the setting, as do other `files`, the data's hash.
    Until the first checkpoint there is nothing to keep, and the settings are written anew. The folder is
    locked until `held` ends; what a kill left half-written is removed.
    """
    if (folder / NAME).is_file():
        raise ValueError(f"{folder} holds a manifest: give the run a folder of its own with --out")
    lock(folder, held)
    for left in [left for pattern in HALF_WRITTEN for left in folder.glob(pattern)]:
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    file = folder / "run.json"
    if checkpoints(folder) and file.exists():
        saved = json.loads(file.read_text())
        if saved.pop("files", files) != files:
            raise ValueError(
                f"{folder} holds a run on other files than the manifest of {config.data.source} now has: "
                f"bring back the manifest it began with, or give another folder with --out"
            )
        before = flat(to_json(from_json(type(config), saved)))
        now = flat(to_json(config))
        for key in now:
            if before[key] != now[key] and key not in MAY_CHANGE:
                raise ValueError(
                    f"{folder} holds a run with {key} = {before[key]!r}, not {now[key]!r}: "
                    f"give that value, or another folder with --out"
                )
    write_text(file, json.dumps(to_json(config) | {"files": files}, indent=2) + "\n")


def finished_step(folder: Path, weights: Path, steps: int) -> int | None:
    """The step of a run at its end, with its weights written; None where something is left to do."""
    found = checkpoints(folder)
    if not found or not weights.is_file():
        return None
    step = int(found[-1].name.removeprefix("step-"))
    return step if step >= steps and read_settings(weights).get("step") == step else None


def flat(settings: dict, prefix: str = "") -> dict:
    """Nested settings as one dict with dotted keys; lists count as values."""
    result = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = list(value) if isinstance(value, tuple) else value
    return result


def save_checkpoint(
    folder: Path, step: int, smoothed: float, parts: dict[str, dict[str, Tensor]], settings: dict
) -> None:
    """Writes `folder/step-N/PART.safetensors` of each part, whole or not at all; drops the oldest ones."""
    final = folder / f"step-{step:08d}"
    temporary = folder / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    for part, tensors in parts.items():
        save_weights(
            temporary / f"{part}.safetensors", tensors, settings | {"step": step, "smoothed": smoothed}
        )
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    for old in checkpoints(folder)[:-CHECKPOINTS_KEPT]:
        shutil.rmtree(old)


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first; a user's copies under other names are none."""
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{8}", path.name))


def load_checkpoint(folder: Path) -> tuple[int, float | None, dict[str, dict[str, Tensor]]] | None:
    """Step, smoothed loss and parts of a run's newest checkpoint, or None where there is none yet."""
    found = checkpoints(folder)
    if not found:
        return None
    loaded = {file.stem: load_weights(file) for file in sorted(found[-1].glob("*.safetensors"))}
    header = next(iter(loaded.values()))[1]
    return header["step"], header.get("smoothed"), {part: tensors for part, (tensors, _) in loaded.items()}


def smooth(smoothed: float | None, loss: float) -> float:
    """The running average of the loss; it starts at the first one."""
    return loss if smoothed is None else SMOOTHING * smoothed + (1 - SMOOTHING) * loss


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as flat named tensors."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{key}": value for index, values in state.items() for key, value in values.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`.

    Moments take the memory layout of their weights: the fused kernel pairs them by their place in memory.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = int(name.split(".")[0]), name.split(".")[1]
        if value.shape == parameters[index].shape:
            value = torch.empty_like(parameters[index]).copy_(value)
        state.setdefault(index, {})[key] = value
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
        left = timedelta(seconds=round(rate * (self.steps - step)))
        line = f"step {step}/{self.steps}  {text}  {rate:.2f} s/step  {left} left"
        print(
            f"\r\x1b[K{line}" if self.live else line,
            end="" if self.live else "\n",
            file=sys.stderr,
            flush=True,
        )

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        print(f"\r\x1b[K{text}" if self.live else text, file=sys.stderr, flush=True)


def opening(model: nn.Module, data, held_out, device: torch.device, step: int, steps: int) -> str:
    """What a run is about to do, in a line."""
    weights = sum(p.numel() for p in model.parameters() if p.requires_grad)
    files = getattr(data, "entries", None)
    on = f"{len(files)} files, {len(held_out)} held out" if files else "the drawn world"
    begins = f"goes on from step {step}" if step else "begins"
    return f"{begins}: {steps} steps, {weights:,} weights trained on {on}, on {device.type}"


def name_skipped(found: dict[str, str], named: dict[str, str], log: Log | None) -> None:
    """Moves the unreadable files that any process `found` to `named`, with a line for each new one.

    Every process must call it.
    """
    everyone = [found]
    if torch.distributed.is_initialized():
        everyone = [{} for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather_object(everyone, found)
    for path, reason in {path: reason for one in everyone for path, reason in one.items()}.items():
        if log and path not in named:
            log.say(f"skipped: {reason}")
        named[path] = reason
    found.clear()


def live_line(row: dict, speed: str, skipped: dict[str, str]) -> str:
    """The loop's state in a few words, from a row of the log; `speed` is the key of what a second does."""
    bad = f"  {len(skipped)} files skipped" if skipped else ""
    done = f"{row[speed]:.0f} {speed.removesuffix('_per_second')}/s"
    return (
        f"loss {row['loss']:.4f}  smoothed {row['smoothed']:.4f}  gradient {row['gradient_norm']:.2f}  "
        f"{done}  data wait {100 * row['waited']:.0f} %{bad}"
    )


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
    for axes, (key, title) in zip(
        figure.subplots(1, len(series), squeeze=False)[0], series.items(), strict=True
    ):
        points = [(row["step"], row[key]) for row in rows if key in row]
        if points:
            axes.plot(*zip(*points, strict=True), lw=1, marker="." if len(points) < 30 else None)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))
