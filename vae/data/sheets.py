"""Contact sheets: pictures with a row of frames per video, and captions."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from vae.data.write import to_frames
from vae.training.files import write_whole

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

    font, gap = caption_font(captions), 6
    rows = []
    for video in videos:
        shown = evenly(video.shape[1], frames)
        longest = max(video.shape[2:])
        scale = max(1, side // longest) if longest <= 2 * side else 2 * side / longest
        size = round(video.shape[3] * scale), round(video.shape[2] * scale)
        filter = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
        rows.append([Image.fromarray(f.numpy()).resize(size, filter) for f in to_frames(video[:, shown])])
    width = max(320, *(len(row) * (row[0].width + gap) + gap for row in rows))
    texts = [wrap(caption, font, width - 2 * gap) for caption in captions]
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
    write_whole(Path(path), lambda temporary: sheet.save(temporary, format="PNG"))


def caption_font(captions: list[str], size: int = 18):
    """Pillow's own font, or for captions with more than ASCII the wider one that matplotlib brings."""
    from PIL import ImageFont

    if all(caption.isascii() for caption in captions):
        return ImageFont.load_default(size)
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)


def wrap(text: str, font, width: int) -> list[str]:
    """A caption in lines of at most `width` pixels; a longer word has a line of its own."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
