"""The built-in autoencoder, third stage: sharp edges by the L1 error, from the second stage's weights.

dit vae train shapes_autoencoder_sharp

Cost: 18 minutes on two cores with AVX-512, from the log's clips per second.
Result: 35.3 dB, SSIM 0.982. It was to take 2,000 steps, and was ended at 1,241.
"""

from dataclasses import replace

from configs.runs.shapes_autoencoder import config as first
from configs.train import LoopConfig, OptimizerConfig

config = replace(
    first,
    out="runs/shapes-autoencoder-sharp",
    init="runs/shapes-autoencoder-whole/autoencoder.safetensors",
    crop_frames=9,
    error="l1",
    train=LoopConfig(steps=1241, batch=4, log_every=20, precision="fp32", save_every=200, show_every=200),
    optimizer=OptimizerConfig(
        learning_rate=5e-4, warmup_steps=100, schedule="cosine", decay_steps=2000, ema_decay=0.995
    ),
)
