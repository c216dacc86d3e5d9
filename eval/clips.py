"""The clips that a protocol scores: which videos and which frames, as contents and seeds say."""

import hashlib
import heapq
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

from configs.protocol import ClipChoice, Protocol
from eval.contents import content_hashes
from vae.data.images import IMAGES, UnreadableVideo, is_animation, read_image
from vae.data.index import list_hash
from vae.data.manifest import HALF, NAME, find_files, load_manifest
from vae.data.tables import few
from vae.data.video import VIDEOS, Probe, probe, read_frames
from vae.training.progress import progress
from vae.training.seeds import uniform

SHOWN = 3  # reasons in a line
WINDOW = "@"  # between a video's name and a clip's first frame


@dataclass(frozen=True)
class Source:
    """A video of one side: its name within the folder, without ending, and its file or its frames' files.

    The name is for people; what is drawn of a video follows its `key`, see `with_keys`. `wrong` says why
    frames form no video, where they do not, or that a manifest's file is gone.
    """

    name: str
    path: Path
    pictures: tuple[Path, ...] = ()
    known: Probe | None = None
    wrong: str = ""
    key: str = ""

    @property
    def gone(self) -> bool:
        """Whether a manifest lists its file, and it is not there: it has no content."""
        return bool(self.wrong) and not self.pictures

    @property
    def files(self) -> tuple[Path, ...]:
        """Its file, or its frames' files in their order."""
        return self.pictures or (self.path,)


@dataclass(frozen=True)
class Clip:
    """The frames of a video that are scored."""

    source: Source
    frames: tuple[int, ...]


def find_sources(where: str | Path) -> list[Source]:
    """The videos of a manifest, of a folder, or of a folder whose folders hold frames, sorted by name.

    Names are within the folder, those of a manifest within the folder that holds all its videos. Frames are
    in the order of their names, see `order_frames`; pictures that are none are said. Raises ValueError where
    there is no video, or where two have one name.
    """
    path = Path(where)
    if not path.exists():
        raise ValueError(f"{where}: no such folder or manifest")
    if path.suffix.lower() in VIDEOS | IMAGES and path.is_file():
        raise ValueError(f"{where} is one file: give its folder")
    if path.is_file() or (path / NAME).is_file():
        entries = [entry for entry in load_manifest(path) if entry.reader != "image"]
        homes = {os.path.abspath(entry.path.parent) for entry in entries}
        home = Path(os.path.commonpath(homes)) if homes else path
        names = [relative(Path(os.path.abspath(entry.path)).with_suffix(""), home) for entry in entries]
        gone = ["" if entry.path.is_file() else f"{entry.path}: no such file" for entry in entries]
        sources = [Source(n, e.path, (), e, wrong=w) for n, e, w in zip(names, entries, gone, strict=True)]
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


def open_sources(where: str | Path, protocol: Protocol | None, copies_of: str = "") -> list[Source]:
    """`find_sources` with the keys of videos that are named by the protocol's official list: their stems.

    Copies have the keys of the videos of their names that they are copies of; one that has none there keeps
    its own, and a line says so.
    """
    sources, official = find_sources(where), getattr(protocol, "list_sha256", "")
    stems = [Path(source.name).name for source in sources]
    if official and list_hash(stems) == official:
        sources = [replace(source, key=stem) for source, stem in zip(sources, stems, strict=True)]
    if not copies_of:
        return sources
    originals = partners(sources, with_keys(open_sources(copies_of, protocol)))
    if without := [source.name for source in sources if source.name not in originals]:
        print(f"note: {copies_of} holds no original of {few(without)}", file=sys.stderr)
    return [replace(source, key=originals.get(source.name, source).key) for source in sources]


def partners(sources: list[Source], others: list[Source]) -> dict[str, Source]:
    """By a video's name the other side's of that name, or the only one there whose name it ends in, or that
    ends in it: one side may be given by a folder further up."""
    exact, by_stem = {other.name: other for other in others}, {}
    names = {source.name for source in sources}
    for other in others:
        if other.name not in names:
            by_stem.setdefault(other.name.split("/")[-1], []).append(other)
    found = {}
    for source in sources:
        near = [exact[source.name]] if source.name in exact else []
        for other in [] if near else by_stem.get(source.name.split("/")[-1], []):
            long, short = sorted((source.name, other.name), key=len, reverse=True)
            near += [other] * long.endswith(f"/{short}")
        if len(near) == 1:
            found[source.name] = near[0]
    return found


