"""Cheap signals of a clip, all in one pass over its frames and in constant memory."""

from dataclasses import dataclass, field

import numpy
from numpy import ndarray

from vae.curation.flow import block_flow, camera
from vae.curation.hashes import sample_hash

VERSION = 1  # of what the columns mean
SIDE = 48  # pixels that the shorter side of a frame is reduced towards, by a whole factor
CELL = 4  # pixels of a reduced frame, a side, over which noise is averaged
LUMA = (0.2126, 0.7152, 0.0722)  # BT.709, of the bytes as they are
PER_SECOND = {"flow": 4.0, "detail": 2.0}  # how often what costs more is looked at, at most
STILL = 4.0  # bytes that the mean of no cell changes by while a picture stands; codecs still refine it
BLACK = 24.0  # bytes that no cell of a black frame reaches
BAR = 24.0  # the same, of the lines of bars
FOCUS = 120  # pixels that the shorter side is reduced towards where sharpness is measured
GRID = 8  # pixels of a codec's blocks
COLUMNS = {  # column -> what it is, and its unit
    "luma": "mean luma, 0 to 1",
    "brightest": "luma of the brightest hundredth of cells, mean over frames, 0 to 1",
    "contrast": "standard deviation of luma in a frame, mean over frames, 0 to 1",
    "sharpness": "variance of the Laplacian over that of luma, at a fixed size, mean over frames",
    "blockiness": "steps of luma on the codec's grid over those beside it, mean over frames; 1 is none",
    "change": "mean difference of consecutive frames, 0 to 1",
    "range": "most that a cell's luma changes over the clip, its highest hundredth, 0 to 1",
    "flicker": "how far a frame's mean luma is from that of its neighbours, upper quartile, 0 to 1",
    "black": "share of the frames that are black",
    "frozen": "seconds of the longest stretch in which no frame differs from the one before",
    "motion": "mean length of the optical flow, shorter sides a second",
    "camera": "length of the part of it that fits shift and zoom of the picture, shorter sides a second",
    "object_motion": "mean length of the rest, shorter sides a second",
    "bars": "share of the picture that black bars take",
    "crop": "what lies inside of the bars: top, left, height and width in pixels",
    "signature": "perceptual hashes and colours, twice a second, by which copies are found",
    "signals": "version of these columns",
}


