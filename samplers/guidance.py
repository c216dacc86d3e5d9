"""Classifier-free guidance: how the velocities with and without a prompt become one (Ho & Salimans 2022)."""

import torch
from torch import Tensor


def guide(v_conditional: Tensor, v_unconditional: Tensor, scale: float) -> Tensor:
    """v_unconditional + scale (v_conditional - v_unconditional), which at scale 1 is the first to the bit."""
    return torch.lerp(v_unconditional, v_conditional, scale)


def guidance_scale_at(t: float, scale: float, interval: tuple[float, float] = (0.0, 1.0)) -> float:
    """The scale at time t: `scale` within the interval (low, high], and 1, which is none, outside.

    Guidance helps at middle times; leaving it out elsewhere halves the work there (Kynkäänniemi et al. 2024).
    Raises ValueError where the interval does not lie in [0, 1] in order.
    """
    low, high = interval
    if not 0 <= low <= high <= 1:
        raise ValueError(f"guidance interval {low} to {high} does not lie within 0 to 1")
    return scale if low < t <= high else 1.0
