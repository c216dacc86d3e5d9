"""The path between data and noise (rectified flow): `t = 0` is data, `t = 1` is noise, and v = noise - x.

x_t = (1 - t) x + t noise (Liu et al. 2022; Lipman et al. 2022), so that a sampler runs t from 1 down to 0.

A time `t` is a number, or a tensor whose dimensions are the leading ones of x: it broadcasts over the others.
Sums are taken in fp32 at least and come back in the type of x.
"""

import math
from typing import TypeVar

import torch
from torch import Tensor

Time = TypeVar("Time", Tensor, float)


def interpolate(x: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
    """The point x_t = (1 - t) x + t noise of the path."""
    t = broadcast_time(t, x)
    return ((1 - t) * x + t * noise).type_as(x)


def velocity(x: Tensor, noise: Tensor) -> Tensor:
    """The path's direction dx_t/dt = noise - x, which the model learns; the same at all times."""
    return noise - x


def shift_times(t: Time, shift: float) -> Time:
    """Times moved towards noise (shift > 1) or data (< 1); 0 and 1 stay (Esser et al. 2024, SD3, eq. 23).

    Shifts compose: by a, then by b, is by a * b.
    """
    return shift * t / (1 + (shift - 1) * t)


def size_shift(tokens: int, base_tokens: int) -> float:
    """The shift sqrt(m / n) that makes time t as uncertain for m tokens as it was for n (the same equation).

    The mean of m equal noisy numbers is sqrt(m) times as certain as one of them; more tokens therefore need
    more noise before anything is hidden. It multiplies the shift that suits `base_tokens` tokens.
    """
    return math.sqrt(tokens / base_tokens)


def logit_normal_times(count: int, mean: float, std: float, generator: torch.Generator) -> Tensor:
    """Times whose logit is normal (the same paper, section 3.1), fp32 on the generator's device."""
    normal = torch.randn(count, generator=generator, device=generator.device)
    return torch.sigmoid(mean + std * normal)


def broadcast_time(t: Tensor | float, x: Tensor) -> Tensor:
    """`t` with ones for the trailing dimensions of x, in fp32 or the finer type of x."""
    t = torch.as_tensor(t, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    assert t.ndim <= x.ndim, f"times {tuple(t.shape)} have more dimensions than the tensor {tuple(x.shape)}"
    return t[(..., *(None,) * (x.ndim - t.ndim))]
