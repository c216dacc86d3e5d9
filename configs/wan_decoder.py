"""Fine-tuning of an open Wan 2.1 autoencoder's decoder: its latents stay, so that models of them still hold.

dit vae train wan_decoder --init FOLDER --data.source CLIPS

FOLDER is a diffusers folder, of the autoencoder or a whole pipeline. `--train-encoder` trains all of it.
"""

from dataclasses import replace

from configs.settings import DiscriminatorConfig, LoopConfig, OptimizerConfig
from configs.wan_autoencoder import config as scratch

config = replace(
    scratch,
    out="runs/wan-decoder",
    train_encoder=False,
    discriminator=DiscriminatorConfig(weight=0.5, start=1000),
    train=LoopConfig(steps=20_000, batch=8, log_every=50, save_every=1000, show_every=1000),
    optimizer=OptimizerConfig(learning_rate=2e-5, warmup_steps=500, ema_decay=0.999),
)
