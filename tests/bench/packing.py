"""How evenly steps of images and clips load 8 processes, and how much of them is padding, by three ways.

python -m tests.bench.packing [STEPS]

The ways: this project's, by cost (`vae/data/plan.py`); token packing, where each process fills packs of one
size from the next 64 samples, the largest that fits first; and fixed buckets, as Open-Sora draws them, where
each process has samples of one bucket, as many as fit, clips cut to the bucket's frames. Of each mix: the
cost of the costliest process over the mean one, less 1, on the average and at worst, in whole steps and where
processes wait for each other after every pack; the share of padding; and of frames that are cut off.
Then the cost as measured: times of a small transformer's passes here, and what fits them.
"""

import itertools
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy
import torch

from configs.model import TransformerConfig
from dit.bench.flops import sample_cost
from dit.bench.measure import make_clock, medians_in_turn
from dit.bench.passes import forward, make_pack, random_model
from vae.compression import Compression
from vae.data.plan import Cost, Plan, deal, padding
from vae.data.sizes import FileSizes, tokens_of
from vae.training.seeds import generator

RANKS, FILES = 8, 20_000
COST = sample_cost(TransformerConfig())  # Wan 2.1 1.3B: attention takes half at 11,632 tokens
LOOK_AHEAD = 64
BUCKETS = (1, 17, 33, 49, 65, 81, 97, 113, 129)  # frames
SIDES = {256: [(256, 256), (192, 336), (336, 192), (224, 288)], 480: [(480, 832), (832, 480), (640, 640)]}


@dataclass(frozen=True)
class Mix:
    """Files of a manifest by their frames and sides, and the settings that it is trained with."""

    name: str
    images: float  # share of the files
    frames: tuple[int, int]  # of clips, evenly from the least to the most
    side: int
    step_tokens: int  # of a process
    pack_tokens: int
    round_tokens: int


MIXES = [
    Mix("images and clips, 256", 0.6, (17, 129), 256, 131_072, 65_536, 128),
    Mix("many images, few clips, 256", 0.95, (65, 129), 256, 131_072, 65_536, 128),
    Mix("clips of all lengths, 256", 0.0, (17, 129), 256, 131_072, 65_536, 128),
    Mix("images and clips, 480p", 0.7, (17, 81), 480, 524_288, 131_072, 256),
]


@dataclass(frozen=True)
class Load:
    """What a step costs by process and pack, its tokens by process, and how many are padding or cut off."""

    costs: numpy.ndarray
    tokens: int
    padding: int
    cut: int = 0

    @property
    def spread(self) -> float:
        """The costliest process over the mean, less 1."""
        by_rank = self.costs.sum(1)
        return by_rank.max() / by_rank.mean() - 1

    @property
    def waited(self) -> float:
        """The same where all processes wait for the costliest pack."""
        return self.costs.max(0).sum() / self.costs.sum(1).mean() - 1


