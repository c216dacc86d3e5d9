"""From latents to the loss: each sample's noise, time and condition, and the velocity's squared error.

Rectified flow (Liu et al. 2022; Lipman et al. 2022): x_t = (1 - t) x + t noise, and the network learns
v = noise - x. Everything random is a function of (seed, draw), on however many processes.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from configs.train import FlowConfig
from dit.condition import Condition, draw_condition
from dit.pack import Layout, make_layout, patchify
from samplers.path import point_and_velocity, shift_for, shift_times
from vae.compression import PATCH
from vae.data.clips import Clip
from vae.training.seeds import normal


@dataclass(frozen=True)
class SampleDraw:
    """What is drawn for a sample, noise C T H W and one time, on the CPU; and its condition."""

    noise_CTHW: Tensor
    time: Tensor
    condition: Condition


def draw_sample(latents_CTHW: Tensor, clip: Clip, flow: FlowConfig, seed: int) -> SampleDraw:
    """A training sample's draw: noise, condition, and a time whose logit is normal, shifted by the sample's
    size (Esser et al. 2024, section 3.1 and eq. 23)."""
    condition = draw_condition(clip, latents_CTHW, flow, seed)
    noise = normal(latents_CTHW.shape, seed, "noise", clip.draw)
    time = torch.sigmoid(flow.time_mean + flow.time_std * normal((1,), seed, "time", clip.draw))
    tokens = noise[0].numel() // math.prod(PATCH)
    return SampleDraw(noise, shift_times(time, shift_for(tokens, flow)), condition)


def draw_validation(latents_CTHW: Tensor, clip: Clip, time: float, seed: int) -> SampleDraw:
    """A held-out sample's draw: fixed noise, at the time of its bin, with its caption and nothing given."""
    noise = normal(latents_CTHW.shape, seed, "validation noise", clip.draw, str(time))
    return SampleDraw(noise, torch.tensor([time]), Condition(clip.caption))


@dataclass(frozen=True)
class Batch:
    """A packed batch on the device: noisy tokens L x P, distinct times M, layout, conditions, target velocity
    L x P, and 1 for each token that is in the loss, 0 for given ones."""

    tokens: Tensor
    times: Tensor
    layout: Layout
    conditions: list[Condition]
    target: Tensor
    in_loss: Tensor


def make_batch(latents: list[Tensor], samples: Iterable[SampleDraw], head_width: int) -> Batch:
    """Packs latents C T H W at their noise and times, on the latents' device; given tokens have t = 0."""
    device = latents[0].device
    tokens, targets, times, grids, in_loss, conditions = [], [], [], [], [], []
    for x, sample in zip(latents, samples, strict=True):
        (data_LP, grid), (noise_LP, _) = patchify(x), patchify(sample.noise_CTHW.to(device))
        given = sample.condition.given_CTHW
        given_L = torch.arange(len(data_LP)) < (0 if given is None else given.shape[1]) * grid[1] * grid[2]
        time_L = torch.where(given_L, 0.0, sample.time)
        noisy_LP, velocity_LP = point_and_velocity(data_LP, noise_LP, time_L)
        tokens.append(noisy_LP)
        targets.append(velocity_LP)
        times.append(time_L if given_L.any() else sample.time)
        grids.append(grid)
        in_loss.append(~given_L)
        conditions.append(sample.condition)
    layout, distinct_M = make_layout(grids, times, head_width, device)
    in_loss_L = torch.cat(in_loss).float().to(device)
    return Batch(torch.cat(tokens), distinct_M, layout, conditions, torch.cat(targets), in_loss_L)


def flow_loss(network: nn.Module, batch: Batch, dtype=torch.float32) -> Tensor:
    """The squared error of the velocity, mean over a token's numbers, summed over the tokens in the loss.

    A sum, as the mean is over all processes, or over the batches of a validation: divide by the sum of
    `in_loss`. It is added up in `dtype`.
    """
    prediction_LP = network(batch.tokens, batch.times, batch.layout, batch.conditions)
    error_LP = (prediction_LP.float() - batch.target).square()
    return (error_LP.mean(-1, dtype=dtype) * batch.in_loss).sum()


def check_first_loss(loss: float, latents: list[Tensor]) -> str:
    """Compares the first loss with 1 + var(latents), the cost of a zero output, and says what is wrong."""
    variance = torch.cat([x.flatten() for x in latents]).square().mean().item()
    expected = 1 + variance
    if abs(loss - expected) < 0.15 * expected and abs(variance - 1) < 0.5:
        return f"first loss {loss:.3f}, expected 1 + var(latents) = {expected:.3f}: good"
    wrong = "the latent statistics" if abs(variance - 1) >= 0.5 else "the target or the zero initialisation"
    return f"WARNING: first loss {loss:.3f}, expected 1 + var(latents) = {expected:.3f} near 2: check {wrong}"
