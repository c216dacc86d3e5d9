"""Mixtures: several sources of clips with weights; which one a draw is of is a function of (seed, draw)."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain

import numpy
from torch.utils.data import ConcatDataset, Dataset

from configs.data import DRAWN, SHAPES, DataConfig
from vae.compression import Compression
from vae.data.sizes import Sizes
from vae.training.seeds import generator, permutation

BLOCK = 10_000  # draws among which every source has exactly its share
HINT = "give sources with their weights, as in `--data.sources videos=0.7 images=0.3`"


def source_weights(config: DataConfig) -> dict[str, float]:
    """Every source of the data with its weight; raises ValueError for settings that form no mixture."""
    if not config.sources:
        return {config.source: 1.0}
    weights = {}
    for given in config.sources:
        name, _, weight = given.rpartition("=")
        try:
            value = float(weight)
        except ValueError:
            value = math.nan
        if not name or not 0 < value < math.inf:
            raise ValueError(f"data.sources = {given!r} has no weight above 0: {HINT}")
        if name in weights:
            raise ValueError(f"data.sources names {name} twice: {HINT}")
        weights[name] = value
    if len(weights) < 2:
        raise ValueError(f"data.sources has one source alone: give it as --data.source {next(iter(weights))}")
    if config.source != SHAPES:
        raise ValueError(f"data.sources and data.source = {config.source!r} are both given: leave one out")
    return weights


def open_mixture(
    config: DataConfig, seed: int, validation: int, open_one: Callable[[DataConfig, int, int], tuple]
) -> tuple["Mixture", "HeldOutMixture"]:
    """Training and held-out data of all sources, each opened by `open_one` with a seed of its own.

    Its arguments are those of `open_data`. Of each source at least one clip is held out. Raises ValueError
    for weights that cannot be, and what opening a source raises.
    """
    weights = source_weights(config)
    try:
        float(config.held_out or 0)
    except ValueError:
        raise ValueError(
            f"data.held_out = {config.held_out!r}: of several sources give a share, such as 0.05"
        ) from None
    shares = Shares(_slots(weights), seed)
    opened = []
    for number, (source, slots) in enumerate(zip(weights, shares.slots, strict=True)):
        its_seed = int(generator(seed, "source", number).integers(2**63))
        its_config = replace(config, source=source, sources=())
        if source in DRAWN:  # it has scenes of its own to hold out
            its_config = replace(its_config, held_out="", group="")
        opened.append(open_one(its_config, its_seed, _held_out_of(validation, slots)))
    data, held_out = zip(*opened, strict=True)
    return Mixture(shares, data), HeldOutMixture(shares, held_out, validation)


def _slots(weights: dict[str, float]) -> tuple[int, ...]:
    """How many draws of a block each source has: the nearest to its weight (largest remainders)."""
    exact = [BLOCK * weight / sum(weights.values()) for weight in weights.values()]
    slots = [int(share) for share in exact]
    by_remainder = sorted(range(len(slots)), key=lambda k: slots[k] - exact[k])
    for k in by_remainder[: BLOCK - sum(slots)]:
        slots[k] += 1
    for source, count in zip(weights, slots, strict=True):
        if not count:
            raise ValueError(f"data.sources: {source} has less than one draw in {BLOCK}: give it more weight")
    return tuple(slots)


def _held_out_of(count: int, slots: int) -> int:
    """How many of `count` held-out clips a source has by its share."""
    return max(1, round(count * slots / BLOCK))


@dataclass(frozen=True)
class Shares:
    """Of which source every draw is: of each block `slots` draws, in an order of the seed and the block."""

    slots: tuple[int, ...]
    seed: int

    def place(self, draw: int) -> tuple[int, int]:
        """The source of a draw, by its number, and which of its own draws it is."""
        block, within = divmod(draw, BLOCK)
        source_N, rank_N = _block(self, block)
        source = int(source_N[within])
        return source, block * self.slots[source] + int(rank_N[within])


@lru_cache(maxsize=16)
def _block(shares: Shares, block: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The source of each draw of a block, and how many draws of the same source are before it there."""
    slots = numpy.repeat(numpy.arange(len(shares.slots)), shares.slots)
    source_N = slots[permutation(BLOCK, shares.seed, "mixture", block)]
    rank_N = numpy.empty(BLOCK, int)
    for source, count in enumerate(shares.slots):
        rank_N[source_N == source] = numpy.arange(count)
    return source_N, rank_N


