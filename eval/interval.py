"""The interval of the true distance of two sets: of what infinitely many clips like theirs would score."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy
import torch
from torch import Tensor

from eval.frechet import at_infinity, distance, factor, span, statistics, too_few
from eval.groups import Groups
from vae.training.seeds import generator

SPLITS = 100  # of the clips into halves
SIMULATIONS = 100  # samples that tell what halves lose
NARROW = 64  # features up to which there are as many of both
SIMULATED_SPLITS = 3
FEWEST_GROUPS = 8  # that are worth halving
LEVEL = 0.95
TRUE = "the true distance"
DISTANCES = 1000  # that are tried
REACH = 6  # deviations on either side in which they lie
MOST_GROWTH = 4  # of the variance beyond that distance, as it is no more than measured there
NUMBERS_HELD = 2**24
SINGULAR = 1e-10  # of the largest eigenvalue: less has no inverse


@dataclass(frozen=True)
class _Pair:
    """Centred features of two sides (B N D), their mean difference, covariances, and the linear maps that
    carry each side's Gaussian to the other's (Dowson & Landau 1982)."""

    one: Tensor
    other: Tensor
    shift: Tensor
    first: Tensor
    second: Tensor
    there: Tensor
    back: Tensor


def many_clips(
    one_ND: Tensor,
    other_ND: Tensor,
    ddof: int,
    seed: int,
    groups: Sequence[Groups],
    intervals: bool = True,
    paired: bool = False,
) -> dict[str, dict | None]:
    """What infinitely many clips would score: `true_interval`, a 95 % interval of the distance of the sets'
    populations, and `infinity`, the extrapolated score with an interval of its own.

    Both say `refused`, and why, for too few clips, of which those of a group count the less the more alike
    they are; and for sides that are `paired`, as copies are with their originals: all here takes them for
    independent.

    A sample's distance is too large, by more than it varies. That bias and the spread are measured on
    balanced half-samples (McCarthy 1969): N / 2 of N clips lie about the whole as N do about the population,
    with the features' own fourth moments. They are taken where the sets are moved towards each other on the
    geodesic between their Gaussians (McCann 1997), to where the distance is what the score is without its
    bias, and to its middle, where it is none. Halves are smaller than the whole: a factor from simulated
    samples of the same counts undoes that. Distances are accepted in the likelihood ratio's order, by which
    the interval becomes one-sided near zero by itself (Feldman & Cousins 1998). Groups of clips that depend
    on each other are halved as wholes.
    """
    units = tuple(group.units() for group in groups)
    basis = span(one_ND, other_ND)
    counts = [_effective(side, unit) for side, unit in zip((one_ND, other_ND), units, strict=True)]
    reason = too_few(min(counts), basis.shape[1])
    if not reason and any((side == side[:1]).all() for side in (one_ND, other_ND)):
        reason = "all clips of a side are the same"
    if paired:
        reason = "the clips of one side are copies of the other's, and do not vary by themselves"
    fewest = min(int(unit.max()) + 1 for unit in units)
    if not reason and fewest < FEWEST_GROUPS:
        reason = f"{fewest} groups of clips are fewer than {FEWEST_GROUPS}"
    if reason:
        return {"true_interval": {"refused": reason}, "infinity": {"refused": reason}}
    line = at_infinity(one_ND, other_ND, ddof, seed, units)
    if not intervals:
        return {"true_interval": None, "infinity": line}
    spread = _spread(one_ND.double() @ basis, other_ND.double() @ basis, seed, units)
    value = distance(statistics(one_ND), statistics(other_ND), 1) - spread.bias
    low, high = accepted(value, spread)
    ends = accepted(line["value"], spread.widened(line["deviation"]))
    return {
        "true_interval": {"low": low, "high": high, "of": TRUE, "value": value, "bias": spread.bias},
        "infinity": line | {"low": ends[0], "high": ends[1]},
    }


def in_words(result: dict, digits: int) -> list[str]:
    """What infinitely many clips would score, as lines for a terminal; none where nothing is known of it."""
    true, line = result.get("true_interval"), result.get("infinity")
    if line and "refused" in line:
        return [f"no interval of {TRUE}, and no score of infinitely many clips: {line['refused']}"]
    lines = []
    if true and true.keys() >= {"low", "high", "value"}:
        ends = f"95 % interval {true['low']:.{digits}f} to {true['high']:.{digits}f} of {TRUE}"
        lines.append(f"{ends}; without its bias the score is {true['value']:.{digits}f}")
    if line and "value" in line:
        known = line.keys() >= {"low", "high"}
        ends = f" (95 % interval {line['low']:.{digits}f} to {line['high']:.{digits}f})" if known else ""
        lines.append(f"extrapolated to infinitely many clips {line['value']:.{digits}f}{ends}")
    return lines


@dataclass(frozen=True)
class Spread:
    """By what the score of two samples is too large, and the standard deviation of what is left: at distance
    zero, and `at` another one."""

    bias: float
    narrow: float
    wide: float
    at: float

    def widened(self, deviation: float) -> "Spread":
        """The same of an estimate with as much noise of its own."""
        return replace(self, narrow=math.hypot(self.narrow, deviation), wide=math.hypot(self.wide, deviation))


def _spread(one_ND: Tensor, other_ND: Tensor, seed: int, units: tuple[Tensor, Tensor]) -> Spread:
    """Bias and spread of the distance of two sets of full rank."""
    random = generator(seed, "halves")
    pair = _pair_of(one_ND[None], other_ND[None])
    splits = _for_width(SPLITS, one_ND.shape[1])
    choices = [_halves(unit, splits, random) for unit in units]
    of_means = pair.shift.square().sum().item()
    of_covariances = _bures(pair.first, pair.second).item()
    sides = zip((pair.one[0], pair.other[0]), units, strict=True)
    bias_of_means = sum(_variance_of_mean(*side) for side in sides)
    larger, unsure = _calibration(pair, units, random)
    # The halves' deviations are estimates, of half as many degrees of freedom as units, and of as many as
    # splits: Student's quantile over the normal one, to first order (Fisher & Cornish 1960).
    fewest = min(int(unit.max()) + 1 for unit in units)
    wider = 1 + (1.96**2 + 1) / 4 * (2 / fewest + 1 / splits)

    def measured(left_of_means: float, left_of_covariances: float) -> tuple[float, float]:
        """Bias and standard deviation where these parts of the distance are left."""
        roots = [
            (left / of) ** 0.5 if of > 0 else 0.0
            for left, of in ((left_of_means, of_means), (left_of_covariances, of_covariances))
        ]
        means, covariances, odd = _in_halves(pair, choices, *roots)
        even = means + larger * covariances
        deviation = (even.var() + odd.square().mean()).sqrt().item()
        return larger * covariances.mean().item(), wider * deviation

    bias, narrow = measured(0.0, 0.0)
    left = max(0.0, of_means - bias_of_means), max(0.0, of_covariances - bias)
    bias, wide = measured(*left)
    found = Spread(bias_of_means + bias, narrow, max(wide, narrow), sum(left)).widened(unsure * bias)
    # Scores near zero are sums of squares, whose upper tail is a gamma distribution's (Box 1954) of skewness
    # 2 deviation / mean: its quantile over the normal one, to first order (Cornish & Fisher 1938).
    longer = 1 + (1.645**2 - 1) / 1.645 / 3 * found.narrow / found.bias
    return replace(found, narrow=longer * found.narrow, wide=longer * found.wide)


def _pair_of(one_BND: Tensor, other_BND: Tensor) -> _Pair:
    """Two sides, or several pairs of them, with what is needed of each."""
    means = one_BND.mean(1), other_BND.mean(1)
    one, other = one_BND - means[0][:, None], other_BND - means[1][:, None]
    first, second = (side.mT @ side / (side.shape[1] - 1) for side in (one, other))
    root, inverse = _powers(first)
    middle, middle_inverse = _powers(root @ second @ root)
    there, back = inverse @ middle @ inverse, root @ middle_inverse @ root
    return _Pair(one, other, means[0] - means[1], first, second, there, back)


def _powers(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The square root of a symmetric matrix, and its inverse."""
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    roots = values.clamp(min=SINGULAR * values.amax(-1, keepdim=True)).sqrt()[..., None, :]
    return (vectors * roots) @ vectors.mT, (vectors / roots) @ vectors.mT


