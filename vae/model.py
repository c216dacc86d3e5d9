"""The causal video autoencoder: pixels to normalised latents and back, weight-compatible with Wan 2.1's.

Legend: B batch, C channels, T frames, H height, W width. Videos are RGB in [-1, 1]; 1 + 4k frames become
1 + k latent frames, each 8 times smaller in height and width (times `patch`), and an image is a video of one
frame.
Architecture: Wan 2.1 (arXiv 2503.20314, section 4.1); module names follow `AutoencoderKLWan` of diffusers,
so that state dicts go both ways unchanged.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from configs.model import AutoencoderConfig
from vae.compression import Compression
from vae.convolution import CausalConv3d, ChannelNorm, State, convolve, per_frame
from vae.interface import VideoAutoencoder
from vae.training.device import on_cpu

CHUNK_PIXELS = 1 << 16  # of one clip that `encode` looks at together
FRAME_PIXELS = 1 << 14  # of a frame from which the widest layers take one at a time: smaller ones lose time


class ResidualBlock(nn.Module):
    """Two normalised convolutions beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm1 = ChannelNorm(in_channels, 3)
        self.conv1 = CausalConv3d(in_channels, out_channels, 3, padding=(0, 1, 1))
        self.norm2 = ChannelNorm(out_channels, 3)
        self.conv2 = CausalConv3d(out_channels, out_channels, 3, padding=(0, 1, 1))
        same = in_channels == out_channels
        self.conv_shortcut = nn.Identity() if same else CausalConv3d(in_channels, out_channels, 1)

    def branch(self) -> list[nn.Module]:
        """The convolutions beside the shortcut, in order."""
        return [self.conv1, self.conv2]

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        h = self.conv2(self.conv1(x, state, self.norm1), state, self.norm2)
        x = self.conv_shortcut(x)
        return x + h if torch.is_grad_enabled() else h.add_(x)


