"""`dit vae train CONFIG`: trains the autoencoder, from scratch or another's weights, on images and videos."""

import copy
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from pathlib import Path

import torch
from torch import Tensor, nn

from configs.load import from_json, parse_run, to_json
from configs.model import AutoencoderConfig
from configs.train import AutoencoderRun
from vae.cache.index import is_cache
from vae.collapse import collapse
from vae.convolution import State
from vae.data.clips import SHAPES, Clip, batches, files_hash, open_data
from vae.discriminator import Discriminator, adaptive_weight, hinge
from vae.load import WEIGHTS, find_autoencoder, load_folder, measured_config, unmeasured
from vae.losses import ERRORS, Likelihood, kl_divergence, load_perceptual
from vae.model import Autoencoder, compression_of
from vae.quality.lpips import SMALLEST, Lpips, load_lpips, lpips_of
from vae.quality.psnr_ssim import psnr, ssim
from vae.statistics import checked, latent_sums, posterior_sums, statistics_of
from vae.training.checkpoints import (
    checkpoints,
    finished_step,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from vae.training.folder import open_run
from vae.training.log import Log, draw_curve, live_line, opening, read_log, smooth
from vae.training.optimizer import (
    average_gradients,
    clip_gradients,
    learning_rate,
    make_optimizer,
    update_average,
)
from vae.training.processes import PATIENCE, on_main
from vae.training.seeds import generator, uniform
from vae.training.session import StopSignal, check_loop, holding, name_skipped
from vae.training.weights import AUTOENCODERS, fill, load_weights, read_header, save_weights

HELD_OUT = 16
SCORES = ("psnr", "ssim", "lpips")
PANELS = {
    "error": "reconstruction error",
    "perceptual": "perceptual loss",
    "kl": "KL, nats per number",
    "discriminator": "discriminator's hinge loss",
    "psnr": "held-out PSNR, dB",
    "lpips": "held-out LPIPS",
}
SHOWN = 6
AMPLIFIED = 4  # times, the differences in a picture


@dataclass(frozen=True)
class Players:
    """The networks of a step: the autoencoder, its likelihood, a frozen network, and a discriminator."""

    autoencoder: Autoencoder
    likelihood: Likelihood
    perceptual: nn.Module | None
    discriminator: Discriminator | None


@holding
def train(config: AutoencoderRun, held: ExitStack) -> Path:
    """Trains or goes on with the run in `config.out`; returns the path of the finished weights."""
    from accelerate import Accelerator, InitProcessGroupKwargs
    from accelerate.utils import gather_object

    out, settings, loop = Path(config.out), to_json(config), config.train
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="bf16" if loop.precision == "bf16" else "no",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    device, rank, ranks = accelerator.device, accelerator.process_index, accelerator.num_processes
    main = accelerator.is_main_process
    check_loop(loop, config.optimizer, ranks)
    check_recipe(config)
    compression = compression_of(config.model)
    try:
        compression.check(config.crop_frames, config.crop, config.crop)
    except ValueError as error:
        raise ValueError(f"crop_frames and crop: {error}") from None
    if config.data.source != SHAPES and is_cache(config.data.source):
        raise ValueError(f"{config.data.source} holds latents and no video: give the manifest it was made of")
    data, held_out = open_data(config.data, loop.seed, HELD_OUT, compression)
    torch.manual_seed(loop.seed)
    model = Autoencoder(unmeasured(config.model))
    before = {}
    if started_before := checkpoints(out):
        before = read_header(started_before[-1] / "model.safetensors").settings
        settings["model"] = before["model"]
    elif config.init:
        settings["model"] = start_from(model, config)
    elif not config.train_encoder:
        raise ValueError("--no-train-encoder needs --init, the autoencoder whose latents are kept")
    perceptual, network, note = load_perceptual(config.perceptual)
    if started_before and network != before.get("perceptual_network", ""):
        raise ValueError(
            f"{out} holds a run whose perceptual loss had another network, or none: bring back the weights "
            f"that it began with, or give another folder with --out"
        )
    settings |= {"perceptual_network": network} if network else {}
    on_main(main, lambda: open_run(out, "autoencoder", config, files_hash(data, held_out), held))
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
    likelihood = Likelihood(config.error, config.learned_variance).to(device)
    optimizer = make_optimizer(nn.ModuleList([model, likelihood]), config.optimizer)
    discriminator = Discriminator(config.discriminator).to(device) if config.discriminator.weight else None
    rival = replace(config.optimizer, learning_rate=config.discriminator.learning_rate)
    rival_optimizer = make_optimizer(discriminator, rival, beta1=0.5) if discriminator else None
    players = Players(model, likelihood, perceptual and perceptual.to(device), discriminator)
    lpips, _ = load_lpips("alex")  # what held-out clips are judged by, where its weights are there
    step, smoothed = 0, None
    if (checkpoint := load_checkpoint(out)) is not None:
        step, smoothed, parts = checkpoint
        model.load_state_dict(parts["model"])
        average.load_state_dict(parts["average"])
        restore_optimizer(optimizer, parts["optimizer"])
        if config.learned_variance:
            likelihood.load_state_dict(parts["likelihood"])
        if discriminator:
            discriminator.load_state_dict(parts["discriminator"])
            restore_optimizer(rival_optimizer, parts["discriminator_optimizer"])
    shown = any(row["step"] == step and "psnr" in row for row in read_log(out / "log.jsonl"))
    log = Log(out, step, loop.steps) if main else None
    if log:
        log.say(opening(model, data, held_out, device, step, loop.steps) + (f"\n{note}" if note else ""))
    loader = batches(data, loop.batch, step, loop.steps, rank, ranks, config.data.workers)
    found, skipped, sources = {}, {}, []

    stopping = False
    with StopSignal() as stop:
        while not stopping:
            if step and not shown and (step % loop.show_every == 0 or step == loop.steps):
                row = {"step": step} | evaluate(
                    average, lpips, held_out, accelerator, out / f"reconstructions-{step:06d}.png"
                )
                if log:
                    log.add(row)
                    log.say(f"step {step}: {held_out_line(row)}")
                    warn(log, sources)
                    panels = {key: title for key, title in PANELS.items() if any(key in r for r in log.rows)}
                    draw_curve(log.rows, panels, out / "curve.png")
            if step >= loop.steps:
                break
            started, shown = time.monotonic(), False
            clips = next(loader)
            waited = time.monotonic() - started
            found |= {path: reason for clip in clips for path, reason in clip.skipped.items()}
            draws = range(step * loop.batch + rank, (step + 1) * loop.batch, ranks)
            videos = [crop(clip.video, config, draw) for clip, draw in zip(clips, draws, strict=True)]
            playing = discriminator is not None and step >= config.discriminator.start

            terms = Counter()
            for video, noise in same_shapes(videos, draws, config):
                share = len(video) / len(videos)
                video, noise = video.to(device), noise.to(device)
                terms.update(learn(players, video, noise, share, config, playing, accelerator))
            terms = {key: accelerator.reduce(term, "mean") for key, term in terms.items()}
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, config.optimizer)
            average_gradients(optimizer, accelerator)
            norms = {"gradient_norm": clip_gradients(optimizer, config.optimizer)}
            if playing:
                for group in rival_optimizer.param_groups:
                    group["lr"] = learning_rate(step - config.discriminator.start, rival)
                average_gradients(rival_optimizer, accelerator)
                norms["discriminator_gradient_norm"] = clip_gradients(rival_optimizer, rival)
            if not torch.isfinite(torch.stack([*norms.values(), terms["loss"]])).all():
                named = ", ".join(gather_object([clip.source for clip in clips]))
                raise ValueError(f"gradient not finite at step {step + 1}, on {named}")
            for player in (optimizer, rival_optimizer)[: 2 if playing else 1]:
                player.step()
                player.zero_grad(set_to_none=True)
            if playing and config.discriminator.adaptive:
                weight = adaptive_weight(terms.pop("error_gradient"), terms.pop("adversarial_gradient"))
                discriminator.adaptive_weight.copy_(weight)
            step += 1
            update_average(average, model, step, config.optimizer.ema_decay)

            asked = accelerator.reduce(torch.tensor(float(stop.asked), device=device)).item() > 0
            stopping = asked and step < loop.steps
            smoothed = smooth(smoothed, terms["loss"].item())
            telling = step % loop.log_every == 0 or step == 1
            if telling or step == loop.steps or stopping:
                name_skipped(found, skipped, log)
                sources = gather_object([clip.source for clip in clips])
            if log and telling:
                seconds = time.monotonic() - started
                row = {"step": step, "loss": terms["loss"].item(), "smoothed": smoothed}
                row |= {key: term.item() for key, term in (terms | norms).items()}
                if playing:
                    row["adaptive_weight"] = discriminator.adaptive_weight.item()
                if config.learned_variance:
                    row["log_scale"] = likelihood.log_scale.item()
                row |= {"clips_per_second": loop.batch / seconds, "waited": waited / seconds}
                log.add(row)
                log.show(step, live_line(row, "clips_per_second", skipped))
                warn(log, sources)
            if log and (step % loop.save_every == 0 or step == loop.steps or stopping):
                parts = {"model": model.state_dict(), "average": average.state_dict()}
                parts["optimizer"] = optimizer_tensors(optimizer)
                if config.learned_variance:
                    parts["likelihood"] = likelihood.state_dict()
                if discriminator:
                    parts["discriminator"] = discriminator.state_dict()
                    parts["discriminator_optimizer"] = optimizer_tensors(rival_optimizer)
                save_checkpoint(out, "autoencoder", step, smoothed, parts, settings)
    if log and stopping:
        log.say(f"stopped at step {step}; the same command goes on from there")
    elif log:
        finish(average, config, settings, {"step": step}, data, out / WEIGHTS)
        log.say(f"weights: {out / WEIGHTS}")
    accelerator.wait_for_everyone()  # none leaves the group while another still works
    accelerator.end_training()
    return out / WEIGHTS


