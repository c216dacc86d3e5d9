"""The Frechet distance of two sets of features, in float64, its statistics, and its limit of many clips."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vae.training.seeds import generator

MOST_SAMPLES = 4096  # clips a side up to which the distance is computed from the features too
METHODS_AGREE = 1e-6
ENOUGH = 4  # times as many clips as features have dimensions, for what infinitely many would score
POINTS = 5  # sizes from which the score of infinitely many clips is extrapolated
ORDERS = 16  # draws of each


@dataclass(frozen=True)
class Statistics:
    """Count, mean (D) and centred second moment (D D: the sum of outer products) of features, float64."""

    count: int
    mean_D: Tensor
    moment_DD: Tensor

    def covariance(self, ddof: int) -> Tensor:
        """Covariance D D; raises ValueError where there are too few features for any."""
        if self.count <= ddof:
            raise ValueError(f"{self.count} clips have no covariance with ddof {ddof}")
        return self.moment_DD / (self.count - ddof)


def statistics(features_ND: Tensor) -> Statistics:
    """Statistics of features, of which there is at least one."""
    features = features_ND.double()
    mean = features.mean(0)
    centred = features - mean
    return Statistics(len(features), mean, centred.T @ centred)


def merge(one: Statistics, other: Statistics) -> Statistics:
    """Statistics of the union (Chan, Golub & LeVeque 1983): memory does not grow with the count."""
    count, shift = one.count + other.count, other.mean_D - one.mean_D
    mean = one.mean_D + shift * (other.count / count)
    moment = one.moment_DD + other.moment_DD + torch.outer(shift, shift) * (one.count * other.count / count)
    return Statistics(count, mean, moment)


def distance(one: Statistics, other: Statistics, ddof: int) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2) (Dowson & Landau 1982; Heusel et al. 2017, eq. 6).

    The trace of the square root is the sum of the square roots of the eigenvalues of L' S2 L, L L' = S1,
    by Cholesky where S1 has full rank, else its eigenvectors. Raises ValueError for features that are not
    finite.
    """
    first, second = one.covariance(ddof), other.covariance(ddof)
    if not all(torch.isfinite(x).all() for x in (one.mean_D, other.mean_D, first, second)):
        raise ValueError("features are not finite: look for frames that are not numbers")
    means = (one.mean_D - other.mean_D).square().sum()
    root = factor(first)
    shared = torch.linalg.eigvalsh(root.T @ second @ root).clamp(min=0).sqrt().sum()
    return (means + first.trace() + second.trace() - 2 * shared).item()


def factor(covariance_DD: Tensor) -> Tensor:
    """L with L L' = S, of a covariance, or many, that may have zero eigenvalues."""
    triangle, failed = torch.linalg.cholesky_ex(covariance_DD)
    diagonal = triangle.diagonal(dim1=-2, dim2=-1)
    if not failed.any() and (diagonal.amin(-1) > 1e-7 * diagonal.amax(-1)).all():
        return triangle
    values, vectors = torch.linalg.eigh(covariance_DD)
    return vectors * values.clamp(min=0).sqrt()[..., None, :]


def quickest_distance(one_ND: Tensor, other_ND: Tensor, ddof: int) -> float:
    """The distance by whichever of the two ways takes less: by features, where there are few clips."""
    if min(len(one_ND), len(other_ND)) < one_ND.shape[1]:
        return distance_of_features(one_ND, other_ND, ddof)
    return distance(statistics(one_ND), statistics(other_ND), ddof)


def distance_of_features(one_ND: Tensor, other_ND: Tensor, ddof: int) -> float:
    """The same from the features themselves: tr (S1 S2)^1/2 is the nuclear norm of X Y', X and Y centred and
    divided by the root of their counts less ddof. Exact also where there are fewer clips than features."""
    sides = []
    for features in (one_ND.double(), other_ND.double()):
        if len(features) <= ddof:
            raise ValueError(f"{len(features)} clips have no covariance with ddof {ddof}")
        mean = features.mean(0)
        sides.append((mean, (features - mean) / (len(features) - ddof) ** 0.5))
    (mean_1, x), (mean_2, y) = sides
    shared = torch.linalg.svdvals(x @ y.T).sum()
    return ((mean_1 - mean_2).square().sum() + x.square().sum() + y.square().sum() - 2 * shared).item()


