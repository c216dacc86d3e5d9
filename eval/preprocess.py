"""From a video's frames to what a feature network takes, every choice by the protocol."""

import io
import math
from functools import partial

import numpy
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from configs.protocol import Preprocessing


def prepare(frames_THWC: Tensor, protocol: Preprocessing) -> Tensor:
    """Frames of bytes as the network's clip, float 3 T S S in [-1, 1], channels last in memory."""
    if protocol.stored_size:
        frames_THWC = stored(frames_THWC, protocol)
    frames = rearrange(frames_THWC, "t h w c -> t c h w").float()
    height, width = frames.shape[2:]
    size = (protocol.size, protocol.size)
    if protocol.fit == "crop":
        size = covering(height, width, protocol.size, math.ceil)
    if (height, width) != size:
        frames = RESIZES[protocol.kernel](frames, size)
    clip_THWC = rearrange(middle(frames, protocol.size), "t c h w -> t h w c").contiguous()
    return rearrange(clip_THWC.mul_(2 / 255).sub_(1), "t h w c -> c t h w")


def stored(frames_THWC: Tensor, protocol: Preprocessing) -> Tensor:
    """The square frames of bytes that some pipelines write before they score."""
    side = protocol.stored_size
    frames = rearrange(frames_THWC, "t h w c -> t c h w")
    if protocol.stored_order == "crop-resize":
        frames = middle(frames, min(frames.shape[2:]))
    cut = {"floor": math.floor, "ceil": math.ceil}[protocol.stored_longer]
    size = covering(*frames.shape[2:], side, cut)
    if size != tuple(frames.shape[2:]):
        frames = STORED_RESIZES[protocol.stored_kernel](frames, size, protocol.stored_rounding)
    frames = rearrange(middle(frames, side), "t c h w -> t h w c").contiguous()
    return frames if protocol.stored_codec == "none" else as_jpeg(frames, 75)


def covering(height: int, width: int, side: int, cut) -> tuple[int, int]:
    """The size whose shorter side is `side`; `cut` makes the longer one whole."""
    if height <= width:
        return side, cut(width * side / height)
    return cut(height * side / width), side


def middle(frames_TCHW: Tensor, side: int) -> Tensor:
    """The square in the middle."""
    top, left = ((length - side) // 2 for length in frames_TCHW.shape[2:])
    return frames_TCHW[:, :, top : top + side, left : left + side]


def bilinear(frames_TCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, half-pixel centres, no antialiasing."""
    return F.interpolate(frames_TCHW, size, mode="bilinear", align_corners=False)


def bilinear_tf1(frames_TCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """TensorFlow 1's `resize_bilinear`: pixel k of the output is at k * input / output of the input."""
    wider = torch.cat([frames_TCHW, frames_TCHW[:, :, -1:]], dim=2)  # with a row and a column more on both
    wider = torch.cat([wider, wider[:, :, :, -1:]], dim=3)  # sides, aligned corners give just these places
    size = (size[0] + 1, size[1] + 1)
    return F.interpolate(wider, size, mode="bilinear", align_corners=True)[:, :, :-1, :-1]


def _bilinear_corners(frames_TCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with the centres of the corners' pixels aligned, as Chainer's `resize_images`."""
    return F.interpolate(frames_TCHW, size, mode="bilinear", align_corners=True)


RESIZES = {"bilinear": bilinear, "bilinear-tf1": bilinear_tf1, "bilinear-corners": _bilinear_corners}


def _bilinear_bytes(
    frames_TCHW: Tensor, size: tuple[int, int], rounding: str, antialias: bool = True
) -> Tensor:
    """Bilinear in floats of [0, 1], then whole bytes."""
    frames = F.interpolate(frames_TCHW.float() / 255, size, mode="bilinear", antialias=antialias)
    if rounding == "floor-halves":
        frames = (frames - 0.5) + 0.5
    frames = frames * 255
    return (frames.round() if rounding == "round" else frames).clamp(0, 255).byte()


def _pillow_bytes(frames_TCHW: Tensor, size: tuple[int, int], rounding: str, kernel: str) -> Tensor:
    """A resize by Pillow, which is antialiased and rounds to bytes."""
    from PIL import Image

    assert rounding == "round", "Pillow rounds"
    resized = []
    for frame in rearrange(frames_TCHW, "t c h w -> t h w c").contiguous().numpy():
        image = Image.fromarray(frame).resize((size[1], size[0]), Image.Resampling[kernel])
        resized.append(torch.from_numpy(numpy.array(image)))
    return rearrange(torch.stack(resized), "t h w c -> t c h w")


STORED_RESIZES = {
    "bilinear": _bilinear_bytes,
    "bilinear-plain": partial(_bilinear_bytes, antialias=False),
    "bicubic": partial(_pillow_bytes, kernel="BICUBIC"),
    "lanczos": partial(_pillow_bytes, kernel="LANCZOS"),
}


def as_jpeg(frames_THWC: Tensor, quality: int) -> Tensor:
    """Frames written as JPEG by Pillow, and read again."""
    from PIL import Image

    frames = []
    for frame in frames_THWC.numpy():
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, format="JPEG", quality=quality)
        frames.append(torch.from_numpy(numpy.array(Image.open(buffer, formats=["JPEG"]))))
    return torch.stack(frames)
