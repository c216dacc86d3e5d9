"""The maximum mean discrepancy of two sets of features by a kernel, in float64, in blocks of rows."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from configs.protocol import KernelProtocol

BLOCK = 512  # rows of a kernel's matrix held at once


def _polynomial(one_ND: Tensor, other_MD: Tensor, degree: int, offset: float) -> Tensor:
    """(x y / D + offset)^degree, N M."""
    return (one_ND @ other_MD.T / one_ND.shape[1] + offset) ** degree


def _gaussian(one_ND: Tensor, other_MD: Tensor, sigma: float) -> Tensor:
    """exp(-|x - y|^2 / (2 sigma^2)), N M."""
    squared = one_ND.square().sum(1)[:, None] + other_MD.square().sum(1) - 2 * one_ND @ other_MD.T
    return torch.exp(-squared.clamp(min=0) / (2 * sigma**2))


def _kernel_of(protocol: KernelProtocol) -> Callable[[Tensor, Tensor], Tensor]:
    """The kernel of a protocol."""
    if protocol.mmd_kernel == "gaussian":
        return partial(_gaussian, sigma=protocol.sigma)
    return partial(_polynomial, degree=protocol.degree, offset=protocol.offset)


def discrepancy(real_ND: Tensor, fake_MD: Tensor, protocol: KernelProtocol) -> float:
    """The square of the maximum mean discrepancy, times the protocol's scale (Gretton et al. 2012).

    Unbiased (eq. 3 there) it leaves the diagonal out, is 0 on average for equal distributions, and may be
    negative; biased (eq. 5) it keeps it. Memory does not grow with the square of the counts.
    """
    counts = (torch.ones(len(side), 1, dtype=torch.float64) for side in (real_ND, fake_MD))
    return discrepancies(real_ND, fake_MD, protocol, *counts).item()


def discrepancies(
    real_ND: Tensor, fake_MD: Tensor, protocol: KernelProtocol, real_NB: Tensor, fake_MB: Tensor
) -> Tensor:
    """The same of B samples of each side, which hold each clip as often as its row of counts says.

    Each value of the kernel is computed once for all samples. Unbiased, a clip beside its own copy is no
    pair: it is as near as only the diagonal is. Raises ValueError for a side of fewer clips than the estimate
    takes.
    """
    kernel = _kernel_of(protocol)
    real, fake, real_counts, fake_counts = (x.double() for x in (real_ND, fake_MD, real_NB, fake_MB))
    within = []
    for side, counts in ((real, real_counts), (fake, fake_counts)):
        size = counts.sum(0)
        if (size < (2 if protocol.unbiased else 1)).any():
            raise ValueError(f"{int(size.min())} clips have no {protocol.title}: it takes two of each side")
        total = _sums(kernel, side, side, counts, counts)
        if protocol.unbiased:
            diagonal, copies = torch.cat([kernel(row, row)[0] for row in side.split(1)]), counts.square()
            pairs = (size.square() - copies.sum(0)).clamp(min=1)  # none of copies of one clip alone
            within.append((total - diagonal @ copies) / pairs)
        else:
            within.append(total / size.square())
    across = _sums(kernel, real, fake, real_counts, fake_counts) / (real_counts.sum(0) * fake_counts.sum(0))
    return protocol.scale * (within[0] + within[1] - 2 * across)


def _sums(
    kernel: Callable[[Tensor, Tensor], Tensor],
    one_ND: Tensor,
    other_MD: Tensor,
    one_NB: Tensor,
    other_MB: Tensor,
) -> Tensor:
    """The sum of the kernel over all pairs, weighted by both counts, for each of B samples."""
    total = torch.zeros(one_NB.shape[1], dtype=torch.float64)
    for rows, counts in zip(one_ND.split(BLOCK), one_NB.split(BLOCK), strict=True):
        for others, other_counts in zip(other_MD.split(BLOCK), other_MB.split(BLOCK), strict=True):
            total += (counts * (kernel(rows, others) @ other_counts)).sum(0)
    return total
