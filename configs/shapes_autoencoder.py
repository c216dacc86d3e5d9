"""The built-in autoencoder, first half: small crops of the drawn world."""

from configs.settings import AutoencoderConfig, AutoencoderRun, DataConfig, LoopConfig, OptimizerConfig

config = AutoencoderRun(
    out="runs/shapes-autoencoder",
    data=DataConfig(source="shapes", frames=17, size=64),
    model=AutoencoderConfig(
        base_width=16, decoder_base_width=16, width_multipliers=(1, 2, 3, 3), residual_blocks=1
    ),
    crop=32,
    crop_frames=5,
    kl_weight=1e-4,
    train=LoopConfig(steps=1800, batch=32, log_every=20, save_every=300, show_every=300),
    optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=100, decay_steps=3000, ema_decay=0.995),
)
