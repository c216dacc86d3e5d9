"""The denoiser: a transformer over packed spacetime tokens, weight-compatible with Wan 2.1 and 2.2.

Legend: L tokens of all samples in one sequence, S text tokens of all samples, D channels of a head, N heads,
M distinct (sample, time) pairs, P numbers in a patch. A sample's tokens lie together in t, h, w order.
Architecture: Wan (arXiv 2503.20314, section 4.2): self-attention with 3D rotary positions and RMS-normed
queries and keys, cross-attention to text, one shared adaLN projection of time with a table per block.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from configs.model import TransformerConfig
from dit.attention import BACKENDS, Attention, Lengths, choose_attention, make_lengths
from dit.pack import Layout
from vae.compression import PATCH
from vae.training.device import autocast

TIME_SCALE = 1000.0  # Wan's time embedding takes t in thousandths
FULL_PRECISION = ("time_", "norm", "scale_shift_table")  # parts of the names of what stays fp32


@dataclass(frozen=True)
class TextMemory:
    """What the blocks read of the text: its embedding S x D, and the samples' lengths.

    While sampling also each block's keys and values, S x N x D; in training a block computes its own.
    """

    embedding: Tensor
    lengths: Lengths
    keys_values: list[tuple[Tensor, Tensor]] | None = None


class NormAndRotate(torch.autograd.Function):
    """RMS norm and rotary embedding of stacked queries and keys, in fp32 inside.

    Autograd's own backward pass of these operations goes over memory twice as often as its formula does.
    """

    @staticmethod
    def forward(ctx, x_L2ND: Tensor, weight_2ND: Tensor, rotary_factors: Tensor, eps: float) -> Tensor:
        """Normed, weighted and turned queries and keys, in the input's dtype."""
        scale = _inverse_rms(x_L2ND.flatten(2).float(), eps)[..., None, None]
        ctx.save_for_backward(x_L2ND, weight_2ND, rotary_factors, scale)
        y = torch.view_as_complex((x_L2ND.float() * weight_2ND).unflatten(-1, (-1, 2)))
        return torch.view_as_real(y.mul_(rotary_factors * scale)).flatten(-2).type_as(x_L2ND)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Gradients of input and weight: turned back, then the RMS norm's own formula."""
        x, weight, rotary_factors, scale = ctx.saved_tensors
        g = torch.view_as_complex(gradient.float().unflatten(-1, (-1, 2))) * rotary_factors.conj()
        g = torch.view_as_real(g).flatten(-2)  # of the weighted norm
        normed = x.float() * scale
        product = g * normed
        of_weight = product.sum(0)
        mean = product.mul_(weight).flatten(2).mean(-1)[..., None, None]
        of_x = g.mul_(weight).addcmul_(normed, mean, value=-1).mul_(scale)
        return of_x.type_as(x), of_weight.type_as(weight), None, None


def norm_and_rotate(x_L2ND: Tensor, weight_2ND: Tensor, layout: Layout, eps: float) -> Tensor:
    """RMS norm of queries and keys, whose channel pairs then turn by the token's angles."""
    if not torch.compiler.is_compiling():
        factors = torch.view_as_complex(layout.rotary)[:, None, None]
        return NormAndRotate.apply(x_L2ND, weight_2ND, factors, eps)
    # A compiler fuses all this.
    normed = rms_norm(x_L2ND.flatten(2).float(), eps).view_as(x_L2ND) * weight_2ND
    cos, sin = layout.rotary[:, None, None].unbind(-1)
    even, odd = normed.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).type_as(x_L2ND)


