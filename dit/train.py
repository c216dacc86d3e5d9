"""`dit train CONFIG`: trains the transformer, and the byte-level text encoder with it, by rectified flow."""

import copy
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import torch
from torch import Tensor

from configs.load import from_json, parse_run, to_json
from configs.model import TextConfig
from configs.train import FlowConfig, TransformerRun
from dit.attention import BACKENDS, choose_attention
from dit.generate import Request, generate, given_tokens, shift_for
from dit.load import OURS, TRANSFORMER, Denoiser, find_weights, model_folder
from dit.pack import Layout, grid_of, make_layout, patchify
from dit.text import EmbeddedText, encoder_hash, encoder_width, text_made
from samplers.path import interpolate, logit_normal_times, shift_times, velocity
from vae.cache.clips import find_cache, open_cached, read_scenes
from vae.cache.encoding import encode_scenes
from vae.cache.index import Cache
from vae.cache.shards import STORED
from vae.compression import round_to
from vae.data.clips import SHAPES, Clip, batches, files_hash, open_data
from vae.load import keep_copy, load_autoencoder
from vae.model import Autoencoder
from vae.training.checkpoints import (
    checkpoints,
    finished_step,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from vae.training.files import read_json
from vae.training.folder import open_run
from vae.training.log import Log, draw_curve, live_line, opening, read_log, smooth
from vae.training.optimizer import learning_rate, make_optimizer, update_average
from vae.training.processes import PATIENCE, on_main
from vae.training.seeds import generator, uniform
from vae.training.session import StopSignal, check_loop, holding, name_skipped
from vae.training.weights import TRANSFORMERS, fill, load_weights, save_weights

HELD_OUT = 32
VALIDATION_TIMES = (0.125, 0.375, 0.625, 0.875)
PANELS = {"smoothed": "loss, smoothed", "validation": "validation loss", "gradient_norm": "gradient norm"}
SHOWN = 6
SIZES = (  # settings that make no model, or no picture, below 1
    *("model.width", "model.depth", "model.heads", "model.mlp_width", "sampler.steps"),
    *("text.width", "text.depth", "text.heads", "text.mlp_width", "text.max_tokens"),
)
COUNTS = (  # settings of which 0 means none
    *("cached_clips", "data.workers", "flow.shift_tokens"),
)


@holding
def train(config: TransformerRun, held: ExitStack) -> Path:
    """Trains or goes on with the run in `config.out`; returns the path of the finished weights."""
    from accelerate import Accelerator, InitProcessGroupKwargs

    out, settings, loop, flow = Path(config.out), to_json(config), config.train, config.flow
    bf16 = loop.precision == "bf16"
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="bf16" if bf16 else "no",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    device, rank, ranks = accelerator.device, accelerator.process_index, accelerator.num_processes
    main = accelerator.is_main_process
    check_loop(loop, config.optimizer, ranks)
    started_before = bool(checkpoints(out))
    autoencoder = load_autoencoder(out if started_before else config.autoencoder)
    check_fit(config, autoencoder)
    if config.init and not started_before and (note := check_text(config.text, model_folder(config.init))):
        accelerator.print(note, file=sys.stderr)
    sample = config.posterior == "sample"
    if cache := find_cache(config.data.source):
        data, held_out = open_cached(cache, config.data, loop.seed, HELD_OUT, autoencoder, sample)
    else:
        data, held_out = open_data(config.data, loop.seed, HELD_OUT, autoencoder.compression)
    torch.manual_seed(loop.seed)
    encoder = embedded_text(cache, config, accelerator.print) if cache and config.text.folder else None
    model = Denoiser(config.model, config.text, encoder)
    if config.init and not started_before:
        start_from(model, model_folder(config.init))
    on_main(main, lambda: open_run(out, "transformer", config, files_hash(data, held_out), held))
    if (done := finished_step(out, out / TRANSFORMER, loop.steps)) is not None:
        if main:
            print(
                f"{out} is finished at step {done}: nothing to do (--train.steps makes it longer)",
                file=sys.stderr,
            )
        accelerator.end_training()
        return out / TRANSFORMER
    if not started_before:  # the run's own copy makes its folder a whole model folder
        on_main(main, lambda: keep_copy(config.autoencoder, autoencoder, out))
    autoencoder.to(device).eval().requires_grad_(False)
    model.to(device)
    model.transformer.checkpointing = config.checkpoint_activations
    compute = torch.bfloat16 if bf16 else torch.float32
    model.transformer.attention = BACKENDS[choose_attention(device, compute, model.transformer.head_width)]
    shared = {id(model.text): model.text} if config.text.folder else {}  # a frozen encoder has no average
    average = copy.deepcopy(model, shared).requires_grad_(False).eval()
    optimizer = make_optimizer(model, config.optimizer)
    step, smoothed = 0, None
    if (checkpoint := load_checkpoint(out)) is not None:
        step, smoothed, parts = checkpoint
        model.load_trained_state(parts["model"])
        average.load_trained_state(parts["average"])
        restore_optimizer(optimizer, parts["optimizer"])
    if config.cached_clips:
        encode_scenes(data, autoencoder, config.cached_clips, out / "latents", rank, ranks)
        accelerator.wait_for_everyone()
        data = read_scenes(data, autoencoder, config.cached_clips, out / "latents")
    validation = validation_set(held_out, autoencoder, config, rank, ranks)
    shown = any(row["step"] == step and "validation" in row for row in read_log(out / "log.jsonl"))
    log = Log(out, step, loop.steps) if main else None
    if log:
        log.say(opening(model, data, held_out, device, step, loop.steps))
    wrapped = accelerator.prepare(model)
    loader = batches(data, loop.batch, step, loop.steps, rank, ranks, config.data.workers)
    found, skipped = {}, {}

    stopping = False
    with StopSignal() as stop:
        while not stopping:
            if step and not shown and (step % loop.show_every == 0 or step == loop.steps):
                show_samples(
                    average, autoencoder, config, held_out, accelerator, out / f"samples-{step:06d}.png"
                )
                row = {"step": step} | validate(average, validation, accelerator)
                if log:
                    log.add(row)
                    log.say(f"step {step}: validation loss {row['validation']:.4f}")
                    draw_curve(log.rows, PANELS, out / "curve.png")
            if step >= loop.steps:
                break
            started, shown = time.monotonic(), False
            clips = next(loader)
            waited = time.monotonic() - started
            found |= {path: reason for clip in clips for path, reason in clip.skipped.items()}
            draws = range(step * loop.batch + rank, (step + 1) * loop.batch, ranks)
            keys = [(loop.seed, "posterior", draw) if sample else () for draw in draws]
            latents = [encode(autoencoder, clip, key) for clip, key in zip(clips, keys, strict=True)]
            batch = make_batch(latents, draws, flow, loop.seed, model.transformer.head_width, device)
            prompts = drop_prompts([clip.caption for clip in clips], draws, flow, loop.seed)

            with accelerator.autocast():
                prediction = wrapped(batch.tokens, batch.times, batch.layout, prompts)
            error = (prediction.float() - batch.target).square().mean(-1)
            counted = accelerator.reduce(
                batch.in_loss.sum()
            )  # over all processes: their number does not matter
            loss = (error * batch.in_loss).sum() * ranks / counted
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, config.optimizer)
            accelerator.backward(loss)
            norm = accelerator.clip_grad_norm_(model.parameters(), config.optimizer.max_gradient_norm)
            if not torch.isfinite(norm):
                raise ValueError(
                    f"gradient not finite at step {step + 1}, on {', '.join(clip.source for clip in clips)}"
                )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            update_average(average, model, step, config.optimizer.ema_decay)

            asked = accelerator.reduce(torch.tensor(float(stop.asked), device=device)).item() > 0
            stopping = asked and step < loop.steps
            mean_loss = accelerator.reduce(loss.detach(), "mean").item()
            smoothed = smooth(smoothed, mean_loss)
            if step % loop.log_every == 0 or step in (1, loop.steps) or stopping:
                name_skipped(found, skipped, log)
            if log and step == 1 and not config.init:
                log.say(check_first_loss(mean_loss, latents))
            if log and (step % loop.log_every == 0 or step == 1):
                seconds = time.monotonic() - started
                row = {"step": step, "loss": mean_loss, "smoothed": smoothed, "gradient_norm": float(norm)}
                row |= {"tokens_per_second": len(batch.tokens) * ranks / seconds, "waited": waited / seconds}
                log.add(row)
                log.show(step, live_line(row, "tokens_per_second", skipped))
            if log and (step % loop.save_every == 0 or step == loop.steps or stopping):
                parts = {"model": model.trained_state(), "average": average.trained_state()}
                parts["optimizer"] = optimizer_tensors(optimizer)
                save_checkpoint(out, "transformer", step, smoothed, parts, settings)
    if log and stopping:
        log.say(f"stopped at step {step}; the same command goes on from there")
    elif log:
        save_weights(out / TRANSFORMER, average.trained_state(), "transformer", settings, {"step": step})
        log.say(f"model: {out} (dit sample PROMPT --model {out})")
    accelerator.wait_for_everyone()  # none leaves the group while another still works
    accelerator.end_training()
    return out / TRANSFORMER


