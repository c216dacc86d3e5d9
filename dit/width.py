"""Width transfer (muP): how a transformer's start and its matrices' rates scale with its width.

Yang et al. 2022 (arXiv 2203.03466, table 3), for Adam, so that what each layer adds to its tokens in a step
has one size at every width. Widths grow by the number of heads, of one width each, and the feed-forward layer
with them: the scale of attention stays what it is.
"""

import torch
from torch import nn

from configs.train import OptimizerConfig
from dit.load import Denoiser
from dit.model import Transformer

INPUTS = ("patch_embedding", "time_in", "text_in")  # layers whose inputs are as many at every width


def rate_scales(model: Denoiser, config: OptimizerConfig) -> dict[str, float]:
    """Factors of the rates of the transformer's matrices by name: base / width where a sum is over the width.

    The text encoder's width is a setting of its own, and its rates stay.
    """
    ratio = _ratio(model.transformer, config)
    return {} if ratio == 1 else {f"transformer.{name}.weight": ratio for name in _hidden(model.transformer)}


@torch.no_grad()
def scale_start(transformer: Transformer, config: OptimizerConfig) -> None:
    """Gives a transformer as `initialise` leaves it a start that scales with its width, in place.

    Products over the width begin with a variance of 1 / width, as Xavier's do already; layers of fixed
    inputs, and the tables, with that of the base.
    """
    ratio = _ratio(transformer, config)
    if ratio == 1:
        return
    width, patch = transformer.config.width, transformer.patch_embedding.in_features
    transformer.patch_embedding.weight *= ((patch + width) / (patch + ratio * width)) ** 0.5
    for layer in (transformer.time_out, transformer.text_out):
        layer.weight *= ratio**0.5
    for module in (transformer, *transformer.blocks):
        module.scale_shift_table *= ratio**-0.5


def _ratio(transformer: Transformer, config: OptimizerConfig) -> float:
    """The base width over the transformer's; 1 where nothing is to scale."""
    return (config.base_width or transformer.config.width) / transformer.config.width


def _hidden(transformer: Transformer) -> list[str]:
    """The layers that add up over the width."""
    linears = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    return [name for name in linears if name not in INPUTS]


def matrix_parts(transformer: Transformer) -> dict[str, int]:
    """The blocks' matrices by name, and in how many each is for Muon: queries, keys and values by head."""
    heads, chunks = transformer.config.heads, {"to_qkv": 3, "to_kv": 2, "to_q": 1}
    found = {}
    for name, module in transformer.named_modules():
        if name.startswith("blocks.") and isinstance(module, nn.Linear):
            found[f"transformer.{name}.weight"] = chunks.get(name.rpartition(".")[2], 0) * heads or 1
    return found
