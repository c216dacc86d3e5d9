"""Proves that content and motion are told apart where they are known, by default, of few clips, and once."""

import json
from pathlib import Path

import numpy
import pytest
import torch

import eval.sides
from eval.fvd import fvd, sentence
from eval.motion import MOTIONS, apart, draw
from tests.test_fvd import Means, folders, quick, settings  # noqa: F401


def world(seed: int, shade: float, speed: float, count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of clips of random shades that brighten at random speeds, and of the same clips frozen."""
    random = numpy.random.RandomState(seed)
    shades, speeds = (
        torch.from_numpy(mean + random.standard_normal((count, 3, 1, 1, 1)).astype("float32") / 10)
        for mean in (shade, speed)
    )
    time = (torch.arange(17) - 8)[:, None, None] / 8
    moving = (shades + speeds * time).expand(-1, -1, -1, 4, 4)
    return Means()(moving), Means()(moving[:, :, 8:9].expand_as(moving))


def test_content_and_motion_are_told_apart_where_they_are_known():
    real, same = world(0, 0.0, 0.5), world(1, 0.0, 0.5)
    other_content, other_motion = world(1, 2.0, 0.5), world(1, 0.0, 2.5)
    still = world(1, 0.0, 0.5)[1], world(1, 0.0, 0.5)[1]
    chance, content, motion, frozen = (
        apart(*real, *fake, ddof=1) for fake in (same, other_content, other_motion, still)
    )
    itself, stopped = apart(*real, *real, ddof=1), apart(*real, real[1], real[1], ddof=1)
    assert [itself[part]["frechet"] for part in itself] == pytest.approx([0.0] * 3, abs=1e-6)
    assert (
        stopped["content"]["frechet"] == pytest.approx(0.0, abs=1e-6) and stopped["motion"]["frechet"] > 0.1
    )
    for kind in ("frechet", "kernel"):
        base = {part: abs(values[kind]) for part, values in chance.items()}
        assert abs(content["motion"][kind]) < 1.1 * base["motion"] + 1e-6
        assert content["content"][kind] > 30 * base["content"]
        assert abs(motion["content"][kind]) < 1.1 * base["content"] + 1e-6
        assert motion["motion"][kind] > 30 * base["motion"]
        assert frozen["motion"][kind] > 30 * base["motion"]  # videos without motion, which content forgives
        assert frozen["content"][kind] == chance["content"][kind]


def test_clips_are_drawn_by_their_keys():
    keys = [f"{k:03d}" for k in range(50)]
    places = draw(keys, 10, 0)
    assert places == sorted(places) and len({*places}) == 10 and places != draw(keys, 10, 1)
    backwards = draw(keys[::-1], 10, 0)
    assert sorted(keys[::-1][k] for k in backwards) == [keys[k] for k in places]
    assert draw(keys, 60, 0) == list(range(50))


def test_it_stands_beside_a_score_that_is_written_and_is_made_once(
    folders,  # noqa: F811
    quick,  # noqa: F811
    tmp_path: Path,
    monkeypatch,
):
    read, whole = [], eval.sides.extract
    monkeypatch.setattr(eval.sides, "extract", lambda *a: read.append((a[-1], len(a[0]))) or whole(*a))
    assert fvd(settings(folders))["motion"] is None and len(read) == 2
    file = tmp_path / "score.json"
    result = fvd(settings(folders, json=str(file), motion_clips=4))
    assert json.loads(file.read_text()) == result
    assert read[2:] == [(what, 4) for what in (*MOTIONS, "generated, frozen")]
    measured = result["motion"]
    assert measured["clips"] == 4 and measured["itself"].keys() == MOTIONS.keys()
    assert min(measured["itself"].values()) > 0 and measured["apart"].keys() == {"whole", "content", "motion"}
    assert fvd(settings(folders, json=str(file), motion_clips=4))["motion"] == measured and len(read) == 6
    assert "of 4 clips a side: whole " in sentence(result)
    everything = fvd(settings(folders, json=str(file)))["motion"]
    assert everything["clips"] == 5
    assert everything["apart"]["whole"]["frechet"] == pytest.approx(result["value"], rel=1e-6)
    assert fvd(settings(folders, json=str(file), motion_clips=0))["motion"] is None
    saved = str(tmp_path / "real.safetensors")
    fvd(settings(folders, save_real=saved))
    assert fvd(settings((saved, folders[1]), json=str(file)))["motion"] is None
