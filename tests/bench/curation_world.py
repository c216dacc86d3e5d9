"""Clips with planted faults: drawn shapes over textured, panned backgrounds, each a function of (seed,
number)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch

from vae.data.drawn_world import COLOURS, SHAPES, coverage
from vae.data.write import ffmpeg
from vae.training.seeds import generator

SIZES = ((96, 128), (128, 128), (112, 192))
RATES = (12.0, 24.0, 30.0)
CODECS = {
    "h264": ("mp4", ["-c:v", "libx264", "-crf", "20", "-preset", "veryfast", "-pix_fmt", "yuv420p"]),
    "mpeg4": ("avi", ["-c:v", "mpeg4", "-q:v", "5"]),
    "vp9": (
        "webm",
        ["-c:v", "libvpx-vp9", "-crf", "34", "-b:v", "0", "-cpu-used", "8", "-deadline", "realtime"],
    ),
    "damaged": ("avi", ["-c:v", "mpeg4", "-q:v", "31", "-qmin", "31", "-qmax", "31"]),
}


@dataclass(frozen=True)
class Planted:
    """A clip: its file's stem, what is wrong with it, where it is cut, and which clip it is a copy of."""

    name: str
    fault: str
    codec: str
    fps: float
    cuts: tuple[int, ...] = ()
    of: str = ""


def texture(random: numpy.random.Generator, height: int, width: int) -> numpy.ndarray:
    """A picture of noise on several scales between two colours, height width 3 in 0 to 255."""
    total = torch.zeros(1, 1, height, width)
    for k, cell in enumerate((40, 20, 9, 4, 2)):
        coarse = torch.from_numpy(
            random.standard_normal((1, 1, height // cell + 2, width // cell + 2))
        ).float()
        up = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
        total += up * (0.75**k)
    share = ((total[0, 0] / total.std() + 2) / 4).clamp(0, 1)[..., None]
    low, high = (torch.from_numpy(random.uniform(20, 235, 3)).float() for _ in range(2))
    if (low - high).abs().mean() < 60:
        high = 255 - low
    return (low + (high - low) * share).numpy()


def scene(frames: int, height: int, width: int, fps: float, *key: int | str) -> numpy.ndarray:
    """A clip of one shot, T H W 3 bytes: two shapes that move, over a texture that the camera pans across."""
    random = generator("curation", *key)
    margin = max(height, width) // 2
    ground = texture(random, height + 2 * margin, width + 2 * margin)
    angle, pace = random.uniform(0, 2 * numpy.pi), random.uniform(0.0, 0.25) * min(height, width) / fps
    time = torch.arange(frames).float()
    out = numpy.empty((frames, height, width, 3), numpy.float32)
    for t in range(frames):
        y = round(margin + min(margin, pace * t) * numpy.sin(angle))
        x = round(margin + min(margin, pace * t) * numpy.cos(angle))
        out[t] = ground[y : y + height, x : x + width]
    for _ in range(2):
        shape, colour = (
            SHAPES[random.integers(len(SHAPES))],
            list(COLOURS.values())[random.integers(len(COLOURS))],
        )
        radius = random.uniform(0.12, 0.22) * min(height, width)
        start, way = random.uniform(0.2, 0.8, 2), random.uniform(0, 2 * numpy.pi)
        speed = random.uniform(0.15, 0.5) * min(height, width) / fps
        x_T = _bounced(start[0] * width + speed * numpy.cos(way) * time, width)
        y_T = _bounced(start[1] * height + speed * numpy.sin(way) * time, height)
        cover = coverage(shape, x_T, y_T, torch.full((frames,), radius), height, width).numpy()[..., None]
        out += cover * (numpy.array(colour, numpy.float32) - out)
    return out.round().clip(0, 255).astype(numpy.uint8)


def _bounced(place_T: torch.Tensor, side: int) -> torch.Tensor:
    """Places that turn round at both ends of a side."""
    return side - (place_T % (2 * side) - side).abs()


def _mixed(one: numpy.ndarray, other: numpy.ndarray, share_T: numpy.ndarray) -> numpy.ndarray:
    share = share_T[:, None, None, None]
    return (one * (1 - share) + other * share).round().astype(numpy.uint8)


def joined(one: numpy.ndarray, other: numpy.ndarray, how: str, fps: float) -> tuple[numpy.ndarray, int]:
    """Two shots after each other by a cut, through black, or mixed; and the frame about which they change."""
    half = max(2, round(0.35 * fps))
    if how == "cut":
        return numpy.concatenate([one, other]), len(one)
    ramp = numpy.linspace(0, 1, half + 2)[1:-1]
    if how == "fade":
        out = _mixed(one[-half:], numpy.zeros_like(one[-half:]), ramp)
        into = _mixed(numpy.zeros_like(other[:half]), other[:half], ramp)
        black = numpy.zeros_like(one[: max(2, half // 2)])
        return numpy.concatenate([one[:-half], out, black, into, other[half:]]), len(one) + len(black) // 2
    ramp = numpy.linspace(0, 1, 2 * half + 2)[1:-1]
    mixed = _mixed(one[-2 * half :], other[: 2 * half], ramp)
    return numpy.concatenate([one[: -2 * half], mixed, other[2 * half :]]), len(one) - half


def _frozen(clip: numpy.ndarray, fps: float, random) -> numpy.ndarray:
    clip = clip.copy()
    clip[len(clip) // 3 :] = clip[len(clip) // 3]
    return clip


def _letterboxed(clip: numpy.ndarray, fps: float, random) -> numpy.ndarray:
    clip, bar = clip.copy(), round(clip.shape[1] * random.uniform(0.1, 0.2))
    clip[:, :bar] = clip[:, -bar:] = 0
    return clip


def _blurred(clip: numpy.ndarray, fps: float, random) -> numpy.ndarray:
    height, width = clip.shape[1:3]
    video = torch.from_numpy(clip).permute(0, 3, 1, 2).float()
    small = torch.nn.functional.interpolate(video, (height // 12, width // 12), mode="area")
    large = torch.nn.functional.interpolate(small, (height, width), mode="bicubic", align_corners=False)
    return large.clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def _flicker(clip: numpy.ndarray, fps: float, random) -> numpy.ndarray:
    gain = 1 - 0.3 * (numpy.arange(len(clip)) % 2)
    return (clip * gain[:, None, None, None]).astype(numpy.uint8)


FAULTS: dict[str, Callable] = {  # name -> a clip with it, of a clip, its rate and a generator
    "static": lambda clip, fps, random: clip[:1].repeat(len(clip), 0),
    "black": lambda clip, fps, random: numpy.full_like(clip, 6),
    "dark": lambda clip, fps, random: (clip * 0.14).astype(numpy.uint8),
    "frozen": _frozen,
    "letterboxed": _letterboxed,
    "blurred": _blurred,
    "flicker": _flicker,
    "damaged": lambda clip, fps, random: clip,
}


def encode(file: Path, clip: numpy.ndarray, fps: float, codec: str) -> None:
    """Writes a clip."""
    height, width = (side - side % 2 for side in clip.shape[1:3])
    arguments = ["-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
    arguments += ["-r", str(fps), "-i", "pipe:0", *CODECS[codec][1], "-threads", "1", f"file:{file}"]
    done = ffmpeg(arguments, numpy.ascontiguousarray(clip[:, :height, :width]).tobytes())
    assert done.returncode == 0, done.stderr.decode()
