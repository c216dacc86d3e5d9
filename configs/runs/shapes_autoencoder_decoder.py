"""The built-in autoencoder, fifth stage: its decoder alone, so that the transformer's latents stay.

dit vae train shapes_autoencoder_decoder

Cost: 14 minutes on one core with AVX-512.
Result: 37.7 dB on the score's drawings, where the fourth stage has 36.9; `init` was that stage's weights,
which were the built-in ones then.
"""

from dataclasses import replace

from configs.runs.shapes_autoencoder import config as first
from configs.train import LoopConfig, OptimizerConfig

config = replace(
    first,
    out="runs/shapes-autoencoder-decoder",
    init="builtin",
    crop_frames=9,
    error="l1",
    kl_weight=1e-3,
    train_encoder=False,
    train=LoopConfig(steps=1200, batch=4, log_every=20, precision="fp32", save_every=100, show_every=100),
    optimizer=OptimizerConfig(
        learning_rate=5e-4, warmup_steps=50, schedule="cosine", decay_steps=1200, ema_decay=0.995
    ),
)
