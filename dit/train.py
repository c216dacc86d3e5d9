"""`dit train CONFIG`: trains the transformer, and the byte-level text encoder with it, by rectified flow."""

import copy
import time
from pathlib import Path

import torch
from torch import Tensor

from configs.load import parse_run, to_json
from configs.settings import FlowConfig, TransformerRun
from dit.attention import BACKENDS, choose_attention
from dit.denoiser import TRANSFORMER, Denoiser, find_weights, load_autoencoder
from dit.generate import Request, generate, given_tokens, shift_for
from dit.model import Layout, grid_of, make_layout, patchify
from samplers.path import interpolate, logit_normal_times, shift_times, velocity
from vae.cache import cached_latents
from vae.data import Clip, batches, open_data
from vae.model import Autoencoder
from vae.optimizer import learning_rate, make_optimizer, update_average
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
from vae.seeds import generator, uniform
from vae.train import WEIGHTS as AUTOENCODER
from vae.weights import load_weights, save_weights

HELD_OUT = 32
VALIDATION_TIMES = (0.125, 0.375, 0.625, 0.875)
PANELS = {"smoothed": "loss, smoothed", "validation": "validation loss", "gradient_norm": "gradient norm"}


def train(config: TransformerRun) -> Path:
    """Trains or goes on with the run in `config.out`; returns the path of the finished weights."""
    from accelerate import Accelerator

    out, settings, loop, flow = Path(config.out), to_json(config), config.train, config.flow
    bf16 = loop.precision == "bf16"
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="bf16" if bf16 else "no")
    device, rank, ranks = accelerator.device, accelerator.process_index, accelerator.num_processes
    if loop.batch % ranks:
        raise ValueError(f"train.batch = {loop.batch} does not divide by the {ranks} processes")
    autoencoder = load_autoencoder(config.autoencoder).to(device).eval().requires_grad_(False)
    data, held_out = open_data(config.data, loop.seed, HELD_OUT)
    torch.manual_seed(loop.seed)
    model = Denoiser(config.model, config.text)
    if config.init:
        model.load_trained_state({k: v.float() for k, v in load_weights(find_weights(Path(config.init)))[0].items()})
    model.to(device)
    model.transformer.checkpointing = config.checkpoint_activations
    model.transformer.attention = BACKENDS[choose_attention(device, torch.bfloat16 if bf16 else torch.float32)]
    average = copy.deepcopy(model).requires_grad_(False).eval()
    optimizer = make_optimizer(model, config.optimizer)

    if accelerator.is_main_process:
        open_run(out, settings)
        autoencoder_file(config, autoencoder, out / AUTOENCODER)
    accelerator.wait_for_everyone()
    first_step, smoothed = 0, None
    if (checkpoint := load_checkpoint(out)) is not None:
        first_step, parts = checkpoint
        model.load_trained_state(parts["model"])
        average.load_trained_state(parts["average"])
        restore_optimizer(optimizer, parts["optimizer"])
    if config.cached_clips:
        key = {"data": settings["data"], "autoencoder": settings["autoencoder"], "seed": loop.seed}
        with accelerator.main_process_first():
            data = cached_latents(data, autoencoder, config.cached_clips, out / "latents", key, loop.seed)
    encoded = bool(config.cached_clips)
    validation = validation_set(held_out, autoencoder, config)
    log = Log(out, first_step, loop.steps) if accelerator.is_main_process else None
    if log and log.rows:
        smoothed = next((row["smoothed"] for row in reversed(log.rows) if "smoothed" in row), None)
    wrapped = accelerator.prepare(model)
    stop = StopSignal()
    loader = batches(data, loop.batch, first_step, loop.steps, rank, ranks, config.data.workers)

    step = first_step
    while step < loop.steps:
        started = time.monotonic()
        clips = next(loader)
        waited = time.monotonic() - started
        draws = range(step * loop.batch + rank, (step + 1) * loop.batch, ranks)
        latents = [clip.video if encoded else encode(autoencoder, clip) for clip in clips]
        batch = make_batch(latents, draws, flow, loop.seed, model.transformer.head_width, device)
        prompts = drop_prompts([clip.caption for clip in clips], draws, flow, loop.seed)

        with accelerator.autocast():
            prediction = wrapped(batch.tokens, batch.times, batch.layout, prompts)
        error = (prediction.float() - batch.target).square().mean(-1)
        counted = accelerator.reduce(batch.in_loss.sum())  # over all processes, so that their number does not matter
        loss = (error * batch.in_loss).sum() * ranks / counted
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config.optimizer)
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(model.parameters(), config.optimizer.max_gradient_norm)
        if not torch.isfinite(norm):
            raise ValueError(f"gradient not finite at step {step}, on {', '.join(clip.source for clip in clips)}")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        update_average(average, model, step, config.optimizer.ema_decay)

        stopping = accelerator.reduce(torch.tensor(float(stop.asked), device=device)).item() > 0
        mean_loss = accelerator.reduce(loss.detach(), "mean").item()
        smoothed = mean_loss if smoothed is None else 0.98 * smoothed + 0.02 * mean_loss
        if log and step == 1 and not config.init:
            log.say(check_first_loss(mean_loss, latents))
        if log and (step % loop.log_every == 0 or step == 1):
            seconds = time.monotonic() - started
            row = {"step": step, "loss": mean_loss, "smoothed": smoothed, "gradient_norm": float(norm)}
            row |= {"tokens_per_second": len(batch.tokens) * ranks / seconds, "waited": waited / seconds}
            log.add(row)
            log.show(step, live_line(row, data))
        if log and (step % loop.show_every == 0 or step == loop.steps):
            row = {"step": step} | validate(average, validation)
            log.add(row)
            log.say(f"step {step}: validation loss {row['validation']:.4f}")
            draw_curve(log.rows, PANELS, out / "curve.png")
            show_samples(average, autoencoder, config, held_out, out / f"samples-{step:06d}.png")
        if log and (step % loop.save_every == 0 or step == loop.steps or stopping):
            parts = {"model": model.trained_state(), "average": average.trained_state()}
            save_checkpoint(out, step, parts | {"optimizer": optimizer_tensors(optimizer)}, settings)
        if stopping:
            break
    stop.restore()
    if log and step < loop.steps:
        log.say(f"stopped at step {step}; the same command goes on from there")
    if log and step == loop.steps:
        save_weights(out / TRANSFORMER, average.trained_state(), settings)
        log.say(f"model: {out} (dit sample PROMPT --model {out})")
    accelerator.end_training()
    return out / TRANSFORMER


