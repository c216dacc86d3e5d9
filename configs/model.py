"""Shapes of the networks: autoencoder, transformer, text encoder."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Len, MultipleOf

from configs.ranges import Channels, Depth, Heads, Positive, Tokens, Width


@dataclass(frozen=True)
class AutoencoderConfig:
    """Shape of the causal autoencoder (the Wan 2.1 family); the defaults are Wan's own."""

    base_width: Width = 96
    """Channels of the encoder's first level."""
    decoder_base_width: Annotated[Width, Ge(2)] = 96
    """Channels of the decoder's last level."""
    latent_channels: Channels = 16
    """Channels of the latents."""
    width_multipliers: Annotated[tuple[Depth, ...], Len(4, 4)] = (1, 2, 4, 4)
    """Width of each level in units of the base width; each level but the last halves height and width."""
    residual_blocks: Depth = 2
    """Residual blocks in each encoder level; the decoder has one more."""
    time_downsample: Annotated[tuple[bool, ...], Len(3, 3)] = (False, True, True)
    """Which of the first three levels also halve the number of frames; two of them do."""
    patch: Depth = 1
    """Side of the square of pixels at one position of the first level; 2 turns 4x8x8 into 4x16x16."""


# The sizes that autoencoders come in; their compression is 4x8x8, and with a patch of 2 it is 4x16x16.
TINY = AutoencoderConfig(  # the built-in one's
    base_width=16, decoder_base_width=16, width_multipliers=(1, 2, 3, 3), residual_blocks=1
)
SMALL = AutoencoderConfig(base_width=32, decoder_base_width=32)
WAN = AutoencoderConfig()


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of the transformer (the Wan family); the defaults are Wan 2.1 1.3B's."""

    width: Width = 1536
    """Width of the token stream."""
    depth: Depth = 30
    """Number of blocks."""
    heads: Heads = 12
    """Attention heads; the width is an even multiple of them, and a head of 64 or 128 is the fastest."""
    mlp_width: Width = 8960
    """Width of the feed-forward layer."""
    text_width: Width = 4096
    """Width of the text encoder's output."""
    latent_channels: Channels = 16
    """Channels of the latents."""
    time_frequencies: Annotated[Width, Ge(2), MultipleOf(2)] = 256
    """Width of the sinusoidal embedding of time."""
    eps: Positive = 1e-6
    """Epsilon of the norms."""


@dataclass(frozen=True)
class TextConfig:
    """The text encoder: a byte-level T5 trained with the transformer, or a frozen one from a folder."""

    folder: str = ""
    """Folder with a T5 or UMT5 encoder and its tokenizer, as transformers saves them; empty: byte-level."""
    width: Width = 128
    """Width of the byte-level encoder."""
    depth: Depth = 2
    """Blocks of the byte-level encoder."""
    heads: Heads = 4
    """Attention heads of the byte-level encoder."""
    mlp_width: Width = 256
    """Width of the byte-level encoder's gated feed-forward layer."""
    max_tokens: Tokens = 512
    """Maximum prompt length in tokens; longer prompts are truncated."""
    padded: bool = False
    """Zero-pad every prompt to `max_tokens` and attend to all of it, as the open Wan weights were trained."""
