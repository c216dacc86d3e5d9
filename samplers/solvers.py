"""Solvers of dx/dt = v(x, t) from noise at t = 1 to data at t = 0: plain recurrences with tables of floats.

Each is `solver(velocity_function, x, times, on_step=None) -> x`. `velocity_function(x, t)` returns dx/dt for
the whole of x at time t, a float, and neither keeps nor changes its argument; where it returns zero, x stays
as it is to the bit. `times` falls from the noise's time to the wanted one (`time_grid`). `on_step(done, x)`
is called after each step with the number of steps done and the solution so far, which the next overwrites.

The caller's x is not changed. The sum of the steps is kept in fp32 at least, and x is seen and returned in
its own type.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from samplers.path import shift_times

VelocityFunction = Callable[[Tensor, float], Tensor]
OnStep = Callable[[int, Tensor], object]


def time_grid(steps: int, shift: float = 1.0) -> list[float]:
    """The `steps + 1` times from 1 to 0, even before the shift; raises ValueError where there is none."""
    if steps < 1:
        raise ValueError(f"{steps} solver steps: at least one is needed")
    if not shift > 0:
        raise ValueError(f"time shift {shift}: it must be above 0")
    return [shift_times(1 - step / steps, shift) for step in range(steps)] + [0.0]


def euler(
    velocity_function: VelocityFunction, x: Tensor, times: list[float], on_step: OnStep | None = None
) -> Tensor:
    """First order; one function evaluation a step."""
    dtype, x = x.dtype, working_copy(x)
    for done, (t, length) in enumerate(zip(times[:-1], step_lengths(times), strict=True), start=1):
        x.add_(velocity_function(x.to(dtype), t), alpha=length)
        if on_step:
            on_step(done, x.to(dtype))
    return x.to(dtype)


def heun(
    velocity_function: VelocityFunction, x: Tensor, times: list[float], on_step: OnStep | None = None
) -> Tensor:
    """Second order; two function evaluations a step, one in the last, which is Euler's.

    Source: Karras et al. 2022, algorithm 1.
    """
    dtype, x = x.dtype, working_copy(x)
    guess = torch.empty_like(x)
    lengths = step_lengths(times)
    for done, (t, after, length) in enumerate(zip(times[:-1], times[1:], lengths, strict=True), start=1):
        v = velocity_function(x.to(dtype), t)
        if done == len(lengths):
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
    dtype, x = x.dtype, working_copy(x)
    last_v = torch.zeros_like(x)
    table = zip(times[:-1], *multistep_weights(step_lengths(times)), strict=True)
    for done, (t, weight, last_weight) in enumerate(table, start=1):
        v = velocity_function(x.to(dtype), t)
        x.add_(v, alpha=weight).add_(last_v, alpha=last_weight)
        last_v.copy_(v)
        if on_step:
            on_step(done, x.to(dtype))
    return x.to(dtype)


SOLVERS = {"euler": euler, "heun": heun, "multistep": multistep}


def step_lengths(times: list[float]) -> list[float]:
    """Differences of neighbouring times; negative, as time falls."""
    return [after - before for before, after in pairwise(times)]


def multistep_weights(lengths: list[float]) -> tuple[list[float], list[float]]:
    """Weights of this velocity and of the last one in every step: h (1 + r / 2), -h r / 2; r = h / last h."""
    ratios = [0.0, *(length / last for last, length in pairwise(lengths))]
    this = [length * (1 + ratio / 2) for length, ratio in zip(lengths, ratios, strict=True)]
    return this, [-length * ratio / 2 for length, ratio in zip(lengths, ratios, strict=True)]


def working_copy(x: Tensor) -> Tensor:
    """A copy of x to add steps to, in fp32 or the finer type of x: in bf16 small steps would round away."""
    return x.to(torch.promote_types(x.dtype, torch.float32), copy=True)
