"""The path between data and noise (rectified flow): `t = 0` is data, `t = 1` is noise, and v = noise - x.

x_t = (1 - t) x + t noise (Liu et al. 2022; Lipman et al. 2022), so that a sampler runs t from 1 down to 0.

A time `t` is a number, or a tensor whose dimensions are the leading ones of x: it broadcasts over the others.
Sums are taken in fp32 at least and come back in the type of x.
"""

import math
from typing import TypeVar

import torch
from torch import Tensor

from configs.train import FlowConfig

Time = TypeVar("Time", Tensor, float)


def point_and_velocity(x: Tensor, noise: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
    """The point x_t = (1 - t) x + t noise, and dx_t/dt = noise - x, which the model learns."""
    t = torch.as_tensor(t, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    assert t.ndim <= x.ndim, f"times {tuple(t.shape)} have more dimensions than the tensor {tuple(x.shape)}"
    t = t[(..., *(None,) * (x.ndim - t.ndim))]
    return ((1 - t) * x + t * noise).type_as(x), noise - x


def shift_times(t: Time, shift: float) -> Time:
    """Times moved towards noise (shift > 1) or data (< 1); 0 and 1 stay (Esser et al. 2024, SD3, eq. 23).

    Shifts compose: by a, then by b, is by a * b.
    """
    return shift * t / (1 + (shift - 1) * t)


def shift_for(tokens: int, flow: FlowConfig) -> float:
    """The shift of a sample of m tokens: the flow's, which suits n tokens, times sqrt(m / n) (same equation).

    The mean of m equal noisy numbers is sqrt(m) times as certain as one of them: more tokens need more noise
    before anything is hidden. With n = 0 all samples have the flow's own.
    """
    return flow.shift * math.sqrt(tokens / flow.shift_tokens) if flow.shift_tokens else flow.shift


def time_grid(steps: int, shift: float = 1.0) -> list[float]:
    """The `steps + 1` times of a sampler from 1 to 0, even before the shift; raises ValueError for none."""
    if steps < 1:
        raise ValueError(f"{steps} solver steps: at least one is needed")
    if not shift > 0:
        raise ValueError(f"time shift {shift}: it must be above 0")
    return [shift_times(1 - step / steps, shift) for step in range(steps)] + [0.0]
