"""Training clips: from the drawn world or from files, each a pure function of (seed, draw)."""

import hashlib
import json
import os
import re
import sys
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from configs.data import DRAWN, DataConfig
from vae.compression import Compression
from vae.data.drawn_captions import caption
from vae.data.drawn_world import draw as draw_scene
from vae.data.drawn_world import random_scene
from vae.data.mixture import open_mixture
from vae.data.sizes import EqualSizes, FileSizes, tokens_of
from vae.data.video import TICKS, UnreadableVideo, read_frames, resize_and_crop, to_video
from vae.training.files import naming
from vae.training.seeds import generator, shuffled

SCENES_SHOWN = 256
ROUNDED = 1e-4  # seconds by which the times of frames, and sums of them, may be off


@dataclass(frozen=True)
class Clip:
    """A training clip: float video C T H W in [-1, 1], its caption, where it came from, and which draw it is.

    What else is random of a sample is a function of (seed, `draw`) as well. `skipped` are the files it was
    taken in place of, as they cannot be read: path -> reason. A clip of a cache has no video but its latents'
    `posterior`, C T H W each: the mean, and where asked the log-variance.
    """

    video: Tensor | None
    caption: str
    source: str
    skipped: dict[str, str] = field(default_factory=dict)
    posterior: tuple[Tensor, ...] = ()
    draw: int = 0

    def map(self, change: Callable[[Tensor], Tensor]) -> "Clip":
        """The same clip with every tensor changed, moved or pinned."""
        video = None if self.video is None else change(self.video)
        return replace(self, video=video, posterior=tuple(map(change, self.posterior)))


class UnusableData(ValueError):
    """Data that training cannot go on with, whichever process found it."""


class NothingReadable(UnusableData):
    """A data set none of whose files can be read."""


class DrawnWorld(Dataset):
    """The drawn world: draw `i` is scene `i` of the seed, for ever new."""

    def __init__(self, config: DataConfig, seed: int, split: str = "train"):
        self.config, self.seed, self.split = config, seed, split

    def __len__(self) -> int:
        return 1 << 31  # scenes do not run out

    def __getitem__(self, draw: int) -> Clip:
        scene = random_scene(self.seed, draw, self.split)
        video = draw_scene(scene, self.config.frames, self.config.size, self.config.size)
        return Clip(video, self.caption(draw, draw), f"scene {draw}", draw=draw)

    identity = ()  # settings and seed say all of it

    def captions(self) -> Iterator[Sequence[str]]:
        """Captions of some scenes, which have no end."""
        return ([self.caption(draw, draw)] for draw in range(SCENES_SHOWN))

    def sizes(self, compression: Compression) -> EqualSizes:
        """The planned tokens of every draw."""
        size = self.config.size
        return EqualSizes(tokens_of(compression, self.config.frames, size, size))

    def caption(self, index: int, draw: int) -> str:
        """A caption of scene `index`, phrased anew for every draw."""
        return caption(random_scene(self.seed, index, self.split), self.seed, draw, "train")


