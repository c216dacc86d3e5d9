"""Contact sheets: pictures with a row of frames per video, and captions."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from vae.data.fonts import find_font
from vae.data.write import save_picture, to_frames
from vae.training.progress import say

PAPER = (222, 226, 232)  # behind contact sheets: white, black and grey videos all stand out from it


def evenly(count: int, most: int) -> list[int]:
    """At most so many places out of `count`, evenly spaced from the first to the last."""
    return torch.linspace(0, count - 1, min(most, count)).round().long().tolist()


def contact_sheet(
    videos: Iterable[Tensor], captions: list[str], path: str | Path, frames: int = 5, side: int = 192
) -> None:
    """Writes a PNG with a row per video (C T H W in [-1, 1]): its caption above evenly spaced frames.

    Small videos grow by whole factors towards `side` pixels, large ones shrink to twice that.
    """
    from PIL import Image, ImageDraw

    font, gap = _caption_font(captions), 6
    rows = []
    for video in videos:
        places = evenly(video.shape[1], frames)
        longer = max(video.shape[2:])
        scale = max(1, side // longer) if longer <= 2 * side else 2 * side / longer
        size = round(video.shape[3] * scale), round(video.shape[2] * scale)
        filter = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
        rows.append([Image.fromarray(f.numpy()).resize(size, filter) for f in to_frames(video[:, places])])
    width = max(320, *(len(row) * (row[0].width + gap) + gap for row in rows))
    texts = [_wrap(_shortened(caption), font, width - 2 * gap) for caption in captions]
    line = 24
    heights = [len(text) * line + row[0].height + 3 * gap for text, row in zip(texts, rows, strict=True)]
    sheet = Image.new("RGB", (width, sum(heights) + gap), PAPER)
    draw, top = ImageDraw.Draw(sheet), gap
    for text, row, height in zip(texts, rows, heights, strict=True):
        for number, words in enumerate(text):
            draw.text((gap, top + number * line), words, fill="black", font=font)
        for column, image in enumerate(row):
            sheet.paste(image, (gap + column * (image.width + gap), top + len(text) * line + gap))
        top += height
    save_picture(path, sheet)


def _caption_font(captions: list[str], size: int = 18):
    """A font for captions; where none has all letters, a line says which package has more."""
    font, missing = find_font("".join(captions), size)
    if missing:
        say(
            f"no font here shows {''.join(missing[:8])!r} of the captions: boxes stand for them; the package "
            "fonts-noto-cjk (of Fedora google-noto-sans-cjk-fonts) has Chinese, Japanese and Korean"
        )
    return font


def _shortened(caption: str) -> str:
    """A caption, or its beginning and end, where seed and file stand, of one that would fill the sheet."""
    return caption if len(caption) <= 600 else f"{caption[:400]} … {caption[-150:]}"


def _wrap(text: str, font, width: int) -> list[str]:
    """A caption in lines of at most `width` pixels; a longer word, as all Chinese is, breaks anywhere."""
    lines = [""]
    for word in text.split():
        space = " " if lines[-1] else ""
        for part in [word] if font.getlength(word) <= width else word:
            if lines[-1] and font.getlength(lines[-1] + space + part) > width:
                lines.append(part)
            else:
                lines[-1] += space + part
            space = ""
    return lines
