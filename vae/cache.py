"""The latent cache: what clips and captions are encoded to, in shards by content, listed in an index."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from configs.settings import DataConfig
from vae.data import (
    SHAPES,
    Clip,
    DrawnWorld,
    HeldOutFiles,
    UnusableData,
    VideoFiles,
    check_data,
    clip_of,
    held_out_split,
    out_of_reach,
    starts,
)
from vae.load import autoencoder_hash
from vae.manifest import Entry, relative
from vae.model import Compression
from vae.run import on_main
from vae.seeds import shuffled
from vae.shards import FORMAT, STORED, Place, find_rows, key_of, read_row, shard_files, write_shard
from vae.video import UnreadableVideo, read_frames, resize_and_crop, to_video
from vae.weights import file_hash, write_whole

INDEX = "index.parquet"
MARK = b"latent cache"  # in the index's metadata
LATENTS, TEXTS = "latents", "texts"  # the two kinds of shards
PIXELS = 1 << 28  # bytes of frames that are read at once from a file with many places
SHARD_BYTES = 1 << 28  # of a shard's rows, which wait in memory
SAMPLING = ("frames", "size", "fps", "places")  # the settings of data that say which clips there are


class DamagedCache(UnusableData):
    """A cache whose shards are not what its index says."""


@dataclass(frozen=True)
class Wanted:
    """A clip to encode: its key, what it is, and the shape of its posterior, 2 C T H W."""

    key: str
    what: dict
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Job:
    """Clips of one file, by its number, that are read together."""

    number: int
    clips: tuple[Wanted, ...]


@dataclass(frozen=True)
class CachedFile:
    """A file of a cache: its captions, the key of its clip at each place, and where clips and captions lie.

    One that could not be read has no keys, and the reason. What is written is what a run depends on.
    """

    times: ClassVar[bytes] = b""  # by which its clips were chosen: the keys hold them

    captions: tuple[str, ...]
    keys: tuple[str, ...]
    path: Path = field(repr=False)
    sha256: str = field(repr=False)
    reason: str = field(repr=False)
    clips: tuple[Place, ...] = field(repr=False)
    texts: tuple[Place, ...] = field(repr=False)


@dataclass(frozen=True)
class Cache:
    """A cache that was opened: its files in the manifest's order, and what it was made with.

    `made` has the settings of the data, the autoencoder's hash, the stored number format, and of frozen text
    encoders the hash and settings; `empty` is where the empty prompt's embedding lies.
    """

    folder: Path
    files: list[CachedFile]
    made: dict
    empty: Place | None


def file_hashes(entries: Sequence[Entry], rank: int, ranks: int, workers: int) -> list[tuple[int, str, str]]:
    """Number, SHA-256 and what is wrong, of this process's share of the files, all bytes of each."""

    def one(number: int) -> tuple[int, str, str]:
        path = entries[number].path
        try:
            return number, file_hash(path), ""
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            return number, "", f"{path}: {'no such file' if missing else error.strerror}"

    mine = range(rank, len(entries), ranks)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        return list(tqdm(pool.map(one, mine), "hashing files", len(mine), unit="file", disable=rank > 0))


def clip_key(what: dict, autoencoder: str, store: str) -> str:
    """The key of a clip: what it is, the autoencoder's hash, the stored number format and the code's."""
    content = {name: value for name, value in what.items() if name != "name"}
    return key_of(clip=content, autoencoder=autoencoder, store=store)


def text_key(text: str, made: dict) -> str:
    """The key of a caption: its words, the encoder's hash and settings, and the stored number format."""
    return key_of(text=text, **{name: made[name] for name in ("encoder", "longest", "padded", "store")})


def wanted_clips(
    entry: Entry, sha256: str, config: DataConfig, autoencoder: nn.Module, hashed: str, store: str
) -> list[Wanted]:
    """The clips of a file, one for each place; those of a short file may be the same."""
    found = []
    for start in starts(config.places):
        indices, height, width = clip_of(entry, start, config, autoencoder.compression)
        what = {"file": sha256, "frames": indices, "size": [height, width], "name": entry.path.name}
        found.append(want(what, len(indices), height, width, autoencoder, hashed, store))
    return found


