"""The tasks that training draws: which tokens of a sample are given, from a table of functions.

Each is `task(grid, draw) -> mask`: of tokens T H W, with a generator of the sample's own, which tokens are
given. Whatever lies between two tasks, a network that has learned both has seen as well.
"""

from collections.abc import Callable
from dataclasses import asdict

import torch
from numpy.random import Generator
from torch import Tensor

from configs.train import TaskWeights
from vae.training.seeds import generator

Grid = tuple[int, int, int]
Task = Callable[[Grid, Generator], Tensor]


def _frames(grid: Grid, *frames: int | slice) -> Tensor:
    """A mask of whole frames."""
    mask_THW = torch.zeros(grid, dtype=torch.bool)
    for frame in frames:
        mask_THW[frame] = True
    return mask_THW


def first(grid: Grid, draw: Generator) -> Tensor:
    """The first frame."""
    return _frames(grid, 0)


def last(grid: Grid, draw: Generator) -> Tensor:
    """The last frame."""
    return _frames(grid, -1)


def first_and_last(grid: Grid, draw: Generator) -> Tensor:
    """The first frame and the last."""
    return _frames(grid, 0, -1)


def some_frames(grid: Grid, draw: Generator) -> Tensor:
    """One frame or more, but not all, anywhere; as often each number of them."""
    count = draw.integers(1, max(2, grid[0]))
    return _frames(grid, *draw.permutation(grid[0])[:count].tolist())


def prefix(grid: Grid, draw: Generator) -> Tensor:
    """One frame or more from the first one, but not all; as often each number of them."""
    return _frames(grid, slice(draw.integers(1, max(2, grid[0]))))


def suffix(grid: Grid, draw: Generator) -> Tensor:
    """One frame or more up to the last one, but not all; as often each number of them."""
    return _frames(grid, slice(-draw.integers(1, max(2, grid[0])), None))


def middle_missing(grid: Grid, draw: Generator) -> Tensor:
    """All but a gap of one frame or more, before and after which there is one at least."""
    if grid[0] < 3:
        return _frames(grid, slice(None))
    before, after = sorted(draw.choice(grid[0] - 1, 2, replace=False) + 1)
    return _frames(grid, slice(before), slice(after, None))


def every_kth(grid: Grid, draw: Generator) -> Tensor:
    """The first frame and every k-th after it, k from 2 to all frames but one, or 4 at most."""
    return _frames(grid, slice(None, None, draw.integers(2, max(3, min(5, grid[0])))))


def region(grid: Grid, draw: Generator) -> Tensor:
    """A box: a quarter of each side to three, as often of all frames as of a span of them."""
    rows, columns = (_span(size, max(1, size // 4), max(1, 3 * size // 4), draw) for size in grid[1:])
    frames = slice(None) if draw.random() < 0.5 else _span(grid[0], 1, grid[0], draw)
    mask_THW = torch.zeros(grid, dtype=torch.bool)
    mask_THW[frames, rows, columns] = True
    return mask_THW


def all_but_region(grid: Grid, draw: Generator) -> Tensor:
    """All but such a box."""
    return ~region(grid, draw)


def _span(size: int, least: int, most: int, draw: Generator) -> slice:
    """A span of `least` to `most` out of a size, anywhere."""
    length = draw.integers(least, most + 1)
    start = draw.integers(size - length + 1)
    return slice(start, start + length)


TASKS: dict[str, Task] = {
    "first": first,
    "last": last,
    "first_and_last": first_and_last,
    "some_frames": some_frames,
    "prefix": prefix,
    "suffix": suffix,
    "middle_missing": middle_missing,
    "every_kth": every_kth,
    "region": region,
    "all_but_region": all_but_region,
}


def trained_tasks(weights: TaskWeights) -> list[str]:
    """The tasks of a training that give anything."""
    return [name for name in TASKS if getattr(weights, name)]


def check_tasks(weights: TaskWeights) -> None:
    """Raises ValueError where there is no task to draw."""
    if not any(asdict(weights).values()):
        raise ValueError("flow.tasks has a weight of 0 for every task: give one of them more, such as none")


def draw_task(share: float, weights: TaskWeights, grid: Grid, seed: int, draw: int) -> Tensor | None:
    """Which tokens T H W of a training sample are given, by where its share, in [0, 1), lies among the
    tasks' weights; None where nothing is. Each task has its own part of [0, 1), in the order of the table."""
    left = share * sum(asdict(weights).values())
    for name in TASKS:
        if left < getattr(weights, name):
            return task_mask(name, grid, seed, draw)
        left -= getattr(weights, name)
    return None


def task_mask(name: str, grid: Grid, seed: int, draw: int) -> Tensor | None:
    """Which tokens T H W a task gives of a sample, by the draw; None for none or all, which is no task."""
    mask_THW = TASKS[name](grid, generator(seed, "task", draw))
    return mask_THW if mask_THW.any() and not mask_THW.all() else None