def check_fit(config: TransformerRun, autoencoder: Autoencoder) -> None:
    """Raises ValueError for settings that do not fit each other, before anything is computed."""
    model, text, data, flow = config.model, config.text, config.data, config.flow
    for least, names in {1: SIZES, 0: COUNTS}.items():
        for name in names:
            if (value := attrgetter(name)(config)) < least:
                raise ValueError(f"{name} = {value}: it must be at least {least}")
    for name, part in {"model": model, "text": text}.items():
        if part.width % part.heads or part.width // part.heads % 2:
            raise ValueError(
                f"{name}.width = {part.width} must be an even multiple of {name}.heads = {part.heads}"
            )
    if (width := encoder_width(text)) != model.text_width:
        whose = f"the width of {text.folder}," if text.folder else "text.width ="
        raise ValueError(f"model.text_width = {model.text_width} must be {whose} {width}")
    if model.time_frequencies < 2 or model.time_frequencies % 2:
        raise ValueError(f"model.time_frequencies = {model.time_frequencies}: it must be even and positive")
    if flow.shift <= 0:
        raise ValueError(f"flow.shift = {flow.shift}: it must be above 0, and 1 is none")
    if flow.time_std < 0:
        raise ValueError(f"flow.time_std = {flow.time_std}: it must not be negative")
    for name in ("prompt_dropout", "first_frame"):
        if not 0 <= getattr(flow, name) <= 1:
            raise ValueError(f"flow.{name} = {getattr(flow, name)}: it must be from 0 to 1")
    if config.cached_clips and data.source != SHAPES:
        raise ValueError(
            f"cached_clips = {config.cached_clips} is for the drawn world: of files, "
            f"`dit vae encode {data.source} --out CACHE` and --data.source CACHE --cached-clips 0"
        )
    if model.latent_channels != autoencoder.channels:
        raise ValueError(
            f"model.latent_channels = {model.latent_channels}, but the autoencoder has {autoencoder.channels}"
        )
    side = autoencoder.compression.token_side
    if data.source == SHAPES and data.size % side:
        raise ValueError(f"data.size = {data.size} is no multiple of {side}: use {round_to(data.size, side)}")


