"""The door to diffusers' autoencoders, of videos or of single frames, each with the interface of ours.

A folder has `config.json` and safetensors, as `save_pretrained` writes them; nothing else in it is read.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from vae.compression import Compression
from vae.diffusers_folder import WAN, read_folder
from vae.interface import Statistics, VideoAutoencoder
from vae.statistics import checked
from vae.training.device import forked_randomness
from vae.training.files import naming
from vae.training.weights import load_strictly

FRAME_PIXELS = 1 << 20  # of frames that an autoencoder of single frames looks at together
CERTAIN = -30.0  # the log-variance of latents that are not drawn, as diffusers clamps it
UNDRAWN = {"AutoencoderTiny", "AutoencoderDC"}  # whose latents are numbers, not distributions
WHOLE = ("use_tiling", "use_slicing", "use_framewise_encoding", "use_framewise_decoding")  # all turned off


def _of_ratios(model: nn.Module) -> Compression:
    """The compression of a model that says it."""
    return Compression(model.temporal_compression_ratio, model.spatial_compression_ratio)


def _of_wan(model: nn.Module) -> Compression:
    """The compression of Wan's family, whose `config.json` may say another than its layers have."""
    config = model.config
    levels = len(config.dim_mult) - 1
    halved = tuple(config.temperal_downsample)
    if len(halved) != levels or sum(halved) != 2:
        raise ValueError(f"temperal_downsample is {halved}: of {levels} levels two must halve the frames")
    return Compression(4, (getattr(config, "patch_size", None) or 1) * 2**levels)


def _of_cogvideox(model: nn.Module) -> Compression:
    """The compression of CogVideoX: of an even number of latent frames it makes three frames too many."""
    if model.config.temporal_compression_ratio != 4:
        raise ValueError(f"temporal_compression_ratio is {model.config.temporal_compression_ratio}, not 4")
    return Compression(4, 2 ** (len(model.config.block_out_channels) - 1), latent_group=2)


def _of_frames(model: nn.Module) -> Compression:
    """The compression of an autoencoder of single frames."""
    return Compression(1, 2 ** (len(model.config.block_out_channels) - 1))


CLASSES: dict[str, Callable[[nn.Module], Compression]] = {
    WAN: _of_wan,
    "AutoencoderKLCogVideoX": _of_cogvideox,
    "AutoencoderKLHunyuanVideo": _of_ratios,
    "AutoencoderKLHunyuanVideo15": _of_ratios,
    "AutoencoderKLLTXVideo": _of_ratios,
    "AutoencoderKLMochi": _of_ratios,
    "AutoencoderKLMagvit": _of_ratios,
    "AutoencoderKLQwenImage": _of_wan,
    "AutoencoderKL": _of_frames,
    "AutoencoderTiny": _of_frames,
    "AutoencoderDC": _of_ratios,
}


