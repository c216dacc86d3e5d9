"""Fine-tuning of an open Wan 2.1 autoencoder's decoder: its latents stay, so models of them stay valid.

dit vae train wan_decoder --init FOLDER --data.source CLIPS

FOLDER is a diffusers folder, of the autoencoder or a whole pipeline. `--train-encoder` trains all of it.

Cost and result: for a GPU; none is recorded yet.
"""

from dataclasses import replace

from configs.runs.wan_autoencoder import config as first
from configs.train import DiscriminatorConfig

config = replace(
    first,
    out="runs/wan-decoder",
    train_encoder=False,
    discriminator=DiscriminatorConfig(weight=0.5, start=1000),
    train=replace(first.train, steps=20_000, batch=8),
    optimizer=replace(first.optimizer, learning_rate=2e-5, warmup_steps=500),
)
