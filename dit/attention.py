"""The one door to attention: packed queries, keys and values, exactly zero weight between samples."""

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from dit import attention_node
from vae.training.device import on_cpu, send
from vae.training.seeds import normal


@dataclass(frozen=True, eq=False)
class Lengths:
    """How many tokens each sample of a packed sequence has; `make_lengths` makes it.

    `cumulative` is the start of every sample and the end of the last, int32, and `on_host` the same on the
    CPU. Where the samples are to be read as a padded batch, `padding` says which of its B x longest places
    hold a token, and for every place the token that it holds, or any.
    """

    each: tuple[int, ...]
    total: int
    equal: bool
    longest: int
    on_host: Tensor
    cumulative: Tensor
    padding: tuple[Tensor, Tensor] | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "Lengths":
        """The same lengths with every tensor changed, moved or pinned."""
        padding = self.padding and tuple(map(change, self.padding))
        return replace(self, cumulative=change(self.cumulative), padding=padding)


def make_lengths(each: Iterable[int], device: torch.device, padded: bool = False) -> Lengths:
    """The lengths of samples, their tensors made on the CPU and copied, which the host does not wait for."""
    each = tuple(each)
    counts, longest, padding = torch.tensor(each), max(each), None
    cumulative = F.pad(counts.cumsum(0), (1, 0))
    if padded:
        real = torch.arange(longest) < counts[:, None]
        padding = real, cumulative[:-1, None] + torch.arange(longest) * real
    starts = cumulative.int()
    lengths = Lengths(each, sum(each), len(set(each)) == 1, longest, starts, starts, padding)
    return lengths.map(partial(send, device=device))


Attention = Callable[[Tensor, Tensor, Tensor, Lengths, Lengths], Tensor]


def sdpa(q_LND: Tensor, k_SND: Tensor, v_SND: Tensor, queries: Lengths, keys: Lengths) -> Tensor:
    """PyTorch's attention: one batched call where the lengths are equal, else one plain call per sample.

    A mask over the padded batch would compute, and on a CPU also store, what it then throws away.
    """
    if torch.compiler.is_compiling():
        return attention_node.attention(q_LND, k_SND, v_SND, queries.on_host, keys.on_host)[0]
    if not q_LND.numel():
        return _nothing(q_LND, k_SND, v_SND)
    if queries.equal and keys.equal:
        batch = len(queries.each)
        q, k, v = (rearrange(x, "(b s) n d -> b n s d", b=batch) for x in (q_LND, k_SND, v_SND))
        return rearrange(F.scaled_dot_product_attention(q, k, v), "b n s d -> (b s) n d")
    if queries.equal and keys.padding:  # texts are short beside the video: one padded call is the fastest
        batch, (real, places) = len(queries.each), keys.padding
        q = rearrange(q_LND, "(b s) n d -> b n s d", b=batch)
        k, v = (rearrange(x[places], "b s n d -> b n s d") for x in (k_SND, v_SND))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None])
        return rearrange(y, "b n s d -> (b s) n d")
    outputs = [
        F.scaled_dot_product_attention(*(rearrange(x, "s n d -> 1 n s d") for x in qkv))
        for qkv in zip(q_LND.split(queries.each), k_SND.split(keys.each), v_SND.split(keys.each), strict=True)
        if len(qkv[0])
    ]
    return torch.cat([rearrange(x, "1 n s d -> s n d") for x in outputs])


def _nothing(q_LND: Tensor, k_SND: Tensor, v_SND: Tensor) -> Tensor:
    """The output where no query lies here, or no head: empty, and the gradients of all three are zero."""
    return q_LND + (k_SND + v_SND).sum(0)


def varlen(q_LND: Tensor, k_SND: Tensor, v_SND: Tensor, queries: Lengths, keys: Lengths) -> Tensor:
    """PyTorch's variable-length flash attention (CUDA, half precision).

    Its kernel writes no gradient of keys that belong to no sample, such as the spare row of a compiled block.
    """
    from torch.nn.attention.varlen import varlen_attn

    if not q_LND.numel():  # no kernel starts on an empty grid
        return _nothing(q_LND, k_SND, v_SND)
    k, v = k_SND[: keys.total], v_SND[: keys.total]
    return varlen_attn(q_LND, k, v, queries.cumulative, keys.cumulative, queries.longest, keys.longest)


def xformers(q_LND: Tensor, k_SND: Tensor, v_SND: Tensor, queries: Lengths, keys: Lengths) -> Tensor:
    """xformers' memory-efficient attention with a block-diagonal mask (CUDA)."""
    from xformers.ops import memory_efficient_attention

    if not q_LND.numel():
        return _nothing(q_LND, k_SND, v_SND)
    k, v = k_SND[: keys.total], v_SND[: keys.total]
    mask = block_diagonal_mask(queries.each, keys.each, q_LND.device)
    return memory_efficient_attention(q_LND[None], k[None], v[None], attn_bias=mask)[0]


@lru_cache(maxsize=16)
def block_diagonal_mask(queries: tuple[int, ...], keys: tuple[int, ...], device: torch.device):
    """xformers' mask of a pack, which every block of the model reads."""
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

    return BlockDiagonalMask.from_seqlens(list(queries), list(keys), device=device)


BACKENDS: dict[str, Attention] = {"sdpa": sdpa, "varlen": varlen, "xformers": xformers}


def choose_attention(device: torch.device, dtype: torch.dtype, head_width: int) -> str:
    """The best backend for a device, compute dtype and width of a head, decided once at setup."""
    half = dtype in (torch.float16, torch.bfloat16)
    if not on_cpu(device) and half:
        if importlib.util.find_spec("torch.nn.attention.varlen") and works(
            "varlen", device, dtype, head_width
        ):
            return "varlen"
        if importlib.util.find_spec("xformers") and works("xformers", device, dtype, head_width):
            return "xformers"
    return "sdpa"


def works(backend: str, device: torch.device, dtype: torch.dtype, head_width: int) -> bool:
    """Whether a backend runs here: tried on two tiny samples, forward and backward."""
    return why_not(backend, device, dtype, head_width) == ""


def why_not(backend: str, device: torch.device, dtype: torch.dtype, head_width: int) -> str:
    """The reason a backend does not run here, or nothing where it runs and equals plain attention.

    Queries, keys and values are slices of one tensor, as the model's are; a kernel may not take those, or may
    want heads whose width is a multiple of 8, at most 256.
    """
    try:
        lengths, numbers = make_lengths((5, 11), device), normal((16, 3, 2, head_width), "attention")
        q, k, v = numbers.to(device, dtype).requires_grad_().unbind(1)
        output = BACKENDS[backend](q, k, v, lengths, lengths)
        output.float().sum().backward()
    except Exception as error:  # a probe: whatever a foreign kernel raises is the answer
        words = str(error).strip().splitlines()
        return f"{type(error).__name__}: {words[0][:120]}" if words else type(error).__name__
    difference = (output - sdpa(q, k, v, lengths, lengths)).abs().max().item()
    return "" if difference < 0.05 else f"differs from plain attention by {difference:.3g}"
