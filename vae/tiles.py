"""Large frames in tiles: the autoencoder's convolutions on one part at a time, equal to the whole frame.

Attention looks at whole frames, but only where they are smallest: that part is never cut. The rest are
convolutions, and a tile with as much around it as they see (its halo) comes out as it would within the frame.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from vae.convolution import State
from vae.model import Autoencoder, Downsample, ResidualBlock, depth_to_space, space_to_depth, time_chunks

COPIES = 10.0  # of the widest activations that are held at once while decoding, as measured
ENCODE_COPIES = 6.0  # the same while encoding


@dataclass(frozen=True)
class Tile:
    """Part of a frame, in latents: what it is of the frame, and with its halo."""

    top: int
    bottom: int
    left: int
    right: int
    outer: tuple[int, int, int, int]


def decoder_halo(model: Autoencoder) -> int:
    """How far in latents the decoder's convolutions see beyond a tile, from the mid block on."""
    seen, side = 0.0, 1.0
    for block in model.decoder.up_blocks:
        seen += 2 * len(block.resnets) * side
        if block.upsamplers is not None:
            side /= 2
            seen += side
    return -int(-(seen + side) // 1)


def encoder_halo(model: Autoencoder) -> int:
    """How far in latents the encoder's convolutions see beyond a tile, up to the mid block."""
    seen, side = 1.0, 1.0
    for layer in model.encoder.down_blocks:
        if isinstance(layer, ResidualBlock):
            seen += 2 * side
        elif isinstance(layer, Downsample):
            seen += side
            side *= 2
    return -int(-seen // side)


def cut(height: int, width: int, tile: int, halo: int) -> list[Tile]:
    """Tiles of at most `tile` latents a side that cover a frame of H x W latents, each with its halo."""
    spans = []
    for length in (height, width):
        count = -(-length // tile)
        edges = [round(k * length / count) for k in range(count + 1)]
        spans.append([(a, b, max(0, a - halo), min(length, b + halo)) for a, b in pairwise(edges)])
    return [Tile(a, b, c, d, (oa, ob, oc, od)) for a, b, oa, ob in spans[0] for c, d, oc, od in spans[1]]


def paste(canvas: Tensor, part: Tensor, tile: Tile, scale: int) -> None:
    """Writes a tile's own part of its frames, without the halo, into those of the canvas."""
    top, bottom, left, right = (scale * side for side in (tile.top, tile.bottom, tile.left, tile.right))
    above, _, before, _ = (scale * side for side in tile.outer)
    canvas[..., top:bottom, left:right] = part[
        ..., top - above : bottom - above, left - before : right - before
    ]


def decode(model: Autoencoder, latents_BCTHW: Tensor, tile: int) -> Tensor:
    """As `Autoencoder.decode`, in tiles of at most `tile` latents a side, one after the other.

    Beside the video it holds one tile's stream. Raises ValueError for a tile below 1.
    """
    _check_tile(tile)
    decoder, dtype = model.decoder, model.post_quant_conv.weight.dtype
    state: State = {}
    uncut = []
    for frame in latents_BCTHW.split(1, dim=2):
        raw = model.denormalise(frame).to(dtype)
        x = model.post_quant_conv(raw.contiguous(memory_format=torch.channels_last_3d))
        x = decoder.conv_in(x, state)
        for layer in decoder.mid_block.layers():
            x = layer(x, state)
        uncut.append(x)
    batch, _, count, height, width = latents_BCTHW.shape
    pixels, patch = model.compression.spatial, model.config.patch
    frames = 1 + model.compression.temporal * (count - 1)
    video = latents_BCTHW.new_zeros(batch, 3, frames, pixels * height, pixels * width, dtype=torch.float32)
    for part in cut(height, width, tile, decoder_halo(model)):
        a, b, c, d = part.outer
        state, first = {}, 0
        for x in uncut:
            y = x[..., a:b, c:d].contiguous(memory_format=torch.channels_last_3d)
            for layer in (layer for block in decoder.up_blocks for layer in block.layers()):
                y = layer(y, state)
            y = depth_to_space(decoder.conv_out(y, state, decoder.norm_out), patch).float()
            paste(video[:, :, first : first + y.shape[2]], y, part, pixels)
            first += y.shape[2]
    return video.clamp_(-1.0, 1.0)


def encode(model: Autoencoder, video_BCTHW: Tensor, tile: int) -> Tensor:
    """As `Autoencoder.encode`, in tiles of at most `tile` latents a side."""
    return posterior(model, video_BCTHW, tile)[0]


def posterior(model: Autoencoder, video_BCTHW: Tensor, tile: int) -> tuple[Tensor, Tensor]:
    """As `Autoencoder.posterior`, in tiles of at most `tile` latents a side."""
    _check_tile(tile)
    model.compression.check(*video_BCTHW.shape[2:])
    encoder, dtype = model.encoder, model.quant_conv.weight.dtype
    chunks = time_chunks(video_BCTHW)
    pixels, patch = model.compression.spatial, model.config.patch
    height, width = (side // pixels for side in video_BCTHW.shape[3:])
    uncut: list[Tensor] = []
    for part in cut(height, width, tile, encoder_halo(model)):
        a, b, c, d = (pixels * side for side in part.outer)
        state: State = {}
        for index, chunk in enumerate(chunks):
            y = space_to_depth(chunk[..., a:b, c:d].to(dtype), patch)
            y = encoder.conv_in(y.contiguous(memory_format=torch.channels_last_3d), state)
            for layer in encoder.down_blocks:
                y = layer(y, state)
            if index == len(uncut):
                uncut.append(y.new_zeros(*y.shape[:3], height, width))
            paste(uncut[index], y, part, 1)
    state, moments = {}, []
    for x in uncut:
        x = x.contiguous(memory_format=torch.channels_last_3d)
        for layer in encoder.mid_block.layers():
            x = layer(x, state)
        x = encoder.conv_out(x, state, encoder.norm_out)
        moments.append(model.moments(x))
    return model.joined(moments)


def _check_tile(tile: int) -> None:
    """Raises ValueError for a tile that holds nothing."""
    if tile < 1:
        raise ValueError(f"tile {tile}: it must be at least 1 latent")


def decode_bytes(model: Autoencoder, height: int, width: int) -> int:
    """Estimate of what decoding one latent frame of H x W latents, halo included, holds at once."""
    config = model.config
    widest = config.decoder_base_width * config.width_multipliers[0]
    widest = max(widest, config.decoder_base_width * config.width_multipliers[1] // 2)
    places = 4 * height * width * (model.compression.spatial // config.patch) ** 2
    return int(COPIES * places * widest * model.post_quant_conv.weight.element_size())


def encode_bytes(model: Autoencoder, height: int, width: int) -> int:
    """Estimate of what encoding the first frames of H x W latents, halo included, holds at once."""
    config, time = model.config, model.compression.temporal
    widest = config.base_width * config.width_multipliers[0]
    places = (1 + time) * height * width * (model.compression.spatial // config.patch) ** 2
    return int(ENCODE_COPIES * places * widest * model.quant_conv.weight.element_size())


WAYS = {"decode": (decode_bytes, decoder_halo), "encode": (encode_bytes, encoder_halo)}


def tile_for(model: Autoencoder, height: int, width: int, budget: int, way: str = "decode") -> int:
    """The largest tile, in latents, whose coding in one way fits a budget of bytes; 0 where the frame does.

    Raises ValueError where not even the smallest does, naming what it takes, and for another's autoencoder.
    """
    if not isinstance(model, Autoencoder):
        raise ValueError("tiles are of Wan 2.1's autoencoder and ours: another takes no limit of memory")
    takes, halo_of = WAYS[way]
    if takes(model, height, width) <= budget:
        return 0
    halo = halo_of(model)
    for tile in range(max(height, width) - 1, 0, -1):
        sides = (min(length, tile + 2 * halo) for length in (height, width))
        if takes(model, *sides) <= budget:
            return tile
    least = takes(model, *(min(length, 1 + 2 * halo) for length in (height, width)))
    raise ValueError(f"a budget of {budget >> 20} MiB holds no tile: the smallest takes {least >> 20} MiB")
