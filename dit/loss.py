"""From clips to the loss: latents, each sample's noise, time and task, and the velocity's squared error.

Rectified flow (Liu et al. 2022; Lipman et al. 2022): x_t = (1 - t) x + t noise, and the network learns
v = noise - x. Everything random is a function of (seed, draw), on however many processes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from configs.train import FlowConfig
from dit.pack import Layout, given_tokens, grid_of, make_layout, patchify
from samplers.path import interpolate, logit_normal_times, shift_for, shift_times, velocity
from vae.data.clips import Clip, same_shapes
from vae.training.seeds import generator, uniform


@torch.no_grad()
def encode(autoencoder: nn.Module, clips: list[Clip], keys: list[tuple]) -> list[Tensor]:
    """Normalised latents C T H W of each clip, on the autoencoder's device; clips of one shape in one call.

    They are the posterior's mean, or where a clip has a key, the key's draw from it. A cached clip brings its
    posterior along. A CPU rounds one image otherwise than several at once: there each passes alone, as it
    does in a cache and when it is given to a sampler.
    """
    device = autoencoder.latent_mean.device
    posteriors = [tuple(part.to(device) for part in clip.posterior) for clip in clips]
    online = [k for k, clip in enumerate(clips) if not clip.posterior]
    alone = device.type == "cpu"
    for group in same_shapes([clips[k].video.shape for k in online], images_alone=alone):
        group = [online[k] for k in group]
        videos_BCTHW = torch.stack([clips[k].video for k in group]).to(device)
        if any(keys[k] for k in group):
            parts = autoencoder.posterior(videos_BCTHW)
        else:
            parts = (autoencoder.encode(videos_BCTHW),)
        for k, *posterior in zip(group, *parts, strict=True):
            posteriors[k] = tuple(posterior)
    latents = []
    for (mean, *log_variance), key in zip(posteriors, keys, strict=True):
        if key:
            noise = torch.randn(mean.shape, generator=generator(*key)).to(device)
            mean = mean + torch.exp(log_variance[0] / 2) * noise
        latents.append(mean)
    return latents


@dataclass(frozen=True)
class Noising:
    """What is drawn for a sample, on the CPU: noise C T H W, a time, and how many latent frames are given."""

    noise_CTHW: Tensor
    time: Tensor
    given_frames: int = 0


def draw_noising(shape: torch.Size, flow: FlowConfig, seed: int, draw: int) -> Noising:
    """A training sample's noise, its time (Esser et al. 2024, section 3.1 and eq. 23) and its task."""
    noise = torch.randn(shape, generator=generator(seed, "noise", draw))
    time = logit_normal_times(1, flow.time_mean, flow.time_std, generator(seed, "time", draw))
    frames, height, width = grid_of(noise)
    time = shift_times(time, shift_for(frames * height * width, flow))
    image_to_video = frames > 1 and uniform(seed, "task", draw) < flow.first_frame
    return Noising(noise, time, given_frames=1 if image_to_video else 0)


def validation_noising(shape: torch.Size, time: float, seed: int, draw: int) -> Noising:
    """A held-out sample's fixed noise, at a time that its bin says."""
    noise = torch.randn(shape, generator=generator(seed, "validation noise", draw, str(time)))
    return Noising(noise, torch.tensor([time]))


@dataclass(frozen=True)
class Batch:
    """A packed batch on the device: noisy tokens L x P, the distinct times M, layout, target velocity L x P,
    and 1 for each token that is in the loss, 0 for given ones."""

    tokens: Tensor
    times: Tensor
    layout: Layout
    target: Tensor
    in_loss: Tensor


def make_batch(latents: list[Tensor], noisings: list[Noising], head_width: int) -> Batch:
    """Packs latents C T H W at their noise and times, on the latents' device; given tokens have t = 0."""
    device = latents[0].device
    tokens, targets, times, in_loss = [], [], [], []
    for x, sample in zip(latents, noisings, strict=True):
        data_LP, noise_LP = patchify(x), patchify(sample.noise_CTHW.to(device))
        given_L = given_tokens(grid_of(x), sample.given_frames)
        time_L = torch.where(given_L, 0.0, sample.time)
        tokens.append(interpolate(data_LP, noise_LP, time_L))
        targets.append(velocity(data_LP, noise_LP))
        times.append(time_L if sample.given_frames else sample.time)
        in_loss.append(~given_L)
    layout, distinct_M = make_layout([grid_of(x) for x in latents], times, head_width, device)
    in_loss_L = torch.cat(in_loss).float().to(device)
    return Batch(torch.cat(tokens), distinct_M, layout, torch.cat(targets), in_loss_L)


def drop_prompts(prompts: list[str], draws: range, flow: FlowConfig, seed: int) -> list[str]:
    """Prompts with some replaced by the null prompt, for classifier-free guidance, anew for every draw."""
    return [
        "" if uniform(seed, "dropout", draw) < flow.prompt_dropout else prompt
        for prompt, draw in zip(prompts, draws, strict=True)
    ]


def flow_loss(network: nn.Module, batch: Batch, prompts: list[str], dtype=torch.float32) -> Tensor:
    """The squared error of the velocity, mean over a token's numbers, summed over the tokens in the loss.

    A sum, as the mean is over all processes, or over the batches of a validation: divide by the sum of
    `in_loss`. It is added up in `dtype`.
    """
    prediction_LP = network(batch.tokens, batch.times, batch.layout, prompts)
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
