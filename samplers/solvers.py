"""Solvers of dx/dt = v(x, t) from noise at t = 1 to data at t = 0: plain recurrences with tables of floats.

Each is `solver(velocity_function, x, times, on_step=None) -> x`. `velocity_function(x, t)` returns dx/dt for
the whole of x at time t, a float, and neither keeps nor changes its argument; where it returns zero, x stays
as it is to the bit. `times` falls from the noise's time to the last one (`time_grid`). `on_step(done, x)`
is called after each step with the number of steps done and the solution so far, which the next overwrites.

The caller's x is not changed. The sum of the steps is kept in fp32 at least, as in bf16 small steps would
round away; x is seen and returned in its own type.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

VelocityFunction = Callable[[Tensor, float], Tensor]
OnStep = Callable[[int, Tensor], object]


def euler(
    velocity_function: VelocityFunction, x: Tensor, times: list[float], on_step: OnStep | None = None
) -> Tensor:
    """First order; one function evaluation a step."""
    dtype, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32), copy=True)
    for done, (t, after) in enumerate(pairwise(times), start=1):
        x.add_(velocity_function(x.to(dtype), t), alpha=after - t)
        if on_step:
            on_step(done, x.to(dtype))
    return x.to(dtype)


def heun(
    velocity_function: VelocityFunction, x: Tensor, times: list[float], on_step: OnStep | None = None
) -> Tensor:
    """Second order; two function evaluations a step, one in the last, which is Euler's.

    Source: Karras et al. 2022, algorithm 1.
    """
    dtype, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32), copy=True)
    guess = torch.empty_like(x)
    for done, (t, after) in enumerate(pairwise(times), start=1):
        length = after - t
        v = velocity_function(x.to(dtype), t)
        if done == len(times) - 1:
            x.add_(v, alpha=length)
        else:
            guess.copy_(x).add_(v, alpha=length)
            x.add_(v, alpha=length / 2)
            x.add_(velocity_function(guess.to(dtype), after), alpha=length / 2)
        if on_step:
            on_step(done, x.to(dtype))
    return x.to(dtype)


def multistep(
    velocity_function: VelocityFunction, x: Tensor, times: list[float], on_step: OnStep | None = None
) -> Tensor:
    """Second order; one function evaluation a step: Adams and Bashforth's rule for steps of unequal lengths.

    It follows the line through this velocity and the last one; the first step is Euler's. On closed-form
    velocities (Gaussians and mixtures of them, shifts 1 to 6) its error falls with the square of the step;
    that of DPM-Solver++(2M), whose steps in log SNR are infinite at both ends of the path, falls unevenly and
    is mostly larger.
    """
    dtype, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32), copy=True)
    last_v, last_length = torch.zeros_like(x), 0.0
    for done, (t, after) in enumerate(pairwise(times), start=1):
        length = after - t
        ratio = length / last_length if last_length else 0.0
        v = velocity_function(x.to(dtype), t)
        x.add_(v, alpha=length * (1 + ratio / 2)).add_(last_v, alpha=-length * ratio / 2)
        last_v.copy_(v)
        last_length = length
        if on_step:
            on_step(done, x.to(dtype))
    return x.to(dtype)


SOLVERS = {"euler": euler, "heun": heun, "multistep": multistep}
