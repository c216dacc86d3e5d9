"""MSR-VTT text-to-video at 17 x 256 x 256, on latents and text embeddings of Wan 2.1's encoders.

dit data msrvtt MSRVTT --split train
dit vae encode MSRVTT --out runs/msrvtt-latents --autoencoder WAN --text.folder WAN \\
    --text.max-tokens 128 --data.size 256 --data.clips-per-file 4
dit train msrvtt --autoencoder WAN --text.folder WAN
dit eval run msrvtt --model runs/msrvtt --text-folder WAN --real MSRVTT

WAN is a diffusers folder of Wan 2.1; its text encoder runs once, when the cache is made, and no more.

Cost, planned until measured (`--plan`, at an assumed 35 % of a GPU's peak):
- 1 x H100: 26.5 of 72.9 GiB, 0.88 s a step, 24 GPU-hours, 17 kWh
- 8 x H100: 16.3 of 72.9 GiB, 0.11 s a step, 25 GPU-hours, 18 kWh
Result: none is recorded yet; its 6,513 clips are few for a model of this size.
"""

from configs.data import DataConfig
from configs.model import TextConfig, TransformerConfig
from configs.sampling import SamplerConfig
from configs.train import FlowConfig, OptimizerConfig, TransformerLoop, TransformerRun

config = TransformerRun(
    out="runs/msrvtt",
    autoencoder="Wan2.1-T2V-1.3B-Diffusers",
    data=DataConfig(source="runs/msrvtt-latents", frames=17, size=256, fps=8.0, clips_per_file=4),
    model=TransformerConfig(width=1024, depth=17, heads=16, mlp_width=4096, text_width=4096),
    text=TextConfig(folder="Wan2.1-T2V-1.3B-Diffusers", max_tokens=128),
    flow=FlowConfig(shift=3.0, shift_tokens=1280),
    train=TransformerLoop(
        steps=100_000,
        tokens=163_840,
        pack_tokens=40_960,
        round_tokens=128,
        save_every=2_000,
        keep_every=5,
        show_every=5_000,
    ),
    optimizer=OptimizerConfig(
        learning_rate=2e-4,
        warmup_steps=5_000,
        schedule="trapezoid",
        decay_start=80_000,
        decay_steps=20_000,
        ema_decay=0.9999,
    ),
    sampler=SamplerConfig(steps=50, guidance=5.0),
    checkpoint_activations="selective",
)
