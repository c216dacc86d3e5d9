"""What of a model lies on the device while it samples, set from outside: the text encoder only to embed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from configs.model import TextConfig
from dit.byte_t5 import TextInputs
from dit.condition import Condition
from dit.load import Denoiser


class PackTexts(nn.Module):
    """What a text encoder made of each pack's prompts, kept on the host, in place of the encoder."""

    def __init__(self, config: TextConfig, kept: dict[tuple[str, ...], tuple[Tensor, list[int]]]):
        super().__init__()
        self.config, self.kept = config, kept
        self.register_buffer("home", torch.empty(0), persistent=False)  # knows the device

    def read(self, prompts: list[str]) -> TextInputs:
        """The embeddings of a pack's prompts, in their order."""
        packed, lengths = self.kept[tuple(prompts)]
        return TextInputs((packed,), lengths)

    def forward(self, prompts: list[str] | TextInputs) -> tuple[Tensor, list[int]]:
        """Packed embeddings S x width, and each prompt's length."""
        inputs = prompts if isinstance(prompts, TextInputs) else self.read(prompts)
        return inputs.to(self.home.device).tensors[0], inputs.lengths


@contextmanager
def text_embedded(denoiser: Denoiser, packs: list[list[Condition]]) -> Iterator[None]:
    """Within it a frozen text encoder is off the device, and these packs' conditions are embedded already.

    Each pack is embedded as it would be in its turn, so that nothing changes to the bit.
    """
    encoder, weight = denoiser.text, denoiser.transformer.proj_out.weight
    if not encoder.config.folder or not packs:
        yield
        return
    networks = [network for network in (denoiser, denoiser.low_noise) if network is not None]
    encoder.to(weight.device)
    kept = {}
    with torch.no_grad():
        for prompts in {tuple(condition.prompt for condition in pack) for pack in packs}:
            packed, lengths = encoder(list(prompts))
            kept[prompts] = packed.to(weight.dtype).cpu(), lengths
    encoder.to("cpu")
    for network in networks:
        network.text = PackTexts(encoder.config, kept).to(weight.device)
    try:
        yield
    finally:
        for network in networks:
            network.text = encoder
