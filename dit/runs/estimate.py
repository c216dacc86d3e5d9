"""What a run takes before it is run, by a trace of its step: memory, time, and the settings that fit."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from configs.ranges import Count, NonNegative, Share
from configs.train import TransformerRun
from dit.parallel import mesh_shape
from dit.runs.devices import PROCESSORS, USABLE, UTILISATION, Processor, this_cpu
from dit.runs.networks import plan_denoiser
from dit.runs.trace import Parts, Traced, Work, trace
from dit.runs.work import Source, load_of, model_flops, open_source
from dit.steps import tokens_in

LAUNCH = 6e-6  # seconds in which a GPU's host starts an operation, assumed
GENTLER = {
    "none": ("none", "selective", "blocks"),
    "selective": ("selective", "blocks"),
    "blocks": ("blocks",),
}
TILE = 128  # of matrix products
EVEN = 4  # largest clips that a process has in a step, where processes are within 1 % of each other


@dataclass(frozen=True)
class PlanSettings:
    """What a run is planned for: how many processors of which kind, what they cost, and for how long."""

    gpus: Count = 1
    """GPUs, a process each, as `torchrun` starts them."""
    gpu: Literal["h100", "h200", "b200", "a100", "l40s", "5090", "4090", "cpu"] = "h100"
    """Which GPU; `cpu` is this machine's, whose matrix products are measured first."""
    memory: NonNegative = 0.0
    """GiB of memory of each; 0 is what it has."""
    hours: NonNegative = 0.0
    """Hours that there are, to say how many steps fit; 0 is as many as the run takes."""
    price: NonNegative = 0.0
    """Price of an hour of one GPU, in any currency; 0 plans no cost."""
    utilisation: Share = 0.0
    """Share of the peak rate at which FLOPs are executed; 0 assumes 0.35 of a GPU's, 0.6 of a CPU's."""
    json: str = ""
    """File for all figures; empty writes none."""


@dataclass(frozen=True)
class Planned:
    """A run with settings as it is planned: of one process the trace, packs a step and their largest, and of
    all the FLOPs of a step by the usual count, as they are executed, and seconds."""

    config: TransformerRun
    traced: Traced
    packs: int
    pack_tokens: int
    step_tokens: float
    samples: float
    model_flops: float
    executed_flops: float
    seconds: float

    @property
    def peak(self) -> float:
        """Bytes at the peak of one process."""
        return self.traced.memory.peak


@dataclass(frozen=True)
class Plans:
    """A run as it is given, as it fits, which may be the same or none, and what there is to say."""

    name: str
    settings: PlanSettings
    processor: Processor
    limit: float
    given: Planned
    fits: Planned | None
    notes: list[str]


