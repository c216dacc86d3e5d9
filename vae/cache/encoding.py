"""Encodes clips into shards: which are missing, their keys, and every file decoded once for all its clips."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from configs.data import DataConfig
from vae import tiles
from vae.cache.shards import DTYPES, LATENTS, key_of, write_shard
from vae.data.clips import clip_of, ignore_terminal_signals, starts
from vae.data.columns import Entry
from vae.data.drawn_captions import caption
from vae.data.drawn_world import Scene, draw, random_scene
from vae.data.video import UnreadableVideo, read_frames, resize_and_crop, to_video
from vae.interface import VideoAutoencoder
from vae.training.files import file_hash
from vae.training.progress import progress

PIXELS = 1 << 28  # bytes of frames that are read at once from a file with many clips
SHARD_BYTES = 1 << 28  # of a shard's rows, which wait in memory
SCENE_CAPTIONS = 8  # of a scene of the drawn world, those that are the same once


@dataclass(frozen=True)
class DrawnFile(Entry):
    """A scene of the drawn world as a file that holds one clip, which is drawn and not read."""

    scene: Scene


@dataclass(frozen=True)
class ClipToEncode:
    """A clip to encode: its key, what it is, and the shape of its posterior, 2 C T H W."""

    key: str
    what: dict
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Reading:
    """Clips of one file, by its number, that are read together."""

    number: int
    clips: tuple[ClipToEncode, ...]


def drawn_files(folder: Path, config: DataConfig, seed: int, count: int) -> list[DrawnFile]:
    """The first scenes of a seed, named as if in a folder, each with several captions of the grammar."""
    frames, size, files = config.frames, config.size, []
    about = {"codec": "", "duration": frames / config.fps, "bytes": 0, "reader": "drawn"}
    about |= {"stream": 0, "streams": 0, "checksums": b""}
    for k in range(count):
        scene = random_scene(seed, k, "train")
        texts = (caption(scene, seed, SCENE_CAPTIONS * k + n, "train") for n in range(SCENE_CAPTIONS))
        captions, path = tuple(dict.fromkeys(texts)), folder / f"scene {k}"
        files.append(
            DrawnFile(frames, config.fps, size, size, path=path, captions=captions, scene=scene, **about)
        )
    return files


def file_hashes(entries: Sequence[Entry], rank: int, ranks: int, workers: int) -> list[tuple[int, str, str]]:
    """Number, SHA-256 and what is wrong, of this process's share of the files, all bytes or scene of each."""

    once = lru_cache(maxsize=64)(file_hash)  # spans of a file follow each other

    def one(number: int) -> tuple[int, str, str]:
        entry = entries[number]
        if isinstance(entry, DrawnFile):
            return number, key_of(scene=asdict(entry.scene)), ""
        path = entry.path
        try:
            return number, once(path), ""
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            return number, "", f"{path}: {'no such file' if missing else error.strerror}"

    mine = range(rank, len(entries), ranks)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        return list(progress(pool.map(one, mine), "hashing files", len(mine), unit="file", disable=rank > 0))


def clip_key(what: dict, autoencoder: str, dtype: str) -> str:
    """The key of a clip: what it is, the autoencoder's hash, the stored precision and the code's format."""
    content = {name: value for name, value in what.items() if name != "name"}
    return key_of(clip=content, autoencoder=autoencoder, dtype=dtype)


def text_key(text: str, about: dict) -> str:
    """The key of a caption: its words, the encoder's hash and settings, and the stored precision."""
    depends = ("encoder", "files", "max_tokens", "padded", "dtype")
    return key_of(text=text, **{name: about[name] for name in depends})


def clips_to_encode(
    entry: Entry, sha256: str, config: DataConfig, autoencoder: VideoAutoencoder, hashed: str, dtype: str
) -> list[ClipToEncode]:
    """The clips of a file, one for each start; those of a short file may be the same."""
    clips = []
    for start in starts(config.clips_per_file):
        indices, height, width = clip_of(entry, start, config, autoencoder.compression)
        frames = [
            entry.start + index for index in indices
        ]  # of the file: spans that share them share latents
        what = {"file": sha256, "frames": frames, "size": [height, width], "name": entry.path.name}
        size = autoencoder.compression.latent_size(len(indices), height, width)
        clips.append(ClipToEncode(clip_key(what, hashed, dtype), what, (2, autoencoder.channels, *size)))
    return clips


