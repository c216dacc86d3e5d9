"""The autoencoder of Wan 2.1's shape, second stage: a discriminator, from the first stage's weights.

dit vae train wan_autoencoder_adversarial --data.source FOLDER

Cost and result: for a GPU; not trained to its end yet.
"""

from dataclasses import replace

from configs.runs.wan_autoencoder import config as first
from configs.train import DiscriminatorConfig

config = replace(
    first,
    out="runs/wan-autoencoder-adversarial",
    init="runs/wan-autoencoder",
    discriminator=DiscriminatorConfig(weight=0.5, start=1000),
    train=replace(first.train, steps=100_000),
    optimizer=replace(first.optimizer, learning_rate=5e-5),
)