class VideoFiles(Dataset):
    """Videos and images of a manifest; every epoch has its own order, clip positions and captions.

    A file that cannot be read is replaced by the next one in the epoch's order, and told in the clip's
    `skipped`; with nothing readable left NothingReadable is raised.
    """

    def __init__(self, config: DataConfig, seed: int, entries: Sequence, compression: Compression):
        self.config, self.seed, self.entries, self.compression = config, seed, entries, compression
        self.skipped: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, draw: int) -> Clip:
        # Which file: the next of the epoch's order, and those after it should it not be readable.
        count = len(self.entries)
        epoch, position = divmod(draw, count)
        order = shuffled(count, self.seed, "order", epoch)
        # From where in it: anywhere, or at one of a cache's places.
        random, places = generator(self.seed, "clip", draw), self.config.clips_per_file
        if places:
            start = starts(places)[random.integers(places)]
        else:
            start = random.random()
        skipped = {}
        for attempt in range(count):
            entry = self.entries[order[(position + attempt) % count]]
            path = str(entry.path)
            try:  # anew for every draw: which clip it has does not depend on what was read before
                video, posterior = self.content(entry, start)
            except UnreadableVideo as error:
                skipped[path] = self.skipped[path] = str(error)
            else:
                captions = entry.captions or ("",)
                which = random.integers(len(captions))
                return Clip(video, captions[which], path, skipped, posterior, draw)
        reason = next(iter(skipped.values()))
        raise NothingReadable(f"none of the {count} files of {self.config.source} can be read: {reason}")

    @property
    def identity(self) -> str:
        """What a run on it depends on in the files."""
        return self.entries.digest(["key", "captions"])

    def captions(self) -> Iterator[Sequence[str]]:
        """The captions of every file."""
        return self.entries.values("captions")

    def sizes(self, compression: Compression) -> FileSizes:
        """The planned tokens of every draw."""
        facts = [self.entries.numbers(name) for name in ("frames", "fps", "height", "width", "last_tick")]
        sizes_3N = numpy.stack(_clip_sizes(*facts, self.config, compression)).astype(numpy.int64)
        packed_N = (sizes_3N[0] << 40) | (sizes_3N[1] << 20) | sizes_3N[2]
        _, first, which_N = numpy.unique(packed_N, return_index=True, return_inverse=True)
        tokens = [tokens_of(compression, *sizes_3N[:, k].tolist()) for k in first]
        return FileSizes(numpy.array(tokens)[which_N], self.seed)

    def content(self, entry, start: float) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        """Video and posterior of a clip of a file; here the video alone."""
        indices, height, width = clip_of(entry, start, self.config, self.compression)
        frames = resize_and_crop(read_frames(entry.path, indices, entry), height, width)
        return to_video(frames), ()


class HeldOutFiles(VideoFiles):
    """Files that are not trained on; it names itself what it skips, as no training step does.

    Where none of them can be read, clips of `training` stand in for theirs, and it says so.
    """

    def __init__(self, entries: Sequence, training: VideoFiles):
        super().__init__(training.config, training.seed, entries, training.compression)
        self.training = training

    def content(self, entry, start: float) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        """Video and posterior of a clip of a file, had as those of the training data are."""
        return self.training.content(entry, start)

    def __getitem__(self, draw: int) -> Clip:
        before = set(self.skipped)
        try:
            return super().__getitem__(draw)
        except NothingReadable:
            if len(before) < len(self.entries):
                print("no held-out file can be read: files that are trained on stand in", file=sys.stderr)
            return self.training[draw]
        finally:
            for path in self.skipped.keys() - before:
                print(f"skipped: {self.skipped[path]}", file=sys.stderr)


def starts(places: int) -> list[float]:
    """So many starts, evenly spaced from the first to the last; a single one is in the middle."""
    return [k / (places - 1) for k in range(places)] if places > 1 else [0.5]


def clip_size(entry, config: DataConfig, compression: Compression) -> tuple[int, int, int]:
    """Frames, height and width of the clips of a file.

    They have as many frames as an autoencoder can take, of at most `config.frames`. Sides are whole tokens,
    their area is near `config.size` squared, and the aspect ratio near the file's.
    """
    facts = entry.frames, entry.fps, entry.height, entry.width, entry.last_tick
    return tuple(int(size) for size in _clip_sizes(*facts, config, compression))


