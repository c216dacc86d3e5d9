"""Proves the interval of the true distance: published ends, closed forms, coverage, and what moves it not."""

import itertools
from dataclasses import replace

import numpy
import pytest
import scipy.linalg
import torch

from configs.protocol import load_protocol
from eval.compare import compare
from eval.cpu import CPU
from eval.frechet import ENOUGH, at_infinity, distance, statistics, too_few
from eval.fvd import FvdSettings, score_sides, sentence
from eval.groups import Groups
from eval.interval import (
    Spread,
    _calibration,
    _effective,
    _halves,
    _in_halves,
    _pair_of,
    _spread,
    _variance_of_mean,
    accepted,
    many_clips,
)
from eval.report.facts import markdown
from eval.scoring import interval
from eval.sides import Side
from tests.test_frechet import by_scipy, random_features
from vae.training.files import write_json
from vae.training.seeds import generator

TRUE = "of the true distance"


def alone(count: int) -> Groups:
    return Groups(tuple(map(str, range(count))))


def gaussian(count: int, scale: torch.Tensor, seed: int, shift: float = 0.0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, len(scale), generator=random, dtype=torch.float64) * scale + shift


@pytest.mark.parametrize(
    ("value", "low", "high"), [(-3, 0, 0.42), (0, 0, 1.96), (1, 0, 2.96), (9, 7.04, 10.96)]
)
def test_ends_are_those_of_feldman_and_cousins(value, low, high):
    """Their Table X, 95 %, of a normal mean that is never below zero."""
    assert accepted(value, Spread(0.0, 1.0, 1.0, 0.0)) == pytest.approx((low, high), abs=0.015)


@pytest.mark.parametrize("value", [200.0, 1e4, 1e7])
def test_ends_far_from_zero_are_those_of_a_normal(value):
    low, high = accepted(value, Spread(0.0, 1.0, 1.0, value))
    assert (low - value, high - value) == pytest.approx((-1.96, 1.96), abs=0.02)


def test_sides_that_do_not_vary_have_an_interval_of_no_width():
    black, white = torch.zeros(16, 3), torch.ones(16, 3)
    found = many_clips(black, white, 1, 0, (alone(16), alone(16)))
    assert found["true_interval"] == found["infinity"] == {"refused": "all clips of a side are the same"}
    assert accepted(3.0, Spread(0.0, 0.0, 0.0, 3.0)) == (3.0, 3.0)


def test_copies_and_originals_are_drawn_alike_and_nothing_is_said_of_many():
    """Of y = s x the distance is (1 - s)^2 tr S, and its bootstrap that of tr S alone."""
    one = gaussian(256, torch.ones(16).double(), 0)
    sides, groups = (one, 0.8 * one), (alone(256), alone(256))

    def score(x: torch.Tensor, y: torch.Tensor) -> float:
        return distance(statistics(x), statistics(y), 1)

    for paired in (True, False):
        ends = interval(score, sides, 100, 0, score(*sides), 0.0, groups, paired=paired)
        assert (ends["high"] - ends["low"] < 0.1) == paired
    found = many_clips(*sides, 1, 0, groups, paired=True)
    assert all("copies" in found[part]["refused"] for part in ("true_interval", "infinity"))


def test_clips_of_a_group_count_the_less_the_more_alike_they_are():
    values = gaussian(60, torch.ones(4).double(), 0)
    units = torch.arange(60).repeat_interleave(5)
    assert _effective(values, torch.arange(60)) == 60
    assert _effective(values.repeat_interleave(5, 0), units) == 60
    assert _effective(gaussian(300, torch.ones(4).double(), 1), units) > 250


def test_a_variance_that_grows_is_covered_too():
    """95 % at every distance, of estimates drawn here."""
    random = torch.Generator().manual_seed(0)
    for true in (0.0, 0.7, 4.0):
        drawn = true + (1 + true) ** 0.5 * torch.randn(400, generator=random, dtype=torch.float64)
        ends = [accepted(value, Spread(0.0, 1.0, 2**0.5, 1.0)) for value in drawn.tolist()]
        assert 0.925 < sum(low <= true <= high for low, high in ends) / len(ends) < 0.975, true


def test_bias_is_the_closed_form_of_many_gaussian_clips():
    """tr(S) 2 / N of means, and of covariances the second order of the distance (Bures' metric)."""
    scale, count = torch.tensor([1.0, 0.7, 0.5, 0.3, 0.2]).double(), 2000
    values = scale.square()
    second = values[:, None] * values * (1 + torch.eye(5)) / (values[:, None] + values) / 2
    units = (torch.arange(count),) * 2
    spread = _spread(gaussian(count, scale, 0), gaussian(count, scale, 1), 0, units)
    assert spread.bias == pytest.approx((values.sum() + second.sum()).item() * 2 / count, rel=0.1)
    variance = 2 * (2 * values.square().sum() + 2 * second.square().sum()).item() / count**2 * 2
    assert spread.narrow == pytest.approx(variance**0.5, rel=0.3)


