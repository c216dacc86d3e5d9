"""The index of a latent cache: its files, and where their clips and captions lie."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from typing_extensions import TypedDict

from configs.load import from_json, parse_json
from configs.ranges import CountOrZero, Frames, Rate, Side, Width
from vae.cache.shards import DTYPES, FORMAT, Location, shard_files
from vae.data.manifest import relative
from vae.data.parquet import check_columns, read_parquet
from vae.training.files import below, naming, write_whole

INDEX = "index.parquet"
MARK = b"latent cache"  # in the index's metadata


AGAIN = "give its `dit vae encode` command again"
SHARD = r"[a-z]+-[0-9a-f]{24}\.safetensors"


class Sampling(TypedDict):
    """The settings of the data that say which clips a cache has."""

    frames: Frames
    size: Side
    fps: Rate
    clips_per_file: CountOrZero


class EncoderFacts(TypedDict):
    """What a cache's embeddings depend on."""

    encoder: str
    files: str
    max_tokens: Width
    padded: bool


class Provenance(TypedDict):
    """What a cache was made with."""

    data: Sampling
    autoencoder: str
    autoencoder_files: str
    name: str
    dtype: Literal["fp16", "bf16", "fp32"]
    text: EncoderFacts | None


class About(TypedDict):
    """The metadata of an index."""

    format: int
    provenance: Provenance
    empty: Location | None
    shards: dict[str, int]


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
    def key(self) -> str:
        """What it holds, wherever it lies."""
        return " ".join(self.keys)


@dataclass(frozen=True)
class Cache:
    """A cache that was opened: its files in the manifest's order, and what it was made with.

    `provenance` has the settings of the data, the hashes of the autoencoder and of its files, the stored
    precision, and of frozen text encoders the hash and settings; `empty` is where the empty prompt's
    embedding lies.
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

    def columns(prefix: str, given: Sequence[Location]) -> dict:
        return {
            f"{prefix}_shard": [numbers[location.shard] for location in given],
            f"{prefix}_offset": [location.offset for location in given],
            f"{prefix}_shape": [list(location.shape) for location in given],
            f"{prefix}_crc32": [list(location.crc32) for location in given],
        }

    rows = [
        {
            "path": relative(file.path, folder),
            "sha256": file.sha256,
            "captions": list(file.captions),
            "keys": list(file.keys),
            "reason": file.reason,
        }
        | columns("clip", file.clips)
        | columns("text", file.texts)
        for file in files
    ]
    about = {"format": FORMAT, "provenance": provenance, "empty": asdict(empty) if empty else None}
    about["shards"] = {name: (folder / name).stat().st_size for name in names}
    schema = pyarrow.schema(list(_types().items()), metadata={MARK: json.dumps(about)})
    table = pyarrow.Table.from_pylist(rows, schema)
    write_whole(folder / INDEX, lambda temporary: pyarrow.parquet.write_table(table, temporary))


def _types() -> dict:
    """The type of every column."""
    import pyarrow

    text, number = pyarrow.string(), pyarrow.int64()
    kinds = {"path": text, "sha256": text, "reason": text}
    kinds |= {"captions": pyarrow.list_(text), "keys": pyarrow.list_(text)}
    for prefix in ("clip", "text"):
        kinds |= {f"{prefix}_{what}": pyarrow.list_(number) for what in ("shard", "offset")}
        kinds |= {f"{prefix}_{what}": pyarrow.list_(pyarrow.list_(number)) for what in ("shape", "crc32")}
    return kinds


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
    rows, about, folder = read_index(source)
    sizes = about["shards"]
    for name, size in sizes.items():
        if not (folder / name).is_file() or (folder / name).stat().st_size != size:
            raise ValueError(f"{folder / name} is not there as it was: {remedy(folder)}")
    names = list(sizes)
    empty = about["empty"]
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
        for row in rows
    ]
    itemsize = DTYPES[about["provenance"]["dtype"]].itemsize
    clips = [location for file in files for location in file.clips]
    texts = [location for file in files for location in file.texts] + ([empty] if empty else [])
    for what, location in [*(("clip", clip) for clip in clips), *(("caption", text) for text in texts)]:
        shape, parts = location.shape, len(location.crc32)
        of_clip = len(shape) == 5 and shape[0] == parts == 2  # mean and log-variance
        if not (of_clip if what == "clip" else (len(shape), parts) == (2, 1)):
            raise ValueError(
                f"{folder / INDEX} lists a {what} of shape {shape} with {parts} checksums, which "
                f"it cannot be: {remedy(folder)}"
            )
        end = location.offset + math.prod(location.shape) * itemsize
        if location.offset < 0 or min(location.shape, default=0) < 1 or end > sizes.get(location.shard, 0):
            raise ValueError(f"{folder / INDEX} lists a row outside {location.shard}: {remedy(folder)}")
    return Cache(folder, files, about["provenance"], empty)


def locations_in(row: dict, prefix: str, names: Sequence[str]) -> tuple[Location, ...]:
    """Where the clips or the captions of a row of the index lie."""
    parts = [row[f"{prefix}_{what}"] for what in ("shard", "offset", "shape", "crc32")]
    if len(set(map(len, parts))) > 1 or any(not 0 <= shard < len(names) for shard in parts[0]):
        raise ValueError(f"the index of {row['path']} lists {prefix}s in no shard: {AGAIN}")
    columns = zip(*parts, strict=True)
    return tuple(
        Location(names[shard], offset, tuple(shape), tuple(crc32)) for shard, offset, shape, crc32 in columns
    )


def read_index(source: str | Path) -> tuple[list[dict], About, Path]:
    """The rows of an index, what its metadata say, and its folder; ValueError where it is not as written."""
    file = _index_file(source)
    if not file.is_file():
        if Path(source).is_dir() and shard_files(Path(source)):
            raise ValueError(f"{source} has shards and no {INDEX}, its encoding did not end: {AGAIN}")
        raise ValueError(f"{source}: no such cache; make one with `dit vae encode MANIFEST --out CACHE`")
    table = read_parquet(file, AGAIN)
    if MARK not in (table.schema.metadata or {}):
        raise ValueError(
            f"{file} is no index of a cache; make one with `dit vae encode MANIFEST --out CACHE`"
        )
    about = from_json(About, parse_json(table.schema.metadata[MARK], file), file)
    if about["format"] != FORMAT:
        raise ValueError(f"{file} is of another version of this code: {AGAIN}")
    for name in about["shards"]:
        below(file.parent, name, SHARD)
    table = check_columns(table, _types(), file, AGAIN)
    with naming(file):
        return table.to_pylist(), about, file.parent


def remedy(folder: Path) -> str:
    """What to do about a damaged cache."""
    return f"`dit data check {folder}` says what is damaged, its `dit vae encode` command makes that again"