class FrameAttention(nn.Module):
    """Single-head attention over the pixels of each frame."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = ChannelNorm(channels, 2)
        self.to_qkv = nn.Conv2d(channels, channels * 3, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def branch(self) -> list[nn.Module]:
        """The projections beside the shortcut, in order."""
        return [self.to_qkv, self.proj]

    def forward(self, x_BCTHW: Tensor, state: State | None = None) -> Tensor:
        b, _, _, h, _ = x_BCTHW.shape
        x = self.norm(rearrange(x_BCTHW, "b c t h w -> (b t) c h w"))
        q, k, v = rearrange(self.to_qkv(x), "n (three c) h w -> three n 1 (h w) c", three=3)
        x = F.scaled_dot_product_attention(q, k, v)
        x = self.proj(rearrange(x, "n 1 (h w) c -> n c h w", h=h))
        return x_BCTHW + rearrange(x, "(b t) c h w -> b c t h w", b=b)


class Downsample(nn.Module):
    """Halves height and width, and with `time` the frames after the first too."""

    def __init__(self, channels: int, time: bool):
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2))
        self.time_conv = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1)) if time else None

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        return self.in_time(self.in_space(x), state)

    def in_space(self, x: Tensor, state: State | None = None) -> Tensor:
        """Halves height and width."""
        return per_frame(self.resample, x)

    def in_time(self, x: Tensor, state: State | None = None) -> Tensor:
        """Halves the frames after the first, where it does."""
        if self.time_conv is None:
            return x
        last = x[:, :, -1:].clone() if state is not None else None
        if state is not None and self in state:
            x = convolve(self.time_conv, torch.cat([state[self], x], dim=2))
        elif x.shape[2] > 1:
            x = torch.cat([x[:, :, :1], convolve(self.time_conv, x)], dim=2)
        if state is not None:
            state[self] = last
        return x


class Upsample(nn.Module):
    """Doubles height and width, halves the channels, and with `time` doubles the frames after the first."""

    def __init__(self, channels: int, time: bool):
        super().__init__()
        upsample = nn.Upsample(scale_factor=(2.0, 2.0), mode="nearest-exact")
        self.resample = nn.Sequential(upsample, nn.Conv2d(channels, channels // 2, 3, padding=1))
        self.time_conv = CausalConv3d(channels, channels * 2, (3, 1, 1)) if time else None

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        return self.in_space(self.in_time(x, state))

    def in_time(self, x: Tensor, state: State | None = None) -> Tensor:
        """Doubles the frames after the first, where it does."""
        if self.time_conv is None:
            return x
        if state is None or self not in state:
            first, rest = x[:, :, :1], x[:, :, 1:]
        else:
            first, rest = x[:, :, :0], x
        if state is not None:
            state[self] = True
        if rest.shape[2]:
            rest = rearrange(self.time_conv(rest, state), "b (two c) t h w -> b (t two) h w c", two=2)
            rest = rest.movedim(-1, 1)  # channels stay last in memory: other layouts are slower from here on
        return torch.cat([first, rest], dim=2) if first.shape[2] else rest

    def in_space(self, x: Tensor, state: State | None = None) -> Tensor:
        """Doubles height and width."""
        return per_frame(self.resample, x)


class MiddleBlock(nn.Module):
    """The layers of the smallest size: attention between two residual blocks."""

    def __init__(self, channels: int):
        super().__init__()
        self.resnets = nn.ModuleList([ResidualBlock(channels, channels) for _ in range(2)])
        self.attentions = nn.ModuleList([FrameAttention(channels)])

    def layers(self) -> list[nn.Module]:
        """The layers in the order in which they run."""
        return [self.resnets[0], self.attentions[0], self.resnets[1]]


class UpBlock(nn.Module):
    """One level of the decoder: residual blocks, then an up-sampler unless it is the last level."""

    def __init__(self, in_channels: int, out_channels: int, residual_blocks: int, upsample: nn.Module | None):
        super().__init__()
        widths = [in_channels] + [out_channels] * residual_blocks
        self.resnets = nn.ModuleList([ResidualBlock(width, out_channels) for width in widths])
        self.upsamplers = None if upsample is None else nn.ModuleList([upsample])

    def layers(self) -> list[nn.Module]:
        """The layers in the order in which they run."""
        return [*self.resnets, *(self.upsamplers or [])]


class Coder(nn.Module):
    """What encoder and decoder share: a chain of layers, each of which may keep state between chunks."""

    checkpointing = False
    scale = 1  # how much larger the video is than what is given

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        if state is not None and not torch.is_grad_enabled():
            return self.step(x, state)
        x = self.conv_in(x, state)
        for layer in self.layers():
            if self.checkpointing and torch.is_grad_enabled():
                x = _checkpointed(layer, x, state)
            else:
                x = layer(x, state)
        return self.conv_out(x, state, self.norm_out)

    def step(self, x: Tensor, state: State) -> Tensor:
        """A chunk of a stream, of large frames one at a time through the layers that see every frame."""
        pixels = x.shape[3] * x.shape[4] * self.scale**2
        by_frame = on_cpu(x) and pixels >= FRAME_PIXELS
        for layers, every in self.parts():
            done = []
            for y in x.split(1 if by_frame and every else x.shape[2], dim=2):
                for layer in layers:
                    y = layer(y, state)
                done.append(y)
            x = torch.cat(done, dim=2) if len(done) > 1 else done[0]
        return x


def _checkpointed(layer: nn.Module, x: Tensor, state: State | None) -> Tensor:
    """A layer whose activations are computed again in the backward pass, from the state that it met before.

    No gradient goes through the state that it leaves.
    """
    before = {module: state[module] for module in layer.modules() if module in state} if state else {}
    after: State = {}

    def run(x: Tensor) -> Tensor:
        met = dict(before) if state is not None else None
        y = layer(x, met)
        after.update(met or {})
        return y

    y = checkpoint(run, x, use_reentrant=False)
    if state is not None:
        cut = {module: past.detach() if isinstance(past, Tensor) else past for module, past in after.items()}
        state.update(cut)
    return y


class Encoder(Coder):
    """Video to the moments of its latents, level by level smaller."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        widths = [config.base_width * m for m in (1, *config.width_multipliers)]
        self.conv_in = CausalConv3d(3 * config.patch**2, widths[0], 3, padding=(0, 1, 1))
        blocks = []
        for level, (width, out_width) in enumerate(pairwise(widths)):
            blocks.append(ResidualBlock(width, out_width))
            blocks += [ResidualBlock(out_width, out_width) for _ in range(config.residual_blocks - 1)]
            if level < len(config.time_downsample):
                blocks.append(Downsample(out_width, config.time_downsample[level]))
        self.down_blocks = nn.ModuleList(blocks)
        self.mid_block = MiddleBlock(widths[-1])
        self.norm_out = ChannelNorm(widths[-1], 3)
        self.conv_out = CausalConv3d(widths[-1], 2 * config.latent_channels, 3, padding=(0, 1, 1))

    def layers(self) -> list[nn.Module]:
        """The layers between the first and the last convolution."""
        return [*self.down_blocks, *self.mid_block.layers()]

    def parts(self) -> list[tuple[list[Callable], bool]]:
        """All layers in two parts, and of each whether it sees every frame of the video."""
        blocks = list(self.down_blocks)
        first = next(k for k, block in enumerate(blocks) if isinstance(block, Downsample) and block.time_conv)
        rest = [*blocks[first + 1 :], *self.mid_block.layers(), partial(self.conv_out, norm=self.norm_out)]
        every = [self.conv_in, *blocks[:first], blocks[first].in_space]
        return [(every, True), ([blocks[first].in_time, *rest], False)]


