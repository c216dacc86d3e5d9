"""What is published of the videos of official lists, by which their contents are certified."""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import vae.data
from eval.clips import Source
from eval.contents import content_hashes

FEW_MORE = 32  # frames that a decoder may count beyond those listed, of the ends of some files


@dataclass(frozen=True)
class Published:
    """What is known of a video: its file's hash, frames and size where it was measured, else frames alone."""

    least: int
    most: int
    size: tuple[int, int] | None = None
    sha256: str = ""


@lru_cache
def published_videos(data: str) -> dict[str, Published]:
    """What is known of a data set's videos by their stems in lower case; nothing of most data sets."""
    file = Path(vae.data.__path__[0]) / f"{data}_videos.json"
    if not file.is_file():
        return {}
    table = json.loads(file.read_text())
    known = {
        f"v_{kind}_{group}_c{number:02d}".lower(): Published(frames, frames + FEW_MORE)
        for kind, groups in table["frames"].items()
        for group, counts in groups.items()
        for number, frames in enumerate(counts, 1)
    }
    for name, one in table["measured"].items():
        size = (one["width"], one["height"])
        known[name.lower()] = Published(one["frames"], one["frames"], size, one["sha256"])
    return known


def check_contents(data: str, sources: list[Source]) -> tuple[int, int, list[str]]:
    """Of how many videos the hash is as published, of how many more the frames are; and what is not so.

    Frames that lie in a folder are not the file whose hash is published: they are counted alone.
    """
    known = published_videos(data)
    pairs = [(source, known.get(Path(source.name).name.lower())) for source in sources]
    files = [source for source, one in pairs if one and one.sha256 and not source.pictures]
    hashes = dict(zip(files, content_hashes([source.files for source in files]), strict=True))
    by_hash, by_frames, wrong = 0, 0, []
    for source, one in pairs:
        if one is None:
            continue
        found = len(source.pictures) if source.pictures else source.known.frames if source.known else None
        size = (source.known.width, source.known.height) if source.known else None
        if found is not None and not one.least <= found <= one.most:
            wanted = f"{one.least}" if one.least == one.most else f"{one.least} to {one.most}"
            wrong.append(f"{source.path} has {found} frames, not {wanted}")
        elif size and one.size and size != one.size:
            wrong.append("{} has {}x{} pixels, not {}x{}".format(source.path, *size, *one.size))
        elif source in hashes and hashes[source] != one.sha256:
            wrong.append(f"{source.path} has the SHA-256 {hashes[source][:12]}, not {one.sha256[:12]}")
        elif source in hashes:
            by_hash += 1
        else:
            by_frames += found is not None
    return by_hash, by_frames, wrong
