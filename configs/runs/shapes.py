"""The built-in transformer and text encoder, on latents of the drawn world.

dit vae encode shapes --autoencoder runs/shapes-autoencoder-robust --out runs/shapes-latents
dit train shapes --data.source runs/shapes-latents

Without the cache, `dit train shapes` draws and encodes new scenes in every step.

Cost: 2.1 hours on two cores without AVX-512, 9 minutes of it to encode the clips.
Result: validation loss 0.227.
"""

from configs.data import DataConfig
from configs.model import TextConfig, TransformerConfig
from configs.sampling import SamplerConfig
from configs.train import FlowConfig, OptimizerConfig, TransformerLoop, TransformerRun

config = TransformerRun(
    out="runs/shapes",
    autoencoder="runs/shapes-autoencoder-robust",
    data=DataConfig(source="shapes", frames=17, size=64, clips_per_file=1),
    model=TransformerConfig(width=192, depth=6, heads=3, mlp_width=576, text_width=128),
    text=TextConfig(width=128, depth=2, heads=4, mlp_width=256, max_tokens=96),
    flow=FlowConfig(shift=2.0, shift_tokens=80),
    train=TransformerLoop(
        steps=4000, batch=64, log_every=20, precision="fp32", save_every=250, show_every=500
    ),
    optimizer=OptimizerConfig(
        learning_rate=1e-3,
        warmup_steps=200,
        schedule="cosine",
        decay_steps=4000,
        weight_decay=0.01,
        ema_decay=0.998,
    ),
    sampler=SamplerConfig(steps=25, solver="multistep", guidance=3.0),
    prompts=(
        "a red circle moves left",
        "a blue square moves up",
        "a green triangle grows",
        "a yellow star falls",
        "a purple square moves right",
        "an orange star stays still",
    ),
)