class Batch:
    """A packed training batch on the device: noisy tokens, distinct times, layout, target velocity, loss mask."""

    def __init__(self, tokens: Tensor, times: Tensor, layout: Layout, target: Tensor, in_loss: Tensor):
        self.tokens, self.times, self.layout, self.target, self.in_loss = tokens, times, layout, target, in_loss


def make_batch(
    latents: list[Tensor], draws: range, flow: FlowConfig, seed: int, head_width: int, device: torch.device
) -> Batch:
    """Noise, time and task of every sample are functions of (seed, draw), whatever the number of processes."""
    tokens, targets, times, in_loss = [], [], [], []
    for x, draw in zip(latents, draws, strict=True):
        x = x.cpu()
        noise = torch.randn(x.shape, generator=generator(seed, "noise", draw))
        t = logit_normal_times(1, flow.time_mean, flow.time_std, generator(seed, "time", draw))
        grid = grid_of(x)
        data_LP, noise_LP = patchify(x), patchify(noise)
        t = shift_times(t, shift_for(len(data_LP), flow))
        given = torch.zeros(len(data_LP), dtype=torch.bool)
        if grid[0] > 1 and uniform(seed, "task", draw) < flow.first_frame:
            given = given_tokens(grid, 1)
        time_L = torch.where(given, 0.0, t)
        tokens.append(interpolate(data_LP, noise_LP, time_L))
        targets.append(velocity(data_LP, noise_LP))
        times.append(time_L if given.any() else t)
        in_loss.append(~given)
    layout, distinct = make_layout([grid_of(x) for x in latents], times, head_width, device)
    packed = (torch.cat(part).to(device) for part in (tokens, targets, in_loss))
    tokens_LP, target_LP, in_loss_L = packed
    return Batch(tokens_LP, distinct, layout, target_LP, in_loss_L.float())


def drop_prompts(prompts: list[str], draws: range, flow: FlowConfig, seed: int) -> list[str]:
    """Prompts with some replaced by the null prompt, drawn anew for every (seed, draw)."""
    return [
        "" if uniform(seed, "dropout", draw) < flow.prompt_dropout else prompt
        for prompt, draw in zip(prompts, draws, strict=True)
    ]


