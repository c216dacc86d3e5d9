"""The built-in transformer and text encoder, second stage: the final autoencoder, from the first weights.

dit train shapes_second
"""

from dataclasses import replace

from configs.settings import LoopConfig, OptimizerConfig
from configs.shapes import config as first

config = replace(
    first,
    out="runs/shapes-second",
    autoencoder="runs/shapes-autoencoder-robust",
    init="runs/shapes",
    cached_clips=8192,
    train=LoopConfig(steps=5000, batch=64, log_every=20, precision="fp32", save_every=250, show_every=500),
    optimizer=OptimizerConfig(
        learning_rate=1e-3, warmup_steps=200, decay_steps=5000, weight_decay=0.01, ema_decay=0.998
    ),
)