def test_what_halves_lose_is_what_fresh_samples_tell():
    """The factor from halves to fresh samples at N = 4 D, beside numpy's samples and scipy's square root."""
    random, whole, halved = numpy.random.default_rng(0), [], []
    for _ in range(150):
        one, other = random.standard_normal((2, 32, 8))
        centred = (torch.from_numpy(side - side.mean(0)) for side in (one, other))
        whole.append(by_scipy(*centred, 1))
        roots = [scipy.linalg.sqrtm(numpy.cov(side.T)).real for side in (one, other)]
        middle = scipy.linalg.sqrtm(roots[0] @ numpy.cov(other.T) @ roots[0]).real
        there = numpy.linalg.solve(roots[0], numpy.linalg.solve(roots[0], middle).T)
        maps = [(numpy.eye(8) + move) / 2 for move in (there, numpy.linalg.inv(there))]
        drawn = [
            (side @ move)[random.permutation(32)[:16]] for side, move in zip((one, other), maps, strict=True)
        ]
        halved.append(by_scipy(*(torch.from_numpy(half - half.mean(0)) for half in drawn), 1))
    pair = _pair_of(*(gaussian(32, torch.ones(8).double(), seed)[None] for seed in (0, 1)))
    larger, unsure = _calibration(pair, (torch.arange(32),) * 2, generator(0))
    assert 0.5 < larger < 0.97 and larger == pytest.approx(numpy.mean(whole) / numpy.mean(halved), abs=0.04)
    assert 0.005 < unsure < 0.04


def test_halves_of_units_tell_the_variance_of_their_mean():
    """Over all halves the mean square of their mean is exactly what the sums of units tell."""
    features = random_features(24, 3, 0)
    unit = torch.arange(8).repeat_interleave(3)
    pair = _pair_of(features[None], features[None])
    every = [[k in half for k in range(8)] for half in itertools.combinations(range(8), 4)]
    first = torch.tensor(every).double()[:, unit]
    still = torch.zeros_like(first)
    still[:, ::2] = 1
    means = _in_halves(pair, [first, first], 0.0, 0.0)[0]
    assert means.abs().max() < 1e-12  # one set halved alike has no distance
    square = torch.stack(
        [(pair.one[0] * half[:, None]).sum(0).square().sum() / 12**2 for half in first]
    ).mean()
    assert square.item() == pytest.approx(_variance_of_mean(pair.one[0], unit), rel=1e-12)


def test_halves_keep_units_whole():
    unit = torch.tensor([0, 0, 1, 2, 2, 2, 3])
    for half in _halves(unit, 50, generator(0)):
        assert all(len(half[unit == k].unique()) == 1 for k in range(4)) and 0 < half.sum() < 7


def test_it_covers_known_distances():
    scale = 1 / torch.arange(1, 7).double().sqrt()
    for shift, true in ((0.0, 0.0), (0.4, 6 * 0.16)):
        inside = 0
        for k in range(14):
            sides = gaussian(32, scale, 2 * k), gaussian(32, scale, 2 * k + 1, shift)
            found = many_clips(*sides, 1, 0, (alone(32), alone(32)))
            both = found["true_interval"], found["infinity"]
            inside += sum(ends["low"] <= true <= ends["high"] for ends in both)
        assert 24 <= inside <= 28, (shift, inside)


def test_size_place_and_empty_dimensions_do_not_move_it():
    one, other, groups = random_features(48, 5, 0), random_features(44, 5, 1), (alone(48), alone(44))
    base = many_clips(one, other, 1, 0, groups)
    turned = torch.linalg.qr(gaussian(9, torch.ones(9).double(), 3))[0][:5]
    moved = many_clips(3 * one @ turned + 7, 3 * other @ turned + 7, 1, 0, groups)
    for name in ("low", "high", "value"):
        for part in ("true_interval", "infinity"):
            assert moved[part][name] == pytest.approx(9 * base[part][name], rel=1e-5, abs=1e-7), (part, name)
    assert base == many_clips(one, other, 1, 0, groups) != many_clips(one, other, 1, 1, groups)
    whole = distance(statistics(one), statistics(other), 1)
    assert base["true_interval"]["value"] == pytest.approx(whole - base["true_interval"]["bias"])


