"""`dit train CONFIG`: trains the transformer, and the byte-level text encoder with it, by rectified flow."""

import copy
import math
from collections.abc import Callable
from functools import partial
from itertools import chain, tee
from pathlib import Path

import torch
from torch import Tensor

from configs.data import DRAWN
from configs.load import parse_run
from configs.train import TransformerRun
from dit.attention import choose_attention
from dit.bench.flops import sample_cost
from dit.bench.measure import quick_matmul_peak
from dit.blocks import check_compiled, checkpoint_blocks, compile_blocks
from dit.condition import Condition
from dit.fp8 import check_fp8, use_fp8
from dit.generate import Request, generate
from dit.load import TRANSFORMER, Denoiser, model_folder, transformer_hash
from dit.lora import adapt, adapters, as_file, check_lora
from dit.lora_files import LORA
from dit.loss import PackDraw, check_first_loss, draw_pack, draw_validation, flow_loss, make_batch
from dit.parallel import make_mesh, mesh_shape, parallelise, reducing, slice_of, whole
from dit.repa import add_projector, aligning, check_repa, projector_state
from dit.start import check_init, check_latents, start_from
from dit.steps import draw_steps, latent_shape, tokens_in
from dit.tasks import check_tasks, trained_tasks
from dit.text import cut_note, embedded_text, encoder_folder, encoder_hash
from dit.times import BINS, VALIDATION_TIMES, Measured
from dit.width import matrix_parts, rate_scales, scale_start
from vae.cache.clips import find_caches, open_autoencoder, open_clips
from vae.compression import round_to
from vae.data.clips import Clip, batches, files_hash
from vae.data.mixture import source_weights
from vae.data.plan import Cost, Plan
from vae.data.sheets import contact_sheet
from vae.interface import same_shapes
from vae.load import autoencoder_hash, keep_copy
from vae.model import Autoencoder
from vae.training.ahead import made_ahead
from vae.training.branch import find_checkpoint
from vae.training.files import read_json
from vae.training.optimizer import (
    check_optimizer_settings,
    clip_gradients,
    exchanged,
    make_optimizer,
    set_learning_rate,
    update_average,
    update_weights,
)
from vae.training.processes import gathered, on_main
from vae.training.session import Session
from vae.training.spikes import going_back

BETA1 = 0.9  # of AdamW
HELD_OUT = 32
PANELS = {"smoothed": "loss, smoothed", "validation": "validation loss", "gradient_norm": "gradient norm"}
SHOWN = 6
KINDS = {  # of runs, by whether they are of adapters: their weights, and which tensors they train
    False: ("transformer", TRANSFORMER, Denoiser.trained_state),
    True: ("lora", LORA, adapters),
}
COMPUTE = {"bf16": torch.bfloat16, "fp32": torch.float32}


