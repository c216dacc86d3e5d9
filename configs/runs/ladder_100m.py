"""The ladder of sizes, third rung: 100 million parameters on the drawn world, 20 tokens a parameter.

dit train ladder_100m

Cost, planned until measured (`--plan`, at an assumed 35 % of a GPU's peak):
- 1 x H100: 41.2 of 72.9 GiB, 0.27 s a step, 2.2 GPU-hours, 1.6 kWh
- 8 x H100: 7.1 of 72.9 GiB, 0.053 s a step, 3.6 GPU-hours, 2.5 kWh
Result: none is recorded yet.
"""

from dataclasses import replace

from configs.model import TransformerConfig
from configs.runs.ladder_10m import config as lowest

config = replace(
    lowest,
    out="runs/ladder-100m",
    model=TransformerConfig(width=640, depth=15, heads=10, mlp_width=2560, text_width=128),
    train=replace(lowest.train, steps=30_000),
    optimizer=replace(lowest.optimizer, decay_start=24_000, decay_steps=6_000),
)
