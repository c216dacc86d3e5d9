"""Packs: patches of many samples in one sequence, its layout, rotary positions and distinct times."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch
from einops import rearrange
from torch import Tensor

from dit.attention import Lengths, make_lengths
from vae.compression import PATCH
from vae.training.device import send


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the samples of a packed sequence lie, and which tokens share a time; made once per batch.

    `tokens` are the whole pack's, among which self-attention looks, and `local` those that lie here, of each
    sample: the same object where a process has the whole pack. The local ones are cut into equal runs of one
    sample and time each, as long as the pack allows: whole clips where all are equal, a latent frame where
    first frames are given. `rows` maps runs to the M = `pairs` distinct (sample, time) pairs, and `stretches`
    are those of all tokens in order, each a row and how many tokens in succession have it. `row_of_token` is
    for a compiler, to which runs of each pack's own length are no use. `rotary` has the cosine and sine of
    every local token's angles, L x D/2 x 2.
    """

    tokens: Lengths
    local: Lengths
    pairs: int
    stretches: tuple[tuple[int, int], ...]
    run_length: int
    rows: Tensor
    row_of_token: Tensor
    rotary: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> "Layout":
        """The same layout with every tensor changed, moved or pinned."""
        tokens = self.tokens.map(change)
        local = tokens if self.local is self.tokens else self.local.map(change)
        names = ("rows", "row_of_token", "rotary")
        return replace(self, tokens=tokens, local=local, **{n: change(getattr(self, n)) for n in names})

    def to(self, device: torch.device) -> "Layout":
        """A layout of the CPU on a device, from pinned memory: the host does not wait for the copy."""
        return self.map(partial(send, device=device))

    def part(self, first: int, last: int) -> "Layout":
        """The layout of the tokens [first, last) of the pack; its rows are still those of all M pairs."""
        local = [b - a for a, b in _cut(self.tokens.each, first, last)]
        counts = [b - a for a, b in _cut([count for _, count in self.stretches], first, last)]
        rows = [row for row, _ in self.stretches]
        stretches = tuple((row, count) for row, count in zip(rows, counts, strict=True) if count)
        run_length, rows_of_runs = _runs(stretches)
        device = self.rows.device
        return replace(
            self,
            local=make_lengths(local, device),
            stretches=stretches,
            run_length=run_length,
            rows=send(rows_of_runs, device),
            row_of_token=self.row_of_token[first:last].clone(),  # no view: that is another graph
            rotary=self.rotary[first:last].clone(),
        )


def _cut(lengths: Iterable[int], first: int, last: int) -> Iterator[tuple[int, int]]:
    """Where the part [first, last) of a sequence begins and ends in each of the pieces that lie in a row."""
    end = 0
    for length in lengths:
        start, end = end, end + length
        yield min(max(first, start), end), max(min(last, end), start)


def _runs(stretches: Iterable[tuple[int, int]]) -> tuple[int, Tensor]:
    """The longest length that divides all stretches, and the row of every run of that length."""
    rows, counts = zip(*stretches, strict=True) if stretches else ((), ())
    length = math.gcd(*counts) or 1
    return length, torch.tensor(rows, dtype=torch.long).repeat_interleave(
        torch.tensor(counts, dtype=torch.long) // length
    )


def _of_tokens(rows: Tensor, run_length: int) -> Tensor:
    """The row of every token."""
    return rows[torch.arange(len(rows) * run_length) // run_length]


def patchify(latents_CTHW: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """Tokens L x P of one sample, P over (channel, frame, height, width), and its patches along each axis."""
    pt, ph, pw = PATCH
    patches = rearrange(latents_CTHW, "c (t pt) (h ph) (w pw) -> t h w (c pt ph pw)", pt=pt, ph=ph, pw=pw)
    return patches.flatten(0, 2), tuple(patches.shape[:3])


def unpatchify(tokens_LP: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """The inverse of `patchify`: C T H W of one sample."""
    (pt, ph, pw), (t, h, w) = PATCH, grid
    return rearrange(
        tokens_LP, "(t h w) (c pt ph pw) -> c (t pt) (h ph) (w pw)", t=t, h=h, w=w, pt=pt, ph=ph, pw=pw
    )


@lru_cache(maxsize=256)
def _turns(size: int, width: int) -> Tensor:
    """Cosine and sine of the angles of one axis, size x width/2 x 2, computed in fp64."""
    frequencies = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.outer(torch.arange(size, dtype=torch.float64), frequencies)
    return torch.stack([angles.cos(), angles.sin()], dim=-1).float()


def _rotary_table(grids: list[tuple[int, int, int]], head_width: int) -> Tensor:
    """Cosine and sine of every token's angles, L x D/2 x 2, fp32.

    3D rotary embedding (Su et al. 2021, over three axes): of the D/2 frequencies a third turns with the row,
    a third with the column and the rest with the frame, as Wan splits them.
    """
    spatial = 2 * (head_width // 6)
    widths = head_width - 2 * spatial, spatial, spatial
    tables = [torch.empty(*grid, head_width // 2, 2) for grid in grids]
    for grid, table_THWD2 in zip(grids, tables, strict=True):
        frame, row, column = map(_turns, grid, widths)
        parts = table_THWD2.split([width // 2 for width in widths], dim=-2)
        for part, turns in zip(parts, (frame[:, None, None], row[:, None], column), strict=True):
            part.copy_(turns)
    return torch.cat([rearrange(table, "t h w d two -> (t h w) d two") for table in tables])


def make_layout(
    grids: list[tuple[int, int, int]], times_L: list[Tensor], head_width: int, device: torch.device
) -> tuple[Layout, Tensor]:
    """The layout of a pack and its M distinct times, from each sample's grid and its time, one or per token.

    Tokens of one sample that share a time share a row of the modulation, wherever they lie. All is made on
    the CPU, where the times must be, and then sent; a thread may make it for the CPU.
    """
    distinct, stretches = [], []
    for time, grid in zip(times_L, grids, strict=True):
        first, count = sum(map(len, distinct)), math.prod(grid)
        if time.numel() == 1:
            distinct.append(time.reshape(1))
            stretches.append((first, count))
            continue
        values, inverse = time.unique(return_inverse=True)
        rows, counts = inverse.unique_consecutive(return_counts=True)
        distinct.append(values)
        stretches += zip((rows + first).tolist(), counts.tolist(), strict=True)
    tokens = make_lengths(map(math.prod, grids), torch.device("cpu"))
    run_length, rows = _runs(stretches)
    layout = Layout(
        tokens=tokens,
        local=tokens,
        pairs=sum(map(len, distinct)),
        stretches=tuple(stretches),
        run_length=run_length,
        rows=rows,
        row_of_token=_of_tokens(rows, run_length),
        rotary=_rotary_table(grids, head_width),
    )
    return layout.to(device), send(torch.cat(distinct).float(), device)
