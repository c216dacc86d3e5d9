"""Proves the Inception score: reference values of three variants, and closed forms."""

import json
import math

import numpy
import pytest
import torch

from eval.inception import VARIANTS, Variant, inception_score, over_runs

ONE = Variant(splits=1)


def drawn(count: int, seed: int = 0) -> torch.Tensor:
    """Rows of probabilities, as the reference values' recipe draws them."""
    logits = numpy.random.RandomState(seed).standard_normal((count, 101)) * 2
    return torch.from_numpy(logits).softmax(dim=1)


def test_reference_values(real_data):
    known = json.loads((real_data / "reference" / "inception_score.json").read_text())
    names = {
        "stylegan-v": "IS_styleganv_10splits_shuffle42",
        "tgan2": "IS_tgan2_1split",
        "tgan2-10-splits": "IS_tgan2_10splits_noshuffle",
    }
    assert names.keys() == VARIANTS.keys()
    for variant, name in names.items():
        assert inception_score(drawn(2048), VARIANTS[variant]) == pytest.approx(
            known[name], rel=1e-9, abs=1e-12
        )


def test_closed_forms():
    assert inception_score(torch.full((30, 5), 0.2), ONE) == (pytest.approx(1), 0)
    for classes in (1, 4, 101):
        sure = torch.eye(classes).repeat(3, 1)
        assert inception_score(sure, ONE)[0] == pytest.approx(classes, rel=1e-12)
    half = torch.tensor([[0.9, 0.1], [0.1, 0.9]])  # exp(KL) of a coin of 0.9 from a fair one
    wanted = math.exp(0.9 * math.log(1.8) + 0.1 * math.log(0.2))
    assert inception_score(half, ONE)[0] == pytest.approx(wanted, rel=1e-6)


def test_splits_are_parts_and_their_mean_and_deviation_is_given():
    p = drawn(50)
    parts = [inception_score(p[k : k + 10], ONE)[0] for k in range(0, 50, 10)]
    mean, deviation = inception_score(p, Variant(splits=5))
    assert mean == pytest.approx(numpy.mean(parts), rel=1e-12)
    assert deviation == pytest.approx(numpy.std(parts), rel=1e-9)
    assert inception_score(p, Variant(splits=5, shuffle=42))[0] != mean
    runs = [drawn(40, seed) for seed in range(4)]
    alone = [inception_score(run, ONE)[0] for run in runs]
    assert over_runs(runs, ONE) == pytest.approx((numpy.mean(alone), numpy.std(alone)))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.rand(4, 5) + 1, "each of sum 1"),
        (torch.full((4, 2), torch.nan), "each of sum 1"),
        (torch.tensor([[1.5, -0.5]]), "each of sum 1"),
        (torch.full((4,), 0.25), "rows of probabilities"),
    ],
)
def test_what_is_no_probability_is_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        inception_score(rows, ONE)
    with pytest.raises(ValueError, match="4 clips do not make 10 splits"):
        inception_score(torch.full((4, 2), 0.5), VARIANTS["stylegan-v"])
