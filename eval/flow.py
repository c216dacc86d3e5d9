"""Optical flow without weights (Bruhn et al. 2005), coarse to fine, and frames interpolated along it."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from eval.preprocess import covering

COARSEST = 16  # pixels of the shorter side below which no level of the pyramid is made
WARPS, SWEEPS = 3, 20  # of each level: linearisations, and sweeps of Jacobi's method in each
SMOOTHNESS = 1e-2  # weight of a squared difference of neighbours' flow beside squared brightness


def flow_between(first_NCHW: Tensor, second_NCHW: Tensor) -> Tensor:
    """How far things move from one frame to the other, N 2 H W (x, then y) in pixels; frames are in [0, 1].

    It is the flow at the moment between the frames: what stands at x then was at x - v/2 and will be at
    x + v/2. Bruhn et al. 2005 (combined local-global, eq. 10), linearised anew where the flow has moved it.
    """
    levels = [(first_NCHW, second_NCHW)]
    while min(levels[-1][0].shape[2:]) >= 2 * COARSEST:
        levels.append(tuple(F.avg_pool2d(frames, 2, ceil_mode=True) for frames in levels[-1]))
    flow_N2HW = torch.zeros_like(levels[-1][0][:, :2])
    for frames in reversed(levels):
        first, second = map(_window, frames)  # an edge of a pixel's width has no slope that a pixel tells
        flow_N2HW = _resized(flow_N2HW, *first.shape[2:])
        for _ in range(WARPS):
            flow_N2HW = _median(_improved(first, second, flow_N2HW))
    return flow_N2HW


def _improved(first: Tensor, second: Tensor, flow_N2HW: Tensor) -> Tensor:
    """The flow that solves the equations linearised at a flow."""
    before, after = warped(first, -flow_N2HW / 2), warped(second, flow_N2HW / 2)
    right, down = _gradients((before + after) / 2)
    change = after - before - right * flow_N2HW[:, :1] - down * flow_N2HW[:, 1:]
    products = (right * right, right * down, down * down, right * change, down * change)
    xx, xy, yy, xt, yt = _window(torch.stack([p.sum(1) for p in products], 1)).split(1, 1)
    xx, yy = xx + SMOOTHNESS, yy + SMOOTHNESS
    inverse_N4HW = torch.cat([yy, -xy, -xy, xx], 1) / (xx * yy - xy * xy)
    pull_N2HW = torch.cat([xt, yt], 1)
    for _ in range(SWEEPS):
        wanted = SMOOTHNESS * _neighbours(flow_N2HW) - pull_N2HW
        flow_N2HW = inverse_N4HW[:, 0::2] * wanted[:, :1] + inverse_N4HW[:, 1::2] * wanted[:, 1:]
    return flow_N2HW


def _gradients(frames_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences to the right and down; the edge is repeated."""
    wide = F.pad(frames_NCHW, (1, 1, 1, 1), mode="replicate")
    return (wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2]) / 2, (wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1]) / 2


def _neighbours(x_NCHW: Tensor) -> Tensor:
    """The mean of a pixel's four neighbours; at an edge the pixel stands for the one that is not there."""
    wide = F.pad(x_NCHW, (1, 1, 1, 1), mode="replicate")
    return (wide[..., 1:-1, 2:] + wide[..., 1:-1, :-2] + wide[..., 2:, 1:-1] + wide[..., :-2, 1:-1]) / 4


def _window(x_NCHW: Tensor) -> Tensor:
    """The binomial mean of five by five pixels."""
    for across in ((1, 0), (0, 1)):
        for _ in range(2):
            right, down = across
            wide = F.pad(x_NCHW, (right, right, down, down), mode="replicate")
            height, width = x_NCHW.shape[2:]
            x_NCHW = (wide[..., :height, :width] + 2 * x_NCHW + wide[..., 2 * down :, 2 * right :]) / 4
    return x_NCHW


def _median(x_NCHW: Tensor) -> Tensor:
    """The median of every pixel and its eight neighbours: a lone wrong one is outvoted."""
    height, width = x_NCHW.shape[2:]
    wide = F.pad(x_NCHW, (1, 1, 1, 1), mode="replicate")
    around = [wide[..., i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return torch.stack(around).median(0).values


def warped(frames_NCHW: Tensor, by_N2HW: Tensor) -> Tensor:
    """Frames as seen from displaced places: pixel x is the frame's value at x + by(x), bilinear."""
    height, width = frames_NCHW.shape[2:]
    x = torch.arange(width, device=by_N2HW.device) + by_N2HW[:, 0]
    y = torch.arange(height, device=by_N2HW.device)[:, None] + by_N2HW[:, 1]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    return F.grid_sample(frames_NCHW, grid, padding_mode="border", align_corners=False)


def _resized(flow_N2HW: Tensor, height: int, width: int) -> Tensor:
    """Flow on a grid of another size, in its pixels."""
    ratio = flow_N2HW.new_tensor([width / flow_N2HW.shape[3], height / flow_N2HW.shape[2]])
    larger = F.interpolate(flow_N2HW, (height, width), mode="bilinear", align_corners=False)
    return larger * ratio[:, None, None]


def interpolated(first_NCHW: Tensor, second_NCHW: Tensor) -> Tensor:
    """The frame in the middle between two, each moved half of the way."""
    half_N2HW = flow_between(first_NCHW, second_NCHW) / 2
    return (warped(first_NCHW, -half_N2HW) + warped(second_NCHW, half_N2HW)) / 2


def reduced(frames_THWC: Tensor, side: int, device: torch.device) -> Tensor:
    """Frames of bytes as N C H W in [0, 1]; of a shorter side above `side`, averaged down to it."""
    frames = rearrange(frames_THWC.to(device), "t h w c -> t c h w").float() / 255
    height, width = frames.shape[2:]
    if min(height, width) <= side:
        return frames
    return F.interpolate(frames, covering(height, width, side, round), mode="area")