@dataclass
class Signals:
    """What a clip's frames have shown so far; `add` takes them part by part, `result` is its columns."""

    fps: float
    frames: int
    height: int
    width: int
    seen: int = 0
    last: ndarray | None = None  # the newest frame, reduced, 1 h w
    low: ndarray | None = None  # of each cell over all frames
    high: ndarray | None = None
    lines: ndarray | None = None  # the most of every row, then column, that was ever lit in a frame
    rows: list[ndarray] = field(default_factory=list)  # a frame: mean luma, brightest, contrast, change, most
    stood: tuple[ndarray | None, int, int] = None, 0, 0  # cells that stand, since which frame; the longest
    flows: list[tuple[float, float, float]] = field(default_factory=list)
    details: list[tuple[float, float]] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)

    def add(self, frames_THWC: ndarray) -> None:
        """Looks at the next frames, bytes of RGB."""
        small_THWC, luma_THW = reduced(frames_THWC)
        first, count = self.seen, len(luma_THW)
        before = luma_THW[:1] if self.last is None else self.last
        known_THW = numpy.concatenate([before, luma_THW])
        cells_Thw = cells(luma_THW)
        self.low = _merge(numpy.minimum, self.low, cells_Thw)
        self.high = _merge(numpy.maximum, self.high, cells_Thw)
        flat_TN = luma_THW.reshape(count, -1)
        steps_THW = numpy.abs(numpy.diff(known_THW, axis=0))
        top = numpy.partition(cells_Thw.reshape(count, -1), _hundredth(cells_Thw[0]), axis=1)
        self.rows.append(
            numpy.stack(
                [
                    flat_TN.mean(1),
                    top[:, _hundredth(cells_Thw[0])],
                    flat_TN.std(1),
                    steps_THW.mean((1, 2)),
                    cells_Thw.max((1, 2)),
                ],
                1,
            )
        )
        self._stand(cells_Thw)
        pairs = [k for k in range(count) if self._due("flow", first + k) and first + k]
        if pairs:
            flow_P2hw, textured_Phw = block_flow(known_THW[pairs], known_THW[[k + 1 for k in pairs]])
            scale = (self.fps or 1.0) / min(luma_THW.shape[1:])
            self.flows += [tuple(scale * part for part in parts) for parts in camera(flow_P2hw, textured_Phw)]
        for k in range(count):
            if self._due("detail", first + k):
                self._look_closely(frames_THWC[k], small_THWC[k])
        self.last, self.seen = luma_THW[-1:], first + count

    def _due(self, what: str, number: int) -> bool:
        """Whether a frame is one of those that are looked at for something: as many a second, evenly; a short
        clip has more."""
        seconds = self.frames / self.fps if self.fps else 1.0
        rate = max(PER_SECOND[what], 8 / max(seconds, 1e-6)) / (self.fps or 1.0)
        return number == 0 or int(number * rate) > int((number - 1) * rate)

    def _stand(self, cells_Thw: ndarray) -> None:
        """For how many frames the picture has stood."""
        anchor, since, longest = self.stood
        for number, cells_hw in enumerate(cells_Thw, self.seen):
            if anchor is None or numpy.abs(cells_hw - anchor).max() > STILL:
                anchor, since = cells_hw, number
            longest = max(longest, number - since)
        self.stood = anchor, since, longest

    def _look_closely(self, frame_HWC: ndarray, small_HWC: ndarray) -> None:
        """What needs every pixel of a frame, or is kept of it."""
        luma_HW = _exact_luma(frame_HWC)
        self.details.append((sharpness(luma_HW), blockiness(luma_HW)))
        self.hashes.append(sample_hash(small_HWC))
        lit = luma_HW > BAR
        rows, columns = lit.mean(1), lit.mean(0)
        self.lines = _merge(numpy.maximum, self.lines, numpy.concatenate([rows, columns])[None])

    def result(self) -> dict[str, float | bytes | list[int]]:
        """The columns; ValueError for no frame."""
        if not self.seen:
            raise ValueError("no frame was looked at")
        mean_T, top_T, contrast_T, change_T, most_T = numpy.concatenate(self.rows).T.astype(float)
        middle_T = (mean_T[:-2] + mean_T[2:]) / 2
        moved = numpy.array(self.flows or [(0.0, 0.0, 0.0)]).mean(0)
        sharp, block = numpy.array(self.details).mean(0)
        spread = numpy.sort((self.high - self.low).ravel())
        crop = self._crop()
        values = {
            "luma": mean_T.mean() / 255,
            "brightest": top_T.mean() / 255,
            "contrast": contrast_T.mean() / 255,
            "sharpness": sharp,
            "blockiness": block,
            "change": change_T[1:].mean() / 255 if self.seen > 1 else 0.0,
            "range": spread[_hundredth(spread)] / 255,
            "flicker": numpy.quantile(numpy.abs(mean_T[1:-1] - middle_T), 0.75) / 255
            if len(middle_T)
            else 0.0,
            "black": (most_T < BLACK).mean(),
            "frozen": self.stood[2] / self.fps if self.fps else 0.0,
            "motion": moved[0],
            "camera": moved[1],
            "object_motion": moved[2],
            "bars": 1 - crop[2] * crop[3] / (self.height * self.width),
        }
        values = {name: round(float(value), 6) for name, value in values.items()}
        return values | {"crop": crop, "signature": b"".join(self.hashes), "signals": VERSION}

    def _crop(self) -> list[int]:
        """Top, left, height and width of the picture inside of black bars; all of it where there are none.

        Bars lie on both sides, are alike to a twentieth of the side, and end where most of a line is lit.
        """
        top, height = _between_bars(self.lines[0, : self.height])
        left, width = _between_bars(self.lines[0, self.height :])
        return [top, left, height, width]


