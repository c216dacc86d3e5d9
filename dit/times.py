"""Which time a training sample gets, and what the loss at a time counts: two tables of functions.

Every time is a function of one standard normal number, and so of (seed, draw); then it is shifted by the
sample's size (Esser et al. 2024, SD3, section 3.1).
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from itertools import accumulate, pairwise
from statistics import NormalDist

import torch
from torch import Tensor

from configs.train import FlowConfig
from samplers.path import shift_times

BINS = 4  # of times, equally wide, each validated at its middle
VALIDATION_TIMES = tuple((k + 0.5) / BINS for k in range(BINS))
AHEAD = 3  # steps: of one that is drawn so long before it is computed the newest losses are not known yet
PLAIN = 0.5  # share of times that are drawn as if nothing were measured, so that no weight is above 1 / PLAIN

Losses = tuple[float, ...] | None  # of a validation, by time bin
NORMAL = NormalDist()


def bin_of(time: float) -> str:
    """The time bin of the validation that a time lies in, by its middle."""
    return f"t{VALIDATION_TIMES[min(BINS - 1, int(time * BINS))]}"


def logit_normal(z: Tensor, flow: FlowConfig, shift: float, losses: Losses) -> tuple[Tensor, float]:
    """A time whose logit is normal, and its weight 1."""
    return shift_times(torch.sigmoid(flow.time_mean + flow.time_std * z), shift), 1.0


def uniform(z: Tensor, flow: FlowConfig, shift: float, losses: Losses) -> tuple[Tensor, float]:
    """A time that is even in [0, 1]."""
    return shift_times(torch.special.ndtr(z), shift), 1.0


def mode(z: Tensor, flow: FlowConfig, shift: float, losses: Losses) -> tuple[Tensor, float]:
    """SD3's times with a mode in the middle, or at the ends: 1 - u - s (cos^2(pi u / 2) - 1 + u) (eq. 20)."""
    u = torch.special.ndtr(z)
    return shift_times(1 - u - flow.mode_scale * (torch.cos(math.pi * u / 2) ** 2 - 1 + u), shift), 1.0


def cosmap(z: Tensor, flow: FlowConfig, shift: float, losses: Losses) -> tuple[Tensor, float]:
    """SD3's CosMap (eq. 21): of the density 2 / (pi - 2 pi t + 2 pi t^2)."""
    u = torch.special.ndtr(z)
    return shift_times(1 - 1 / (torch.tan(math.pi * u / 2) + 1), shift), 1.0


def measured(z: Tensor, flow: FlowConfig, shift: float, losses: Losses) -> tuple[Tensor, float]:
    """A logit-normal time, drawn oftener where the last validation's loss was high, and counted the less.

    Of a bin's probability p and loss l the new one is q = p / 2 + p l / (2 sum(p l)), a defensive mixture
    (Hesterberg 1995); the weight p / q leaves the loss what it is in expectation. Within a bin times keep
    their order and their density. Without losses it is `logit_normal`.
    """
    if losses is None:
        return logit_normal(z, flow, shift, losses)
    inner = [shift_times(k / BINS, 1 / shift) for k in range(1, BINS)]  # the edges, before the shift
    edges = [NORMAL.cdf((math.log(t / (1 - t)) - flow.time_mean) / flow.time_std) for t in inner]
    edges = [0.0, *edges, 1.0]
    before = [last - first for first, last in pairwise(edges)]
    mean = sum(p * loss for p, loss in zip(before, losses, strict=True))
    after = [p * (PLAIN + (1 - PLAIN) * loss / mean) for p, loss in zip(before, losses, strict=True)]
    cut = [0.0, *accumulate(after)]
    u = NORMAL.cdf(z.item())
    k = min(BINS - 1, bisect_right(cut, u, 1, BINS) - 1)
    moved = edges[k] + (u - cut[k]) * before[k] / after[k]
    time, _ = logit_normal(
        torch.full_like(z, NORMAL.inv_cdf(min(max(moved, 1e-9), 1 - 1e-9))), flow, shift, None
    )
    return time, before[k] / after[k]


TIMES: dict[str, Callable[[Tensor, FlowConfig, float, Losses], tuple[Tensor, float]]] = {
    "logit_normal": logit_normal,
    "uniform": uniform,
    "mode": mode,
    "cosmap": cosmap,
    "measured": measured,
}


def density_of_cosmap(t: float, flow: FlowConfig) -> float:
    """The density of `cosmap`'s times, whose mean over even times is 1."""
    return 2 / (math.pi * (1 - 2 * t + 2 * t * t))


def limited_ratio(t: float, flow: FlowConfig) -> float:
    """Min-SNR (Hang et al. 2023): the data's error, t times the velocity's, counts min(SNR, limit).

    With x_t = (1 - t) x + t noise the ratio is ((1 - t) / t)^2, and t^2 min(SNR, limit) has no pole.
    """
    return min((1 - t) ** 2, flow.snr_limit * t * t)


WEIGHTINGS: dict[str, Callable[[float, FlowConfig], float]] = {
    "none": lambda t, flow: 1.0,
    "cosmap": density_of_cosmap,
    "min_snr": limited_ratio,
}


class Measured:
    """The newest validations' losses by time bin, as a state that a run saves: rows of step and losses.

    A step knows those that are at least `AHEAD` steps old, as it is drawn ahead in a thread; so it knows the
    same whenever a run was stopped. A row is written over the oldest, which no step asks for any more.
    """

    def __init__(self):
        self.state = {"losses": torch.full((AHEAD + 2, 1 + BINS), -1.0, dtype=torch.float64)}

    def learn(self, step: int, row: Mapping[str, float]) -> None:
        """Takes the losses of a step's validation."""
        rows = self.state["losses"]
        place = rows[:, 0].argmin().item()
        if step not in rows[:, 0].tolist():
            rows[place] = torch.tensor([step, *(row[f"validation_t{t}"] for t in VALIDATION_TIMES)])

    def before(self, step: int) -> Losses:
        """The losses by which a step's times are drawn; None where it knows none."""
        known = [row for row in self.state["losses"].tolist() if 0 <= row[0] <= step - AHEAD]
        return tuple(max(known)[1:]) if known else None
