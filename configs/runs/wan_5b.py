"""Fine-tuning of all of Wan 2.2 TI2V 5B on clips of one's own, at its own 121 frames of 704 x 1280.

dit vae encode CLIPS --out runs/wan22-latents --autoencoder WAN --text.folder WAN --text.padded \\
    --data.frames 121 --data.size 949 --data.fps 24 --data.clips-per-file 1
dit train wan_5b --plan --gpus 8
torchrun --nproc-per-node 8 -m dit.train wan_5b --init WAN --autoencoder WAN --text.folder WAN

WAN is its diffusers folder (Wan-AI/Wan2.2-TI2V-5B-Diffusers). A quarter of the clips has
its first frame given.

Cost, planned until measured (`--plan`, at an assumed 35 % of a GPU's peak):
- 1 x H100: does not fit
- 8 x H100: 32.2 of 72.9 GiB, 6.6 s a step, 29 GPU-hours, 21 kWh
Result: none is recorded yet.
"""

from dataclasses import replace

from configs.model import TransformerConfig
from configs.runs.wan_1b import config as smallest
from configs.train import ParallelConfig, TaskWeights

config = replace(
    smallest,
    out="runs/wan-5b",
    autoencoder="Wan2.2-TI2V-5B-Diffusers",
    init="Wan2.2-TI2V-5B-Diffusers",
    data=replace(smallest.data, source="runs/wan22-latents", frames=121, size=949, fps=24.0),
    model=TransformerConfig(width=3072, depth=30, heads=24, mlp_width=14336, latent_channels=48),
    text=replace(smallest.text, folder="Wan2.2-TI2V-5B-Diffusers"),
    flow=replace(smallest.flow, shift=5.0, tasks=TaskWeights()),
    train=replace(smallest.train, pack_tokens=0),
    parallel=ParallelConfig(shard="full"),
)
