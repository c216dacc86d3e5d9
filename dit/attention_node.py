"""Plain attention over packs as one node of a compiled graph, whatever the samples' lengths."""

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from vae.training.device import on_cpu

flash, flash_backward = (
    getattr(torch.ops.aten, f"_scaled_dot_product_flash_attention_for_cpu{name}")
    for name in ("", "_backward")
)


def _parts(q: Tensor, queries: Tensor, keys: Tensor) -> Iterator[tuple[slice, slice, int]]:
    """Where the queries and keys of each call lie, and of how many samples: all where the lengths are equal,
    else one, without those that have no query; nowhere where there are no heads."""
    if not q.numel():  # a kernel would divide by zero
        return
    samples = len(queries) - 1
    edges = list(zip(queries.tolist(), keys.tolist(), strict=True))
    if all(len(set(x.diff().tolist())) == 1 for x in (queries, keys)):
        edges = [edges[0], edges[-1]]
    else:
        samples = 1
    for (q, k), (q_end, k_end) in pairwise(edges):
        if q_end > q:
            yield slice(q, q_end), slice(k, k_end), samples


@torch.library.custom_op("dit::attention", mutates_args=())
def attention(q: Tensor, k: Tensor, v: Tensor, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs L x N x D of packed queries L x N x D, keys and values S x N x D, and what the gradient needs:
    the logarithms of the softmax's sums, N x L, where a kernel gives them.

    `queries` and `keys` have where the samples start and the last one ends, on the CPU.
    """
    output = torch.empty_like(q, memory_format=torch.contiguous_format)
    sums = _sums(q)
    for here, there, samples in _parts(q, queries, keys):
        parts = [rearrange(x, "(b s) n d -> b n s d", b=samples) for x in (q[here], k[there], v[there])]
        if on_cpu(q):
            y, y_sums = flash(*parts)
            sums[:, here] = rearrange(y_sums, "b n s -> n (b s)")
        else:
            y = F.scaled_dot_product_attention(*parts)
        output[here] = rearrange(y, "b n s d -> (b s) n d")
    return output, sums


def _sums(q: Tensor) -> Tensor:
    """Where the logarithms of the softmax's sums are put."""
    return q.new_empty(q.shape[1], q.shape[0], dtype=torch.promote_types(q.dtype, torch.float32))


@torch.library.custom_op("dit::attention_backward", mutates_args=())
def attention_backward(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    output: Tensor,
    sums: Tensor,
    queries: Tensor,
    keys: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of queries, keys and values."""
    of_q, of_k, of_v = gradients = [
        torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (q, k, v)
    ]
    for here, there, samples in _parts(q, queries, keys):
        parts = [
            rearrange(x, "(b s) n d -> b n s d", b=samples)
            for x in (gradient[here], q[here], k[there], v[there], output[here])
        ]
        if on_cpu(q):
            its_sums = rearrange(sums[:, here], "n (b s) -> b n s", b=samples)
            its_gradients = flash_backward(*parts, its_sums, 0.0, False)
        else:
            its_gradients = _by_formula(*parts)
        for whole, part, place in zip(gradients, its_gradients, (here, there, there), strict=True):
            whole[place] = rearrange(part, "b n s d -> (b s) n d")
    return of_q, of_k, of_v


def _by_formula(gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, output: Tensor) -> tuple[Tensor, ...]:
    """Gradients of attention where no kernel is known (Dao et al. 2022, appendix B.2), B x N x S x D each.

    It stores the scores: for checks, no trainings (`check_compiler`).
    """
    exact = torch.promote_types(q.dtype, torch.float32)
    gradient, q, k, v, output = (x.to(exact) for x in (gradient, q, k, v, output))
    scale = q.shape[-1] ** -0.5
    weight = (scale * q @ k.mT).softmax(-1)
    of_score = weight * (gradient @ v.mT - (gradient * output).sum(-1, keepdim=True)) * scale
    return of_score @ k, of_score.mT @ q, weight.mT @ gradient


@attention.register_fake
def _(q, k, v, queries, keys):
    return torch.empty_like(q, memory_format=torch.contiguous_format), _sums(q)


@attention_backward.register_fake
def _(gradient, q, k, v, *_):
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))


def _setup(ctx, inputs, output) -> None:
    q, k, v, queries, keys = inputs
    ctx.save_for_backward(q, k, v, *output, queries, keys)


def _backward(ctx, gradient: Tensor, _) -> tuple:
    return *attention_backward(gradient, *ctx.saved_tensors), None, None


attention.register_autograd(_backward, setup_context=_setup)
