"""The built-in autoencoder, first stage: single frames of the drawn world.

dit vae train shapes_autoencoder

Cost: not recorded.
Result: a squared error of 0.0043 on single frames. The built-in weights began with an earlier revision of
this stage, whose time convolutions were then set to the repetition that they now start as.
"""

from configs.data import DataConfig
from configs.model import TINY
from configs.train import AutoencoderRun, LoopConfig, OptimizerConfig

config = AutoencoderRun(
    out="runs/shapes-autoencoder",
    data=DataConfig(source="shapes", frames=17, size=64),
    model=TINY,
    crop=64,
    crop_frames=1,
    error="l2",
    kl_weight=1e-4,
    train=LoopConfig(steps=600, batch=16, log_every=20, save_every=200, show_every=200),
    optimizer=OptimizerConfig(learning_rate=1.5e-3, warmup_steps=100, ema_decay=0.99),
)
