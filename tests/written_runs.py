"""Folders of runs that no training wrote: settings, starts and a log whose figures a test decides."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from configs.load import to_json
from configs.model import TransformerConfig
from configs.train import OptimizerConfig, TransformerLoop, TransformerRun

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> str:
    """The time of a log so many seconds after the first start."""
    return (BEGAN + timedelta(seconds=seconds)).isoformat()


def settings(width: int = 64, rate: float = 1e-3, steps: int = 100, **loop) -> TransformerRun:
    """The settings of a run of a width and a learning rate."""
    model = TransformerConfig(width=width, depth=2, heads=2, mlp_width=3 * width, text_width=16)
    run = TransformerRun(model=model, train=TransformerLoop(steps=steps, batch=8, **loop))
    return replace(run, optimizer=OptimizerConfig(learning_rate=rate))


def write_lines(file: Path, rows: Iterable[dict]) -> None:
    """A file with a row a line."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_run(
    folder: Path,
    config,
    rows: Iterable[dict],
    starts: Sequence[dict] | None = None,
    kind: str = "transformer",
    **facts,
) -> Path:
    """The folder of a run with these settings, rows of its log and starts."""
    folder.mkdir(parents=True)
    saved = {"kind": kind, "settings": to_json(config), "facts": {"data": "d" * 64} | facts}
    (folder / "run.json").write_text(json.dumps(saved))
    write_lines(folder / "log.jsonl", rows)
    default = [{"time": at(0), "step": 0, "processes": 1, "device": "NVIDIA H100", "code": "0.1.0"}]
    write_lines(folder / "starts.jsonl", default if starts is None else starts)
    return folder


def row(step: int, loss: float, seconds: float, tokens: float = 32.0, flops: float = 1e6, **more) -> dict:
    """A row of a log, of steps of a second with 8 samples of so many tokens of so many FLOPs."""
    figures = {"step": step, "loss": loss, "smoothed": loss, "gradient_norm": 1.0, "learning_rate": 1e-3}
    figures |= {"samples_per_second": 8.0, "tokens_per_second": 8 * tokens, "model_flops": 8 * tokens * flops}
    return figures | {"peak_memory": 2048, "time": at(seconds)} | more
