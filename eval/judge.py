"""The exact judge of the drawn world: which shape and colour, over what, how it moves, from pixels alone."""

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from vae.data.drawn_captions import plain_caption
from vae.data.drawn_world import BACKGROUNDS, COLOURS, SHAPES, STAR_INNER, Scene, coverage
from vae.data.video import to_video

# Half the least distance between two colours of the world (RGB, 0 to 255): nearer is the same colour.
SAME_COLOUR = 54
FLAT_BORDER = 0.9
AGREEMENT = 0.85
SMALLEST, LARGEST = 0.008, 0.6
IMPURE = 0.1
# Two shapes side by side overlap with one of their joint area and centre by at most 0.56.
ALIKE, DISTINCT, COMPACT = 0.78, 0.02, 0.65
SOFT = 1.2
UNIT_AREA = {
    "circle": math.pi,
    "square": 2.0,
    "triangle": 0.75 * math.sqrt(3),
    "star": 5 * STAR_INNER * math.sin(math.pi / 5),
}
MOVED, STILL, SMOOTH, JUMP = 0.15, 0.08, 0.04, 0.08
GROWN, SAME_SIZE, SMOOTH_GROWTH = 1.35, (0.85, 1.2), 0.07


@dataclass(frozen=True)
class Verdict:
    """What a video shows; None where it cannot be said."""

    shape: str | None
    colour: str | None
    background: str | None
    motion: str | None


@dataclass(frozen=True)
class Object:
    """What stands out from the background: its mean colour in each frame (T C), how much of each pixel it
    covers (T H W), and the frames (T, bool) in which it is of one colour."""

    colour_TC: Tensor
    cover_THW: Tensor
    pure_T: Tensor


