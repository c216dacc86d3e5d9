"""The optimizer of both trainers: AdamW with a warm-up, and the running average of the weights."""

import math

import torch
from torch import nn

from configs.settings import OptimizerConfig


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Fused AdamW; only matrices and kernels decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, config.beta2), fused=True)


def learning_rate(step: int, config: OptimizerConfig) -> float:
    """Learning rate of a step: linear warm-up, then constant, or a cosine down to a tenth."""
    rate = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
    if not config.decay_steps:
        return rate
    progress = min(1.0, step / config.decay_steps)
    return rate * (0.55 + 0.45 * math.cos(math.pi * progress))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Moves the average to the weights; early on a decay of (1 + step) / (10 + step) forgets the start.

    What is frozen stays what it is in the average, which may share it with the model.
    """
    weight = 1 - min(decay, (1 + step) / (10 + step))
    pairs = zip(average.parameters(), model.parameters(), strict=True)
    averages, weights = zip(*((a, w) for a, w in pairs if w.requires_grad), strict=True)
    torch._foreach_lerp_(list(averages), list(weights), weight)
