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

from vae.data.damage import damage_in_container, damage_in_log
from vae.data.images import IMAGES, ON_WHITE, UnreadableVideo, image_frames, read_image
from vae.data.write import ONLY_VIDEOS, complaint, decoder, ffmpeg

VIDEOS = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"}
# decord's seeks are wrong in some H.265 files, and it opens no AV1; of others we have no proof.
SEEKABLE = {"h264", "mpeg4", "vp8", "vp9", "mjpeg", "ffv1"}
SEEKS_TRIED = 12
TICKS = 10_000  # a second, in which times of frames are kept: four bytes last for 119 hours
FILTERS = {  # what is done to pixels, in this order -> how; manifests name it: a new way has a new name
    "deinterlaced": "bwdif=mode=send_frame:deint=interlaced",
    "BT.2020 assumed": "setparams=color_primaries=bt2020:colorspace=bt2020nc",
    # ITU-R BT.2408: 203 cd/m2, the reference white of PQ and HLG, is white; what is brighter is clipped.
    "203 cd/m2 to white": "zscale=t=linear:npl=203,format=gbrapf32le,"
    "zscale=p=bt709:t=bt709:r=full,format=gbrap",
    ON_WHITE: "format=rgba,split[a][b];[a]drawbox=c=white:t=fill:replace=1[w];[w][b]overlay=format=gbrp",
    # As browsers do: one side grows, so that no pixel is lost.
    "square pixels": "scale='if(gt(sar,1),round(iw*sar),iw)':'if(lt(sar,1),round(ih/sar),ih)',setsar=1",
    "turned by an odd angle": "null",  # ffmpeg does it, with black corners
}
WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # ffmpeg's own decoders leave alpha out
LONGEST = 10  # times as wide as high, or the other way round, that a pixel may be


@dataclass(frozen=True)
class Probe:
    """What a file holds, found by decoding all of it once; height and width are those of the upright picture.

    `reader` is how its frames are read: `decord`, `sequential` where decord's answers are wrong, `image`, or
    `animation` for an image of several frames. `stream` is the one that is read, out of `streams` of video.
    An image has one frame and no rate. `treatment` is what was done to the pixels: names of FILTERS.
    `checksums` are the CRC-32 of every frame's RGB bytes, four bytes each in this machine's order, against
    which each frame that decord gives is checked. `decoder` made them: another one rounds colours otherwise.
    `times` are every frame's time since the first, in the same form and in ticks; a file of constant rate,
    whose frames `fps` places, has none. `start` is the file's frame that is the first: of a span everything
    said is of the span, but for `bytes` and `digest`, 128 bits of the file's bytes. `checked` is how much was
    decoded: without `full`, frames have no checksums.
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
    treatment: str = field(default="", kw_only=True)
    start: int = field(default=0, kw_only=True)
    digest: bytes = field(default=b"", kw_only=True, repr=False)
    checked: str = field(default="full", kw_only=True)

    @property
    def end(self) -> int:
        """The file's frame after the last."""
        return self.start + self.frames

    @property
    def last_tick(self) -> int:
        """When the last frame begins, in ticks since the first; 0 where `fps` says it."""
        return array("I", self.times[-4:])[0] if self.times else 0


def first_video(path: Path, codec: str = "", treatment: str = "") -> list[str]:
    """Arguments that decode the first video stream, never a cover picture, up to the first damage."""
    alpha = ["-c:v", WITH_ALPHA[codec]] if ON_WHITE in treatment and codec in WITH_ALPHA else []
    whole = ["-xerror", "-threads", "1", *ONLY_VIDEOS]
    return [*whole, *alpha, "-i", f"file:{path}", "-map", "0:V:0", "-fps_mode", "passthrough"]


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
        return _probe_image(path, size)
    if wrong := damage_in_container(path):
        raise UnreadableVideo(f"{path} cannot be read: {wrong}")
    # Interlaced frames name themselves: the first of a file say nothing of the rest.
    rows, log = _decode(path, ["-vf", "select='if(interlace_type,print(1),1)'"])
    header, streams, number, line = _describe(path, log)
    codec = line.split()[0].rstrip(",")
    treatment = _treatment(path, header, line, log)
    if treatment:
        rows, log = _decode(path, ["-vf", filter_graph(treatment)], codec, treatment)
    upright = re.search(r"rgb24.*? (\d+)x(\d+)[ ,]", log)
    if not rows or not upright:
        raise UnreadableVideo(f"{path} holds no video frame")
    width, height = int(upright[1]), int(upright[2])
    ticks, checksums = [int(row[2]) for row in rows], [int(row[5], 16) for row in rows]
    clock = re.search(r"Duration: (\d+):(\d+):([\d.]+)(?:, start: ([\d.]+))?", header)
    duration = int(clock[1]) * 3600 + int(clock[2]) * 60 + float(clock[3]) if clock else 0.0
    gap = max((after - before for before, after in pairwise(ticks)), default=0) / TICKS
    promised = duration - float(clock[4] or 0) if clock else 0.0
    lacking, spare = promised - (ticks[-1] + int(rows[-1][3])) / TICKS, 1.5 * gap + 0.02
    if lacking > spare and promised - _end_of_all(path) > spare:
        raise UnreadableVideo(f"{path} is cut: {lacking:.2f} s of its {duration:.2f} s are missing")
    fps = _rate(ticks, line, duration)
    if not fps:
        raise UnreadableVideo(f"{path} does not say its frame rate")
    try:
        times = _uneven_times(ticks)
    except OverflowError:
        raise UnreadableVideo(f"{path} cannot be read: of variable rate, and longer than 119 hours") from None
    seekable = not treatment and codec in SEEKABLE and streams == 1
    seekable = seekable and decord_agrees(path, (height, width), checksums)
    facts = (len(rows), fps, height, width, codec, duration, size, "decord" if seekable else "sequential")
    facts = *facts, number, streams, array("I", checksums).tobytes()
    return Probe(*facts, decoder=decoder(), times=times, treatment=treatment)