def judge(video_CTHW: Tensor, new_motions: Collection[str] = ()) -> Verdict:
    """The verdict on a float video in [-1, 1] whose sides are at least 32 pixels; ValueError for another.

    A field is None where frames disagree: shape and colour must be the same throughout, the motion smooth.
    Shape, colour and motion are all None where there is no object in some frame, or not just one compact one;
    one that is no shape of the world still has a colour and a motion.
    """
    if video_CTHW.dim() != 4 or video_CTHW.shape[0] != 3 or min(video_CTHW.shape[2:]) < 32:
        raise ValueError(f"not a video of 3 T H W with sides of 32 or more: {tuple(video_CTHW.shape)}")
    pixels_TCHW = ((rearrange(video_CTHW.float(), "c t h w -> t c h w") + 1) * 127.5).clamp(0, 255)
    if (factor := min(pixels_TCHW.shape[2:]) // 64) > 1:  # down to a shorter side of 64 to 127 pixels
        pixels_TCHW = F.avg_pool2d(pixels_TCHW, factor)
    ground_TC = _flat_border(pixels_TCHW)
    if ground_TC is None:
        return Verdict(None, None, None, None)
    background = _agreed(_closest(ground_TC, BACKGROUNDS))
    seen = _find_object(pixels_TCHW, ground_TC)
    if seen is None:
        return Verdict(None, None, background, None)
    x_T, y_T, area_T = moments(seen.cover_THW)
    likeness_ST = _likeness(seen.cover_THW, x_T, y_T, area_T)
    if (seen.pure_T & (likeness_ST.amax(dim=0) > COMPACT)).float().mean() < AGREEMENT:
        return Verdict(None, None, background, None)
    height, width = seen.cover_THW.shape[1:]
    return Verdict(
        shape=_agreed(_most_alike(likeness_ST)),
        colour=_agreed(_closest(seen.colour_TC, COLOURS)),
        background=background,
        motion=motion(x_T / width, y_T / height, area_T.sqrt(), new_motions),
    )


def describe(prompts: Sequence[str], videos: Sequence[numpy.ndarray]) -> list[str]:
    """A sentence for each video of the drawn world, frames T H W 3 of bytes, or "" where it cannot be said.

    It is what `dit data caption --by eval.judge:describe` calls, and its captions are exact.
    """
    texts = []
    for frames in videos:
        seen = judge(to_video(torch.from_numpy(frames)))
        said = seen.shape and seen.colour and seen.motion
        scene = (
            Scene(seen.shape, seen.colour, seen.background, seen.motion, 0.5, 0.5, 0.2, 0.0) if said else None
        )
        texts.append(plain_caption(scene) if scene else "")
    return texts


def _flat_border(pixels_TCHW: Tensor) -> Tensor | None:
    """The median colour (T C) of each frame's outermost pixels, or None where they have not one colour."""
    top_bottom_TCN = pixels_TCHW[:, :, [0, -1], :].flatten(2)
    left_right_TCN = pixels_TCHW[:, :, :, [0, -1]].flatten(2)
    border_TCN = torch.cat([top_bottom_TCN, left_right_TCN], dim=2)
    ground_TC = border_TCN.median(dim=2).values
    near_TN = length(border_TCN - ground_TC[:, :, None]) < SAME_COLOUR
    return ground_TC if bool((near_TN.float().mean(dim=1) > FLAT_BORDER).all()) else None


def _closest(colour_TC: Tensor, palette: dict[str, tuple[int, int, int]]) -> list[str | None]:
    """The palette's name for the colour of each frame, None where no entry is near."""
    names = list(palette)
    distance_TP = torch.cdist(colour_TC, torch.tensor([palette[name] for name in names]).float())
    nearest_T, which_T = distance_TP.min(dim=1)
    return [
        names[k] if d < SAME_COLOUR else None
        for k, d in zip(which_T.tolist(), nearest_T.tolist(), strict=True)
    ]


def _agreed(names: list[str | None]) -> str | None:
    """The name nearly all frames have, or None."""
    name, count = Counter(names).most_common(1)[0]
    return name if count >= AGREEMENT * len(names) else None


def _find_object(pixels_TCHW: Tensor, ground_TC: Tensor) -> Object | None:
    """What differs from the background; None where that is too small or too large in any frame.

    Its colour is the mean of the pixels that differ nearly as much as its strongest 3 x 3 do; a pixel's cover
    is the place of its colour on the line from the background's to that one.
    """
    difference_TCHW = pixels_TCHW - ground_TC[:, :, None, None]
    contrast_THW = length(difference_TCHW)
    seen_THW = contrast_THW > SAME_COLOUR
    count_T = seen_THW.sum(dim=(1, 2))
    share_T = count_T / min(seen_THW.shape[1:]) ** 2
    if not bool(((share_T > SMALLEST) & (share_T < LARGEST)).all()):
        return None
    strong_T = spread(contrast_THW, torch.ones(3) / 3).amax(dim=(1, 2))
    core_THW = (contrast_THW >= 0.9 * strong_T[:, None, None]).float()
    line_TC = torch.einsum("tchw,thw->tc", difference_TCHW, core_THW) / core_THW.sum(dim=(1, 2))[:, None]
    cover_THW = torch.einsum("tchw,tc->thw", difference_TCHW, line_TC / line_TC.square().sum(1, keepdim=True))
    off_line_THW = length(difference_TCHW - cover_THW[:, None] * line_TC[:, :, None, None])
    impure_T = (seen_THW & (off_line_THW > SAME_COLOUR)).sum(dim=(1, 2)) / count_T
    near_THW = spread(seen_THW.float(), torch.ones(5)) > 0.5
    return Object(ground_TC + line_TC, cover_THW * near_THW, impure_T < IMPURE)


def length(colour_TC: Tensor) -> Tensor:
    """The length of each colour vector, which `norm` over a strided dimension takes ten times as long for."""
    return colour_TC.square().sum(dim=1).sqrt_()


def moments(cover_THW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centre x, centre y and area (T each) of what is covered, in pixels."""
    height, width = cover_THW.shape[1:]
    area_T = cover_THW.sum(dim=(1, 2)).clamp(min=1)
    x_T = (cover_THW.sum(dim=1) @ (torch.arange(width) + 0.5)) / area_T
    y_T = (cover_THW.sum(dim=2) @ (torch.arange(height) + 0.5)) / area_T
    return x_T, y_T, area_T


def _likeness(cover_THW: Tensor, x_T: Tensor, y_T: Tensor, area_T: Tensor) -> Tensor:
    """Intersection over union (S T) with each shape's own drawing at the same centre and area.

    The better of a sharp and of a soft drawing counts: what a decoder blurs is compared with the soft one.
    """
    height, width = cover_THW.shape[1:]
    cover_THW = cover_THW.clamp(0, 1)
    rows = []
    for shape in SHAPES:
        sharp_THW = coverage(shape, x_T, y_T, (area_T / UNIT_AREA[shape]).sqrt(), height, width)
        rows.append(torch.maximum(_overlap(cover_THW, sharp_THW), _overlap(cover_THW, blurred(sharp_THW))))
    return torch.stack(rows)


def _overlap(one_THW: Tensor, other_THW: Tensor) -> Tensor:
    """Intersection over union (T) of two soft masks."""
    both_T = torch.minimum(one_THW, other_THW).sum(dim=(1, 2))
    return both_T / torch.maximum(one_THW, other_THW).sum(dim=(1, 2))


def blurred(cover_THW: Tensor) -> Tensor:
    """The mask under a Gaussian of `SOFT` pixels."""
    window = torch.exp(-(torch.arange(-3, 4) ** 2) / (2 * SOFT**2))
    return spread(cover_THW, window / window.sum())


def spread(image_THW: Tensor, window: Tensor) -> Tensor:
    """Correlation with the same window of odd length along rows and columns, zeros outside.

    Two products with banded matrices are several times as fast here as convolution or pooling.
    """
    reach = len(window) // 2
    across, along = (
        F.pad(window, (0, size)).repeat(size)[: size * (size + 2 * reach)].view(size, -1)[:, reach:-reach]
        for size in (image_THW.shape[2], image_THW.shape[1])
    )
    return along @ image_THW @ across.T


def _most_alike(likeness_ST: Tensor) -> list[str | None]:
    """The shape each frame shows, None where none or two fit."""
    best_2T, which_2T = likeness_ST.topk(2, dim=0)
    clear_T = (best_2T[0] > ALIKE) & (best_2T[0] - best_2T[1] > DISTINCT)
    return [
        SHAPES[k] if clear else None for k, clear in zip(which_2T[0].tolist(), clear_T.tolist(), strict=True)
    ]


def motion(x_T: Tensor, y_T: Tensor, size_T: Tensor, new_motions: Collection[str] = ()) -> str | None:
    """How the centre (fractions of the frame) and the size (in any unit) change along straight lines; None
    where they do not follow one, or do what no motion of the world, nor one of the new ones, does."""
    if len(x_T) < 2:
        return None
    (right, off_x, jump_x), (down, off_y, jump_y), (growth, off_size, _) = (
        fit(track) for track in (x_T, y_T, size_T / size_T.mean())
    )
    if max(off_x, off_y) > SMOOTH or max(jump_x, jump_y) > JUMP or off_size > SMOOTH_GROWTH:
        return None
    ratio = (2 + growth) / (2 - growth)
    same_size = SAME_SIZE[0] < ratio < SAME_SIZE[1]
    far, near = max(abs(right), abs(down)), min(abs(right), abs(down))
    if far < STILL and same_size:
        return "stays"
    if far < MOVED and ratio > GROWN:
        return "grows"
    if far < MOVED and ratio < 1 / GROWN and "shrinks" in new_motions:
        return "shrinks"
    if far > MOVED and near < far / 2 and same_size:
        if abs(right) > abs(down):
            return "right" if right > 0 else "left"
        return "down" if down > 0 else "up"
    return None


def fit(track_T: Tensor) -> tuple[float, float, float]:
    """Of the line that fits a track best, the change over the clip; of the track's distance from it, the root
    mean square and the largest change from one frame to the next."""
    time_T = torch.linspace(-1, 1, len(track_T))
    slope = (track_T * time_T).sum() / time_T.square().sum()
    rest_T = track_T - track_T.mean() - slope * time_T
    return 2 * slope.item(), rest_T.square().mean().sqrt().item(), rest_T.diff().abs().max().item()
