"""The Frechet distance of two sets of features, in float64, and statistics that add up exactly."""

from dataclasses import dataclass

import torch
from torch import Tensor


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
    count, apart = one.count + other.count, other.mean_D - one.mean_D
    mean = one.mean_D + apart * (other.count / count)
    moment = one.moment_DD + other.moment_DD + torch.outer(apart, apart) * (one.count * other.count / count)
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
    """L with L L' = S, of a covariance that may have zero eigenvalues."""
    triangle, failed = torch.linalg.cholesky_ex(covariance_DD)
    diagonal = triangle.diagonal()
    if not failed.item() and diagonal.min() > 1e-7 * diagonal.max():
        return triangle
    values, vectors = torch.linalg.eigh(covariance_DD)
    return vectors * values.clamp(min=0).sqrt()


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
