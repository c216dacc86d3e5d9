"""All randomness: what is drawn is a pure function of its names, such as (seed, "noise", draw)."""

import functools
import hashlib
import math

import numpy
import torch
from torch import Tensor


def generator(*key: int | str) -> numpy.random.Generator:
    """A generator of the key alone, by 128 bits of its hash: PyTorch's keeps 32 bits of a seed on a CPU.

    Python's own hash has another salt in every process.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return numpy.random.Generator(numpy.random.SFC64(int.from_bytes(digest, "little")))


def normal(shape: tuple[int, ...], *key: int | str) -> Tensor:
    """Standard normal numbers, fp32 on the CPU, that are a function of the key.

    By pairs (Box & Muller 1958) from 32 bits each: numpy's own takes twice as long as PyTorch's, this less.
    """
    count = math.prod(shape)
    words = generator(*key).bit_generator.random_raw((count + 1) // 2).view(numpy.uint32)
    radius, angle = (half.astype(numpy.float32) for half in numpy.split(words, 2))
    radius += numpy.float32(0.5)  # the logarithm of 0 is none
    radius *= numpy.float32(2**-32)
    numpy.log(radius, out=radius)
    radius *= numpy.float32(-2)
    numpy.sqrt(radius, out=radius)
    angle *= numpy.float32(2 * math.pi * 2**-32)
    numbers = numpy.empty(2 * len(radius), numpy.float32)
    cosine, sine = numpy.split(numbers, 2)
    numpy.multiply(numpy.cos(angle, out=cosine), radius, out=cosine)
    numpy.multiply(numpy.sin(angle, out=sine), radius, out=sine)
    return torch.from_numpy(numbers[:count].reshape(shape))


def uniform(*key: int | str) -> float:
    """One number in [0, 1) that is a function of the key: 53 bits of its hash, without a generator."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return (int.from_bytes(digest, "little") >> 75) * 2**-53


def permutation(count: int, *key: int | str) -> numpy.ndarray:
    """A permutation of `range(count)` that is a function of the key."""
    return generator(*key).permutation(count)


@functools.lru_cache(maxsize=4)
def shuffled(count: int, *key: int | str) -> numpy.ndarray:
    """The same as `permutation`, kept for as long as it is used."""
    order = permutation(count, *key)
    order.flags.writeable = False
    return order
