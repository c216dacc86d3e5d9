"""Adapters (LoRA) that teach the built-in model a motion that its world does not have: to shrink.

dit train shapes_lora
dit eval shapes --new-motion --lora runs/shapes-lora

A third of the clips are of the old world, so that it is not forgotten.

Cost: 20 minutes of one core.
Result: see tests/bench/RESULTS.md, "Adapters".
"""

from configs.data import DataConfig
from configs.model import TextConfig, TransformerConfig
from configs.sampling import SamplerConfig
from configs.train import FlowConfig, LoraConfig, OptimizerConfig, TransformerLoop, TransformerRun

config = TransformerRun(
    out="runs/shapes-lora",
    init="builtin",
    data=DataConfig(sources=("shapes-shrinking=2", "shapes=1"), frames=17, size=64),
    model=TransformerConfig(width=192, depth=6, heads=3, mlp_width=576, text_width=128),
    text=TextConfig(width=128, depth=2, heads=4, mlp_width=256, max_tokens=128),
    flow=FlowConfig(shift=2.0, shift_tokens=80),
    train=TransformerLoop(
        steps=300, batch=32, log_every=10, precision="fp32", save_every=100, show_every=100
    ),
    optimizer=OptimizerConfig(
        learning_rate=2e-3, warmup_steps=20, schedule="cosine", decay_steps=300, ema_decay=0.98
    ),
    lora=LoraConfig(rank=16, layers="all"),
    sampler=SamplerConfig(steps=25, solver="multistep", guidance=3.0),
    prompts=("a red circle shrinks", "a blue square gets smaller", "a yellow star moves left"),
)