def _probe_image(path: Path, size: int) -> Probe:
    """`probe` of an image: of one frame, or of several, which are a video."""
    checksums, times, done = [], [0.0], set()
    for frame, seconds, treatment in image_frames(path):
        checksums.append(zlib.crc32(frame.numpy()))
        times.append(times[-1] + seconds)
        done.add(treatment)
    (height, width), codec, treatment = frame.shape[:2], path.suffix[1:].lower(), max(done)
    if len(checksums) == 1:
        return Probe(1, 0.0, height, width, codec, 0.0, size, "image", 0, 1, b"", treatment=treatment)
    ticks = [round(time * TICKS) for time in times[:-1]]
    fps = _rate(ticks, "", times[-1])
    facts = len(checksums), fps, height, width, codec, times[-1], size, "animation", 0, 1
    told = {"decoder": f"Pillow {_pillow()}", "times": _uneven_times(ticks), "treatment": treatment}
    return Probe(*facts, array("I", checksums).tobytes(), **told)


def _pillow() -> str:
    """Version of Pillow, which decodes animations."""
    import PIL

    return PIL.__version__


def _decode(path: Path, filters: list[str], *how: str) -> tuple[list[list[str]], str]:
    """Every frame's row of framehash, and ffmpeg's log with levels; raises UnreadableVideo for damage."""
    hashes = ["-enc_time_base", f"1:{TICKS}", "-pix_fmt", "rgb24", "-f", "framehash", "-hash", "crc32", "-"]
    done = ffmpeg(["-loglevel", "level+info", *first_video(path, *how), *filters, *hashes])
    log = done.stderr.decode(errors="replace")
    if "matches no streams" in log:
        raise UnreadableVideo(f"{path} holds no video stream")
    if wrong := damage_in_log(log) or (done.returncode and complaint(log)):
        raise UnreadableVideo(f"{path} cannot be read: {wrong}")
    return [row.split(",") for row in done.stdout.decode().splitlines() if row and row[0] != "#"], log


def _describe(path: Path, log: str) -> tuple[str, int, int, str]:
    """What ffmpeg's log says of a file: its header, how many video streams, the first's number and line."""
    header = re.split(r"^.*Output #0, framehash, to 'pipe:':$", log, maxsplit=1, flags=re.MULTILINE)[0]
    streams = re.findall(r"^\[info\] +Stream #0:(\d+).*?: Video: (.*)$", header, re.MULTILINE)
    streams = [(int(number), line) for number, line in streams if "(attached pic)" not in line]
    if not streams:
        raise UnreadableVideo(f"{path} holds no video frame")
    return header, len(streams), *streams[0]


