"""What it costs to cut the gradient between chunks: the same training, whole and in chunks of latent frames.

python -m tests.bench.chunks

The tiny autoencoder on clips of 17 frames (five latent ones) of the drawn world, from one start, on one order
of data. Printed: how far a step's gradient is from the whole clip's as their cosine, at the start and after
training; the held-out PSNR that training comes to; and the peak memory of a step.
"""

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from configs.autoencoder_sizes import TINY
from configs.settings import AutoencoderRun, DataConfig, LoopConfig, OptimizerConfig
from dit.bench_vae import peak_allocated
from vae.data import open_data
from vae.losses import Likelihood
from vae.model import Autoencoder
from vae.optimizer import clip_gradients, learning_rate, make_optimizer
from vae.quality import psnr
from vae.train import Players, crop, learn, same_shapes

STEPS, BATCH, HELD_OUT = 300, 2, 8
CHUNKS = (0, 1, 2, 3)  # latent frames; 0 is the whole clip
CONFIG = AutoencoderRun(
    data=DataConfig(frames=17, size=64),
    model=TINY,
    crop=32,
    crop_frames=17,
    error="l2",
    train=LoopConfig(steps=STEPS, batch=BATCH, precision="fp32"),
    optimizer=OptimizerConfig(learning_rate=1.5e-3, warmup_steps=30, decay_steps=STEPS),
)


def step_gradient(model: nn.Module, data, step: int, config: AutoencoderRun, accelerator) -> Tensor:
    """Leaves the gradient of a step in the model, and returns it as one vector."""
    model.zero_grad(set_to_none=True)
    draws = range(step * BATCH, (step + 1) * BATCH)
    videos = [crop(data[draw].video, config, draw) for draw in draws]
    players = Players(model, Likelihood("l2", False), None, None)
    for video, noise in same_shapes(videos, draws, config):
        learn(players, video, noise, len(video) / BATCH, config, False, accelerator)
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@torch.no_grad()
def held_out_psnr(model: Autoencoder, held_out) -> float:
    """Mean over held-out clips."""
    clips = [held_out[draw].video for draw in range(HELD_OUT)]
    return sum(psnr(clip, model.decode(model.encode(clip[None]))[0]) for clip in clips) / HELD_OUT


def main() -> None:
    """Trains one start in every way in turn, and prints the table."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    start = Autoencoder(TINY)
    data, held_out = open_data(CONFIG.data, 0, HELD_OUT, start.compression)
    models = {chunk: copy.deepcopy(start) for chunk in CHUNKS}
    optimizers = {chunk: make_optimizer(model, CONFIG.optimizer) for chunk, model in models.items()}
    configs = {chunk: replace(CONFIG, chunk=chunk) for chunk in CHUNKS}

    def cosines(model: Autoencoder) -> dict[int, float]:
        found = {c: step_gradient(model, data, STEPS, configs[c], accelerator) for c in CHUNKS}
        return {c: torch.cosine_similarity(found[0], found[c], dim=0).item() for c in CHUNKS}

    first = cosines(copy.deepcopy(start))
    for step in range(STEPS):
        for chunk, model in models.items():
            step_gradient(model, data, step, configs[chunk], accelerator)
            clip_gradients(optimizers[chunk], CONFIG.optimizer)
            for group in optimizers[chunk].param_groups:
                group["lr"] = learning_rate(step, CONFIG.optimizer)
            optimizers[chunk].step()
        if (step + 1) % 100 == 0:
            scores = {chunk: f"{held_out_psnr(model, held_out):.2f}" for chunk, model in models.items()}
            print(f"step {step + 1}: held-out PSNR {scores}", flush=True)
    last = cosines(copy.deepcopy(models[0]))
    print("\nlatent frames at a time   gradient's cosine, start   end   held-out PSNR   peak of a step")
    for chunk, model in models.items():
        memory = peak_allocated(
            lambda c=chunk, m=model: step_gradient(m, data, 0, configs[c], accelerator), torch.device("cpu")
        )
        score = held_out_psnr(model, held_out)
        print(
            f"{chunk or 'all':>23}{first[chunk]:>27.3f}{last[chunk]:>7.3f}{score:>13.2f} dB"
            f"{memory / 2**20:>13.0f} MiB"
        )


if __name__ == "__main__":
    main()