def check_text(config: TextConfig, folder: Path) -> str:
    """What to say where the transformer of a diffusers folder is to be trained with another text encoder.

    Raises ValueError where the encoder is the folder's own, or may be, but its text is padded otherwise.
    """
    if not (folder / "transformer" / "config.json").is_file():
        return ""
    ours, own = folder / OURS, TextConfig(folder=str(folder))
    padded = from_json(TextConfig, read_json(ours)["text"]).padded if ours.is_file() else True
    known = (folder / "text_encoder" / "config.json").is_file()
    flag = f"--text.{'' if padded else 'no-'}padded"
    if not config.folder:
        takes = f"; --text.folder {folder} {flag} takes the one in the folder" if known else ""
        return f"note: of {folder} only the transformer is taken, the text encoder starts from random{takes}"
    if known and encoder_hash(config) != encoder_hash(own):
        return f"note: {config.folder} is not the text encoder of {folder}, which its transformer knows"
    if config.padded != padded:
        raise ValueError(f"the transformer of {folder} was trained with other text padding: give {flag}")
    return ""


def embedded_text(cache: Cache, config: TransformerRun, say: Callable) -> EmbeddedText | None:
    """A cache's embeddings in place of the frozen text encoder; None where it has none, and so says.

    Raises ValueError where another encoder or other settings made them.
    """
    held, wanted = cache.made["text"], text_made(config.text)
    if not held:
        say(
            f"note: {cache.folder} has no embeddings, the text encoder runs in every step; "
            f"`dit vae encode … --text.folder {config.text.folder}` adds them",
            file=sys.stderr,
        )
        return None
    for name, value in wanted.items():
        if value != held[name]:
            what = f"text.{name} = {held[name]}, not {value}" if name != "encoder" else "another text encoder"
            raise ValueError(
                f"{cache.folder} holds embeddings of {what}: give `dit vae encode` the settings of this run, "
                f"which encodes the captions alone"
            )
    places = {}
    for file in cache.files:
        places |= zip(file.captions, file.texts, strict=True)
    text = EmbeddedText(config.text, cache.folder, STORED[cache.made["store"]], places | {"": cache.empty})
    text.keep(config.prompts)
    return text


