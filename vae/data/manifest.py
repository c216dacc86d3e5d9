"""Manifests: a parquet file with a row for each video and image, what it holds and its captions."""

import json
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path

from configs.load import from_json, parse_json
from vae.data.images import IMAGES
from vae.data.parquet import check_columns, check_ranges, read_parquet
from vae.data.video import VIDEOS, Probe
from vae.training.files import below, naming, write_whole

NAME = "manifest.parquet"
COLUMNS = ("path", *(field.name for field in fields(Probe)), "captions")
LEFT_OUT = b"left_out"  # in the file's metadata: what of its folder was left out, so that the rest is new
ROOT = b"root"  # in the metadata: the folder that paths are from, where it is not the manifest's own
AGAIN = "make it again with `dit data index FOLDER`"
READERS = ("decord", "sequential", "image", "animation")
RANGES = {  # of numbers, from which memory is taken
    "frames": (1, 10**8),
    "fps": (0.0, 1e6),
    "height": (1, 2**16),
    "width": (1, 2**16),
    "duration": (0.0, 1e9),
    "bytes": (0, 2**60),
    "stream": (0, 10**4),
    "streams": (0, 10**4),
}
HALF = re.compile("[\ud800-\udfff]")  # a surrogate, half of a character, which no file can hold


@dataclass(frozen=True)
class Entry(Probe):
    """A file of a manifest: where it is, what it holds, and its captions, of which there may be none."""

    path: Path
    captions: tuple[str, ...]

    @property
    def identity(self) -> tuple:
        """What a run on this file depends on: see `files_hash`."""
        picture = self.frames, self.fps, self.height, self.width
        return *picture, self.checksums.hex() or self.bytes, self.times.hex(), self.treatment, self.captions


