"""Videos written, mp4 and lossless mkv with their record, GIF and PNG frames; and the one door to ffmpeg."""

import json
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from configs.load import from_json, parse_json
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
MP4 = ["-movflags", "+faststart", "-f", "mp4"]
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


def write_video(file: str | Path, video_CTHW: Tensor, fps: float, record: dict) -> None:
    """Writes an H.264 mp4 that browsers play, with `record` inside; an odd side repeats its last line.

    A name that ends in .mkv gets FFV1, which keeps every bit of RGB at about ten times the size.
    `read_metadata` gives the record back, with the true size, number of frames and rate under `video`.
    """
    write_stream(file, [video_CTHW], fps, lambda: record)


def write_stream(
    file: str | Path, parts_CTHW: Iterable[Tensor], fps: float, record: Callable[[], dict]
) -> None:
    """As `write_video`, of parts of any number of frames as they come, in constant memory.

    `record` is asked for when all have come. Raises ValueError where ffmpeg fails, and for no frame at all.
    """
    file = Path(file)
    write_whole(file, lambda temporary: _write_both(temporary, file, parts_CTHW, fps, record))


def _write_both(
    temporary: Path, file: Path, parts_CTHW: Iterable[Tensor], fps: float, record: Callable[[], dict]
) -> None:
    """Writes `temporary`, which errors call `file`: pictures as they come, then a copy with the record."""
    parts = iter(parts_CTHW)
    first = next(parts, None)
    if first is None or not first.shape[1]:
        raise ValueError(f"{file} cannot be written: the video has no frame")
    count, (height, width) = 0, first.shape[2:]
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
                frames = to_frames(part)[:, kept[0]][:, :, kept[1]]
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
    comment = re.sub(r"([=;#\\\n])", r"\\\1", json.dumps(record() | {"video": video}))
    tags.write_text(f";FFMETADATA1\ncomment={comment}\n", encoding="utf-8")
    arguments = ["-v", "error", "-y", "-i", f"file:{pictures}", "-f", "ffmetadata", "-i", f"file:{tags}"]
    arguments += ["-map", "0:v", "-map_metadata", "1", "-c", "copy"]
    done = ffmpeg([*arguments, *(MATROSKA if lossless else MP4), f"file:{temporary}"])
    if done.returncode:
        raise _failed(file, done.stderr, done.returncode)


def _failed(file: Path, log: bytes, status: int) -> ValueError:
    """What an ffmpeg that failed said, or how it ended where it said nothing."""
    reason = complaint(log.decode(errors="replace")) if log.strip() else f"ffmpeg ended with status {status}"
    return ValueError(f"{file} cannot be written: {reason}")


def read_metadata(file: str | Path) -> dict:
    """The record inside an mp4 or mkv of ours, read without decoding; raises ValueError without one."""
    if not Path(file).is_file():
        raise ValueError(f"{file}: no such file")
    done = ffmpeg(["-v", "error", *ONLY_VIDEOS, "-i", f"file:{file}", "-f", "ffmetadata", "-"])
    text = done.stdout.decode(errors="replace")
    comment = re.search(r"^(?:comment|COMMENT)=((?:[^\\\n]|\\.|\\\n)*)$", text, re.MULTILINE)
    if not comment:
        raise ValueError(
            f"{file} carries no record: it was not written by this project, or was encoded again"
        )
    where = f"the record in {file}"
    return from_json(dict, parse_json(re.sub(r"\\(.|\n)", r"\1", comment[1]), where), where)


def write_gif(file: str | Path, video_CTHW: Tensor, fps: float) -> None:
    """Writes an animated GIF that repeats for ever, with 256 colours a frame."""
    import imageio.v3

    frames, times = to_frames(video_CTHW).numpy(), {"duration": 1000 / fps, "loop": 0}
    write_whole(
        Path(file), lambda temporary: imageio.v3.imwrite(temporary, frames, extension=".gif", **times)
    )


def write_png(file: str | Path, video_CTHW: Tensor) -> None:
    """Writes a video's first frame as an image, without loss."""
    from PIL import Image

    image = Image.fromarray(to_frames(video_CTHW[:, :1])[0].numpy())
    write_whole(Path(file), lambda temporary: image.save(temporary, format="PNG"))


def write_png_frames(folder: str | Path, video_CTHW: Tensor) -> None:
    """Writes every frame as `folder/0000.png` and so on, without loss, all or none; those of before go.

    Raises ValueError as `check_frames_folder` does.
    """
    from PIL import Image

    folder = Path(folder)
    check_frames_folder(folder)
    with whole(folder) as place:
        place.mkdir()
        for number, frame in enumerate(to_frames(video_CTHW)):
            Image.fromarray(frame.numpy()).save(place / f"{number:04d}.png")
        shutil.rmtree(folder, ignore_errors=True)


def check_frames_folder(folder: Path) -> None:
    """Raises ValueError for a folder that holds anything but frames, which would go with them."""
    for old in folder.iterdir() if folder.is_dir() else ():
        if not re.fullmatch(r"\d{4,}\.png", old.name):
            raise ValueError(f"{folder} holds {old.name}: give the frames a folder of their own")
