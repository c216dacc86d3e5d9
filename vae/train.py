"""`dit vae train CONFIG`: trains the autoencoder, from scratch or another's weights, on images and videos."""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from configs.data import DRAWN
from configs.load import from_json, parse_run
from configs.model import AutoencoderConfig
from configs.train import AutoencoderRun
from vae.cache.index import is_cache
from vae.data.clips import Clip, batches, files_hash, open_data, shares_of
from vae.data.mixture import source_weights
from vae.data.sheets import contact_sheet
from vae.discriminator import Discriminator, adaptive_weight
from vae.interface import same_shapes
from vae.load import WEIGHTS, check_measured, find_autoencoder, load_folder
from vae.losses import Likelihood, Networks, accumulate_gradients
from vae.model import Autoencoder, compression_of
from vae.perceptual import load_perceptual
from vae.quality.lpips import SMALLEST, Lpips, load_lpips, lpips_of
from vae.quality.psnr_ssim import psnr, ssim
from vae.statistics import Statistics, checked, latent_sums, raw_sums, statistics_of
from vae.training.ahead import made_ahead
from vae.training.branch import MODEL, find_checkpoint
from vae.training.collapse import Watch
from vae.training.device import pinned
from vae.training.files import naming
from vae.training.optimizer import (
    average_gradients,
    check_optimizer_settings,
    clip_gradients,
    make_optimizer,
    mean_over_processes,
    set_learning_rate,
    update_average,
    update_weights,
)
from vae.training.processes import gathered
from vae.training.seeds import generator, normal, uniform
from vae.training.session import Session
from vae.training.spikes import going_back
from vae.training.weights import AUTOENCODERS, load_strictly, load_weights, read_header, shards

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