class Decoder(Coder):
    """Latents to video, level by level larger."""

    scale = 8

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        multipliers = config.width_multipliers[::-1]
        widths = [config.decoder_base_width * m for m in (multipliers[0], *multipliers)]
        time_upsample = config.time_downsample[::-1]
        self.conv_in = CausalConv3d(config.latent_channels, widths[0], 3, padding=(0, 1, 1))
        self.mid_block = MiddleBlock(widths[0])
        self.up_blocks = nn.ModuleList()
        for level, (width, out_width) in enumerate(pairwise(widths)):
            width = width // 2 if level else width  # the up-sampler before it halved the channels
            upsample = Upsample(out_width, time_upsample[level]) if level < len(time_upsample) else None
            self.up_blocks.append(UpBlock(width, out_width, config.residual_blocks, upsample))
        self.norm_out = ChannelNorm(widths[-1], 3)
        self.conv_out = CausalConv3d(widths[-1], 3 * config.patch**2, 3, padding=(0, 1, 1))

    def layers(self) -> list[nn.Module]:
        """The layers between the first and the last convolution."""
        return [*self.mid_block.layers(), *(layer for block in self.up_blocks for layer in block.layers())]

    def parts(self) -> list[tuple[list[Callable], bool]]:
        """All layers in two parts, and of each whether it makes every frame of the video."""
        layers = self.layers()
        last = max(k for k, layer in enumerate(layers) if isinstance(layer, Upsample) and layer.time_conv)
        every = [layers[last].in_space, *layers[last + 1 :], partial(self.conv_out, norm=self.norm_out)]
        return [([self.conv_in, *layers[:last], layers[last].in_time], False), (every, True)]


