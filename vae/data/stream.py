"""Frames of a file one part after the other, in constant memory, as all that looks at whole files needs
them."""

import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy

from vae.data.images import UnreadableVideo, image_frames, read_image
from vae.data.video import Probe, filter_graph, first_video
from vae.data.write import command, complaint

PART_BYTES = 1 << 24  # of the frames that are held at once


def stream_frames(
    path: str | Path, known: Probe, first: int, end: int
) -> Iterator[tuple[int, numpy.ndarray]]:
    """A file's frames from `first` up to `end`, numbered as in the file, as parts uint8 T H W C; each
    with the
    number of its first frame.

    Raises UnreadableVideo where the file is damaged, has changed its size, or ends before.
    """
    path = Path(path)
    if not path.is_file():
        raise UnreadableVideo(f"{path}: no such file")
    if path.stat().st_size != known.bytes:
        raise UnreadableVideo(f"{path} has changed since it was indexed: run `dit data index` again")
    if known.reader == "image":
        yield 0, read_image(path).numpy()
        return
    if known.reader == "animation":
        for number, (frame, *_) in enumerate(image_frames(path)):
            if first <= number < end:
                yield number, frame.numpy()[None]
        return
    graph = filter_graph(known.treatment, f"select='between(n,{first},{end - 1})'")
    arguments = ["-v", "error", *first_video(path, known.codec, known.treatment), "-vf", graph]
    arguments += ["-frames:v", str(end - first), "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    shape = known.height, known.width, 3
    size = known.height * known.width * 3
    many = max(1, min(32, PART_BYTES // size))
    with tempfile.TemporaryFile() as log:  # not a pipe, which would fill and stop it while nobody reads
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": log}
        decoding = subprocess.Popen(command(arguments), start_new_session=True, **pipes)
        try:
            while first < end:
                part = numpy.empty((min(many, end - first), *shape), numpy.uint8)
                got = decoding.stdout.readinto(memoryview(part).cast("B")) // size
                if got:
                    yield first, part[:got]
                first += got
                if got < len(part):
                    break
            status = decoding.wait() if first == end else -1
        finally:
            decoding.kill()
            decoding.stdout.close()
            decoding.wait()
        if first < end or status:
            log.seek(0)
            reason = complaint(log.read().decode(errors="replace"))
            raise UnreadableVideo(f"{path} cannot be read: {reason}")


def check_frames(path: Path, known: Probe, place: int, frames_THWC: numpy.ndarray) -> None:
    """Raises UnreadableVideo where frames of a span, from its `place`-th, are not those that were indexed."""
    if not known.checksums:
        return
    wanted = numpy.frombuffer(known.checksums, numpy.uint32)[place : place + len(frames_THWC)]
    if [zlib.crc32(frame) for frame in frames_THWC] != wanted.tolist():
        raise UnreadableVideo(f"{path} has changed since it was indexed: run `dit data index` again")
