"""An autoencoder of a third of Wan's width, from scratch, first stage: no discriminator.

dit vae train small_autoencoder --data.source FOLDER

The perceptual loss takes LPIPS' weights where they are (`dit eval weights` says where to put them).

Cost and result: for a GPU; not trained to its end yet.
"""

from configs.data import DataConfig
from configs.model import SMALL
from configs.train import AutoencoderRun, LoopConfig, OptimizerConfig, PerceptualConfig

config = AutoencoderRun(
    out="runs/small-autoencoder",
    data=DataConfig(source="clips", frames=33, size=256, fps=16.0, workers=4),
    model=SMALL,
    crop=128,
    crop_frames=17,
    image_share=0.25,
    checkpoint_activations=True,
    learned_variance=True,
    perceptual=PerceptualConfig(network="vgg"),
    kl_weight=1e-6,
    train=LoopConfig(steps=100_000, batch=8, log_every=50, save_every=1000, show_every=1000),
    optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=1000, ema_decay=0.999),
)
