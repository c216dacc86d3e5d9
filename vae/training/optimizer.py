"""The optimizer of both trainers: AdamW with a warm-up, and the running average of the weights."""

import math
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from configs.train import OptimizerConfig

Key = TypeVar("Key")


def make_optimizer(model: nn.Module, config: OptimizerConfig, beta1: float = 0.9) -> torch.optim.AdamW:
    """Fused AdamW that knows its parameters by their names; only matrices and kernels decay."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [(name, p) for name, p in named if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [(name, p) for name, p in named if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(beta1, config.beta2), fused=True)


def learning_rate(step: int, config: OptimizerConfig) -> float:
    """Learning rate of a step, counted from 1: linear warm-up, then constant, or a cosine down to a tenth."""
    rate = config.learning_rate * min(1.0, step / max(1, config.warmup_steps))
    if not config.decay_steps:
        return rate
    progress = min(1.0, (step - 1) / config.decay_steps)
    return rate * (0.55 + 0.45 * math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, config: OptimizerConfig) -> None:
    """Gives the optimizer the learning rate of a step, counted from 1."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, config)


@torch.no_grad()
def average_gradients(optimizer: torch.optim.Optimizer, accelerator) -> None:
    """Replaces the gradients by their means over processes; what none has met has a gradient of zero.

    In place of data parallelism's own: a step may take several passes, as many as a process has shapes.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    means = mean_over_processes({k: p.grad for k, p in enumerate(parameters)}, accelerator)
    for k, mean in means.items():
        parameters[k].grad.copy_(mean)


def mean_over_processes(tensors: Mapping[Key, Tensor], accelerator) -> dict[Key, Tensor]:
    """The tensors' means over processes, by one reduction.

    A process's may lie in memory in another order than another's: they are added number by number.
    """
    if accelerator.num_processes == 1:
        return dict(tensors)
    mean = accelerator.reduce(torch.cat([x.flatten() for x in tensors.values()]), "mean")
    parts = mean.split([x.numel() for x in tensors.values()])
    return {name: part.view(x.shape) for (name, x), part in zip(tensors.items(), parts, strict=True)}


def clip_gradients(optimizer: torch.optim.Optimizer, config: OptimizerConfig) -> Tensor:
    """Scales the gradients to at most the global norm that is allowed; returns what it was.

    Every process, as gradients may be sharded.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, config.max_gradient_norm)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Moves the average to the weights; early on a decay of (1 + step) / (10 + step) forgets the start.

    What is frozen stays what it is in the average, which may share it with the model.
    """
    weight = 1 - min(decay, (1 + step) / (10 + step))
    pairs = zip(average.parameters(), model.parameters(), strict=True)
    averages, weights = zip(*((a, w) for a, w in pairs if w.requires_grad), strict=True)
    torch._foreach_lerp_(list(averages), list(weights), weight)
