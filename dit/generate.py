"""From prompts and given frames to latents: one packed call of the transformer per solver step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from configs.sampling import SamplerConfig
from configs.train import FlowConfig
from dit.load import Denoiser, Model
from dit.pack import grid_of, make_layout, patchify, unpatchify
from samplers.guidance import guide
from samplers.path import size_shift
from samplers.solvers import SOLVERS, time_grid
from vae import tiles
from vae.compression import round_to
from vae.model import Autoencoder
from vae.training.seeds import generator


@dataclass(frozen=True)
class Request:
    """One video to make: prompt, latent size C T H W, seed, and latents whose first frames are given."""

    prompt: str
    shape: tuple[int, int, int, int]
    seed: int
    given: Tensor | None = None
    given_frames: int = 0


def shift_for(tokens: int, flow: FlowConfig) -> float:
    """The shift of the times for a sample of this many tokens."""
    return flow.shift * size_shift(tokens, flow.shift_tokens) if flow.shift_tokens else flow.shift


def latent_shape(autoencoder: Autoencoder, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
    """C T H W of the latents of a video; raises ValueError naming the nearest sides where they do not fit."""
    side = autoencoder.compression.token_side
    for name, value in {"height": height, "width": width}.items():
        if value < side or value % side:
            nearest = round_to(value, side)
            raise ValueError(f"{name} {value} is no positive multiple of {side}: use {nearest}")
    return autoencoder.channels, *autoencoder.compression.latent_size(frames, height, width)


def given_tokens(grid: tuple[int, int, int], frames: int) -> Tensor:
    """Which tokens of a sample belong to its first `frames` latent frames, bool L."""
    t, h, w = grid
    return torch.arange(t * h * w) < frames * h * w


@torch.no_grad()
def generate(
    denoiser: Denoiser,
    requests: list[Request],
    flow: FlowConfig,
    sampler: SamplerConfig,
    on_step: Callable | None = None,
) -> list[Tensor]:
    """Latents C T H W (normalised, fp32) of each request; all must have one token count's shift.

    With guidance every solver step evaluates prompt and null prompt in one packed call. What a request gives
    stays as it is: its tokens have t = 0 and velocity 0.
    """
    transformer = denoiser.transformer
    device = next(transformer.parameters()).device
    dtype = transformer.proj_out.weight.dtype
    noises = [torch.randn(r.shape, generator=generator(r.seed, "sample noise")) for r in requests]
    grids = [grid_of(noise) for noise in noises]
    fixed = [given_tokens(grid, r.given_frames) for grid, r in zip(grids, requests, strict=True)]
    starts = []
    for noise, request, mask in zip(noises, requests, fixed, strict=True):
        tokens = patchify(noise)
        if request.given is not None:
            clean = patchify(request.given.float().cpu())
            tokens[: mask.sum()] = clean[: mask.sum()]
        starts.append(tokens)
    x = torch.cat(starts).to(device)
    moving = (~torch.cat(fixed)).to(device)[:, None]

    guided = sampler.guidance != 1.0
    prompts = [r.prompt for r in requests]
    copies = 2 if guided else 1
    times = [torch.where(mask, 0.0, 1.0) if mask.any() else torch.ones(1) for mask in fixed]
    layout, unit_times = make_layout(grids * copies, times * copies, transformer.head_width, device)
    embeddings, lengths = denoiser.text(prompts + [""] * len(prompts) if guided else prompts)
    text = transformer.embed_text(embeddings.to(dtype), lengths)

    def velocity(x_LP: Tensor, t: float) -> Tensor:
        tokens = x_LP.to(dtype).repeat(copies, 1)
        v = transformer(tokens, unit_times * t, text, layout).float() * moving.repeat(copies, 1)
        return guide(*v.chunk(2), sampler.guidance) if guided else v

    shift = shift_for(layout.tokens.each[0], flow)
    x = SOLVERS[sampler.solver](velocity, x, time_grid(sampler.steps, shift), on_step)
    return [
        unpatchify(tokens, grid)
        for tokens, grid in zip(x.split(layout.tokens.each[: len(grids)]), grids, strict=True)
    ]


def generate_videos(
    model: Model,
    requests: list[Request],
    sampler: SamplerConfig,
    on_step: Callable | None = None,
    decode_memory: float | None = None,
) -> list[Tensor]:
    """Videos C T H W in [-1, 1], fp32 on the CPU, of each request; see `generate_parts`."""
    made = generate_parts(model, requests, sampler, on_step, decode_memory)
    return [torch.cat(list(parts), dim=1) for parts in made]


def generate_parts(
    model: Model,
    requests: list[Request],
    sampler: SamplerConfig,
    on_step: Callable | None = None,
    decode_memory: float | None = None,
) -> list[Iterator[Tensor]]:
    """As `generate_videos`, each video as parts that are decoded when they are taken, in constant memory.

    `decode_memory` (GiB, None is no limit) has large frames decoded in tiles: such a video is one part.
    Raises ValueError, before anything is sampled, where it holds no tile.
    """
    budget = int((decode_memory or 0) * 2**30)
    cuts = [tiles.tile_for(model.autoencoder, *r.shape[2:], budget) if budget else 0 for r in requests]
    latents = generate(model.denoiser, requests, model.flow, sampler, on_step)
    return [decode_parts(model.autoencoder, z, tile) for z, tile in zip(latents, cuts, strict=True)]


@torch.no_grad()
def decode_parts(autoencoder: Autoencoder, latents_CTHW: Tensor, tile: int) -> Iterator[Tensor]:
    """A video's parts C T H W on the CPU, one latent frame at a time, or with a tile the whole of it."""
    z = latents_CTHW[None]
    for part in [tiles.decode(autoencoder, z, tile)] if tile else autoencoder.decode_stream([z]):
        yield part[0].cpu()