class Autoencoder(VideoAutoencoder):
    """Causal video autoencoder."""

    def __init__(self, config: AutoencoderConfig):
        _check_shape(config)
        super().__init__(config.latent_channels)
        self.config, self.compression, self.settings = config, compression_of(config), asdict(config)
        self.encoder = Encoder(config)
        self.quant_conv = CausalConv3d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = CausalConv3d(config.latent_channels, config.latent_channels, 1)
        self.decoder = Decoder(config)
        self.initialise()
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                module.weight = nn.Parameter(module.weight.detach().to(memory_format=torch.channels_last_3d))

    @torch.no_grad()
    def initialise(self) -> None:
        """Signal passes from pixels to pixels, and frames are repeated, until training says otherwise.

        Layers outside the residual branches are delta-orthogonal (Xiao et al. 2018, section 3.3): a dozen
        random ones in a row lose all but the brightest direction, and colours are learned hundreds of steps
        later. Residual branches keep the variance and end small; kernels see only the newest frame, as for
        images; the posterior starts narrow. Biases stay random: without them the first norms cannot tell grey
        from white.
        """
        branches = {
            c for m in self.modules() if isinstance(m, ResidualBlock | FrameAttention) for c in m.branch()
        }
        for module in self.modules():
            if not isinstance(module, nn.Conv2d | nn.Conv3d):
                continue
            newest = module.weight[:, :, -1] if module.weight.ndim == 5 else module.weight
            module.weight.zero_()
            if module in branches:
                nn.init.kaiming_normal_(newest, nonlinearity="linear")
                continue
            out_channels, in_channels, height, width = newest.shape
            matrix = nn.init.orthogonal_(newest.new_empty(out_channels, in_channels))
            matrix *= max(1.0, out_channels / in_channels) ** 0.5
            if module.kernel_size == (3, 1, 1):  # what images learned holds for repeated frames too
                matrix = torch.eye(in_channels).repeat(out_channels // in_channels, 1)
            if module.stride[-1] == 2:
                newest[:, :, :2, :2] = matrix[:, :, None, None] / 4
            else:
                newest[:, :, height // 2, width // 2] = matrix
        for module in self.modules():
            if isinstance(module, ResidualBlock | FrameAttention):
                module.branch()[-1].weight.mul_(0.3)
        log_variance = self.quant_conv.out_channels // 2
        self.quant_conv.weight[log_variance:].mul_(0.1)
        self.quant_conv.bias[log_variance:] = -4.0

    def checkpoint_activations(self, on: bool) -> None:
        """Trades compute for memory in training: each block's activations are computed again in backward."""
        self.encoder.checkpointing = self.decoder.checkpointing = on

    def encode_moments(self, video_BCTHW: Tensor, state: State | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior, not normalised, each B C' T' H' W'.

        Raises ValueError for sizes or frame counts that do not fit the compression.
        """
        if state is None:
            self.compression.check(*video_BCTHW.shape[2:])
        x = space_to_depth(video_BCTHW, self.config.patch).contiguous(memory_format=torch.channels_last_3d)
        return self.moments(self.encoder(x, state))

    def moments(self, encoded_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance from what the encoder gives."""
        mean, log_variance = self.quant_conv(encoded_BCTHW).chunk(2, dim=1)
        return mean, log_variance.clamp(-30.0, 20.0)

    def decode_raw(self, latents_BCTHW: Tensor, state: State | None = None) -> Tensor:
        """Video of not normalised latents, not clamped: the decoder as the training loss sees it."""
        x = latents_BCTHW.contiguous(memory_format=torch.channels_last_3d)
        return depth_to_space(self.decoder(self.post_quant_conv(x), state), self.config.patch)

    def posterior(self, video_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the normalised latents' posterior, each B C' 1+k H' W', of 1+4k frames."""
        state: State = {}
        self.compression.check(*video_BCTHW.shape[2:])
        dtype = self.quant_conv.weight.dtype
        return self.joined(self.encode_moments(chunk.to(dtype), state) for chunk in time_chunks(video_BCTHW))

    def joined(self, moments: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """The normalised posterior of a clip from the moments of its chunks."""
        mean, log_variance = (torch.cat(part, dim=2).float() for part in zip(*moments, strict=True))
        return self.normalise(mean), log_variance - 2 * self.latent_std.log()

    def encode(self, video_BCTHW: Tensor) -> Tensor:
        """Normalised latents (the posterior's mean), B C' 1+k H' W', of 1+4k frames."""
        self.compression.check(*video_BCTHW.shape[2:])
        return torch.cat(list(self.encode_stream(time_chunks(video_BCTHW))), dim=2)

    def decode(self, latents_BCTHW: Tensor) -> Tensor:
        """Video in [-1, 1], B C 1+4k H W, of normalised latents of 1+k frames."""
        return torch.cat(list(self.decode_stream([latents_BCTHW])), dim=2)

    def encode_stream(self, chunks_BCTHW: Iterable[Tensor]) -> Iterator[Tensor]:
        """Normalised latents chunk by chunk in constant memory; the same as of the whole clip at once.

        The first chunk has 1 + 4k frames, every later one 4k; raises ValueError otherwise.
        """
        state: State = {}
        dtype = self.quant_conv.weight.dtype
        for index, video in enumerate(chunks_BCTHW):
            self.compression.check(1, *video.shape[3:])
            time = self.compression.temporal
            if video.shape[2] % time != (1 if index == 0 else 0):
                rule = f"1 + {time}k" if index == 0 else f"{time}k"
                raise ValueError(f"chunk {index} has {video.shape[2]} frames; it must have {rule}")
            yield self.normalise(self.encode_moments(video.to(dtype), state)[0].float())

    def decode_stream(self, chunks_BCTHW: Iterable[Tensor]) -> Iterator[Tensor]:
        """Video one latent frame at a time, in constant memory; the same as of the whole clip at once.

        Steps of several are no faster: on a CPU slower by half in fp32, faster by a tenth in bf16.
        """
        state: State = {}
        dtype = self.post_quant_conv.weight.dtype
        for latents in chunks_BCTHW:
            for frame in latents.split(1, dim=2):
                yield self.decode_raw(self.denormalise(frame).to(dtype), state).float().clamp(-1.0, 1.0)


def time_chunks(video_BCTHW: Tensor) -> list[Tensor]:
    """A clip of 1 + 4k frames in chunks that are encoded in turn."""
    frames = 4 * max(1, CHUNK_PIXELS // (4 * video_BCTHW.shape[3] * video_BCTHW.shape[4]))
    first, rest = video_BCTHW[:, :, : 1 + frames], video_BCTHW[:, :, 1 + frames :]
    return [chunk for chunk in (first, *rest.split(frames, dim=2)) if chunk.shape[2]]


def space_to_depth(video_BCTHW: Tensor, patch: int) -> Tensor:
    """Every `patch` x `patch` pixels as channels of one; their order is that of diffusers' Wan."""
    return rearrange(video_BCTHW, "b c t (h p) (w q) -> b (c q p) t h w", p=patch, q=patch)


def depth_to_space(video_BCTHW: Tensor, patch: int) -> Tensor:
    """The inverse of `space_to_depth`."""
    return rearrange(video_BCTHW, "b (c q p) t h w -> b c t (h p) (w q)", p=patch, q=patch)


def compression_of(config: AutoencoderConfig) -> Compression:
    """The compression of an autoencoder of these settings."""
    levels = len(config.width_multipliers) - 1
    return Compression(2 ** sum(config.time_downsample), config.patch * 2**levels)


def _check_shape(config: AutoencoderConfig) -> None:
    """Raises ValueError for settings that cannot form an autoencoder."""
    if sum(config.time_downsample) != 2:
        raise ValueError(
            f"model.time_downsample = {config.time_downsample}: of three levels two must halve the frames"
        )
