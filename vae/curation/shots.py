"""Shots of a file from its frames as they stream by: cuts, fades and dissolves; flashes are none."""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy
from numpy import ndarray

from vae.curation.signals import cells, reduced

VERSION = 1  # of how shots are found
SECONDS = 0.5  # that frames are compared over: a flash is shorter, a dissolve not much
FLASH = 0.25  # seconds that one takes at most
LEAST = 0.04  # mean change of a cell that a cut makes at least, 0 to 1
TIMES = 4.0  # as much as the frames around it change
WINDOW = 0.75  # seconds around
BACK = (
    0.5  # of a cut's change, by which a picture before it may differ from one after it: then it was a flash
)
BLANK = 5.0  # bytes of standard deviation that a blank frame has at most; it is black or white
MIXED = 0.27  # of the change over a dissolve, by which the middle may differ from the mean of its ends
ALIKE = 0.6  # correlation of the two ends of what is one scene


@dataclass
class ShotSignals:
    """What the frames of a file so far say of its shots; a few numbers for each are kept."""

    fps: float
    held: ndarray | None = None  # the newest frames as cells, at most as many as are compared
    changes: list[ndarray] = field(default_factory=list)  # of each from the 1st, 2nd, … before, T K
    lumas: list[ndarray] = field(default_factory=list)  # mean and deviation, T 2
    mixes: list[ndarray] = field(default_factory=list)  # of the last K frames: how mixed, how alike, T 2

    @property
    def reach(self) -> int:
        """How many frames before one it is compared with; even."""
        return 2 * max(1, min(15, round(SECONDS * self.fps / 2)))

    def add(self, frames_THWC: ndarray) -> None:
        """Looks at the next frames, bytes of RGB."""
        small_THWC, luma_THW = reduced(frames_THWC)
        count, reach = len(small_THWC), self.reach
        new_TN = numpy.concatenate([cells(small_THWC[..., k].astype(numpy.float32)) for k in range(3)], -1)
        new_TN = new_TN.reshape(count, -1) / 255
        held = new_TN[:1].repeat(reach, 0) if self.held is None else self.held
        all_TN = numpy.concatenate([held, new_TN])
        changes = [
            numpy.abs(new_TN - all_TN[reach - back : reach - back + count]).mean(1)
            for back in range(1, reach + 1)
        ]
        old_TN, middle_TN = all_TN[:count], all_TN[reach // 2 : reach // 2 + count]
        apart = numpy.abs(middle_TN - (old_TN + new_TN) / 2).mean(1) / numpy.maximum(changes[-1], 1e-3)
        self.changes.append(numpy.stack(changes, 1))
        self.mixes.append(numpy.stack([apart, _correlation(old_TN, new_TN)], 1))
        self.lumas.append(numpy.stack([luma_THW.mean((1, 2)), luma_THW.std((1, 2))], 1))
        self.held = all_TN[-reach:]

    def pieces(self) -> list[tuple[int, int, str]]:
        """The whole file in pieces: first frame, the one after the last, and why it is no shot, or ""."""
        changes_TK, lumas_T2 = numpy.concatenate(self.changes), numpy.concatenate(self.lumas)
        mixes_T2 = numpy.concatenate(self.mixes)
        frames = len(changes_TK)
        covers = _fades(lumas_T2, changes_TK, self.fps)
        mixed = _dissolves(changes_TK, mixes_T2, self.reach)
        covers += [
            each for each in mixed if not any(each[0] <= end and first <= each[1] for first, end, _ in covers)
        ]
        cuts = _cuts(changes_TK, self.fps)
        return split(frames, cuts, covers)


def split(frames: int, cuts: list[int], covers: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """A file in pieces between its cuts, and between what covers some frames, which are pieces for
    themselves."""
    why = numpy.zeros(frames, numpy.int64)
    names = [""]
    for first, end, name in covers:
        if name not in names:
            names.append(name)
        why[first:end] = numpy.where(why[first:end] == 0, names.index(name), why[first:end])
    edges = {0, frames, *(numpy.flatnonzero(numpy.diff(why)) + 1).tolist()}
    edges |= {cut for cut in cuts if 0 < cut < frames and not (why[cut] and why[cut - 1])}
    edges = sorted(edges)
    return [(first, end, names[why[first]]) for first, end in pairwise(edges)]


def _cuts(changes_TK: ndarray, fps: float) -> list[int]:
    """First frames of shots: where a frame changes far more than those around, and what was does not
    come back."""
    step_T, (frames, reach) = changes_TK[:, 0], changes_TK.shape
    around, back = max(3, round(WINDOW * fps)), min(reach, max(2, 1 + round(FLASH * fps)))
    found = []
    for t in numpy.flatnonzero(step_T >= LEAST).tolist():
        near = numpy.delete(step_T[max(1, t - around) : t + around + 1], min(around, t - 1)) if t else []
        usual = float(numpy.median(near)) if len(near) else 0.0
        if t == 0 or step_T[t] < TIMES * max(usual, 0.002):
            continue
        # After k frames it is as before the change; or it is now as k frames ago.
        returns = [changes_TK[t - 1 + k, k - 1] for k in range(2, back + 1) if t - 1 + k < frames]
        returned = [changes_TK[t, k - 1] for k in range(2, back + 1) if t - k >= 0]
        if min([*returns, *returned], default=1.0) < BACK * step_T[t]:
            continue
        found.append(t)
    return found


def _fades(lumas_T2: ndarray, changes_TK: ndarray, fps: float) -> list[tuple[int, int, str]]:
    """Stretches of blank frames, with the frames before and after that lead there."""
    mean_T, deviation_T = lumas_T2.T
    blank_T = (deviation_T < BLANK) & ((mean_T < 30) | (mean_T > 225))
    ends = numpy.flatnonzero(numpy.diff(numpy.concatenate([[0], blank_T, [0]]).astype(numpy.int8)))
    found, most = [], round(1.5 * fps)
    if blank_T.all():
        return []
    for first, end in zip(ends[::2].tolist(), ends[1::2].tolist(), strict=True):
        across = end - first + 1
        if first > 0 and end < len(mean_T) and across <= changes_TK.shape[1] and across <= FLASH * fps + 1:
            sudden = first < 2 or deviation_T[first - 1] > 0.85 * deviation_T[first - 2]
            if sudden and changes_TK[end, across - 1] < BACK * changes_TK[first, 0]:
                continue  # a flash: what was before is there again
        while first > 0 and end - first < len(mean_T) and _leads(deviation_T, first, -1, most):
            first -= 1
        while end < len(mean_T) and _leads(deviation_T, end - 1, 1, most):
            end += 1
        found.append((first, end, "fade"))
    return found


def _leads(deviation_T: ndarray, place: int, way: int, most: int) -> bool:
    """Whether the frame beside a place has clearly more contrast than it, as in a fade, but not by a cut."""
    here, beside = deviation_T[place], deviation_T[place + way]
    return 1.02 * here + 0.1 < beside < here + max(12.0, 0.8 * here)


def _dissolves(changes_TK: ndarray, mixes_T2: ndarray, reach: int) -> list[tuple[int, int, str]]:
    """Stretches in which one scene turns into another by mixing: the middle is the mean of both ends."""
    over_T, step_T = changes_TK[:, -1], changes_TK[:, 0]
    quick_T = numpy.array(
        [step_T[max(1, t - reach + 1) : t + 1].max(initial=0.0) for t in range(len(over_T))]
    )
    is_T = (
        (over_T > 1.5 * LEAST) & (mixes_T2[:, 0] < MIXED) & (mixes_T2[:, 1] < ALIKE) & (quick_T < over_T / 3)
    )
    is_T[:reach] = False
    ends = numpy.flatnonzero(numpy.diff(numpy.concatenate([[0], is_T, [0]]).astype(numpy.int8)))
    stretches = [(int(first) - reach + 1, int(end)) for first, end in zip(ends[::2], ends[1::2], strict=True)]
    return [(max(0, first), end, "dissolve") for first, end in stretches]


def _correlation(one_TN: ndarray, other_TN: ndarray) -> ndarray:
    """The correlation of each row with the other's."""
    one, other = one_TN - one_TN.mean(1, keepdims=True), other_TN - other_TN.mean(1, keepdims=True)
    lengths = numpy.sqrt((one * one).sum(1) * (other * other).sum(1))
    return (one * other).sum(1) / numpy.maximum(lengths, 1e-6)