def checked_distance(real_ND: Tensor, fake_ND: Tensor, ddof: int) -> tuple[float, float | None]:
    """The distance, and the relative difference of two ways to it; raises ValueError where that is large.

    From the features where that is possible, else from covariances.
    """
    pair = statistics_of(real_ND), statistics_of(fake_ND)
    by_covariance = distance(*pair, ddof)
    if max(len(real_ND), len(fake_ND)) > MOST_SAMPLES:
        return by_covariance, None
    value = distance_of_features(real_ND, fake_ND, ddof)
    # With fewer clips than features, eigenvalues that are zero come as 1e-16, and their roots count as 1e-8.
    share = 0.01 if min(len(real_ND), len(fake_ND)) > real_ND.shape[1] else 1.0
    scale = max(abs(value), share * pair[0].covariance(ddof).trace().item())
    difference = abs(value - by_covariance) / scale
    if not difference < METHODS_AGREE:
        raise ValueError(f"two methods disagree: {value} from features, {by_covariance} from covariances")
    return value, difference


def statistics_of(features_ND: Tensor, chunk: int = 512):
    """Statistics, merged chunk by chunk."""
    parts = [statistics(part) for part in features_ND.split(chunk)]
    total = parts[0]
    for part in parts[1:]:
        total = merge(total, part)
    return total


def span(one_ND: Tensor, other_ND: Tensor) -> Tensor:
    """An orthonormal basis D R of what both sets span about their mean; R is their numerical rank.

    Singular values below the longer side's count of float32 roundings of the largest are none.
    """
    both = torch.cat([one_ND, other_ND]).double()
    values, vectors = torch.linalg.eigh((both - both.mean(0)).T @ (both - both.mean(0)))
    least = (max(both.shape) * torch.finfo(torch.float32).eps) ** 2 * values.max()
    return vectors[:, values > least]


def too_few(count: int, rank: int) -> str:
    """Why clips are too few to say what infinitely many would score; empty where they are not."""
    if not rank:
        return "the features of all clips are the same"
    if count >= ENOUGH * rank:
        return ""
    return f"{count} clips are fewer than {ENOUGH} times the rank of their features, which is {rank}"


def at_infinity(real_ND: Tensor, fake_ND: Tensor, ddof: int, seed: int, units: tuple[Tensor, Tensor]) -> dict:
    """The score of infinitely many clips: a line through scores of N clips over 1 / N (Chong & Forsyth 2020).

    Sizes are even in 1 / N, from all clips to half of them, at the same share of both sides' units, which are
    numbers of clips that depend on each other; each is scored in several draws, and `deviation` is what these
    add to the value's. Below `ENOUGH` clips a dimension the line bends, and removes less than the bias.
    """
    random = generator(seed, "infinity")
    counts = [int(unit.max()) + 1 for unit in units]
    sizes, values = [], []
    for point in range(POINTS):
        share = 1 / (1 + point / (POINTS - 1))
        values.append([])
        for _ in range(ORDERS if point else 1):
            drawn = [
                side[torch.from_numpy(random.permutation(count))[unit] < round(share * count)]
                for side, unit, count in zip((real_ND, fake_ND), units, counts, strict=True)
            ]
            values[-1].append(quickest_distance(*drawn, ddof))
        sizes.append(round(share * min(len(real_ND), len(fake_ND))))
    x = 1 / torch.tensor(sizes, dtype=torch.float64)
    y_PK = torch.tensor([row * ORDERS if len(row) == 1 else row for row in values], dtype=torch.float64)
    slope_K = ((x - x.mean())[:, None] * y_PK).sum(0) / (x - x.mean()).square().sum()
    start_K = y_PK.mean(0) - slope_K * x.mean()
    start, slope, y = start_K.mean(), slope_K.mean(), y_PK.mean(1)
    return {
        "value": start.item(),
        "slope": slope.item(),
        "residual": (y - start - slope * x).square().mean().sqrt().item(),
        "deviation": start_K.std().item() / ORDERS**0.5,
        "sizes": sizes,
        "values": y.tolist(),
    }
