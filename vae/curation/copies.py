"""Which clips are copies of which, from their signatures: candidates by bits that agree, then along time."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy
from numpy import ndarray

from vae.curation.hashes import signature_samples

BANDS = 4  # of 16 bits: two hashes that differ in up to seven bits agree in one but for one bit
NEAR = 14  # bits of 64 by which frames that show the same differ at most; others differ by 32 +- 6
HUE = 20.0  # bytes, halved, by which their coarse chroma differs at most, in the mean
SHARE = 0.6  # of the shorter clip's samples that follow each other in the other's order
BUCKET = 64  # samples with one band that are all compared; of more, each with so many that follow


@dataclass(frozen=True)
class Copy:
    """Two clips that show the same, by their places, and the share of the shorter's samples that do."""

    one: int
    other: int
    share: float


def find_copies(signatures: list[bytes], groups: list[int]) -> list[Copy]:
    """Every pair of clips that are copies of each other; those of one group, as a file, are not compared.

    A copy may be of another codec, size or speed, a part of the other in time, or of the middle of its
    picture.
    """
    samples = [signature_samples(each) for each in signatures]
    groups_N, found = numpy.array(groups), []
    for one, other in candidates(samples):
        if groups_N[one] != groups_N[other]:
            share = shared(samples[one], samples[other])
            if share >= SHARE:
                found.append(Copy(one, other, share))
    return found


def candidates(samples: list[ndarray]) -> Iterator[tuple[int, int]]:
    """Pairs of clips, rising, of which a frame of one and a view of a frame of the other are near each
    other."""
    rows_S = numpy.repeat(numpy.arange(len(samples)), [len(each) for each in samples])
    if not len(rows_S):
        return
    hashes_SV = numpy.concatenate([each["hashes"] for each in samples])
    pairs: set[int] = set()
    size = len(samples)
    for band in range(BANDS):
        bands_SV = (hashes_SV >> numpy.uint64(16 * band)).astype(numpy.uint16)
        known = numpy.flatnonzero(hashes_SV[:, 0])
        order = known[numpy.argsort(bands_SV[known, 0], kind="stable")]
        values, starts, counts = numpy.unique(bands_SV[order, 0], return_index=True, return_counts=True)
        for view in range(hashes_SV.shape[1]):
            asked = numpy.flatnonzero(hashes_SV[:, view])
            for flip in (0, *(1 << bit for bit in range(16))):
                wanted = bands_SV[asked, view] ^ numpy.uint16(flip)
                place = (
                    numpy.minimum(numpy.searchsorted(values, wanted), len(values) - 1)
                    if len(values)
                    else None
                )
                if place is None:
                    break
                hit = values[place] == wanted
                pairs.update(
                    _joined(
                        asked[hit],
                        starts[place[hit]],
                        counts[place[hit]],
                        order,
                        hashes_SV,
                        view,
                        rows_S,
                        size,
                    )
                )
    yield from ((code // size, code % size) for code in sorted(pairs))


def _joined(asked, starts, counts, order, hashes_SV, view, rows_S, clips: int) -> list[int]:
    """Codes of the pairs of clips that samples which were asked for have with those of their buckets."""
    found = []
    for offset in range(min(BUCKET, int(counts.max(initial=0)))):
        some = counts > offset
        # Of a large bucket each takes other members, so that all are linked.
        turn = numpy.where(counts > BUCKET, asked, 0)[some]
        other = order[starts[some] + (turn + offset) % counts[some]]
        one = asked[some]
        apart = numpy.bitwise_count(hashes_SV[one, view] ^ hashes_SV[other, 0])
        near = (apart <= NEAR) & (rows_S[one] != rows_S[other])
        low = numpy.minimum(rows_S[one[near]], rows_S[other[near]]).astype(numpy.int64)
        high = numpy.maximum(rows_S[one[near]], rows_S[other[near]]).astype(numpy.int64)
        found += numpy.unique(low * clips + high).tolist()
    return found


def shared(one: ndarray, other: ndarray) -> float:
    """The share of the shorter clip's samples that show what samples of the other do, in the same order."""
    if len(one) > len(other):
        one, other = other, one
    near_ST = _near(one, other)
    most_T = numpy.zeros(len(other) + 1)
    for near_T in near_ST:  # the most samples matched so far, up to each of the other's
        most_T[1:] = numpy.maximum.accumulate(most_T[1:] + near_T)
    shown = (one["hashes"][:, 0] != 0).sum()
    return float(most_T[-1] / shown) if 2 * shown > len(one) else 0.0


def _near(one: ndarray, other: ndarray) -> ndarray:
    """Which samples of one clip show what those of another do: a view of one is the whole of the other."""
    ones, others = one["hashes"], other["hashes"]
    apart = numpy.minimum(
        numpy.bitwise_count(ones[:, None, :] ^ others[None, :, :1]).min(-1),
        numpy.bitwise_count(ones[:, None, :1] ^ others[None, :, :]).min(-1),
    )
    hue = numpy.abs(one["chroma"][:, None].astype(numpy.float32) - other["chroma"][None]).mean((2, 3, 4))
    shown = (ones[:, None, 0] != 0) & (others[None, :, 0] != 0)
    return (apart <= NEAR) & (hue <= HUE) & shown