def check_recipe(config: AutoencoderRun) -> None:
    """Raises ValueError for settings of the recipe that make no step."""
    rival = config.discriminator
    for name in (
        *("kl_weight", "chunk", "perceptual.weight"),
        *("discriminator.weight", "discriminator.start", "discriminator.learning_rate"),
    ):
        if (value := attrgetter(name)(config)) < 0:
            raise ValueError(f"{name} = {value}: it must not be negative")
    if not 0 <= config.image_share <= 1:
        raise ValueError(f"image_share = {config.image_share}: it must be from 0 to 1")
    if rival.width < 8 or rival.width % 8:
        raise ValueError(f"discriminator.width = {rival.width}: it must be a positive multiple of 8")
    if rival.depth < 1 or (rival.weight and config.crop < 2**rival.depth):
        raise ValueError(
            f"discriminator.depth = {rival.depth}: it must be at least 1, and 2^depth at most crop"
        )


def start_from(model: Autoencoder, config: AutoencoderRun) -> dict:
    """Loads the weights of `init`; gives the model's settings, which are those of `init` with its encoder.

    Raises ValueError naming the settings of the model in which the two differ, and for a kept encoder whose
    latents were not measured.
    """
    try:
        path = find_autoencoder(config.init)
    except ValueError as error:
        raise ValueError(f"init = {error}; make that first, or give another with --init") from None
    if path.is_file():
        tensors, saved = load_weights(path, *AUTOENCODERS)
        settings = saved.settings["model"]
        if not config.train_encoder:
            measured_config(path, saved)
    elif isinstance(other := load_folder(path), Autoencoder):
        tensors, settings = other.state_dict(), to_json(other.config)
    else:
        raise ValueError(
            f"{config.init}: only autoencoders of Wan 2.1's kind are trained on, and this is another"
        )
    ours, theirs = unmeasured(config.model), unmeasured(from_json(AutoencoderConfig, settings))
    names = [field.name for field in fields(AutoencoderConfig)]
    if other := {name: v for name in names if (v := getattr(theirs, name)) != getattr(ours, name)}:
        words = {name: " ".join(map(str, v)) if isinstance(v, tuple) else v for name, v in other.items()}
        flags = " ".join(f"--model.{name.replace('_', '-')} {v}" for name, v in words.items())
        raise ValueError(f"{config.init} has another shape than the config's model: give {flags}")
    fill(model, tensors, config.init)
    return to_json(config.model) if config.train_encoder else settings


