"""The ladder of sizes, fourth rung: 300 million parameters on the drawn world, 20 tokens a parameter.

dit train ladder_300m

Cost, planned until measured (`--plan`, at an assumed 35 % of a GPU's peak):
- 1 x H100 with --train.pack-tokens 61440: 41.6 of 72.9 GiB, 0.47 s a step, 12 GPU-hours, 8.3 kWh
- 8 x H100: 15.0 of 72.9 GiB, 0.062 s a step, 12 GPU-hours, 8.7 kWh
Result: none is recorded yet.
"""

from dataclasses import replace

from configs.model import TransformerConfig
from configs.runs.ladder_10m import config as lowest

config = replace(
    lowest,
    out="runs/ladder-300m",
    model=TransformerConfig(width=1024, depth=17, heads=16, mlp_width=4096, text_width=128),
    train=replace(lowest.train, steps=90_000),
    optimizer=replace(lowest.optimizer, decay_start=72_000, decay_steps=18_000),
)
