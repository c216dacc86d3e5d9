"""From requests to latents to frames: one packed call of the transformer a solver step, then the decoder."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from configs.sampling import SamplerConfig
from configs.train import FlowConfig
from dit.condition import Condition, lay
from dit.load import Denoiser, Model
from dit.pack import make_layout, patchify, unpatchify
from samplers.guidance import guide, guided_conditions
from samplers.path import point_and_velocity, shift_for, time_grid
from samplers.solvers import SOLVERS
from vae import tiles
from vae.model import Autoencoder
from vae.training.processes import helpful_threads
from vae.training.seeds import normal


@dataclass(frozen=True)
class Request:
    """One video to make: its condition, latent size C T H W and seed."""

    condition: Condition
    shape: tuple[int, int, int, int]
    seed: int


@torch.no_grad()
def generate(
    denoiser: Denoiser,
    requests: list[Request],
    flow: FlowConfig,
    sampler: SamplerConfig,
    on_step: Callable | None = None,
) -> list[Tensor]:
    """Latents C T H W (normalised, fp32) of each request; all of one token count: one shift serves them.

    With guidance every solver step evaluates each condition and its opposite in one packed call. A token's
    time is the solver's times the time it starts at (`dit.condition.lay`), and so is its velocity: what is
    given whole stays to the bit at t = 0, and what is a starting point moves with the rest.
    """
    weight, config = denoiser.transformer.proj_out.weight, denoiser.transformer.config
    device, dtype = weight.device, weight.dtype

    # Every sample is in the pack with its condition, and with guidance once more with that one's opposite.
    conditions = guided_conditions([request.condition for request in requests], sampler.guidance)
    copies = len(conditions) // len(requests)

    # Each sample's tokens when all starts: noise, or what is given, noised to the time it starts at.
    starts, times, grids = [], [], []
    for request in requests:
        given_CTHW, start_THW = lay(request.condition.givens, request.shape)
        (given_LP, grid), time_L = patchify(given_CTHW), start_THW.flatten()
        noise_LP, _ = patchify(normal(request.shape, request.seed, "sample noise"))
        starts.append(point_and_velocity(given_LP, noise_LP, time_L)[0])
        times.append(time_L)
        grids.append(grid)
    x_LP, start_L1 = torch.cat(starts).to(device), torch.cat(times)[:, None].to(device)
    latest = max(time_L.max().item() for time_L in times)
    layout, times_M = make_layout(grids * copies, times * copies, config.width // config.heads, device)
    texts = {denoiser: denoiser.remember(conditions)}

    def velocity(x_LP: Tensor, t: float) -> Tensor:
        network = denoiser.at(t * latest)
        if network not in texts:
            texts[network] = network.remember(conditions)
        v = network(x_LP.to(dtype).repeat(copies, 1), times_M * t, layout, texts[network])
        return guide(v.float(), sampler.guidance) * start_L1

    tokens = layout.tokens.each[: len(requests)]
    times_of_steps = time_grid(sampler.steps, shift_for(tokens[0], flow))
    with helpful_threads(copies * x_LP.shape[0] * config.width):
        x_LP = SOLVERS[sampler.solver](velocity, x_LP, times_of_steps, on_step)
    return [unpatchify(x, grid) for x, grid in zip(x_LP.split(tokens), grids, strict=True)]


@torch.no_grad()
def decode(autoencoder: Autoencoder, latents_CTHW: Tensor, tile: int = 0) -> Iterator[Tensor]:
    """A video in [-1, 1], fp32 on the CPU, in parts C T H W that are decoded when they are taken.

    A part is of one latent frame, so that memory is constant; in tiles of `tile` latents a side it is all.
    """
    z = latents_CTHW[None]
    for part in [tiles.decode(autoencoder, z, tile)] if tile else autoencoder.decode_stream([z]):
        yield part[0].cpu()


def generate_videos(
    model: Model, requests: list[Request], sampler: SamplerConfig, on_step: Callable | None = None
) -> list[Tensor]:
    """Videos C T H W in [-1, 1], fp32 on the CPU, of each request, by one call of `generate`."""
    latents = generate(model.denoiser, requests, model.flow, sampler, on_step)
    return [torch.cat(list(decode(model.autoencoder, z)), dim=1) for z in latents]
