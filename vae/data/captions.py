"""Captions of files: text beside a video, and tables of a folder."""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


def find_captions(folder: Path, files: list[Path]) -> tuple[dict[Path, tuple[str, ...]], list[str]]:
    """Captions of the files: each line of `clip.txt` beside `clip.mp4`, and the folder's CSV and JSONL; and
    the paths of those tables that are none of the files.

    A table has a column `path`, relative to the folder, and `caption`; other tables are left alone. One that
    gives captions to none of the files raises ValueError: its paths must be meant in another way.
    """
    unknown: list[str] = []
    by_file: dict[Path, list[str]] = {file: [] for file in files}
    for file in files:
        text = file.with_suffix(".txt")
        if text.is_file():
            with _utf8(text) as lines:
                by_file[file] += lines.read().splitlines()
    for table in sorted(p for p in folder.iterdir() if p.suffix.lower() in (".csv", ".jsonl")):
        rows = list(read_table(table))
        known = [(folder / path, caption) for path, caption in rows if folder / path in by_file]
        if rows and not known:
            raise ValueError(
                f"{table}: no file {rows[0][0]} in {folder}; its paths must be relative to that folder"
            )
        unknown += [path for path, _ in rows if folder / path not in by_file]
        for path, caption in known:
            by_file[path].append(caption)
    kept = {file: (" ".join(caption.split()) for caption in captions) for file, captions in by_file.items()}
    once = {file: tuple(dict.fromkeys(c for c in captions if c)) for file, captions in kept.items()}
    return once, list(dict.fromkeys(unknown))


def read_table(table: Path) -> Iterator[tuple[str, str]]:
    """Path and caption of each row of a CSV or JSONL file that has both; ValueError for a broken line."""
    with _utf8(table) as file:
        if table.suffix.lower() == ".csv":
            yield from _read_csv(table, csv.DictReader(file))
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


def _read_csv(table: Path, rows: csv.DictReader) -> Iterator[tuple[str, str]]:
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
def _utf8(file: Path) -> Iterator[TextIO]:
    """A file of captions, open; raises ValueError that names it where it is not UTF-8."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as text:
            yield text
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error.reason}): save it so") from None
