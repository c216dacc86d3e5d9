"""Videos, with their record, and pictures written, each labelled; and the one door to ffmpeg."""

import hashlib
import json
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import torch
from einops import rearrange
from torch import Tensor

from configs.load import from_json, parse_json
from vae.data.label import AIGC, GENERATED, labelled, to_comment, to_xmp
from vae.training.files import whole, write_whole

# What a video may be: no list of other files, which ffmpeg would open, on other machines too.
CONTAINERS = "mov,matroska,avi,mpeg,mpegts,mpegvideo,m4v,h264,hevc,mjpeg,flv,asf,ogg,dv,mxf"
ONLY_VIDEOS = ["-protocol_whitelist", "file", "-format_whitelist", CONTAINERS]
# How pictures are encoded, then how a file is made of them, its index in front, where a browser needs it.
# The matrix is said in the file: a player that guesses takes another for small and large videos.
H264 = [
    *("-c:v", "libx264", "-crf", "16", "-vf", "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p"),
    *("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"),
    *("-f", "mp4"),
]
# Keys of any name are kept as such, beside which a copy that knows them not still keeps the comment.
MP4 = ["-movflags", "+faststart+use_metadata_tags", "-f", "mp4"]
# Every frame alone, with checksums by which damage is seen, and nothing random: equal frames, equal bytes.
EXACT = ["-fflags", "+bitexact", "-flags:v", "+bitexact"]
LOSSLESS = [
    *("-c:v", "ffv1", "-level", "3", "-coder", "1", "-g", "1", "-slices", "4"),
    *("-pix_fmt", "bgr0", *EXACT, "-f", "matroska"),
]
MATROSKA = [*EXACT, "-f", "matroska"]
WITH_RECORD = (".mp4", ".mkv")  # formats that hold their record


def ffmpeg(arguments: Sequence[str], data: bytes | None = None) -> subprocess.CompletedProcess:
    """Runs the ffmpeg that imageio brings; its exit status is the caller's to judge.

    It is out of a terminal's reach: a Ctrl-C is for the process that reads, which may go on for a while.
    """
    source = {"stdin": subprocess.DEVNULL} if data is None else {"input": data}
    return subprocess.run(
        command(arguments), capture_output=True, check=False, start_new_session=True, **source
    )


