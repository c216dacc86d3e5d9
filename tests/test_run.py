"""Proves that a run's folder keeps its own checkpoints, leaves a user's copies, and draws its curve."""

import io
import json
import resource
import shutil
import sys
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import matplotlib.figure
import numpy
import pytest
import torch
from PIL import Image

from configs.train import OptimizerConfig
from dit.runs import dashboard
from dit.runs.history import read_histories
from tests import tiny
from tests.tiny import load_checkpoint, save_checkpoint
from vae.training.checkpoints import checkpoints
from vae.training.log import DRAWN, Log, draw_curve, live_line, opening, read_log
from vae.training.session import Session


def save(folder: Path, step: int) -> None:
    """A checkpoint of one number, its step."""
    facts = {"step": step, "smoothed": None}
    save_checkpoint(folder, "transformer", {"model": {"x": torch.tensor([float(step)])}}, {}, facts)


@pytest.mark.parametrize("name", ["step-best", "step-00000001-keep", "step-1", "step-99999999.old"])
def test_a_copy_of_a_checkpoint_is_neither_gone_on_from_nor_deleted(tmp_path, name):
    save(tmp_path, 1)
    shutil.copytree(tmp_path / "step-00000001", tmp_path / name)
    for step in (2, 3, 4):
        save(tmp_path, step)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000003", "step-00000004"]
    facts, parts = load_checkpoint(checkpoints(tmp_path)[-1], "transformer")
    assert facts["step"] == 4 and parts["model"]["x"].item() == 4
    assert (tmp_path / name / "model.safetensors").is_file()


