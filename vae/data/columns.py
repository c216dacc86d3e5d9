"""The columns of a manifest: a row is a span of a file, what it holds, its captions and its labels."""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from vae.data.video import TICKS, Probe, span_times

READERS = ("decord", "sequential", "image", "animation")
LEVELS = ("probe", "sample", "full")  # how much of a file was decoded when it was indexed
RANGES = {  # of numbers, from which memory is taken
    "frames": (1, 10**8),
    "start": (0, 10**8),
    "fps": (0.0, 1e6),
    "height": (1, 2**16),
    "width": (1, 2**16),
    "duration": (0.0, 1e9),
    "bytes": (0, 2**60),
    "stream": (0, 10**4),
    "streams": (0, 10**4),
}
PLANNED = ("frames", "fps", "height", "width")  # from which the sizes of all clips follow
CAPTION = ("text", "origin", "language", "prompt")


class Caption(str):
    """The words of a caption; their origin, language, and the prompt they answer, each "" if unknown."""

    origin: str
    language: str
    prompt: str

    def __new__(cls, text: str, origin: str = "", language: str = "", prompt: str = ""):
        caption = super().__new__(cls, text)
        caption.origin, caption.language, caption.prompt = origin, language, prompt
        return caption

    def row(self) -> dict:
        """The caption as a cell holds it."""
        return dict(zip(CAPTION, (str(self), self.origin, self.language, self.prompt), strict=True))


@dataclass(frozen=True)
class Entry(Probe):
    """A row of a manifest: a span of a file, its captions, of which there may be none, and its labels.

    `rejected` are reasons why it is not to be trained on. `modified` is when the file last was, in
    nanoseconds, as it was indexed.
    """

    path: Path
    captions: tuple[str, ...]
    licence: str = field(default="", kw_only=True)
    source: str = field(default="", kw_only=True)
    split: str = field(default="", kw_only=True)
    tags: tuple[str, ...] = field(default=(), kw_only=True)
    rejected: tuple[str, ...] = field(default=(), kw_only=True)
    modified: int = field(default=0, kw_only=True)

    @property
    def key(self) -> bytes:
        """128 bits of what it shows, wherever it lies: size, rate, every frame's checksum and time, and what
        was done to the pixels. Where no frame has a checksum, they are of the file's bytes and the span."""
        facts = self.frames, self.fps, self.height, self.width, self.treatment
        content = self.checksums or (self.digest or self.bytes, self.start)
        return hashlib.blake2b(repr((*facts, content, self.times)).encode(), digest_size=16).digest()

    def span(self, start: int, end: int) -> "Entry":
        """The part from a frame up to another, numbered as the file's are; ValueError for none of it."""
        if not self.start <= start < end <= self.end:
            raise ValueError(
                f"{self.path}: frames {start} to {end} are no part of frames {self.start} to {self.end}"
            )
        if (start, end) == (self.start, self.end):
            return self
        first, last = 4 * (start - self.start), 4 * (end - self.start)
        times, fps = span_times(self.times[first:last], self.fps)
        seconds = array("I", times[-4:])[0] / TICKS + 1 / fps if times else (end - start) / fps
        part = {"checksums": self.checksums[first:last], "times": times, "fps": fps, "duration": seconds}
        return replace(self, start=start, frames=end - start, **part)


def column_types() -> dict:
    """The type of every column of ours, in their order; a manifest may have more, of any name and type."""
    import pyarrow

    text, whole = pyarrow.string(), pyarrow.int64()
    of_python = {int: whole, float: pyarrow.float64(), str: text, bytes: pyarrow.binary()}
    caption = pyarrow.struct([(name, text) for name in CAPTION])
    types = {"path": text, "start": whole, "end": whole}
    types |= {each.name: of_python[each.type] for each in fields(Probe) if each.name not in types}
    types |= {"modified": whole, "captions": pyarrow.list_(caption)}
    types |= {name: text for name in ("licence", "source", "split")}
    types |= {name: pyarrow.list_(text) for name in ("tags", "rejected")}
    return types | {"last_tick": whole, "key": pyarrow.binary(16)}


def as_row(entry: Entry, path: str) -> dict:
    """The cells of an entry, by column; its path is given, as it is from the manifest's folder."""
    row = {each.name: getattr(entry, each.name) for each in fields(Entry)}
    row |= {name: getattr(entry, name) for name in ("end", "last_tick", "key")}
    captions = [each if isinstance(each, Caption) else Caption(each) for each in entry.captions]
    row |= {"captions": [caption.row() for caption in captions], "path": path}
    return row | {name: list(row[name]) for name in ("tags", "rejected")}


def captions_of(cells: Sequence[dict]) -> tuple[Caption, ...]:
    """The captions in a cell."""
    return tuple(Caption(*(cell[name] for name in CAPTION)) for cell in cells)


def cut_rows(table, places: Sequence[int], starts: Sequence[int], ends: Sequence[int]):
    """A table's rows at some places as spans from a frame up to another, numbered as their files' frames are.

    What the span shows is the span's; all other columns are as they were.
    """
    import pyarrow

    types, parts = column_types(), {}
    needed = table.select([name for name in types if name in table.column_names])
    spans = []
    for place, start, end in zip(places, starts, ends, strict=True):
        row = needed.slice(place, 1).to_pylist()[0]
        given = {each.name: row[each.name] for each in fields(Entry)} | {"captions": ()}
        spans.append(Entry(**given).span(start, end))
    cut = table.take(pyarrow.array(places, pyarrow.int64()))
    for name in ("start", "end", "frames", "fps", "duration", "checksums", "times", "last_tick", "key"):
        parts[name] = pyarrow.array([getattr(span, name) for span in spans], types[name])
    for name, column in parts.items():
        cut = cut.set_column(cut.column_names.index(name), cut.schema.field(name), column)
    return cut
