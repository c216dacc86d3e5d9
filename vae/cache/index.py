"""The index of a latent cache: its files, and where their clips and captions lie."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vae.cache.shards import FORMAT, Location, shard_files
from vae.data.manifest import relative
from vae.training.files import write_whole

INDEX = "index.parquet"
MARK = b"latent cache"  # in the index's metadata


@dataclass(frozen=True)
class CachedFile:
    """A file of a cache: its captions, the key of its clip at each start, and where clips and captions lie.

    One that could not be read has no keys, and the reason.
    """

    captions: tuple[str, ...]
    keys: tuple[str, ...]
    path: Path
    sha256: str
    reason: str
    clips: tuple[Location, ...]
    texts: tuple[Location, ...]

    @property
    def identity(self) -> tuple:
        """What a run on this file depends on: see `files_hash`."""
        return self.keys, self.captions


@dataclass(frozen=True)
class Cache:
    """A cache that was opened: its files in the manifest's order, and what it was made with.

    `provenance` has the settings of the data, the autoencoder's hash, the stored precision, and of frozen
    text encoders the hash and settings; `empty` is where the empty prompt's embedding lies.
    """

    folder: Path
    files: list[CachedFile]
    provenance: dict
    empty: Location | None


def save_index(folder: Path, files: list[CachedFile], provenance: dict, empty: Location | None) -> None:
    """Writes the index: a row for each file, and in the metadata what the cache was made with."""
    import pyarrow
    import pyarrow.parquet

    locations = [location for file in files for location in (*file.clips, *file.texts)]
    names = sorted({location.shard for location in [*locations, *([empty] if empty else [])]})
    numbers = {name: k for k, name in enumerate(names)}
    home = folder.resolve()

    def columns(prefix: str, given: Sequence[Location]) -> dict:
        return {
            f"{prefix}_shard": [numbers[location.shard] for location in given],
            f"{prefix}_offset": [location.offset for location in given],
            f"{prefix}_shape": [list(location.shape) for location in given],
            f"{prefix}_crc32": [list(location.crc32) for location in given],
        }

    rows = [
        {
            "path": relative(file.path, home),
            "sha256": file.sha256,
            "captions": list(file.captions),
            "keys": list(file.keys),
            "reason": file.reason,
        }
        | columns("clip", file.clips)
        | columns("text", file.texts)
        for file in files
    ]
    text, number = pyarrow.string(), pyarrow.int64()
    kinds = {"path": text, "sha256": text, "reason": text}
    kinds |= {"captions": pyarrow.list_(text), "keys": pyarrow.list_(text)}
    for prefix in ("clip", "text"):
        kinds |= {f"{prefix}_{what}": pyarrow.list_(number) for what in ("shard", "offset")}
        kinds |= {f"{prefix}_{what}": pyarrow.list_(pyarrow.list_(number)) for what in ("shape", "crc32")}
    about = {"format": FORMAT, "provenance": provenance, "empty": asdict(empty) if empty else None}
    about["shards"] = {name: (folder / name).stat().st_size for name in names}
    schema = pyarrow.schema(list(kinds.items()), metadata={MARK: json.dumps(about)})
    table = pyarrow.Table.from_pylist(rows, schema)
    write_whole(folder / INDEX, lambda temporary: pyarrow.parquet.write_table(table, temporary))


def _index_file(source: str | Path) -> Path:
    """Where the index of a cache is, which is given by its folder or by the index itself."""
    return Path(source) / INDEX if Path(source).is_dir() else Path(source)


def is_cache(source: str | Path) -> bool:
    """Whether a source of data is a cache, finished or not."""
    import pyarrow
    import pyarrow.parquet

    file = _index_file(source)
    if file.is_file() and file.suffix == ".parquet":
        try:
            return MARK in (pyarrow.parquet.read_schema(file).metadata or {})
        except pyarrow.ArrowException:
            pass  # its shards, if there are any, say what it is
    return Path(source).is_dir() and bool(shard_files(Path(source)))


def load_cache(source: str | Path) -> Cache:
    """A cache by its index; raises ValueError where there is none, or a shard is not there as it was."""
    table, about, folder = read_index(source)
    sizes = about["shards"]
    for name, size in sizes.items():
        if not (folder / name).is_file() or (folder / name).stat().st_size != size:
            raise ValueError(f"{folder / name} is not there as it was: {remedy(folder)}")
    names = list(sizes)
    files = [
        CachedFile(
            captions=tuple(row["captions"]),
            keys=tuple(row["keys"]),
            path=folder / row["path"],
            sha256=row["sha256"],
            reason=row["reason"],
            clips=locations_in(row, "clip", names),
            texts=locations_in(row, "text", names),
        )
        for row in table.to_pylist()
    ]
    empty = about["empty"] and Location(
        **{name: tuple(v) if isinstance(v, list) else v for name, v in about["empty"].items()}
    )
    return Cache(folder, files, about["provenance"], empty)


def locations_in(row: dict, prefix: str, names: Sequence[str]) -> tuple[Location, ...]:
    """Where the clips or the captions of a row of the index lie."""
    columns = zip(*(row[f"{prefix}_{what}"] for what in ("shard", "offset", "shape", "crc32")), strict=True)
    return tuple(
        Location(names[shard], offset, tuple(shape), tuple(crc32)) for shard, offset, shape, crc32 in columns
    )


def read_index(source: str | Path) -> tuple[object, dict, Path]:
    """The table of an index, what its metadata say, and its folder."""
    import pyarrow
    import pyarrow.parquet

    file = _index_file(source)
    if not file.is_file():
        if Path(source).is_dir() and shard_files(Path(source)):
            again = "give its `dit vae encode` command again"
            raise ValueError(f"{source} has shards and no {INDEX}, its encoding did not end: {again}")
        raise ValueError(f"{source}: no such cache; make one with `dit vae encode MANIFEST --out CACHE`")
    try:
        table = pyarrow.parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{file} is damaged ({error}): give its `dit vae encode` command again") from None
    if MARK not in (table.schema.metadata or {}):
        raise ValueError(
            f"{file} is no index of a cache; make one with `dit vae encode MANIFEST --out CACHE`"
        )
    about = json.loads(table.schema.metadata[MARK])
    if about["format"] != FORMAT:
        raise ValueError(
            f"{file} is of another version of this code: give its `dit vae encode` command again"
        )
    return table, about, file.parent


def remedy(folder: Path) -> str:
    """What to do about a damaged cache."""
    return f"`dit data check {folder}` says what is damaged, its `dit vae encode` command makes that again"