def crop(video_CTHW: Tensor, config: AutoencoderRun, draw: int) -> Tensor:
    """A random crop in time and space, of one frame for draws that are images; what is smaller stays."""
    seed = config.train.seed
    image = uniform(seed, "image", draw) < config.image_share
    most = (1 if image else config.crop_frames, config.crop, config.crop)
    wanted = [min(have, length) for have, length in zip(video_CTHW.shape[1:], most, strict=True)]
    random = generator(seed, "crop", draw)
    t, h, w = (
        torch.randint(have - want + 1, (), generator=random).item()
        for have, want in zip(video_CTHW.shape[1:], wanted, strict=True)
    )
    return video_CTHW[:, t : t + wanted[0], h : h + wanted[1], w : w + wanted[2]]


def same_shapes(videos: list[Tensor], draws: range, config: AutoencoderRun) -> list[tuple[Tensor, Tensor]]:
    """Clips of one shape together, B C T H W, each with its posterior's noise, a function of (seed, draw)."""
    compression, channels = compression_of(config.model), config.model.latent_channels
    noises = []
    for video, draw in zip(videos, draws, strict=True):
        shape = channels, *compression.latent_size(*video.shape[1:])
        noises.append(torch.randn(shape, generator=generator(config.train.seed, "posterior", draw)))
    shapes = dict.fromkeys(video.shape for video in videos)
    alike = [[k for k, video in enumerate(videos) if video.shape == shape] for shape in shapes]
    return [(torch.stack([videos[k] for k in at]), torch.stack([noises[k] for k in at])) for at in alike]


