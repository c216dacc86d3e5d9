"""A small autoencoder for videos of one's own, from random weights.

dit vae train small_autoencoder --data.source FOLDER

On 16 clips of 10 to 325 frames and 64x64 to 1280x720: 11.5 minutes on two cores with AVX-512, held-out PSNR
21.5 dB.
"""

from configs.settings import AutoencoderConfig, AutoencoderRun, DataConfig, LoopConfig, OptimizerConfig

config = AutoencoderRun(
    out="runs/small-autoencoder",
    data=DataConfig(source="clips", frames=17, size=96),
    model=AutoencoderConfig(
        base_width=16, decoder_base_width=16, width_multipliers=(1, 2, 3, 3), residual_blocks=1
    ),
    crop=64,
    crop_frames=9,
    error="l2",
    kl_weight=1e-5,
    train=LoopConfig(steps=600, batch=4, log_every=20, save_every=100, show_every=100, precision="fp32"),
    optimizer=OptimizerConfig(learning_rate=5e-4, warmup_steps=100, decay_steps=600, ema_decay=0.99),
)
