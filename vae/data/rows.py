"""Rows of parquet files where they lie: a row, or a column, is read when it is asked for."""

import hashlib
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy

from vae.data.parquet import open_parquet, read_groups

Item = TypeVar("Item")
GROUP_ROWS = 256  # of a row group that is written, all of which is read for one row
ROWS_AT_ONCE = 1 << 16  # of columns that are passed through


class ParquetFiles:
    """Parquet files whose rows are numbered through, and have these columns; the newest group is kept.

    A process that was forked opens them anew: it shares neither a position nor a lock.
    """

    def __init__(self, files: Sequence[Path], names: Sequence[str], advice: str):
        self.files, self.names, self.advice = tuple(files), tuple(names), advice
        self._open()
        abouts = [opened.metadata for opened in self.opened]
        places = [(k, group) for k, about in enumerate(abouts) for group in range(about.num_row_groups)]
        counts = [abouts[k].row_group(group).num_rows for k, group in places]
        self._places_G2 = numpy.array(places, dtype=numpy.int64).reshape(-1, 2)
        self.ends_G = numpy.cumsum(counts, dtype=numpy.int64)

    def _open(self) -> None:
        """Opens the files for this process."""
        self.opened = [open_parquet(file, self.advice) for file in self.files]
        self._process, self._lock, self._kept = os.getpid(), threading.Lock(), None

    @property
    def largest_group(self) -> int:
        """The most rows that are read for one."""
        return int(numpy.diff(self.ends_G, prepend=0).max(initial=0))

    def __getstate__(self) -> dict:
        return {name: self.__dict__[name] for name in ("files", "names", "advice", "_places_G2", "ends_G")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__ |= state
        self._open()

    def _read(self, groups: range, names: Sequence[str]):
        """The table of some columns of groups, all of one file."""
        if self._process != os.getpid():
            self._open()
        numbers, file = self._places_G2[groups.start : groups.stop, 1].tolist(), self.file_of(groups.start)
        with self._lock:  # a parquet file is read by one thread at a time
            return read_groups(self.opened[file], numbers, list(names), self.files[file], self.advice)

    def file_of(self, group: int) -> int:
        """The number of the file that a group is in."""
        return int(self._places_G2[group, 0])

    def tables(self, names: Sequence[str]) -> Iterator:
        """Columns of all rows as Arrow tables, many groups at a time, each with its file's number."""
        first = 0
        while first < len(self.ends_G):
            before = int(self.ends_G[first - 1]) if first else 0
            end = int(numpy.searchsorted(self.ends_G, before + ROWS_AT_ONCE, side="right"))
            same = numpy.searchsorted(self._places_G2[:, 0], self.file_of(first), side="right")
            groups = range(first, min(max(end, first + 1), int(same)))
            yield self._read(groups, names), self.file_of(first)
            first = groups.stop

    def row(self, number: int) -> tuple[dict, int]:
        """A row, and the number of its file."""
        group = int(numpy.searchsorted(self.ends_G, number, side="right"))
        first = int(self.ends_G[group - 1]) if group else 0
        kept = self._kept  # of which a thread that reads another group makes a new one
        if kept is None or kept[0] != (os.getpid(), group):
            kept = self._kept = (os.getpid(), group), self._read(range(group, group + 1), self.names)
        return kept[1].slice(number - first, 1).to_pylist()[0], self.file_of(group)


class Rows(ABC, Sequence[Item]):
    """Rows of parquet files, all or those that are chosen, which rise; each is an `item` when asked for.

    In memory are the choice, 8 bytes a row, and the group of the newest row, however many rows there are.
    """

    def __init__(self, files: ParquetFiles, chosen: numpy.ndarray | None = None):
        self.files, self._chosen = files, chosen

    @abstractmethod
    def item(self, row: dict, file: int) -> Item:
        """What a row of a file, by its number, is."""

    @abstractmethod
    def choose(self, places: numpy.ndarray) -> "Rows[Item]":
        """Those at some places, which rise."""

    def chosen(self, places: numpy.ndarray) -> numpy.ndarray:
        """The rows at some places of those that are chosen already."""
        return places if self._chosen is None else self._chosen[places]

    def __len__(self) -> int:
        return int(self.files.ends_G[-1]) if self._chosen is None else len(self._chosen)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.choose(numpy.arange(len(self))[index])
        place = range(len(self))[index]
        return self.item(*self.files.row(place if self._chosen is None else int(self._chosen[place])))

    def tables(self, names: Sequence[str]) -> Iterator:
        """Columns as Arrow tables, one part after the other, each with its file's number."""
        first = 0
        for table, file in self.files.tables(names):
            end = first + len(table)
            if self._chosen is not None:
                low, high = numpy.searchsorted(self._chosen, [first, end])
                table = table.take(self._chosen[low:high] - first)
            first = end
            yield table, file

    def numbers(self, name: str) -> numpy.ndarray:
        """A column of numbers."""
        return numpy.concatenate([table[name].to_numpy() for table, _ in self.tables([name])])

    def values(self, name: str) -> Iterator:
        """The values of a column, one after the other."""
        for table, _ in self.tables([name]):
            yield from table[name].to_pylist()

    def digest(self, names: Sequence[str]) -> str:
        """SHA-256 of columns of texts or bytes, or of lists of them, however they are divided into files."""
        hashes = {}
        for table, _ in self.tables(names):
            for name in names:
                for what, content in _contents(table[name].combine_chunks()):
                    hashes.setdefault(f"{name} {what}", hashlib.sha256()).update(content)
        about = "".join(f"{what} {digest.hexdigest()} " for what, digest in hashes.items())
        return hashlib.sha256(about.encode()).hexdigest()


class RowList(list[Item]):
    """Items in memory that answer as `Rows` do, where there are few."""

    def numbers(self, name: str) -> numpy.ndarray:
        """A number of every item."""
        return numpy.array([getattr(item, name) for item in self])

    def values(self, name: str) -> Iterator:
        """A value of every item."""
        return (getattr(item, name) for item in self)

    def digest(self, names: Sequence[str]) -> str:
        """SHA-256 of some values of every item, in their order."""
        content = [[getattr(item, name) for name in names] for item in self]
        return hashlib.sha256(repr(content).encode()).hexdigest()


def _contents(column) -> Iterator[tuple[str, bytes]]:
    """What an Arrow array holds: how many parts each list has, and of what is in it lengths and bytes, of
    structures by field."""
    import pyarrow
    import pyarrow.compute as compute

    depth = 0
    while pyarrow.types.is_list(column.type):
        yield f"list {depth}", compute.list_value_length(column).to_numpy().astype("<i4").tobytes()
        column, depth = column.flatten(), depth + 1
    if pyarrow.types.is_struct(column.type):
        for field, part in zip(column.type, column.flatten(), strict=True):
            yield from ((f"{field.name} {what}", content) for what, content in _contents(part))
        return
    yield "lengths", compute.binary_length(column).to_numpy(zero_copy_only=False).astype("<i4").tobytes()
    if pyarrow.types.is_fixed_size_binary(column.type):
        yield "bytes", b"".join(column.to_pylist())
    elif len(column):
        _, ends, content = column.buffers()
        first, last = numpy.frombuffer(ends, "<i4", len(column) + 1, 4 * column.offset)[[0, -1]].tolist()
        yield "bytes", memoryview(content)[first:last] if content else b""
