"""The built-in autoencoder, fourth stage: ten times the KL weight, so that it forgives a sampler's errors.

dit vae train shapes_autoencoder_robust

Cost: 31 minutes on two cores shared with other work, from the log's clips per second.
Result: 37.2 dB, SSIM 0.988.
"""

from dataclasses import replace

from configs.runs.shapes_autoencoder import config as first
from configs.train import LoopConfig, OptimizerConfig

config = replace(
    first,
    out="runs/shapes-autoencoder-robust",
    init="runs/shapes-autoencoder-sharp/autoencoder.safetensors",
    crop_frames=9,
    error="l1",
    kl_weight=1e-3,
    train=LoopConfig(steps=1500, batch=4, log_every=20, precision="fp32", save_every=250, show_every=250),
    optimizer=OptimizerConfig(
        learning_rate=4e-4, warmup_steps=100, schedule="cosine", decay_steps=1500, ema_decay=0.995
    ),
)
