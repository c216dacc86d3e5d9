"""A tiny byte-level T5 of our own, which needs no vocabulary file.

The byte-level encoder has ByT5's token ids (Xue et al. 2022: byte + 3, end 1, padding 0), so it needs no
vocabulary file, and the weights of `T5EncoderModel` (gated-gelu, T5 1.1) under the same names.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from configs.model import TextConfig
from vae.training.device import send

PADDING, END, FIRST_BYTE = 0, 1, 3
VOCABULARY = 384
BUCKETS, FARTHEST = 32, 128
EPS = 1e-6
NEIGHBOURS = ((-1, 1.0), (1, 1.0), (0, 0.5), (-3, 0.5))  # where a head looks first, and how fast that falls


def byte_tokens(prompt: str, max_tokens: int) -> list[int]:
    """Token ids of a prompt, the end mark last; the empty prompt is the end mark alone."""
    return [byte + FIRST_BYTE for byte in prompt.encode()[: max_tokens - 1]] + [END]


@dataclass(frozen=True)
class TextInputs:
    """What an encoder reads of prompts, made of them on the host, and each prompt's length."""

    tensors: tuple[Tensor, ...]
    lengths: list[int]

    def map(self, change: Callable[[Tensor], Tensor]) -> "TextInputs":
        """The same with every tensor changed, moved or pinned."""
        return replace(self, tensors=tuple(map(change, self.tensors)))

    def to(self, device: torch.device) -> "TextInputs":
        """The same on a device, from pinned memory: the host does not wait for the copy."""
        return self.map(partial(send, device=device))


class ByteEncoder(nn.Module):
    """Byte-level T5 encoder (Raffel et al. 2020), bidirectional, with T5's relative position buckets."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        self.shared = nn.Embedding(VOCABULARY, config.width)
        self.encoder = nn.Module()
        self.encoder.block = nn.ModuleList([EncoderBlock(config, first=k == 0) for k in range(config.depth)])
        self.encoder.final_layer_norm = Norm(config.width)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:  # T5's attention has no 1/sqrt(d): its q starts smaller
                inside = parameter.shape[1] * (
                    config.width // config.heads if name.endswith("q.weight") else 1
                )
                nn.init.normal_(
                    parameter, std=0.05 if "relative" in name or "shared" in name else inside**-0.5
                )
        self.encoder.block[0].layer[0].SelfAttention.look_near()

    def read(self, prompts: list[str]) -> TextInputs:
        """Padded token ids of prompts, and where in them those are that are no padding."""
        ids = [byte_tokens(prompt, self.config.max_tokens) for prompt in prompts]
        lengths = [len(row) for row in ids]
        padded = torch.tensor([row + [PADDING] * (max(lengths) - len(row)) for row in ids])
        return TextInputs((padded, (padded != PADDING).flatten().nonzero().squeeze(1)), lengths)

    def forward(self, prompts: list[str] | TextInputs) -> tuple[Tensor, list[int]]:
        """Packed embeddings S x width of prompts, or of what was read of them, and each one's length."""
        inputs = prompts if isinstance(prompts, TextInputs) else self.read(prompts)
        padded_BS, places = inputs.to(self.shared.weight.device).tensors
        x = self.shared(padded_BS)
        positions = self.encoder.block[0].layer[0].SelfAttention.position_bias(padded_BS.shape[1])
        padding = (padded_BS == PADDING)[:, None, None, :]
        bias = positions.masked_fill(padding, torch.finfo(positions.dtype).min)
        for block in self.encoder.block:
            x = block(x, bias)
        return self.encoder.final_layer_norm(x).flatten(0, 1)[places], inputs.lengths


class EncoderBlock(nn.Module):
    """Attention, then a feed-forward layer, each normed first and added; named as in transformers."""

    def __init__(self, config: TextConfig, first: bool):
        super().__init__()
        self.layer = nn.ModuleList([nn.Module(), nn.Module()])
        self.layer[0].layer_norm = Norm(config.width)
        self.layer[0].SelfAttention = RelativeAttention(config, first)
        self.layer[1].layer_norm = Norm(config.width)
        self.layer[1].DenseReluDense = GatedFeedForward(config)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = x + self.layer[0].SelfAttention(self.layer[0].layer_norm(x), bias)
        return x + self.layer[1].DenseReluDense(self.layer[1].layer_norm(x))


class RelativeAttention(nn.Module):
    """T5's attention: no scale, and in the first block the table of relative positions."""

    def __init__(self, config: TextConfig, first: bool):
        super().__init__()
        self.heads = config.heads
        for name in "qkvo":
            setattr(self, name, nn.Linear(config.width, config.width, bias=False))
        if first:
            self.relative_attention_bias = nn.Embedding(BUCKETS, config.heads)

    @torch.no_grad()
    def look_near(self) -> None:
        """Lets every head begin at a neighbour of its own, so that bytes are read in words, not as a bag."""
        exact = BUCKETS // 4
        steps = torch.arange(BUCKETS // 2, dtype=torch.float32)
        steps = torch.where(steps < exact, steps, exact * (FARTHEST / exact) ** (steps / exact - 1))
        distance = torch.cat([-steps, steps])
        for head in range(self.heads):
            neighbour, slope = NEIGHBOURS[head % len(NEIGHBOURS)]
            bias = -slope * (distance - neighbour).abs().clamp(max=12)
            self.relative_attention_bias.weight[:, head] = bias

    def position_bias(self, length: int) -> Tensor:
        """Bias of every pair of positions, 1 x heads x length x length (Raffel et al. 2020, section 2.1)."""
        device = self.relative_attention_bias.weight.device
        position = torch.arange(length, device=device)
        distance = position[None, :] - position[:, None]
        exact = BUCKETS // 4
        far = exact + (distance.abs().clamp(min=1) / exact).log() / math.log(FARTHEST / exact) * exact
        bucket = torch.where(distance.abs() < exact, distance.abs(), far.long().clamp(max=BUCKETS // 2 - 1))
        bucket = bucket + (distance > 0) * (BUCKETS // 2)
        return rearrange(self.relative_attention_bias(bucket), "q k n -> 1 n q k")

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (
            rearrange(layer(x), "b s (n d) -> b n s d", n=self.heads) for layer in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.type_as(q), scale=1.0)
        return self.o(rearrange(y, "b n s d -> b s (n d)"))


class GatedFeedForward(nn.Module):
    """T5 1.1's feed-forward layer: one projection gates another (Shazeer 2020)."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.wi_0 = nn.Linear(config.width, config.mlp_width, bias=False)
        self.wi_1 = nn.Linear(config.width, config.mlp_width, bias=False)
        self.wo = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.wo(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))


class Norm(nn.RMSNorm):
    """T5's norm: RMS, no mean, no bias."""

    def __init__(self, width: int):
        super().__init__(width, eps=EPS)
