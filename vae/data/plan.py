"""What a step trains on, from sizes alone: its draws, dealt to processes and cut into packs."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy

from vae.data.sizes import Sizes

CLOSE = 1e-3  # of the mean cost: processes nearer than this to each other are left as they are
ROUNDS = 8  # exchanges a process, at most
FINE = 2**40  # costs are compared as whole numbers, the largest this: alike on every machine


@dataclass(frozen=True)
class Cost:
    """What a sample of n tokens costs, `pairs` n^2 + `tokens` n, in any unit: attention, and all else."""

    pairs: float
    tokens: float

    def of(self, tokens_N: numpy.ndarray) -> numpy.ndarray:
        """The cost of samples of so many tokens each."""
        tokens_N = numpy.asarray(tokens_N, float)
        return (self.pairs * tokens_N + self.tokens) * tokens_N


@dataclass(frozen=True, eq=False)
class Plan:
    """Which draws a step has and which process computes which: a function of the step and of sizes alone.

    With `batch` a step has so many draws. With `tokens`, samples are laid end to end in the order of their
    draws and cut every so many tokens: a sample belongs to the step in which its last token falls, so that a
    step has the budget on the average and is less than one sample off. Sizes are those that are planned: a
    file that cannot be read is replaced by another.
    """

    sizes: Sizes
    batch: int
    tokens: int = 0
    pack_tokens: int = 0
    cost: Cost = Cost(0.0, 1.0)

    def __post_init__(self):
        """Raises ValueError where a step or a pack could not hold the largest clip."""
        for name in ("tokens", "pack_tokens"):
            if 0 < getattr(self, name) < self.sizes.largest:
                raise ValueError(
                    f"train.{name.replace('_', '-')} = {getattr(self, name)}, but a clip of the data has "
                    f"{self.sizes.largest} tokens: give at least that, or smaller clips"
                )

    def draws(self, step: int) -> range:
        """The draws of a step; steps count from 1, and each draw is in one step."""
        if not self.tokens:
            return range((step - 1) * self.batch, step * self.batch)
        first, last = (self.sizes.draws_within(s * self.tokens) for s in (step - 1, step))
        return range(first, last)

    def packs(self, step: int, ranks: int) -> list[list[list[int]]]:
        """The draws of a step by process and pack; every process has as many packs, some may be empty."""
        draws = self.draws(step)
        dealt = deal(self.sizes.tokens(draws), ranks, self.pack_tokens, self.cost)
        return [[[draws[k] for k in pack] for pack in packs] for packs in dealt]

    def shares(self, steps: range, rank: int, ranks: int) -> Iterator[list[list[int]]]:
        """One process's packs of draws of each of these steps."""
        return (self.packs(step, ranks)[rank] for step in steps)


