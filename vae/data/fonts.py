"""Fonts for captions and marks: the first on this machine that has every letter."""

from itertools import chain
from pathlib import Path


def find_font(text: str, size: int):
    """A font of Pillow's, and the letters of a text that it lacks.

    It is Pillow's own for ASCII, else the first with all letters, of matplotlib's and those installed; where
    none has all, the one with the most.
    """
    from PIL import ImageFont

    letters = sorted({letter for letter in text if not letter.isspace()})
    if all(letter.isascii() for letter in letters):
        return ImageFont.load_default(size), []
    import matplotlib
    from matplotlib.font_manager import findSystemFonts

    best, missing = "", letters
    own = str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf")
    for file in chain([own], sorted(map(str, findSystemFonts()))):
        absent = _absent(file, letters)
        if not best or len(absent) < len(missing):
            best, missing = file, absent
        if not missing:
            break
    return ImageFont.truetype(best, size), missing


def _absent(font_file: str, letters: list[str]) -> list[str]:
    """The letters that a font has no glyph of: all of them where it cannot be read or drawn at any size."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(font_file)
    except (RuntimeError, OSError):
        return letters
    return [letter for letter in letters if not font.get_char_index(ord(letter))]