def walk(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files in and below a folder in the order of their paths, but for hidden ones; and what cannot be
    opened, as links that lead nowhere.

    Links to folders are followed. Each folder is met once: by its own path where that lies below too.
    """
    files, broken, met = [], [], set()
    folders, links = [folder], []
    while folders or links:
        place = folders.pop() if folders else links.pop(0)
        try:
            state = place.stat()
            inside = sorted(place.iterdir()) if (state.st_dev, state.st_ino) not in met else []
        except OSError:
            broken.append(place)
            continue
        met.add((state.st_dev, state.st_ino))
        for path in inside:
            if path.name.startswith("."):
                continue
            try:
                if path.is_dir():
                    (links if path.is_symlink() else folders).append(path)
                elif path.is_file():
                    files.append(path)
                elif path.is_symlink():
                    broken.append(path)
            except OSError:
                broken.append(path)
    return sorted(files), sorted(broken)


def find_files(folder: Path) -> list[Path]:
    """The videos and images in and below a folder, in the order of their paths, but for hidden ones."""
    return [path for path in walk(folder)[0] if path.suffix.lower() in IMAGES | VIDEOS]


def passed_over(folder: Path, there: list[Path], files: list[Path]) -> list[Path]:
    """Those of the files that are `there` that are neither among `files` nor their captions or a manifest."""
    known = {*files, *(file.with_suffix(".txt") for file in files), folder / NAME}
    return [path for path in there if path not in known]


def _types() -> dict:
    """The type of every column."""
    import pyarrow

    types = {"captions": pyarrow.list_(pyarrow.string()), "path": pyarrow.string()}
    of_python = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    of_python[bytes] = pyarrow.binary()
    types |= {field.name: of_python[field.type] for field in fields(Probe)}
    return {name: types[name] for name in COLUMNS}


def check_output(file: Path) -> None:
    """Raises ValueError for a name that is no manifest's, or one under which there is another file."""
    import pyarrow.parquet

    if file.suffix.lower() != ".parquet":
        raise ValueError(f"{file}: give a manifest a name that ends in .parquet")
    if file.is_file():
        columns = []
        with suppress(pyarrow.ArrowException, OSError):
            columns = pyarrow.parquet.read_schema(file).names
        if not {"path", "checksums"} <= set(columns):
            raise ValueError(f"{file} is there, and is no manifest: give another name with --out")


def save_manifest(file: Path, entries: list[Entry], left_out: Sequence[Path] | None = None) -> None:
    """Writes entries as parquet, their paths relative to the manifest's own folder.

    Where some lie outside it, they are relative to the folder that holds all, which the metadata name.
    Where it is of all that its folder holds, the files `left_out` let it tell what is new. Half characters in
    captions become U+FFFD, and it says so.
    """
    import pyarrow
    import pyarrow.parquet

    halves = [e.path for e in entries if any(map(HALF.search, e.captions))]
    if halves:
        more = f" and {len(halves) - 1} more" if len(halves) > 1 else ""
        print(f"note: half a character in the captions of {halves[0]}{more}: U+FFFD instead", file=sys.stderr)
    home, about = file.parent, {}
    if any(relative(entry.path, home).startswith("../") for entry in entries):
        root = Path(os.path.commonpath([entry.path.parent.resolve() for entry in entries]))
        home, about = root, {ROOT: os.path.relpath(root, home.resolve())}
    rows = [asdict(e) | {"path": relative(e.path, home)} for e in entries]
    for row in rows:
        row["captions"] = [_utf8(caption) for caption in row["captions"]]
    if left_out is not None:
        about |= {LEFT_OUT: json.dumps([_utf8(relative(path, home)) for path in left_out])}
    table = pyarrow.Table.from_pylist(rows, pyarrow.schema(list(_types().items()), metadata=about))
    write_whole(file, lambda temporary: pyarrow.parquet.write_table(table, temporary))


def relative(path: Path, home: Path) -> str:
    """A path from a folder, with forward slashes; what lies below it, through links too, keeps its name."""
    path, home = Path(os.path.abspath(path)), Path(os.path.abspath(home))
    if path.is_relative_to(home):
        return path.relative_to(home).as_posix()
    return Path(os.path.relpath(path.parent.resolve() / path.name, home.resolve())).as_posix()


def _new_files(home: Path, left_out: list[str], entries: list[Entry]) -> list[Path]:
    """The videos and images of a folder that are neither in its manifest nor were left out of it."""
    known = {entry.path for entry in entries} | {home / path for path in left_out}
    return [path for path in find_files(home) if Path(_utf8(str(path))) not in known]


def _utf8(text: str) -> str:
    """A text with U+FFFD for each half character, and for each byte of a name that is not UTF-8."""
    return HALF.sub("\ufffd", text)


def load_manifest(source: str | Path) -> list[Entry]:
    """The entries of a manifest, or of the one in a folder; it says which files came after it.

    Raises ValueError where there is none of ours.
    """
    file = Path(source)
    if file.is_dir():
        file = file / NAME
        if not file.is_file():
            raise ValueError(f"{source} holds no {NAME}: make one with `dit data index {source}`")
    if not file.exists():
        raise ValueError(f"{source}: no such manifest or folder of videos")
    table = check_columns(read_parquet(file, AGAIN), _types(), file, AGAIN)
    check_ranges(table, RANGES, file)
    with naming(file):
        rows, about = table.to_pylist(), table.schema.metadata or {}
        if not rows:
            raise ValueError("it lists no file")
        root = file.parent / about.get(ROOT, b".").decode()
        entries = [
            Entry(**row | {"path": below(root, row["path"]), "captions": tuple(row["captions"])})
            for row in rows
        ]
    for entry in entries:
        _check_entry(entry, file)
    if ROOT in about:
        _note_once(f"note: {file} lists files in {root}")  # outside its folder, as whoever wrote it chose
    left_out = about.get(LEFT_OUT)
    if left_out and os.environ.get("RANK", "0") == "0":  # a large folder takes a while to look through
        new = _new_files(root, from_json(list[str], parse_json(left_out, file), file), entries)
        more = f" and {len(new) - 1} more" if len(new) > 1 else ""
        if new:
            _note_once(f"note: {file} is older than {new[0]}{more}: run `dit data index` again")
    return entries


@lru_cache
def _note_once(line: str) -> None:
    """Prints a line, once in a process."""
    print(line, file=sys.stderr)


def _check_entry(entry: Entry, file: Path) -> None:
    """Raises ValueError where a row cannot be of the file that it names."""
    size, pictures = 4 * entry.frames, entry.reader in ("image", "animation")
    sizes = {len(entry.checksums), len(entry.times)} <= {0, size} and (pictures or entry.checksums)
    if not sizes or entry.reader not in READERS or (entry.reader != "image" and not entry.fps > 0):
        raise ValueError(
            f"{file}: {entry.path} has checksums, times, a rate or a reader that it cannot have: {AGAIN}"
        )
    if entry.path.suffix.lower() not in (IMAGES if pictures else VIDEOS):
        raise ValueError(f"{file} lists {entry.path}, whose name is none of a video or image: {AGAIN}")