def _bures(first: Tensor, second: Tensor) -> Tensor:
    """The distance of centred Gaussians."""
    root = factor(first)
    shared = torch.linalg.eigvalsh(root.mT @ second @ root).clamp(min=0).sqrt().sum(-1)
    return _trace(first) + _trace(second) - 2 * shared


def _trace(matrix: Tensor) -> Tensor:
    """Of one matrix, or many."""
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


def _for_width(most: int, width: int) -> int:
    """How many draws features of a width take: of wide ones each takes longer."""
    return max(most // 4, min(most, NARROW * most // width))


def _halves(unit_N: Tensor, splits: int, random: numpy.random.Generator) -> Tensor:
    """Which clips are in the first half of every split, as 0 and 1 (splits N): units stay whole."""
    count = int(unit_N.max()) + 1
    places = random.permuted(numpy.tile(numpy.arange(count), (splits, 1)), axis=1)
    return torch.from_numpy(places < count // 2).double()[:, unit_N]


def _moments(centred_BND: Tensor, choice_SN: Tensor) -> tuple[Tensor, Tensor]:
    """Means B 2S D and covariances B 2S D D of half-samples, and then of their complements."""
    parts = [centred_BND[:, choice_N] for choice_N in choice_SN.bool()]
    sums = torch.stack([part.sum(1) for part in parts], 1)
    squares = torch.stack([part.mT @ part for part in parts], 1)
    whole = (centred_BND.mT @ centred_BND)[:, None]
    sums, squares = torch.cat([sums, -sums], 1), torch.cat([squares, whole - squares], 1)
    counts = torch.cat([choice_SN.sum(1), (1 - choice_SN).sum(1)])
    mean = sums / counts[:, None]
    outer = mean[..., :, None] * mean[..., None, :]
    return mean, (squares - outer * counts[:, None, None]) / (counts - 1)[:, None, None]


def _in_halves(pair: _Pair, choices: list[Tensor], means_at: float, covariances_at: float):
    """By what half-samples' distances exceed the whole's, B S: of means, of covariances, both's odd part.

    The sides are moved so far towards each other that the roots of the parts of their distance are these
    shares of what they were. Even is the mean of a half-sample and its complement, odd half their difference.
    """
    identity = torch.eye(pair.first.shape[-1], dtype=torch.float64)
    one, other = (identity + (1 - covariances_at) / 2 * (move - identity) for move in (pair.there, pair.back))
    squares, both = (one @ one, other @ other), other @ one

    def moved_distance(first: Tensor, second: Tensor) -> Tensor:
        """Of covariances, when the sides are moved."""
        traces = [(a * s[:, None]).sum((-2, -1)) for a, s in zip((first, second), squares, strict=True)]
        root = both[:, None] @ factor(first)
        return sum(traces) - 2 * torch.linalg.eigvalsh(root.mT @ second @ root).clamp(min=0).sqrt().sum(-1)

    base = moved_distance(pair.first[:, None], pair.second[:, None])
    size = max(1, NUMBERS_HELD // (pair.one.numel() + pair.other.numel()))
    found = []
    for chunk in zip(*(choice.split(size) for choice in choices), strict=True):
        (mean_1, first), (mean_2, second) = map(_moments, (pair.one, pair.other), chunk)
        shift = means_at * pair.shift[:, None]
        means = (shift + mean_1 @ one - mean_2 @ other).square().sum(-1) - shift.square().sum(-1)
        covariances = moved_distance(first, second) - base
        pairs = [torch.stack(part.chunk(2, dim=1)) for part in (means, covariances)]
        odd = sum(part[0] - part[1] for part in pairs) / 2
        found.append([*(part.mean(0) for part in pairs), odd])
    return [torch.cat(parts, 1) for parts in zip(*found, strict=True)]


def _variance_of_mean(centred_ND: Tensor, unit_N: Tensor) -> float:
    """The trace of the variance of the mean of units that do not depend on each other."""
    count = int(unit_N.max()) + 1
    sums = torch.zeros(count, centred_ND.shape[1], dtype=torch.float64).index_add(0, unit_N, centred_ND)
    return (sums.square().sum() * count / (count - 1) / len(unit_N) ** 2).item()


def _alike(centred_ND: Tensor, unit_N: Tensor) -> float:
    """The correlation of two clips of one unit, over all dimensions (Fisher's, of classes)."""
    sizes = unit_N.bincount()
    pairs = (sizes * (sizes - 1)).sum().item()
    if not pairs:
        return 0.0
    sums = torch.zeros(len(sizes), centred_ND.shape[1], dtype=torch.float64).index_add(0, unit_N, centred_ND)
    own = centred_ND.square().sum()
    together = (sums.square().sum() - own) / pairs
    return min(1.0, max(0.0, (together / (own / len(unit_N))).item()))


def _effective(values_ND: Tensor, unit_N: Tensor) -> int:
    """To how many clips that are alone those of units come (Kish 1965)."""
    centred, sizes = values_ND.double() - values_ND.double().mean(0), unit_N.bincount()
    size = (sizes.square().sum() / len(unit_N)).item()
    return round(len(unit_N) / (1 + (size - 1) * _alike(centred, unit_N)))


def _tail(centred_ND: Tensor) -> float:
    """The share by which the mean fourth power of lengths exceeds that of a Gaussian of this covariance."""
    squares = centred_ND.square().sum(1)
    covariance = centred_ND.T @ centred_ND / (len(centred_ND) - 1)
    trace = _trace(covariance)
    own = covariance.square().sum() - trace**2 / len(centred_ND)
    return max(0.0, (squares.square().mean() / (trace**2 + 2 * own)).item() - 1)


def _calibration(pair: _Pair, units: Sequence[Tensor], random: numpy.random.Generator) -> tuple[float, float]:
    """How many times the bias of simulated samples is that of their half-samples, at the middle; and the
    relative error of that.

    They have the features' spectrum, fourth power of lengths (by a log-normal scale), counts and groups.
    """
    width = pair.first.shape[-1]
    identity = torch.eye(width, dtype=torch.float64)
    half_way = (identity + pair.there[0]) / 2
    roots = torch.linalg.eigvalsh(half_way @ pair.first[0] @ half_way).clamp(min=0).sqrt()
    alike = [_alike(side[0], unit) for side, unit in zip((pair.one, pair.other), units, strict=True)]
    tails = [_tail(side[0]) for side in (pair.one, pair.other)]
    most = _for_width(SIMULATIONS, width)
    size = max(1, min(most, NUMBERS_HELD // ((pair.one.numel() + pair.other.numel()) * SIMULATED_SPLITS)))
    whole, in_halves = [], []
    for first in range(0, most, size):
        count = min(size, most - first)
        sides = []
        for unit, share, tail in zip(units, alike, tails, strict=True):
            noise = torch.from_numpy(random.standard_normal((count, len(unit), width)))
            scale = torch.from_numpy(random.standard_normal((count, len(unit), 1)))
            spread = math.log1p(tail)
            noise *= ((spread**0.5 * scale - spread / 2) / 2).exp()
            if share:
                common = torch.from_numpy(random.standard_normal((count, int(unit.max()) + 1, width)))
                noise = share**0.5 * common[:, unit] + (1 - share) ** 0.5 * noise
            sides.append(noise * roots)
        simulated = _pair_of(*sides)
        choices = [_halves(unit, SIMULATED_SPLITS, random) for unit in units]
        whole.append(_bures(simulated.first, simulated.second))
        in_halves.append(_in_halves(simulated, choices, 0.0, 0.0)[1].mean(1))
    of_whole, of_halves = torch.cat(whole), torch.cat(in_halves)
    noise = sum((found.var() / most / found.mean() ** 2).item() for found in (of_whole, of_halves))
    return (of_whole.mean() / of_halves.mean()).item(), noise**0.5


def accepted(value: float, spread: Spread) -> tuple[float, float]:
    """The distances that a normal estimate of one that is never below zero does not reject at 95 %.

    Its variance grows in a line from that at zero to that at another distance (Feldman & Cousins 1998).
    """
    narrow, wide, at = spread.narrow, spread.wide, spread.at
    if not wide > 0:
        return max(0.0, value), max(0.0, value)
    # Beyond `at` the deviation may be twice what it is there.
    ends = max(0.0, value - REACH * wide), max(0.0, value) + REACH * wide
    distance_K = torch.linspace(*ends, DISTANCES, dtype=torch.float64)
    growth = (distance_K / at).clamp(max=MOST_GROWTH) if at > 0 else torch.zeros_like(distance_K)
    deviation = (narrow**2 + (wide**2 - narrow**2) * growth).sqrt()
    # Of the likelihood ratio of a distance to the best one, which is never below zero: its logarithm by -2.
    ratio = ((value - distance_K) / deviation) ** 2 - (min(0.0, value) / deviation) ** 2
    high = ratio.clamp(min=0).sqrt()
    far = distance_K / deviation
    # What is less likely lies outside `high` standard deviations, below zero as far as the ratio falls there.
    low = torch.where(far < high, -(ratio + far**2) / (2 * far.clamp(min=1e-300)), -high)
    probability = torch.special.ndtr(high) - torch.special.ndtr(low)
    inside = distance_K[probability <= LEVEL]
    return inside.min().item(), inside.max().item()
