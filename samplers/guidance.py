"""Classifier-free guidance whole: which conditions a pack has, and how their velocities become one.

Source: Ho & Salimans 2022. With guidance a pack holds its samples twice, in order with their conditions, then
in order with the nulls of these, so that one call of the model gives both velocities of each.
"""

from dataclasses import replace

import torch
from torch import Tensor


def guided_conditions(conditions: list, scale: float) -> list:
    """The conditions of a pack of samples: theirs, and unless the scale is 1 the null of each."""
    return conditions if scale == 1.0 else conditions + [replace(c, **c.NULL) for c in conditions]


def guide(v_LP: Tensor, scale: float) -> Tensor:
    """The velocities of a pack as those of its samples: v_null + scale (v_prompt - v_null)."""
    if scale == 1.0:
        return v_LP
    v_prompt, v_null = v_LP.chunk(2)
    return torch.lerp(v_null, v_prompt, scale)
