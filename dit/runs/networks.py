"""The networks of a run from their settings alone, to plan with: no weights are read, nor need be there."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from configs.model import WAN, TextConfig
from configs.train import TransformerRun
from dit.load import Denoiser
from dit.text import EmbeddedText, PretrainedEncoder, bare_encoder, load_tokenizer
from vae.diffusers_folder import WAN as WAN_CLASS
from vae.interface import VideoAutoencoder
from vae.load import bare_autoencoder, find_autoencoder, settings_of

UNKNOWN_PROMPT = 100  # tokens that a prompt is taken to have where none is known, if so many are read
WAN22 = {  # the autoencoder of Wan 2.2's TI2V-5B, as its folder of diffusers says
    "_class_name": WAN_CLASS,
    **{"base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2},
    **{"attn_scales": [], "temperal_downsample": [False, True, True], "is_residual": True},
    **{"in_channels": 12, "out_channels": 12, "patch_size": 2, "scale_factor_spatial": 16},
}
ASSUMED = {16: (WAN, "Wan 2.1's"), 48: (WAN22, "Wan 2.2's")}  # by the channels of their latents


def plan_autoencoder(name: str, channels: int) -> tuple[Callable[[], VideoAutoencoder], str]:
    """What makes the autoencoder of a name, and what is to be said of it.

    One that is not there is taken to be the open one of so many channels; ValueError where there is none.
    """
    try:
        path = find_autoencoder(name)
    except ValueError:
        if channels not in ASSUMED:
            raise
        settings, whose = ASSUMED[channels]
        return partial(
            bare_autoencoder, settings
        ), f"autoencoder {name} is not here: {whose} is taken to be it"
    return partial(bare_autoencoder, settings_of(path)), ""


def plan_denoiser(
    config: TransformerRun, cached: bool, prompts: Iterable[str]
) -> tuple[Callable[[TransformerRun], Denoiser], Callable[[list[str]], list[int]]]:
    """What makes the transformer and text encoder of a run, and what gives the tokens of prompts.

    With `cached` embeddings a frozen text encoder is not there. Raises ValueError where another is not.
    """
    text = config.text
    if not text.folder:
        lengths = {p: min(len(p.encode()) + 1, text.max_tokens) for p in prompts}
        return lambda run: Denoiser(run.model, run.text), lambda those: [lengths[p] for p in those]
    tokenizer = load_tokenizer(text) if Path(text.folder).is_dir() else _by_words
    whole = replace(text, padded=False)
    count = PretrainedEncoder(whole, nn.Module(), tokenizer).read
    lengths = {p: text.max_tokens if text.padded else count([p]).lengths[0] for p in prompts}

    def make(run: TransformerRun) -> Denoiser:
        if not cached:
            return Denoiser(run.model, text, PretrainedEncoder(text, bare_encoder(text), tokenizer))
        embedded = EmbeddedText(text, {})
        embedded.kept = {p: torch.zeros(n, run.model.text_width, device="cpu") for p, n in lengths.items()}
        return Denoiser(run.model, text, embedded)

    return make, lambda those: [lengths[p] for p in those]


def _by_words(prompts: list[str], max_length: int, **_) -> dict[str, torch.Tensor]:
    """A tokenizer whose tokens are words, where the true one is not here."""
    counts = [min(len(prompt.split()) + 1, max_length) for prompt in prompts]
    mask = torch.tensor([[k < count for k in range(max(counts))] for count in counts]).long()
    return {"input_ids": mask, "attention_mask": mask}


def unknown_prompt(text: TextConfig) -> str:
    """A prompt of as many tokens as prompts are taken to have where none is known."""
    tokens = min(UNKNOWN_PROMPT, text.max_tokens)
    return " ".join(["x"] * (tokens - 1)) if text.folder else "x" * (tokens - 1)
