"""Manifests: a parquet file with a row for each video and image, what it holds and its captions."""

import csv
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TextIO

from vae.data.video import IMAGES, VIDEOS, Probe
from vae.training.weights import write_whole

NAME = "manifest.parquet"
COLUMNS = ("path", *(field.name for field in fields(Probe)), "captions")
NEW = {"decoder"}  # columns that older manifests lack


@dataclass(frozen=True)
class Entry(Probe):
    """A file of a manifest: where it is, what it holds, and its captions, of which there may be none."""

    path: Path
    captions: tuple[str, ...]


def find_files(folder: Path) -> list[Path]:
    """The videos and images in and below a folder, in the order of their paths, but for hidden ones."""
    shown = (p for p in folder.rglob("*") if not any(part[0] == "." for part in p.relative_to(folder).parts))
    return sorted(p for p in shown if p.suffix.lower() in IMAGES | VIDEOS and p.is_file())


def passed_over(folder: Path, files: list[Path]) -> list[Path]:
    """The files in and below a folder that are neither among `files` nor captions, a manifest, or hidden."""
    texts = {file.with_suffix(".txt") for file in files}
    shown = (p for p in folder.rglob("*") if not any(part[0] == "." for part in p.relative_to(folder).parts))
    rest = {p for p in shown if p.is_file()} - {*files, *texts, folder / NAME}
    return sorted(p for p in rest if p.parent != folder or p.suffix.lower() not in (".csv", ".jsonl"))


def find_captions(folder: Path, files: list[Path]) -> tuple[dict[Path, tuple[str, ...]], list[str]]:
    """Captions of the files: each line of `clip.txt` beside `clip.mp4`, and the folder's CSV and JSONL; and
    the paths of those tables that are none of the files.

    A table has a column `path`, relative to the folder, and `caption`; other tables are left alone. One that
    gives captions to none of the files raises ValueError: its paths must be meant in another way.
    """
    unknown: list[str] = []
    found: dict[Path, list[str]] = {file: [] for file in files}
    for file in files:
        beside = file.with_suffix(".txt")
        if beside.is_file():
            with utf8(beside) as lines:
                found[file] += lines.read().splitlines()
    for table in sorted(p for p in folder.iterdir() if p.suffix.lower() in (".csv", ".jsonl")):
        rows = list(read_table(table))
        known = [(folder / path, caption) for path, caption in rows if folder / path in found]
        if rows and not known:
            raise ValueError(
                f"{table}: no file {rows[0][0]} in {folder}; its paths must be relative to that folder"
            )
        unknown += [path for path, _ in rows if folder / path not in found]
        for path, caption in known:
            found[path].append(caption)
    kept = {file: (" ".join(caption.split()) for caption in captions) for file, captions in found.items()}
    once = {file: tuple(dict.fromkeys(c for c in captions if c)) for file, captions in kept.items()}
    return once, list(dict.fromkeys(unknown))


def read_table(table: Path) -> Iterator[tuple[str, str]]:
    """Path and caption of each row of a CSV or JSONL file that has both; ValueError for a broken line."""
    with utf8(table) as file:
        if table.suffix.lower() == ".csv":
            yield from read_csv(table, csv.DictReader(file))
            return
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{table}, line {number}: not JSON ({error})") from None
            if (
                isinstance(row, dict)
                and isinstance(row.get("path"), str)
                and isinstance(row.get("caption"), str)
            ):
                yield row["path"], row["caption"]


def read_csv(table: Path, rows: csv.DictReader) -> Iterator[tuple[str, str]]:
    """Path and caption of each row of a CSV file that has both; ValueError for a broken row."""
    try:
        if not {"path", "caption"} <= set(rows.fieldnames or ()):
            return
        for row in rows:
            if not row["path"]:
                raise ValueError(f"{table}, line {rows.line_num}: no path")
            yield row["path"], row["caption"] or ""
    except csv.Error as error:
        raise ValueError(f"{table}, line {rows.line_num}: {error}") from None


@contextmanager
def utf8(file: Path) -> Iterator[TextIO]:
    """A file of captions, open; raises ValueError that names it where it is not UTF-8."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as text:
            yield text
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error.reason}): save it so") from None


def save_manifest(file: Path, entries: list[Entry]) -> None:
    """Writes entries as parquet, their paths relative to the manifest's own folder."""
    import pyarrow
    import pyarrow.parquet

    home = file.parent.resolve()
    rows = [asdict(e) | {"path": relative(e.path, home), "captions": list(e.captions)} for e in entries]
    types = {"captions": pyarrow.list_(pyarrow.string()), "path": pyarrow.string()}
    of_python = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    of_python[bytes] = pyarrow.binary()
    types |= {field.name: of_python[field.type] for field in fields(Probe)}
    table = pyarrow.Table.from_pylist(rows, pyarrow.schema([(name, types[name]) for name in COLUMNS]))
    write_whole(file, lambda temporary: pyarrow.parquet.write_table(table, temporary))


def relative(path: Path, home: Path) -> str:
    """A path from a folder, with forward slashes; a link keeps its own name."""
    return Path(os.path.relpath(path.parent.resolve() / path.name, home)).as_posix()


def load_manifest(source: str | Path) -> list[Entry]:
    """The entries of a manifest, or of the one in a folder; raises ValueError where there is none of ours."""
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
    there = [name for name in COLUMNS if name in table.column_names]
    missing = [name for name in COLUMNS if name not in {*there, *NEW}]
    if missing:
        raise ValueError(f"{file} has no column {missing[0]}: make it again with `dit data index FOLDER`")
    rows = table.select(there).to_pylist()
    if not rows:
        raise ValueError(f"{file} lists no file")
    home = file.parent
    return [Entry(**row | {"path": home / row["path"], "captions": tuple(row["captions"])}) for row in rows]
