"""The built-in autoencoder, second stage: clips of the drawn world, from the first stage's weights.

dit vae train shapes_autoencoder_whole

Cost: not recorded (in bf16; fp32 is faster on a CPU without AMX).
Result: 34.4 dB, SSIM 0.972 on held-out clips.
"""

from dataclasses import replace

from configs.runs.shapes_autoencoder import config as first
from configs.train import LoopConfig, OptimizerConfig

config = replace(
    first,
    out="runs/shapes-autoencoder-whole",
    init="runs/shapes-autoencoder/autoencoder.safetensors",
    crop_frames=9,
    train=LoopConfig(steps=760, batch=4, log_every=20, save_every=100, show_every=100),
    optimizer=OptimizerConfig(
        learning_rate=4e-4, warmup_steps=100, schedule="cosine", decay_steps=600, ema_decay=0.99
    ),
)
