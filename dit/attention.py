"""The one door to attention: packed queries, keys and values, exactly zero weight between samples."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from vae.training.seeds import normal


@dataclass(frozen=True)
class Lengths:
    """How many tokens each sample of a packed sequence has."""

    each: tuple[int, ...]
    device: torch.device

    @cached_property
    def equal(self) -> bool:
        """Whether a plain batch can hold the samples."""
        return len(set(self.each)) == 1

    @cached_property
    def real(self) -> Tensor:
        """Which places of a padded batch hold a token, bool B x longest."""
        lengths = torch.tensor(self.each, device=self.device)
        return torch.arange(self.longest, device=self.device) < lengths[:, None]

    @cached_property
    def places(self) -> Tensor:
        """For every place of a padded batch the token that it holds, or any; B x longest."""
        return self.cumulative[:-1, None] + torch.arange(self.longest, device=self.device) * self.real

    def padded(self, x_LND: Tensor) -> Tensor:
        """The samples as a padded batch, B x longest x N x D; what lies in the padding means nothing."""
        return x_LND[self.places]

    @cached_property
    def longest(self) -> int:
        """The most tokens a sample has."""
        return max(self.each)

    @cached_property
    def cumulative(self) -> Tensor:
        """Start of every sample and the end of the last, int32 (samples + 1)."""
        return torch.tensor([0, *self.each], device=self.device).cumsum(0).int()


Attention = Callable[[Tensor, Tensor, Tensor, Lengths, Lengths], Tensor]


def sdpa(q_LND: Tensor, k_SND: Tensor, v_SND: Tensor, queries: Lengths, keys: Lengths) -> Tensor:
    """PyTorch's attention: one batched call where the lengths are equal, else one plain call per sample.

    A mask over the padded batch would compute, and on a CPU also store, what it then throws away.
    """
    if queries.equal and keys.equal:
        batch = len(queries.each)
        q, k, v = (rearrange(x, "(b s) n d -> b n s d", b=batch) for x in (q_LND, k_SND, v_SND))
        return rearrange(F.scaled_dot_product_attention(q, k, v), "b n s d -> (b s) n d")
    if queries.equal:  # texts of several lengths are short beside the video: one padded call is the fastest
        batch = len(queries.each)
        q = rearrange(q_LND, "(b s) n d -> b n s d", b=batch)
        k, v = (rearrange(keys.padded(x), "b s n d -> b n s d") for x in (k_SND, v_SND))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=keys.real[:, None, None])
        return rearrange(y, "b n s d -> (b s) n d")
    outputs = [
        F.scaled_dot_product_attention(*(rearrange(x, "s n d -> 1 n s d") for x in qkv))
        for qkv in zip(q_LND.split(queries.each), k_SND.split(keys.each), v_SND.split(keys.each), strict=True)
    ]
    return torch.cat([rearrange(x, "1 n s d -> s n d") for x in outputs])


def varlen(q_LND: Tensor, k_SND: Tensor, v_SND: Tensor, queries: Lengths, keys: Lengths) -> Tensor:
    """PyTorch's variable-length flash attention (CUDA, half precision)."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn(
        q_LND, k_SND, v_SND, queries.cumulative, keys.cumulative, queries.longest, keys.longest
    )


def xformers(q_LND: Tensor, k_SND: Tensor, v_SND: Tensor, queries: Lengths, keys: Lengths) -> Tensor:
    """xformers' memory-efficient attention with a block-diagonal mask (CUDA)."""
    from xformers.ops import memory_efficient_attention

    mask = block_diagonal_mask(queries.each, keys.each, q_LND.device)
    return memory_efficient_attention(q_LND[None], k_SND[None], v_SND[None], attn_bias=mask)[0]


@lru_cache(maxsize=16)
def block_diagonal_mask(queries: tuple[int, ...], keys: tuple[int, ...], device: torch.device):
    """xformers' mask of a pack, which every block of the model reads."""
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

    return BlockDiagonalMask.from_seqlens(list(queries), list(keys), device=device)


BACKENDS: dict[str, Attention] = {"sdpa": sdpa, "varlen": varlen, "xformers": xformers}


def choose_attention(device: torch.device, dtype: torch.dtype, head_width: int) -> str:
    """The best backend for a device, compute dtype and width of a head, decided once at setup."""
    half = dtype in (torch.float16, torch.bfloat16)
    if device.type == "cuda" and half:
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
        lengths, numbers = Lengths((5, 11), device), normal((16, 3, 2, head_width), "attention")
        q, k, v = numbers.to(device, dtype).requires_grad_().unbind(1)
        output = BACKENDS[backend](q, k, v, lengths, lengths)
        output.float().sum().backward()
    except Exception as error:  # a probe: whatever a foreign kernel raises is the answer
        words = str(error).strip().splitlines()
        return f"{type(error).__name__}: {words[0][:120]}" if words else type(error).__name__
    difference = (output - sdpa(q, k, v, lengths, lengths)).abs().max().item()
    return "" if difference < 0.05 else f"differs from plain attention by {difference:.3g}"
