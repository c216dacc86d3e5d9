"""How many tokens the sample of each draw is planned to have, before anything is read."""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import numpy

from vae.compression import PATCH, Compression
from vae.training.seeds import permutation


class Sizes(Protocol):
    """The planned tokens of draws 0, 1, 2, …, without end."""

    @property
    def largest(self) -> int:
        """The most tokens that a draw has."""

    @property
    def mean(self) -> float:
        """The tokens of a draw on the average."""

    def tokens(self, draws: range) -> numpy.ndarray:
        """The tokens of each of some draws in a row."""

    def before(self, draw: int) -> int:
        """The tokens of all draws before this one."""

    def draws_within(self, tokens: int) -> int:
        """How many draws, from the first one, have no more tokens than that together."""


@dataclass(frozen=True)
class EqualSizes:
    """Every draw has as many tokens."""

    each: int

    @property
    def largest(self) -> int:
        """The most tokens that a draw has."""
        return self.each

    @property
    def mean(self) -> float:
        """The tokens of a draw on the average."""
        return self.each

    def tokens(self, draws: range) -> numpy.ndarray:
        """The tokens of each of some draws in a row."""
        return numpy.full(len(draws), self.each)

    def before(self, draw: int) -> int:
        """The tokens of all draws before this one."""
        return draw * self.each

    def draws_within(self, tokens: int) -> int:
        """How many draws, from the first one, have no more tokens than that together."""
        return tokens // self.each


@dataclass(frozen=True, eq=False)
class FileSizes:
    """Files in an order of its own for every epoch of the seed; `files_N` has the tokens of each."""

    files_N: numpy.ndarray
    seed: int

    @cached_property
    def total(self) -> int:
        """The tokens of an epoch."""
        return int(self.files_N.sum())

    @cached_property
    def largest(self) -> int:
        """The most tokens that a draw has."""
        return int(self.files_N.max())

    @property
    def mean(self) -> float:
        """The tokens of a draw on the average."""
        return self.total / len(self.files_N)

    def tokens(self, draws: range) -> numpy.ndarray:
        """The tokens of each of some draws in a row."""
        count = len(self.files_N)
        epochs = range(draws.start // count, -(-draws.stop // count))
        parts = [numpy.diff(_ends(self, epoch), prepend=0) for epoch in epochs]
        first = draws.start % count
        return numpy.concatenate([self.files_N[:0], *parts])[first : first + len(draws)]

    def before(self, draw: int) -> int:
        """The tokens of all draws before this one."""
        epoch, position = divmod(draw, len(self.files_N))
        return epoch * self.total + (int(_ends(self, epoch)[position - 1]) if position else 0)

    def draws_within(self, tokens: int) -> int:
        """How many draws, from the first one, have no more tokens than that together."""
        epoch, rest = divmod(tokens, self.total)
        return epoch * len(self.files_N) + int(numpy.searchsorted(_ends(self, epoch), rest, side="right"))


@lru_cache(maxsize=16)
def _ends(sizes: FileSizes, epoch: int) -> numpy.ndarray:
    """Where the sample of each draw of an epoch ends, were they laid end to end."""
    return sizes.files_N[permutation(len(sizes.files_N), sizes.seed, "order", epoch)].cumsum()


def tokens_of(compression: Compression, frames: int, height: int, width: int) -> int:
    """The transformer's tokens of a clip of this size."""
    return math.prod(compression.latent_size(frames, height, width)) // math.prod(PATCH)
