"""What every autoencoder is, ours and others: videos to latents of zero mean and unit variance, and back."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vae.compression import Compression, round_to
from vae.data.clips import Clip
from vae.training.device import on_cpu, send

STATISTICS = ("latent_mean", "latent_std")  # the buffers of them, which diffusers' weights do not have


@dataclass(frozen=True)
class Statistics:
    """Of raw latents, for each channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class VideoAutoencoder(nn.Module, ABC):
    """Videos to normalised latents and back, and the only owner of their statistics.

    `encode` gives latents of zero mean and unit variance per channel, `decode` takes them; nobody else
    scales.
    """

    compression: Compression
    settings: dict  # what it is beside its weights, as plain values
    ships_statistics: bool = True  # by channel, and not one factor for all

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        self.register_buffer("latent_mean", torch.zeros(1, channels, 1, 1, 1))
        self.register_buffer("latent_std", torch.ones(1, channels, 1, 1, 1))

    @torch.no_grad()
    def set_statistics(self, statistics: Statistics) -> None:
        """Takes the mean and standard deviation of each latent channel; ValueError for another number."""
        if not len(statistics.mean) == len(statistics.std) == self.channels:
            raise ValueError(f"latents_mean and latents_std must have {self.channels} numbers each")
        if not all(map(math.isfinite, statistics.mean)) or not all(0 < s < math.inf for s in statistics.std):
            raise ValueError("latents_mean must be finite, and latents_std finite and above 0")
        for buffer, values in ((self.latent_mean, statistics.mean), (self.latent_std, statistics.std)):
            buffer.copy_(torch.tensor(values).view_as(buffer))

    def forget_statistics(self) -> None:
        """Takes those of a new network, 0 and 1: the encoder is another than the one that was measured."""
        self.set_statistics(Statistics((0.0,) * self.channels, (1.0,) * self.channels))

    @property
    def statistics(self) -> Statistics:
        """The statistics of its latents, in the shortest decimals that give the same fp32."""
        return Statistics(
            *(
                tuple(map(float, map(str, v.flatten().cpu().numpy())))
                for v in (self.latent_mean, self.latent_std)
            )
        )

    @property
    def measured(self) -> bool:
        """Whether the statistics are any but those of a new network, 0 and 1."""
        return bool(self.latent_mean.any() or (self.latent_std != 1).any())

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """C T' H' W' of a video's latents, in whole tokens; raises ValueError naming the nearest size."""
        side = self.compression.token_side
        for name, value in {"height": height, "width": width}.items():
            if value < side or value % side:
                nearest = round_to(value, side)
                raise ValueError(f"{name} {value} is no positive multiple of {side}: use {nearest}")
        return self.channels, *self.compression.latent_size(frames, height, width)

    def loaded(self) -> "VideoAutoencoder":
        """This very one; one that stands in for an autoencoder that is not loaded gives that."""
        return self

    def weights(self) -> dict[str, Tensor]:
        """The state dict without the statistics."""
        return {name: tensor for name, tensor in self.state_dict().items() if name not in STATISTICS}

    def normalise(self, latents_BCTHW: Tensor) -> Tensor:
        """Brings raw latents to zero mean and unit variance per channel."""
        return (latents_BCTHW - self.latent_mean) / self.latent_std

    def denormalise(self, latents_BCTHW: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        return latents_BCTHW * self.latent_std + self.latent_mean

    def encode(self, video_BCTHW: Tensor) -> Tensor:
        """Normalised latents (the posterior's mean), B C' T' H' W', fp32, of a video in [-1, 1]."""
        return self.posterior(video_BCTHW)[0]

    @torch.no_grad()
    def latents(self, clips: Sequence[Clip], noises: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Normalised latents C' T' H' W' of each clip: its posterior's mean, or with noise its draw from it.

        A cached clip brings its posterior along; others of one shape are encoded in one call. But a CPU
        rounds one image otherwise than several at once: there each passes alone, as it does in a cache and
        when it is given to a sampler.
        """
        device, posteriors = self.latent_mean.device, [clip.posterior for clip in clips]
        for group in same_shapes([() if clip.posterior else clip.video.shape for clip in clips]):
            if clips[group[0]].posterior:
                continue
            alone = on_cpu(device) and clips[group[0]].video.shape[1] == 1
            for numbers in [[k] for k in group] if alone else [group]:
                video = torch.stack([send(clips[k].video, device) for k in numbers])
                parts = (self.encode(video),) if noises is None else self.posterior(video)
                for k, *posterior in zip(numbers, *parts, strict=True):
                    posteriors[k] = posterior
        latents = []
        for k, posterior in enumerate(posteriors):
            mean, *log_variance = (send(part, device) if clips[k].posterior else part for part in posterior)
            if noises is not None:
                mean = mean + torch.exp(log_variance[0] / 2) * send(noises[k], device)
            latents.append(mean)
        return latents

    @abstractmethod
    def posterior(self, video_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the normalised latents' posterior, each B C' T' H' W', fp32.

        The latents that training draws are mean + exp(log-variance / 2) * noise. Raises ValueError for sizes
        that do not fit the compression.
        """

    @abstractmethod
    def decode(self, latents_BCTHW: Tensor) -> Tensor:
        """Video in [-1, 1], B C T H W, fp32, of normalised latents."""

    @abstractmethod
    def encode_stream(self, chunks_BCTHW: Iterable[Tensor]) -> Iterator[Tensor]:
        """Normalised latents of a clip that comes in chunks, as they are ready."""

    @abstractmethod
    def decode_stream(self, chunks_BCTHW: Iterable[Tensor]) -> Iterator[Tensor]:
        """Video of latents that come in chunks, as it is ready."""


def same_shapes(shapes: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """The numbers of equal shapes together, in the order of the first of each."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for k, shape in enumerate(shapes):
        groups.setdefault(tuple(shape), []).append(k)
    return list(groups.values())