@torch.no_grad()
def encode(autoencoder: Autoencoder, clip: Clip) -> Tensor:
    """Normalised latents C T H W of a clip, on the CPU."""
    return autoencoder.encode(clip.video[None].to(autoencoder.latent_mean.device))[0].cpu()


def check_first_loss(loss: float, latents: list[Tensor]) -> str:
    """Compares the first loss with 1 + var(latents), what an output of zero must cost, and says what is wrong if not."""
    variance = torch.cat([x.flatten() for x in latents]).square().mean().item()
    expected = 1 + variance
    if abs(loss - expected) < 0.15 * expected and abs(variance - 1) < 0.5:
        return f"first loss {loss:.3f}, expected 1 + var(latents) = {expected:.3f}: good"
    wrong = "the latent statistics" if abs(variance - 1) >= 0.5 else "the target or the zero initialisation"
    return f"WARNING: first loss {loss:.3f}, expected 1 + var(latents) = {expected:.3f} near 2: check {wrong}"


def live_line(row: dict, data) -> str:
    """The loop's state in a few words."""
    skipped = f"  {len(data.skipped)} files skipped" if getattr(data, "skipped", None) else ""
    return (
        f"loss {row['loss']:.4f}  smoothed {row['smoothed']:.4f}  gradient {row['gradient_norm']:.2f}  "
        f"{row['tokens_per_second']:.0f} tokens/s  data wait {100 * row['waited']:.0f} %{skipped}"
    )


def validation_set(held_out, autoencoder: Autoencoder, config: TransformerRun) -> list[tuple[float, Batch, list[str]]]:
    """Held-out clips under fixed noise at the middle of each time bin."""
    clips = [held_out[k] for k in range(min(HELD_OUT, len(held_out)))]
    latents = [encode(autoencoder, clip) for clip in clips]
    device, width = autoencoder.latent_mean.device, config.model.width // config.model.heads
    result = []
    for t in VALIDATION_TIMES:
        parts = []
        for k, x in enumerate(latents):
            noise = torch.randn(x.shape, generator=generator(config.train.seed, "validation noise", k, str(t)))
            x_LP, noise_LP = patchify(x), patchify(noise)
            parts.append((interpolate(x_LP, noise_LP, torch.full((len(x_LP),), t)), velocity(x_LP, noise_LP)))
        tokens, target = (torch.cat(part).to(device) for part in zip(*parts, strict=True))
        layout, times = make_layout([grid_of(x) for x in latents], [torch.tensor([t])] * len(latents), width, device)
        result.append((t, Batch(tokens, times, layout, target, torch.ones(len(tokens))), [c.caption for c in clips]))
    return result


@torch.no_grad()
def validate(average: Denoiser, validation: list[tuple[float, Batch, list[str]]]) -> dict:
    """Mean loss in every time bin, and over them."""
    row = {}
    for t, batch, prompts in validation:
        prediction = average(batch.tokens, batch.times, batch.layout, prompts)
        row[f"validation_t{t}"] = (prediction.float() - batch.target).square().mean().item()
    return {"validation": sum(row.values()) / len(row)} | row


def show_samples(average: Denoiser, autoencoder: Autoencoder, config: TransformerRun, held_out, path: Path) -> None:
    """Samples the fixed prompts, or the first held-out captions, into a contact sheet."""
    from vae.video import contact_sheet

    clips = [held_out[k] for k in range(min(6, len(held_out)))]
    prompts = list(config.prompts) or [clip.caption for clip in clips]
    shape = tuple(encode(autoencoder, clips[0]).shape)
    requests = [Request(prompt, shape, seed) for seed, prompt in enumerate(prompts)]
    latents = generate(average, requests, config.flow, config.sampler)
    videos = [autoencoder.decode(z[None])[0].cpu() for z in latents]
    contact_sheet(videos, prompts, path)


def autoencoder_file(config: TransformerRun, autoencoder: Autoencoder, path: Path) -> None:
    """Puts the autoencoder into the run's folder, which makes that a whole model folder."""
    if not path.exists():
        save_weights(path, autoencoder.state_dict(), {"model": to_json(autoencoder.config)})


def main(arguments: list[str]) -> None:
    """The verb `dit train`."""
    train(parse_run(TransformerRun, arguments, prog="dit train"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("train")
