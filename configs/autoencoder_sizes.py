"""The sizes that autoencoders come in; their compression is 4x8x8, and with a patch of 2 it is 4x16x16."""

from configs.model import AutoencoderConfig

TINY = AutoencoderConfig(  # the built-in one's
    base_width=16, decoder_base_width=16, width_multipliers=(1, 2, 3, 3), residual_blocks=1
)
SMALL = AutoencoderConfig(base_width=32, decoder_base_width=32)
WAN = AutoencoderConfig()