def start_from(model: Denoiser, folder: Path) -> None:
    """Loads the weights of a model folder: of ours, or the transformer alone of a diffusers Wan pipeline."""
    if (folder / "transformer" / "config.json").is_file():
        from dit.wan import load_transformer

        fill(model.transformer, load_transformer(folder / "transformer").state_dict(), folder)
        return
    file = find_weights(folder)
    trained = model.trained_state()
    frozen = {name: tensor for name, tensor in model.state_dict().items() if name not in trained}
    fill(model, frozen | load_weights(file, *TRANSFORMERS)[0], file)


@dataclass(frozen=True)
class Batch:
    """A packed batch on the device: noisy tokens, distinct times, layout, target velocity, loss mask."""

    tokens: Tensor
    times: Tensor
    layout: Layout
    target: Tensor
    in_loss: Tensor


def make_batch(
    latents: list[Tensor], draws: range, flow: FlowConfig, seed: int, head_width: int, device: torch.device
) -> Batch:
    """Noise, time and task of every sample are functions of (seed, draw), on however many processes."""
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
def encode(autoencoder: Autoencoder, clip: Clip, key: tuple = ()) -> Tensor:
    """Normalised latents C T H W of a clip, on the CPU: the posterior's mean, or a key's draw from it."""
    if clip.posterior:
        mean, *log_variance = clip.posterior
    else:
        video = clip.video[None].to(autoencoder.latent_mean.device)
        if not key:
            return autoencoder.encode(video)[0].cpu()
        mean, *log_variance = (part[0].cpu() for part in autoencoder.posterior(video))
    if not key:
        return mean
    return mean + torch.exp(log_variance[0] / 2) * torch.randn(mean.shape, generator=generator(*key))


def check_first_loss(loss: float, latents: list[Tensor]) -> str:
    """Compares the first loss with 1 + var(latents), the cost of a zero output, and says what is wrong."""
    variance = torch.cat([x.flatten() for x in latents]).square().mean().item()
    expected = 1 + variance
    if abs(loss - expected) < 0.15 * expected and abs(variance - 1) < 0.5:
        return f"first loss {loss:.3f}, expected 1 + var(latents) = {expected:.3f}: good"
    wrong = "the latent statistics" if abs(variance - 1) >= 0.5 else "the target or the zero initialisation"
    return f"WARNING: first loss {loss:.3f}, expected 1 + var(latents) = {expected:.3f} near 2: check {wrong}"


