"""A run's log: its rows, the live line, and the curve."""

import json
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
from torch import nn

from vae.training.files import write_text, write_whole


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

    def print_once(self, text: str) -> None:
        """Prints a line that stays."""
        print(f"\r\x1b[K{text}" if self.live else text, file=sys.stderr, flush=True)


def opening(model: nn.Module, data, held_out, device: torch.device, step: int, steps: int) -> str:
    """What a run is about to do, in a line."""
    weights = sum(p.numel() for p in model.parameters() if p.requires_grad)
    files = getattr(data, "entries", None)
    on = f"{len(files)} files, {len(held_out)} held out" if files else "the drawn world"
    begins = f"goes on from step {step}" if step else "begins"
    return f"{begins}: {steps} steps, {weights:,} weights trained on {on}, on {device.type}"


def live_line(row: dict, unit: str, skipped: dict[str, str]) -> str:
    """The loop's state in a few words, from a row of the log; `unit` is what a step takes many of."""
    bad = f"  {len(skipped)} files skipped" if skipped else ""
    speed = f"{row[f'{unit}_per_second']:.0f} {unit}/s"
    return (
        f"loss {row['loss']:.4f}  smoothed {row['smoothed']:.4f}  gradient {row['gradient_norm']:.2f}  "
        f"{speed}  data wait {100 * row['waited']:.0f} %{bad}"
    )


def read_log(file: Path) -> list[dict]:
    """Rows of a log; a last line that a kill cut short is left out."""
    if not file.exists():
        return []
    lines = file.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def draw_curve(rows: list[dict], series: dict[str, str], path: Path) -> None:
    """Draws the curves of a log, one panel for each key that a row has: a dict from key to title."""
    from matplotlib.figure import Figure

    series = {key: title for key, title in series.items() if any(key in row for row in rows)}
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
