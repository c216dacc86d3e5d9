"""Packs: patches of many samples in one sequence, its layout, rotary positions and distinct times."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from einops import rearrange
from torch import Tensor

from dit.attention import Lengths
from vae.compression import PATCH


@dataclass(frozen=True)
class Layout:
    """Where the samples of a packed sequence lie, and which tokens share a time; made once per batch.

    The sequence is cut into equal runs of one sample and time each, as long as the pack allows: whole
    clips where all are equal, a latent frame where first frames are given. `rows` maps runs to the M
    distinct (sample, time) pairs, or is None where the runs are the pairs in order. `rotary` has the cosine
    and sine of every token's angles, each L x 1 x D/2.
    """

    tokens: Lengths
    pairs: int
    rows: Tensor | None
    rotary: tuple[Tensor, Tensor]
    run_length: int

    def to(self, device: torch.device) -> "Layout":
        """The same on a device."""
        tokens = Lengths(self.tokens.each, device)
        rows = None if self.rows is None else self.rows.to(device)
        return replace(self, tokens=tokens, rows=rows, rotary=tuple(x.to(device) for x in self.rotary))

    @cached_property
    def rotary_factors(self) -> Tensor:
        """The rotary table as complex numbers, L x 1 x 1 x D/2."""
        return torch.complex(*self.rotary)[:, None]


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


def _rotary_table(
    grids: tuple[tuple[int, int, int], ...], head_width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every token's angles, each L x 1 x D/2, fp32.

    3D rotary embedding (Su et al. 2021, over three axes): of the D/2 frequencies a third turns with the row,
    a third with the column and the rest with the frame, as Wan splits them.
    """
    spatial = 2 * (head_width // 6)
    angles = []
    for t, h, w in grids:
        axes = []
        for size, width in zip((t, h, w), (head_width - 2 * spatial, spatial, spatial), strict=True):
            frequencies = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
            axes.append(torch.outer(torch.arange(size, dtype=torch.float64), frequencies))
        frame, row, column = axes
        full = torch.cat(
            [
                frame[:, None, None].expand(t, h, w, -1),
                row[None, :, None].expand(t, h, w, -1),
                column[None, None, :].expand(t, h, w, -1),
            ],
            dim=-1,
        )
        angles.append(rearrange(full, "t h w d -> (t h w) 1 d"))
    table = torch.cat(angles)
    return table.cos().float().to(device), table.sin().float().to(device)


def make_layout(
    grids: list[tuple[int, int, int]], times_L: list[Tensor], head_width: int, device: torch.device
) -> tuple[Layout, Tensor]:
    """The layout of a pack and its M distinct times, from each sample's grid and its time, one or per token.

    Tokens of one sample that share a time share a row of the modulation, wherever they lie.
    """
    tokens = tuple(math.prod(grid) for grid in grids)
    distinct, rows, first = [], [], 0
    for time, count in zip(times_L, tokens, strict=True):
        if time.numel() == 1:
            values, inverse = time.reshape(1), torch.zeros(count, dtype=torch.long)
        else:
            values, inverse = time.cpu().unique(return_inverse=True)
        distinct.append(values.cpu())
        rows.append(inverse + first)
        first += len(values)
    row_of_token = torch.cat(rows)
    run_length = math.gcd(*row_of_token.unique_consecutive(return_counts=True)[1].tolist())
    row_of_run = row_of_token[::run_length]
    in_order = torch.equal(row_of_run, torch.arange(first))
    layout = Layout(
        tokens=Lengths(tokens, device),
        pairs=first,
        rows=None if in_order else row_of_run.to(device),
        rotary=_rotary_table(tuple(grids), head_width, device),
        run_length=run_length,
    )
    return layout, torch.cat(distinct).float().to(device)
