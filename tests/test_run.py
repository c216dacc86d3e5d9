"""Proves that a run's folder keeps its own checkpoints, leaves a user's copies, and draws its curve."""

import shutil
from pathlib import Path

import matplotlib.figure
import pytest
import torch

from vae.training.checkpoints import checkpoints, load_checkpoint, save_checkpoint
from vae.training.log import draw_curve, live_line


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
    facts, parts = load_checkpoint(tmp_path, "transformer")
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
    draw_curve(rows, {"loss": "the loss", "validation": "held out"}, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    shown = {axes.get_title(): axes.lines[0].get_xydata().tolist() for axes in drawn}
    assert shown == {"the loss": [[1, 2.0], [2, 1.5]], "held out": [[2, 1.7], [4, 1.2]]}


def test_the_live_line_says_speed_and_waiting():
    row = {"loss": 0.5, "smoothed": 0.6, "gradient_norm": 1.0, "tokens_per_second": 1234.4, "waited": 0.25}
    line = live_line(row, "tokens", {"bad.mp4": "cut short"})
    assert "1234 tokens/s" in line and "data wait 25 %" in line and "1 files skipped" in line