def _treatment(path: Path, header: str, line: str, log: str) -> str:
    """What has to be done to the pixels of a video, as names of FILTERS; raises UnreadableVideo."""
    tags = header[header.index(line) :].split("Stream #")[0]  # of this stream
    if re.search(r"DOVI configuration.* profile: 5,", tags):
        raise UnreadableVideo(f"{path} cannot be read: the colours of Dolby Vision's profile 5 are its own")
    bright = re.search(r"\b([\w-]+)/([\w-]+)/(smpte2084|arib-std-b67)\b", line)
    shape = re.search(r"rgb24.* (\d+)x(\d+)[^\n]*\bSAR (\d+):(\d+)", log)
    pixel = int(shape[3]) / max(1, int(shape[4])) if shape else 1.0
    if shape and not 1 / LONGEST <= pixel <= LONGEST:
        raise UnreadableVideo(f"{path} cannot be read: its pixels are said to be {shape[3]}:{shape[4]}")
    longer = int(shape[1]) * pixel if pixel > 1 else int(shape[2]) / pixel if shape else 0
    with_alpha = r"\b(yuva\w+|rgba\w*|argb\w*|bgra\w*|abgr\w*|gbrap\w*|ya8|ya16\w*|vuya|ayuv\w*)\b"
    needed = {
        "deinterlaced": re.search(r"^\[Eval.*1\.0+$", log, re.MULTILINE),
        "BT.2020 assumed": bright and "unknown" in bright.groups(),
        "203 cd/m2 to white": bright,
        ON_WHITE: re.search(with_alpha, line) or re.search(r"alpha_mode +: 1$", tags, re.MULTILINE),
        "square pixels": shape and round(longer) != int(shape[1 if pixel > 1 else 2]),
        "turned by an odd angle": "Odd rotation angle" in log,
    }
    return ", ".join(name for name in FILTERS if needed[name])


def filter_graph(treatment: str, select: str = "") -> str:
    """The filter graph of a treatment, and of frames chosen as soon as they do not need their neighbours."""
    names = treatment.split(", ") if treatment else []
    first, rest = (
        [name for name in names if name == "deinterlaced"],
        [n for n in names if n != "deinterlaced"],
    )
    return ",".join(
        [*(FILTERS[n] for n in first), *([select] if select else []), *(FILTERS[n] for n in rest)]
    )


def _end_of_all(path: Path) -> float:
    """When the last of all streams ends, in seconds: sound may go on after the last frame."""
    own = ["-map", "0", "-map", "-0:t?", "-copy_unknown", "-c", "copy", "-f", "framecrc", "-"]
    done = ffmpeg(["-v", "error", *ONLY_VIDEOS, "-i", f"file:{path}", *own])
    text, end = done.stdout.decode(errors="replace"), 0.0
    clocks = {k: int(a) / int(b) for k, a, b in re.findall(r"^#tb (\d+): (\d+)/(\d+)$", text, re.MULTILINE)}
    for k, time, length in re.findall(r"^(\d+), +-?\d+, +(-?\d+), +(\d+),", text, re.MULTILINE):
        end = max(end, (int(time) + int(length)) * clocks[k])
    return end


def _rate(ticks: list[int], line: str, duration: float) -> float:
    """Frames a second: as the stream's line says where that is near what its frames' times say, else theirs.

    Zero where neither says anything.
    """
    said = re.search(r", ([\d.]+)(k?) fps", line) or re.search(r", ([\d.]+)(k?) tbr", line)
    fps = float(said[1]) * (1000 if said[2] else 1) if said else 0.0
    last, seconds = len(ticks) - 1, (ticks[-1] - ticks[0]) / TICKS
    if seconds > 0:
        if abs(seconds * fps - last) <= 0.25 + 0.01 * last:
            return _ntsc(fps)
        fps = last / seconds  # or the round number that times in ticks may stand for
        return _ntsc(round(fps, 2)) if abs(last / max(round(fps, 2), 1e-9) - seconds) < 2 / TICKS else fps
    return _ntsc(fps) or (len(ticks) / duration if duration else 0.0)


def _ntsc(fps: float) -> float:
    """The fraction that two printed decimals may stand for."""
    exact = round(fps * 1.001) * 1000 / 1001
    return exact if fps > 1 and fps != round(fps) and abs(fps - exact) < 0.006 else fps


def _uneven_times(ticks: list[int]) -> bytes:
    """The `times` of a Probe: none where every frame lies within a quarter of an interval of a constant rate.

    Times that run backwards say nothing.
    """
    times, last = [tick - ticks[0] for tick in ticks], len(ticks) - 1
    interval = times[-1] / max(1, last)
    even = all(abs(time - k * interval) <= interval / 4 for k, time in enumerate(times))
    if even or times != sorted(times) or not times[-1]:
        return b""
    return array("I", times).tobytes()


