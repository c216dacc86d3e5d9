"""Image files read: stills, and animations as videos, with what is transparent on white."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

IMAGES = {".png", ".apng", ".jpg", ".jpeg", ".webp", ".gif"}
# Whatever a file's name is: Pillow knows dozens more, of which EPS starts another program.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
ANIMATED = ("PNG", "WEBP", "GIF")  # a JPEG's further pictures are no times but depths and previews
ON_WHITE = "on white"
DEFAULT_SECONDS = 0.1  # of a frame that gives itself no time, as in browsers


class UnreadableVideo(ValueError):
    """A file whose frames cannot be read; the message names it and says why."""


def is_animation(path: Path) -> bool:
    """Whether a file is an image of several frames; one that cannot be opened is none."""
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.format in ANIMATED and getattr(image, "n_frames", 1) > 1
    except Exception:  # as in `image_frames`, which says why
        return False


def image_frames(path: Path, indices: Sequence[int] | None = None) -> Iterator[tuple[Tensor, float, str]]:
    """Frames of an image file at these rising indices, or all: uint8 H W C, seconds shown, treatment.

    Turned as EXIF says; 16 bits of grey become 8; what is transparent shows white, which is the treatment.
    Raises UnreadableVideo.
    """
    import numpy
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.format == "GIF" and not path.read_bytes().rstrip(b"\0\r\n ").endswith(b";"):
                raise ValueError("it is cut: a GIF ends with a semicolon")
            first = int(getattr(image, "default_image", False))  # what shows where no animation can
            count = image.n_frames - first if image.format in ANIMATED and image.is_animated else 1
            for index in range(count) if indices is None else indices:
                if count > 1:
                    image.seek(first + index)
                picture, treatment = _to_rgb(ImageOps.exif_transpose(image))
                seconds = image.info.get("duration", 0) / 1000 if count > 1 else 0.0
                yield torch.from_numpy(numpy.array(picture)), seconds or DEFAULT_SECONDS, treatment
    except Exception as error:  # Pillow's decoders raise what they meet: struct.error, EOFError, KeyError
        raise UnreadableVideo(f"{path} cannot be read: {error or type(error).__name__}") from None


def read_image(path: Path) -> Tensor:
    """An image, or an animation's first frame, as a video of one frame, 1 H W C; raises UnreadableVideo."""
    with closing(image_frames(path)) as frames:
        (first,) = islice(frames, 1)
    return first[0][None]


def _to_rgb(image) -> tuple:
    """A Pillow image in 8-bit RGB, and what was done to it."""
    import numpy
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits of grey, all that the formats above have of integers
        levels = (numpy.asarray(image).astype("uint32") * 255 + 32767) // 65535
        image = Image.fromarray(levels.astype("uint8"))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return image.convert("RGB"), ON_WHITE
    return image.convert("RGB"), ""