@going_back
def train(config: TransformerRun, look: Callable | None = None) -> Path:
    """Trains or goes on with the run in `config.out`; returns the path of the finished weights.

    A replay may `look` at the gradients of the last step, which then makes no update.
    """
    loop, seed, lora = config.train, config.train.seed, config.lora.rank > 0
    kind, weights, trained = KINDS[lora]
    with Session(config, kind, weights) as run:
        # Of the processes, neighbours share a pack: this one has a slice of each of its data rank's packs.
        shape, context = mesh_shape(config.parallel, run.ranks), config.parallel.context
        data_rank, slice_rank = divmod(run.rank, context)

        # The autoencoder: once the run has begun its own copy, with which its folder is a whole model folder.
        # Adapters are no model without their base, which has its own.
        kept = run.started and not lora
        caches = find_caches(config.data)
        home = run.folder if kept else config.autoencoder
        autoencoder = open_autoencoder(home, config.data, caches, run.print_once)
        _check_fit(config, autoencoder)
        check_repa(config, bool(caches))
        check_fp8(config, run.device)
        if lora:
            check_lora(config)
            run.facts["base_weights"] = transformer_hash(model_folder(config.init))
        run.facts["autoencoder_weights"] = autoencoder_hash(autoencoder)
        run.facts["text_weights"] = encoder_hash(config.text) if config.text.folder else ""
        if config.init and not run.started:
            check_init(config, autoencoder, run.print_once)
        if config.from_run and not (run.started or lora or config.new_latents):
            whose, home = f"--from-run {config.from_run}", find_checkpoint(config.from_run).parent
            check_latents(whose, home, False, config.autoencoder, autoencoder)

        # Clips of files or of the drawn world, or latents of a cache; some are held out.
        sampled = config.posterior == "sample"
        data, held_out = open_clips(config.data, seed, HELD_OUT, autoencoder, sampled, caches)

        # Which clips a step has, and which process computes which.
        plan = _plan(config, data, autoencoder)

        # The network, from random weights or those of `init`. Caches have their captions' embeddings.
        torch.manual_seed(seed)
        embeddings = None
        if config.text.folder and len(caches) == len(source_weights(config.data)):
            embeddings = embedded_text([*caches.values()], config.text, config.prompts, run.print_once)
        model = Denoiser(config.model, config.text, embeddings)
        scale_start(model.transformer, config.optimizer)
        if config.init and (lora or not run.started):
            start_from(model, model_folder(config.init))
        if lora:
            adapt(model, model.transformer, config.lora, COMPUTE[loop.precision])
        add_projector(model, config)

        checkpoint_blocks(model.transformer, config.checkpoint_activations)
        model.transformer.use_attention(run.device, COMPUTE[loop.precision])
        if config.compile:
            check_compiled(model.transformer, run.device, config.checkpoint_activations, context)

        # From here on the folder is this run's, its settings are written; a finished one has nothing to do.
        if not run.open(files_hash(data, held_out)):
            return run.weights
        if not (run.started or lora):
            on_main(run.main, lambda: keep_copy(config.autoencoder, autoencoder, run.folder))
        autoencoder.to(run.device).eval().requires_grad_(False)

        # What samples and is validated is the average of the weights; what is frozen has none. What is
        # sharded goes to its device block by block, as whole it may not fit.
        mesh = make_mesh(shape, run.device)
        if mesh is None or config.parallel.shard == "none":
            model.to(run.device)
        frozen = [model.text] * bool(config.text.folder) + [
            p for p in model.parameters() if not p.requires_grad
        ]
        shared = {id(part): part for part in frozen}
        average = copy.deepcopy(model, shared).requires_grad_(False).eval()
        if config.fp8:
            use_fp8(model.transformer)
        alignment = aligning(model, config, autoencoder)
        network = parallelise(model, average, mesh, config.parallel, loop.precision == "bf16")
        for part in (model, average):
            part.to(run.device)
        scales, parts = rate_scales(model, config.optimizer), matrix_parts(model.transformer)
        optimizer = make_optimizer(model, config.optimizer, BETA1, scales, parts)
        measured = Measured()
        extra = {"measured": measured.state} if config.flow.times == "measured" else {}

        def states() -> dict:
            networks = {"model": trained(model), "average": trained(average)} | projector_state(model)
            return networks | extra | {"optimizer": optimizer}

        run.restore(**states())
        if config.compile:
            compile_blocks(model.transformer)
        validation = validation_packs(held_out, autoencoder, config, run)

        # The log is opened; from here on a signal ends the step at hand, not the process.
        run.begin(model, data, held_out, states, **_start(config, model, plan, shape, run))
        for note in _text_notes(config, data, held_out) if run.main else ():
            run.print_once(note)

        # What every `show_every` steps shows, and the start of a run that a signal kept from showing it.
        def show(step: int) -> None:
            with whole(average):
                show_samples(average, autoencoder, config, held_out, run, step)
                row = validate(average, validation, run)
            run.wait_copied()
            with exchanged(average, model), whole(average):
                row |= validate(average, validation, run, "validation_weights")
            run.log({"step": step} | row, PANELS)
            measured.learn(step, row)
            of_weights = f"that of the weights {row['validation_weights']:.4f}"
            run.print_once(f"step {step}: validation loss {row['validation']:.4f}, {of_weights}")

        if run.due("show", run.step) and not run.has_shown("validation"):
            show(run.step)

        # Steps after the last, each process its share, drawn on the host while the step before computes.
        ranks, cut = run.ranks // context, partial(slice_of, rank=slice_rank, ranks=context)
        packs, of_clips = tee(plan.shares(range(run.step + 1, loop.steps + 1), data_rank, ranks))
        clips = batches(data, (list(chain(*step)) for step in of_clips), config.data.workers)
        shares, first = zip(packs, clips, strict=True), run.step + 1
        drawn = draw_steps(shares, config, autoencoder, model.read, run.device, cut, measured.before, first)
        ahead = made_ahead(drawn, run.device)
        for step, share in run.steps(ahead, lambda share: share.clips, lambda share: share.named):
            # The loss is a mean over the tokens of the whole step: of all packs of all processes.
            counted, error = run.sum(share.counted).float(), torch.zeros((), device=run.device)
            for pack in share.packs:
                # Latents at each sample's noise and time, with its condition: functions of (seed, draw).
                batch = pack.batch(autoencoder, run.device)

                # Rectified flow's loss, whose gradients add up: over packs here, over processes at the last.
                with reducing(network, pack is share.packs[-1]):
                    with run.accelerator.autocast():
                        error_of_pack = flow_loss(network, batch)
                        auxiliary = alignment(pack.clips, pack.draw, batch)
                    ((error_of_pack + auxiliary) / counted).backward()
                error += error_of_pack.detach()

            if look and step == loop.steps:
                look(share, model, optimizer, autoencoder, counted, error / counted, measured.before, run)
                return run.weights

            # AdamW at this step's learning rate, then the average moves towards the weights.
            norm = clip_gradients(optimizer, config.optimizer)
            bad = run.check_step(step, error / counted, norm)
            rate = set_learning_rate(optimizer, run.updates(step), config.optimizer)
            run.wait_copied()
            update_weights(optimizer, bad)
            update_average(average, model, step, config.optimizer.ema_decay, bad)

            # What is said, saved and shown; every process calls these, as each has its share in them.
            terms = {"gradient_norm": norm, "learning_rate": rate}
            amounts = {"tokens": share.tokens, "samples": len(share.clips) / context}
            amounts["model_flops"] = share.flops(config.model, context)
            run.end_step(step, amounts, **terms)
            if step == 1 and not config.init and config.flow.weighting == "none":
                latents = [z for pack in share.packs for z in autoencoder.latents(pack.clips, pack.noises)]
                squares = run.sum(sum(z.square().sum().item() for z in latents)).item()
                numbers = run.sum(sum(z.numel() for z in latents)).item()
                run.print_once(check_first_loss(run.loss, squares / numbers, numbers))
            if run.due("show", step):
                show(step)
            if run.due("save", step):
                run.save(step, **states())

        # The average is the model.
        if not run.stopping:
            run.finish(trained(average), *(as_file(config) if lora else ()))
            how = f"{config.init} --lora {run.folder}" if lora else run.folder
            run.print_once(f"{kind}: {run.folder} (dit sample PROMPT --model {how})")
    return run.weights


