"""`dit vae train CONFIG`: trains the autoencoder from scratch on the drawn world or on videos."""

import copy
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from configs.load import parse_run, to_json
from configs.settings import AutoencoderRun
from vae.data import Clip, batches, files_hash, open_data
from vae.load import WEIGHTS, unmeasured
from vae.model import Autoencoder, compression_of
from vae.optimizer import learning_rate, make_optimizer, update_average
from vae.quality import psnr, ssim
from vae.run import (
    PATIENCE,
    Log,
    StopSignal,
    check_loop,
    checkpoints,
    draw_curve,
    finished_step,
    holding,
    live_line,
    load_checkpoint,
    name_skipped,
    on_main,
    open_run,
    optimizer_tensors,
    read_log,
    restore_optimizer,
    save_checkpoint,
    smooth,
)
from vae.seeds import generator
from vae.statistics import latent_sums, statistics_of
from vae.weights import fill, load_weights, read_settings, save_weights, write_whole

HELD_OUT = 16
ERRORS = {
    "l1": lambda difference: difference.abs().mean(),
    "l2": lambda difference: difference.square().mean(),
}
PANELS = {"error": "reconstruction error", "kl": "KL, nats per number", "psnr": "held-out PSNR, dB"}
SHOWN = 6


@holding
def train(config: AutoencoderRun, held: ExitStack) -> Path:
    """Trains or goes on with the run in `config.out`; returns the path of the finished weights."""
    from accelerate import Accelerator, InitProcessGroupKwargs

    out, settings, loop = Path(config.out), to_json(config), config.train
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="bf16" if loop.precision == "bf16" else "no",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    device, rank, ranks = accelerator.device, accelerator.process_index, accelerator.num_processes
    main = accelerator.is_main_process
    check_loop(loop, config.optimizer, ranks)
    compression = compression_of(config.model)
    compression.check(config.crop_frames, config.crop, config.crop)
    data, held_out = open_data(config.data, loop.seed, HELD_OUT, compression)
    torch.manual_seed(loop.seed)
    model = Autoencoder(unmeasured(config.model))
    if started_before := checkpoints(out):
        settings["model"] = read_settings(started_before[-1] / "model.safetensors")["model"]
    elif config.init:
        settings["model"] = start_from(model, config)
    elif not config.train_encoder:
        raise ValueError("--no-train-encoder needs --init, the autoencoder whose latents are kept")
    on_main(main, lambda: open_run(out, config, files_hash(data, held_out), held))
    if (done := finished_step(out, out / WEIGHTS, loop.steps)) is not None:
        if main:
            print(
                f"{out} is finished at step {done}: nothing to do (--train.steps makes it longer)",
                file=sys.stderr,
            )
        accelerator.end_training()
        return out / WEIGHTS

    model.to(device)
    model.encoder.requires_grad_(config.train_encoder)
    model.quant_conv.requires_grad_(config.train_encoder)
    model.checkpoint_activations(config.checkpoint_activations)
    average = copy.deepcopy(model).requires_grad_(False).eval()
    optimizer = make_optimizer(model, config.optimizer)
    error_of = ERRORS[config.error]
    step, smoothed = 0, None
    if (checkpoint := load_checkpoint(out)) is not None:
        step, smoothed, parts = checkpoint
        model.load_state_dict(parts["model"])
        average.load_state_dict(parts["average"])
        restore_optimizer(optimizer, parts["optimizer"])
    shown = any(row["step"] == step and "psnr" in row for row in read_log(out / "log.jsonl"))
    log = Log(out, step, loop.steps) if main else None
    wrapped = accelerator.prepare(Trainee(model))
    loader = batches(data, loop.batch, step, loop.steps, rank, ranks, config.data.workers)
    found, skipped = {}, {}

    stopping = False
    with StopSignal() as stop:
        while not stopping:
            if step and not shown and (step % loop.show_every == 0 or step == loop.steps):
                row = {"step": step} | evaluate(
                    average, held_out, accelerator, out / f"reconstructions-{step:06d}.png"
                )
                if log:
                    log.add(row)
                    log.say(f"step {step}: held out PSNR {row['psnr']:.2f} dB, SSIM {row['ssim']:.4f}")
                    draw_curve(log.rows, PANELS, out / "curve.png")
            if step >= loop.steps:
                break
            started, shown = time.monotonic(), False
            clips = next(loader)
            waited = time.monotonic() - started
            found |= {path: reason for clip in clips for path, reason in clip.skipped.items()}
            draws = range(step * loop.batch + rank, (step + 1) * loop.batch, ranks)
            video = torch.stack(
                [crop(clip.video, config, draw) for clip, draw in zip(clips, draws, strict=True)]
            )
            shape = config.model.latent_channels, *compression.latent_size(*video.shape[2:])
            noise = torch.stack(
                [torch.randn(shape, generator=generator(loop.seed, "posterior", draw)) for draw in draws]
            )
            video, noise = video.to(device), noise.to(device)

            with accelerator.autocast():
                reconstruction, mean, log_variance = wrapped(video, noise)
            error = error_of(reconstruction.float() - video)
            kl = kl_divergence(mean.float(), log_variance.float())
            loss = error + config.kl_weight * kl
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, config.optimizer)
            accelerator.backward(loss)
            norm = accelerator.clip_grad_norm_(model.parameters(), config.optimizer.max_gradient_norm)
            if not torch.isfinite(norm):
                raise ValueError(
                    f"gradient not finite at step {step}, on {', '.join(clip.source for clip in clips)}"
                )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            update_average(average, model, step, config.optimizer.ema_decay)

            asked = accelerator.reduce(torch.tensor(float(stop.asked), device=device)).item() > 0
            stopping = asked and step < loop.steps
            losses = torch.stack([loss, error, kl]).detach()
            mean_loss, mean_error, mean_kl = accelerator.reduce(losses, "mean").tolist()
            smoothed = smooth(smoothed, mean_loss)
            if step % loop.log_every == 0 or step in (1, loop.steps) or stopping:
                name_skipped(found, skipped, log)
            if log and (step % loop.log_every == 0 or step == 1):
                seconds = time.monotonic() - started
                row = {
                    "step": step,
                    "loss": mean_loss,
                    "smoothed": smoothed,
                    "error": mean_error,
                    "kl": mean_kl,
                }
                row |= {
                    "gradient_norm": float(norm),
                    "clips_per_second": loop.batch / seconds,
                    "waited": waited / seconds,
                }
                log.add(row)
                log.show(step, live_line(row, "clips_per_second", skipped))
            if log and (step % loop.save_every == 0 or step == loop.steps or stopping):
                parts = {"model": model.state_dict(), "average": average.state_dict()}
                parts["optimizer"] = optimizer_tensors(optimizer)
                save_checkpoint(out, step, smoothed, parts, settings)
    if log and stopping:
        log.say(f"stopped at step {step}; the same command goes on from there")
    elif log:
        finish(average, config, settings | {"step": step}, data, out / WEIGHTS)
        log.say(f"weights: {out / WEIGHTS}")
    accelerator.end_training()
    return out / WEIGHTS


