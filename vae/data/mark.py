"""The mark that can be seen: words at a corner of a video, as large as GB 45438-2025 wants them."""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from vae.data.fonts import find_font

SHARE = 0.05  # of the shortest side: no letter is lower
LEGIBLE = 7  # pixels that letters of small videos get where there is room
SECONDS = 2.0  # that a mark of the start stands, at least
SHADE = 0.55  # of black, behind white letters


def marked(
    parts_CTHW: Iterable[Tensor], fps: float, words: str, corner: str, start_alone: bool
) -> Iterator[Tensor]:
    """A video's parts in [-1, 1] as they come, with words drawn on every frame, or on the first seconds.

    Raises ValueError where no font here has the letters, or where they find no room.
    """
    frame, last = 0, math.ceil(SECONDS * fps) if start_alone else math.inf
    colour = shade = None
    for part in parts_CTHW:
        if frame < last:
            part = part.clone()
            if colour is None:
                colour, shade = draw_words(words, *part.shape[2:])
            rows, columns = _place(corner, colour.shape, part.shape[2:])
            under = part[:, : last - frame if start_alone else None, rows, columns]
            under.copy_(under * (1 - shade) + colour * shade)
        frame += part.shape[1]
        yield part


def draw_words(words: str, height: int, width: int) -> tuple[Tensor, Tensor]:
    """White words on a dark box, for frames of a size: its colour in [-1, 1] and how much it covers, H W."""
    from PIL import Image, ImageDraw

    _, missing = find_font(words, 10)
    if missing or not words.strip():
        raise ValueError(
            f"no font here shows {''.join(missing)!r} of the mark {words!r}: install one, as the package "
            f"fonts-noto-cjk for Chinese, or give another --mark-text"
        )
    least = math.ceil(SHARE * min(height, width))
    for lowest in range(max(least, LEGIBLE), least - 1, -1):
        font = _font_of_height(words, lowest)
        left, top, right, bottom = font.getbbox(words)
        gap = max(1, lowest // 2)
        size = math.ceil(right - left) + 2 * gap, math.ceil(bottom - top) + 2 * gap
        if size[0] <= width and size[1] <= height:
            break
    else:
        raise ValueError(f"the mark {words!r} has no room on {width} x {height}: give a shorter --mark-text")
    image = Image.new("L", size, 0)
    ImageDraw.Draw(image).text((gap - left, gap - top), words, fill=255, font=font)
    ink = torch.tensor(list(image.tobytes())).view(size[1], size[0]) / 255
    shade = ink + (1 - ink) * SHADE
    return 2 * ink / shade - 1, shade


def _font_of_height(words: str, lowest: int):
    """The font in whose smallest size no letter is lower than so many pixels."""
    letters = [letter for letter in words if letter.isalnum()] or [*words.strip()]
    size = lowest
    while True:
        font, _ = find_font(words, size)
        boxes = [font.getbbox(letter) for letter in letters]
        if min(bottom - top for _, top, _, bottom in boxes) >= lowest:
            return font
        size += 1


def _place(corner: str, box: tuple[int, int], frame: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of a box at a corner of a frame."""
    rows = slice(box[0]) if corner.startswith("top") else slice(frame[0] - box[0], None)
    columns = slice(box[1]) if corner.endswith("left") else slice(frame[1] - box[1], None)
    return rows, columns
