"""What an autoencoder is trained on: error or likelihood, perceptual distance, KL, and the discriminator."""

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from configs.train import AutoencoderRun
from vae.convolution import State
from vae.discriminator import Discriminator, hinge
from vae.model import Autoencoder

ERRORS = {
    "l1": lambda difference: difference.abs().mean(),
    "l2": lambda difference: difference.square().mean(),
}


class Likelihood(nn.Module):
    """The reconstruction error, or with a learned variance the negative log-likelihood, per number.

    L1 is Laplace's distribution and L2 Gauss's, constants left out; the logarithm of the scale (of L2, of the
    variance) is one number that is trained with the rest, best where it is the error's logarithm (Rybkin et
    al. 2021, section 3.1).
    """

    def __init__(self, error: str, learned: bool):
        super().__init__()
        self.error, self.learned = error, learned
        self.log_scale = nn.Parameter(torch.zeros(()), requires_grad=learned)

    def forward(self, error: Tensor) -> Tensor:
        """The loss of a mean error."""
        if not self.learned:
            return error
        loss = error * torch.exp(-self.log_scale) + self.log_scale
        return loss if self.error == "l1" else 0.5 * loss


def _kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL of the posterior from the standard normal, nats per number (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()


@dataclass(frozen=True)
class Networks:
    """The networks of a step: autoencoder, its likelihood, a frozen perceptual one, and a discriminator."""

    autoencoder: Autoencoder
    likelihood: Likelihood
    perceptual: nn.Module | None
    discriminator: Discriminator | None


def accumulate_gradients(
    networks: Networks,
    video_BCTHW: Tensor,
    noise_BCTHW: Tensor,
    share: float,
    config: AutoencoderRun,
    discriminator_active: bool,
    autocast: Callable[[], AbstractContextManager],
) -> dict[str, Tensor]:
    """Adds all networks' gradients of clips of one shape to those they have; returns the terms of the loss.

    The loss is the error and the perceptual distance, or their likelihood, + KL + what the discriminator says
    (Esser et al. 2021, equations 4 to 6), all of it times the `share` that these clips are of the step. With
    `chunk` a clip passes in parts through the causal cache, which carries the past without its gradient, so
    that memory does not grow with length; the discriminator judges each part by itself. While it is active,
    terms also hold the gradients of both losses at the last layer, whose ratio weighs the next step's
    discriminator: one weight for all processes and shapes.
    """
    model, discriminator = networks.autoencoder, networks.discriminator
    adaptive = discriminator_active and config.discriminator.adaptive
    adversarial_weight = config.discriminator.weight * (discriminator.adaptive_weight if adaptive else 1.0)
    last_layer = model.decoder.conv_out.weight
    states: tuple[State | None, State | None] = ({}, {}) if config.chunk else (None, None)
    total = Counter()
    for video, noise in in_chunks(video_BCTHW, noise_BCTHW, config.chunk, model.compression.temporal):
        # How much this chunk counts: by its frames for losses of pixels, by its latents for the KL.
        frames = share * video.shape[2] / video_BCTHW.shape[2]
        latents = share * noise.shape[2] / noise_BCTHW.shape[2]

        # The reconstruction of a draw from the posterior. All losses meet at a leaf before the decoder.
        with autocast():
            mean, log_variance = model.encode_moments(video, states[0])
            reconstruction = model.decode_raw(mean + torch.exp(0.5 * log_variance) * noise, states[1])
        decoded_leaf = reconstruction.detach().float().requires_grad_()
        kl = _kl_divergence(mean.float(), log_variance.float())

        # Reconstruction error and perceptual distance, or their likelihood.
        terms = {"error": ERRORS[config.error](decoded_leaf - video)}
        if networks.perceptual:
            with autocast():
                terms["perceptual"] = networks.perceptual(decoded_leaf, video)
        perceptual = config.perceptual.weight * terms.get("perceptual", 0.0)
        loss = networks.likelihood(terms["error"] + perceptual)
        (frames * loss).backward()
        decoded_grad = reconstruction_grad = decoded_leaf.grad

        # The discriminator learns to tell both apart, and the decoder to be taken for real.
        if discriminator_active:
            with autocast():
                fake_logits, real_logits = discriminator(decoded_leaf), discriminator(video)
            terms["adversarial"] = -fake_logits.float().mean()
            terms["discriminator"] = hinge(real_logits, fake_logits)
            adversarial = frames * terms["adversarial"]
            adversarial_grad = torch.autograd.grad(adversarial, decoded_leaf, retain_graph=True)[0]
            torch.autograd.backward(frames * terms["discriminator"], inputs=list(discriminator.parameters()))
            if adaptive:
                grads = {"error_gradient": reconstruction_grad, "adversarial_gradient": adversarial_grad}
                for name, grad in grads.items():
                    grad = grad.type_as(reconstruction)
                    total[name] += torch.autograd.grad(reconstruction, last_layer, grad, retain_graph=True)[0]
            decoded_grad = reconstruction_grad + adversarial_weight * adversarial_grad
            loss = loss + adversarial_weight * terms["adversarial"]

        # One backward pass through the autoencoder, for all of it and the KL.
        roots = [(reconstruction, decoded_grad.type_as(reconstruction))]
        if kl.requires_grad:
            roots.append((latents * config.kl_weight * kl, None))
        torch.autograd.backward(*zip(*roots, strict=True))
        for state in states if config.chunk else ():
            state.update({layer: past.detach() for layer, past in state.items() if isinstance(past, Tensor)})
        for name, term in terms.items():
            total[name] += frames * term.detach()
        total["kl"] += latents * kl.detach()
        total["loss"] += frames * loss.detach() + latents * config.kl_weight * kl.detach()
    return dict(total)


def in_chunks(video_BCTHW: Tensor, noise_BCTHW: Tensor, chunk: int, time: int) -> list[tuple[Tensor, Tensor]]:
    """A clip and its latents' noise in parts of `chunk` latent frames, the first with one frame more than
    `time` a latent less one; 0 leaves them whole."""
    if not chunk:
        return [(video_BCTHW, noise_BCTHW)]
    noises = noise_BCTHW.split(chunk, dim=2)
    frames = [time * noise.shape[2] for noise in noises]
    frames[0] -= time - 1
    return list(zip(video_BCTHW.split(frames, dim=2), noises, strict=True))