def with_keys(sources: list[Source]) -> list[Source]:
    """Videos with the keys by which they are drawn and ordered; one that has none gets its content's hash.

    Of several of one content the second is numbered, and so on: they are drawn apart, and whichever has
    which number, the same frames are scored. One whose file is gone keeps none.
    """
    missing = [source for source in sources if not (source.key or source.gone)]
    hashes = iter(content_hashes([source.files for source in missing]))
    keyed, seen = [], Counter()
    for source in sources:
        if not (source.key or source.gone):
            key = next(hashes)
            seen[key] += 1
            source = replace(source, key=key if seen[key] == 1 else f"{key} {seen[key]}")
        keyed.append(source)
    return keyed


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
    """At most `count` clips (0: all), one a video, sorted by key; and what was passed over, with the reason.

    Videos are taken by name or by their draw until there are enough; one too short or unreadable is passed
    over and the next is taken. Neither names nor folders move a draw, nor the order. A choice of windows is
    one of all clips of all videos, see `video_of`.
    """
    if choice.videos == "windows":
        return _choose_windows(sources, choice, count, stride)
    chosen, passed = [], {}
    if choice.videos == "random":
        sources = with_keys(sources)
        sources.sort(key=lambda source: (uniform("video", choice.seed, source.key), source.key))
    for source, known in _probed(sources, count):
        if count and len(chosen) == count:
            break
        try:
            source, span, starts = _fitting(source, known, choice, stride)
        except UnreadableVideo as error:
            passed[source.name] = str(error)
            continue
        chosen.append((source, span, starts))
    keyed = with_keys([source for source, _, _ in chosen])
    clips = []
    for source, (_, span, starts) in zip(keyed, chosen, strict=True):
        first = {
            "first": 0,
            "middle": (starts - 1) // 2,
            "random": int(uniform("start", choice.seed, source.key) * starts),
        }[choice.start]
        clips.append(Clip(source, tuple(range(first, first + span, stride))))
    return sorted(clips, key=lambda clip: clip.source.key), passed


def _choose_windows(
    sources: list[Source], choice: ClipChoice, count: int, stride: int
) -> tuple[list[Clip], dict[str, str]]:
    """At most `count` clips (0: all) of all places in all videos, each as likely as any other."""
    places, passed = [], {}
    for source, known in _probed(with_keys(sources), 0):
        try:
            source, span, starts = _fitting(source, known, choice, stride)
        except UnreadableVideo as error:
            passed[source.name] = str(error)
            continue
        places += [(source, span, first) for first in range(starts)]
    if count:
        places = heapq.nsmallest(
            count, places, key=lambda place: uniform("window", choice.seed, place[0].key, place[2])
        )
    clips = []
    for source, span, first in places:
        name, key = (f"{of}{WINDOW}{first:06d}" for of in (source.name, source.key))
        clips.append(Clip(replace(source, name=name, key=key), tuple(range(first, first + span, stride))))
    return sorted(clips, key=lambda clip: clip.source.key), passed


def video_of(name: str, choice: ClipChoice) -> str:
    """The name of the video that a clip is of: one of several is named after it, `@` and its first frame."""
    return re.sub(WINDOW + r"\d{6}$", "", name) if choice.videos == "windows" else name


def _fitting(
    source: Source, known: Probe | UnreadableVideo | None, choice: ClipChoice, stride: int
) -> tuple[Source, int, int]:
    """A video with what is known of it, the frames that a clip spans, and at how many places it may start.

    Raises UnreadableVideo for one that cannot be read, or is too short.
    """
    if isinstance(known, UnreadableVideo):
        raise known
    source = replace(source, known=known)
    have = frame_count(source)
    span = ((choice.frames or have) - 1) * stride + 1
    least = choice.least_frames(stride)
    if have < max(least, span):
        raise UnreadableVideo(f"{source.path} has {have} frames, and a clip takes {max(least, span)}")
    return source, span, have - span + 1


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


def side_hash(clips: list[Clip], in_order: bool = False) -> str:
    """SHA-256 of one side, of every clip's frames and its video's content; neither place nor name is in it.

    Nor is the order, unless that is asked for.
    """
    hashes = content_hashes([clip.source.files for clip in clips])
    lines = [f"{content} {clip.frames}\n" for content, clip in zip(hashes, clips, strict=True)]
    return hashlib.sha256("".join(lines if in_order else sorted(lines)).encode()).hexdigest()