def _clip_sizes(frames, fps, height, width, last_tick, config: DataConfig, compression: Compression) -> tuple:
    """The same of many files, whose facts are numbers or arrays."""
    last, stride = _span(frames, fps, last_tick, config)
    available = (last / stride).astype(numpy.int64) + 1
    length = 1 + compression.step * ((numpy.minimum(available, config.frames) - 1) // compression.step)
    scale, token = config.size / (height * width) ** 0.5, compression.token_side
    return length, *(token * numpy.maximum(1, numpy.rint(side * scale / token)) for side in (height, width))


def clip_of(entry, start: float, config: DataConfig, compression: Compression) -> tuple[list[int], int, int]:
    """Which frames of a file the clip from `start` has, and the height and width that they are fitted to.

    The start goes from 0, the first frame, to 1, as late as the clip can be. Of a file of constant rate it
    has the frames nearest in time, of another the frame that a player shows at each time.
    """
    length, height, width = clip_size(entry, config, compression)
    last, stride = map(float, _span(entry.frames, entry.fps, entry.last_tick, config))
    first = start * (last - (length - 1) * stride)
    places = [first + k * stride for k in range(length)]
    if entry.times:
        times = [tick / TICKS for tick in array("I", entry.times)]
        return [bisect_right(times, place + ROUNDED) - 1 for place in places], height, width
    return [min(entry.frames - 1, round(place)) for place in places], height, width


def _span(frames, fps, last_tick, config: DataConfig) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Where files end and how far their clips' frames lie apart: in frames of the file, or in seconds where
    each frame has its own time."""
    timed, moving = numpy.asarray(last_tick) > 0, numpy.asarray(frames) > 1
    last = numpy.where(timed, last_tick / TICKS + ROUNDED, numpy.asarray(frames) - 1.0)
    return last, numpy.where(timed, 1 / config.fps, numpy.where(moving, fps / config.fps, 1.0))


def open_data(
    config: DataConfig, seed: int, validation: int, compression: Compression
) -> tuple[Dataset, Dataset]:
    """Training and held-out data; of files what `config` says is held out, or `validation` by the seed.

    Clips fit an autoencoder of this compression, and their latents a transformer's patches. Raises ValueError
    where the source is not there, or for values that cannot form a clip.
    """
    if config.sources:
        return open_mixture(config, seed, validation, partial(open_data, compression=compression))
    check_data(config, compression)
    if split := DRAWN.get(config.source):
        if config.held_out or config.group:
            raise ValueError(
                "data.held_out and data.group are of files: the drawn world has scenes of its own"
            )
        return DrawnWorld(config, seed, split), DrawnWorld(config, seed + 1, split)
    from vae.data.manifest import load_manifest

    manifest = load_manifest(config.source).kept()
    kept, held = held_out_split(len(manifest), manifest.paths, config, seed, validation)
    data = VideoFiles(config, seed, manifest.choose(kept), compression)
    return data, HeldOutFiles(manifest.choose(held), data)


def held_out_split(
    count: int, paths: Callable[[], Iterable[str]], config: DataConfig, seed: int, validation: int
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The places of the files that are trained on and of those that are held out, each in their order.

    Sources are whole: as many as fit in a share of the files, in a seeded order, or those of the files that a
    list names. Raises ValueError where one side would have none, but for a single file, which is on both.
    """
    source_N = _sources(count, paths, config.group)
    sizes = numpy.bincount(source_N)
    listed = _listed(paths, config.held_out)
    if listed is None:
        share = float(config.held_out or 0)
        left = round(share * count) if share else min(validation, count // 4)
        order, chosen = shuffled(len(sizes), seed, "held out"), []
        for source in order:
            if not left:
                break
            if sizes[source] <= left:
                chosen.append(source)
                left -= sizes[source]
        chosen = chosen or [order[sizes[order].argmin()]]
    else:
        chosen = source_N[listed]
    held_N = numpy.isin(source_N, chosen)
    if held_N.all() and count > 1:
        one = f", as {config.group!r} makes them one source" if len(sizes) == 1 else ""
        raise ValueError(f"{config.source}: all {count} files would be held out and none trained on{one}")
    kept_N = ~held_N if count > 1 else held_N
    return kept_N.nonzero()[0], held_N.nonzero()[0]


def _sources(count: int, paths: Callable[[], Iterable[str]], group: str) -> numpy.ndarray:
    """The source of each file, numbered as they come: what `group`, or its first part in brackets, finds in a
    path.

    Without it each file is a source, of whose rows none is held out where another is trained on. A file in
    which it finds nothing is one of its own; raises ValueError where that is so of all.
    """
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise ValueError(f"data.group = {group!r} is no regular expression: {error}") from None
    numbers: dict[object, int] = {}
    source_N = numpy.empty(count, numpy.int64)
    if not group:
        for k, path in enumerate(paths()):
            source_N[k] = numbers.setdefault(path, len(numbers))
        return source_N
    for k, path in enumerate(paths()):
        found = pattern.search(path)
        name = (found[min(1, pattern.groups)] or found[0]) if found else k
        source_N[k] = numbers.setdefault(name, len(numbers))
    if not any(isinstance(name, str) for name in numbers):
        raise ValueError(f"data.group = {group!r} is found in no path, such as {next(iter(paths()))}")
    return source_N


def _listed(paths: Callable[[], Iterable[str]], held_out: str) -> list[int] | None:
    """The places of the files that the list `held_out` names, by the ends of their paths; None for a share.

    Raises ValueError for what is neither, and for a name that no file has.
    """
    try:
        share = float(held_out or 0)
    except ValueError:
        pass
    else:
        if held_out and not 0 < share < 1:
            raise ValueError(f"data.held_out = {held_out}: a share must be above 0 and below 1")
        return None
    file = Path(held_out)
    if not file.is_file():
        raise ValueError(
            f"data.held_out = {held_out!r} is neither a share, such as 0.05, nor a file of names"
        )
    with naming(file):
        lines = [line.strip().removeprefix("./") for line in file.read_text("utf-8-sig").split("\n")]
    listed: dict[str, list[int]] = {line: [] for line in lines if line}
    for k, path in enumerate(paths()):
        parts = path.split("/")
        for end in ("/".join(parts[first:]) for first in range(len(parts))):
            if end in listed:
                listed[end].append(k)
    for name, places in listed.items():
        if not places:
            raise ValueError(f"{file}, line {lines.index(name) + 1}: no file of the data is called {name}")
    if not listed:
        raise ValueError(f"{file} names no file to hold out")
    return sorted(set().union(*listed.values()))


def check_data(config: DataConfig, compression: Compression) -> None:
    """Raises ValueError for values that cannot form a clip of this compression."""
    least = compression.token_side
    if config.size < least:
        raise ValueError(f"data.size = {config.size}: it must be at least {least}")
    side = config.size if config.source in DRAWN else least
    compression.check(config.frames, side, side)


def files_hash(*data: Dataset) -> str:
    """SHA-256 of what a run depends on in the files of data sets, in their order; the drawn world has none.

    Of each file of a manifest that is its key and the captions; of each file of a cache the keys of its clips
    and the captions; of a mixture each source's share too. Where files lie and how they
    are read is left out: decord is not the same at every call, and an index may find it sound or not.
    """
    return hashlib.sha256(json.dumps([part.identity for part in data]).encode()).hexdigest()


def batches(data: Dataset, shares: Iterable[list[int]], workers: int) -> Iterator[list[Clip]]:
    """The clips of each share's draws, in order; reading begins at once where `workers` read.

    Raises ValueError, where a share is asked for, if nothing can be read.
    """
    loader = DataLoader(
        data,
        batch_sampler=shares,
        collate_fn=list,
        num_workers=workers,
        worker_init_fn=ignore_terminal_signals,
    )
    return _said_plainly(iter(loader))


def _said_plainly(clips: Iterator[list[Clip]]) -> Iterator[list[Clip]]:
    """The same clips; what cannot be trained on is said without the traceback that a worker puts above it."""
    try:
        yield from clips
    except UnusableData as error:
        name = f"{type(error).__module__}.{type(error).__qualname__}: "
        raise ValueError(str(error).strip().splitlines()[-1].removeprefix(name)) from error


def shares_of(batch: int, first_step: int, steps: int, rank: int, ranks: int) -> Iterator[list[int]]:
    """This rank's share of every step's draws: step `s` has draws `s * batch` to `(s + 1) * batch`, from 0.

    The draws of a step do not depend on the number of ranks, nor on where the run was resumed.
    """
    return (list(range(s * batch + rank, (s + 1) * batch, ranks)) for s in range(first_step, steps))


def ignore_terminal_signals(worker: int) -> None:
    """Takes a reading process out of the group that a Ctrl-C or SIGTERM is sent to: the loop decides.

    To ignore the signals instead would hang the end of a run that failed, which sends SIGTERM and waits. A
    loop that ends while a clip is handed over is no error of the process.
    """
    if hasattr(os, "setsid"):  # not on Windows
        os.setsid()
    report = sys.excepthook
    sys.excepthook = lambda kind, *about: issubclass(kind, ConnectionError) or report(kind, *about)
