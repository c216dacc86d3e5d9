"""How many floating-point operations the transformer costs, by formula and by counting."""

import math

from configs.model import TransformerConfig
from vae.compression import PATCH


def text_flops(config: TransformerConfig, text: int) -> int:
    """FLOPs of embedding the text and of all blocks' keys and values; a multiply-add is two."""
    h = config.width
    return 2 * text * (config.text_width * h + h * h + config.depth * 2 * h * h)


def step_flops(config: TransformerConfig, tokens: list[int], text: list[int], pairs: int) -> int:
    """FLOPs of one forward pass over a pack, its text embedded before; matrix products and attention only."""
    h, total, patch = config.width, sum(tokens), config.latent_channels * math.prod(PATCH)
    attention = sum(n * (n + s) for n, s in zip(tokens, text, strict=True))
    block = 2 * total * (6 * h * h + 2 * h * config.mlp_width) + 4 * h * attention
    time_embedding = 2 * pairs * (config.time_frequencies * h + h * h + 6 * h * h)
    return config.depth * block + 2 * total * 2 * patch * h + time_embedding


def training_flops(config: TransformerConfig, tokens: list[int], text: list[int], pairs: int) -> int:
    """FLOPs of a training step by the usual count, three forward passes, whatever a kernel computes again."""
    return 3 * (step_flops(config, tokens, text, pairs) + text_flops(config, sum(text)))
