"""Video and image files read: what a file holds, and exact frames by checksum."""

import re
import zlib
from array import array
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from vae.data.write import complaint, decoder, ffmpeg

IMAGES = {".png", ".jpg", ".jpeg", ".webp"}
VIDEOS = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"}
# decord's seeks are wrong in some H.265 files, and it opens no AV1; of others we have no proof.
SEEKABLE = {"h264", "mpeg4", "vp8", "vp9", "mjpeg"}
SEEKS_TRIED = 12
TICKS = 10_000  # a second, in which times of frames are kept: four bytes last for 119 hours


class UnreadableVideo(ValueError):
    """A file whose frames cannot be read; the message names it and says why."""


@dataclass(frozen=True)
class Probe:
    """What a file holds, found by decoding all of it once; height and width are those of the upright picture.

    `reader` is how its frames are read: `decord`, `sequential` where decord's answers are wrong, or `image`.
    `stream` is the one that is read, out of `streams` of video. An image has one frame and no rate.
    `checksums` are the CRC-32 of every frame's RGB bytes, four bytes each in this machine's order, against
    which each frame that decord gives is checked. `decoder` made them: another one rounds colours otherwise.
    `times` are every frame's time since the first, in the same form and in ticks; a file of constant rate,
    whose frames `fps` places, has none.
    """

    frames: int
    fps: float
    height: int
    width: int
    codec: str
    duration: float
    bytes: int
    reader: str
    stream: int
    streams: int
    checksums: bytes
    decoder: str = field(default="", kw_only=True, repr=False)
    times: bytes = field(default=b"", kw_only=True, repr=False)


def _first_video(path: Path) -> list[str]:
    """Arguments that decode the first video stream, never a cover picture, up to the first damage."""
    return ["-xerror", "-threads", "1", "-i", f"file:{path}", "-map", "0:V:0", "-fps_mode", "passthrough"]


def probe(path: str | Path) -> Probe:
    """What a file holds, and how to read it; raises UnreadableVideo where a decoder notices any damage."""
    path = Path(path)
    if not path.is_file():
        raise UnreadableVideo(f"{path}: no such file")
    state = path.stat()
    return probe_once(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)
def probe_once(path: Path, size: int, changed: int) -> Probe:
    """`probe` of a file in one state of its bytes."""
    if size == 0:
        raise UnreadableVideo(f"{path} is empty")
    if path.suffix.lower() in IMAGES:
        _, height, width, _ = read_image(path).shape
        return Probe(1, 0.0, height, width, path.suffix[1:].lower(), 0.0, size, "image", 0, 1, b"")
    hashes = ["-enc_time_base", f"1:{TICKS}", "-pix_fmt", "rgb24", "-f", "framehash", "-hash", "crc32"]
    done = ffmpeg([*_first_video(path), *hashes, "-"])
    log = done.stderr.decode(errors="replace")
    if done.returncode:
        raise UnreadableVideo(f"{path} cannot be read: {complaint(log)}")
    rows = [line.split(",") for line in done.stdout.decode().splitlines() if line and line[0] != "#"]
    checksums = [int(row[5], 16) for row in rows]
    header, _, output = log.partition("\nOutput #0")
    streams = re.findall(r"^  Stream #0:(\d+).*?: Video: (.*)$", header, re.MULTILINE)
    streams = [(int(number), line) for number, line in streams if "(attached pic)" not in line]
    upright = re.search(r": Video: .*? (\d+)x(\d+)[ ,]", output)
    if not checksums or not streams or not upright:
        raise UnreadableVideo(f"{path} holds no video frame")
    number, line = streams[0]
    width, height = int(upright[1]), int(upright[2])
    clock = re.search(r"Duration: (\d+):(\d+):([\d.]+)", header)
    duration = int(clock[1]) * 3600 + int(clock[2]) * 60 + float(clock[3]) if clock else 0.0
    rate = re.search(r", ([\d.]+)(k?) fps", line) or re.search(r", ([\d.]+)(k?) tbr", line)
    if rate:
        fps = float(rate[1]) * (1000 if rate[2] else 1)
        ntsc = round(fps * 1.001) * 1000 / 1001  # the fraction that two printed decimals may stand for
        fps = ntsc if fps != round(fps) and abs(fps - ntsc) < 0.006 else fps
    elif duration:
        fps = len(checksums) / duration
    else:
        raise UnreadableVideo(f"{path} does not say its frame rate")
    codec = line.split()[0].rstrip(",")
    seekable = codec in SEEKABLE and len(streams) == 1 and decord_agrees(path, (height, width), checksums)
    reader = "decord" if seekable else "sequential"
    times = _uneven_times([int(row[2]) for row in rows], fps)
    frames, checksums = len(checksums), array("I", checksums).tobytes()
    facts = (frames, fps, height, width, codec, duration, size, reader, number, len(streams), checksums)
    return Probe(*facts, decoder=decoder(), times=times)


