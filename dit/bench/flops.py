"""How many floating-point operations the transformer costs, by formula and by counting."""

import math

from configs.model import TransformerConfig
from vae.compression import PATCH
from vae.data.plan import Cost


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


def sample_cost(config: TransformerConfig, text: int = 0) -> Cost:
    """What a training sample costs by its tokens: FLOPs of both passes, as flash attention executes them.

    Its backward pass computes the scores again, five products for the forward pass' two (Dao 2023); all else
    has two for one. What does not grow with the tokens, such as the text's keys and values, is left out.
    """
    h, patch = config.width, config.latent_channels * math.prod(PATCH)
    attention, linear = 1 + 5 / 2, 1 + 2
    block = linear * 2 * (6 * h * h + 2 * h * config.mlp_width) + attention * 4 * h * text
    return Cost(attention * 4 * h * config.depth, block * config.depth + linear * 2 * 2 * patch * h)
