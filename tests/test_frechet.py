"""Proves the Frechet distance: reference values, closed forms, scipy's square root, and sums in any order."""

import itertools
import json

import numpy
import pytest
import scipy.linalg
import torch

from eval.frechet import distance, distance_of_features, factor, merge, statistics
from tests.conftest import REFERENCE

ESTIMATORS = {  # name in the reference file -> its ddof, and how near it is to ours
    "exact_ddof1": (1, 1e-6),
    "exact_ddof0": (0, 1e-6),
    "styleganv_FeatureStats_ddof0": (0, 1e-6),
    "common_metrics_styleganv": (1, 1e-6),
    "videogpt_torchsvd_f32": (1, 1e-3),  # its own noise: another processor's float32 moves it as far
}


def random_features(count: int, width: int, seed: int) -> torch.Tensor:
    """Correlated features whose covariance has a spectrum that falls as 1/k, about a random mean."""
    random = torch.Generator().manual_seed(seed)
    turned = torch.linalg.qr(torch.randn(width, width, generator=random, dtype=torch.float64))[0]
    scale = (1 / torch.arange(1, width + 1, dtype=torch.float64)).sqrt()
    spread = torch.randn(count, width, generator=random, dtype=torch.float64) * scale
    return spread @ turned + 0.3 * torch.randn(width, generator=random, dtype=torch.float64)


def by_scipy(one: torch.Tensor, other: torch.Tensor, ddof: int) -> float:
    """The distance by the definition, with scipy's square root of a matrix."""
    first, second = (numpy.cov(side.numpy(), rowvar=False, ddof=ddof) for side in (one, other))
    root = scipy.linalg.sqrtm(first @ second).real
    means = ((one.mean(0) - other.mean(0)) ** 2).sum().item()
    return means + numpy.trace(first) + numpy.trace(second) - 2 * numpy.trace(root)


def test_reference_values_of_every_estimator():
    features = numpy.load(REFERENCE / "i3d_seeded_features.npz")
    pairs = json.loads((REFERENCE / "fvd_seeded.json").read_text())["pairs"]
    checked = 0
    for name, values in pairs.items():
        sides, network = name.split(" | ")
        keys = [f"{side}|{network}" for side in sides.split(" vs ")]
        if not set(keys) <= set(features):
            continue
        one, other = (torch.from_numpy(features[key]) for key in keys)
        for estimator, (ddof, tolerance) in ESTIMATORS.items():
            wanted = pytest.approx(values[estimator], rel=tolerance)
            assert distance_of_features(one, other, ddof) == wanted, estimator
            assert distance(statistics(one), statistics(other), ddof) == wanted, estimator
            checked += 1
    assert checked >= 6 * len(ESTIMATORS)


@pytest.mark.parametrize(("counts", "width"), [((60, 70), 12), ((8, 9), 30), ((200, 20), 40)])
@pytest.mark.parametrize("ddof", [0, 1])
def test_it_is_the_definition(counts, width, ddof):
    one, other = (random_features(count, width, seed) for seed, count in enumerate(counts))
    wanted = pytest.approx(by_scipy(one, other, ddof), rel=1e-5)  # sqrtm of a singular matrix is that good
    assert distance(statistics(one), statistics(other), ddof) == wanted
    assert distance_of_features(one, other, ddof) == wanted
    if min(counts) > width:
        exact = by_scipy(one, other, ddof)
        assert distance(statistics(one), statistics(other), ddof) == pytest.approx(exact, rel=1e-10)


def test_of_gaussians_along_the_axes_it_is_a_sum():
    """|m|^2 + sum (s1 - s2)^2, from features whose covariance is exactly diagonal."""
    base = (
        torch.eye(4, dtype=torch.float64).repeat(2, 1) * torch.tensor([1, -1.0]).repeat_interleave(4)[:, None]
    )
    first, second, shift = (
        torch.tensor([1.0, 2, 3, 4]),
        torch.tensor([2.0, 2, 1, 0]),
        torch.tensor([1.0, 0, 0, 2]),
    )
    one, other = base * first.double(), base * second.double() + shift.double()
    wanted = shift.square().sum() + ((first - second).square() * 2 / 8).sum()
    assert distance(statistics(one), statistics(other), 0) == pytest.approx(wanted.item(), rel=1e-12)
    assert distance_of_features(one, other, 0) == pytest.approx(wanted.item(), rel=1e-12)


def test_a_set_is_at_zero_from_itself_and_distance_is_symmetric():
    one, other = random_features(30, 50, 0), random_features(40, 50, 1)
    size = statistics(one).covariance(1).trace().item()
    assert abs(distance(statistics(one), statistics(one), 1)) < 1e-6 * size
    assert abs(distance_of_features(one, one, 1)) < 1e-12 * size
    there, back = distance_of_features(one, other, 1), distance_of_features(other, one, 1)
    assert there == pytest.approx(back, rel=1e-12)


def test_statistics_add_up_however_they_are_parted():
    features = random_features(101, 20, 3) + 1000  # far from zero, where sums of squares would lose digits
    whole = statistics(features)
    for sizes in ([50, 51], [1, 100], [10] * 10 + [1], [101]):
        parts = [statistics(part) for part in features.split(sizes)]
        for order in itertools.islice(itertools.permutations(parts), 6):
            total = order[0]
            for part in order[1:]:
                total = merge(total, part)
            assert total.count == 101
            assert torch.allclose(total.mean_D, whole.mean_D, rtol=1e-13)
            assert torch.allclose(total.moment_DD, whole.moment_DD, rtol=1e-9, atol=1e-9)
    assert torch.allclose(whole.covariance(1), torch.from_numpy(numpy.cov(features.numpy(), rowvar=False)))


def test_a_factor_multiplies_back_at_any_rank():
    for count in (3, 40):
        covariance = statistics(random_features(count, 10, 5)).covariance(1)
        root = factor(covariance)
        assert torch.allclose(root @ root.T, covariance, atol=1e-14)


def test_what_has_no_distance_is_refused():
    good, bad = random_features(5, 3, 0), random_features(5, 3, 0)
    bad[2, 1] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        distance(statistics(good), statistics(bad), 1)
    with pytest.raises(ValueError, match="1 clips have no covariance with ddof 1"):
        distance(statistics(good[:1]), statistics(good), 1)
    with pytest.raises(ValueError, match="1 clips have no covariance with ddof 1"):
        distance_of_features(good, good[:1], 1)