def validation_set(
    held_out, autoencoder: Autoencoder, config: TransformerRun, rank: int, ranks: int
) -> list[tuple[float, Batch, list[str]]]:
    """This rank's share of the held-out clips, in batches: fixed noise, at the middle of each time bin."""
    device, width = autoencoder.latent_mean.device, config.model.width // config.model.heads
    mine = range(rank, min(HELD_OUT, len(held_out)), ranks)
    many = config.train.batch // ranks
    result = []
    for draws in (mine[first : first + many] for first in range(0, len(mine), many)):
        clips = [held_out[draw] for draw in draws]
        latents = [encode(autoencoder, clip) for clip in clips]
        for t in VALIDATION_TIMES:
            parts = []
            for draw, x in zip(draws, latents, strict=True):
                noise = torch.randn(
                    x.shape, generator=generator(config.train.seed, "validation noise", draw, str(t))
                )
                x_LP, noise_LP = patchify(x), patchify(noise)
                parts.append(
                    (interpolate(x_LP, noise_LP, torch.full((len(x_LP),), t)), velocity(x_LP, noise_LP))
                )
            tokens, target = (torch.cat(part).to(device) for part in zip(*parts, strict=True))
            layout, times = make_layout(
                [grid_of(x) for x in latents], [torch.tensor([t])] * len(latents), width, device
            )
            batch = Batch(tokens, times, layout, target, torch.ones(len(tokens)))
            result.append((t, batch, [clip.caption for clip in clips]))
    return result


@torch.no_grad()
def validate(average: Denoiser, validation: list[tuple[float, Batch, list[str]]], accelerator) -> dict:
    """Mean loss in every time bin, and over them; every process computes its share."""
    sums = {t: torch.zeros(2, device=accelerator.device, dtype=torch.float64) for t in VALIDATION_TIMES}
    for t, batch, prompts in validation:
        with accelerator.autocast():
            prediction = average(batch.tokens, batch.times, batch.layout, prompts)
        error = (prediction.float() - batch.target).square()
        sums[t] += torch.stack([error.sum(dtype=torch.float64), error.new_tensor(error.numel())])
    errors, counts = accelerator.reduce(torch.stack(list(sums.values()))).unbind(1)
    bins = dict(zip(sums, (errors / counts).tolist(), strict=True))
    return {"validation": sum(bins.values()) / len(bins)} | {
        f"validation_t{t}": loss for t, loss in bins.items()
    }


def show_samples(
    average: Denoiser, autoencoder: Autoencoder, config: TransformerRun, held_out, accelerator, path: Path
) -> None:
    """Samples the fixed prompts, or held-out captions, into a contact sheet; every process its share.

    A caption's video has the shape of its own clip; fixed prompts have none, and take that of the first clip.
    """
    from accelerate.utils import gather_object

    from vae.data.sheets import contact_sheet

    clips = [held_out[draw] for draw in range(min(SHOWN, len(held_out)))]
    shapes = [tuple(encode(autoencoder, clip).shape) for clip in clips]
    pairs = [(prompt, shapes[0]) for prompt in config.prompts]
    pairs = pairs or [(clip.caption, shape) for clip, shape in zip(clips, shapes, strict=True)]
    requests = [Request(*pair, seed) for seed, pair in enumerate(pairs, config.sampler.seed)]
    mine = requests[accelerator.process_index :: accelerator.num_processes]
    many = max(1, config.train.batch // accelerator.num_processes)
    videos = []
    for group in same_shapes(mine, many):
        with accelerator.autocast():
            latents = generate(average, group, config.flow, config.sampler)
        made = [autoencoder.decode(z[None])[0].cpu() for z in latents]
        videos += [(request.seed, video) for request, video in zip(group, made, strict=True)]
    videos = sorted(gather_object(videos), key=lambda pair: pair[0])
    if accelerator.is_main_process:
        contact_sheet([video for _, video in videos], [request.prompt for request in requests], path)


def same_shapes(requests: list[Request], most: int) -> list[list[Request]]:
    """Requests in groups of one shape, as one call has one shift of the times, and of at most `most`."""
    shapes = dict.fromkeys(request.shape for request in requests)
    alike = [[request for request in requests if request.shape == shape] for shape in shapes]
    return [group[first : first + most] for group in alike for first in range(0, len(group), most)]


def main(arguments: list[str]) -> None:
    """The verb `dit train`."""
    train(parse_run(TransformerRun, arguments, prog="dit train"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("train")