def test_the_curve_shows_the_numbers_of_the_log(tmp_path, monkeypatch):
    drawn, save_figure = [], matplotlib.figure.Figure.savefig

    def savefig(self, *arguments, **settings):
        drawn.extend(self.axes)
        save_figure(self, *arguments, **settings)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", savefig)
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5, "validation": 1.7}]
    rows += [{"step": 4, "validation": 1.2}]
    file = tmp_path / "log.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 5, "loss"')
    draw_curve(file, {"loss": "the loss", "validation": "held out"}, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    shown = {axes.get_title(): axes.lines[0].get_xydata().tolist() for axes in drawn}
    assert shown == {"the loss": [[1, 2.0], [2, 1.5]], "held out": [[2, 1.7], [4, 1.2]]}


def test_the_live_line_says_speed_and_waiting():
    row = {"loss": 0.5, "smoothed": 0.6, "gradient_norm": 1.0, "tokens_per_second": 1234.4, "waited": 0.25}
    line = live_line(row, {"bad.mp4": "cut short"})
    assert "1.23 ktokens/s" in line and "wait 25 %" in line and "1 files skipped" in line


def test_a_long_log_s_curve_is_the_same_picture_from_fewer_points(tmp_path, monkeypatch):
    file = tmp_path / "log.jsonl"
    values = 1 / numpy.sqrt(numpy.arange(1, 20_001)) + 0.1 * numpy.random.default_rng(0).random(20_000)
    values[12_345] = 3.0  # one peak
    file.write_text("".join(f'{{"step": {k + 1}, "loss": {v}}}\n' for k, v in enumerate(values)))
    pictures = []
    for most in (DRAWN, 10**9):
        monkeypatch.setattr("vae.training.log.DRAWN", most)
        draw_curve(file, {"loss": "the loss"}, tmp_path / "curve.png")
        with Image.open(tmp_path / "curve.png", formats=["PNG"]) as picture:
            pictures.append(numpy.asarray(picture.convert("L"), dtype=float))
    assert numpy.abs(pictures[0] - pictures[1]).mean() < 0.5  # of 255
    assert numpy.quantile(numpy.abs(pictures[0] - pictures[1]), 0.99) < 20


def test_a_log_holds_no_rows(tmp_path):
    log = Log(tmp_path, 0, 30_000)
    row = {f"some_loss_{k}": 0.5 + k for k in range(8)}
    tracemalloc.start()
    try:
        for step in range(1, 3_001):
            log.add({"step": step} | row)
        assert tracemalloc.get_traced_memory()[0] < 100_000  # a list of these rows has 1.5 MB
    finally:
        tracemalloc.stop()
    assert sum(1 for _ in read_log(log.file)) == 3_000 and log.newest["step"] == 3_000


def test_rows_after_the_checkpoint_and_spoilt_lines_are_left_out(tmp_path):
    file = tmp_path / "log.jsonl"
    lines = ['{"step": 1, "loss": 2.5}', "\0\0\0", "[1]", '{"loss": 1}', '{"step": 2}', '{"step": 3}', '{"st']
    file.write_text("\n".join(lines))
    Log(tmp_path, 2, 10)
    assert file.read_text() == '{"step": 1, "loss": 2.5}\n{"step": 2}\n'


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_has_a_bar_and_lines_that_stay_above_it(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stderr", Terminal())
    log = Log(tmp_path, 0, 10)
    log.show(1, "loss 2.5")
    log.print_once("skipped: a.mp4")
    log.show(10, "loss 1.5")
    log.close()
    shown = sys.stderr.getvalue()
    assert "\rstep 1/10, loss 2.5" in shown and "skipped: a.mp4\n" in shown
    assert shown.splitlines()[-1].split("\r")[-1].startswith("step 10/10, loss 1.5") and shown.endswith("\n")


def test_a_row_says_memory_and_time_and_the_last_step_always_has_one(tmp_path, capsys):
    config = tiny.autoencoder_run(tmp_path / "run", steps=5, batch=2, log_every=3)
    began = datetime.now(UTC).replace(microsecond=0)
    with Session(config, "autoencoder", "autoencoder.safetensors") as run:
        run.begin(torch.nn.Linear(2, 3), [], [], dict)
        for step, _ in run.steps(iter([[]] * 5)):
            run.check_step(step, torch.tensor(1.0), torch.tensor(1.0))
            run.end_step(step, {"samples": 2}, gradient_norm=1.0, learning_rate=0.5)
    assert (
        "begins: 5 steps, 9 weights trained on the drawn world, on cpu in 1 process, fp32\n"
        in capsys.readouterr().err
    )
    assert opening(
        torch.nn.Linear(2, 3), [], [], torch.device("cpu"), 4, 2, 5, {"precision": "bf16"}
    ).endswith("on cpu in 4 processes, bf16")
    rows = list(read_log(tmp_path / "run" / "log.jsonl"))
    assert [row["step"] for row in rows] == [1, 3, 5]
    for row in rows:
        assert row["learning_rate"] == 0.5
        assert began <= datetime.fromisoformat(row["time"]) <= datetime.now(UTC)
        assert 50 < row["peak_memory"] <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 + 1


def test_a_start_keeps_what_changed_since_the_last_and_the_dashboard_shows_it(tmp_path, capsys):
    for loop in ({"steps": 4}, {"steps": 9, "spike": "skip"}, {"steps": 9, "spike": "skip"}):
        with Session(tiny.autoencoder_run(tmp_path, **loop), "autoencoder", "none.safetensors") as run:
            assert run.open("")
            run.begin(torch.nn.Linear(1, 1), [], [], dict)
            (tmp_path / "step-00000001").mkdir(exist_ok=True)
    changed = {"train.steps": [4, 9], "train.spike": ["stop", "skip"]}
    starts = [json.loads(line) for line in (tmp_path / "starts.jsonl").read_text().splitlines()]
    assert [start.get("changed") for start in starts] == [None, changed, None]
    words = "train.steps 4 -> 9, train.spike 'stop' -> 'skip'"
    assert f"changed since the last start: {words}\n" in capsys.readouterr().err
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    again = dashboard.page_of(read_histories([str(tmp_path)]), dashboard.DashboardSettings()).events
    assert [row[2] for row in again] == ["started again"] * 2
    assert again[0][3].endswith(f"; {words}") and "->" not in again[1][3]
    with pytest.raises(ValueError, match=rf"learning_rate = .*--out \(and --from {tmp_path} to go on"):
        faster = replace(tiny.autoencoder_run(tmp_path), optimizer=OptimizerConfig(learning_rate=1.0))
        with Session(faster, "autoencoder", "none.safetensors") as run:
            run.open("")
