"""What it costs to cut the gradient between chunks: the same training, whole and in chunks of latent frames.

python -m tests.bench.chunks

The tiny autoencoder on clips of 17 frames (five latent ones) of the drawn world, from one start, on one order
of data; and whole once more with other crops and noise, which shows what chance does. Printed: how far a
step's gradient is from the whole clip's as their cosine, at the start and after training; the held-out PSNR
that training comes to; and the peak memory of a step.
"""

import copy
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from configs.data import DataConfig
from configs.model import TINY
from configs.train import AutoencoderRun, LoopConfig, OptimizerConfig
from dit.bench.measure import peak_allocated
from vae.data.clips import open_data
from vae.losses import Likelihood, Networks, accumulate_gradients
from vae.model import Autoencoder
from vae.quality.psnr_ssim import psnr
from vae.train import crop, group_with_noise
from vae.training.optimizer import clip_gradients, make_optimizer, set_learning_rate

STEPS, BATCH, HELD_OUT = 300, 2, 8
CONFIG = AutoencoderRun(
    data=DataConfig(frames=17, size=64),
    model=TINY,
    crop=32,
    crop_frames=17,
    error="l2",
    train=LoopConfig(steps=STEPS, batch=BATCH, precision="fp32"),
    optimizer=OptimizerConfig(learning_rate=1.5e-3, warmup_steps=30, schedule="cosine", decay_steps=STEPS),
)
WHOLE = "whole"
WAYS = {  # of 5 latent frames
    WHOLE: CONFIG,
    "whole, other noise": replace(CONFIG, train=replace(CONFIG.train, seed=1)),
    **{f"{chunk} at a time": replace(CONFIG, chunk=chunk) for chunk in (1, 2, 3)},
}


def step_gradient(model: nn.Module, data, step: int, config: AutoencoderRun) -> Tensor:
    """Leaves the gradient of a step in the model, and returns it as one vector."""
    model.zero_grad(set_to_none=True)
    draws = range(step * BATCH, (step + 1) * BATCH)
    videos = [crop(data[draw].video, config, draw) for draw in draws]
    networks = Networks(model, Likelihood("l2", False), None, None)
    for video, noise in group_with_noise(videos, draws, config):
        accumulate_gradients(networks, video, noise, len(video) / BATCH, config, False, nullcontext)
    return torch.cat([p.grad.flatten() for p in model.parameters()]).double()


@torch.no_grad()
def held_out_psnr(model: Autoencoder, held_out) -> float:
    """Mean over held-out clips."""
    clips = [held_out[draw].video for draw in range(HELD_OUT)]
    return sum(psnr(clip, model.decode(model.encode(clip[None]))[0]) for clip in clips) / HELD_OUT


def main() -> None:
    """Trains one start in every way in turn, and prints the table."""
    torch.manual_seed(0)
    start = Autoencoder(TINY)
    data, held_out = open_data(CONFIG.data, 0, HELD_OUT, start.compression)
    models = {way: copy.deepcopy(start) for way in WAYS}
    optimizers = {way: make_optimizer(model, CONFIG.optimizer) for way, model in models.items()}

    def cosines(model: Autoencoder) -> dict[str, float]:
        gradients = {way: step_gradient(model, data, STEPS, config) for way, config in WAYS.items()}
        return {way: torch.cosine_similarity(gradients[WHOLE], gradients[way], dim=0).item() for way in WAYS}

    first = cosines(copy.deepcopy(start))
    for step in range(STEPS):
        for way, model in models.items():
            step_gradient(model, data, step, WAYS[way])
            clip_gradients(optimizers[way], CONFIG.optimizer)
            set_learning_rate(optimizers[way], step + 1, CONFIG.optimizer)
            optimizers[way].step()
        if (step + 1) % 100 == 0:
            scores = ", ".join(f"{way} {held_out_psnr(m, held_out):.2f}" for way, m in models.items())
            print(f"step {step + 1}: held-out PSNR {scores}", flush=True)
    last = cosines(copy.deepcopy(models[WHOLE]))
    lines = []
    for way, model in models.items():
        step = partial(step_gradient, model, data, 0, WAYS[way])
        memory = peak_allocated(step, torch.device("cpu")) / 2**20
        score = held_out_psnr(model, held_out)
        lines.append(f"{way:20}{first[way]:18.4f}{last[way]:8.4f}{score:13.2f} dB{memory:14.0f} MiB")
    print("\nlatent frames       gradient's cosine, end   held-out PSNR   peak of a step", *lines, sep="\n")


if __name__ == "__main__":
    main()
