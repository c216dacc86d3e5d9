"""Low-rank adapters (LoRA) on a transformer, from outside: peft's, also on our fused projections.

Hu et al. 2021 (arXiv 2106.09685): a layer W x becomes W x + alpha / rank B A x, and A and B are trained. A
fused projection has a pair for each of its parts, as diffusers' Wan has one for each of its layers: stacked,
their As are one matrix, and their Bs are the blocks of a block-diagonal one, which peft knows (BD-LoRA).
"""

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from configs.model import TransformerConfig
from configs.train import LoraConfig, TransformerRun
from dit.load import is_diffusers, model_folder
from dit.lora_files import ADAPTER, MARK, about_adapters, in_diffusers
from dit.model import Transformer
from dit.wan import NAMES, names

ATTENTION = ("attn1.to_qkv", "attn1.to_out", "attn2.to_q", "attn2.to_kv", "attn2.to_out")
BLOCKS = (*ATTENTION, "ffn_in", "ffn_out")
LAYERS = {"attention": (ATTENTION, ()), "blocks": (BLOCKS, ()), "all": (BLOCKS, tuple(NAMES))}


def check_lora(config: TransformerRun) -> None:
    """Raises ValueError for settings that a run of adapters cannot have."""
    if not config.init:
        raise ValueError("--lora.rank trains adapters of a model: --init names it")
    if config.new_latents:
        raise ValueError("--new-latents has no place with --lora.rank: adapters keep the latents of --init")
    if is_diffusers(model_folder(config.init)) and not config.text.folder:
        raise ValueError(
            f"--lora.rank trains the transformer alone, and the text encoder would stay random: give "
            f"--text.folder {config.init}, the model's own"
        )


def _layers(config: TransformerConfig, which: str) -> dict[str, int]:
    """The layers that get an adapter, by the names that they have here, and how many each is fused of."""
    within, around = LAYERS[which]
    wanted = {f"blocks.{number}.{layer}" for number in range(config.depth) for layer in within} | {*around}
    fused = {ours.removesuffix(".weight"): len(theirs) for ours, theirs in names(config)}
    return {layer: fused[layer] for layer in fused if layer in wanted}


def adapt(network: nn.Module, transformer: Transformer, config: LoraConfig, dtype: torch.dtype) -> None:
    """Freezes a network, and puts adapters in its transformer, in place; at first they change nothing.

    What is frozen is in the `dtype` of the computation, as there is no other use of it; adapters are fp32.
    """
    import peft

    network.requires_grad_(False)
    transformer.cast(dtype)
    layers = _layers(transformer.config, config.layers)
    for parts in sorted({*layers.values()}):
        which = [layer for layer, count in layers.items() if count == parts]
        fused = peft.tuners.lora.BdLoraConfig(target_modules_bd_b=which, nblocks=parts) if parts > 1 else None
        about = peft.LoraConfig(
            r=parts * config.rank,
            lora_alpha=parts * (config.alpha or config.rank),
            target_modules=which,
            use_bdlora=fused,
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
            peft.inject_adapter_in_model(about, transformer, ADAPTER)
    del transformer.peft_config
    for module in transformer.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.cast_input_dtype_enabled = False  # autocast does, and never to fp32
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def as_file(config: TransformerRun) -> tuple[Callable, Callable]:
    """How a run's adapters are named in their file, and what its header says of them to others."""
    renamed = partial(in_diffusers, config=config.model, lora=config.lora)
    return renamed, partial(about_adapters, lora=config.lora)


def adapters(network: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network's adapters, which are all that a run of them trains."""
    return {name: tensor for name, tensor in network.state_dict().items() if MARK in name}