def learn(
    players: Players,
    video_BCTHW: Tensor,
    noise_BCTHW: Tensor,
    share: float,
    config: AutoencoderRun,
    playing: bool,
    accelerator,
) -> dict[str, Tensor]:
    """Adds both players' gradients of clips of one shape to those they have; returns what the terms come to.

    The loss is the error and the perceptual distance, or their likelihood, + KL + what the discriminator says
    (Esser et al. 2021, equations 4 to 6), all of it times the `share` that these clips are of the step. With
    `chunk` a clip passes in parts through the causal cache, which carries the past without its gradient, so
    that memory does not grow with length; the discriminator judges each part by itself. While `playing`,
    terms also hold the gradients of both losses at the last layer, whose ratio weighs the next step's
    discriminator: one weight for all processes and shapes.
    """
    model, rival = players.autoencoder, players.discriminator
    loudness = config.discriminator.weight
    if playing and config.discriminator.adaptive:
        loudness = loudness * rival.adaptive_weight
    last = model.decoder.conv_out.weight
    states: tuple[State | None, State | None] = ({}, {}) if config.chunk else (None, None)
    total = Counter()
    for video, noise in in_chunks(video_BCTHW, noise_BCTHW, config.chunk, model.compression.temporal):
        frames = share * video.shape[2] / video_BCTHW.shape[2]
        latents = share * noise.shape[2] / noise_BCTHW.shape[2]
        with accelerator.autocast():
            mean, log_variance = model.encode_moments(video, states[0])
            made = model.decode_raw(mean + torch.exp(0.5 * log_variance) * noise, states[1])
        leaf = made.detach().float().requires_grad_()  # where all losses meet before they enter the decoder
        kl = kl_divergence(mean.float(), log_variance.float())
        terms = {"error": ERRORS[config.error](leaf - video)}
        if players.perceptual:
            with accelerator.autocast():
                terms["perceptual"] = players.perceptual(leaf, video)
        loss = players.likelihood(terms["error"] + config.perceptual.weight * terms.get("perceptual", 0.0))
        (frames * loss).backward()
        pull = leaf.grad
        if playing:
            with accelerator.autocast():
                judged, real = rival(leaf), rival(video)
            terms["adversarial"], terms["discriminator"] = -judged.float().mean(), hinge(real, judged)
            push = torch.autograd.grad(frames * terms["adversarial"], leaf, retain_graph=True)[0]
            torch.autograd.backward(frames * terms["discriminator"], inputs=list(rival.parameters()))
            if config.discriminator.adaptive:
                for name, way in {"error_gradient": pull, "adversarial_gradient": push}.items():
                    total[name] += torch.autograd.grad(made, last, way.type_as(made), retain_graph=True)[0]
            pull, loss = pull + loudness * push, loss + loudness * terms["adversarial"]
        ends = [(made, pull.type_as(made))]
        if kl.requires_grad:
            ends.append((latents * config.kl_weight * kl, None))
        torch.autograd.backward(*zip(*ends, strict=True))
        for state in states if config.chunk else ():
            state.update({layer: past.detach() for layer, past in state.items() if isinstance(past, Tensor)})
        for name, term in terms.items():
            total[name] += frames * term.detach()
        total["kl"] += latents * kl.detach()
        total["loss"] += frames * loss.detach() + latents * config.kl_weight * kl.detach()
    return dict(total)


def in_chunks(video_BCTHW: Tensor, noise_BCTHW: Tensor, chunk: int, time: int) -> list[tuple[Tensor, Tensor]]:
    """A clip and its latents' noise in parts of `chunk` latent frames, the first with one frame more than
    `time` a latent less one; 0 leaves them whole."""
    if not chunk:
        return [(video_BCTHW, noise_BCTHW)]
    noises = noise_BCTHW.split(chunk, dim=2)
    frames = [time * noise.shape[2] for noise in noises]
    frames[0] -= time - 1
    return list(zip(video_BCTHW.split(frames, dim=2), noises, strict=True))


