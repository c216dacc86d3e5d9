"""The autoencoder of a third of Wan's width, second stage: a discriminator, from the first stage's weights.

dit vae train small_autoencoder_adversarial --data.source FOLDER
"""

from dataclasses import replace

from configs.settings import DiscriminatorConfig, LoopConfig, OptimizerConfig
from configs.small_autoencoder import config as first

config = replace(
    first,
    out="runs/small-autoencoder-adversarial",
    init="runs/small-autoencoder",
    discriminator=DiscriminatorConfig(weight=0.5, start=1000),
    train=LoopConfig(steps=50_000, batch=8, log_every=50, save_every=1000, show_every=1000),
    optimizer=OptimizerConfig(learning_rate=5e-5, warmup_steps=1000, ema_decay=0.999),
)