class Mixture(Dataset):
    """Clips of several data sets; each keeps its own epochs, order and captions."""

    def __init__(self, shares: Shares, parts: tuple[Dataset, ...]):
        self.shares, self.parts = shares, parts

    def __len__(self) -> int:
        return 1 << 31  # a mixture has no epoch

    def __getitem__(self, draw: int):
        source, place = self.shares.place(draw)
        return replace(self.parts[source][place], draw=draw)

    @property
    def entries(self) -> Sequence:
        """The files of all parts that have any."""
        files = [part.entries for part in self.parts if hasattr(part, "entries")]
        return ConcatDataset(files) if files else ()

    def captions(self) -> Iterator[Sequence[str]]:
        """The captions of every file."""
        return chain.from_iterable(part.captions() for part in self.parts if hasattr(part, "captions"))

    @property
    def identity(self) -> list:
        """What a run on it depends on: shares, and what each part is."""
        return [*zip(self.shares.slots, (part.identity for part in self.parts), strict=True)]

    def sizes(self, compression: Compression) -> "MixedSizes":
        """The planned tokens of every draw."""
        return MixedSizes(self.shares, tuple(part.sizes(compression) for part in self.parts))


class HeldOutMixture(Dataset):
    """Held-out clips of several data sets, none twice: about `count` by their shares, of each at least one.

    They stand evenly among each other, so that the first few have those of every large source.
    """

    def __init__(self, shares: Shares, parts: tuple[Dataset, ...], count: int):
        self.parts = parts
        places = []
        for source, (slots, part) in enumerate(zip(shares.slots, parts, strict=True)):
            its = min(len(part), _held_out_of(count, slots))
            places += [((k + 0.5) / its, source, k) for k in range(its)]
        self.places = [(source, k) for _, source, k in sorted(places)]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, draw: int):
        source, place = self.places[draw]
        return replace(self.parts[source][place], draw=draw)

    entries, captions = Mixture.entries, Mixture.captions

    @property
    def identity(self) -> list:
        """What a run that is validated on it depends on."""
        return [part.identity for part in self.parts]


@dataclass(frozen=True, eq=False)
class MixedSizes:
    """The tokens of a mixture's draws, from those of its parts."""

    shares: Shares
    parts: tuple[Sizes, ...]

    @property
    def largest(self) -> int:
        """The most tokens that a draw has."""
        return max(part.largest for part in self.parts)

    @property
    def mean(self) -> float:
        """The tokens of a draw on the average."""
        return sum(part.mean * k for part, k in zip(self.parts, self.shares.slots, strict=True)) / BLOCK

    def tokens(self, draws: range) -> numpy.ndarray:
        """The tokens of each of some draws in a row."""
        blocks = range(draws.start // BLOCK, -(-draws.stop // BLOCK))
        parts = [_block_tokens(self, block) for block in blocks]
        first = draws.start % BLOCK
        return numpy.concatenate([numpy.empty(0, int), *parts])[first : first + len(draws)]

    def before(self, draw: int) -> int:
        """The tokens of all draws before this one."""
        block, within = divmod(draw, BLOCK)
        return self._before_block(block) + int(_block_tokens(self, block)[:within].sum())

    def draws_within(self, tokens: int) -> int:
        """How many draws, from the first one, have no more tokens than that together."""
        block = int(tokens / self.mean / BLOCK)  # epochs have random orders: this is off by one, if at all
        while self._before_block(block) > tokens:
            block -= 1
        while self._before_block(block + 1) <= tokens:
            block += 1
        ends = self._before_block(block) + _block_tokens(self, block).cumsum()
        return block * BLOCK + int(numpy.searchsorted(ends, tokens, side="right"))

    def _before_block(self, block: int) -> int:
        """The tokens of all draws before a block."""
        pairs = zip(self.parts, self.shares.slots, strict=True)
        return sum(part.before(block * slots) for part, slots in pairs)


@lru_cache(maxsize=16)
def _block_tokens(sizes: MixedSizes, block: int) -> numpy.ndarray:
    """The tokens of every draw of a block."""
    source_N, _ = _block(sizes.shares, block)
    tokens_N = numpy.empty(BLOCK, int)
    for source, (part, slots) in enumerate(zip(sizes.parts, sizes.shares.slots, strict=True)):
        tokens_N[source_N == source] = part.tokens(range(block * slots, (block + 1) * slots))
    return tokens_N
