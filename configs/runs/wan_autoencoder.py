"""An autoencoder of the shape of Wan 2.1's, 127 million weights, from scratch: its first stage.

dit vae train wan_autoencoder --data.source FOLDER

The perceptual loss takes LPIPS' weights where they are (`dit eval weights` says where to put them).

For a GPU; not trained to its end yet. It runs on a CPU: three seconds a step of one clip of 9 x 64 x 64.
"""

from dataclasses import replace

from configs.model import WAN
from configs.runs.small_autoencoder import config as small

config = replace(
    small,
    out="runs/wan-autoencoder",
    model=WAN,
    crop=256,
    chunk=2,
    train=replace(small.train, steps=200_000, batch=16),
)
