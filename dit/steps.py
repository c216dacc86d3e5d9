"""What training steps work on, drawn on the host ahead of the loop: packs of clips and all that is random."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from configs.model import TransformerConfig
from configs.train import TransformerRun
from dit.bench.flops import training_flops
from dit.loss import Batch, PackDraw, draw_pack, draw_sample, make_batch, padding_sample
from dit.times import Losses, bin_of
from vae.compression import PATCH
from vae.data.clips import Clip
from vae.data.plan import padding
from vae.interface import VideoAutoencoder
from vae.training.device import pinned
from vae.training.seeds import normal


@dataclass(frozen=True)
class Pack:
    """Clips whose tokens go through the network together, what is drawn for them, the noise of each one's
    posterior where latents are drawn from it, and each one's time."""

    clips: list[Clip]
    draw: PackDraw
    noises: list[Tensor] | None
    times: list[float]

    def map(self, change: Callable[[Tensor], Tensor]) -> "Pack":
        """The same with every tensor changed but videos, of which a device is to hold no step's at once."""
        clips = [clip.map(change) if clip.posterior else clip for clip in self.clips]
        noises = None if self.noises is None else [change(noise) for noise in self.noises]
        return Pack(clips, self.draw.map(change), noises, self.times)

    def batch(self, autoencoder: VideoAutoencoder, device: torch.device) -> Batch:
        """The pack on the device, with its clips' latents."""
        return make_batch(autoencoder.latents(self.clips, self.noises), self.draw.to(device))


@dataclass(frozen=True)
class StepPacks:
    """A process's share of a step."""

    packs: list[Pack]

    def map(self, change: Callable[[Tensor], Tensor]) -> "StepPacks":
        """The same with every tensor of its packs changed, moved or pinned."""
        return StepPacks([pack.map(change) for pack in self.packs])

    @property
    def clips(self) -> list[Clip]:
        """The clips of all packs."""
        return [clip for pack in self.packs for clip in pack.clips]

    @property
    def named(self) -> list[str]:
        """The samples in words: source, time, and the time bin of the validation it is nearest to."""
        pairs = [pair for pack in self.packs for pair in zip(pack.clips, pack.times, strict=True)]
        return [f"{clip.source} (draw {clip.draw}, t {time:.3f}, bin {bin_of(time)})" for clip, time in pairs]

    @property
    def counted(self) -> int:
        """How many tokens are in the loss."""
        return sum(pack.draw.counted for pack in self.packs)

    @property
    def tokens(self) -> int:
        """How many tokens are computed here, padding left out."""
        return sum(sum(pack.draw.layout.local.each[: len(pack.clips)]) for pack in self.packs)

    def flops(self, config: TransformerConfig, ranks: int) -> float:
        """Model FLOPs of training on it, padding left out; `ranks` processes share each pack."""
        packs = [(pack.draw, len(pack.clips)) for pack in self.packs if pack.clips]
        return sum(
            training_flops(
                config,
                list(draw.layout.tokens.each[:count]),
                draw.text.lengths[:count],
                draw.layout.pairs - (len(draw.layout.tokens.each) - count),
            )
            / ranks
            for draw, count in packs
        )


def draw_steps(
    steps: Iterable[tuple[list[list[int]], list[Clip]]],
    config: TransformerRun,
    autoencoder: VideoAutoencoder,
    read: Callable,
    device: torch.device,
    cut: Callable[[PackDraw], PackDraw] = lambda pack: pack,
    losses: Callable[[int], Losses] = lambda step: None,
    first: int = 1,
) -> Iterator[StepPacks]:
    """The packs of steps: of each step its packs of draws, and these draws' clips in that order.

    `read` is the network's `Denoiser.read`, `cut` gives this process's slice of a pack, and `losses` those by
    which a step's times are drawn, from step `first` on. A sample is the same whichever process and pack it
    is in. All lies where a device copies from by itself.
    """
    pin = partial(pinned, device=device)
    pack_of = partial(_draw, config=config, autoencoder=autoencoder, read=read, cut=cut, pin=pin)
    for step, (packs, clips) in enumerate(steps, first):
        rest, known = iter(clips), losses(step)
        yield StepPacks([pack_of(list(islice(rest, len(draws))), losses=known) for draws in packs])


def _draw(
    clips: list[Clip],
    config: TransformerRun,
    autoencoder: VideoAutoencoder,
    read: Callable,
    cut: Callable[[PackDraw], PackDraw],
    pin: Callable[[Tensor], Tensor],
    losses: Losses,
) -> Pack:
    """A pack of clips and what is drawn for it."""
    seed, model = config.train.seed, config.model
    shapes = [latent_shape(clip, autoencoder) for clip in clips]
    pairs = list(zip(shapes, clips, strict=True))
    samples = [draw_sample(shape, clip, config.flow, seed, losses) for shape, clip in pairs]
    missing = padding(sum(map(tokens_in, shapes)), config.train.round_tokens)
    samples += [padding_sample(model.latent_channels, missing)] if missing else []
    sampled = config.posterior == "sample"
    noises = [pin(normal(shape, seed, "posterior", clip.draw)) for shape, clip in pairs] if sampled else None
    draw = cut(draw_pack(samples, model.width // model.heads, read)).map(pin)
    times = [sample.time.item() for sample in samples[: len(clips)]]
    return Pack([clip.map(pin) for clip in clips], draw, noises, times)


def tokens_in(shape: tuple[int, ...]) -> int:
    """The tokens of latents C T H W."""
    return math.prod(shape[1:]) // math.prod(PATCH)


def latent_shape(clip: Clip, autoencoder: VideoAutoencoder) -> tuple[int, ...]:
    """C T H W of a clip's latents, cached or not."""
    return (
        tuple(clip.posterior[0].shape) if clip.posterior else autoencoder.latent_shape(*clip.video.shape[1:])
    )