def plan(name: str, config: TransformerRun, settings: PlanSettings) -> Plans:
    """What a run takes as it is given, and settings with which it fits."""
    on_gpu, source = settings.gpu != "cpu", open_source(config)
    processor = PROCESSORS[settings.gpu] if on_gpu else this_cpu(config.train.precision)
    limit = (settings.memory or processor.memory) * 2**30 * (USABLE if on_gpu else 1)
    given = plan_one(source, config, settings, processor)
    fits = given if given.peak <= limit else find(source, config, settings, processor, limit)
    return Plans(
        name,
        settings,
        processor,
        limit,
        given,
        fits,
        source.notes + slow_sizes(given, source, settings.gpus // config.parallel.context),
    )


def plan_one(source: Source, config: TransformerRun, settings: PlanSettings, processor: Processor) -> Planned:
    """What a run takes with these very settings."""
    on_gpu, loop = settings.gpu != "cpu", config.train
    shape, ranks = mesh_shape(config.parallel, settings.gpus), settings.gpus // config.parallel.context
    load = load_of(source, config, ranks)
    every = [sample for samples in [load.largest, *load.steps] for sample in samples]
    denoiser, lengths = plan_denoiser(config, source.cached, {"", *(s.prompt for s in every)})

    def make(run: TransformerRun) -> Parts:
        autoencoder = source.make_autoencoder().eval().requires_grad_(False)
        return Parts(denoiser(run), autoencoder)

    packs = [load.largest] * min(2, load.packs)
    traced = trace(config, Work(packs, source.cached), make, shape, on_gpu)
    of_step = sum(model_flops(config, samples, lengths) for samples in load.steps) / len(load.steps)
    of_packs = sum(model_flops(config, samples, lengths) for samples in packs)
    # Of the packs that are traced to a step as it is on the average: by its FLOPs, and clips by their tokens.
    tokens, of_traced = (
        [sum(tokens_in(s.latents) for s in samples) for samples in some] for some in (load.steps, packs)
    )
    encoding = traced.encoding * sum(tokens) / len(load.steps) / sum(of_traced)
    training = (traced.flops - traced.encoding) * of_step / of_packs
    full = processor.tf32 if loop.tf32 else processor.fp32  # in which the autoencoder encodes
    rate = processor.bf16 if loop.precision == "bf16" else full
    used = settings.utilisation or UTILISATION["gpu" if on_gpu else "cpu"]
    seconds = (training / rate + encoding / full) / used
    if on_gpu:  # many small operations wait for the host; the optimizer and the average for the memory
        memory = traced.memory
        moved = 2 * (memory.weights + memory.optimizer + memory.average) + memory.weights
        seconds = (
            max(seconds, traced.operations * LAUNCH * load.packs / len(packs)) + moved / processor.bandwidth
        )
    return Planned(
        config=config,
        traced=traced,
        packs=load.packs,
        pack_tokens=sum(tokens_in(s.latents) for s in load.largest),
        step_tokens=ranks * sum(tokens) / len(load.steps),
        samples=ranks * sum(map(len, load.steps)) / len(load.steps),
        model_flops=of_step * ranks,
        executed_flops=(training + encoding) * settings.gpus,
        seconds=seconds,
    )


def find(
    source: Source, config: TransformerRun, settings: PlanSettings, processor: Processor, limit: float
) -> Planned | None:
    """The first settings of packs, sharding and activations that fit, or None where none does.

    Activations are computed again before weights are sharded, and packs divided after both.
    """
    for candidate in _candidates(config, settings.gpus):
        if found := _largest_packs(source, candidate, settings, processor, limit):
            return found
    return None


def _candidates(config: TransformerRun, gpus: int) -> Iterator[TransformerRun]:
    """A run with less and less memory: activations computed again, weights sharded, packs shared."""
    parallel = config.parallel
    shards = [parallel.shard] + ["full"] * (gpus > 1 and parallel.shard == "none")
    contexts = [n for n in (parallel.context, 2, 4, 8) if n >= parallel.context and gpus % n == 0]
    for context in dict.fromkeys(contexts):
        for shard in shards:
            for kept in GENTLER[config.checkpoint_activations]:
                changed = replace(parallel, shard=shard, context=context)
                yield replace(config, parallel=changed, checkpoint_activations=kept)


def _largest_packs(
    source: Source, config: TransformerRun, settings: PlanSettings, processor: Processor, limit: float
) -> Planned | None:
    """A run with the largest packs that fit, or None: memory is nearly affine in their tokens."""

    def with_packs(tokens: int) -> Planned:
        loop = replace(config.train, pack_tokens=tokens)
        return plan_one(source, replace(config, train=loop), settings, processor)

    least = with_packs(source.sizes.largest)
    if least.peak > limit:
        return None
    whole = plan_one(source, config, settings, processor)
    if whole.peak <= limit:
        return whole
    tokens, (low, high) = whole.pack_tokens, (least, whole)
    while tokens > least.pack_tokens:
        slope = (high.peak - low.peak) / max(1, high.pack_tokens - low.pack_tokens)
        tokens = min(int(low.pack_tokens + (limit - low.peak) / slope), int(0.97 * high.pack_tokens))
        tokens = _rounded(max(tokens, least.pack_tokens), source.sizes.largest)
        found = with_packs(tokens)
        if found.peak <= limit:
            return found
        high = found
    return least


def _rounded(tokens: int, sample: int) -> int:
    """A size of packs as one writes it, no larger: the largest sample, or few multiples of a power of two."""
    unit = 2 ** max(0, int(math.log2(tokens)) - 3)
    return max(tokens // unit * unit, sample)


def slow_sizes(planned: Planned, source: Source, ranks: int) -> list[str]:
    """What of a run's sizes runs slowly, or unevenly on so many data ranks."""
    model, loop = planned.config.model, planned.config.train
    head, notes = model.width // model.heads, []
    if head not in (64, 128):
        notes.append(f"slow: heads of {head} channels; kernels of attention are made for 64 and 128")
    if planned.config.fp8:
        notes.append("fp8: time is planned as in bf16, since nothing in fp8 is measured here")
    for name in ("width", "mlp_width"):
        if (value := getattr(model, name)) % TILE:
            notes.append(
                f"slow: model.{name} = {value} is no multiple of {TILE}, as tiles of matrix products are"
            )
    mixed = source.sizes.mean != source.sizes.largest
    if not loop.round_tokens and (mixed or loop.tokens or planned.pack_tokens % TILE):
        which = "any number of" if mixed or loop.tokens else f"{planned.pack_tokens:,}"
        notes.append(
            f"slow: packs of {which} tokens are ragged; --train.round-tokens {TILE} pads them to tiles"
        )
    share = planned.step_tokens / ranks
    if mixed and ranks > 1 and share < EVEN * source.sizes.largest:
        notes.append(
            f"uneven: a process has {share:,.0f} tokens in a step, less than {EVEN} of the largest clips: "
            f"processes wait for each other more than 1 % of the time"
        )
    if not mixed and not loop.tokens and loop.batch % ranks:
        notes.append(f"uneven: train.batch = {loop.batch} does not divide by {ranks} processes, which wait")
    return notes
