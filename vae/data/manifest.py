"""Manifests: parquet files with a row for each span of a video or image; found, read, written and changed."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy

from configs.load import from_json, parse_json
from vae.data.columns import LEVELS, PLANNED, RANGES, READERS, Entry, as_row, captions_of, column_types
from vae.data.images import IMAGES
from vae.data.parquet import check_columns, check_ranges
from vae.data.rows import GROUP_ROWS, ParquetFiles, Rows
from vae.data.video import VIDEOS
from vae.training.files import below, naming, write_whole

NAME = "manifest.parquet"
LEFT_OUT = b"left_out"  # in the file's metadata: what of its folder was left out, so that the rest is new
ROOT = b"root"  # in the metadata: the folder that paths are from, where it is not the manifest's own
AGAIN = "make it again with `dit data index FOLDER`"
CHECKED_AT_ONCE = 2_000  # rows; of more, each is checked when it is read
LARGE_GROUP = 64 * GROUP_ROWS  # rows that are read for one, of which there is a word
REPEATED = ["codec", "reader", "decoder", "treatment", "checked", "licence", "source", "split"]  # few values
LOOKED_FOR = 100_000  # files of a manifest beside which new ones are looked for
HALF = re.compile("[\ud800-\udfff]")  # a surrogate, half of a character, which no file can hold


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
    rows = [as_row(entry, relative(entry.path, home)) for entry in entries]
    for caption in (caption for row in rows for caption in row["captions"]):
        caption["text"] = _utf8(caption["text"])
    if left_out is not None:
        about |= {LEFT_OUT: json.dumps([_utf8(relative(path, home)) for path in left_out])}
    table = pyarrow.Table.from_pylist(rows, pyarrow.schema(list(column_types().items()), metadata=about))
    write_whole(file, lambda temporary: _write_tables(temporary, table.schema, [table]))


def _write_tables(file: Path, schema, tables: Iterable) -> int:
    """Writes tables in small groups of rows, one after the other; how many rows they have."""
    import pyarrow.parquet

    rows = 0
    with pyarrow.parquet.ParquetWriter(file, schema, use_dictionary=REPEATED) as writer:
        for table in tables:
            if len(table):
                writer.write_table(table, row_group_size=GROUP_ROWS)
                rows += len(table)
    return rows


def rewrite(source: str | Path, out: Path, change: Callable) -> None:
    """Writes a manifest's rows anew, whole or not at all: `change` makes of each part, an Arrow table of all
    its columns, the table that takes its place, in the order of the rows.

    The tables may have other rows, and columns of one's own, the same in all. Paths are made to be from where
    the new manifest lies. Raises ValueError where no row is left, or a column of ours is not as it must be.
    """
    import pyarrow

    manifest = load_manifest(source)
    check_output(out)
    home, opened = Path(os.path.abspath(out.parent)), manifest.files.opened
    known = opened[0].schema_arrow.metadata or {}
    about = {LEFT_OUT: known[LEFT_OUT]} if LEFT_OUT in known and ROOT not in known else {}
    for file in opened[1:]:
        if not file.schema_arrow.equals(opened[0].schema_arrow):
            raise ValueError(f"{source} has manifests of different columns: rewrite each of them alone")
    roots = [Path(os.path.abspath(root)) for root in manifest.roots]
    if roots != [home]:
        about = {}  # what was left out is of one folder, and its manifest
        if any(not root.is_relative_to(home) for root in roots):
            home = Path(os.path.commonpath(roots))
            about = {ROOT: os.path.relpath(home, os.path.abspath(out.parent)).encode()}

    def tables() -> Iterator:
        for table, file in manifest.tables(opened[0].schema_arrow.names):
            if roots[file] != home:
                paths = [relative(roots[file] / path, home) for path in table["path"].to_pylist()]
                place = table.column_names.index("path")
                table = table.set_column(place, "path", pyarrow.array(paths, pyarrow.string()))
            changed = change(table)
            check_columns(changed, column_types(), out, "a change must leave it")
            yield changed.replace_schema_metadata(about)

    def write(temporary: Path) -> None:
        parts = tables()
        first = next(parts)
        if not _write_tables(temporary, first.schema, chain([first], parts)):
            raise ValueError(f"{out}: no row is left of {source}")

    write_whole(out, write)


def relative(path: Path, home: Path) -> str:
    """A path from a folder, with forward slashes; what lies below it, through links too, keeps its name."""
    path, home = Path(os.path.abspath(path)), Path(os.path.abspath(home))
    if path.is_relative_to(home):
        return path.relative_to(home).as_posix()
    return Path(os.path.relpath(path.parent.resolve() / path.name, home.resolve())).as_posix()


def _new_files(home: Path, left_out: list[str], manifest: "Manifest") -> list[Path]:
    """The videos and images of a folder that are neither in its manifest nor were left out of it."""
    known = {*manifest.paths(), *(f"{home}/{path}" for path in left_out)}
    return [path for path in find_files(home) if _utf8(path.as_posix()) not in known]


def _utf8(text: str) -> str:
    """A text with U+FFFD for each half character, and for each byte of a name that is not UTF-8."""
    return HALF.sub("\ufffd", text)


class Manifest(Rows[Entry]):
    """The files of a manifest, or those that are chosen: a row of parquet each, read when it is asked for."""

    def __init__(self, files: ParquetFiles, roots: tuple[Path, ...], chosen: numpy.ndarray | None = None):
        super().__init__(files, chosen)
        self.roots = roots

    def item(self, row: dict, file: int) -> Entry:
        """The file in a row; raises ValueError for a row that cannot be of one."""
        return _entry(row, self.roots[file], self.files.files[file])

    def choose(self, places: numpy.ndarray) -> "Manifest":
        """Those at some places, which rise."""
        return Manifest(self.files, self.roots, self.chosen(places))

    def values(self, name: str) -> Iterator:
        """The values of a column, one after the other; captions as an entry has them."""
        values = super().values(name)
        return map(captions_of, values) if name == "captions" else values

    def kept(self) -> "Manifest":
        """Those that have no reason not to be trained on; raises ValueError where none is left."""
        import pyarrow.compute as compute

        parts = (compute.list_value_length(table["rejected"]) for table, _ in self.tables(["rejected"]))
        places = (numpy.concatenate([part.to_numpy() for part in parts]) == 0).nonzero()[0]
        if len(places) < len(self):
            count = f"{len(self) - len(places)} of {len(self)} rows"
            if not len(places):
                raise ValueError(f"{self.files.files[0]}: all {len(self)} rows are rejected: none is left")
            _note_once(f"note: {count} of {self.files.files[0]} are rejected, and not trained on")
        return self if len(places) == len(self) else self.choose(places)

    def paths(self) -> Iterator[str]:
        """Where every file is."""
        for table, file in self.tables(["path"]):
            yield from (f"{self.roots[file].as_posix()}/{path}" for path in table["path"].to_pylist())


def load_manifest(source: str | Path) -> Manifest:
    """The manifest in a file, or in a folder: there it is `manifest.parquet`, or all the manifests together.

    It says which files came after it. Raises ValueError where there is none of ours.
    """
    files = _manifest_files(Path(source))
    opened, roots = ParquetFiles(files, list(column_types()), AGAIN), []
    for file, parquet in zip(files, opened.opened, strict=True):
        schema = parquet.schema_arrow
        check_columns(schema.empty_table(), column_types(), file, AGAIN)
        about = schema.metadata or {}
        with naming(file):
            if not parquet.metadata.num_rows:
                raise ValueError("it lists no file")
            roots.append(file.parent / about.get(ROOT, b".").decode())
        if ROOT in about:
            _note_once(f"note: {file} lists files in {roots[-1]}")  # outside its folder, as its writer chose
    if (large := opened.largest_group) > LARGE_GROUP:
        _note_once(f"note: {files[0]} is slow to draw from, as {large:,} rows are read for each: {AGAIN}")
    manifest = Manifest(opened, tuple(roots))
    for table, file in manifest.tables(PLANNED):
        check_columns(table, {name: column_types()[name] for name in PLANNED}, files[file], AGAIN)
        check_ranges(table, {name: RANGES[name] for name in PLANNED}, files[file])
    if len(manifest) <= CHECKED_AT_ONCE:
        for _ in manifest:
            pass
    left_out = about.get(LEFT_OUT) if len(files) == 1 and len(manifest) <= LOOKED_FOR else None
    if left_out and os.environ.get("RANK", "0") == "0":  # a large folder takes a while to look through
        known = from_json(list[str], parse_json(left_out, files[0]), files[0])
        new = _new_files(roots[0], known, manifest)
        more = f" and {len(new) - 1} more" if len(new) > 1 else ""
        if new:
            _note_once(f"note: {files[0]} is older than {new[0]}{more}: run `dit data index` again")
    return manifest


def _manifest_files(source: Path) -> list[Path]:
    """The files of the manifest that a source of data is."""
    if source.is_dir() and (source / NAME).is_file():
        return [source / NAME]
    if source.is_dir():
        files = sorted(source.glob("*.parquet"))
        if not files:
            raise ValueError(f"{source} holds no {NAME}: make one with `dit data index {source}`")
        return files
    if not source.exists():
        raise ValueError(f"{source}: no such manifest or folder of videos")
    return [source]


@lru_cache
def _note_once(line: str) -> None:
    """Prints a line, once in a process."""
    print(line, file=sys.stderr)


def _entry(row: dict, root: Path, file: Path) -> Entry:
    """The file in a row of a manifest; raises ValueError for a row that cannot be of the file it names."""
    if empty := [name for name, value in row.items() if value is None or value == [None]]:
        raise ValueError(f"{file}: its column {empty[0]} has a cell without a value: {AGAIN}")
    for name, (low, high) in RANGES.items():
        if not low <= row[name] <= high:
            raise ValueError(f"{file}: {name} = {row[name]}: it must be between {low:,} and {high:,}")
    key, last_tick, end = (row.pop(name) for name in ("key", "last_tick", "end"))
    row |= {name: tuple(row[name]) for name in ("tags", "rejected")}
    with naming(file):
        path = below(root, row["path"])
    entry = Entry(**row | {"path": path, "captions": captions_of(row["captions"])})
    size, pictures = 4 * entry.frames, entry.reader in ("image", "animation")
    sizes = {len(entry.checksums), len(entry.times)} <= {0, size} and (
        pictures or entry.checksums or entry.checked != "full"
    )
    if (
        not sizes
        or entry.checked not in LEVELS
        or entry.reader not in READERS
        or (entry.reader != "image" and not entry.fps > 0)
    ):
        raise ValueError(
            f"{file}: {path} has checksums, times, a rate or a reader that it cannot have: {AGAIN}"
        )
    if path.suffix.lower() not in (IMAGES if pictures else VIDEOS):
        raise ValueError(f"{file} lists {path}, whose name is none of a video or image: {AGAIN}")
    if (entry.key, entry.last_tick, entry.end) != (key, last_tick, end):
        raise ValueError(f"{file}: {path} has facts that do not belong to its key: {AGAIN}")
    return entry
