"""Optical flow of blocks by a small pyramid, and what part of it is the camera's."""

import numpy
from numpy import ndarray

BLOCK = 8  # pixels of a block's side, on every level
LEVELS = 3
ROUNDS = 2  # of every level
NOISE = 12.0  # squared bytes a pixel that a gradient must have to count: what is flat stays where it is
MOST = 4.0  # pixels that a level moves a block by at most


def block_flow(first_PHW: ndarray, then_PHW: ndarray) -> tuple[ndarray, ndarray]:
    """How far each block of pictures moves to the next, P 2 h w in pixels (right, down), and which are
    textured.

    Lucas & Kanade 1981, a pyramid from the coarsest level (Bouguet 2001), one shift for each block.
    """
    pyramid = [(first_PHW, then_PHW)]
    while len(pyramid) < LEVELS and min(pyramid[-1][0].shape[1:]) >= 4 * BLOCK:
        pyramid.append(tuple(_half(picture) for picture in pyramid[-1]))
    flow = None
    for one, two in reversed(pyramid):
        rows, columns = (max(1, side // BLOCK) for side in one.shape[1:])
        if flow is None:
            flow = numpy.zeros((len(one), 2, rows, columns), numpy.float32)
        else:
            below = [
                numpy.minimum(numpy.arange(n) // 2, flow.shape[2 + k] - 1)
                for k, n in enumerate((rows, columns))
            ]
            flow = 2 * flow[:, :, below[0]][:, :, :, below[1]]
        one, two = one[:, : rows * BLOCK, : columns * BLOCK], two[:, : rows * BLOCK, : columns * BLOCK]
        down, right = numpy.gradient(one, axis=(1, 2)) if min(one.shape[1:]) > 1 else (one * 0, one * 0)
        xx, yy, xy = (_sums(part, rows, columns) for part in (right * right, down * down, right * down))
        ridge = NOISE * BLOCK * BLOCK / 16
        determinant = (xx + ridge) * (yy + ridge) - xy * xy
        for _ in range(ROUNDS):
            error = one - _moved(two, flow)
            bx, by = _sums(right * error, rows, columns), _sums(down * error, rows, columns)
            dx = ((yy + ridge) * bx - xy * by) / determinant
            dy = ((xx + ridge) * by - xy * bx) / determinant
            flow = flow + numpy.clip(numpy.stack([dx, dy], 1), -MOST, MOST)
    textured = (xx + yy) / (BLOCK * BLOCK) > NOISE
    return flow * textured[:, None], textured


def camera(flow_P2hw: ndarray, textured_Phw: ndarray) -> list[tuple[float, float, float]]:
    """Of each pair of pictures the mean length of the flow, of what fits the camera's shift and zoom,
    and of the
    rest, in pixels a frame.

    The camera's is the median of the textured blocks, where a quarter of all are textured: with fewer it
    cannot
    be told from what moves before a plain background.
    """
    found = []
    rows, columns = textured_Phw.shape[1:]
    y, x = numpy.mgrid[:rows, :columns].astype(numpy.float32)
    x, y = (x - x.mean()) * BLOCK, (y - y.mean()) * BLOCK
    for (right, down), textured in zip(flow_P2hw, textured_Phw, strict=True):
        length = numpy.hypot(right, down)
        if textured.mean() < 0.25:
            found.append((float(length.mean()), 0.0, float(length.mean())))
            continue
        shift = numpy.median(right[textured]), numpy.median(down[textured])
        radius = x * x + y * y
        outer = textured & (radius > numpy.median(radius))
        outward = ((right - shift[0]) * x + (down - shift[1]) * y) / numpy.maximum(radius, 1.0)
        zoom = numpy.median(outward[outer]) if outer.any() else 0.0
        rest = numpy.hypot(right - shift[0] - zoom * x, down - shift[1] - zoom * y) * textured
        whole = numpy.hypot(shift[0] + zoom * x, shift[1] + zoom * y).mean()
        found.append((float(length.mean()), float(whole), float(rest.mean())))
    return found


def _half(picture_PHW: ndarray) -> ndarray:
    """Pictures of half the side, by means of two by two."""
    height, width = picture_PHW.shape[1:]
    part = picture_PHW[:, : height // 2 * 2, : width // 2 * 2]
    rows = part[:, ::2] + part[:, 1::2]
    return (rows[..., ::2] + rows[..., 1::2]) / 4


def _sums(values_PHW: ndarray, rows: int, columns: int) -> ndarray:
    """Sums over blocks; a side shorter than a block is one."""
    count, height, width = values_PHW.shape
    bands = values_PHW.reshape(count, rows, height // rows, width).sum(2)
    return sum(bands[..., k :: width // columns] for k in range(width // columns))


def _moved(picture_PHW: ndarray, flow_P2hw: ndarray) -> ndarray:
    """What of a picture lies where each block went, between pixels by straight lines."""
    count, height, width = picture_PHW.shape
    rows, columns = flow_P2hw.shape[2:]
    flow = flow_P2hw.repeat(height // rows, 2).repeat(width // columns, 3)
    y, x = numpy.mgrid[:height, :width].astype(numpy.float32)
    x = numpy.clip(x + flow[:, 0], 0, width - 1.001) if width > 1 else x + 0 * flow[:, 0]
    y = numpy.clip(y + flow[:, 1], 0, height - 1.001) if height > 1 else y + 0 * flow[:, 1]
    left, top = x.astype(numpy.int32), y.astype(numpy.int32)
    x, y = x - left, y - top
    flat = picture_PHW.reshape(-1)
    place = top * width + left + (numpy.arange(count, dtype=numpy.int32) * height * width)[:, None, None]
    across, along = int(width > 1), width * int(height > 1)
    above = flat[place] * (1 - x) + flat[place + across] * x
    under = flat[place + along] * (1 - x) + flat[place + along + across] * x
    return above * (1 - y) + under * y
