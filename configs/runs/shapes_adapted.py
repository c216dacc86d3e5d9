"""A second stage: all weights of the built-in model adapted to a motion that its world does not have.

dit train shapes_adapted
dit train shapes_adapted --data.sources shapes-shrinking=1 --out runs/shapes-adapted-alone
dit eval shapes --new-motion --model runs/shapes-adapted

A third of the clips are of the old world, so that it is forgotten less; the second command has none. After a
first stage of one's own: `--init "" --from runs/shapes-longer --no-from-optimizer --train.steps 1650`.

Cost: 5 minutes of one core.
Result: see tests/bench/RESULTS.md, "Two stages".
"""

from configs.data import DataConfig
from configs.model import TextConfig, TransformerConfig
from configs.sampling import SamplerConfig
from configs.train import FlowConfig, OptimizerConfig, TransformerLoop, TransformerRun

config = TransformerRun(
    out="runs/shapes-adapted",
    init="builtin",
    data=DataConfig(sources=("shapes-shrinking=2", "shapes=1"), frames=17, size=64),
    model=TransformerConfig(width=192, depth=6, heads=3, mlp_width=576, text_width=128),
    text=TextConfig(width=128, depth=2, heads=4, mlp_width=256, max_tokens=96),
    flow=FlowConfig(shift=2.0, shift_tokens=80),
    train=TransformerLoop(steps=150, batch=24, log_every=10, precision="fp32", save_every=50, show_every=75),
    optimizer=OptimizerConfig(
        learning_rate=4e-4, warmup_steps=10, schedule="cosine", decay_steps=150, ema_decay=0.97
    ),
    sampler=SamplerConfig(steps=25, solver="multistep", guidance=3.0),
    prompts=("a red circle shrinks", "a blue square gets smaller", "a yellow star moves left"),
)