def deal(tokens_N: numpy.ndarray, ranks: int, pack_tokens: int, cost: Cost) -> list[list[list[int]]]:
    """The places of samples by process and pack: processes cost alike, and so do the packs of each.

    The costliest sample goes to the process that has the least so far (Graham 1969), then samples are
    exchanged. A process' share is cut in the same way, into as few packs under the cap as do for all: equally
    many on every process, the costliest first, some of them empty where samples are few. Without a cap it is
    one pack.
    """
    tokens_N = numpy.asarray(tokens_N)
    costs_N = cost.of(tokens_N)
    costs_N = numpy.rint(costs_N * (FINE / (costs_N.max(initial=0) or 1))).astype(numpy.int64)
    no_cap = int(tokens_N.sum()) + 1
    shares = _spread(costs_N, tokens_N, numpy.arange(len(tokens_N)), ranks, no_cap)
    if not pack_tokens:
        return [[sorted(share)] for share in shares]
    assert tokens_N.max(initial=0) <= pack_tokens, "a sample larger than a pack was not refused"
    count = max(1, *(-(-int(tokens_N[share].sum()) // pack_tokens) for share in shares))
    while True:
        packs = [_spread(costs_N, tokens_N, share, count, pack_tokens) for share in shares]
        if all(packs):
            break
        count += 1
    for share in packs:
        share.sort(key=lambda pack: -int(costs_N[pack].sum()))
    return [[sorted(pack) for pack in share] for share in packs]


def _spread(
    costs_N: numpy.ndarray, tokens_N: numpy.ndarray, places: list[int] | numpy.ndarray, bins: int, cap: int
) -> list[list[int]]:
    """The given places in bins of about equal cost, with at most `cap` tokens each; [] where that fails."""
    places = numpy.asarray(places, int)
    result: list[list[int]] = [[] for _ in range(bins)]
    filled, heap = [0] * bins, [(0, k) for k in range(bins)]  # a heap already
    order = places[numpy.lexsort((places, -costs_N[places]))]
    rows = (order.tolist(), costs_N[order].tolist(), tokens_N[order].tolist())
    for place, cost, tokens in zip(*rows, strict=True):
        full = []
        while heap and filled[heap[0][1]] + tokens > cap:
            full.append(heapq.heappop(heap))
        if not heap:
            return []
        load, k = heap[0]
        result[k].append(place)
        filled[k] += tokens
        heapq.heapreplace(heap, (load + cost, k))
        for bin_ in full:
            heapq.heappush(heap, bin_)
    _exchange(result, costs_N, tokens_N, cap)
    return result


def _exchange(bins: list[list[int]], costs_N: numpy.ndarray, tokens_N: numpy.ndarray, cap: int) -> None:
    """Brings the costs of bins nearer to each other: the costliest gives a sample for a cheaper one, or none.

    Each exchange makes the costlier of two bins cheaper, so that it comes to an end.
    """
    loads = [int(costs_N[places].sum()) for places in bins]
    filled = [int(tokens_N[places].sum()) for places in bins]
    close = CLOSE * sum(loads) / len(bins)
    for _ in range(ROUNDS * len(bins)):
        by_load = sorted(range(len(bins)), key=lambda k: (loads[k], k))
        high = by_load.pop()
        for low in by_load:
            gap = loads[high] - loads[low]
            if gap <= close:
                return
            found = _best_exchange(bins[high], bins[low], gap, cap - filled[low], costs_N, tokens_N)
            if found:
                break
        else:
            return
        given, taken = found
        bins[high].remove(given)
        bins[low].append(given)
        if taken is not None:
            bins[low].remove(taken)
            bins[high].append(taken)
        for sums, sizes in ((loads, costs_N), (filled, tokens_N)):
            moved = int(sizes[given]) - (0 if taken is None else int(sizes[taken]))
            sums[high] -= moved
            sums[low] += moved


def _best_exchange(
    high: list[int], low: list[int], gap: int, room: int, costs_N: numpy.ndarray, tokens_N: numpy.ndarray
) -> tuple[int, int | None] | None:
    """Which sample of `high` for which of `low`, or for none, comes nearest to halving their gap, if any."""
    low_places = numpy.array([-1, *low])
    low_costs = numpy.append(costs_N, 0)[low_places]  # a sample that is none, at the end, costs nothing
    order = numpy.lexsort((low_places, low_costs))
    low_places, low_costs = low_places[order], low_costs[order]
    high_places = numpy.array(high)
    wanted = costs_N[high_places] - gap // 2
    above = numpy.searchsorted(low_costs, wanted)
    best = None
    for nearest in (above - 1, above):
        nearest = nearest.clip(0, len(low_costs) - 1)
        taken = low_places[nearest]
        moved = costs_N[high_places] - low_costs[nearest]
        grown = tokens_N[high_places] - numpy.append(tokens_N, 0)[taken]
        miss = numpy.where((moved > 0) & (moved < gap) & (grown <= room), abs(2 * moved - gap), gap)
        k = int(miss.argmin())
        if miss[k] < gap and (best is None or miss[k] < best[0]):
            best = miss[k], int(high_places[k]), None if taken[k] < 0 else int(taken[k])
    return best and best[1:]


def padding(tokens: int, multiple: int) -> int:
    """The tokens that a pack lacks to a multiple of so many, or with 0 to a single one: none is empty."""
    multiple = max(1, multiple)
    return multiple * max(1, -(-tokens // multiple)) - tokens
