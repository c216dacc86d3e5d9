"""The autoencoder of Wan 2.1's shape, second stage: a discriminator, from the first stage's weights.

dit vae train wan_autoencoder_adversarial --data.source FOLDER
"""

from dataclasses import replace

from configs.runs.small_autoencoder_adversarial import config as small
from configs.runs.wan_autoencoder import config as first

config = replace(
    first,
    out="runs/wan-autoencoder-adversarial",
    init="runs/wan-autoencoder",
    discriminator=small.discriminator,
    train=replace(first.train, steps=100_000),
    optimizer=small.optimizer,
)