class DiffusersAutoencoder(VideoAutoencoder):
    """An autoencoder of diffusers.

    Clips are encoded and decoded whole, as the model's own classes do without their tiles and slices.
    """

    def __init__(self, model: nn.Module, statistics: Statistics, by_channel: bool):
        super().__init__(_channels_of(model))
        self.model = model
        public = {name: value for name, value in model.config.items() if not name.startswith("_")}
        self.settings = {"class": type(model).__name__} | public
        self.compression = CLASSES[type(model).__name__](model)
        self.frame_wise = self.compression.temporal == 1
        self.ships_statistics = by_channel
        self.drawn = type(model).__name__ not in UNDRAWN
        for option in WHOLE:
            if hasattr(model, option):  # HunyuanVideo's cut long clips into blended pieces by default
                setattr(model, option, False)
        self.set_statistics(statistics)

    def posterior(self, video_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
        """As of every autoencoder; latents that are not drawn have a log-variance of -30."""
        self.compression.check(*video_BCTHW.shape[2:])
        video = video_BCTHW.to(self.model.dtype)
        pixels = video.shape[3] * video.shape[4]
        parts = [self.moments(part) for part in self.parts(video, pixels)]
        mean, log_variance = (self.joined(part, len(video)) for part in zip(*parts, strict=True))
        mean, log_variance = self.normalise(mean.float()), log_variance.float()
        return mean, log_variance - 2 * self.latent_std.log() if self.drawn else log_variance

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the model's own `encode` gives, a video or frames: mean and log-variance, not normalised."""
        encoded = self.model.encode(x, return_dict=False)[0]
        return (encoded.mean, encoded.logvar) if self.drawn else (encoded, torch.full_like(encoded, CERTAIN))

    def decode(self, latents_BCTHW: Tensor) -> Tensor:
        """Video in [-1, 1], B C T H W, fp32, of normalised latents; raises ValueError where there is none."""
        self.compression.check_latents(latents_BCTHW.shape[2])
        raw = self.denormalise(latents_BCTHW).to(self.model.dtype)
        pixels = raw.shape[3] * raw.shape[4] * self.compression.spatial**2
        parts = [self.decode_part(part) for part in self.parts(raw, pixels)]
        return self.joined(parts, len(raw)).float().clamp(-1.0, 1.0)

    def encode_stream(self, chunks_BCTHW: Iterable[Tensor]) -> Iterator[Tensor]:
        """Normalised latents as they come; a clip that is no row of single frames comes whole, at the end."""
        yield from map(self.encode, self.streamed(chunks_BCTHW, 1))

    def decode_stream(self, chunks_BCTHW: Iterable[Tensor]) -> Iterator[Tensor]:
        """Video as it comes; a clip that is no row of single frames comes whole, at the end."""
        yield from map(self.decode, self.streamed(chunks_BCTHW, self.compression.spatial))

    def streamed(self, chunks_BCTHW: Iterable[Tensor], scale: int) -> Iterator[Tensor]:
        """Chunks as the model takes them: a few frames of `scale` times the sides, or all of them in one."""
        if not self.frame_wise:
            yield torch.cat(list(chunks_BCTHW), dim=2)
            return
        for chunk in chunks_BCTHW:
            pixels = chunk.shape[3] * chunk.shape[4] * scale**2
            yield from chunk.split(max(1, FRAME_PIXELS // pixels), dim=2)

    def decode_part(self, raw: Tensor) -> Tensor:
        """What the model's own `decode` gives of a clip or frames; with noise in its layers, always the same.

        LTX's newer decoders ask for a time: 0, of latents without noise, as in its pipeline.
        """
        timed = getattr(self.model.config, "timestep_conditioning", False)
        with _same_noise(raw):
            return self.model.decode(raw, *[raw.new_zeros(len(raw))] * timed, return_dict=False)[0]

    def parts(self, x_BCTHW: Tensor, pixels: int) -> tuple[Tensor, ...]:
        """What the model is given together: one clip, or as many frames of `pixels` as `FRAME_PIXELS` holds.

        HunyuanVideo 1.5's mask is right for one clip alone.
        """
        if not self.frame_wise:
            return x_BCTHW.split(1)
        return rearrange(x_BCTHW, "b c t h w -> (b t) c h w").split(max(1, FRAME_PIXELS // pixels))

    def joined(self, parts: Sequence[Tensor], batch: int) -> Tensor:
        """The inverse of `parts`."""
        x = torch.cat(list(parts))
        return rearrange(x, "(b t) c h w -> b c t h w", b=batch) if self.frame_wise else x


def _channels_of(model: nn.Module) -> int:
    """Channels of a model's latents."""
    config = model.config
    return config.z_dim if hasattr(config, "z_dim") else config.latent_channels


@contextmanager
def _same_noise(like: Tensor) -> Iterator[None]:
    """Within it PyTorch draws the same numbers every time: some decoders of LTX add noise to layers."""
    with forked_randomness(like):
        torch.manual_seed(0)
        yield


def load_diffusers(folder: Path) -> DiffusersAutoencoder:
    """An autoencoder from a folder of diffusers, fp32, with the statistics that it ships.

    Raises ValueError naming the folder where it is damaged, or of a class that is not known here.
    """
    import diffusers

    settings, tensors = read_folder(folder)
    name = settings.get("_class_name")
    if name not in [*CLASSES]:  # which may be of any type
        raise ValueError(f"{folder} holds {name}, which is not supported; what is: {', '.join(CLASSES)}")
    if name == "AutoencoderTiny":
        settings.pop("block_out_channels", None)  # it writes this itself, and then warns of it
    with naming(folder / "config.json"):
        try:
            model = getattr(diffusers, name).from_config(settings)
        except Exception as error:  # whatever a foreign folder does wrong is the answer
            raise ValueError(f"no {name} is made of it ({error})") from None
    with naming(folder):
        model._fix_state_dict_keys_on_load(tensors)  # older folders name attention's weights otherwise
    load_strictly(model, tensors, folder)
    with naming(folder / "config.json"):
        return DiffusersAutoencoder(model, *shipped(model))


def shipped(model: nn.Module) -> tuple[Statistics, bool]:
    """The statistics by which diffusers' pipelines scale a model's latents, and whether they are by channel.

    They give (z - shift) * factor, or (z - mean) * factor / std where mean and std are known by channel.
    """
    config, channels = model.config, _channels_of(model)
    factor = getattr(config, "scaling_factor", None) or 1.0
    mean, std = (getattr(config, key, None) for key in ("latents_mean", "latents_std"))
    if "latents_mean" in (held := dict(model.named_buffers())):  # LTX has them among its weights
        mean, std = held["latents_mean"].tolist(), held["latents_std"].tolist()
    by_channel = mean is not None and std is not None and (any(mean) or set(std) != {1.0})
    if not by_channel:
        mean, std = [getattr(config, "shift_factor", None) or 0.0] * channels, [1.0] * channels
    return checked(Statistics(tuple(mean), tuple(value / factor for value in std))), by_channel


def bare_autoencoder(settings: dict) -> DiffusersAutoencoder:
    """The autoencoder of diffusers' settings, without its weights."""
    import diffusers

    model = getattr(diffusers, settings["_class_name"]).from_config(settings)
    channels = settings.get("z_dim") or settings["latent_channels"]
    return DiffusersAutoencoder(model, Statistics((0.0,) * channels, (1.0,) * channels), True)