def reduced(frames_THWC: ndarray) -> tuple[ndarray, ndarray]:
    """Frames reduced by a whole factor, T h w 3 bytes, and their luma, T h w in bytes as floats.

    Of every field as large as the factor four pixels are taken: to average all takes as long as decoding.
    """
    factor = max(1, min(frames_THWC.shape[1:3]) // SIDE)
    planes = [frames_THWC[..., k] for k in range(3)]
    if factor > 1:
        height, width = (side // factor * factor for side in frames_THWC.shape[1:3])
        offsets = factor // 4, factor // 4 + max(1, factor // 2)
        taken = [(slice(y, height, factor), slice(x, width, factor)) for y in offsets for x in offsets]
        sums = (sum(plane[:, y, x].astype(numpy.uint16) for y, x in taken) for plane in planes)
        planes = [((each + 2) >> 2).astype(numpy.uint8) for each in sums]
    luma_THW = sum(numpy.float32(weight) * plane for weight, plane in zip(LUMA, planes, strict=True))
    return numpy.stack(planes, -1), luma_THW


def cells(luma_THW: ndarray) -> ndarray:
    """Means over cells; what is left at the right and below is dropped, unless there is less than a cell."""
    count, height, width = luma_THW.shape
    if min(height, width) < CELL:
        return luma_THW
    height, width = height // CELL, width // CELL
    part = luma_THW[:, : height * CELL, : width * CELL]
    rows = part.reshape(count, height, CELL, width * CELL).sum(2)
    return sum(rows[..., k::CELL] for k in range(CELL)) / CELL**2


def sharpness(luma_HW: ndarray) -> float:
    """Variance of the Laplacian over that of luma, of the picture with a shorter side of 120 to 239
    pixels: little for
    what is out of focus, whatever its contrast and size.

    The Laplacian's variance is Pech-Pacheco et al. 2000's measure of focus.
    """
    factor = max(1, min(luma_HW.shape) // FOCUS)
    height, width = (side // factor * factor for side in luma_HW.shape)
    parts = [luma_HW[y:height:factor, x:width:factor] for y in range(factor) for x in range(factor)]
    picture = sum(part.astype(numpy.float32) for part in parts) / len(parts)
    if min(picture.shape) < 3:
        return 0.0
    middle = picture[1:-1, 1:-1]
    around = picture[:-2, 1:-1] + picture[2:, 1:-1] + picture[1:-1, :-2] + picture[1:-1, 2:]
    return float((around - 4 * middle).var() / max(middle.var(), 4.0))


def blockiness(luma_HW: ndarray) -> float:
    """Steps of luma across the edges of blocks of 8 over those inside of them; 1 where there are no blocks.

    The grid may begin anywhere, as that of a picture that was cut; every third line is looked at.
    """
    ratios = []
    for lines in (luma_HW[::3], luma_HW.T[::3]):
        steps = numpy.abs(numpy.diff(lines.astype(numpy.int16), axis=1))
        whole = steps.shape[1] // GRID * GRID
        if not whole:
            return 1.0
        by_phase = numpy.minimum(steps[:, :whole], 24).reshape(len(steps), -1, GRID).mean((0, 1))
        edge = by_phase.argmax()
        ratios.append((by_phase[edge] + 0.25) / (numpy.delete(by_phase, edge).mean() + 0.25))
    return float(min(ratios))


def _exact_luma(frame_HWC: ndarray) -> ndarray:
    """A frame's luma in bytes, as Pillow has it: that of BT.601."""
    from PIL import Image

    return numpy.asarray(Image.fromarray(frame_HWC).convert("L"))


def _between_bars(filled_N: ndarray) -> tuple[int, int]:
    """The first line between bars, and how many there are, by the share of each line that is ever lit."""
    lit = numpy.flatnonzero(filled_N > 0.02)
    count = len(filled_N)
    if not len(lit):
        return 0, count
    first, last = int(lit[0]), int(lit[-1])
    before, after = first, count - 1 - last
    edges = filled_N[first : first + 3].max(), filled_N[max(0, last - 2) : last + 1].max()
    alike = abs(before - after) <= max(2, 0.05 * count)
    if min(before, after) < 2 or not alike or min(edges) < 0.4:
        return 0, count
    return first, last + 1 - first


def _hundredth(values: ndarray) -> int:
    """The place, in rising order, of the least of the highest hundredth."""
    return values.size - 1 - values.size // 100


def _merge(choose, known: ndarray | None, new_Thw: ndarray) -> ndarray:
    """The least or most of each place, of what is known and what is new."""
    best = choose.reduce(new_Thw, axis=0, keepdims=True)
    return best if known is None else choose(known, best)
