"""Fine-tuning of all of Wan 2.1 T2V 14B on clips of one's own, at 81 frames of 480p, on 8 GPUs.

dit vae encode CLIPS --out runs/wan-latents --autoencoder WAN --text.folder WAN --text.padded \\
    --data.frames 81 --data.size 632 --data.fps 16 --data.clips-per-file 1
dit train wan_14b --plan --gpus 8
torchrun --nproc-per-node 8 -m dit.train wan_14b --init WAN --autoencoder WAN --text.folder WAN

WAN is its diffusers folder (Wan-AI/Wan2.1-T2V-14B-Diffusers). Two GPUs share a clip, and a step has one
pack: with more, every process would hold all gradients unsharded until the last.

Cost, planned until measured (`--plan`, at an assumed 35 % of a GPU's peak):
- 1 x H100: does not fit
- 8 x H100: 65.5 of 72.9 GiB, 11 s a step, 48 GPU-hours, 34 kWh
Result: none is recorded yet.
"""

from dataclasses import replace

from configs.model import TransformerConfig
from configs.runs.wan_1b import config as smallest
from configs.train import ParallelConfig

config = replace(
    smallest,
    out="runs/wan-14b",
    autoencoder="Wan2.1-T2V-14B-Diffusers",
    init="Wan2.1-T2V-14B-Diffusers",
    model=TransformerConfig(width=5120, depth=40, heads=40, mlp_width=13824),
    text=replace(smallest.text, folder="Wan2.1-T2V-14B-Diffusers"),
    train=replace(smallest.train, batch=4, pack_tokens=0),
    parallel=ParallelConfig(shard="full", context=2),
)
