"""The clips that a protocol scores: which videos of a folder and which frames, as names and seeds say."""

import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from configs.protocol import ClipChoice
from vae.data.images import IMAGES, UnreadableVideo, is_animation, read_image
from vae.data.manifest import HALF, NAME, find_files, load_manifest
from vae.data.video import VIDEOS, Probe, probe, read_frames
from vae.training.progress import progress
from vae.training.seeds import uniform

SHOWN = 3  # reasons in a line


@dataclass(frozen=True)
class Source:
    """A video of one side: its name within the folder, without ending, and its file or its frames' files.

    `wrong` says why frames form no video, where they do not.
    """

    name: str
    path: Path
    pictures: tuple[Path, ...] = ()
    known: Probe | None = None
    wrong: str = ""


@dataclass(frozen=True)
class Clip:
    """The frames of a video that are scored."""

    source: Source
    frames: tuple[int, ...]


def find_sources(where: str | Path) -> list[Source]:
    """The videos of a manifest, of a folder, or of a folder whose folders hold frames, sorted by name.

    Frames are in the order of their names, see `order_frames`; pictures that are none are said. Raises
    ValueError where there is no video, or where two have one name.
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
        files = find_files(path)
        animations = {f for f in files if f.suffix.lower() in IMAGES and is_animation(f)}
        folders: dict[Path, list[Path]] = {}
        for file in files:
            if file.suffix.lower() in IMAGES and file.parent != path and file not in animations:
                folders.setdefault(file.parent, []).append(file)
        previews = {f for f in animations if len(folders.get(f.parent, ())) > 1}
        videos = [f for f in files if f.suffix.lower() in VIDEOS or f in animations - previews]
        left_out = sorted(previews)
        if videos:  # pictures beside videos are sheets and covers
            left_out, folders = sorted(previews.union(*folders.values())), {}
        for folder, pictures in folders.items():
            numbered = [f for f in pictures if re.search(r"\d", f.stem)]
            left_out += [f for f in pictures if numbered and f not in numbered]
            folders[folder] = numbered or pictures
        if left_out:
            more = f" and {len(left_out) - 1} more pictures are" if len(left_out) > 1 else " is"
            print(f"note: {left_out[0]}{more} no frame of a video: left out", file=sys.stderr)
        sources = [Source(relative(f.with_suffix(""), path), f) for f in videos]
        sources += [_of_frames(relative(f, path), f, pictures) for f, pictures in folders.items()]
    if not sources:
        raise ValueError(f"{where} holds no video, and no folder of frames")
    if odd := next((source for source in sources if HALF.search(source.name)), None):
        raise ValueError(f"{str(odd.path)!a}: its name is not UTF-8: rename it")
    sources.sort(key=lambda source: source.name)
    for one, other in pairwise(sources):
        if one.name == other.name:
            raise ValueError(f"{one.path} and {other.path} have one name: which is {one.name}?")
    return sources


def relative(file: Path, root: Path) -> str:
    """A file's path below the root, or its whole path where it lies elsewhere, with forward slashes."""
    return (file.relative_to(root) if file.is_relative_to(root) else file).as_posix()


def _of_frames(name: str, folder: Path, pictures: list[Path]) -> Source:
    """The video whose frames lie in a folder."""
    try:
        return Source(name, folder, tuple(order_frames(pictures)))
    except ValueError as error:
        return Source(name, folder, tuple(pictures), wrong=f"{folder}: {error}")


def order_frames(pictures: list[Path]) -> list[Path]:
    """Frames in the natural order of their names: every number in them counts, from the left.

    Raises ValueError where that is not surely their order in time, or some are missing: names of two kinds, a
    number twice, decimals of two lengths (is 0.10 before 0.9?), steps of two lengths.
    """
    kinds: dict[str, Path] = {}
    by_numbers: dict[tuple[int, ...], Path] = {}
    for picture in pictures:
        kinds.setdefault(re.sub(r"\d+", "#", picture.stem), picture)
        numbers = tuple(map(int, re.findall(r"\d+", picture.stem)))
        if numbers and numbers in by_numbers:
            raise ValueError(f"{by_numbers[numbers].name} and {picture.name} have one number")
        by_numbers[numbers] = picture
    if len(kinds) > 1:
        one, other, *_ = (picture.name for picture in kinds.values())
        raise ValueError(f"{one} and {other} are named in two ways: which are the frames, in which order?")
    ordered = [by_numbers[numbers] for numbers in sorted(by_numbers)]
    columns = list(zip(*(re.findall(r"\d+", picture.stem) for picture in ordered), strict=True))
    changing = [k for k, column in enumerate(columns) if len({*column}) > 1]
    between = re.split("#", next(iter(kinds)))  # what stands before each number, and after the last
    decimals = [k for k in changing if k and between[k] == "."]
    if any(len({len(digits) for digits in columns[k]}) > 1 for k in decimals):
        raise ValueError(f"the decimals in {ordered[0].name} and other names have not one length")
    if len(changing) == 1 or (len(changing) == 2 and decimals == changing[1:] == [changing[0] + 1]):
        values = [float(".".join(digits)) for digits in zip(*(columns[k] for k in changing), strict=True)]
        steps = [after - before for before, after in pairwise(values)]
        usual = sorted(steps)[len(steps) // 2]
        for (one, other), step in zip(pairwise(ordered), steps, strict=True):
            if not usual / 2 < step < usual * 3 / 2:
                jump = f"from {one.name} to {other.name} numbers step by {step:g}, elsewhere by {usual:g}"
                raise ValueError(f"{jump}: frames are missing")
    return ordered


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
        if source.wrong:
            return UnreadableVideo(source.wrong)
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
            bar = progress(probes, "probing", len(part), unit="video", disable=not unknown, leave=False)
            yield from zip(part, bar, strict=True)


def frame_count(source: Source) -> int:
    """How many frames a video has; raises UnreadableVideo."""
    if source.wrong:
        raise UnreadableVideo(source.wrong)
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
