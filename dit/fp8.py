"""Matrix products of the blocks in fp8, from outside: torchao's layers in place of theirs, same weights.

Micikevicius et al. 2022 (arXiv 2209.05433): inputs and weights as e4m3, gradients of outputs as e5m2, each
tensor scaled by its largest number, at the time. Weights stay fp32, and all else is what it is in bf16.
"""

import torch
from torch import nn

from configs.train import TransformerRun
from dit.model import Transformer
from vae.training.device import multiplies_fp8
from vae.training.eight_bit import check_torchao

MULTIPLE = 16  # of which both sides of an fp8 matrix are


def check_fp8(config: TransformerRun, device: torch.device) -> None:
    """Raises ValueError where a run asks for fp8 and cannot have it."""
    if not config.fp8:
        return
    if config.lora.rank:
        raise ValueError("--fp8 trains whole matrices, not adapters: leave out --lora.rank, or --fp8")
    if config.train.precision != "bf16":
        raise ValueError("--fp8 is beside bf16: give --train.precision bf16")
    if not multiplies_fp8(device):
        raise ValueError("--fp8 takes a GPU that multiplies in fp8, such as an H100, and none is here")
    check_torchao("--fp8")


def in_fp8(module: nn.Module, name: str) -> bool:
    """Whether a layer is to multiply in fp8: both sides of its matrix have the size for it."""
    return module.in_features % MULTIPLE == 0 and module.out_features % MULTIPLE == 0


def use_fp8(transformer: Transformer, emulate: bool = False) -> None:
    """Has the layers of the blocks multiply in fp8, in place; those around the blocks stay as they are.

    What is deep-copied before does not. `emulate` rounds alike and multiplies in fp32, on any device.
    Rows are filled up to the multiple: packs and their texts are of any length.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    config = Float8LinearConfig(emulate=emulate, pad_inner_dim=True)
    convert_to_float8_training(transformer.blocks, module_filter_fn=in_fp8, config=config)
