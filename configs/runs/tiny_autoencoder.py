"""An autoencoder of the built-in one's size for images and videos of one's own: its first stage.

dit vae train tiny_autoencoder --data.source FOLDER

Cost, on 16 clips of 10 to 325 frames and 64x64 to 1280x720: 40 minutes on one core with AVX-512, shared with
other work.
Result: held-out PSNR 18.0 dB at step 100, 21.3 at 500, 21.9 at 1,000, SSIM 0.583; still blurred.
"""

from configs.data import DataConfig
from configs.model import TINY
from configs.train import AutoencoderRun, LoopConfig, OptimizerConfig

config = AutoencoderRun(
    out="runs/tiny-autoencoder",
    data=DataConfig(source="clips", frames=17, size=96),
    model=TINY,
    crop=64,
    crop_frames=9,
    image_share=0.25,
    error="l2",
    kl_weight=1e-5,
    train=LoopConfig(steps=1000, batch=4, log_every=20, save_every=100, show_every=100, precision="fp32"),
    optimizer=OptimizerConfig(
        learning_rate=1e-3, warmup_steps=100, schedule="cosine", decay_steps=1000, ema_decay=0.99
    ),
)
