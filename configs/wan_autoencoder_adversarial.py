"""The autoencoder of Wan 2.1's shape, second stage: a discriminator, from the first stage's weights.

dit vae train wan_autoencoder_adversarial --data.source FOLDER
"""

from dataclasses import replace

from configs.settings import DiscriminatorConfig, LoopConfig, OptimizerConfig
from configs.wan_autoencoder import config as first

config = replace(
    first,
    out="runs/wan-autoencoder-adversarial",
    init="runs/wan-autoencoder",
    discriminator=DiscriminatorConfig(weight=0.5, start=1000),
    train=LoopConfig(steps=100_000, batch=16, log_every=50, save_every=1000, show_every=1000),
    optimizer=OptimizerConfig(learning_rate=5e-5, warmup_steps=1000, ema_decay=0.999),
)
