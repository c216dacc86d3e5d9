"""How far voters agree: Krippendorff's alpha of answers on the same pairs."""

import numpy
import torch
from torch import Tensor

from vae.training.seeds import generator


def alpha(counts_UA: Tensor) -> float | None:
    """Krippendorff's alpha of units x answers, how often each was given; 1 is all agree, 0 is as by chance.

    Of named answers, with units of any number of voters, those of one alone left out (Krippendorff 2011,
    "Computing Krippendorff's alpha-reliability"). None where there is no such unit, or but one answer.
    """
    return _of_sums(*(part.sum(0) for part in _parts(counts_UA)))


def alpha_interval(counts_UA: Tensor, groups_U: Tensor, resamples: int, seed: int) -> dict | None:
    """Its 95 % interval by bootstrap over groups of units; None of one group, or of too few answers."""
    number = int(groups_U.max()) + 1 if len(groups_U) else 0
    if number < 2 or not resamples:
        return None
    agreed, given = _parts(counts_UA)
    random, values = generator(seed, "bootstrap", "agreement"), []
    for weights in random.multinomial(number, numpy.full(number, 1 / number), size=resamples):
        weights_U = torch.from_numpy(weights).double()[groups_U]
        values.append(_of_sums((weights_U * agreed).sum(), weights_U @ given))
    found = torch.tensor([value for value in values if value is not None], dtype=torch.float64)
    if len(found) < resamples / 2:
        return None
    low, high = (found.quantile(q).item() for q in (0.025, 0.975))
    return {"low": low, "high": high, "resamples": resamples}


def _parts(counts_UA: Tensor) -> tuple[Tensor, Tensor]:
    """Of each unit the pairs of votes that agree, over its votes less one, and its answers; 0 of one vote."""
    counts = counts_UA.double()
    voters = counts.sum(1)
    several = voters > 1
    agreed = (counts * (counts - 1)).sum(1) / (voters - 1).clamp(min=1)
    return agreed * several, counts * several[:, None]


def _of_sums(agreed: Tensor, given_A: Tensor) -> float | None:
    """Alpha of all units' sums."""
    number = given_A.sum()
    by_chance = (given_A * (number - given_A)).sum()
    if number < 2 or not by_chance:
        return None
    return (1 - (number - 1) * (number - agreed) / by_chance).item()