def _uneven_times(ticks: list[int], fps: float) -> bytes:
    """The `times` of a Probe: none where every frame lies within a quarter of an interval of a constant rate.

    That rate must be `fps` to 1 %, as some print it with two decimals. Times that run backwards say nothing.
    """
    times, last = [tick - ticks[0] for tick in ticks], len(ticks) - 1
    interval = times[-1] / max(1, last)
    even = all(abs(time - k * interval) <= interval / 4 for k, time in enumerate(times))
    as_printed = abs(interval * fps / TICKS - 1) * last <= 0.25 + 0.01 * last
    if (even and as_printed) or times != sorted(times) or not 0 < times[-1] < 1 << 32:
        return b""
    return array("I", times).tobytes()


def decord_agrees(path: Path, size: tuple[int, int], checksums: list[int]) -> bool:
    """Whether decord sees the same frames as a sequential decoder, also after seeks around keyframes.

    An edit list gives it frames of negative time that no player shows; it may take another stream.
    """
    try:
        import decord
    except ImportError:
        return False
    try:
        reader = decord.VideoReader(str(path.resolve()), num_threads=1)
        if len(reader) != len(checksums):
            return False
        start = float(reader.get_frame_timestamp(0)[0])
        if -1e9 < start < 0:  # far below: a packet without a time, as in AVI, which does no harm
            return False
        last = len(checksums) - 1
        keys = [key + step for key in reader.get_key_indices() for step in (0, 1, -1)]
        places = [k for k in dict.fromkeys([last, 0, *keys, last // 2, last // 3]) if 0 <= k <= last]
        every = max(1, len(places) // SEEKS_TRIED)
        # From the end to the start, so that each of them is a seek.
        for index in sorted(places[::every], reverse=True):
            frame = reader[index].asnumpy()
            if frame.shape[:2] != size or zlib.crc32(frame.tobytes()) != checksums[index]:
                return False
    except (decord.DECORDError, RuntimeError, AssertionError):
        return False
    return True


def read_frames(path: str | Path, indices: Sequence[int], known: Probe | None = None) -> Tensor:
    """Frames at exactly these indices, in this order, uint8 T H W C, of the first video stream, upright.

    `known`, from a manifest, saves decoding the file once to learn how it must be read. Raises
    UnreadableVideo for a damaged file, or one changed since; ValueError for an index that it does not have.
    """
    path = Path(path)
    if known is None:
        known = probe(path)
    elif not path.is_file():
        raise UnreadableVideo(f"{path}: no such file")
    elif path.stat().st_size != known.bytes:
        raise UnreadableVideo(f"{path} has changed since it was indexed: run `dit data index` again")
    wrong = [index for index in indices if not 0 <= index < known.frames]
    if wrong or not len(indices):
        raise ValueError(f"{path} has frames 0 to {known.frames - 1}, not {wrong[0] if wrong else 'none'}")
    if known.reader == "image":
        return read_image(path).expand(len(indices), -1, -1, -1)
    distinct, frames, checksums = sorted(set(indices)), None, array("I", known.checksums)
    if known.reader == "decord":
        # It was right when tried, but not at every call: the last frame of an AVI may be an earlier one.
        # Where it is wrong, fails or is not installed, the file is read in sequence.
        with suppress(ImportError):
            import decord

            with suppress(decord.DECORDError, RuntimeError, AssertionError):
                frames = decord.VideoReader(str(path.resolve()), num_threads=1).get_batch(distinct).asnumpy()
    if frames is None or [zlib.crc32(frame) for frame in frames] != [checksums[index] for index in distinct]:
        frames = _read_in_sequence(path, distinct, known)
    frames = torch.as_tensor(frames)
    return frames if distinct == list(indices) else frames[[distinct.index(index) for index in indices]]


def _read_in_sequence(path: Path, indices: list[int], known: Probe) -> Tensor:
    """Frames of any file, by decoding it from the start to the last of them."""
    ranges = "+".join(f"between(n,{first},{last})" for first, last in _runs(indices))
    arguments = [
        "-v",
        "error",
        *_first_video(path),
        "-vf",
        f"select='{ranges}'",
        "-frames:v",
        str(len(indices)),
    ]
    done = ffmpeg([*arguments, "-pix_fmt", "rgb24", "-f", "rawvideo", "-"])
    shape = len(indices), known.height, known.width, 3
    if done.returncode or len(done.stdout) != torch.Size(shape).numel():
        raise UnreadableVideo(f"{path} cannot be read: {complaint(done.stderr.decode(errors='replace'))}")
    frames = torch.frombuffer(bytearray(done.stdout), dtype=torch.uint8).view(shape)
    checksums = array("I", known.checksums)
    if [zlib.crc32(frame.numpy().tobytes()) for frame in frames] != [checksums[index] for index in indices]:
        why = f"was indexed by {known.decoder}, and {decoder()} decodes it to other bytes"
        if known.decoder in ("", decoder()):
            why = "has changed since it was indexed"
        raise UnreadableVideo(f"{path} {why}: run `dit data index` again")
    return frames


def _runs(indices: list[int]) -> list[tuple[int, int]]:
    """Rising indices as first and last of each unbroken run."""
    breaks = [0, *(k for k in range(1, len(indices)) if indices[k] > indices[k - 1] + 1), len(indices)]
    return [(indices[first], indices[end - 1]) for first, end in pairwise(breaks)]


def read_image(path: Path) -> Tensor:
    """An image as a video of one frame, turned as its EXIF says; raises UnreadableVideo.

    16 bits of grey become 8; what is transparent shows white.
    """
    import numpy
    from PIL import Image, ImageOps, UnidentifiedImageError

    wrong = (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError)
    try:
        with Image.open(path) as image:
            pixels = numpy.array(_to_rgb(ImageOps.exif_transpose(image), image.format))
    except wrong as error:
        raise UnreadableVideo(f"{path} cannot be read: {error}") from None
    return torch.from_numpy(pixels)[None]


def _to_rgb(image, format: str | None):
    """A Pillow image in 8-bit RGB; raises ValueError for values of unknown range."""
    import numpy
    from PIL import Image

    if image.mode.startswith("I;16") or (image.mode == "I" and format == "PNG"):
        levels = (numpy.asarray(image).astype("uint32") * 255 + 32767) // 65535
        image = Image.fromarray(levels.astype("uint8"))
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels are numbers of no known range (mode {image.mode})")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def to_video(frames_THWC: Tensor) -> Tensor:
    """Frames of bytes as a float video C T H W in [-1, 1]."""
    return rearrange(frames_THWC, "t h w c -> c t h w").float() / 127.5 - 1


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
