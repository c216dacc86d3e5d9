"""Encodes clips into shards: which are missing, their keys, and every file decoded once for all its clips."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from configs.data import DataConfig
from vae import tiles
from vae.cache.shards import LATENTS, STORED, find_rows, key_of, stale_shards, write_shard
from vae.data.clips import DrawnWorld, clip_of, ignore_terminal_signals, starts
from vae.data.manifest import Entry
from vae.data.video import UnreadableVideo, read_frames, resize_and_crop, to_video
from vae.load import autoencoder_hash
from vae.training.files import file_hash
from vae.training.processes import on_main

PIXELS = 1 << 28  # bytes of frames that are read at once from a file with many places
SHARD_BYTES = 1 << 28  # of a shard's rows, which wait in memory


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
    depends = ("encoder", "files", "max_tokens", "padded", "store")
    return key_of(text=text, **{name: made[name] for name in depends})


def wanted_clips(
    entry: Entry, sha256: str, config: DataConfig, autoencoder: nn.Module, hashed: str, store: str
) -> list[Wanted]:
    """The clips of a file, one for each place; those of a short file may be the same."""
    found = []
    for start in starts(config.clips_per_file):
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
    budget: int = 0,
) -> list[tuple[int, str]]:
    """Encodes these shards' clips; gives the numbers of files whose clips cannot be had, with the reason.

    A shard is written whole when its last clip is encoded, or a Ctrl-C ends it before; a kill loses what is
    in work alone.
    """
    jobs = [job for group in groups for job in group]
    device, wrong = autoencoder.latent_mean.device, []
    about = {"autoencoder": hashed, "store": store, "compression": astuple(autoencoder.compression)}
    reading = iter(
        DataLoader(
            Reader(jobs, read), batch_size=None, num_workers=workers, worker_init_fn=ignore_terminal_signals
        )
    )
    total = sum(len(job.clips) for job in jobs)
    with tqdm(total=total, desc="encoding clips", unit="clip", disable=quiet or not total) as bar:
        for group in groups:
            rows = {}
            try:
                for job in group:
                    videos = next(reading)
                    if isinstance(videos, str):
                        wrong.append((job.number, videos))
                        bar.update(len(job.clips))
                        continue
                    for clip, video in zip(job.clips, videos, strict=True):
                        video = video if video.is_floating_point() else to_video(video)
                        posterior = torch.stack(within(budget, autoencoder, video[None].to(device)))[:, 0]
                        row = posterior.to(STORED[store]).cpu()
                        if torch.isfinite(row).all():
                            rows[clip.key] = row, clip.what
                        else:
                            wrong.append((job.number, not_finite(clip, store)))
                        bar.update()
            finally:  # a Ctrl-C keeps what is encoded; the same command goes on
                if rows:
                    write_shard(folder, LATENTS, rows, about)
    return wrong


def within(budget: int, autoencoder: nn.Module, video_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
    """The posterior of a clip, in tiles where a frame takes more than a budget of bytes; 0 is no limit."""
    _, *sides = autoencoder.compression.latent_size(*video_BCTHW.shape[2:])
    tile = tiles.tile_for(autoencoder, *sides, budget, "encode") if budget else 0
    return tiles.posterior(autoencoder, video_BCTHW, tile) if tile else autoencoder.posterior(video_BCTHW)


def not_finite(clip: Wanted, store: str) -> str:
    """Why a clip is not kept."""
    name = clip.what.get("name", "a scene")
    return f"{name}: its latents are no finite numbers{'' if store == 'fp32' else f' in {store}'}"


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
