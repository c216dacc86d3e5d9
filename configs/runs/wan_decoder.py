"""Fine-tuning of an open Wan 2.1 autoencoder's decoder: its latents stay, so that models of them still hold.

dit vae train wan_decoder --init FOLDER --data.source CLIPS

FOLDER is a diffusers folder, of the autoencoder or a whole pipeline. `--train-encoder` trains all of it.
"""

from dataclasses import replace

from configs.runs.wan_autoencoder_adversarial import config as second

config = replace(
    second,
    out="runs/wan-decoder",
    init="",
    train_encoder=False,
    train=replace(second.train, steps=20_000, batch=8),
    optimizer=replace(second.optimizer, learning_rate=2e-5, warmup_steps=500),
)
