"""Classifier-free guidance whole: which prompts a pack has, and how their velocities become one.

Source: Ho & Salimans 2022. With guidance a pack holds its samples twice, in order with their prompts, then in
order with the null prompt, so that one call of the model gives both velocities of each.
"""

import torch
from torch import Tensor

NULL_PROMPT = ""  # what training puts in place of a dropped prompt


def guided_prompts(prompts: list[str], scale: float) -> list[str]:
    """The prompts of a pack of samples: theirs, and unless the scale is 1 the null prompt for each."""
    return prompts if scale == 1.0 else prompts + [NULL_PROMPT] * len(prompts)


def guide(v_LP: Tensor, scale: float) -> Tensor:
    """The velocities of a pack as those of its samples: v_null + scale (v_prompt - v_null)."""
    if scale == 1.0:
        return v_LP
    v_prompt, v_null = v_LP.chunk(2)
    return torch.lerp(v_null, v_prompt, scale)
