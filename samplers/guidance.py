"""Classifier-free guidance whole: which conditions a pack has, and how their velocities become one.

Source: Ho & Salimans 2022. With guidance a pack holds its samples twice, in order with their conditions, then
in order with what these are guided from, so that one call of the model gives both velocities of each.
"""

import torch
from torch import Tensor


def guided_conditions(conditions: list, scale: float) -> list:
    """The conditions of a pack of samples: theirs, and unless the scale is 1 each one's opposite."""
    return conditions if scale == 1.0 else conditions + [c.opposite() for c in conditions]


def guide(v_LP: Tensor, scale: float) -> Tensor:
    """The velocities of a pack as those of its samples: v_opposite + scale (v_prompt - v_opposite)."""
    if scale == 1.0:
        return v_LP
    v_prompt, v_opposite = v_LP.chunk(2)
    return torch.lerp(v_opposite, v_prompt, scale)