@going_back
def train(config: AutoencoderRun) -> Path:
    """Trains or goes on with the run in `config.out`; returns the path of the finished weights."""
    loop, seed = config.train, config.train.seed
    with Session(config, "autoencoder", WEIGHTS) as run:
        # Clips of files or of the drawn world; some are held out.
        _check_recipe(config)
        if loop.batch < run.ranks:
            raise ValueError(f"train.batch = {loop.batch}: {run.ranks} processes need a clip each")
        data, held_out = open_data(config.data, seed, HELD_OUT, compression_of(config.model))

        # The autoencoder, from random weights or those of `init`, and the frozen network of its loss.
        torch.manual_seed(seed)
        model = Autoencoder(config.model)
        if config.from_run and not run.started:
            _check_origin(config)
        elif not run.started:
            start_from(model, config)
        perceptual, run.facts["perceptual_weights"], note = load_perceptual(config.perceptual)

        # From here on the folder is this run's, its settings are written; a finished one has nothing to do.
        if not run.open(files_hash(data, held_out)):
            return run.weights
        model.to(run.device)
        model.encoder.requires_grad_(config.train_encoder)
        model.quant_conv.requires_grad_(config.train_encoder)
        model.checkpoint_activations(config.checkpoint_activations)
        average = copy.deepcopy(model).requires_grad_(False).eval()
        likelihood = Likelihood(config.error, config.learned_variance).to(run.device)
        optimizer = make_optimizer(nn.ModuleList([model, likelihood]), config.optimizer)
        states = {"model": model, "average": average}
        optimizers = {"optimizer": optimizer}
        if config.learned_variance:
            states["likelihood"] = likelihood

        # The discriminator has an optimizer of its own, whose steps count from its start.
        discriminator, start = None, config.discriminator.start
        discriminator_config = replace(config.optimizer, learning_rate=config.discriminator.learning_rate)
        if config.discriminator.weight:
            states["discriminator"] = discriminator = Discriminator(config.discriminator).to(run.device)
            discriminator_optimizer = make_optimizer(discriminator, discriminator_config, beta1=0.5)
            optimizers["discriminator_optimizer"] = discriminator_optimizer
        networks = Networks(model, likelihood, perceptual and perceptual.to(run.device), discriminator)
        lpips, _ = load_lpips("alex")  # what held-out clips are judged by, where its weights are there

        def parts() -> dict:
            return {name: part.state_dict() for name, part in states.items()} | optimizers

        run.restore({"discriminator_optimizer": start}, **parts())
        if config.train_encoder:  # where a run begins from one that kept it, it has that one's statistics
            run.wait_copied()
            for network in (model, average):
                network.forget_statistics()

        # The log is opened; from here on a signal ends the step at hand, not the process.
        run.begin(model, data, held_out, parts, samples_per_step=loop.batch)
        if note:
            run.print_once(note)
        watch = Watch()
        for row in run.rows():
            watch.sign(row)

        # What every `show_every` steps shows, and the start of a run that a signal kept from showing it.
        def show(step: int) -> None:
            row = evaluate(average, lpips, held_out, run, step)
            run.log({"step": step} | row, PANELS)
            run.print_once(f"step {step}: {_held_out_line(row)}")
            _warn_of_collapse(watch, run)

        if run.due("show", run.step) and not run.has_shown("psnr"):
            show(run.step)

        # Steps after the last, each process its share, drawn on the host while the step before computes.
        shares = shares_of(loop.batch, run.step, loop.steps, run.rank, run.ranks)
        drawn = draw_steps(batches(data, shares, config.data.workers), config, run.device)
        ahead = made_ahead(drawn, run.device)
        for step, share in run.steps(ahead, lambda share: share.clips):
            # Gradients of all networks, crops of one shape together, each by its share of the step.
            discriminator_active = discriminator is not None and step > start
            terms, autocast = Counter(), run.accelerator.autocast
            for video, noise in share.groups:
                part = len(video) * run.ranks / loop.batch
                terms.update(
                    accumulate_gradients(networks, video, noise, part, config, discriminator_active, autocast)
                )

            # Their means over processes, at most as large as allowed, at this step's learning rates.
            terms = mean_over_processes(terms, run.accelerator)
            updates = {"gradient_norm": (optimizer, run.updates(step), config.optimizer)}
            if discriminator_active:
                count = run.updates(step, "discriminator_optimizer", start)
                update = discriminator_optimizer, count, discriminator_config
                updates["discriminator_gradient_norm"] = update
            norms, rates = {}, {}
            for name, (adamw, count, adamw_config) in updates.items():
                rates[name] = set_learning_rate(adamw, count, adamw_config)
                average_gradients(adamw, run.accelerator)
                norms[name] = clip_gradients(adamw, adamw_config)
            loss = terms.pop("loss") / run.ranks
            bad = run.check_step(step, loss, *norms.values(), signed=config.learned_variance)
            run.wait_copied()
            for adamw, *_ in updates.values():
                update_weights(adamw, bad)

            # The discriminator's weight in the next step; then the average moves towards the weights.
            if discriminator_active and config.discriminator.adaptive:
                grads = terms.pop("error_gradient"), terms.pop("adversarial_gradient")
                weight = discriminator.adaptive_weight
                weight.copy_(torch.where(bad, weight, adaptive_weight(*grads)))
            update_average(average, model, step, config.optimizer.ema_decay, bad)

            # What is said, saved and shown; every process calls these, as each has its share in them.
            reported = terms | norms
            reported["learning_rate"] = rates["gradient_norm"]
            if discriminator_active:
                reported["adaptive_weight"] = discriminator.adaptive_weight
            if config.learned_variance:
                reported["log_scale"] = likelihood.log_scale.detach()
            if run.end_step(step, {"samples": len(share.clips)}, **reported):
                _warn_of_collapse(watch, run)
            if run.due("save", step):
                run.save(step, **parts())
            if run.due("show", step):
                show(step)

        # The average is the autoencoder; a kept encoder has its latents' statistics already.
        if not run.stopping:
            if config.train_encoder and run.main:
                average.set_statistics(measure(average, data))
            run.finish(average.state_dict())
            run.print_once(f"weights: {run.weights}")
    return run.weights


def _check_recipe(config: AutoencoderRun) -> None:
    """Raises ValueError for settings of the recipe that do not fit each other, and for a cache as data."""
    check_optimizer_settings(config.optimizer)
    if config.optimizer.kind != "adamw":
        raise ValueError(f"optimizer.kind = {config.optimizer.kind} is of transformers: here it is adamw")
    if config.optimizer.base_width:
        raise ValueError("optimizer.base_width is of transformers: an autoencoder's rate does not scale")
    discriminator = config.discriminator
    if discriminator.weight and config.crop < 2**discriminator.depth:
        raise ValueError(f"discriminator.depth = {discriminator.depth}: 2^depth must be at most crop")
    try:
        compression_of(config.model).check(config.crop_frames, config.crop, config.crop)
    except ValueError as error:
        raise ValueError(f"crop_frames and crop: {error}") from None
    for source in source_weights(config.data):
        if source not in DRAWN and is_cache(source):
            raise ValueError(f"{source} holds latents and no video: give the manifest it was made of")


