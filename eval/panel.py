"""What stands beside a score: chance, memory and classes of the sets that it compares."""

import torch
from torch import Tensor

from eval.frechet import distance_of_features
from eval.groups import Groups

MOST_PAIRS = 20
SAME = 1e-4  # of the usual distance between two real clips: nearer are copies
MOST_SAMPLES = 4096  # rows of distances held at once


def floor(values_ND: Tensor, others_ND: Tensor | None, ddof: int, groups: Groups | None = None) -> dict:
    """The distance of the real set to as many other real clips: what chance alone gives at this number.

    Without others, of its halves, every other group of clips, at half the number.
    """
    one, other = (values_ND, others_ND) if others_ND is not None else _halves(values_ND, groups)
    return {"value": distance_of_features(one, other, ddof), "clips": [len(one), len(other)]}


def _halves(values_ND: Tensor, groups: Groups | None) -> tuple[Tensor, Tensor]:
    """Two halves of a set, no group in both: each goes to the half that has fewer clips so far."""
    members = groups.members() if groups else torch.arange(len(values_ND)).split(1)
    halves: tuple[list[Tensor], list[Tensor]] = ([], [])
    counts = [0, 0]
    for rows in members:
        fewer = int(counts[1] < counts[0])
        halves[fewer].append(rows)
        counts[fewer] += len(rows)
    if not halves[1]:
        return values_ND[::2], values_ND[1::2]
    return values_ND[torch.cat(halves[0])], values_ND[torch.cat(halves[1])]


def nearest(
    real_ND: Tensor,
    real_names: tuple[str, ...],
    fake_ND: Tensor,
    fake_names: tuple[str, ...],
    groups: Groups | None = None,
) -> dict:
    """The nearest real clip of every generated one, in feature space: the nearest pairs and the farthest.

    `closer` is the share of generated clips that lie nearer to a real clip than 99 % of real clips do to one
    of another group: about 1 % by chance, more where scenes are remembered. `same` are those whose features
    are a real one's.
    """
    distance_N, which_N = _nearest_row(fake_ND, real_ND)
    units = groups.units() if groups else torch.arange(len(real_ND))
    among_real, _ = _nearest_row(real_ND, real_ND, units if units.max() else torch.arange(len(real_ND)))
    edge = among_real.quantile(0.01).item()
    pairs = [
        {"fake": fake_names[k], "real": real_names[which_N[k]], "distance": distance_N[k].item()}
        for k in distance_N.argsort().tolist()
    ]
    return {
        "closer": (distance_N < edge).double().mean().item(),
        "same": int((distance_N <= SAME * among_real.median()).sum()),
        "median": distance_N.median().item(),
        "median_among_real": among_real.median().item(),
        "pairs": pairs[:MOST_PAIRS],
        "farthest": pairs[: -MOST_PAIRS - 1 : -1],
    }


def _nearest_row(from_ND: Tensor, to_ND: Tensor, units_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Distance and place of every row's nearest one of the other set, or in its own, of another unit."""
    values, places = [], []
    for first in range(0, len(from_ND), MOST_SAMPLES):
        distance_NM = torch.cdist(from_ND[first : first + MOST_SAMPLES].double(), to_ND.double())
        if units_N is not None:
            own = units_N[first : first + MOST_SAMPLES, None] == units_N
            distance_NM[own] = torch.inf
        nearest_N = distance_NM.min(dim=1)
        values.append(nearest_N.values)
        places.append(nearest_N.indices)
    return torch.cat(values), torch.cat(places)


def classes(
    real_ND: Tensor, real_names: tuple[str, ...], fake_ND: Tensor, fake_names: tuple[str, ...], ddof: int
) -> dict:
    """The distance within each class, where both sides have folders of one name and two clips in them.

    With few clips in a class these are large by chance; they compare with each other at equal numbers only.
    """
    sides = []
    for values, names in ((real_ND, real_names), (fake_ND, fake_names)):
        members: dict[str, list[int]] = {}
        for k, name in enumerate(names):
            if "/" in name:
                members.setdefault(name.split("/")[0], []).append(k)
        sides.append({kind: values[rows] for kind, rows in members.items() if len(rows) > 1})
    return {
        kind: {
            "value": distance_of_features(sides[0][kind], sides[1][kind], ddof),
            "clips": [len(sides[0][kind]), len(sides[1][kind])],
        }
        for kind in sorted(sides[0].keys() & sides[1].keys())
    }