def want(
    what: dict, frames: int, height: int, width: int, autoencoder: nn.Module, hashed: str, store: str
) -> Wanted:
    """A clip to encode, with its key and the shape of what it becomes."""
    shape = 2, autoencoder.channels, *autoencoder.compression.latent_size(frames, height, width)
    return Wanted(clip_key(what, hashed, store), what, shape)


def missing_jobs(clips: Sequence[Sequence[Wanted]], entries: Sequence[Entry], there: set[str]) -> list[Job]:
    """What is left to encode, in the order of the files, each clip once; few frames are read at a time."""
    jobs, planned = [], set(there)
    for number, (wanted, entry) in enumerate(zip(clips, entries, strict=True)):
        left = []
        for clip in wanted:
            if clip.key not in planned:
                planned.add(clip.key)
                left.append(clip)
        frames = max((len(clip.what["frames"]) for clip in left), default=1)
        many = max(1, PIXELS // (3 * frames * entry.height * entry.width))
        jobs += [Job(number, tuple(left[first : first + many])) for first in range(0, len(left), many)]
    return jobs


def in_shards(jobs: Sequence[Job], most: int, store: str) -> list[list[Job]]:
    """The jobs of every shard: at most so many clips, and not too many bytes."""
    groups: list[list[Job]] = []
    count = size = 0
    for job in jobs:
        clips = len(job.clips)
        more = sum(torch.Size(clip.shape).numel() for clip in job.clips) * STORED[store].itemsize
        if not groups or count + clips > most or size + more > SHARD_BYTES:
            groups.append([])
            count = size = 0
        groups[-1].append(job)
        count, size = count + clips, size + more
    return groups


class Reader(Dataset):
    """What the clips of each job are read to: a list of videos, or why there is none."""

    def __init__(self, jobs: Sequence[Job], read: Callable[[Job], list[Tensor]]):
        self.jobs, self.read = jobs, read

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, which: int) -> list[Tensor] | str:
        try:
            return self.read(self.jobs[which])
        except UnreadableVideo as error:
            return str(error)


def read_job(job: Job, entries: Sequence[Entry]) -> list[Tensor]:
    """The clips of a file as frames T H W C of bytes, of a file that is decoded once for all of them."""
    entry = entries[job.number]
    distinct = sorted({index for clip in job.clips for index in clip.what["frames"]})
    place = {index: k for k, index in enumerate(distinct)}
    frames = read_frames(entry.path, distinct, entry)
    return [
        resize_and_crop(frames[[place[index] for index in clip.what["frames"]]], *clip.what["size"])
        for clip in job.clips
    ]


def draw_job(job: Job, world: DrawnWorld) -> list[Tensor]:
    """A scene's video C T H W."""
    return [world[job.number].video]


@torch.no_grad()
def encode_jobs(
    folder: Path,
    groups: Sequence[Sequence[Job]],
    read: Callable[[Job], list[Tensor]],
    autoencoder: nn.Module,
    hashed: str,
    store: str,
    workers: int,
    quiet: bool,
) -> list[tuple[int, str]]:
    """Encodes these shards' clips; gives the numbers of files whose clips cannot be had, with the reason.

    A shard is written whole when its last clip is encoded, so that a kill loses what is in work alone.
    """
    jobs = [job for group in groups for job in group]
    device, wrong = autoencoder.latent_mean.device, []
    about = {"autoencoder": hashed, "store": store, "compression": astuple(autoencoder.compression)}
    reading = iter(
        DataLoader(Reader(jobs, read), batch_size=None, num_workers=workers, worker_init_fn=out_of_reach)
    )
    total = sum(len(job.clips) for job in jobs)
    with tqdm(total=total, desc="encoding clips", unit="clip", disable=quiet or not total) as bar:
        for group in groups:
            rows = {}
            for job in group:
                videos = next(reading)
                if isinstance(videos, str):
                    wrong.append((job.number, videos))
                    bar.update(len(job.clips))
                    continue
                for clip, video in zip(job.clips, videos, strict=True):
                    video = video if video.is_floating_point() else to_video(video)
                    posterior = torch.stack(autoencoder.posterior(video[None].to(device)))[:, 0]
                    row = posterior.to(STORED[store]).cpu()
                    if torch.isfinite(row).all():
                        rows[clip.key] = row, clip.what
                    else:
                        wrong.append((job.number, not_finite(clip, store)))
                    bar.update()
            if rows:
                write_shard(folder, LATENTS, rows, about)
    return wrong


