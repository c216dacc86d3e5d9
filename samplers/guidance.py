"""Classifier-free guidance: how the velocities with and without a prompt become one (Ho & Salimans 2022)."""

import torch
from torch import Tensor


def guide(v_conditional: Tensor, v_unconditional: Tensor, scale: float) -> Tensor:
    """v_unconditional + scale (v_conditional - v_unconditional), which at scale 1 is the first to the bit."""
    return torch.lerp(v_unconditional, v_conditional, scale)
