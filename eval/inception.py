"""The Inception score of a classifier's probabilities (Salimans et al. 2016), as papers compute it."""

from dataclasses import dataclass

import numpy
import torch
from torch import Tensor


@dataclass(frozen=True)
class Variant:
    """How a set is parted: into so many splits, in its own order or one that numpy shuffles with a seed; what
    is added to a probability before its logarithm."""

    splits: int
    shuffle: int | None = None
    added: float = 0.0


VARIANTS = {
    "stylegan-v": Variant(splits=10, shuffle=42),
    "tgan2": Variant(splits=1, added=1e-20),
    "tgan2-10-splits": Variant(splits=10, added=1e-20),
}


def inception_score(probabilities_ND: Tensor, variant: Variant) -> tuple[float, float]:
    """Mean and standard deviation over splits of exp(mean over clips of KL(p(y|x) || p(y))), in float64.

    The splits matter: the fewer clips in one, the lower its score. Raises ValueError for rows that are no
    probabilities, and for fewer clips than splits.
    """
    p = probabilities_ND.double().cpu()
    if p.dim() != 2 or not torch.isfinite(p).all() or (p < 0).any() or (p.sum(1) - 1).abs().max() > 1e-4:
        raise ValueError("the Inception score takes rows of probabilities N D, each of sum 1")
    if len(p) < variant.splits:
        raise ValueError(f"{len(p)} clips do not make {variant.splits} splits")
    if variant.shuffle is not None:
        order = numpy.random.RandomState(variant.shuffle).permutation(len(p))
        p = p[torch.from_numpy(order)]
    scores = []
    for split in range(variant.splits):
        part = p[split * len(p) // variant.splits : (split + 1) * len(p) // variant.splits]
        ratio = (part + variant.added).log() - (part.mean(0) + variant.added).log()
        scores.append(torch.where(part > 0, part * ratio, 0.0).sum(1).mean().exp())
    values = torch.stack(scores)
    return values.mean().item(), values.std(correction=0).item()


def over_runs(runs: list[Tensor], variant: Variant) -> tuple[float, float]:
    """Mean and standard deviation of the score over independent sets, as TGANv2 reports ten sets of 2,048."""
    values = torch.tensor([inception_score(run, variant)[0] for run in runs], dtype=torch.float64)
    return values.mean().item(), values.std(correction=0).item()