def start_from(model: Autoencoder, config: AutoencoderRun) -> dict:
    """Loads the weights of `init`; gives the model's settings, which are those of `init` with its encoder."""
    tensors, settings = load_weights(Path(config.init))
    fill(model, tensors, config.init)
    return to_json(config.model) if config.train_encoder else settings["model"]


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
    """KL of the posterior from the standard normal, nats per number (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()


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
def evaluate(autoencoder: Autoencoder, held_out, accelerator, picture: Path) -> dict:
    """PSNR and SSIM on held-out clips, each process its share; a picture, originals above reconstructions."""
    from accelerate.utils import gather_object

    scores, pairs = torch.zeros(3, device=accelerator.device, dtype=torch.float64), []
    for draw in range(accelerator.process_index, min(HELD_OUT, len(held_out)), accelerator.num_processes):
        clip: Clip = held_out[draw]
        other = autoencoder.decode(autoencoder.encode(clip.video[None].to(accelerator.device)))[0].cpu()
        scores += scores.new_tensor([psnr(clip.video, other), ssim(clip.video, other), 1])
        if draw < SHOWN:
            pairs.append((draw, frames_of(clip.video), frames_of(other)))
    pairs = sorted(gather_object(pairs), key=lambda pair: pair[0])
    if accelerator.is_main_process:
        save_picture([pair[1:] for pair in pairs], picture)
    total_psnr, total_ssim, count = accelerator.reduce(scores).tolist()
    return {"psnr": total_psnr / count, "ssim": total_ssim / count}


def frames_of(video_CTHW: Tensor) -> Tensor:
    """Five frames from first to last, T C H W."""
    shown = torch.linspace(0, video_CTHW.shape[1] - 1, 5).round().long()
    return video_CTHW[:, shown].movedim(1, 0)


def save_picture(pairs: list[tuple[Tensor, Tensor]], path: Path) -> None:
    """Writes a PNG: of every clip its frames above their reconstructions."""
    from PIL import Image

    height, width = (max(frames.shape[side] for frames, _ in pairs) for side in (2, 3))
    rows = []
    for frames_TCHW in (frames for pair in pairs for frames in pair):
        padded = torch.ones(len(frames_TCHW), 3, height, width)
        padded[:, :, : frames_TCHW.shape[2], : frames_TCHW.shape[3]] = frames_TCHW
        rows.append(torch.cat(list(padded), dim=2))
    sheet = ((torch.cat(rows, dim=1) + 1) * 127.5).round().clamp(0, 255).byte().movedim(0, -1)
    write_whole(path, lambda temporary: Image.fromarray(sheet.numpy()).save(temporary, format="PNG"))


@torch.no_grad()
def finish(
    average: Autoencoder, config: AutoencoderRun, settings: dict, data, path: Path, clips: int = 64
) -> None:
    """Measures the statistics of latents drawn from the averaged weights' posterior and saves both, with the
    run's settings; a kept encoder's are in the settings."""
    if not config.train_encoder:
        save_weights(path, average.state_dict(), settings)
        return
    found = statistics_of([latent_sums(average, data[draw].video) for draw in range(clips)])
    model = replace(
        config.model,
        latent_mean=tuple(round(v, 6) for v in found.mean),
        latent_std=tuple(round(v, 6) for v in found.std),
    )
    save_weights(path, average.state_dict(), settings | {"model": to_json(model)})


def main(arguments: list[str]) -> None:
    """The verb `dit vae train`."""
    train(parse_run(AutoencoderRun, arguments, prog="dit vae train"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("vae train")
