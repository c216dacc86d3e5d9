"""The built-in autoencoder, last stage: the decoder alone, and the latents stay what they are.

dit vae train shapes_autoencoder_decoder

Not run yet: the committed weights are the fourth stage's.
"""

from dataclasses import replace

from configs.settings import LoopConfig, OptimizerConfig
from configs.shapes_autoencoder_robust import config as fourth

config = replace(
    fourth,
    out="runs/shapes-autoencoder-decoder",
    init="runs/shapes-autoencoder-robust/autoencoder.safetensors",
    train_encoder=False,
    train=LoopConfig(steps=1500, batch=4, log_every=20, precision="fp32", save_every=250, show_every=250),
    optimizer=OptimizerConfig(learning_rate=4e-4, warmup_steps=100, decay_steps=1500, ema_decay=0.995),
)
