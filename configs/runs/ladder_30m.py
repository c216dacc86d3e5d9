"""The ladder of sizes, second rung: 30 million parameters on the drawn world, 20 tokens a parameter.

dit train ladder_30m

Cost, planned until measured (`--plan`, at an assumed 35 % of a GPU's peak):
- 1 x H100: 20.2 of 72.9 GiB, 0.19 s a step, 0.48 GPU-hours, 0.33 kWh
- 8 x H100: 3.1 of 72.9 GiB, 0.045 s a step, 0.9 GPU-hours, 0.63 kWh
Result: none is recorded yet.
"""

from dataclasses import replace

from configs.model import TransformerConfig
from configs.runs.ladder_10m import config as lowest

config = replace(
    lowest,
    out="runs/ladder-30m",
    model=TransformerConfig(width=384, depth=12, heads=6, mlp_width=1536, text_width=128),
    train=replace(lowest.train, steps=9_000),
    optimizer=replace(lowest.optimizer, decay_start=7_200, decay_steps=1_800),
)
