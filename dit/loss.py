"""From latents to the loss: each sample's noise, time and condition, and the velocity's squared error.

Rectified flow (Liu et al. 2022; Lipman et al. 2022): x_t = (1 - t) x + t noise, and the network learns
v = noise - x. Everything random is a function of (seed, draw), on however many processes.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from configs.train import FlowConfig
from dit.condition import Condition, Given, draw_condition, lay, token_grid
from dit.pack import Layout, make_layout, patchify
from dit.tasks import task_mask
from dit.times import TIMES, WEIGHTINGS, Losses
from samplers.path import point_and_velocity, shift_for
from vae.compression import PATCH
from vae.data.clips import Clip
from vae.training.device import send
from vae.training.seeds import normal

LEAST = 1e-9  # that a token counts: one of 0 is not in the loss
ENOUGH = 1000  # numbers of latents whose variance is near that of all


@dataclass(frozen=True)
class SampleDraw:
    """What is drawn for a sample, on the CPU: noise C T H W, one time, its condition, which may be given some
    of the truth, and what its tokens count in the loss."""

    noise_CTHW: Tensor
    time: Tensor
    condition: Condition
    weight: float = 1.0


def draw_sample(
    shape: tuple[int, ...], clip: Clip, flow: FlowConfig, seed: int, losses: Losses = None
) -> SampleDraw:
    """The draw of a training sample of latents C T H W: noise, condition, and a time shifted by the sample's
    size (Esser et al. 2024, section 3.1 and eq. 23), with what its loss counts.

    `losses` are those of the validation by time bin that times may be drawn by.
    """
    noise = normal(shape, seed, "noise", clip.draw)
    shift = shift_for(noise[0].numel() // math.prod(PATCH), flow)
    time, weight = TIMES[flow.times](normal((1,), seed, "time", clip.draw), flow, shift, losses)
    return SampleDraw(
        noise,
        time,
        draw_condition(clip, shape, flow, seed),
        max(LEAST, weight * WEIGHTINGS[flow.weighting](time.item(), flow)),
    )


def draw_validation(
    shape: tuple[int, ...], clip: Clip, time: float, seed: int, task: str = ""
) -> SampleDraw | None:
    """A held-out sample's draw: fixed noise, at the time of its bin, with its caption and nothing given, or
    what a task gives; None where that is nothing."""
    noise, givens = normal(shape, seed, "validation noise", clip.draw, str(time)), ()
    if task:
        mask_THW = task_mask(task, token_grid(shape), seed, clip.draw)
        if mask_THW is None:
            return None
        givens = (Given(None, mask_THW=mask_THW),)
    return SampleDraw(noise, torch.tensor([time]), Condition(clip.caption, givens))


def padding_sample(channels: int, tokens: int) -> SampleDraw:
    """A sample of so many tokens that fills a pack up: zeros without a prompt, all given, not in the loss."""
    _, height, width = PATCH
    noise = torch.zeros(channels, 1, height, tokens * width)
    return SampleDraw(noise, torch.zeros(1), Condition(givens=(Given(None),)))


@dataclass(frozen=True)
class PackDraw:
    """All of a pack but its latents: noise L x P, every token's time, and what it counts in the loss, 1 or by
    its time, 0 for given ones; distinct times M, layout, conditions, what the network reads of those, and how
    many tokens are in the loss. Of a part of a pack, the tokens are those from the `first` one on.

    It is drawn on the host, ahead of the step that takes it to its device.
    """

    noise_LP: Tensor
    time_L: Tensor
    in_loss_L: Tensor
    times_M: Tensor
    layout: Layout
    conditions: list[Condition]
    text: object
    counted: int
    first: int = 0

    def part(self, first: int, last: int) -> "PackDraw":
        """The tokens [first, last) of a whole pack; times and conditions are still those of all."""
        names = ("noise_LP", "time_L", "in_loss_L")
        cut = {name: getattr(self, name)[first:last] for name in names}
        counted = int(cut["in_loss_L"].count_nonzero())
        return replace(self, **cut, layout=self.layout.part(first, last), counted=counted, first=first)

    def map(self, change: Callable[[Tensor], Tensor]) -> "PackDraw":
        """The same with every tensor changed, moved or pinned."""
        names = ("noise_LP", "time_L", "in_loss_L", "times_M")
        changed = {name: change(getattr(self, name)) for name in names}
        text = self.text if isinstance(self.text, list) else self.text.map(change)
        return replace(self, **changed, layout=self.layout.map(change), text=text)

    def to(self, device: torch.device) -> "PackDraw":
        """The same on a device, from pinned memory: the host does not wait for the copy."""
        return self.map(partial(send, device=device))


def draw_pack(
    samples: Iterable[SampleDraw], head_width: int, read: Callable[[list[Condition]], object] | None = None
) -> PackDraw:
    """The draws of samples as one pack, in which given tokens have a time of their own, 0 where clean.

    `read` makes of the conditions what the network takes in place of them (`Denoiser.read`).
    """
    noises, times, times_L, grids, in_loss, conditions = [], [], [], [], [], []
    for sample in samples:
        noise_LP, grid = patchify(sample.noise_CTHW)
        start_L = lay(sample.condition.givens, tuple(sample.noise_CTHW.shape))[1].flatten()
        given_L = start_L < 1
        time_L = torch.where(given_L, start_L, sample.time)
        noises.append(noise_LP)
        times.append(time_L if sample.condition.givens else sample.time)
        times_L.append(time_L)
        grids.append(grid)
        in_loss.append(sample.weight * ~given_L)
        conditions.append(sample.condition)
    in_loss_L = torch.cat(in_loss).float()
    layout, times_M = make_layout(grids, times, head_width, torch.device("cpu"))
    return PackDraw(
        noise_LP=torch.cat(noises),
        time_L=torch.cat(times_L),
        in_loss_L=in_loss_L,
        times_M=times_M,
        layout=layout,
        conditions=conditions,
        text=read(conditions) if read else conditions,
        counted=int(in_loss_L.count_nonzero()),
    )


@dataclass(frozen=True)
class Batch:
    """A packed batch on the device: noisy tokens L x P, distinct times M, layout, conditions and what the
    network reads of them, target velocity L x P, and what each token counts in the loss, 0 for given ones."""

    tokens: Tensor
    times: Tensor
    layout: Layout
    conditions: list[Condition]
    text: object
    target: Tensor
    in_loss: Tensor


def make_batch(latents: list[Tensor], pack: PackDraw) -> Batch:
    """Packs latents C T H W at their noise and times, on the device where both are; the rest is padding.

    Of a part of a pack the latents are those of the whole.
    """
    data_LP = torch.cat([pack.noise_LP[:0], *(patchify(x)[0] for x in latents)])
    data_LP = data_LP[pack.first : pack.first + len(pack.noise_LP)]
    padding_LP = torch.zeros_like(pack.noise_LP[len(data_LP) :])
    noisy_LP, velocity_LP = point_and_velocity(torch.cat([data_LP, padding_LP]), pack.noise_LP, pack.time_L)
    return Batch(
        tokens=noisy_LP,
        times=pack.times_M,
        layout=pack.layout,
        conditions=pack.conditions,
        text=pack.text,
        target=velocity_LP,
        in_loss=pack.in_loss_L,
    )


def flow_loss(network: nn.Module, batch: Batch, dtype=torch.float32) -> Tensor:
    """The squared error of the velocity, mean over a token's numbers, summed over the tokens in the loss.

    A sum, as the mean is over all processes, or over the batches of a validation: divide by how many tokens
    are in the loss. It is added up in `dtype`.
    """
    prediction_LP = network(batch.tokens, batch.times, batch.layout, batch.text)
    error_LP = (prediction_LP.float() - batch.target).square()
    return (error_LP.mean(-1, dtype=dtype) * batch.in_loss).sum()


def check_first_loss(loss: float, variance: float, numbers: float) -> str:
    """Compares the first loss with 1 + var(latents), the cost of a zero output, and says what is wrong.

    `variance` is the mean square of the step's latents, of so many `numbers` in all: few say nothing.
    """
    expected = 1 + variance
    if numbers < ENOUGH:
        return f"first loss {loss:.3f}, expected about 1 + var(latents) = {expected:.3f}: too few to tell"
    if abs(loss - expected) < 0.15 * expected and abs(variance - 1) < 0.5:
        return f"first loss {loss:.3f}, expected 1 + var(latents) = {expected:.3f}: good"
    wrong = "the latent statistics" if abs(variance - 1) >= 0.5 else "the target or the zero initialisation"
    return f"WARNING: first loss {loss:.3f}, expected 1 + var(latents) = {expected:.3f} near 2: check {wrong}"
