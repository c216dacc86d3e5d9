"""Manifests: a parquet file with a row for each video and image, what it holds and its captions."""

import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from vae.data.video import IMAGES, VIDEOS, Probe
from vae.training.files import write_whole

NAME = "manifest.parquet"
COLUMNS = ("path", *(field.name for field in fields(Probe)), "captions")
NEW = {"decoder"}  # columns that older manifests lack


@dataclass(frozen=True)
class Entry(Probe):
    """A file of a manifest: where it is, what it holds, and its captions, of which there may be none."""

    path: Path
    captions: tuple[str, ...]

    @property
    def identity(self) -> tuple:
        """What a run on this file depends on: see `files_hash`."""
        picture = self.frames, self.fps, self.height, self.width
        return *picture, self.checksums.hex() or self.bytes, self.times.hex(), self.captions


def find_files(folder: Path) -> list[Path]:
    """The videos and images in and below a folder, in the order of their paths, but for hidden ones."""
    shown = (p for p in folder.rglob("*") if not any(part[0] == "." for part in p.relative_to(folder).parts))
    return sorted(p for p in shown if p.suffix.lower() in IMAGES | VIDEOS and p.is_file())


def passed_over(folder: Path, files: list[Path]) -> list[Path]:
    """The files in and below a folder that are none of `files`, their captions, a manifest, or hidden."""
    texts = {file.with_suffix(".txt") for file in files}
    shown = (p for p in folder.rglob("*") if not any(part[0] == "." for part in p.relative_to(folder).parts))
    rest = {p for p in shown if p.is_file()} - {*files, *texts, folder / NAME}
    return sorted(rest)


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