def _check_origin(config: AutoencoderRun) -> None:
    """Raises ValueError where a checkpoint of `from_run` cannot be gone on with under these settings.

    A trained encoder cannot be kept, as its latents were not measured; an optimizer has states of what was
    trained, and the discriminator's as many updates as there were steps since its start.
    """
    whose = f"--from-run {config.from_run}"
    header = read_header(find_checkpoint(config.from_run) / MODEL, "autoencoder checkpoint")
    before = from_json(AutoencoderRun, header.settings)
    if before.train_encoder and not config.train_encoder:
        raise ValueError(f"{whose} trains its encoder: that cannot be kept as it is")
    if not config.from_optimizer:
        return
    for name in ("train_encoder", "learned_variance"):
        if getattr(before, name) != getattr(config, name):
            raise ValueError(
                f"{whose} trained other weights, with {name} = {getattr(before, name)}: --no-from-optimizer "
                f"begins the optimizer anew"
            )
    begun, step = header.facts.get("begun", {}).get("discriminator_optimizer", 0), header.facts["step"]
    starts = [run.discriminator.start for run in (before, config) if run.discriminator.weight]
    if len({max(0, step - max(start, begun)) for start in starts}) == 2:
        raise ValueError(
            f"{whose} began to train its discriminator with discriminator.start = {starts[0]}, not "
            f"{starts[1]}: give that, or --no-from-optimizer begins the optimizers anew"
        )


def start_from(model: Autoencoder, config: AutoencoderRun) -> None:
    """Loads the weights of `init`, and its latents' statistics where the encoder is kept.

    Raises ValueError naming the settings of the model in which the two differ, and for a kept encoder whose
    latents were not measured.
    """
    if not config.init:
        if not config.train_encoder:
            raise ValueError("--no-train-encoder needs --init, the autoencoder whose latents are kept")
        return
    try:
        path = find_autoencoder(config.init)
    except ValueError as error:
        raise ValueError(f"init = {error}; make that first, or give another with --init") from None
    if shards(path):
        tensors, header = load_weights(path, *AUTOENCODERS)
        with naming(path):
            theirs = from_json(AutoencoderConfig, header.settings["model"])
    elif isinstance(other := load_folder(path), Autoencoder):
        tensors, theirs = other.state_dict(), other.config
    else:
        raise ValueError(
            f"{config.init}: only autoencoders of Wan 2.1's kind are trained on, and this is another"
        )
    names = [field.name for field in fields(AutoencoderConfig)]
    if other := {name: v for name in names if (v := getattr(theirs, name)) != getattr(config.model, name)}:
        words = {name: " ".join(map(str, v)) if isinstance(v, tuple) else v for name, v in other.items()}
        flags = " ".join(f"--model.{name.replace('_', '-')} {v}" for name, v in words.items())
        raise ValueError(f"{config.init} has another shape than the config's model: give {flags}")
    load_strictly(model, tensors, config.init)
    if config.train_encoder:
        model.forget_statistics()
    elif shards(path):
        check_measured(model, path, header)


@dataclass(frozen=True)
class StepClips:
    """A process's share of a step: its clips, and their crops in groups of one shape with their noise."""

    clips: list[Clip]
    groups: list[tuple[Tensor, Tensor]]

    def map(self, change: Callable[[Tensor], Tensor]) -> "StepClips":
        """The same with every crop and noise changed, moved or pinned."""
        return replace(self, groups=[(change(video), change(noise)) for video, noise in self.groups])


def draw_steps(
    steps: Iterable[list[Clip]], config: AutoencoderRun, device: torch.device
) -> Iterator[StepClips]:
    """Random crops of every step's clips, images among them, and their noise: functions of (seed, draw).

    All lies where a device copies from by itself.
    """
    for clips in steps:
        videos = [crop(clip.video, config, clip.draw) for clip in clips]
        groups = group_with_noise(videos, [clip.draw for clip in clips], config)
        yield StepClips(clips, [tuple(pinned(x, device) for x in group) for group in groups])


def crop(video_CTHW: Tensor, config: AutoencoderRun, draw: int) -> Tensor:
    """A random crop in time and space, of one frame for draws that are images; what is smaller stays."""
    seed = config.train.seed
    image = uniform(seed, "image", draw) < config.image_share
    most = (1 if image else config.crop_frames, config.crop, config.crop)
    size = [min(have, length) for have, length in zip(video_CTHW.shape[1:], most, strict=True)]
    random = generator(seed, "crop", draw)
    t, h, w = (
        random.integers(have - want + 1) for have, want in zip(video_CTHW.shape[1:], size, strict=True)
    )
    return video_CTHW[:, t : t + size[0], h : h + size[1], w : w + size[2]]