def _check_fit(config: TransformerRun, autoencoder: Autoencoder) -> None:
    """Raises ValueError for settings that do not fit each other, before anything is computed."""
    model, text, data = config.model, config.text, config.data
    check_optimizer_settings(config.optimizer)
    check_tasks(config.flow.tasks)
    if config.optimizer.kind == "muon" and config.optimizer.base_width:
        raise ValueError(
            "optimizer.base_width scales AdamW's rates by muP: leave it out with optimizer.kind = muon"
        )
    if config.flow.times == "measured" and not config.flow.time_std:
        raise ValueError("flow.times = measured spreads times by flow.time_std, which is 0")
    for name, part in {"model": model, "text": text}.items():
        if part.width % part.heads or part.width // part.heads % 2:
            raise ValueError(
                f"{name}.width = {part.width} must be an even multiple of {name}.heads = {part.heads}"
            )
    width = read_json(encoder_folder(text) / "config.json").get("d_model") if text.folder else text.width
    if width != model.text_width:
        whose = f"the width of {text.folder}," if text.folder else "text.width ="
        raise ValueError(f"model.text_width = {model.text_width} must be {whose} {width}")
    if model.latent_channels != autoencoder.channels:
        raise ValueError(
            f"model.latent_channels = {model.latent_channels}, but the autoencoder has {autoencoder.channels}"
        )
    side = autoencoder.compression.token_side
    if DRAWN.keys() & source_weights(data).keys() and data.size % side:
        raise ValueError(f"data.size = {data.size} is no multiple of {side}: use {round_to(data.size, side)}")


