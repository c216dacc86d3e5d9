"""The ladder of sizes, highest rung: a billion parameters on the drawn world, 20 tokens a parameter.

dit train ladder_1b

Cost, planned until measured (`--plan`, at an assumed 35 % of a GPU's peak):
- 1 x H100 with --train.pack-tokens 20480: 60.7 of 72.9 GiB, 1.2 s a step, 100 GPU-hours, 72 kWh
- 8 x H100: 40.8 of 72.9 GiB, 0.17 s a step, 110 GPU-hours, 77 kWh
Result: none is recorded yet.
"""

from dataclasses import replace

from configs.model import TransformerConfig
from configs.runs.ladder_10m import config as lowest

config = replace(
    lowest,
    out="runs/ladder-1b",
    model=TransformerConfig(width=1536, depth=26, heads=24, mlp_width=6144, text_width=128),
    train=replace(lowest.train, steps=300_000),
    optimizer=replace(lowest.optimizer, decay_start=240_000, decay_steps=60_000),
)
