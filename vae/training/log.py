"""A run's log: its rows, the bar, and the curve."""

import json
import math
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, pairwise
from pathlib import Path

import numpy
import torch
from torch import nn
from tqdm import tqdm

from vae.training.device import device_kind, gpu_name, peak_memory, products
from vae.training.files import write_whole

LINES = 30.0  # seconds between two lines of progress where nobody watches a terminal
FLOPS = "model_flops"
PROJECT = "dit-lab"
PER_STEP = ("tokens", "samples", "packs")
VERSIONS = ("torch", "accelerate", "numpy")  # whose versions a start keeps
DRAWN = 4096  # points of a panel; of more, those that its few hundred pixels would show
BAR = "step {n_fmt}/{total_fmt}{postfix}, {remaining} left"  # the postfix brings a comma


class Log:
    """Appends rows to `log.jsonl`, of which it holds the newest alone, and keeps a bar with the time left.

    Each row is then told to `also`.
    """

    def __init__(self, folder: Path, step: int, steps: int, also: Callable[[dict], None] = lambda row: None):
        self.file, self.newest, self.also = folder / "log.jsonl", {}, also

        def keep(temporary: Path) -> None:
            with open(temporary, "w") as file:
                file.writelines(json.dumps(row) + "\n" for row in read_log(self.file) if row["step"] <= step)

        write_whole(self.file, keep)
        self.steps, self.first, self.began, self.said = steps, step, time.monotonic(), -math.inf
        settings = {"initial": step, "total": steps, "unit": "step", "bar_format": BAR, "file": sys.stderr}
        self.bar = tqdm(**settings, dynamic_ncols=True) if sys.stderr.isatty() else None

    def add(self, row: dict) -> None:
        """Appends one row."""
        self.newest = row
        try:
            with open(self.file, "a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:  # a full disk's names no file
            raise OSError(error.errno, error.strerror, str(self.file)) from None
        self.also(row)

    def show(self, step: int, text: str) -> None:
        """Moves the bar to a step, with a text; without a terminal that is a line now and then."""
        now = time.monotonic()
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update(step - self.bar.n)
            self.bar.refresh()
        elif now - self.said >= LINES or step == self.steps:
            settings = {"initial": self.first, "unit": "step", "bar_format": BAR, "postfix": text}
            print(tqdm.format_meter(step, self.steps, now - self.began, **settings), file=sys.stderr)
            self.said = now

    def print_once(self, text: str) -> None:
        """Prints a line that stays."""
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leaves the bar as it is."""
        if self.bar is not None:
            self.bar.close()


def opening(
    model: nn.Module, data, held_out, device: torch.device, ranks: int, step: int, steps: int, start: dict
) -> str:
    """What a run is about to do, in a line; `start` as in `add_start`."""
    weights = sum(p.numel() for p in model.parameters() if p.requires_grad)
    files = getattr(data, "entries", None)
    on = f"{len(files)} files, {len(held_out)} clips held out" if files else "the drawn world"
    begins = f"goes on from step {step}" if step else "begins"
    rounded = " with TF32 products" if products(device) == "TF32" else ""
    where = f"{device_kind(device)}{rounded} in {ranks} process{'es' if ranks > 1 else ''}"
    where += f" (mesh {start['mesh']})" if start.get("mesh") else ""
    how = [start["precision"]] + [f"attention {name}" for name in [start.get("attention")] if name]
    counts = {name: start[f"{name}_per_step"] for name in PER_STEP if f"{name}_per_step" in start}
    how += [
        f"{count:,} {name.removesuffix('s') if count == 1 else name} a step" for name, count in counts.items()
    ]
    how += [f"matmul peak {_short(peak)}FLOP/s" for peak in [start.get("matmul_peak")] if peak]
    return f"{begins}: {steps} steps, {weights:,} weights trained on {on}, on {where}, {', '.join(how)}"


def add_start(folder: Path, step: int, ranks: int, device: torch.device, start: dict) -> None:
    """Appends to `starts.jsonl` what a start runs on; `start` is what the trainer says of it."""
    row = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "step": step, "processes": ranks}
    row |= {"device": gpu_name(device) or device_kind(device)} | start
    row |= {"code": _version(PROJECT), "versions": {name: _version(name) for name in VERSIONS}}
    with open(folder / "starts.jsonl", "a") as file:
        file.write(json.dumps(row) + "\n")


def _version(package: str) -> str:
    """The version of a package; code may run from a folder that nobody installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def speeds(amounts: dict[str, float], seconds: float, peak: float) -> dict:
    """What all processes did a second, by name; `model_flops` also as a share of their peak, if known."""
    row = {f"{name}_per_second": amount / seconds for name, amount in amounts.items() if name != FLOPS}
    if FLOPS in amounts:
        row[FLOPS] = amounts[FLOPS] / seconds
        row |= {"mfu": row[FLOPS] / peak} if peak else {}
    return row


def live_line(row: dict, skipped: dict[str, str]) -> str:
    """The loop's state in a few words, from a row of the log."""
    unit = next(name for name in ("tokens", "samples") if f"{name}_per_second" in row)
    words = [
        f"loss {row['loss']:#.3g} ({row['smoothed']:#.3g})",
        f"gradient {row['gradient_norm']:#.3g}",
        f"{_short(row[f'{unit}_per_second'])}{unit}/s",
        f"wait {100 * row['waited']:.0f} %",
    ]
    words += [f"MFU {100 * share:.0f} %" for share in [row.get("mfu")] if share]
    words += [f"{len(skipped)} files skipped"] * bool(skipped)
    return ", ".join(words)


def _short(value: float) -> str:
    """A number in three digits with its unit's prefix, such as `12.3 k`, to stand before the unit."""
    for prefix, scale in {"P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3}.items():
        if value >= scale:
            return (
                f"{value / scale:.3g} {prefix}" if value < 999.5 * scale else f"{value / scale:.0f} {prefix}"
            )
    return f"{value:.0f} "


def resources(device: torch.device) -> dict:
    """What the log says of the machine: this process's peak memory so far in MiB, a GPU's where it has one,
    and the time of day."""
    memory = peak_memory(device)
    if memory is None and sys.platform != "win32":  # which does not tell
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        memory = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"peak_memory": round((memory or 0) / 2**20), "time": now}


def read_log(file: Path) -> Iterator[dict]:
    """The rows of a log, one after the other; a line that a kill cut short or spoilt is left out."""
    if not file.exists():
        return
    with open(file, errors="replace") as lines:
        for line in lines:
            try:
                row = json.loads(line) if line.endswith("\n") else None
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and isinstance(row.get("step"), int) and is_number(row["step"]):
                yield row


def is_number(value) -> bool:
    """Whether a value of a log can be drawn; what a run writes is finite, or NaN where a measure has none."""
    return type(value) in (int, float) and (value != value or abs(value) < 1e300)


def draw_curve(file: Path, series: dict[str, str], path: Path, newest: dict | None = None) -> None:
    """Draws the curves of a log, and of the row that it gets next, one panel for each key that a row has.

    `series` is a dict from key to title.
    """
    from matplotlib.figure import Figure

    points = {key: (array("d"), array("d")) for key in series}
    for row in chain(read_log(file), [newest] if newest else []):
        for key in (key for key in series.keys() & row.keys() if is_number(row[key])):
            for numbers, number in zip(points[key], (row["step"], row[key]), strict=True):
                numbers.append(number)
    shown = {key: thinned(*map(numpy.asarray, points[key])) for key in series if points[key][0]}
    figure = Figure(figsize=(4.5 * len(shown), 3.2), layout="constrained")
    for axes, (key, (steps, values)) in zip(
        figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True
    ):
        axes.plot(steps, values, lw=1, marker="." if len(steps) < 30 else None)
        axes.set(title=series[key], xlabel="step")
        axes.grid(alpha=0.3)
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))


def thinned(
    steps: numpy.ndarray, values: numpy.ndarray, most: int = DRAWN
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """At most so many points that draw the same line: of each stretch the least and the largest value."""
    if len(values) <= most:
        return steps, values
    edges = numpy.linspace(0, len(values), most // 2 + 1).astype(int)
    ends = [
        first + extreme(values[first:last])
        for first, last in pairwise(edges)
        for extreme in (numpy.argmin, numpy.argmax)
    ]
    kept = numpy.sort(ends)
    return steps[kept], values[kept]
