"""The clips that a protocol scores: which videos of a folder and which frames, as names and seeds say."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from configs.protocol import ClipChoice
from vae.data.manifest import NAME, load_manifest
from vae.data.video import IMAGES, VIDEOS, Probe, UnreadableVideo, probe, read_frames, read_image
from vae.training.seeds import uniform

SHOWN = 3  # reasons in a line


@dataclass(frozen=True)
class Source:
    """A video of one side: its name within the folder, without ending, and its file or its frames' files."""

    name: str
    path: Path
    pictures: tuple[Path, ...] = ()
    known: Probe | None = None


@dataclass(frozen=True)
class Clip:
    """The frames of a video that are scored."""

    source: Source
    frames: tuple[int, ...]


def find_sources(where: str | Path) -> list[Source]:
    """The videos of a manifest, of a folder, or of a folder whose folders hold frames, sorted by name.

    Frames are taken in the order of the numbers in their names. Raises ValueError where there is none, or
    where two have one name.
    """
    path = Path(where)
    if not path.exists():
        raise ValueError(f"{where}: no such folder or manifest")
    if path.suffix.lower() in VIDEOS | IMAGES and path.is_file():
        raise ValueError(f"{where} is one file: give its folder")
    if path.is_file() or (path / NAME).is_file():
        entries, home = load_manifest(path), (path if path.is_dir() else path.parent)
        sources = [
            Source(relative(e.path.with_suffix(""), home), e.path, (), e)
            for e in entries
            if e.reader != "image"
        ]
    else:
        files = [f for f in path.rglob("*") if f.suffix.lower() in VIDEOS | IMAGES and f.is_file()]
        files = [f for f in files if not hidden(f, path)]
        videos = [f for f in files if f.suffix.lower() in VIDEOS]
        folders: dict[Path, list[Path]] = {}
        for file in files:
            if file.suffix.lower() in IMAGES and file.parent != path:
                folders.setdefault(file.parent, []).append(file)
        if videos and folders:
            folders = {}  # pictures beside videos are sheets and covers
        sources = [Source(relative(f.with_suffix(""), path), f) for f in videos]
        sources += [Source(relative(f, path), f, tuple(sorted(p, key=number))) for f, p in folders.items()]
    if not sources:
        raise ValueError(f"{where} holds no video, and no folder of frames")
    sources.sort(key=lambda source: source.name)
    for one, other in pairwise(sources):
        if one.name == other.name:
            raise ValueError(f"{one.path} and {other.path} have one name: which is {one.name}?")
    return sources


def hidden(file: Path, root: Path) -> bool:
    """Whether a part of a file's path below the root begins with a dot."""
    return any(part.startswith(".") for part in file.relative_to(root).parts)


def relative(file: Path, root: Path) -> str:
    """A file's path below the root, or its whole path where it lies elsewhere, with forward slashes."""
    return (file.relative_to(root) if file.is_relative_to(root) else file).as_posix()


def number(file: Path) -> tuple[int, str]:
    """The last number in a file's name, by which frames are ordered; without one they come first, by name."""
    digits = [part for part in "".join(c if c.isdigit() else " " for c in file.stem).split() if part]
    return (int(digits[-1]) if digits else -1, file.name)


def choose_clips(
    sources: list[Source], choice: ClipChoice, count: int, stride: int
) -> tuple[list[Clip], dict[str, str]]:
    """At most `count` clips (0: all), one a video, sorted by name; and what was passed over, with the reason.

    Videos are taken by name or by their draw until there are enough; one too short or unreadable is passed
    over and the next is taken.
    """
    clips, passed = [], {}
    if choice.videos == "random":
        sources = sorted(
            sources, key=lambda source: (uniform("video", choice.seed, source.name), source.name)
        )
    for source, known in _probed(sources, count):
        if count and len(clips) == count:
            break
        if isinstance(known, UnreadableVideo):
            passed[source.name] = str(known)
            continue
        source = replace(source, known=known)
        have = frame_count(source)
        span = ((choice.frames or have) - 1) * stride + 1
        if have < span:
            passed[source.name] = f"{source.path} has {have} frames, and a clip takes {span}"
            continue
        starts = have - span + 1
        first = {
            "first": 0,
            "middle": (starts - 1) // 2,
            "random": int(uniform("start", choice.seed, source.name) * starts),
        }[choice.start]
        clips.append(Clip(source, tuple(range(first, first + span, stride))))
    return sorted(clips, key=lambda clip: clip.source.name), passed


def _probed(sources: list[Source], count: int) -> Iterator[tuple[Source, Probe | UnreadableVideo | None]]:
    """Every video with what it holds, or what is wrong with it, or nothing of pictures; as many as are wanted
    are probed at once, by threads, since each is decoded whole where no manifest knows it."""

    def look(source: Source) -> Probe | UnreadableVideo | None:
        try:
            return None if source.pictures else source.known or probe(source.path)
        except UnreadableVideo as error:
            return error

    size = count or len(sources)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, len(sources), size):
            part = sources[first : first + size]
            probes = pool.map(look, part)
            unknown = not all(source.known or source.pictures for source in part)
            bar = tqdm(probes, "probing", len(part), unit="video", disable=not unknown, leave=False)
            yield from zip(part, bar, strict=True)


def frame_count(source: Source) -> int:
    """How many frames a video has; raises UnreadableVideo."""
    if source.pictures:
        return len(source.pictures)
    return (source.known or probe(source.path)).frames


def read_clip(clip: Clip) -> Tensor:
    """A clip's frames, uint8 T H W C; raises UnreadableVideo for damage, or frames of several sizes."""
    if not clip.source.pictures:
        return read_frames(clip.source.path, clip.frames, clip.source.known)
    frames = [read_image(clip.source.pictures[index]) for index in clip.frames]
    if len({frame.shape for frame in frames}) > 1:
        raise UnreadableVideo(f"{clip.source.path} holds frames of several sizes")
    return torch.cat(frames)


def passed_lines(passed: dict[str, str]) -> list[str]:
    """What was passed over, in a line with the first reasons; none where nothing was."""
    if not passed:
        return []
    more = f"; and {len(passed) - SHOWN} more, all in --json" if len(passed) > SHOWN else ""
    return [f"{len(passed)} passed over: {'; '.join(list(passed.values())[:SHOWN])}{more}"]


def rates_and_sizes(clips: list[Clip]) -> dict[str, dict[str, int]]:
    """How many clips are of videos of each rate, in frames a second, and size; pictures have no rate."""
    known = [clip.source.known for clip in clips if clip.source.known]
    known.sort(key=lambda p: (p.fps, p.width, p.height))
    counts = {"rates": [f"{p.fps:g}" for p in known], "sizes": [f"{p.width}x{p.height}" for p in known]}
    return {name: dict(Counter(values)) for name, values in counts.items()}


def side_hash(clips: list[Clip]) -> str:
    """SHA-256 of one side: every clip's name, frames, and the bytes of its files, in the clips' order."""
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(f"{clip.source.name} {clip.frames}\n".encode())
        pictures = [clip.source.pictures[index] for index in clip.frames] if clip.source.pictures else []
        for file in pictures or [clip.source.path]:
            with open(file, "rb") as data:
                digest.update(hashlib.file_digest(data, "sha256").digest())
    return digest.hexdigest()