def warn(log: Log, sources: list[str]) -> None:
    """Says so where the newest row of the log tells of a collapse, with the files of the batch."""
    if said := collapse(log.rows):
        log.say(f"WARNING: {said}. The batch: {', '.join(sources) or 'none yet'}")


@torch.no_grad()
def evaluate(autoencoder: Autoencoder, lpips: Lpips | None, held_out, accelerator, picture: Path) -> dict:
    """PSNR, SSIM and, with its weights, LPIPS on held-out clips, each process its share; and of their latents
    the largest mean of a channel, the standard deviations' range, and the share of variance that is no noise.

    Draws a picture of originals, reconstructions and differences.
    """
    from accelerate.utils import gather_object

    device, shown = accelerator.device, []
    scores = torch.zeros(2, len(SCORES), device=device, dtype=torch.float64)
    moments = torch.zeros(4, autoencoder.channels, device=device, dtype=torch.float64)
    for draw in range(accelerator.process_index, min(HELD_OUT, len(held_out)), accelerator.num_processes):
        clip: Clip = held_out[draw]
        mean, log_variance = autoencoder.posterior(clip.video[None].to(device))
        other = autoencoder.decode(mean)[0].cpu()
        found = {"psnr": psnr(clip.video, other), "ssim": ssim(clip.video, other)}
        if lpips and min(other.shape[2:]) >= SMALLEST:
            found["lpips"] = lpips_of(lpips, clip.video, other)
        scores += scores.new_tensor([[found.get(k, 0.0) for k in SCORES], [k in found for k in SCORES]])
        moments += posterior_sums(mean, log_variance)
        if draw < SHOWN:
            shown.append((draw, f"{Path(clip.source).name}: {found['psnr']:.1f} dB", clip.video, other))
    shown = sorted(gather_object(shown), key=lambda row: row[0])
    if accelerator.is_main_process:
        show([row[1:] for row in shown], picture)
    sums, counts = accelerator.reduce(scores).tolist()
    *sums_of_latents, number = accelerator.reduce(moments)
    first, second, noise = (total / number for total in sums_of_latents)
    variance = second - first**2
    return {name: total / count for name, total, count in zip(SCORES, sums, counts, strict=True) if count} | {
        "latent_mean_most": first.abs().max().item(),
        "latent_std_least": variance.min().sqrt().item(),
        "latent_std_most": variance.max().sqrt().item(),
        "latent_signal": (1 - noise / variance).mean().item(),
    }


def show(shown: list[tuple[str, Tensor, Tensor]], path: Path) -> None:
    """Draws of every clip the original, with a caption, its reconstruction and the amplified difference."""
    from vae.data.sheets import contact_sheet

    videos, captions = [], []
    for caption, video, other in shown:
        videos += [video, other, AMPLIFIED * (other - video)]
        captions += [caption, "reconstruction", f"difference, {AMPLIFIED} times; grey is none"]
    contact_sheet(videos, captions, path)


def held_out_line(row: dict) -> str:
    """Held-out scores in words."""
    lpips = f", LPIPS {row['lpips']:.4f}" if "lpips" in row else ""
    deviations = f"{row['latent_std_least']:.2f} to {row['latent_std_most']:.2f}"
    return (
        f"held out PSNR {row['psnr']:.2f} dB, SSIM {row['ssim']:.4f}{lpips}; latents' standard deviations "
        f"{deviations}, {row['latent_signal']:.0%} of their variance no noise"
    )


@torch.no_grad()
def finish(
    average: Autoencoder,
    config: AutoencoderRun,
    settings: dict,
    facts: dict,
    data,
    path: Path,
    clips: int = 64,
) -> None:
    """Measures the statistics of latents drawn from the averaged weights' posterior and saves both, with the
    run's settings; a kept encoder's are in the settings."""
    if not config.train_encoder:
        save_weights(path, average.state_dict(), "autoencoder", settings, facts)
        return
    found = checked(statistics_of([latent_sums(average, data[draw].video) for draw in range(clips)]))
    model = replace(
        config.model,
        latent_mean=tuple(round(v, 6) for v in found.mean),
        latent_std=tuple(round(v, 6) for v in found.std),
    )
    save_weights(path, average.state_dict(), "autoencoder", settings | {"model": to_json(model)}, facts)


def main(arguments: list[str]) -> None:
    """The verb `dit vae train`."""
    train(parse_run(AutoencoderRun, arguments, prog="dit vae train"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("vae train")
