"""The built-in transformer and text encoder, second stage: twice the clips, from the first stage's weights.

dit train shapes_second
"""

from dataclasses import replace

from configs.settings import LoopConfig, OptimizerConfig
from configs.shapes import config as first

config = replace(
    first,
    out="runs/shapes-second",
    init="runs/shapes",
    cached_clips=12288,
    train=LoopConfig(steps=8000, batch=32, log_every=50, precision="fp32", save_every=250, show_every=1000),
    optimizer=OptimizerConfig(
        learning_rate=8e-4, warmup_steps=200, decay_steps=8000, weight_decay=0.01, ema_decay=0.998
    ),
)
