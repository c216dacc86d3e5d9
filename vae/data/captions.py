"""Captions of files: text beside a video, and tables of a folder."""

from pathlib import Path

from vae.data.tables import (
    CAPTIONS,
    FILES,
    TABLES,
    OtherColumns,
    few,
    finder,
    lines_of,
    read_table,
    read_text,
    texts,
)


def find_captions(folder: Path, files: list[Path]) -> tuple[dict[Path, tuple[str, ...]], list[str]]:
    """Captions of the files: each line of `clip.txt` beside `clip.mp4`, and the folder's tables; and what is
    to be said of rows, and of tables, that give none.

    A table's paths are from the folder, or whole. One that gives captions to none of the files raises
    ValueError: its paths must be meant in another way.
    """
    by_file: dict[Path, list[str]] = {file: [] for file in files}
    notes, unknown = [], []
    for file in files:
        text = file.with_suffix(".txt")
        if text.is_file():
            lines = lines_of(read_text(text))
            by_file[file] += [caption for line in lines if (caption := " ".join(line.split()))]
    find = finder(files, folder)
    for table in find_tables(folder, files):
        try:
            rows, left_out = read_captions(table)
        except OtherColumns as error:
            notes.append(f"{error}: no captions are taken from it")
            continue
        notes += left_out
        known = 0
        for place, name, captions in rows:
            try:
                file = find(name)
            except ValueError as error:
                raise ValueError(f"{table}, {place}: {error}: give its whole name") from None
            if file is None:
                unknown.append(name)
            else:
                known += 1
                by_file[file] += captions
        if rows and not known:
            raise ValueError(
                f"{table}: no file {few([rows[0][1]])} in {folder}; its paths must be relative to that folder"
            )
    if unknown := list(dict.fromkeys(unknown)):
        notes.append(f"captions of {len(unknown)} files that are not here: {few(unknown)}")
    return {file: tuple(dict.fromkeys(captions)) for file, captions in by_file.items()}, notes


def find_tables(folder: Path, files: list[Path]) -> list[Path]:
    """The tables in a folder; JSON of a file's name beside it is that one's record."""
    records = {file.with_suffix(".json") for file in files}
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in TABLES and path.is_file() and path.name[0] != "." and path not in records
    )


def read_captions(table: Path) -> tuple[list[tuple[str, str, tuple[str, ...]]], list[str]]:
    """Place, file's name and captions of each row of a table that has both; and a line on the other rows.

    Raises ValueError for a table that is broken, OtherColumns for one of other things.
    """
    rows, left_out = [], []
    table_rows = read_table(table, {"file": FILES, "caption": CAPTIONS})
    for row in table_rows:
        names, value = texts(row.cells.get("file")), row.cells.get("caption")
        captions = texts(value)
        if len(names) != 1 or not captions:
            left_out.append(f"{row.place} has no {'caption' if len(names) == 1 else 'file'}")
            continue
        if isinstance(value, list) and len(captions) < len(value):
            left_out.append(f"{row.place} has {len(value) - len(captions)} empty captions")
        name = row.cells["file"]
        rows.append((row.place, name if isinstance(name, str) else names[0], captions))
    if not table_rows:
        left_out = [f"{table} has no rows"]
    elif left_out:
        left_out = [f"{table}: {len(left_out)} of {len(table_rows)} rows are left out: {few(left_out)}"]
    return rows, left_out
