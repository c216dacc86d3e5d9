"""The optimizer of both trainers: AdamW with a warm-up, and the running average of the weights."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from configs.train import OptimizerConfig
from vae.training.checkpoints import local_part
from vae.training.eight_bit import AdamW8bit, check_torchao
from vae.training.muon import Muon

Key = TypeVar("Key")


def make_optimizer(
    model: nn.Module,
    config: OptimizerConfig,
    beta1: float = 0.9,
    scales: Mapping[str, float] = {},
    parts: Mapping[str, int] = {},
) -> torch.optim.AdamW:
    """Fused AdamW that knows its parameters by their names; only matrices and kernels decay.

    `scales` are factors of the rate of named parameters, whose decay a step stays what it is; `parts` are
    those that Muon moves instead, where it is asked for, each as so many matrices.
    """
    groups: dict[tuple, dict] = {}
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    for name, parameter in sorted(named, key=lambda pair: pair[1].ndim < 2):
        decays, scale = parameter.ndim >= 2, scales.get(name, 1.0)
        decay = config.weight_decay / scale if decays else 0.0
        number = parts.get(name, 0) if config.kind == "muon" else 0
        empty = {"params": [], "weight_decay": decay, "scale": scale, "parts": number}
        groups.setdefault((decays, scale, number), empty)["params"].append((name, parameter))
    kind = KINDS[config.kind]
    return kind(groups.values(), lr=config.learning_rate, betas=(beta1, config.beta2), fused=True)


KINDS = {"adamw": torch.optim.AdamW, "muon": Muon, "adamw8bit": AdamW8bit}


def check_optimizer_settings(config: OptimizerConfig) -> None:
    """Raises ValueError where a schedule has no steps to fall over, or steps that it does not fall over, and
    where a kind's package is missing."""
    if config.kind == "adamw8bit":
        check_torchao("optimizer.kind = adamw8bit")
    name, steps = config.schedule, config.decay_steps
    if name == "constant" and (steps or config.decay_start):
        raise ValueError(
            "optimizer.schedule = constant never falls: for optimizer.decay_start and decay_steps give "
            "--optimizer.schedule cosine or trapezoid"
        )
    if name != "constant" and not steps:
        raise ValueError(f"optimizer.schedule = {name} falls over --optimizer.decay-steps, which is 0")


def learning_rate(step: int, config: OptimizerConfig) -> float:
    """Learning rate of a step, counted from 1: linear warm-up, then what the schedule leaves of it."""
    rate = config.learning_rate * min(1.0, step / max(1, config.warmup_steps))
    progress = (step - 1 - config.decay_start) / max(1, config.decay_steps)
    return rate * SCHEDULES[config.schedule](min(1.0, max(0.0, progress)), config)


# What is left of the peak rate after a share `p` of the steps over which it falls.
SCHEDULES: dict[str, Callable[[float, OptimizerConfig], float]] = {
    "constant": lambda p, config: 1.0,
    "cosine": lambda p, config: 0.55 + 0.45 * math.cos(math.pi * p),
    "trapezoid": lambda p, config: 1 - (math.sqrt(p) if config.decay_shape == "sqrt" else p),
}


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, config: OptimizerConfig) -> float:
    """Gives the optimizer the learning rate of a step, counted from 1; returns it, without any scales."""
    rate = learning_rate(step, config)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    return rate


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
def update_average(average: nn.Module, model: nn.Module, step: int, decay: float, bad: Tensor) -> None:
    """Moves the average to the weights; early on a decay of (1 + step) / (10 + step) forgets the start.

    It stays where the step is `bad`, on the device. What is frozen stays what it is in the average, which may
    share it with the model.
    """
    weight = torch.full((), 1 - min(decay, (1 + step) / (10 + step)), device=bad.device)
    weight = torch.where(bad, torch.zeros_like(weight), weight)
    averages, weights = map(list, zip(*_moving(average, model), strict=True))
    torch._foreach_lerp_(averages, weights, [weight] * len(averages))


def _moving(average: nn.Module, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Each average beside the weight that it is of, this process's parts of both."""
    pairs = zip(average.parameters(), model.parameters(), strict=True)
    return [(local_part(a), local_part(w)) for a, w in pairs if w.requires_grad]


@contextmanager
def exchanged(average: nn.Module, model: nn.Module) -> Iterator[None]:
    """Within it each of the two networks has the weights of the other, at the memory of one tensor more.

    So the average, which takes whole packs and is gathered once, computes what the weights are worth.
    """
    _exchange(average, model)
    try:
        yield
    finally:
        _exchange(average, model)


@torch.no_grad()
def _exchange(average: nn.Module, model: nn.Module) -> None:
    """Exchanges the weights of two networks, to the bit."""
    for a, w in _moving(average, model):
        kept = a.clone()
        a.copy_(w)
        w.copy_(kept)


ON_DEVICE = (torch.optim.AdamW, Muon)  # whose update sees `found_inf`, with fused kernels


def update_weights(optimizer: torch.optim.Optimizer, bad: Tensor) -> None:
    """One update, unless the step is `bad`: weights and moments then keep their bits.

    Fused optimizers see that on the device, as with PyTorch's GradScaler; for others the host reads it.
    """
    if type(optimizer) in ON_DEVICE and optimizer.defaults["fused"]:
        optimizer.grad_scale, optimizer.found_inf = None, bad.float()
        optimizer.step()
    elif not bad.item():
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
