"""Proves that repeats are scores by other seeds: the first is the score, the others are their seeds'."""

import statistics
from dataclasses import replace

import pytest

import eval.sides
from configs.protocol import load_protocol
from dit.record import read_record
from eval.benchmark import run
from eval.fvd import fvd, sentence
from eval.repeats import check_repeats, repeated, summary
from tests import test_eval_run
from tests.test_eval_run import model, real  # noqa: F401
from tests.test_fvd import folders, quick, settings  # noqa: F401
from vae.data.manifest import load_manifest
from vae.training.files import read_json


def test_the_first_repeat_is_the_score_and_the_others_are_those_of_their_seeds(folders, quick, monkeypatch):  # noqa: F811
    alone = fvd(settings(folders, resamples=0))
    found = fvd(settings(folders, resamples=0, repeats=3))
    assert found["value"] == alone["value"] and "repeats" not in alone
    values = found["repeats"]["values"]
    assert values[0] == alone["value"] and len({*values}) == 3
    plain = load_protocol("fvd-google", "fvd")
    monkeypatch.setattr(eval.sides, "load_protocol", lambda *_: replace(plain, seed=plain.seed + 2))
    assert fvd(settings(folders, resamples=0))["value"] == values[2]
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    assert f"{mean:.2f} +- {deviation:.2f}, mean and standard deviation over 3 draws of" in sentence(found)
    assert "+-" not in sentence(alone)


def test_what_would_be_the_same_each_time_is_refused(folders, quick, tmp_path):  # noqa: F811
    saved = str(tmp_path / "real.safetensors")
    fvd(settings(folders, resamples=0, save_real=saved))
    with pytest.raises(ValueError, match=r"--repeats 2 draws clips again: give the videos, not .*real"):
        fvd(settings((saved, folders[1]), repeats=2))
    fixed = replace(load_protocol("fvd-google", "fvd"), videos="first", start="middle")
    with pytest.raises(ValueError, match="--repeats 2: fvd-google draws no videos and no starts"):
        check_repeats(2, fixed)
    check_repeats(1, fixed)
    check_repeats(2, replace(fixed, start="random"), chosen=False)
    with pytest.raises(ValueError, match="all are the same"):
        check_repeats(2, replace(fixed, videos="random"), chosen=False)  # all videos are taken
    assert repeated(1.0, 1, fixed, lambda other: pytest.fail()) == {}
    assert summary([1.0, 2.0, 3.0], "x") == {
        "of": "x",
        "count": 3,
        "mean": 2.0,
        "deviation": 1.0,
        "values": [1.0, 2.0, 3.0],
    }


def test_a_job_repeats_with_sets_of_videos_of_other_seeds(model, real, quick, tmp_path, capsys):  # noqa: F811
    asked = {"sample_only": False, "real": str(real), "count": 3}
    alone = run(test_eval_run.settings(model, tmp_path, **asked))["fvd"]
    found = run(test_eval_run.settings(model, tmp_path, repeats=2, **asked))["fvd"]
    values = found["repeats"]["values"]
    assert values[0] == alone["value"] == found["value"] != values[1]
    of_sets = [read_json(tmp_path / place / "fvd.json") for place in ("", "repeat-1")]
    assert of_sets[0]["motion"] and of_sets[1]["motion"] is None  # the page shows the first one's
    seeds = [
        [read_record(entry.path)["seed"] for entry in load_manifest(tmp_path / place / "videos")]
        for place in ("", "repeat-1")
    ]
    assert seeds == [[0, 1, 2], [3, 4, 5]]
    assert (
        "mean and standard deviation over 2 sets of videos of other sampling seeds" in capsys.readouterr().out
    )
