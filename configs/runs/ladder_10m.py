"""The lowest rung of a ladder of sizes: 10 million parameters on the drawn world, 20 tokens a parameter.

dit train ladder_10m

Every rung has the same data, tokens a step and rates, which muP scales with the width; only width, depth and
steps change, so that their losses make a curve (`--data.source`, `--data.size` for clips of one's own).

Cost, planned until measured (`--plan`, at an assumed 35 % of a GPU's peak):
- 1 x H100: 17.0 of 72.9 GiB, 0.17 s a step, 0.14 GPU-hours, 0.099 kWh
- 8 x H100: 2.3 of 72.9 GiB, 0.038 s a step, 0.25 GPU-hours, 0.18 kWh
Result: none of its own size is recorded yet. With 640 tokens a step, a hundredth, on 6,112 cached clips in
fp32 (a shared core of a CPU) the validation loss is 0.668, 0.486, 0.418 and 0.372 after 500, 1,000, 1,500
and 2,000 steps, at the peak rate.
"""

from configs.data import DataConfig
from configs.model import TextConfig, TransformerConfig
from configs.sampling import SamplerConfig
from configs.train import FlowConfig, OptimizerConfig, TransformerLoop, TransformerRun

config = TransformerRun(
    out="runs/ladder-10m",
    autoencoder="builtin",
    data=DataConfig(source="shapes", frames=17, size=64),
    model=TransformerConfig(width=256, depth=9, heads=4, mlp_width=1024, text_width=128),
    text=TextConfig(width=128, depth=2, heads=4, mlp_width=256, max_tokens=96),
    flow=FlowConfig(shift=2.0, shift_tokens=80),
    train=TransformerLoop(
        steps=3_000, tokens=65_536, round_tokens=128, log_every=20, save_every=500, show_every=500
    ),
    optimizer=OptimizerConfig(
        learning_rate=1e-3,
        warmup_steps=200,
        schedule="trapezoid",
        decay_start=2_400,
        decay_steps=600,
        weight_decay=0.01,
        ema_decay=0.998,
        base_width=256,
    ),
    sampler=SamplerConfig(steps=25, solver="multistep", guidance=3.0),
    prompts=(
        "a red circle moves left",
        "a blue square moves up",
        "a green triangle grows",
        "a yellow star falls",
    ),
)
