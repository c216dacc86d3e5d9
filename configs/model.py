"""Shapes of the networks: autoencoder, transformer, text encoder."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AutoencoderConfig:
    """Shape of the causal autoencoder (the Wan 2.1 family); the defaults are Wan's own."""

    base_width: int = 96
    """Channels of the encoder's first level."""
    decoder_base_width: int = 96
    """Channels of the decoder's last level."""
    latent_channels: int = 16
    """Channels of the latents."""
    width_multipliers: tuple[int, ...] = (1, 2, 4, 4)
    """Width of each level in units of the base width; each level but the last halves height and width."""
    residual_blocks: int = 2
    """Residual blocks in each encoder level; the decoder has one more."""
    time_downsample: tuple[bool, ...] = (False, True, True)
    """Which levels also halve the number of frames."""
    patch: int = 1
    """Side of the square of pixels that is one position of the first level; 2 makes 4x8x8 4x16x16."""


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of the transformer (the Wan family); the defaults are Wan 2.1 1.3B's."""

    width: int = 1536
    """Width of the token stream."""
    depth: int = 30
    """Number of blocks."""
    heads: int = 12
    """Attention heads; the width is a multiple, a head of 64 or 128 is the fastest."""
    mlp_width: int = 8960
    """Width of the feed-forward layer."""
    text_width: int = 4096
    """Width of the text encoder's output."""
    latent_channels: int = 16
    """Channels of the latents."""
    time_frequencies: int = 256
    """Width of the sinusoidal embedding of time."""
    eps: float = 1e-6
    """Epsilon of the norms."""


@dataclass(frozen=True)
class TextConfig:
    """The text encoder: a byte-level T5 trained with the transformer, or a frozen one from a folder."""

    folder: str = ""
    """Folder with a T5 or UMT5 encoder and its tokenizer, as transformers saves them; empty: byte-level."""
    width: int = 128
    """Width of the byte-level encoder."""
    depth: int = 2
    """Blocks of the byte-level encoder."""
    heads: int = 4
    """Attention heads of the byte-level encoder."""
    mlp_width: int = 256
    """Width of the byte-level encoder's gated feed-forward layer."""
    max_tokens: int = 512
    """Maximum prompt length in tokens; longer prompts are truncated."""
    padded: bool = False
    """Zero-pad every prompt to `max_tokens` and attend to all of it, as the open Wan weights were trained."""
