"""What a sample is made from, in one object: its null, its draw in training, and what a record keeps of it.

To add a condition: a field here, with its null in `NULL` and its draw in `draw_condition` (a record keeps
texts and numbers by itself; tensors take a line in dit/record.py); what the network reads of it in
`Denoiser.embed`; and where it comes from: in training a field of `Clip` (vae/data/clips.py), while sampling a
setting of `SampleSettings` that dit/sample.py hands over.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from configs.train import FlowConfig
from dit.tasks import draw_task
from vae.compression import PATCH
from vae.data.clips import Clip
from vae.training.seeds import generator, uniform


@dataclass(frozen=True)
class Given:
    """Latents that a sample is given, at their place, from which its tokens start.

    A token starts at t = 1 - strength: of strength 1 it is clean and stays as it is, of less it is noised to
    that time, and goes on from there while the others go on from t = 1. Without latents, as in training,
    they are the sample's own.
    """

    latents_CTHW: Tensor | None
    frame: int = 0  # of the sample's latent frames, on which the first of these lies; -1 is the last
    mask_THW: Tensor | None = None  # which tokens of these frames are given; none: all
    strength: float = 1.0


@dataclass(frozen=True)
class Condition:
    """A sample's prompt, and what of its latents is given; a negative prompt."""

    NULL: ClassVar[dict] = {"prompt": ""}  # what training learns for guidance: the same but for these

    prompt: str = ""
    givens: tuple[Given, ...] = ()
    negative: str = ""

    def opposite(self) -> "Condition":
        """What guidance leads away from: its null, which a negative prompt, if there is one, speaks for."""
        return replace(self, **self.NULL | {"prompt": self.negative})


def lay(givens: Iterable[Given], shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """What is given in latents of a shape C T H W: these latents, and the time T H W at which every token
    starts; zeros and 1 where nothing is. Where two lie on one token, the later one is there.

    Raises ValueError for latents that do not lie within the shape.
    """
    latents_CTHW, start_THW = torch.zeros(shape), torch.ones(token_grid(shape))
    for given in givens:
        size = shape if given.latents_CTHW is None else tuple(given.latents_CTHW.shape)
        first = given.frame % shape[1] if -shape[1] <= given.frame < shape[1] else shape[1]
        last = first + size[1]
        if last > shape[1] or (size[0], *size[2:]) != (shape[0], *shape[2:]):
            raise ValueError(
                f"given latents {size} at frame {given.frame} do not lie within latents {tuple(shape)}"
            )
        grid = (last - first, *start_THW.shape[1:])
        if given.mask_THW is not None and (
            given.mask_THW.dtype != torch.bool or given.mask_THW.shape != grid
        ):
            raise ValueError(f"a mask of given latents is not bool of the tokens {grid}")
        if given.mask_THW is None:
            mask_THW = torch.ones_like(start_THW[first:last], dtype=torch.bool)
        else:
            mask_THW = given.mask_THW
        start_THW[first:last][mask_THW] = 1 - given.strength
        if given.latents_CTHW is not None:
            of_latents = mask_THW.repeat_interleave(PATCH[1], 1).repeat_interleave(PATCH[2], 2)
            latents_CTHW[:, first:last][:, of_latents] = given.latents_CTHW.float().cpu()[:, of_latents]
    return latents_CTHW, start_THW


def token_grid(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Tokens T H W of latents C T H W."""
    return tuple(size // patch for size, patch in zip(shape[1:], PATCH, strict=True))


def draw_condition(clip: Clip, shape: tuple[int, ...], flow: FlowConfig, seed: int) -> Condition:
    """The condition of a training sample of latents C T H W, by the draw: which of them are given, by one of
    the tasks, at which noise; and its caption, or for guidance its null."""
    of_task, of_null = generator(seed, "condition", clip.draw).random(2)
    condition = Condition(clip.caption, _draw_givens(of_task, clip, shape, flow, seed))
    return replace(condition, **condition.NULL) if of_null < flow.prompt_dropout else condition


def _draw_givens(
    share: float, clip: Clip, shape: tuple[int, ...], flow: FlowConfig, seed: int
) -> tuple[Given, ...]:
    """What a training sample is given, from where it lies in the shares of the tasks."""
    mask_THW = draw_task(share, flow.tasks, token_grid(shape), seed, clip.draw)
    if mask_THW is None:
        return ()
    noise = flow.given_noise * uniform(seed, "given noise", clip.draw) if flow.given_noise else 0.0
    return (Given(None, mask_THW=mask_THW, strength=1 - noise),)
