"""Proves the path, the solvers and guidance by closed forms, scipy's integrator and diffusers' scheduler."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from configs.train import FlowConfig
from dit.condition import Condition
from samplers.guidance import guide, guided_conditions
from samplers.path import point_and_velocity, shift_for, shift_times, time_grid
from samplers.solvers import SOLVERS, euler, heun, multistep

ORDERS = {"euler": 1, "heun": 2, "multistep": 2}


class Gaussian:
    """Data of independent normal numbers: the velocity and the whole flow from noise to data are known."""

    def __init__(self, mean: Tensor, std: Tensor):
        self.mean, self.std = mean, std

    def velocity(self, x: Tensor, t: float) -> Tensor:
        variance = (1 - t) ** 2 * self.std**2 + t**2
        slope = (t - (1 - t) * self.std**2) / variance
        return -self.mean + slope * (x - (1 - t) * self.mean)

    def data(self, noise: Tensor) -> Tensor:
        return self.mean + self.std * noise


def mixture_velocity(x, t: float):
    """Velocity where the data are a mixture of N(-2, 0.5^2) and N(1, 0.3^2), for numpy arrays."""
    weights, means, stds = np.array([0.3, 0.7]), np.array([-2.0, 1.0]), np.array([0.5, 0.3])
    variance = (1 - t) ** 2 * stds**2 + t**2
    offset = x[:, None] - (1 - t) * means
    log_share = np.log(weights) - 0.5 * np.log(variance) - 0.5 * offset**2 / variance
    share = np.exp(log_share - log_share.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    each = -means + (t - (1 - t) * stds**2) / variance * offset
    return (share * each).sum(axis=1)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("name", SOLVERS)
def test_order_of_convergence_on_gaussian_data(name, shift):
    data = Gaussian(torch.tensor([0.5, -1.0, 2.0]).double(), torch.tensor([0.5, 0.8, 1.5]).double())
    noise = torch.randn(50, 3, dtype=torch.float64)
    errors = [
        (SOLVERS[name](data.velocity, noise, time_grid(steps, shift)) - data.data(noise)).abs().max().item()
        for steps in (40, 80, 160)
    ]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(ORDERS[name], abs=0.2), errors


@pytest.mark.parametrize("name", SOLVERS)
def test_order_of_convergence_on_a_mixture(name):
    from scipy.integrate import solve_ivp

    noise = np.linspace(-2, 2, 9)
    exact = solve_ivp(
        lambda t, x: mixture_velocity(x, t), (1.0, 0.0), noise, "DOP853", rtol=1e-11, atol=1e-12
    )

    def solved(steps: int) -> Tensor:
        def v(x: Tensor, t: float) -> Tensor:
            return torch.from_numpy(mixture_velocity(x.numpy(), t))

        return SOLVERS[name](v, torch.from_numpy(noise), time_grid(steps))

    errors = [(solved(steps) - torch.from_numpy(exact.y[:, -1])).abs().mean().item() for steps in (160, 320)]
    assert errors[1] < 0.05
    assert math.log2(errors[0] / errors[1]) == pytest.approx(ORDERS[name], abs=0.35), errors


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
def test_euler_equals_diffusers(shift):
    from diffusers import FlowMatchEulerDiscreteScheduler

    steps = 12
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
    times = time_grid(steps, shift)
    assert torch.allclose(scheduler.sigmas.double(), torch.tensor(times).double(), atol=1e-6)

    data = Gaussian(torch.tensor([0.5, -1.0]), torch.tensor([0.5, 1.5]))
    noise = torch.randn(20, 2)
    theirs = noise
    for sigma, timestep in zip(scheduler.sigmas[:-1], scheduler.timesteps, strict=True):
        v = data.velocity(theirs, sigma.item())
        theirs = scheduler.step(v, timestep, theirs).prev_sample
    ours = euler(data.velocity, noise, times)
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


UNEVEN = [1.0, 0.9, 0.55, 0.5, 0.2, 0.0]


def test_second_order_rules_are_exact_where_velocity_is_linear_in_time():
    intercept, slope, x = (torch.randn(7, dtype=torch.float64) for _ in range(3))

    def v(x: Tensor, t: float) -> Tensor:
        return intercept + slope * t

    def integral(after: float, before: float) -> Tensor:
        return intercept * (after - before) + slope * (after**2 - before**2) / 2

    first, last = UNEVEN[1], UNEVEN[-2]
    expected = x + (first - 1) * v(x, 1.0) + integral(0.0, first)  # the first step is Euler's
    assert torch.allclose(multistep(v, x, UNEVEN), expected, rtol=0, atol=1e-12)
    expected = x + integral(last, 1.0) - last * v(x, last)  # the last step is Euler's
    assert torch.allclose(heun(v, x, UNEVEN), expected, rtol=0, atol=1e-12)
    assert not torch.allclose(euler(v, x, UNEVEN), x + integral(0.0, 1.0), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", SOLVERS)
def test_one_true_velocity_is_solved_exactly(name):
    data, noise = torch.randn(2, 5, dtype=torch.float64)
    solved = SOLVERS[name](lambda x, t: noise - data, noise, UNEVEN)
    assert torch.allclose(solved, data, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SOLVERS)
def test_nothing_of_the_callers_changes(name, dtype):
    x, v = torch.randn(2, 64).to(dtype)
    v[:32] = 0
    x_before, v_before = x.clone(), v.clone()
    seen, asked = [], []

    def constant(x: Tensor, t: float) -> Tensor:
        assert x.dtype == dtype
        asked.append(t)
        return v  # the same tensor every time

    solved = SOLVERS[name](constant, x, UNEVEN, on_step=lambda done, x: seen.append((done, x.clone())))
    assert torch.equal(x, x_before) and torch.equal(v, v_before)
    assert solved.dtype == dtype and solved.data_ptr() != x.data_ptr()
    assert torch.equal(solved[:32], x[:32]) and not torch.equal(solved[32:], x[32:])
    assert [done for done, _ in seen] == [1, 2, 3, 4, 5] and torch.equal(seen[-1][1], solved)
    assert set(asked) == set(UNEVEN[:-1]) and len(asked) == (9 if name == "heun" else 5)


@pytest.mark.parametrize("name", SOLVERS)
def test_small_steps_are_not_rounded_away(name):
    x = torch.full((3,), 100.0, dtype=torch.bfloat16)
    solved = SOLVERS[name](lambda x, t: torch.ones_like(x), x, time_grid(1000))
    assert torch.equal(solved, torch.full_like(x, 99.0))


def test_time_grid():
    assert time_grid(4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert time_grid(2, 3.0) == pytest.approx([1.0, 0.75, 0.0])  # 3 * 0.5 / (1 + 2 * 0.5)
    for steps, shift in ((0, 1.0), (-1, 1.0), (4, 0.0), (4, -2.0), (4, float("nan"))):
        with pytest.raises(ValueError, match=r"at least one|above 0"):
            time_grid(steps, shift)


def test_shifts_compose_and_move_the_logit():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    both = shift_times(shift_times(t, 3.0), 0.7)
    assert torch.allclose(both, shift_times(t, 2.1), rtol=0, atol=1e-14)
    assert torch.allclose(shift_times(shift_times(t, 3.0), 1 / 3), t, rtol=0, atol=1e-14)
    assert torch.equal(shift_times(t, 1.0), t)
    assert shift_times(0.0, 5.0) == 0 and shift_times(1.0, 5.0) == 1
    inner = t[1:-1]
    assert torch.allclose(shift_times(inner, 3.0).logit(), inner.logit() + math.log(3.0))


def test_shift_keeps_the_certainty_of_the_mean():
    # at time t the mean of n tokens is known to within t / (1 - t) / sqrt(n): equal for both counts of tokens
    for tokens, base in ((4096, 1024), (100, 400)):
        t, shifted = 0.4, shift_times(0.4, shift_for(tokens, FlowConfig(shift=1.0, shift_tokens=base)))
        assert shifted / (1 - shifted) / math.sqrt(tokens) == pytest.approx(t / (1 - t) / math.sqrt(base))
    assert shift_for(100, FlowConfig(shift=3.0, shift_tokens=400)) == 1.5
    assert shift_for(100, FlowConfig(shift=3.0, shift_tokens=0)) == 3.0


@pytest.mark.parametrize("t", [0.3, torch.tensor([0.0, 0.3, 1.0]), torch.rand(3, 4)])
def test_the_path_and_its_direction(t):
    x, noise = torch.randn(2, 3, 4, 5)
    (_, v), step = point_and_velocity(x, noise, t), 1e-2
    (after, _), (before, _) = (point_and_velocity(x, noise, t + side) for side in (step, -step))
    assert torch.allclose((after - before) / (2 * step), v, atol=1e-4)
    for end, what in ((0.0, x), (1.0, noise)):
        assert torch.equal(point_and_velocity(x, noise, end)[0], what)
    # in bf16 only the result is rounded: the sum is taken in fp32
    half_x, half_noise = x.bfloat16(), noise.bfloat16()
    exact, _ = point_and_velocity(half_x.float(), half_noise.float(), t)
    assert torch.equal(point_and_velocity(half_x, half_noise, t)[0], exact.bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_guidance(dtype):
    pack = (torch.randn(2, 1000) * torch.logspace(-6, 6, 1000)).to(dtype)
    pack[1] = pack[1].flip(0)  # large beside small
    assert torch.equal(guide(pack[:1], 1.0), pack[:1]), "there is no null prompt"
    assert torch.equal(guide(pack, 0.0), pack[1:])
    v_prompt, v_null = torch.randn(2, 3, 1000).to(dtype)
    expected = v_null.double() + 4.0 * (v_prompt.double() - v_null.double())
    error = (guide(torch.cat([v_prompt, v_null]), 4.0).double() - expected).abs().max()
    assert error < 4 * torch.finfo(dtype).eps * expected.abs().max()


def test_the_velocities_of_a_pack_meet_their_conditions():
    velocities = {"a": 2.0, "b": 3.0, "": 1.0}
    for scale, guided in ((4.0, [5.0, 9.0]), (1.0, [2.0, 3.0])):
        conditions = guided_conditions([Condition("a"), Condition("b")], scale)
        pack = torch.tensor([[velocities[condition.prompt]] for condition in conditions])
        assert guide(pack, scale).flatten().tolist() == guided
