"""Manifests: a parquet file with a row for each video and image, what it holds and its captions."""

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from vae.data.images import IMAGES
from vae.data.video import VIDEOS, Probe
from vae.training.files import write_whole

NAME = "manifest.parquet"
COLUMNS = ("path", *(field.name for field in fields(Probe)), "captions")
LEFT_OUT = b"left_out"  # in the file's metadata: what of its folder was left out, so that the rest is new
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


def save_manifest(file: Path, entries: list[Entry], left_out: Sequence[Path] | None = None) -> None:
    """Writes entries as parquet, their paths relative to the manifest's own folder.

    Where it is of all that its folder holds, the files `left_out` let it tell what is new. Half characters in
    captions become U+FFFD, and it says so.
    """
    import pyarrow
    import pyarrow.parquet

    halves = [e.path for e in entries if any(map(HALF.search, e.captions))]
    if halves:
        more = f" and {len(halves) - 1} more" if len(halves) > 1 else ""
        print(f"note: half a character in the captions of {halves[0]}{more}: U+FFFD instead", file=sys.stderr)
    home = file.parent
    rows = [asdict(e) | {"path": relative(e.path, home)} for e in entries]
    for row in rows:
        row["captions"] = [HALF.sub("\ufffd", caption) for caption in row["captions"]]
    types = {"captions": pyarrow.list_(pyarrow.string()), "path": pyarrow.string()}
    of_python = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    of_python[bytes] = pyarrow.binary()
    types |= {field.name: of_python[field.type] for field in fields(Probe)}
    schema = pyarrow.schema([(name, types[name]) for name in COLUMNS])
    if left_out is not None:
        schema = schema.with_metadata({LEFT_OUT: json.dumps([relative(path, home) for path in left_out])})
    table = pyarrow.Table.from_pylist(rows, schema)
    write_whole(file, lambda temporary: pyarrow.parquet.write_table(table, temporary))


def relative(path: Path, home: Path) -> str:
    """A path from a folder, with forward slashes; what lies below it, through links too, keeps its name."""
    path, home = Path(os.path.abspath(path)), Path(os.path.abspath(home))
    if path.is_relative_to(home):
        return path.relative_to(home).as_posix()
    return Path(os.path.relpath(path.parent.resolve() / path.name, home.resolve())).as_posix()


def _new_files(home: Path, left_out: bytes, entries: list[Entry]) -> list[Path]:
    """The videos and images of a folder that are neither in its manifest nor were left out of it."""
    known = {entry.path for entry in entries} | {home / path for path in json.loads(left_out)}
    return [path for path in find_files(home) if path not in known]


def load_manifest(source: str | Path) -> list[Entry]:
    """The entries of a manifest, or of the one in a folder; it says which files came after it.

    Raises ValueError where there is none of ours.
    """
    import pyarrow
    import pyarrow.parquet

    file = Path(source)
    if file.is_dir():
        file = file / NAME
        if not file.is_file():
            raise ValueError(f"{source} holds no {NAME}: make one with `dit data index {source}`")
    if not file.is_file():
        raise ValueError(f"{source}: no such manifest or folder of videos")
    try:
        table = pyarrow.parquet.read_table(file)
    except pyarrow.ArrowException as error:
        raise ValueError(
            f"{file} is not a manifest: {error}; make one with `dit data index FOLDER`"
        ) from None
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise ValueError(f"{file} has no column {missing[0]}: make it again with `dit data index FOLDER`")
    rows = table.select(COLUMNS).to_pylist()
    if not rows:
        raise ValueError(f"{file} lists no file")
    home = file.parent
    entries = [
        Entry(**row | {"path": home / row["path"], "captions": tuple(row["captions"])}) for row in rows
    ]
    left_out = (table.schema.metadata or {}).get(LEFT_OUT)
    if left_out and (new := _new_files(home, left_out, entries)):
        more = f" and {len(new) - 1} more" if len(new) > 1 else ""
        print(f"note: {file} is older than {new[0]}{more}: run `dit data index` again", file=sys.stderr)
    return entries