def _plan(config: TransformerRun, data, autoencoder: Autoencoder) -> Plan:
    """The plan of a run's steps; raises ValueError where a step or a pack cannot hold the largest clip."""
    loop, text = config.train, config.text.max_tokens if config.text.padded else 0
    cost = Cost(1.0, loop.crossover_tokens) if loop.crossover_tokens else sample_cost(config.model, text)
    return Plan(data.sizes(autoencoder.compression), loop.batch, loop.tokens, loop.pack_tokens, cost)


def _start(
    config: TransformerRun, model: Denoiser, plan: Plan, shape: tuple[int, int, int], run: Session
) -> dict:
    """What a start runs on and with, for the opening line and `starts.jsonl`, of the step that comes next."""
    dtype, packs = COMPUTE[config.train.precision], plan.packs(run.step + 1, run.ranks // shape[2])
    mesh = " x ".join(
        f"{n} {name}" for n, name in zip(shape, ("copies", "shards", "context"), strict=True) if n > 1
    )
    tokens = config.train.tokens or int(plan.sizes.tokens(plan.draws(run.step + 1)).sum())
    return {
        "mesh": mesh,
        "attention": choose_attention(run.device, dtype, model.transformer.head_width),
        "tokens_per_step": tokens,
        "packs_per_step": sum(map(len, packs)),
        "matmul_peak": quick_matmul_peak(dtype, run.device),
    }


def _text_notes(config: TransformerRun, data, held_out) -> list[str]:
    """What is to be said of the captions of a run: how many files have none, and how many are cut."""
    files = [texts for part in (data, held_out) for texts in part.captions()]
    captions = [caption for texts in files for caption in texts]
    bare = sum(not texts for texts in files)
    none = f"note: {bare} of {len(files)} files have no caption: they are trained on without a prompt"
    cut = cut_note(config.text, [*captions, *config.prompts], "captions and prompts")
    return [none] * bool(bare) + [cut] * bool(cut)


def validation_packs(
    held_out, autoencoder: Autoencoder, config: TransformerRun, run: Session
) -> dict[str, list[tuple[list[Tensor], PackDraw]]]:
    """This process's share of the held-out clips, latents and what is drawn, on the host: fixed noise, at
    the middle of each time bin, with nothing given; and for every task that is trained each clip in one bin.
    A pack has no more clips or tokens than one of the training."""
    loop, head_width = config.train, config.model.width // config.model.heads
    tasks = trained_tasks(config.flow.tasks)
    packs, room = [], 0
    for draw in range(run.rank, min(HELD_OUT, len(held_out)), run.ranks):
        clip = held_out[draw]
        tokens = tokens_in(latent_shape(clip, autoencoder))
        if not packs or len(packs[-1]) == max(1, loop.batch // run.ranks) or tokens > room:
            packs.append([])
            room = loop.pack_tokens or math.inf
        packs[-1].append(clip)
        room -= tokens
    result = {f"t{time}": [] for time in VALIDATION_TIMES} | {task: [] for task in tasks}
    for clips in packs:
        latents = autoencoder.latents(clips)
        for time in VALIDATION_TIMES:
            pairs = zip(latents, clips, strict=True)
            samples = (draw_validation(z.shape, clip, time, loop.seed) for z, clip in pairs)
            result[f"t{time}"].append((latents, draw_pack(samples, head_width)))
        for task in tasks:
            drawn = [
                (z, draw_validation(z.shape, clip, VALIDATION_TIMES[clip.draw % BINS], loop.seed, task))
                for z, clip in zip(latents, clips, strict=True)
            ]
            drawn = [(z, sample) for z, sample in drawn if sample]
            if drawn:
                pack = draw_pack([sample for _, sample in drawn], head_width)
                result[task].append(([z for z, _ in drawn], pack))
    return result


@torch.no_grad()
def validate(
    network: Denoiser,
    validation: dict[str, list[tuple[list[Tensor], PackDraw]]],
    run: Session,
    name: str = "validation",
) -> dict:
    """Mean loss in every time bin, and over them, and of every task (`validation_first`), under a name; every
    process computes its share. A task that gives nothing of any clip is left out."""
    sums = {part: torch.zeros(2, device=run.device, dtype=torch.float64) for part in validation}
    for part, packs in validation.items():
        for latents, pack in packs:
            batch = make_batch(latents, pack.to(run.device))
            with run.accelerator.autocast():
                error = flow_loss(network, batch, torch.float64)
            sums[part] += torch.stack([error, batch.in_loss.sum().double()])
    errors, tokens = run.accelerator.reduce(torch.stack(list(sums.values()))).unbind(1)
    losses = zip(sums, (errors / tokens).tolist(), tokens.tolist(), strict=True)
    parts = {part: loss for part, loss, count in losses if count}
    bins = [parts[f"t{time}"] for time in VALIDATION_TIMES]
    return {name: sum(bins) / len(bins)} | {f"{name}_{part}": loss for part, loss in parts.items()}


def show_samples(
    average: Denoiser, autoencoder: Autoencoder, config: TransformerRun, held_out, run: Session, step: int
) -> None:
    """Samples the fixed prompts, or held-out captions, into a contact sheet; every process its share.

    A caption's video has the shape of its own clip, shown below it; fixed prompts have none, and take that of
    the first clip.
    """
    clips = [held_out[draw] for draw in range(min(SHOWN, len(held_out)))]
    real = autoencoder.latents(clips)
    shapes = [tuple(z.shape) for z in real]
    pairs = [(prompt, shapes[0]) for prompt in config.prompts]
    pairs = pairs or [(clip.caption, shape) for clip, shape in zip(clips, shapes, strict=True)]
    requests = [
        Request(Condition(prompt), shape, seed)
        for seed, (prompt, shape) in enumerate(pairs, config.sampler.seed)
    ]

    # One call has one shift of the times, and so samples of one shape.
    mine = requests[run.rank :: run.ranks]
    many = max(1, config.train.batch // run.ranks)
    videos, decoder = [], autoencoder.loaded()
    for alike in same_shapes([request.shape for request in mine]):
        if config.train.pack_tokens:  # with guidance a pack has each request twice
            many = max(1, min(many, config.train.pack_tokens // (2 * tokens_in(mine[alike[0]].shape))))
        for first in range(0, len(alike), many):
            group = [mine[k] for k in alike[first : first + many]]
            with run.accelerator.autocast():
                latents = generate(average, group, config.flow, config.sampler)
            decoded = [decoder.decode(z[None])[0].cpu() for z in latents]
            videos += [(request.seed, video) for request, video in zip(group, decoded, strict=True)]
    videos = sorted(gathered(videos), key=lambda pair: pair[0])
    if run.main:
        sheet = run.folder / f"samples-{step:06d}.png"
        rows = [
            (request.condition.prompt, video) for request, (_, video) in zip(requests, videos, strict=True)
        ]
        if not config.prompts:
            clips = [_real(clip, z, decoder) for clip, z in zip(clips, real, strict=True)]
            rows = [row for pair in zip(rows, clips, strict=True) for row in pair]
        contact_sheet([video for _, video in rows], [caption for caption, _ in rows], sheet)


def _real(clip: Clip, latents_CTHW: Tensor, autoencoder: Autoencoder) -> tuple[str, Tensor]:
    """A held-out clip, captioned for a sheet; of a cached one what the autoencoder makes of its latents."""
    if clip.video is not None:
        return "the clip itself", clip.video
    return "the clip itself, from its cached latents", autoencoder.decode(latents_CTHW[None])[0].cpu()


def main(arguments: list[str]) -> None:
    """The verb `dit train`."""
    if "--plan" in arguments:
        from dit.runs.plan import plan_run

        return plan_run(arguments)
    if "--replay" in arguments:
        from dit.replay import replay_run

        return replay_run(arguments, train)
    train(parse_run(TransformerRun, arguments, prog="dit train"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("train")
