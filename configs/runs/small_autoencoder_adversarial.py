"""The autoencoder of a third of Wan's width, second stage: a discriminator, from the first stage's weights.

dit vae train small_autoencoder_adversarial --data.source FOLDER

Cost and result: for a GPU; not trained to its end yet.
"""

from dataclasses import replace

from configs.runs.small_autoencoder import config as first
from configs.train import DiscriminatorConfig

config = replace(
    first,
    out="runs/small-autoencoder-adversarial",
    init="runs/small-autoencoder",
    discriminator=DiscriminatorConfig(weight=0.5, start=1000),
    train=replace(first.train, steps=50_000),
    optimizer=replace(first.optimizer, learning_rate=5e-5),
)
