"""An autoencoder of the shape of Wan 2.1's, 127 million weights, from scratch, first stage: no discriminator.

dit vae train wan_autoencoder --data.source FOLDER

The perceptual loss takes LPIPS' weights where they are (`dit eval weights` says where to put them).

Cost and result: for a GPU; not trained to its end yet. On a CPU a step of one clip of 9 x 64 x 64 takes three
seconds.
"""

from configs.data import DataConfig
from configs.model import WAN
from configs.train import AutoencoderRun, LoopConfig, OptimizerConfig, PerceptualConfig

config = AutoencoderRun(
    out="runs/wan-autoencoder",
    data=DataConfig(source="clips", frames=33, size=256, fps=16.0, workers=4),
    model=WAN,
    crop=256,
    crop_frames=17,
    chunk=2,
    image_share=0.25,
    checkpoint_activations=True,
    learned_variance=True,
    perceptual=PerceptualConfig(network="vgg"),
    kl_weight=1e-6,
    train=LoopConfig(steps=200_000, batch=16, log_every=50, save_every=1000, show_every=1000),
    optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=1000, ema_decay=0.999),
)
