"""Fine-tuning of all of Wan 2.1 T2V 1.3B on clips of one's own, at its own 81 frames of 480p.

dit vae encode CLIPS --out runs/wan-latents --autoencoder WAN --text.folder WAN --text.padded \\
    --data.frames 81 --data.size 632 --data.fps 16 --data.clips-per-file 1
dit train wan_1b --init WAN --autoencoder WAN --text.folder WAN

WAN is its diffusers folder (Wan-AI/Wan2.1-T2V-1.3B-Diffusers). Latents and text are of the cache: neither the
text encoder nor the autoencoder's encoder runs in a step.

Cost, planned until measured (`--plan`, at an assumed 35 % of a GPU's peak):
- 1 x H100: 33.7 of 72.9 GiB, 30 s a step, 17 GPU-hours, 12 kWh
- 8 x H100: 33.7 of 72.9 GiB, 3.7 s a step, 17 GPU-hours, 12 kWh
Result: none is recorded yet.
"""

from configs.data import DataConfig
from configs.model import TextConfig, TransformerConfig
from configs.sampling import SamplerConfig
from configs.train import FlowConfig, OptimizerConfig, TaskWeights, TransformerLoop, TransformerRun

config = TransformerRun(
    out="runs/wan-1b",
    autoencoder="Wan2.1-T2V-1.3B-Diffusers",
    init="Wan2.1-T2V-1.3B-Diffusers",
    data=DataConfig(source="runs/wan-latents", frames=81, size=632, fps=16.0, clips_per_file=1),
    model=TransformerConfig(),
    text=TextConfig(folder="Wan2.1-T2V-1.3B-Diffusers", padded=True),
    flow=FlowConfig(shift=3.0, shift_tokens=0, tasks=TaskWeights(first=0.0)),
    train=TransformerLoop(
        steps=2_000, batch=8, pack_tokens=33_600, round_tokens=128, save_every=250, show_every=500
    ),
    optimizer=OptimizerConfig(learning_rate=1e-5, warmup_steps=100, weight_decay=0.01, ema_decay=0.99),
    sampler=SamplerConfig(steps=50, guidance=5.0),
    checkpoint_activations="blocks",
)
