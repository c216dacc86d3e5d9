"""What a process works on in a step of a run, from its settings and its data's sizes alone."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.data import Dataset

from configs.data import DRAWN, DataConfig
from configs.train import TransformerRun
from dit.bench.flops import sample_cost, training_flops
from dit.condition import draw_condition
from dit.runs.networks import UNKNOWN_PROMPT, plan_autoencoder, unknown_prompt
from dit.runs.trace import Sample
from dit.steps import tokens_in
from vae.cache.clips import CachedFiles, find_caches
from vae.compression import PATCH, Compression
from vae.data.clips import Clip, DrawnWorld, HeldOutFiles, open_data
from vae.data.mixture import Mixture, open_mixture, source_weights
from vae.data.plan import Plan
from vae.data.rows import RowList
from vae.data.sizes import EqualSizes, Sizes, tokens_of
from vae.interface import VideoAutoencoder

HELD_OUT = 32
LOOKED_AT = 8  # steps whose packs are dealt: the largest is traced, and their mean is a step's work


@dataclass(frozen=True)
class Source:
    """What a run is planned from: its data, None where it is not here, and whether latents are of a cache."""

    data: Dataset | None
    sizes: Sizes
    cached: bool
    compression: Compression
    make_autoencoder: Callable[[], VideoAutoencoder]
    notes: list[str]


@dataclass(frozen=True)
class Load:
    """A process's share of a step: its largest pack, how many there are, and every sample of some steps."""

    largest: list[Sample]
    packs: int
    steps: list[list[Sample]]


def open_source(config: TransformerRun) -> Source:
    """What a run is planned from; what is not here is planned for as its largest clips, and that is said."""
    make_autoencoder, *notes = plan_autoencoder(config.autoencoder, config.model.latent_channels)
    with FakeTensorMode():
        compression = make_autoencoder().compression
    data, weights = config.data, source_weights(config.data)
    missing = [source for source in weights if source not in DRAWN and not Path(source).exists()]
    if not missing:
        caches = find_caches(data)
        opened, _ = _open(
            data, config.train.seed, HELD_OUT, compression, caches, config.posterior == "sample"
        )
        cached, sizes = len(caches) == len(weights), opened.sizes(compression)
        return Source(opened, sizes, cached, compression, make_autoencoder, [n for n in notes if n])
    side = compression.token_side * max(1, round(data.size / compression.token_side))
    sizes, cached = EqualSizes(tokens_of(compression, data.frames, side, side)), data.clips_per_file > 0
    kind = "a cache, with embeddings where the text encoder is frozen" if cached else "videos"
    tokens = config.text.max_tokens if config.text.padded else min(UNKNOWN_PROMPT, config.text.max_tokens)
    notes.append(
        f"{missing[0]} is not here: taken to be {kind}, of {data.frames} frames of {side} x {side} and "
        f"prompts of {tokens} tokens"
    )
    return Source(None, sizes, cached, compression, make_autoencoder, [n for n in notes if n])


def _open(data: DataConfig, seed: int, held: int, compression: Compression, caches: dict, sampled: bool):
    """Training and held-out data; of a cache whatever autoencoder made it, as none is loaded."""
    rest = {"compression": compression, "caches": caches, "sampled": sampled}
    if data.sources:
        return open_mixture(data, seed, held, partial(_open, **rest))
    if cache := caches.get(data.source):
        files = CachedFiles(cache, data, seed, RowList(cache.files), compression, sampled)
        return files, HeldOutFiles(files.entries, files)
    return open_data(data, seed, held, compression)


def load_of(source: Source, config: TransformerRun, ranks: int) -> Load:
    """The first data rank's share of the first steps; raises ValueError where a pack cannot hold a clip."""
    loop, text = config.train, config.text.max_tokens if config.text.padded else 0
    cost = sample_cost(config.model, text)
    plan = Plan(source.sizes, loop.batch, loop.tokens, loop.pack_tokens, cost)
    count, largest, most, steps = 1, [], -1, []
    for step in range(1, LOOKED_AT + 1):
        draws, packs = plan.draws(step), plan.packs(step, ranks)[0]
        tokens = dict(zip(draws, source.sizes.tokens(draws).tolist(), strict=True))
        count = max(count, len(packs))
        for pack in packs:
            if (held := sum(tokens[draw] for draw in pack)) > most:
                most, largest = held, [_sample(source, config, draw, tokens[draw]) for draw in pack]
        steps.append([_sample(source, config, draw, tokens[draw]) for pack in packs for draw in pack])
    return Load(largest, count, steps)


def _sample(source: Source, config: TransformerRun, draw: int, tokens: int) -> Sample:
    """A sample of so many tokens, in as many frames as the settings say, or in one where those do not fit."""
    compression, (_, height, width) = source.compression, PATCH
    frames = 1 + (config.data.frames - 1) // compression.temporal
    frames = frames if tokens % frames == 0 else 1
    inside = tokens // frames
    rows = next(n for n in range(int(inside**0.5), 0, -1) if inside % n == 0)
    latents = frames, height * rows, width * (inside // rows)
    video = 1 + (frames - 1) * compression.temporal, *(compression.spatial * side for side in latents[1:])
    prompt = _prompt(source.data, draw, config)
    shape = (config.model.latent_channels, *latents)
    condition = draw_condition(Clip(None, prompt, "", draw=draw), shape, config.flow, config.train.seed)
    return Sample(shape, video, condition.prompt, draw)


def _prompt(data: Dataset | None, draw: int, config: TransformerRun) -> str:
    """A prompt such as a draw has: of the drawn world its own, of files one of a file's."""
    if isinstance(data, Mixture):
        source, draw = data.shares.place(draw)
        return _prompt(data.parts[source], draw, config)
    if isinstance(data, DrawnWorld):
        return data.caption(draw, draw)
    if data is None:
        return unknown_prompt(config.text)
    captions = data.entries[draw % len(data.entries)].captions or ("",)
    return captions[draw % len(captions)]


def model_flops(config: TransformerRun, samples: list[Sample], lengths: Callable) -> float:
    """FLOPs of a training step with samples, by the usual count; `lengths` gives prompts' tokens."""
    if not samples:
        return 0.0
    clips = [Clip(None, s.prompt, "", draw=s.draw) for s in samples]
    given = [
        len(draw_condition(clip, s.latents, config.flow, config.train.seed).givens)  # times beside its own
        for s, clip in zip(samples, clips, strict=True)
    ]
    tokens = [tokens_in(s.latents) for s in samples]
    return training_flops(
        config.model, tokens, lengths([s.prompt for s in samples]), len(samples) + sum(given)
    )