class SelfAttention(nn.Module):
    """Attention among the tokens of a sample, with normed and rotated queries and keys."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.heads, self.eps = config.heads, config.eps
        self.to_qkv = nn.Linear(config.width, 3 * config.width)
        self.norm_q = nn.Parameter(torch.ones(config.width))
        self.norm_k = nn.Parameter(torch.ones(config.width))
        self.to_out = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, layout: Layout, attention) -> Tensor:
        qkv = rearrange(self.to_qkv(x), "b l (three n d) -> (b l) three n d", three=3, n=self.heads)
        qk, v = qkv.split([2, 1], dim=1)  # stacked, so that norm and rotary run once
        weight = rearrange(torch.stack([self.norm_q, self.norm_k]), "two (n d) -> two n d", n=self.heads)
        q, k = norm_and_rotate(qk, weight, layout, self.eps).unbind(1)
        y = attention(q, k, v.squeeze(1), layout.tokens, layout.tokens)
        return self.to_out(y.flatten(1)).view_as(x)


class CrossAttention(nn.Module):
    """Attention of the tokens of a sample to its text, with normed queries and keys."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.heads, self.eps = config.heads, config.eps
        self.to_q = nn.Linear(config.width, config.width)
        self.to_kv = nn.Linear(config.width, 2 * config.width)
        self.norm_q = nn.Parameter(torch.ones(config.width))
        self.norm_k = nn.Parameter(torch.ones(config.width))
        self.to_out = nn.Linear(config.width, config.width)

    def keys_values(self, text_SD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the text, each S x N x D; they do not depend on time.

        The keys take the weight of the queries' norm as well, since only their products are read.
        """
        k, v = self.to_kv(text_SD).chunk(2, dim=-1)
        weight = self.norm_k.float() * self.norm_q.float()
        k = (rms_norm(k.float(), self.eps) * weight).type_as(k)
        return tuple(rearrange(y, "s (n d) -> s n d", n=self.heads) for y in (k, v))

    def forward(self, x: Tensor, keys_values, text: Lengths, layout: Layout, attention) -> Tensor:
        q = self.to_q(x).flatten(0, 1)
        q = rearrange(rms_norm(q.float(), self.eps).type_as(q), "l (n d) -> l n d", n=self.heads)
        y = attention(q, *keys_values, layout.local, text)
        return self.to_out(y.flatten(1)).view_as(x)


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    """One over the root mean square of the last axis, over all heads together (Zhang & Sennrich 2019)."""
    return torch.rsqrt(torch.linalg.vector_norm(x, dim=-1).square() / x.shape[-1] + eps)


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """RMS norm without a weight."""
    return x * _inverse_rms(x, eps)[..., None]


def _modulated_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """`layer_norm(x) * (1 + scale) + shift` (Peebles & Xie 2023, adaLN), in one pass for one sample."""
    if not torch.compiler.is_compiling() and len(scale) == 1:
        return F.layer_norm(x, x.shape[-1:], 1 + scale[0, 0], shift[0, 0], eps)
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=eps), 1 + scale)


def run_plainly(function: Callable, *inputs):
    """Calls a function, or a block: what may be put in its place (`dit/blocks.py`) does more around it."""
    return function(*inputs)


class Block(nn.Module):
    """Self-attention, cross-attention and feed-forward layer; the first and last modulated by time."""

    run = staticmethod(run_plainly)

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.eps = config.eps
        self.attn1 = SelfAttention(config)
        self.norm2 = nn.LayerNorm(config.width, config.eps)
        self.attn2 = CrossAttention(config)
        self.ffn_in = nn.Linear(config.width, config.mlp_width)
        self.ffn_out = nn.Linear(config.mlp_width, config.width)
        self.scale_shift_table = nn.Parameter(torch.empty(6, config.width))

    def keys_values(self, text_SD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the text, to be given to `forward` in its place."""
        return self.attn2.keys_values(text_SD)

    def forward(self, *inputs) -> Tensor:
        """Tokens L x D after the block, of the inputs of `compute`."""
        return self.run(self.compute, *inputs)

    def compute(
        self,
        x: Tensor,
        modulation_M6D: Tensor,
        text: Tensor | tuple[Tensor, Tensor],
        text_lengths: Lengths,
        layout: Layout,
        self_attention: Attention,
        cross_attention: Attention,
    ) -> Tensor:
        """Tokens L x D after the block; `text` is embedded, or its keys and values."""
        x = _in_runs(x, layout)
        table = (modulation_M6D + self.scale_shift_table).type_as(x)
        shift1, scale1, gate1, shift2, scale2, gate2 = _modulation_rows(table, layout).unbind(2)
        x = torch.addcmul(
            x, self.attn1(_modulated_norm(x, scale1, shift1, self.eps), layout, self_attention), gate1
        )
        normed = F.layer_norm(
            x, x.shape[-1:], self.norm2.weight.type_as(x), self.norm2.bias.type_as(x), self.eps
        )
        keys_values = text if isinstance(text, tuple) else self.keys_values(text)
        x = x + self.attn2(normed, keys_values, text_lengths, layout, cross_attention)
        hidden = F.gelu(self.ffn_in(_modulated_norm(x, scale2, shift2, self.eps)), approximate="tanh")
        return torch.addcmul(x, self.ffn_out(hidden), gate2).flatten(0, 1)


def _in_runs(x_LD: Tensor, layout: Layout) -> Tensor:
    """The tokens as runs of one row of the modulation, runs x tokens of a run x D; compiled, each alone."""
    length = 1 if torch.compiler.is_compiling() else layout.run_length
    return rearrange(x_LD, "(b l) d -> b l d", l=length)


def _modulation_rows(table_MKD: Tensor, layout: Layout) -> Tensor:
    """Every run's row of the modulation, shaped to broadcast over its tokens: runs x 1 x K x D."""
    if torch.compiler.is_compiling():
        return RowsOfTokens.apply(table_MKD, layout.row_of_token)[:, None]
    return table_MKD[layout.rows][:, None]


class RowsOfTokens(torch.autograd.Function):
    """Every token's row of the modulation, for a compiler, which reads the table where it uses a row.

    The gradient is a matrix product: what a compiler makes of the indexing adds up in any order.
    """

    @staticmethod
    def forward(ctx, table_MKD: Tensor, row_of_token: Tensor) -> Tensor:
        """L x K x D of a table M x K x D."""
        ctx.save_for_backward(row_of_token)
        ctx.rows = len(table_MKD)
        return table_MKD[row_of_token]

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        """The sum over the tokens of each row."""
        (row_of_token,) = ctx.saved_tensors
        rows = torch.arange(ctx.rows, device=gradient.device)
        tokens_ML = (row_of_token == rows[:, None]).type_as(gradient)
        return (tokens_ML @ gradient.flatten(1)).unflatten(1, gradient.shape[1:]), None


class Transformer(nn.Module):
    """Predicts the velocity of every token from its noisy patch, its own time and its sample's text."""

    call_block = staticmethod(run_plainly)

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        patch = config.latent_channels * math.prod(PATCH)
        self.patch_embedding = nn.Linear(patch, config.width)
        self.time_in = nn.Linear(config.time_frequencies, config.width)
        self.time_out = nn.Linear(config.width, config.width)
        self.time_proj = nn.Linear(config.width, 6 * config.width)
        self.text_in = nn.Linear(config.text_width, config.width)
        self.text_out = nn.Linear(config.width, config.width)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.depth)])
        self.proj_out = nn.Linear(config.width, patch)
        self.scale_shift_table = nn.Parameter(torch.empty(2, config.width))
        self.self_attention = self.cross_attention = BACKENDS["sdpa"]
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Xavier matrices; a zero output, so that the first loss is 1 + var(latents); a zero time projection,
        so that times start from the tables, whose small random gates keep every block near the identity."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for layer in (self.time_in, self.time_out, self.text_in, self.text_out):
            nn.init.normal_(layer.weight, std=0.02)
        for block in self.blocks:
            nn.init.normal_(block.scale_shift_table, std=self.config.width**-0.5)
        nn.init.normal_(self.scale_shift_table, std=self.config.width**-0.5)
        nn.init.zeros_(self.time_proj.weight)
        nn.init.zeros_(self.proj_out.weight)

    @property
    def head_width(self) -> int:
        """Channels of one head."""
        return self.config.width // self.config.heads

    def embed_text(self, text_SD: Tensor, lengths: list[int]) -> TextMemory:
        """What the blocks read of the packed text."""
        embedding = self.text_out(F.gelu(self.text_in(text_SD), approximate="tanh"))
        return TextMemory(embedding, make_lengths(lengths, text_SD.device, padded=True))

    def remember(self, text: TextMemory) -> TextMemory:
        """The same text with every block's keys and values, which do not depend on time: computed once."""
        return replace(text, keys_values=[block.keys_values(text.embedding) for block in self.blocks])

    def use_attention(self, device: torch.device, dtype: torch.dtype) -> None:
        """Takes the best attention for a device and compute dtype, decided once at setup."""
        name = choose_attention(device, dtype, self.head_width)
        self.self_attention = self.cross_attention = BACKENDS[name]

    def cast(self, dtype: torch.dtype) -> "Transformer":
        """Brings the weights to a dtype, those of norms and times to fp32, as diffusers' Wan."""
        for name, parameter in self.named_parameters():
            full = any(part in name for part in FULL_PRECISION)
            parameter.data = parameter.data.to(torch.float32 if full else dtype)
        return self

    def embed_time(self, times_M: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding M x D and modulation M x 6 x D of the distinct times, t in [0, 1].

        Autocast does not reach it: what is rounded here is wrong in every token of a sample alike.
        """
        half = self.config.time_frequencies // 2
        steps = torch.arange(half, device=times_M.device, dtype=torch.float32)
        angles = TIME_SCALE * times_M.float()[:, None] * torch.exp(-math.log(10000) / half * steps)
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.time_in.weight.dtype)
        with autocast(times_M, enabled=False):
            time = self.time_out(F.silu(self.time_in(waves)))
            return time, rearrange(self.time_proj(F.silu(time)), "m (six d) -> m six d", six=6)

    def forward(self, tokens_LP: Tensor, times_M: Tensor, text: TextMemory, layout: Layout) -> Tensor:
        """Velocity L x P of the packed noisy tokens, in the tokens' dtype.

        `times_M` and `layout` come from `make_layout`, `text` from `embed_text`, and may be remembered.
        """
        time, modulation = self.embed_time(times_M)
        x = self.patch_embedding(tokens_LP)
        texts = text.keys_values or [text.embedding] * len(self.blocks)
        for block, its_text in zip(self.blocks, texts, strict=True):
            inputs = x, modulation, its_text, text.lengths, layout, self.self_attention, self.cross_attention
            x = self.call_block(block, *inputs)
        table = (self.scale_shift_table + time[:, None]).type_as(x)
        shift, scale = _modulation_rows(table, layout).unbind(2)
        x = _modulated_norm(_in_runs(x, layout), scale, shift, self.config.eps)
        x = self.proj_out(x).flatten(0, 1)
        (pt, ph, pw), c = PATCH, self.config.latent_channels
        return rearrange(x, "l (pt ph pw c) -> l (c pt ph pw)", pt=pt, ph=ph, pw=pw, c=c).to(tokens_LP.dtype)