def test_too_few_clips_are_refused_in_words():
    """At 400 dimensions 256 clips of one Gaussian are .322 apart, and a line takes a third of that away."""
    scale = 1 / torch.arange(1, 401).double().sqrt()
    sides = [gaussian(256, scale / scale.norm(), seed) for seed in (0, 1)]
    units = torch.arange(256), torch.arange(256)
    assert distance(*map(statistics, sides), 1) == pytest.approx(0.322, abs=0.004)
    assert at_infinity(*sides, 1, 0, units)["value"] > 0.1  # of equal sets
    found = many_clips(*sides, 1, 0, (alone(256), alone(256)))
    why = f"256 clips are fewer than {ENOUGH} times the rank of their features, which is 400"
    assert found == {"true_interval": {"refused": why}, "infinity": {"refused": why}}
    assert too_few(1600, 400) == "" != too_few(1599, 400)
    flat = [side[:64, :10] @ torch.ones(10, 400).double().cumsum(1) for side in sides]
    assert "refused" not in many_clips(*flat, 1, 0, (alone(64), alone(64)))["infinity"]  # of rank 1
    few = Groups(tuple(str(k // 16) for k in range(64)))
    assert many_clips(*flat, 1, 0, (few, alone(64)))["true_interval"] == {
        "refused": "4 groups of clips are fewer than 8"
    }
    same = torch.ones(9, 3)
    assert "all clips are the same" in many_clips(same, same, 1, 0, (alone(9),) * 2)["infinity"]["refused"]


def test_copies_of_clips_tell_no_more_than_the_clips():
    scale, copies = torch.tensor([1.0, 0.7, 0.5]).double(), Groups(tuple(str(k // 5) for k in range(300)))
    sides = [gaussian(60, scale, seed) for seed in (0, 1)]
    many = [side.repeat_interleave(5, 0) for side in sides]
    plain = many_clips(*sides, 1, 0, (alone(60), alone(60)))
    grouped = many_clips(*many, 1, 0, (copies, copies))
    ignored = many_clips(*many, 1, 0, (alone(300), alone(300)))
    for part, name in (("true_interval", "bias"), ("true_interval", "high"), ("infinity", "high")):
        assert grouped[part][name] == pytest.approx(plain[part][name], rel=0.25), (part, name)
    assert ignored["true_interval"]["bias"] < 0.35 * plain["true_interval"]["bias"]


def test_a_bootstrap_of_groups_is_one_of_their_means():
    values = gaussian(60, torch.ones(1).double(), 0)[:, 0]

    def mean(drawn_N: torch.Tensor) -> float:
        return drawn_N.mean().item()

    def width(values_N: torch.Tensor, groups: Groups) -> float:
        ends = interval(mean, (values_N,), 400, 0, groups=(groups,))
        return ends["high"] - ends["low"]

    copies = Groups(tuple(str(k // 5) for k in range(300)))
    assert width(values.repeat_interleave(5), copies) == pytest.approx(width(values, alone(60)))
    assert width(values.repeat_interleave(5), alone(300)) < 0.6 * width(values, alone(60))
    assert interval(mean, (values,), 400, 0, groups=(Groups(("one",) * 60),)) is None


def test_every_interval_is_printed_with_what_it_is_of(tmp_path):
    """On the terminal, in JSON, in a table and in Markdown, beside what was resampled."""
    about = {"stamps": [], "clips": 60, "passed_over": {}, "rgb_sha256": "a" * 64}
    takes = tuple(f"v_YoYo_g{k // 5:02d}_c{k % 5:02d}" for k in range(60))
    protocol, asked = load_protocol("fvd-google", "fvd"), FvdSettings(resamples=20)
    real = Side(random_features(60, 5, 0), takes, about)
    fake = Side(random_features(60, 5, 1), tuple(map(str, range(60))), about)
    result = score_sides(asked, protocol, real, fake, "w", CPU)
    assert result["interval"]["of"] == "the expected score at this number of clips"
    assert result["true_interval"]["of"] == "the true distance"
    assert result["groups"] == {
        "real": {"groups": 12, "by": "UCF-101's groups"},
        "fake": {"groups": 60, "by": "each clip alone"},
    }
    text = sentence(result | {"motion": None})
    for part, of in (("interval", "of the expected score at this number of clips"), ("true_interval", TRUE)):
        assert f"95 % interval {result[part]['low']:.2f} to {result[part]['high']:.2f} {of}" in text
        assert f"{result[part]['low']:.2f} to {result[part]['high']:.2f} {of}" in markdown(result)
    line = result["infinity"]
    said = (
        f"infinitely many clips {line['value']:.2f} (95 % interval {line['low']:.2f} to {line['high']:.2f})"
    )
    assert said in text
    assert "12 groups of real clips, by UCF-101's groups; 60 generated clips, each alone" in text
    write_json(tmp_path / "a.json", result)
    head = compare([str(tmp_path / "a.json")] * 2).splitlines()[1]
    assert "95 % interval of the expected score at this number of clips" in head and TRUE in head
    few = [Side(side.values_ND[:16], side.names[:16], about | {"clips": 16}) for side in (real, fake)]
    small = score_sides(asked, protocol, *few, "w", CPU)
    why = "16 clips are fewer than 4 times the rank of their features, which is 5"
    assert small["infinity"] == small["true_interval"] == {"refused": why}
    assert f"no interval of the true distance, and no score of infinitely many clips: {why}" in sentence(
        small | {"motion": None}
    )
    with pytest.raises(ValueError, match="--group 'shot' is found in no name"):
        score_sides(replace(asked, group="shot"), protocol, real, fake, "w", CPU)
