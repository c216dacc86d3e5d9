"""`dit vae train CONFIG`: trains the autoencoder from scratch on the drawn world or on videos."""

import copy
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from configs.load import parse_run, to_json
from configs.settings import AutoencoderConfig, AutoencoderRun
from vae.data import Clip, batches, open_data
from vae.model import Autoencoder, check_video_size
from vae.optimizer import learning_rate, make_optimizer, update_average
from vae.quality import psnr, ssim
from vae.run import (
    Log,
    StopSignal,
    draw_curve,
    load_checkpoint,
    open_run,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from vae.seeds import generator
from vae.weights import load_weights, save_weights, write_whole

HELD_OUT = 16
WEIGHTS = "autoencoder.safetensors"


def train(config: AutoencoderRun) -> Path:
    """Trains or goes on with the run in `config.out`; returns the path of the finished weights."""
    from accelerate import Accelerator

    check_video_size(config.crop_frames, config.crop, config.crop)
    out, settings = Path(config.out), to_json(config)
    loop = config.train
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="bf16" if loop.precision == "bf16" else "no")
    data, held_out = open_data(config.data, loop.seed, HELD_OUT)

    torch.manual_seed(loop.seed)
    model = Autoencoder(config.model).to(accelerator.device)
    if config.init:
        model.load_state_dict({name: tensor.float() for name, tensor in load_weights(Path(config.init))[0].items()})
    model.checkpoint_activations(config.checkpoint_activations)
    average = copy.deepcopy(model).requires_grad_(False).eval()
    optimizer = make_optimizer(model, config.optimizer)
    if accelerator.is_main_process:
        open_run(out, settings)
    accelerator.wait_for_everyone()
    first_step = 0
    if (checkpoint := load_checkpoint(out)) is not None:
        first_step, parts = checkpoint
        model.load_state_dict(parts["model"])
        average.load_state_dict(parts["average"])
        restore_optimizer(optimizer, parts["optimizer"])
    wrapped = accelerator.prepare(Trainee(model))
    log = Log(out, first_step, loop.steps) if accelerator.is_main_process else None
    stop = StopSignal()
    loader = batches(
        data, loop.batch, first_step, loop.steps, accelerator.process_index, accelerator.num_processes, config.data.workers
    )

    step, waited = first_step, 0.0
    while step < loop.steps:
        asked = time.monotonic()
        clips = next(loader)
        waited = time.monotonic() - asked
        draws = range(step * loop.batch + accelerator.process_index, (step + 1) * loop.batch, accelerator.num_processes)
        video = torch.stack([crop(clip.video, config, draw) for clip, draw in zip(clips, draws, strict=True)])
        shape = latent_shape(video.shape, config.model)
        noise = torch.stack([torch.randn(shape, generator=generator(loop.seed, "posterior", draw)) for draw in draws])
        video, noise = video.to(accelerator.device), noise.to(accelerator.device)

        with accelerator.autocast():
            reconstruction, mean, log_variance = wrapped(video, noise)
        error = (reconstruction.float() - video).abs().mean()
        kl = kl_divergence(mean.float(), log_variance.float())
        loss = error + config.kl_weight * kl
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config.optimizer)
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(model.parameters(), config.optimizer.max_gradient_norm)
        if not torch.isfinite(norm):
            raise ValueError(f"gradient not finite at step {step}, on {', '.join(c.source for c in clips)}")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        update_average(average, model, step, config.optimizer.ema_decay)

        stopping = accelerator.reduce(torch.tensor(float(stop.asked), device=accelerator.device)).item() > 0
        if log and (step % loop.log_every == 0 or step == 1):
            row = {"step": step, "l1": error.item(), "kl": kl.item(), "gradient_norm": float(norm), "waited": waited}
            log.add(row)
            log.show(step, f"L1 {row['l1']:.4f}  KL {row['kl']:.2f}  gradient {row['gradient_norm']:.2f}")
        if log and (step % loop.show_every == 0 or step == loop.steps):
            log.add({"step": step} | evaluate(average, held_out, out / f"reconstructions-{step:06d}.png"))
            log.say(f"step {step}: held out PSNR {log.rows[-1]['psnr']:.2f} dB, SSIM {log.rows[-1]['ssim']:.4f}")
            draw_curve(log.rows, {"l1": "L1 error", "kl": "KL, nats per number", "psnr": "held-out PSNR, dB"}, out / "curve.png")
        if log and (step % loop.save_every == 0 or step == loop.steps or stopping):
            parts = {"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer_tensors(optimizer)}
            save_checkpoint(out, step, parts, settings)
        if stopping:
            break
    stop.restore()
    if log and step < loop.steps:
        log.say(f"stopped at step {step}; the same command goes on from there")
    if log and step == loop.steps:
        finish(average, config, settings, data, out / WEIGHTS)
        log.say(f"weights: {out / WEIGHTS}")
    accelerator.end_training()
    return out / WEIGHTS


class Trainee(torch.nn.Module):
    """The whole forward pass as one module, for data parallelism to wrap."""

    def __init__(self, autoencoder: Autoencoder):
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, video_BCTHW: Tensor, noise_BCTHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.autoencoder.encode_moments(video_BCTHW)
        latents = mean + torch.exp(0.5 * log_variance) * noise_BCTHW
        return self.autoencoder.decode_raw(latents), mean, log_variance


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL of the posterior from the standard normal, nats per latent number (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()


def latent_shape(video_shape: tuple[int, ...], config: AutoencoderConfig) -> tuple[int, ...]:
    """C T H W of one clip's latents."""
    _, _, t, h, w = video_shape
    return config.latent_channels, 1 + (t - 1) // 4, h // 8, w // 8


def crop(video_CTHW: Tensor, config: AutoencoderRun, draw: int) -> Tensor:
    """A random crop in time and space; a clip too short or small is repeated at its end."""
    wanted = (config.crop_frames, config.crop, config.crop)
    missing = [max(0, w - have) for w, have in zip(wanted, video_CTHW.shape[1:], strict=True)]
    if any(missing):
        t, h, w = missing
        video_CTHW = torch.nn.functional.pad(video_CTHW, (0, w, 0, h, 0, t), mode="replicate")
    random = generator(config.train.seed, "crop", draw)
    t, h, w = (
        torch.randint(have - w + 1, (), generator=random).item()
        for have, w in zip(video_CTHW.shape[1:], wanted, strict=True)
    )
    return video_CTHW[:, t : t + wanted[0], h : h + wanted[1], w : w + wanted[2]]


@torch.no_grad()
def evaluate(autoencoder: Autoencoder, held_out, picture: Path) -> dict:
    """PSNR and SSIM on held-out clips, and a picture of originals above reconstructions."""
    device = autoencoder.latent_mean.device
    pairs = []
    for draw in range(min(HELD_OUT, len(held_out))):
        clip: Clip = held_out[draw]
        mean, _ = autoencoder.encode_moments(clip.video[None].to(device))
        pairs.append((clip, autoencoder.decode_raw(mean)[0].clamp(-1, 1).cpu()))
    save_picture(pairs[:6], picture)
    return {
        "psnr": sum(psnr(clip.video, other) for clip, other in pairs) / len(pairs),
        "ssim": sum(ssim(clip.video, other) for clip, other in pairs) / len(pairs),
    }


def save_picture(pairs: list[tuple[Clip, Tensor]], path: Path) -> None:
    """Writes a PNG: of every clip five originals above their five reconstructions, two clips side by side."""
    from PIL import Image

    width = max(clip.video.shape[3] for clip, _ in pairs)
    height = max(clip.video.shape[2] for clip, _ in pairs)
    rows = []
    for clip, other in pairs:
        shown = torch.linspace(0, clip.video.shape[1] - 1, 5).round().long()
        for video in (clip.video, other):
            frames = torch.ones(5, 3, height, width)
            frames[:, :, : video.shape[2], : video.shape[3]] = video[:, shown].movedim(1, 0)
            rows.append(torch.cat(list(frames), dim=2))
    sheet = ((torch.cat(rows, dim=1) + 1) * 127.5).round().clamp(0, 255).byte().movedim(0, -1)
    write_whole(path, lambda temporary: Image.fromarray(sheet.numpy()).save(temporary, format="PNG"))


@torch.no_grad()
def finish(average: Autoencoder, config: AutoencoderRun, settings: dict, data, path: Path, clips: int = 64) -> None:
    """Measures the latent statistics of the averaged weights and saves both, with the run's settings."""
    sums = []
    for draw in range(clips):
        mean, log_variance = average.encode_moments(data[draw].video[None].to(average.latent_mean.device))
        second = mean**2 + log_variance.exp()
        sums.append(torch.stack([mean.double().mean(dim=(0, 2, 3, 4)), second.double().mean(dim=(0, 2, 3, 4))]))
    first, second = torch.stack(sums).mean(0)
    model = replace(
        config.model,
        latent_mean=tuple(round(v, 6) for v in first.tolist()),
        latent_std=tuple(round(v, 6) for v in (second - first**2).sqrt().tolist()),
    )
    save_weights(path, average.state_dict(), settings | {"model": to_json(model)})


def load_autoencoder(path: Path, device: str | torch.device = "cpu") -> Autoencoder:
    """An autoencoder from its weights file, fp32, for inference."""
    from configs.load import from_json

    tensors, settings = load_weights(path)
    autoencoder = Autoencoder(from_json(AutoencoderConfig, settings["model"]))
    autoencoder.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return autoencoder.to(device).eval().requires_grad_(False)


def main(arguments: list[str]) -> None:
    """The verb `dit vae train`."""
    train(parse_run(AutoencoderRun, arguments, prog="dit vae train"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("vae train")
