"""Video and image files: exact frames in, mp4 with their record, GIF, PNG frames and contact sheets out."""

import json
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from vae.weights import write_whole

IMAGES = {".png", ".jpg", ".jpeg", ".webp"}
VIDEOS = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"}


class UnreadableVideo(ValueError):
    """A file whose frames cannot be had; the message names it and says why."""


def ffmpeg(arguments: list[str], data: bytes | None = None) -> subprocess.CompletedProcess:
    """Runs the ffmpeg that imageio brings; its exit status is the caller's to judge."""
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", *arguments]
    source = {"stdin": subprocess.DEVNULL} if data is None else {"input": data}
    return subprocess.run(command, capture_output=True, check=False, **source)


def read_frames(path: str | Path, indices: Sequence[int]) -> Tensor:
    """Frames at exactly these indices, in this order, uint8 T H W C; raises UnreadableVideo."""
    path = Path(path)
    if path.suffix.lower() in IMAGES:
        return read_image(path).expand(len(indices), -1, -1, -1)
    import decord

    try:
        frames = decord.VideoReader(str(path), num_threads=1).get_batch(list(indices)).asnumpy()
    except (decord.DECORDError, IndexError) as error:
        raise UnreadableVideo(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    return torch.from_numpy(frames)


def read_image(path: Path) -> Tensor:
    """An image as a video of one frame, turned as its EXIF says; raises UnreadableVideo."""
    import numpy
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            pixels = numpy.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UnreadableVideo(f"{path} cannot be read: {error}") from None
    return torch.from_numpy(pixels)[None]


def to_video(frames_THWC: Tensor) -> Tensor:
    """Frames of bytes as a float video C T H W in [-1, 1]."""
    return rearrange(frames_THWC, "t h w c -> c t h w").float() / 127.5 - 1


def to_frames(video_CTHW: Tensor) -> Tensor:
    """The inverse of `to_video`, rounded; what is outside [-1, 1] is clipped."""
    levels = (video_CTHW.float() + 1) * 127.5
    return rearrange(levels.round().clamp(0, 255).byte(), "c t h w -> t h w c").contiguous().cpu()


def resize_and_crop(frames_THWC: Tensor, height: int, width: int) -> Tensor:
    """Frames scaled, with antialiasing, to just cover height x width, and cut to it about the centre."""
    have_height, have_width = frames_THWC.shape[1:3]
    scale = max(height / have_height, width / have_width)
    size = max(height, round(have_height * scale)), max(width, round(have_width * scale))
    frames = rearrange(frames_THWC, "t h w c -> t c h w")
    if size != (have_height, have_width):
        frames = torch.nn.functional.interpolate(frames, size, mode="bicubic", antialias=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return rearrange(frames[:, :, top : top + height, left : left + width], "t c h w -> t h w c").contiguous()


def write_video(file: str | Path, video_CTHW: Tensor, fps: float, record: dict) -> None:
    """Writes an H.264 mp4 that browsers play, with `record` inside; an odd side repeats its last line.

    `read_metadata` gives the record back, with the true size, number of frames and rate under `video`.
    """
    frames = to_frames(video_CTHW)
    count, height, width, _ = frames.shape
    record = record | {"video": {"frames": count, "height": height, "width": width, "fps": fps}}
    even = [torch.arange(side + side % 2).clamp(max=side - 1) for side in (height, width)]
    frames = frames[:, even[0]][:, :, even[1]]
    _, height, width, _ = frames.shape

    def encode(temporary: Path) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as tags:
            tags.write(";FFMETADATA1\ncomment=" + re.sub(r"([=;#\\\n])", r"\\\1", json.dumps(record)) + "\n")
            tags.flush()
            arguments = [
                "-v",
                "error",
                "-y",
                "-f",
                "rawvideo",
                "-pix_fmt",
                "rgb24",
                "-s",
                f"{width}x{height}",
            ]
            arguments += ["-r", f"{fps:.6f}", "-i", "pipe:0", "-f", "ffmetadata", "-i", tags.name]
            arguments += ["-map", "0:v", "-map_metadata", "1", "-c:v", "libx264", "-crf", "16"]
            # The matrix is said in the file: a player that guesses takes another for small and large videos.
            arguments += ["-vf", "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p"]
            arguments += ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
            arguments += ["-color_range", "tv", "-movflags", "+faststart", "-f", "mp4", str(temporary)]
            done = ffmpeg(arguments, frames.numpy().tobytes())
        if done.returncode:
            raise ValueError(f"{file} cannot be written: {done.stderr.decode(errors='replace').strip()}")

    write_whole(Path(file), encode)


def read_metadata(file: str | Path) -> dict:
    """The record inside an mp4 of ours, read without decoding; raises ValueError where there is none."""
    if not Path(file).is_file():
        raise ValueError(f"{file}: no such file")
    done = ffmpeg(["-v", "error", "-i", str(file), "-f", "ffmetadata", "-"])
    text = done.stdout.decode(errors="replace")
    found = re.search(r"^comment=((?:[^\\\n]|\\.|\\\n)*)$", text, re.MULTILINE)
    try:
        record = json.loads(re.sub(r"\\(.|\n)", r"\1", found[1])) if found else None
    except json.JSONDecodeError:
        record = None
    if not isinstance(record, dict):
        raise ValueError(
            f"{file} carries no record: it was not written by this project, or was encoded again"
        )
    return record


def write_gif(file: str | Path, video_CTHW: Tensor, fps: float) -> None:
    """Writes an animated GIF that repeats for ever, with 256 colours a frame."""
    from PIL import Image

    first, *rest = (Image.fromarray(frame.numpy()) for frame in to_frames(video_CTHW))
    times = {"duration": 1000 / fps, "loop": 0}
    write_whole(
        Path(file),
        lambda temporary: first.save(temporary, format="GIF", save_all=True, append_images=rest, **times),
    )


def write_png_frames(folder: str | Path, video_CTHW: Tensor) -> None:
    """Writes every frame as `folder/0000.png` and so on, without loss."""
    from PIL import Image

    for number, frame in enumerate(to_frames(video_CTHW)):
        image = Image.fromarray(frame.numpy())
        write_whole(
            Path(folder) / f"{number:04d}.png", lambda temporary, i=image: i.save(temporary, format="PNG")
        )


def contact_sheet(
    videos: list[Tensor], captions: list[str], path: str | Path, frames: int = 5, side: int = 192
) -> None:
    """Writes a PNG with a row per video (C T H W in [-1, 1]): its caption above evenly spaced frames.

    Small videos grow by whole factors towards `side` pixels, large ones shrink to twice that.
    """
    from PIL import Image, ImageDraw, ImageFont

    font, gap = ImageFont.load_default(size=18), 6
    rows = []
    for video in videos:
        shown = torch.linspace(0, video.shape[1] - 1, min(frames, video.shape[1])).round().long()
        longest = max(video.shape[2:])
        scale = max(1, side // longest) if longest <= 2 * side else 2 * side / longest
        size = round(video.shape[3] * scale), round(video.shape[2] * scale)
        filter = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
        rows.append([Image.fromarray(f.numpy()).resize(size, filter) for f in to_frames(video[:, shown])])
    width = max(320, *(len(row) * (row[0].width + gap) + gap for row in rows))
    texts = [wrap(caption, font, width - 2 * gap) for caption in captions]
    line = 24
    heights = [len(text) * line + row[0].height + 3 * gap for text, row in zip(texts, rows, strict=True)]
    sheet = Image.new("RGB", (width, sum(heights) + gap), "white")
    draw, top = ImageDraw.Draw(sheet), gap
    for text, row, height in zip(texts, rows, heights, strict=True):
        for number, words in enumerate(text):
            draw.text((gap, top + number * line), words, fill="black", font=font)
        for column, image in enumerate(row):
            sheet.paste(image, (gap + column * (image.width + gap), top + len(text) * line + gap))
        top += height
    write_whole(Path(path), lambda temporary: sheet.save(temporary, format="PNG"))


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
