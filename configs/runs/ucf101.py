"""UCF-101 by class at 17 x 128 x 128 on latents of Wan 2.1's autoencoder, classes as prompts by their names.

dit data ucf101 UCF-101 --lists LISTS --split train1 --prompts names
dit vae encode UCF-101 --out runs/ucf101-latents --autoencoder WAN \\
    --data.size 128 --data.fps 25 --data.clips-per-file 4
dit train ucf101 --autoencoder WAN
dit eval run ucf101-class-walt --model runs/ucf101 --real UCF-101

WAN is a diffusers folder of Wan 2.1. The score is in the line of W.A.L.T, whose clips have 17 frames too. A
class is a prompt, so that dropped prompts are the model without a class, for guidance.

Cost, planned until measured (`--plan`, at an assumed 35 % of a GPU's peak):
- 1 x H100: 47.1 of 72.9 GiB, 0.39 s a step, 11 GPU-hours, 7.6 kWh
- 8 x H100: 11.6 of 72.9 GiB, 0.073 s a step, 16 GPU-hours, 11 kWh
Result: none is recorded yet.
"""

from configs.data import DataConfig
from configs.model import TextConfig, TransformerConfig
from configs.sampling import SamplerConfig
from configs.train import FlowConfig, OptimizerConfig, TaskWeights, TransformerLoop, TransformerRun

config = TransformerRun(
    out="runs/ucf101",
    autoencoder="Wan2.1-T2V-1.3B-Diffusers",
    data=DataConfig(source="runs/ucf101-latents", frames=17, size=128, fps=25.0, clips_per_file=4),
    model=TransformerConfig(width=1024, depth=17, heads=16, mlp_width=4096, text_width=256),
    text=TextConfig(width=256, depth=2, heads=4, mlp_width=512, max_tokens=64),
    flow=FlowConfig(shift=2.0, shift_tokens=320, tasks=TaskWeights(first=0.0)),
    train=TransformerLoop(steps=100_000, batch=256, save_every=2_000, keep_every=5, show_every=5_000),
    optimizer=OptimizerConfig(
        learning_rate=3e-4,
        warmup_steps=5_000,
        schedule="trapezoid",
        decay_start=80_000,
        decay_steps=20_000,
        ema_decay=0.9999,
    ),
    sampler=SamplerConfig(steps=50, guidance=3.0),
    checkpoint_activations="selective",
)