def span_times(times: bytes, fps: float) -> tuple[bytes, float]:
    """The `times` and rate of a part of a file, from the times of its frames there: as those of a file that
    holds the part alone."""
    ticks = array("I", times).tolist()
    if not ticks:
        return b"", fps
    times = _uneven_times(ticks)
    return times, fps if times or len(ticks) < 2 else _rate(ticks, "", 0.0) or fps


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

    `known`, from a manifest, saves decoding the file once to learn how it must be read; of a span,
    indices count from its start. Frames without checksums are read in sequence: nothing proves decord right.
    Raises UnreadableVideo for a damaged file, or one changed since; ValueError for an index it does not have.
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
    unknown = set(known.treatment.split(", ")) - {*FILTERS, ""}
    if unknown:
        raise UnreadableVideo(
            f"{path} was indexed by another rule, {unknown.pop()}: run `dit data index` again"
        )
    if known.reader == "image":
        return read_image(path).expand(len(indices), -1, -1, -1)
    distinct, frames, checksums = sorted(set(indices)), None, array("I", known.checksums)
    if known.reader == "decord" and checksums:
        # It was right when tried, but not at every call: the last frame of an AVI may be an earlier one.
        # Where it is wrong, fails or is not installed, the file is read in sequence.
        with suppress(ImportError):
            import decord

            with suppress(decord.DECORDError, RuntimeError, AssertionError):
                reader = decord.VideoReader(str(path.resolve()), num_threads=1)
                frames = reader.get_batch([known.start + index for index in distinct]).asnumpy()
    if frames is None or [zlib.crc32(frame) for frame in frames] != [checksums[index] for index in distinct]:
        frames = _read_in_sequence(path, distinct, known)
    frames = torch.as_tensor(frames)
    return frames if distinct == list(indices) else frames[[distinct.index(index) for index in indices]]


def _read_in_sequence(path: Path, indices: list[int], known: Probe) -> Tensor:
    """Frames of any file, by decoding it from the start to the last of them."""
    if known.reader == "animation":
        places = [known.start + index for index in indices]
        return _as_indexed(path, torch.stack([f for f, *_ in image_frames(path, places)]), indices, known)
    ranges = "+".join(
        f"between(n,{first},{last})" for first, last in _runs([known.start + index for index in indices])
    )
    graph = filter_graph(known.treatment, f"select='{ranges}'")
    arguments = ["-v", "error", *first_video(path, known.codec, known.treatment), "-vf", graph]
    done = ffmpeg([*arguments, "-frames:v", str(len(indices)), "-pix_fmt", "rgb24", "-f", "rawvideo", "-"])
    shape = len(indices), known.height, known.width, 3
    if done.returncode or len(done.stdout) != torch.Size(shape).numel():
        raise UnreadableVideo(f"{path} cannot be read: {complaint(done.stderr.decode(errors='replace'))}")
    frames = torch.frombuffer(bytearray(done.stdout), dtype=torch.uint8).view(shape)
    return _as_indexed(path, frames, indices, known)


def _as_indexed(path: Path, frames: Tensor, indices: list[int], known: Probe) -> Tensor:
    """The frames, whose checksums are those of the index; raises UnreadableVideo where they are not."""
    checksums = array("I", known.checksums)
    if not checksums:
        return frames
    if [zlib.crc32(frame.numpy().tobytes()) for frame in frames] != [checksums[index] for index in indices]:
        own = decoder() if known.reader != "animation" else f"Pillow {_pillow()}"
        why = f"was indexed by {known.decoder}, and {own} decodes it to other bytes"
        if known.decoder in ("", own):
            why = "has changed since it was indexed"
        raise UnreadableVideo(f"{path} {why}: run `dit data index` again")
    return frames


def _runs(indices: list[int]) -> list[tuple[int, int]]:
    """Rising indices as first and last of each unbroken run."""
    breaks = [0, *(k for k in range(1, len(indices)) if indices[k] > indices[k - 1] + 1), len(indices)]
    return [(indices[first], indices[end - 1]) for first, end in pairwise(breaks)]


def to_video(frames_THWC: Tensor) -> Tensor:
    """Frames of bytes as a float video C T H W in [-1, 1]."""
    return rearrange(frames_THWC, "t h w c -> c t h w").float() / 127.5 - 1


def how_fitted(have_height: int, have_width: int, height: int, width: int) -> str:
    """What `resize_and_crop` does to a picture, in words, its sizes as width x height."""
    if height * have_width > width * have_height:  # its height is what is short
        scaled = max(width, round(have_width * (height / have_height))), height
    else:
        scaled = width, max(height, round(have_height * (width / have_width)))
    steps = [f"{have_width}x{have_height}"]
    if scaled != (have_width, have_height):
        steps.append(f"scaled to {scaled[0]}x{scaled[1]}")
    if scaled != (width, height):
        steps.append(f"cut about its centre to {width}x{height}")
    return ", ".join(steps) if len(steps) > 1 else f"{steps[0]}, as it is"


def resize_and_crop(frames_THWC: Tensor, height: int, width: int) -> Tensor:
    """Frames scaled, with antialiasing, to just cover height x width, and cut to it about the centre."""
    frames = rearrange(frames_THWC, "t h w c -> t c h w")
    scale = max(height / frames.shape[2], width / frames.shape[3])
    size = max(height, round(frames.shape[2] * scale)), max(width, round(frames.shape[3] * scale))
    if size != frames.shape[2:]:
        frames = torch.nn.functional.interpolate(frames, size, mode="bicubic", antialias=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return rearrange(frames[:, :, top : top + height, left : left + width], "t c h w -> t h w c").contiguous()