def not_finite(clip: Wanted, store: str) -> str:
    """Why a clip is not kept."""
    name = clip.what.get("name", "a scene")
    return f"{name}: its latents are no finite numbers{'' if store == 'fp32' else f' in {store}'}"


def save_index(folder: Path, files: list[CachedFile], made: dict, empty: Place | None) -> None:
    """Writes the index: a row for each file, and in the metadata what the cache was made with."""
    import pyarrow
    import pyarrow.parquet

    places = [place for file in files for place in (*file.clips, *file.texts)] + ([empty] if empty else [])
    names = sorted({place.shard for place in places})
    numbers = {name: k for k, name in enumerate(names)}
    home = folder.resolve()

    def columns(prefix: str, found: Sequence[Place]) -> dict:
        return {
            f"{prefix}_shard": [numbers[place.shard] for place in found],
            f"{prefix}_offset": [place.offset for place in found],
            f"{prefix}_shape": [list(place.shape) for place in found],
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
        kinds[f"{prefix}_shape"] = pyarrow.list_(pyarrow.list_(number))
    about = {"format": FORMAT, "made": made, "empty": asdict(empty) if empty else None}
    about["shards"] = {name: (folder / name).stat().st_size for name in names}
    schema = pyarrow.schema(list(kinds.items()), metadata={MARK: json.dumps(about)})
    table = pyarrow.Table.from_pylist(rows, schema)
    write_whole(folder / INDEX, lambda temporary: pyarrow.parquet.write_table(table, temporary))


def index_file(source: str | Path) -> Path:
    """Where the index of a cache is, which is given by its folder or by the index itself."""
    return Path(source) / INDEX if Path(source).is_dir() else Path(source)


def is_cache(source: str | Path) -> bool:
    """Whether a source of data is a cache, finished or not."""
    import pyarrow
    import pyarrow.parquet

    file = index_file(source)
    if file.is_file() and file.suffix == ".parquet":
        try:
            return MARK in (pyarrow.parquet.read_schema(file).metadata or {})
        except pyarrow.ArrowException:
            pass  # its shards, if there are any, say what it is
    return Path(source).is_dir() and bool(shard_files(Path(source)))


def find_cache(source: str) -> Cache | None:
    """The cache that a source of data is; None where it is something else."""
    return load_cache(source) if source != SHAPES and is_cache(source) else None


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
            clips=places_in(row, "clip", names),
            texts=places_in(row, "text", names),
        )
        for row in table.to_pylist()
    ]
    empty = about["empty"] and Place(**about["empty"] | {"shape": tuple(about["empty"]["shape"])})
    return Cache(folder, files, about["made"], empty)


def places_in(row: dict, prefix: str, names: Sequence[str]) -> tuple[Place, ...]:
    """Where the clips or the captions of a row of the index lie."""
    columns = zip(*(row[f"{prefix}_{what}"] for what in ("shard", "offset", "shape")), strict=True)
    return tuple(Place(names[shard], offset, tuple(shape)) for shard, offset, shape in columns)


def read_index(source: str | Path) -> tuple[object, dict, Path]:
    """The table of an index, what its metadata say, and its folder."""
    import pyarrow
    import pyarrow.parquet

    file = index_file(source)
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


def check_made(cache: Cache, config: DataConfig, autoencoder: nn.Module) -> None:
    """Raises ValueError, naming the setting, where a run wants other clips or latents than a cache holds."""
    for name in SAMPLING:
        if (value := getattr(config, name)) != (held := cache.made["data"][name]):
            raise ValueError(
                f"data.{name} = {value}, but {cache.folder} was made with {held}: give --data.{name} {held}, "
                f"or make a cache with {value}"
            )
    if autoencoder_hash(autoencoder) != cache.made["autoencoder"]:
        raise ValueError(
            f"{cache.folder} was made by another autoencoder, {cache.made['name']}: give that one with "
            f"--autoencoder, or make a cache with this one"
        )


def open_cached(
    cache: Cache, config: DataConfig, seed: int, validation: int, autoencoder: nn.Module, sample: bool
) -> tuple[VideoFiles, HeldOutFiles]:
    """Training and held-out data of a cache: the same clips as `open_data` has of its manifest.

    With `sample` they have log-variances too. Raises ValueError where the cache holds other ones.
    """
    check_data(config, autoencoder.compression)
    check_made(cache, config, autoencoder)
    kept, held = held_out_split(cache.files, seed, validation)
    data = CachedFiles(cache, config, seed, kept, autoencoder.compression, sample)
    return data, HeldOutFiles(held, data)


