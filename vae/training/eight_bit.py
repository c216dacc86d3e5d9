"""AdamW with moments of eight bits, torchao's: a byte for each number, and a scale for each 256."""

import importlib.util
import logging
import math
from functools import lru_cache

import torch
from torch import Tensor

from vae.training.checkpoints import is_sharded, local_part
from vae.training.device import on_cpu

BLOCK, LEAST = (
    256,
    4096,
)  # numbers that share a scale, and those of the smallest tensor that has codes: torchao's


@lru_cache
def _torchao() -> tuple:
    """Torchao's update, its tensor of codes, and the values of signed and unsigned codes.

    It warns as it is imported, of kernels that are not here and of what it does to PyTorch's trees.
    """
    quiet = {name: logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")}
    levels = {name: logger.level for name, logger in quiet.items()}
    for logger in quiet.values():
        logger.setLevel(logging.ERROR)
    from torchao.optim.adam import single_param_adam
    from torchao.optim.subclass_8bit import OptimState8bit, get_qmap_signed, get_qmap_unsigned

    for name, logger in quiet.items():
        logger.setLevel(levels[name])
    return (
        single_param_adam,
        OptimState8bit,
        {"exp_avg": get_qmap_signed(), "exp_avg_sq": get_qmap_unsigned()},
    )


def check_torchao(setting: str) -> None:
    """Imports torchao, which a setting takes; raises ValueError where it is not installed."""
    if importlib.util.find_spec("torchao") is None:
        raise ValueError(f"{setting} takes torchao, which is not installed: pip install -e '.[torchao]'")
    _torchao()


class AdamW8bit(torch.optim.AdamW):
    """AdamW with the moments of `torchao.optim.AdamW8bit`, to the bit (Dettmers et al. 2022, 2110.02861):
    they are fp32 for an update, and quantised again after it.

    They are plain tensors, of which each process has those of its own rows of a sharded weight. There only a
    weight whose rows are whole blocks has codes, as then no number of processes cuts one; others stay fp32.
    """

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self._values: dict[str, Tensor] = {}  # of each code, by moment

    def first_state(self, parameter: Tensor, group: dict) -> dict[str, Tensor]:
        """The state before the first update, all zeros."""
        state = {"step": torch.zeros((), device=parameter.device)}
        for name in ("exp_avg", "exp_avg_sq"):
            if shape := _scales(parameter):
                state[f"{name}_codes"] = torch.zeros_like(
                    parameter, dtype=torch.uint8, memory_format=torch.contiguous_format
                )
                state[f"{name}_scale"] = _zeros(shape, parameter)
            else:
                state[name] = torch.zeros_like(parameter)
        return state

    @torch.no_grad()
    def step(self) -> None:
        """One update; on a GPU compiled, a kernel for each shape."""
        update_of = _torchao()[0]
        for group in self.param_groups:
            rate, decay = torch.tensor(group["lr"]), group["weight_decay"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state |= self.first_state(parameter, group)
                state["step"] += 1
                update = update_of
                if not on_cpu(parameter.device):
                    update = torch.compile(update_of, fullgraph=True, dynamic=False)
                weight, gradient = local_part(parameter).detach(), local_part(parameter.grad).contiguous()
                moments = [self._moment(state, name) for name in ("exp_avg", "exp_avg_sq")]
                betas, eps = group["betas"], group["eps"]
                update(weight, gradient, state["step"], *moments, None, rate, *betas, decay, eps, True, False)

    def _moment(self, state: dict[str, Tensor], name: str) -> Tensor:
        """A moment as torchao's tensor on this process's codes and scales, or the fp32 one."""
        if name in state:
            return local_part(state[name])
        codes, scale = (local_part(state[f"{name}_{part}"]) for part in ("codes", "scale"))
        _, coded, values = _torchao()
        if name not in self._values:
            self._values[name] = torch.tensor(values[name], device=codes.device)
        return coded(codes, scale.view(-1), self._values[name], name == "exp_avg", torch.float32)


def _scales(parameter: Tensor) -> tuple[int, ...]:
    """The shape of a weight's scales, by rows where these are whole blocks; empty where it has no codes."""
    row = math.prod(parameter.shape[1:])
    if parameter.numel() < LEAST or parameter.numel() % BLOCK:
        return ()
    if parameter.ndim > 1 and row % BLOCK == 0:
        return len(parameter), row // BLOCK
    return () if is_sharded(parameter) else (parameter.numel() // BLOCK,)


def _zeros(shape: tuple[int, ...], parameter: Tensor) -> Tensor:
    """Zeros in fp32 on a weight's device, and where it is sharded, sharded like it."""
    if not is_sharded(parameter):
        return torch.zeros(shape, device=parameter.device)
    from torch.distributed.tensor import zeros

    return zeros(*shape, device_mesh=parameter.device_mesh, placements=parameter.placements)