def command(arguments: Sequence[str]) -> list[str]:
    """The ffmpeg that imageio brings, with its arguments."""
    import imageio_ffmpeg

    return [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostats", *arguments]


@lru_cache(maxsize=1)
def decoder() -> str:
    """What decodes on this machine: the same file may give other RGB bytes elsewhere."""
    import imageio_ffmpeg

    return f"ffmpeg {imageio_ffmpeg.get_ffmpeg_version()} on {platform.machine()}"


def complaint(log: str) -> str:
    """The first line in which a decoder says what is wrong, without its address."""
    wrong = re.compile(r"invalid|error|corrupt|missing|matches no streams|truncat|concealing", re.IGNORECASE)
    described = (
        "Input #",
        "Output #",
        " ",
        "[info]",
    )  # the file as such: its name and tags may hold any word
    lines = [line for line in log.splitlines() if line.strip() and not line.startswith(described)]
    line = next((line for line in lines if wrong.search(line)), (lines or ["no reason is given"])[-1])
    return re.sub(r"^(\[[^]]*\] )+", "", line).strip().rstrip(".")


def to_frames(video_CTHW: Tensor) -> Tensor:
    """The inverse of `vae.data.video.to_video`, rounded; what is outside [-1, 1] is clipped."""
    levels = (video_CTHW.float() + 1) * 127.5
    return rearrange(levels.round().clamp(0, 255).byte(), "c t h w -> t h w c").contiguous().cpu()


def write_video(
    file: str | Path, video_CTHW: Tensor, fps: float, record: dict, kind: str = GENERATED
) -> None:
    """Writes an H.264 mp4 that browsers play, with `record` inside; an odd side repeats its last line.

    A name that ends in .mkv gets FFV1, which keeps every bit of RGB at about ten times the size.
    `read_metadata` gives the record back, with the true size, number of frames and rate under `video`, and
    with a label, of a `kind` of `vae.data.label` where it has none of its own.
    """
    write_stream(file, [video_CTHW], fps, lambda: record, kind)


def write_stream(
    file: str | Path,
    parts_CTHW: Iterable[Tensor],
    fps: float,
    record: Callable[[], dict],
    kind: str = GENERATED,
) -> None:
    """As `write_video`, of parts of any number of frames as they come, in constant memory.

    `record` is asked for when all have come. Raises ValueError where ffmpeg fails, and for no frame at all.
    """
    file = Path(file)
    write_whole(file, lambda temporary: _write_both(temporary, file, parts_CTHW, fps, record, kind))


def _write_both(
    temporary: Path,
    file: Path,
    parts_CTHW: Iterable[Tensor],
    fps: float,
    record: Callable[[], dict],
    kind: str,
) -> None:
    """Writes `temporary`, which errors call `file`: pictures as they come, then a copy with the record."""
    parts = iter(parts_CTHW)
    first = next(parts, None)
    if first is None or not first.shape[1]:
        raise ValueError(f"{file} cannot be written: the video has no frame")
    count, (height, width), digest = 0, first.shape[2:], hashlib.sha256()
    lossless = file.suffix.lower() == ".mkv"
    sides = [side if lossless else side + side % 2 for side in (height, width)]
    kept = [torch.arange(sides[0]).clamp(max=height - 1), torch.arange(sides[1]).clamp(max=width - 1)]
    size = f"{sides[1]}x{sides[0]}"
    pictures, tags = temporary.with_name("pictures"), temporary.with_name("record")
    arguments = ["-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", f"{fps:.6f}"]
    arguments += ["-i", "pipe:0", *(LOSSLESS if lossless else H264), f"file:{pictures}"]
    with tempfile.TemporaryFile() as log:  # not a pipe, which would fill and stop it while nobody reads
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": log}
        encoder, complete = subprocess.Popen(command(arguments), start_new_session=True, **pipes), False
        try:
            for part in chain([first], parts):
                frames = to_frames(part)
                digest.update(frames.numpy())
                frames = frames[:, kept[0]][:, :, kept[1]]
                encoder.stdin.write(frames.numpy().tobytes())
                count += len(frames)
            encoder.stdin.close()
            complete = True
        except BrokenPipeError:
            pass  # it has died, and says below why
        except BaseException:
            encoder.kill()
            raise
        finally:
            with suppress(BrokenPipeError):
                encoder.stdin.close()
            status = encoder.wait()
        if status or not complete:
            log.seek(0)
            raise _failed(file, log.read(), status)

    # The record is whole only now; the copy has its index in front, where a browser needs it.
    video = {"frames": count, "height": height, "width": width, "fps": fps}
    said = labelled(record() | {"video": video}, digest.hexdigest(), kind)
    tags_of = {"comment": said, AIGC: said[AIGC]}
    lines = [f"{key}={_escaped(json.dumps(value))}" for key, value in tags_of.items()]
    tags.write_text("\n".join([";FFMETADATA1", *lines, ""]), encoding="utf-8")
    arguments = ["-v", "error", "-y", "-i", f"file:{pictures}", "-f", "ffmetadata", "-i", f"file:{tags}"]
    arguments += ["-map", "0:v", "-map_metadata", "1", "-c", "copy"]
    done = ffmpeg([*arguments, *(MATROSKA if lossless else MP4), f"file:{temporary}"])
    if done.returncode:
        raise _failed(file, done.stderr, done.returncode)


def _escaped(text: str) -> str:
    """A text as ffmpeg's files of metadata have it."""
    return re.sub(r"([=;#\\\n])", r"\\\1", text)


def _failed(file: Path, log: bytes, status: int) -> ValueError:
    """What an ffmpeg that failed said, or how it ended where it said nothing."""
    reason = complaint(log.decode(errors="replace")) if log.strip() else f"ffmpeg ended with status {status}"
    return ValueError(f"{file} cannot be written: {reason}")


def read_tags(file: str | Path) -> dict[str, str]:
    """What the metadata of any video or GIF says, by keys in small letters; nothing is decoded."""
    if not Path(file).is_file():
        raise ValueError(f"{file}: no such file")
    done = ffmpeg(["-v", "error", *ONLY_VIDEOS, "-i", f"file:{file}", "-f", "ffmetadata", "-"])
    text = done.stdout.decode(errors="replace")
    found = re.findall(r"^([^=;#\n]+)=((?:[^\\\n]|\\.|\\\n)*)$", text, re.MULTILINE)
    return {key.lower(): re.sub(r"\\(.|\n)", r"\1", value) for key, value in reversed(found)}


def read_metadata(file: str | Path) -> dict:
    """The record inside an mp4 or mkv of ours, read without decoding; raises ValueError without one."""
    if "comment" not in (tags := read_tags(file)):
        raise ValueError(
            f"{file} carries no record: it was not written by this project, or was encoded again"
        )
    where = f"the record in {file}"
    return from_json(dict, parse_json(tags["comment"], where), where)


def write_gif(file: str | Path, video_CTHW: Tensor, fps: float, record: Mapping = {}) -> None:
    """Writes an animated GIF that repeats for ever, with 256 colours a frame, and the label of a record."""
    import imageio.v3

    frames = to_frames(video_CTHW).numpy()
    said = labelled(record, hashlib.sha256(frames).hexdigest())
    about = {"duration": 1000 / fps, "loop": 0, "comment": to_comment(said).encode()}
    write_whole(
        Path(file), lambda temporary: imageio.v3.imwrite(temporary, frames, extension=".gif", **about)
    )


def write_png(file: str | Path, video_CTHW: Tensor, record: Mapping = {}) -> None:
    """Writes a video's first frame as an image, without loss, with the label of a record."""
    from PIL import Image

    save_picture(file, Image.fromarray(to_frames(video_CTHW[:, :1])[0].numpy()), record)


def write_png_frames(
    folder: str | Path, video_CTHW: Tensor, record: Mapping = {}, kind: str = GENERATED
) -> None:
    """Writes every frame as `folder/0000.png` and so on, without loss, all or none; those of before go.

    Each has the label of a record. Raises ValueError as `check_frames_folder` does.
    """
    from PIL import Image

    folder = Path(folder)
    check_frames_folder(folder)
    with whole(folder) as place:
        place.mkdir()
        for number, frame in enumerate(to_frames(video_CTHW)):
            save_picture(place / f"{number:04d}.png", Image.fromarray(frame.numpy()), record, kind)
        shutil.rmtree(folder, ignore_errors=True)


def save_picture(to: str | Path | BinaryIO, image, record: Mapping = {}, kind: str = GENERATED) -> None:
    """Saves a picture of Pillow's with the label of a record: a file as PNG, an open one as JPEG."""
    said = labelled(record, hashlib.sha256(image.tobytes()).hexdigest(), kind)
    if not isinstance(to, str | Path):
        about = {"comment": to_comment(said), "xmp": to_xmp(said).encode()}
        image.save(to, format="JPEG", quality=85, **about)
        return
    from PIL.PngImagePlugin import PngInfo

    about = PngInfo()
    for key, value in {"Comment": said["label"], AIGC: json.dumps(said[AIGC], ensure_ascii=False)}.items():
        about.add_itxt(key, value)
    about.add_itxt("XML:com.adobe.xmp", to_xmp(said))
    write_whole(Path(to), lambda temporary: image.save(temporary, format="PNG", pnginfo=about))


def check_frames_folder(folder: Path) -> None:
    """Raises ValueError for a folder that holds anything but frames, which would go with them."""
    for old in folder.iterdir() if folder.is_dir() else ():
        if not re.fullmatch(r"\d{4,}\.png", old.name):
            raise ValueError(f"{folder} holds {old.name}: give the frames a folder of their own")