class CachedFiles(VideoFiles):
    """Files of a cache: which file, place and caption a draw has is what it is of the files themselves."""

    def __init__(
        self,
        cache: Cache,
        config: DataConfig,
        seed: int,
        entries: list[CachedFile],
        compression: Compression,
        sample: bool,
    ):
        super().__init__(config, seed, entries, compression)
        self.folder, self.dtype, self.parts = cache.folder, STORED[cache.made["store"]], 2 if sample else 1
        self.place = {start: k for k, start in enumerate(starts(config.places))}

    def content(self, entry: CachedFile, start: float) -> tuple[None, tuple[Tensor, ...]]:
        """No video, and the posterior of a clip."""
        if entry.reason:
            raise UnreadableVideo(entry.reason)
        return None, read_posterior(self.folder, entry.clips[self.place[start]], self.dtype, self.parts)


def read_posterior(folder: Path, place: Place, dtype: torch.dtype, parts: int = 2) -> tuple[Tensor, ...]:
    """Mean and log-variance C T H W, or so many of these; raises DamagedCache where they cannot be read."""
    try:
        return read_row(folder, place, dtype, parts).unbind()
    except (ValueError, OSError) as error:
        raise DamagedCache(f"{error}: {remedy(folder)}") from None


class CachedWorld(Dataset):
    """The first scenes of the drawn world as posteriors; every epoch has its own order and new captions."""

    def __init__(self, world: DrawnWorld, folder: Path, places: list[Place], store: str):
        self.world, self.folder, self.places, self.dtype = world, folder, places, STORED[store]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, draw: int) -> Clip:
        epoch, position = divmod(draw, len(self.places))
        k = shuffled(len(self.places), self.world.seed, "cached order", epoch)[position]
        posterior = read_posterior(self.folder, self.places[k], self.dtype)
        return Clip(None, self.world.caption(k, draw), f"scene {k}", posterior=posterior)


def scenes(world: DrawnWorld, count: int, autoencoder: nn.Module, store: str) -> Iterator[Wanted]:
    """The first clips of the drawn world."""
    hashed, side = autoencoder_hash(autoencoder), world.config.size
    for k in range(count):
        what = {"scene": [world.seed, k, world.split], "frames": world.config.frames, "size": [side, side]}
        yield want(what, world.config.frames, side, side, autoencoder, hashed, store)


def encode_scenes(
    world: DrawnWorld,
    autoencoder: nn.Module,
    count: int,
    folder: Path,
    rank: int = 0,
    ranks: int = 1,
    most: int = 512,
    store: str = "fp16",
) -> None:
    """Encodes this process's share of the drawn world's first `count` scenes that a folder does not hold.

    Shards that hold none of them are removed. Every process must call it.
    """
    wanted = list(scenes(world, count, autoencoder, store))

    def there() -> set[str]:
        for file in stale_shards(folder, {clip.key for clip in wanted}):
            file.unlink()
        return set(find_rows(folder, LATENTS)[0])

    found = on_main(rank == 0, there)
    jobs = [Job(k, (clip,)) for k, clip in enumerate(wanted) if clip.key not in found]
    groups = in_shards(jobs, most, store)[rank::ranks]
    hashed, read = autoencoder_hash(autoencoder), partial(draw_job, world=world)
    wrong = encode_jobs(folder, groups, read, autoencoder, hashed, store, 0, rank > 0)
    if wrong:
        raise ValueError(wrong[0][1])


def stale_shards(folder: Path, used: set[str]) -> list[Path]:
    """The shards of a folder that hold nothing of what is used, or are damaged."""
    found = {kind: find_rows(folder, kind) for kind in (LATENTS, TEXTS)}
    held = {place.shard for rows, _ in found.values() for key, place in rows.items() if key in used}
    return [file for file in shard_files(folder) if file.name not in held]


def read_scenes(
    world: DrawnWorld, autoencoder: nn.Module, count: int, folder: Path, store: str = "fp16"
) -> CachedWorld:
    """The scenes that `encode_scenes` encoded."""
    places = find_rows(folder, LATENTS)[0]
    found = [places[clip.key] for clip in scenes(world, count, autoencoder, store)]
    return CachedWorld(world, folder, found, store)