def missing_clips(
    clips: Sequence[Sequence[ClipToEncode]], entries: Sequence[Entry], keys: set[str]
) -> list[Reading]:
    """The clips whose keys a cache lacks, in the order of the files, each once, few frames to a reading."""
    readings, planned = [], set(keys)
    for number, (of_file, entry) in enumerate(zip(clips, entries, strict=True)):
        left = []
        for clip in of_file:
            if clip.key not in planned:
                planned.add(clip.key)
                left.append(clip)
        frames = max((len(clip.what["frames"]) for clip in left), default=1)
        many = max(1, PIXELS // (3 * frames * entry.height * entry.width))
        readings += [
            Reading(number, tuple(left[first : first + many])) for first in range(0, len(left), many)
        ]
    return readings


def in_shards(readings: Sequence[Reading], most: int, dtype: str) -> list[list[Reading]]:
    """What is read for every shard: at most so many clips, and not too many bytes."""
    groups: list[list[Reading]] = []
    count = size = 0
    for reading in readings:
        clips = len(reading.clips)
        more = sum(torch.Size(clip.shape).numel() for clip in reading.clips) * DTYPES[dtype].itemsize
        if not groups or count + clips > most or size + more > SHARD_BYTES:
            groups.append([])
            count = size = 0
        groups[-1].append(reading)
        count, size = count + clips, size + more
    return groups


class Reader(Dataset):
    """The videos of each reading's clips, or why there are none."""

    def __init__(self, readings: Sequence[Reading], entries: Sequence[Entry]):
        self.readings, self.entries = readings, entries

    def __len__(self) -> int:
        return len(self.readings)

    def __getitem__(self, which: int) -> list[Tensor] | str:
        try:
            return _read_clips(self.readings[which], self.entries)
        except UnreadableVideo as error:
            return str(error)


def _read_clips(reading: Reading, entries: Sequence[Entry]) -> list[Tensor]:
    """The clips of a file, which is decoded once for all of them: frames T H W C of bytes; drawn, C T H W."""
    entry = entries[reading.number]
    if isinstance(entry, DrawnFile):
        return [draw(entry.scene, len(clip.what["frames"]), *clip.what["size"]) for clip in reading.clips]
    distinct = sorted({index for clip in reading.clips for index in clip.what["frames"]})
    position = {index: k for k, index in enumerate(distinct)}
    frames = read_frames(entry.path, [index - entry.start for index in distinct], entry)
    return [
        resize_and_crop(frames[[position[index] for index in clip.what["frames"]]], *clip.what["size"])
        for clip in reading.clips
    ]


@torch.no_grad()
def encode_clips(
    folder: Path,
    groups: Sequence[Sequence[Reading]],
    entries: Sequence[Entry],
    autoencoder: VideoAutoencoder,
    hashed: str,
    dtype: str,
    workers: int,
    quiet: bool,
    budget: int = 0,
) -> list[tuple[int, str]]:
    """Encodes these shards' clips; gives the numbers of files whose clips cannot be read, with the reason.

    A shard is written whole when its last clip is encoded, or a Ctrl-C ends it before; a kill loses what is
    in work alone.
    """
    readings = [reading for group in groups for reading in group]
    device, wrong = autoencoder.latent_mean.device, []
    about = {"autoencoder": hashed, "dtype": dtype, "compression": astuple(autoencoder.compression)}
    videos_of = iter(
        DataLoader(
            Reader(readings, entries),
            batch_size=None,
            num_workers=workers,
            worker_init_fn=ignore_terminal_signals,
        )
    )
    total = sum(len(reading.clips) for reading in readings)
    with progress(total=total, desc="encoding clips", unit="clip", disable=quiet or not total) as bar:
        for group in groups:
            rows = {}
            try:
                for reading in group:
                    videos = next(videos_of)
                    if isinstance(videos, str):
                        wrong.append((reading.number, videos))
                        bar.update(len(reading.clips))
                        continue
                    for clip, video in zip(reading.clips, videos, strict=True):
                        video = video if video.is_floating_point() else to_video(video)
                        posterior = torch.stack(within(budget, autoencoder, video[None].to(device)))[:, 0]
                        row = posterior.to(DTYPES[dtype]).cpu()
                        if torch.isfinite(row).all():
                            rows[clip.key] = row, clip.what
                        else:
                            rounded = "" if dtype == "fp32" else f" in {dtype}"
                            reason = f"{clip.what['name']}: its latents are NaN or infinite{rounded}"
                            wrong.append((reading.number, reason))
                        bar.update()
            finally:  # a Ctrl-C keeps what is encoded; the same command goes on
                if rows:
                    write_shard(folder, LATENTS, rows, about)
    return wrong


def within(budget: int, autoencoder: VideoAutoencoder, video_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
    """The posterior of a clip, in tiles where a frame takes more than a budget of bytes; 0 is no limit."""
    _, *sides = autoencoder.compression.latent_size(*video_BCTHW.shape[2:])
    tile = tiles.tile_for(autoencoder, *sides, budget, "encode") if budget else 0
    return tiles.posterior(autoencoder, video_BCTHW, tile) if tile else autoencoder.posterior(video_BCTHW)
