"""Causal 3D convolution, the frames it keeps between chunks, its norm, and the ways of a CPU."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vae.training.device import on_cpu

SLICE_PIXELS = 1 << 12  # of a frame from which a kernel's slices are added up; below, calls cost more
State = dict  # module -> the last frames it saw; what a chunk must know of the chunks before it


def convolve(layer: nn.Conv3d, x: Tensor) -> Tensor:
    """The convolution of a layer.

    Autocast does not know oneDNN's call: what it would do to another convolution is done here.
    """
    weight, bias = layer.weight, layer.bias
    if on_cpu(x) and torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    return conv3d(x, weight, bias, layer.stride, layer.padding)


def _in_slices(x: Tensor, weight: Tensor) -> bool:
    """Whether a kernel's slices are added up: of one large frame, without gradients, in fp32 by oneDNN."""
    one = x.shape[2] == 1 and x.shape[3] * x.shape[4] >= SLICE_PIXELS and not torch.is_grad_enabled()
    exact = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return one and exact and on_cpu(x) and onednn_takes(x.dtype)


def conv3d(x: Tensor, weight: Tensor, bias: Tensor, stride: tuple, padding: tuple) -> Tensor:
    """A 3D convolution, on a CPU always oneDNN's.

    PyTorch leaves that for up to ten times slower loops where batch x channels x frames x rows are at most
    20480, and of 1 x 1 x 1 kernels on a single thread, which also add up in another order. oneDNN's gradient
    of a bf16 kernel of three on two frames, padded by one, is in part memory that nobody wrote: frames are
    padded before.
    """
    if on_cpu(x) and x.dtype == weight.dtype and onednn_takes(x.dtype):
        if padding[0] and x.dtype == torch.bfloat16:
            x, padding = F.pad(x, (0, 0, 0, 0, padding[0], padding[0])), (0, *padding[1:])
        return torch.mkldnn_convolution(x, weight, bias, padding, stride, (1, 1, 1), 1)
    return F.conv3d(x, weight, bias, stride, padding)


@lru_cache
def onednn_takes(dtype: torch.dtype) -> bool:
    """Whether oneDNN convolves in this dtype on this processor."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (
        dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


class CausalConv3d(nn.Conv3d):
    """A 3D convolution that sees only the past: `kernel - 1` frames of zeros, or of the chunk before."""

    def forward(self, x: Tensor, state: State | None = None, norm: nn.Module | None = None) -> Tensor:
        """The convolution of x, or of x normalised and activated, which is held no longer than needed."""
        past = self.kernel_size[0] - 1
        if past and state is not None and self in state and _in_slices(x, self.weight):
            return self.add_frame(x, state[self], norm)
        if norm is not None:
            x = norm.activated(x)
        if past:
            kept = None if state is None else state.get(self)
            x = F.pad(x, (0, 0, 0, 0, past, 0)) if kept is None else torch.cat([kept, x], dim=2)
            if kept is not None and not torch.is_grad_enabled():
                kept.copy_(x[:, :, -past:])
            elif state is not None:
                state[self] = x[:, :, -past:].clone()
        return convolve(self, x)

    def add_frame(self, x: Tensor, kept: Tensor, norm: nn.Module | None) -> Tensor:
        """The convolution of one frame more, which takes the oldest one's place among those that are kept.

        The kernel's slices are added up: as fast as with frames laid side by side, and without their memory.
        """
        padding = self.padding[1:]
        *older, newest = self.weight.unbind(2)
        y = torch.mkldnn_convolution(kept[:, :, 0], older[0], self.bias, padding, (1, 1), (1, 1), 1)
        for t, weight in enumerate(older[1:], 1):
            y.add_(torch.mkldnn_convolution(kept[:, :, t], weight, None, padding, (1, 1), (1, 1), 1))
            kept[:, :, t - 1] = kept[:, :, t]
        kept[:, :, -1:] = x if norm is None else norm.activated(x)
        y.add_(torch.mkldnn_convolution(kept[:, :, -1], newest, None, padding, (1, 1), (1, 1), 1))
        return y[:, :, None]


class ChannelNorm(nn.Module):
    """RMS norm over channels, computed where they are contiguous (channels-last memory)."""

    def __init__(self, channels: int, spatial_dims: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * spatial_dims))

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(1, -1)
        return F.rms_norm(x, x.shape[-1:], self.gamma.flatten().to(x.dtype), eps=1e-12).movedim(-1, 1)

    def activated(self, x_BCTHW: Tensor) -> Tensor:
        """SiLU of the norm; on a CPU without gradients a frame at a time, in fp32, with nothing beside it."""
        if torch.is_grad_enabled() or not on_cpu(x_BCTHW):
            return F.silu(self(x_BCTHW), inplace=not torch.is_grad_enabled())
        x = x_BCTHW.movedim(1, -1)
        dtype = torch.promote_types(x.dtype, torch.float32)
        gamma, result = self.gamma.flatten().to(dtype), torch.empty_like(x)
        for frame, place in zip(x.unbind(1), result.unbind(1), strict=True):
            frame = frame.to(dtype)
            within = place if x.dtype == dtype else frame
            squares = torch.square(frame, out=within if within is place else None)
            power = squares.mean(-1, keepdim=True).add_(1e-12)
            torch.mul(frame, power.rsqrt_(), out=within).mul_(gamma)
            F.silu(within, inplace=True)
            if within is not place:
                place.copy_(within)
        return result.movedim(-1, 1)


def per_frame(layer: nn.Module, x_BCTHW: Tensor) -> Tensor:
    """Applies an image layer to every frame, in memory where channels come last."""
    b, _, t, _, _ = x_BCTHW.shape
    # A single frame is taken out, since reshaping leaves it strides that no layer knows for channels-last.
    x = x_BCTHW[:, :, 0] if t == 1 else rearrange(x_BCTHW, "b c t h w -> (b t) c h w")
    y = layer(x.contiguous(memory_format=torch.channels_last))
    return rearrange(y, "(b t) c h w -> b c t h w", b=b) if t > 1 else y[:, :, None]
