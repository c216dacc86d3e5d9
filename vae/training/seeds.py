"""All randomness: a generator is a pure function of the names of what is drawn: (seed, step, sample)."""

import functools
import hashlib

import torch


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator seeded by the key alone, so that a draw does not depend on what was drawn before it."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def uniform(*key: int | str) -> float:
    """One number in [0, 1) that is a function of the key."""
    return torch.rand((), generator=generator(*key)).item()


@functools.lru_cache(maxsize=4)
def shuffled(count: int, *key: int | str) -> tuple[int, ...]:
    """A permutation of `range(count)` that is a function of the key."""
    return tuple(torch.randperm(count, generator=generator(*key)).tolist())