def group_with_noise(
    videos: list[Tensor], draws: Sequence[int], config: AutoencoderRun
) -> list[tuple[Tensor, Tensor]]:
    """Clips of one shape together, B C T H W, each with its posterior's noise, a function of (seed, draw)."""
    compression, channels = compression_of(config.model), config.model.latent_channels
    noises = []
    for video, draw in zip(videos, draws, strict=True):
        shape = channels, *compression.latent_size(*video.shape[1:])
        noises.append(normal(shape, config.train.seed, "posterior", draw))
    groups = same_shapes([video.shape for video in videos])
    return [(torch.stack([videos[k] for k in g]), torch.stack([noises[k] for k in g])) for g in groups]


def _warn_of_collapse(watch: Watch, run: Session) -> None:
    """Says so where the newest row of the log tells of a collapse, with the files of the batch."""
    if sign := watch.sign(run.newest):
        run.print_once(f"WARNING: {sign}. The batch: {', '.join(run.sources) or 'none yet'}")


@torch.no_grad()
def evaluate(autoencoder: Autoencoder, lpips: Lpips | None, held_out, run: Session, step: int) -> dict:
    """PSNR, SSIM and, with its weights, LPIPS on held-out clips, each process its share; and of their latents
    the largest mean of a channel, the standard deviations' range, and the share of variance that is no noise.

    Draws a picture of originals, reconstructions and differences.
    """
    device, shown = run.device, []
    scores = torch.zeros(2, len(SCORES), device=device, dtype=torch.float64)
    moments = torch.zeros(4, autoencoder.channels, device=device, dtype=torch.float64)
    for draw in range(run.rank, min(HELD_OUT, len(held_out)), run.ranks):
        clip: Clip = held_out[draw]
        mean, log_variance = autoencoder.posterior(clip.video[None].to(device))
        other = autoencoder.decode(mean)[0].cpu()
        qualities = {"psnr": psnr(clip.video, other), "ssim": ssim(clip.video, other)}
        if lpips and min(other.shape[2:]) >= SMALLEST:
            qualities["lpips"] = lpips_of(lpips, clip.video, other)
        scores += scores.new_tensor(
            [[qualities.get(k, 0.0) for k in SCORES], [k in qualities for k in SCORES]]
        )
        moments += raw_sums(autoencoder, mean, log_variance)
        if draw < SHOWN:
            shown.append((draw, f"{Path(clip.source).name}: {qualities['psnr']:.1f} dB", clip.video, other))
    shown = sorted(gathered(shown), key=lambda row: row[0])
    if run.main:
        _show_reconstructions([row[1:] for row in shown], run.folder / f"reconstructions-{step:06d}.png")
    sums, counts = run.accelerator.reduce(scores).tolist()
    *sums_of_latents, number = run.accelerator.reduce(moments)
    first, second, noise = (total / number for total in sums_of_latents)
    variance = second - first**2
    return {name: total / count for name, total, count in zip(SCORES, sums, counts, strict=True) if count} | {
        "latent_mean_most": first.abs().max().item(),
        "latent_std_least": variance.min().sqrt().item(),
        "latent_std_most": variance.max().sqrt().item(),
        "latent_signal": (1 - noise / variance).mean().item(),
    }


def _show_reconstructions(shown: list[tuple[str, Tensor, Tensor]], path: Path) -> None:
    """Draws of every clip the original, with a caption, its reconstruction and the amplified difference."""
    videos, captions = [], []
    for caption, video, other in shown:
        videos += [video, other, AMPLIFIED * (other - video)]
        captions += [caption, "reconstruction", f"difference, {AMPLIFIED} times; grey is none"]
    contact_sheet(videos, captions, path)


def _held_out_line(row: dict) -> str:
    """Held-out scores in words."""
    lpips = f", LPIPS {row['lpips']:.4f}" if "lpips" in row else ""
    deviations = f"{row['latent_std_least']:.2f} to {row['latent_std_most']:.2f}"
    return (
        f"held out PSNR {row['psnr']:.2f} dB, SSIM {row['ssim']:.4f}{lpips}; latents' standard deviations "
        f"{deviations}, {row['latent_signal']:.0%} of their variance no noise"
    )


@torch.no_grad()
def measure(autoencoder: Autoencoder, data, clips: int = 64) -> Statistics:
    """The statistics, to six decimals, of latents drawn from the posteriors of the first clips."""
    measured = checked(statistics_of([latent_sums(autoencoder, data[draw].video) for draw in range(clips)]))
    return Statistics(*(tuple(round(x, 6) for x in values) for values in (measured.mean, measured.std)))


def main(arguments: list[str]) -> None:
    """The verb `dit vae train`."""
    train(parse_run(AutoencoderRun, arguments, prog="dit vae train"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("vae train")