def files_of(mix: Mix) -> list[tuple[int, int, int]]:
    """Frames, height and width of a mix' files."""
    random, sides = generator("packing", mix.name), SIDES[mix.side]
    frames = 1 + 4 * random.integers(mix.frames[0] // 4, mix.frames[1] // 4 + 1, FILES)
    frames = numpy.where(random.random(FILES) < mix.images, 1, frames)
    which = random.integers(len(sides), size=FILES)
    return [(int(count), *sides[k]) for count, k in zip(frames, which, strict=True)]


def sizes_of(mix: Mix) -> FileSizes:
    """The planned tokens of a mix."""
    return FileSizes(numpy.array([tokens_of(Compression(), *file) for file in files_of(mix)]), 0)


def by_cost(mix: Mix, steps: int) -> Iterator[Load]:
    """Steps as they are planned here."""
    sizes = sizes_of(mix)
    plan = Plan(sizes, 1, RANKS * mix.step_tokens, mix.pack_tokens, COST)
    for step in range(1, steps + 1):
        draws = plan.draws(step)
        counts = dict(zip(draws, sizes.tokens(draws), strict=True))
        packs = [[[counts[k] for k in pack] for pack in share] for share in plan.packs(step, RANKS)]
        more = sum(padding(sum(pack), mix.round_tokens) for share in packs for pack in share)
        yield Load(_costs(packs), sum(counts.values()), more)


def by_tokens(mix: Mix, steps: int) -> Iterator[Load]:
    """Packs of one size, each filled from the samples at hand: the first one, then the largest that fits."""
    packs, many = _filled(sizes_of(mix), mix.pack_tokens), max(1, mix.step_tokens // mix.pack_tokens)
    for _ in range(steps):
        dealt = [[next(packs) for _ in range(many)] for _ in range(RANKS)]
        total = sum(sum(pack) for share in dealt for pack in share)
        yield Load(_costs(dealt), total, RANKS * many * mix.pack_tokens - total)


def _filled(sizes: FileSizes, capacity: int) -> Iterator[list[int]]:
    """Packs of at most so many tokens."""
    stream = (int(n) for k in itertools.count() for n in sizes.tokens(range(k * FILES, (k + 1) * FILES)))
    waiting = list(itertools.islice(stream, LOOK_AHEAD))
    while True:
        pack, room, fits = [], capacity, waiting[0]
        while fits:
            waiting.remove(fits)
            waiting.append(next(stream))
            pack.append(fits)
            room -= fits
            fits = max((n for n in waiting if n <= room), default=0)
        yield pack


def by_buckets(mix: Mix, steps: int) -> Iterator[Load]:
    """Batches of samples of one bucket, as many as fit into a pack, in a random order over processes."""
    whole, buckets = defaultdict(list), generator("packing", "buckets", mix.name)
    for frames, height, width in files_of(mix):
        cut = max(count for count in BUCKETS if count <= frames)
        whole[cut, height, width].append(tokens_of(Compression(), frames, height, width))
    batches = []
    for bucket, tokens in whole.items():
        each = tokens_of(Compression(), *bucket)
        count = max(1, mix.pack_tokens // each)
        batches += [
            ([each] * count, sum(tokens[k : k + count])) for k in range(0, len(tokens) - count, count)
        ]
    many = max(1, mix.step_tokens // mix.pack_tokens)
    for _ in range(steps):
        drawn = [batches[k] for k in buckets.integers(len(batches), size=RANKS * many)]
        packs = [[batch for batch, _ in drawn[rank::RANKS]] for rank in range(RANKS)]
        total = sum(sum(batch) for batch, _ in drawn)
        yield Load(_costs(packs), total, 0, sum(tokens for _, tokens in drawn) - total)


def _costs(packs: list[list[list[int]]]) -> numpy.ndarray:
    """The cost of every process' packs."""
    return numpy.array([[COST.of(numpy.array(pack)).sum() for pack in share] for share in packs])


WAYS: dict[str, Callable[[Mix, int], Iterator[Load]]] = {
    "by cost": by_cost,
    "token packing": by_tokens,
    "fixed buckets": by_buckets,
}


def _amounts(load: Load) -> tuple[int, int, int]:
    """Tokens, those of padding, and those that were cut off."""
    return load.tokens, load.padding, load.cut


def print_ways(steps: int) -> None:
    """A row for each mix and way."""
    print(f"{RANKS} processes, {steps} steps           cost spread: mean  worst   a pack   padding  cut off")
    for mix in MIXES:
        print(f"{mix.name}: {mix.step_tokens:,} tokens a process, packs of at most {mix.pack_tokens:,}")
        for name, way in WAYS.items():
            loads = list(way(mix, steps))
            spreads = [load.spread for load in loads]
            tokens, more, cut = (
                sum(getattr(load, key) for load in loads) for key in ("tokens", "padding", "cut")
            )
            waited = numpy.mean([load.waited for load in loads])
            print(
                f"  {name:30} {numpy.mean(spreads):13.2%} {max(spreads):6.2%} {waited:8.2%} "
                f"{more / (tokens + more):9.2%} {cut / (tokens + cut):8.2%}",
                flush=True,
            )


def print_budgets(steps: int) -> None:
    """How even steps are by how much a process has of them, in samples of the largest size."""
    mix = MIXES[0]
    largest = sizes_of(mix).largest
    print(f"\n{mix.name}, largest sample {largest:,} tokens: spread by a process' tokens of a step")
    for times in (1, 2, 4, 8, 16, 32):
        loads = list(by_cost(replace(mix, step_tokens=times * largest, pack_tokens=0), steps))
        spreads = [load.spread for load in loads]
        print(f"  {times:3} largest samples: mean {numpy.mean(spreads):7.2%}, worst {max(spreads):7.2%}")


def fit(seconds: dict[int, float]) -> tuple[Cost, float]:
    """The cost a n^2 + b n, and the seconds of a call whatever is in it, nearest to measured seconds.

    By least squares of the relative error. A call costs the same however samples are dealt.
    """
    rows = numpy.array([[n * n / s, n / s, 1 / s] for n, s in seconds.items()])
    pairs, tokens, call = numpy.linalg.lstsq(rows, numpy.ones(len(rows)), rcond=None)[0].tolist()
    return Cost(pairs, tokens), call


def print_fit(repeats: int) -> None:
    """Measured seconds of training passes, the cost that fits them, and where attention takes half."""
    torch.set_num_threads(1)
    config = TransformerConfig(width=128, depth=2, heads=2, mlp_width=512, text_width=64)
    device, (clock, name) = torch.device("cpu"), make_clock(torch.device("cpu"), 1)
    model = random_model(config, device)

    def passes(tokens: int) -> Callable[[], None]:
        pack = make_pack(config, [(1, tokens // 32, 32)], 16, device)
        return lambda: forward(model, pack, torch.float32).square().mean().backward()

    counts = (256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
    median = medians_in_turn({str(n): passes(n) for n in counts}, repeats, clock)
    seconds = {n: median[str(n)] for n in counts}
    (cost, call), counted = fit(seconds), sample_cost(config)
    apart = max(abs((call + cost.of(numpy.array(n))) / s - 1) for n, s in seconds.items())
    print(f"\nwidth {config.width}, depth {config.depth}, forward and backward, {name}:")
    print("  " + ", ".join(f"{n} tokens {s * 1e3:.0f} ms" for n, s in seconds.items()))
    print(
        f"  fit: {cost.pairs:.3g} n^2 + {cost.tokens:.3g} n + {call:.3g} seconds, off by {apart:.1%} at most"
    )
    print(
        f"  attention takes half at {cost.tokens / cost.pairs:,.0f} tokens (--train.crossover-tokens); "
        f"by FLOPs {counted.tokens / counted.pairs:,.0f}"
    )


def print_dealing() -> None:
    """How long it takes to deal a step."""
    sizes = sizes_of(MIXES[1])
    for count in (200, 2000):
        tokens_N, start = sizes.tokens(range(count)), time.process_time()
        for _ in range(10):
            deal(tokens_N, RANKS, 1 << 16, COST)
        print(f"dealing {count} samples: {(time.process_time() - start) * 100:.1f} ms of CPU")


def main() -> None:
    """Prints everything."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    print_ways(steps)
    print_budgets(steps)
    print()
    print_dealing()
    print_fit(repeats=7)


if __name__ == "__main__":
    main()
