"""Perceptual hashes of frames, of the whole picture and of parts of it, and colours, by which copies are
found."""

from functools import lru_cache

import numpy
from numpy import ndarray

SIDE = 32  # pixels of the picture that is hashed
LOW = 8  # frequencies along each side that the hash keeps: 64 bits
VIEWS = (
    (1.0, 1.0),
    (0.9, 0.9),
    (0.8, 0.8),
    (0.7, 0.7),
)  # parts about the centre that are hashed: height, width
FLAT = 3.0  # bytes of standard deviation of a picture that shows nothing: its hash is 0, which is none
COLOURS = 3  # places along each side of which chroma is kept
SAMPLE = numpy.dtype([("hashes", "<u8", (len(VIEWS) + 1,)), ("chroma", "i1", (COLOURS, COLOURS, 2))])


def sample_hash(small_HWC: ndarray) -> bytes:
    """Of a frame of bytes the hashes of its views, the last of its central square, and its coarse chroma."""
    from PIL import Image

    image = Image.fromarray(small_HWC)
    luma, (width, height) = image.convert("L"), image.size
    square = min(width, height)
    sizes = [(height * down, width * across) for down, across in VIEWS] + [(square, square)]
    views = []
    for high, wide in sizes:
        left, top = (width - wide) / 2, (height - high) / 2
        box = left, top, left + wide, top + high
        views.append(numpy.asarray(luma.resize((SIDE, SIDE), Image.Resampling.BOX, box), numpy.float32))
    coarse = numpy.asarray(image.resize((COLOURS, COLOURS), Image.Resampling.BOX), numpy.float32)
    sample = numpy.zeros((), SAMPLE)
    sample["hashes"] = _hash(numpy.stack(views))
    chroma = coarse[..., [2, 0]] - coarse.mean(-1, keepdims=True)  # blue and red beside grey
    sample["chroma"] = numpy.clip(chroma / 2, -127, 127).round()
    return sample.tobytes()


def signature_samples(signature: bytes) -> ndarray:
    """The samples of a signature, in their order."""
    return numpy.frombuffer(signature, SAMPLE)


def _hash(pictures_VHW: ndarray) -> ndarray:
    """64 bits of each picture: which of its low frequencies lie above their median (Zauner 2010's pHash)."""
    basis = _cosines()
    low_VF = (basis @ pictures_VHW @ basis.T).reshape(len(pictures_VHW), -1)
    bits = low_VF > numpy.median(low_VF[:, 1:], axis=1, keepdims=True)
    flat_V = pictures_VHW.std((1, 2)) < FLAT
    return numpy.where(flat_V, 0, numpy.packbits(bits, axis=1).view("<u8")[:, 0]).astype(numpy.uint64)


@lru_cache(maxsize=1)
def _cosines() -> ndarray:
    """The lowest cosines along a side, a row each (DCT-II)."""
    frequency, place = numpy.mgrid[:LOW, :SIDE]
    return numpy.cos(numpy.pi * frequency * (place + 0.5) / SIDE).astype(numpy.float32)
