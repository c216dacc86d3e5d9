"""Training clips of a latent cache."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy
import torch
from torch import Tensor
from torch.utils.data import Dataset

from configs.data import DRAWN, DataConfig
from vae.cache.index import Cache, CachedFile, is_cache, load_cache, remedy
from vae.cache.shards import DTYPES, Location, read_row
from vae.compression import PATCH, Compression
from vae.data.clips import (
    HeldOutFiles,
    UnusableData,
    VideoFiles,
    check_data,
    held_out_split,
    open_data,
    starts,
)
from vae.data.mixture import open_mixture, source_weights
from vae.data.rows import RowList
from vae.data.sizes import FileSizes
from vae.data.video import UnreadableVideo
from vae.interface import VideoAutoencoder
from vae.load import Unloaded, autoencoder_hash, load_autoencoder, stored_hash

SAMPLING = ("frames", "size", "fps", "clips_per_file")  # the settings of data that say which clips there are


class DamagedCache(UnusableData):
    """A cache whose shards are not what its index says."""


def find_cache(source: str) -> Cache | None:
    """The cache that a source of data is; None where it is something else."""
    return load_cache(source) if source not in DRAWN and is_cache(source) else None


def find_caches(config: DataConfig) -> dict[str, Cache]:
    """The caches among the sources of data."""
    found = {source: find_cache(source) for source in source_weights(config)}
    return {source: cache for source, cache in found.items() if cache}


def open_autoencoder(
    source: str | Path, config: DataConfig, caches: dict[str, Cache], print_once: Callable
) -> VideoAutoencoder:
    """A run's autoencoder, which is not loaded where caches that the same files made hold all its latents."""
    made_with = [cache.provenance for cache in caches.values()]
    if made_with and len(caches) == len(source_weights(config)):
        files = stored_hash(source)
        if all(about["autoencoder_files"] == files for about in made_with):
            print_once("note: all latents are in the cache: the autoencoder is loaded for pictures alone")
            return Unloaded(source, made_with[0]["autoencoder"], files)
    return load_autoencoder(source)


def open_clips(
    config: DataConfig,
    seed: int,
    validation: int,
    autoencoder: VideoAutoencoder,
    sample: bool,
    caches: dict[str, Cache],
) -> tuple[Dataset, Dataset]:
    """Training and held-out data of one source or several: of caches where `open_cached` has them, and of
    files or the drawn world as in `open_data`."""
    rest = {"autoencoder": autoencoder, "sample": sample, "caches": caches}
    if config.sources:
        return open_mixture(config, seed, validation, partial(open_clips, **rest))
    if cache := caches.get(config.source):
        return open_cached(cache, config, seed, validation, autoencoder, sample)
    return open_data(config, seed, validation, autoencoder.compression)


def _check_provenance(cache: Cache, config: DataConfig, autoencoder: VideoAutoencoder) -> None:
    """Raises ValueError, naming the setting, where a run wants other clips or latents than a cache holds."""
    for name in SAMPLING:
        if (value := getattr(config, name)) != (held := cache.provenance["data"][name]):
            raise ValueError(
                f"data.{name} = {value}, but {cache.folder} was made with {held}: give "
                f"--data.{name.replace('_', '-')} {held}, "
                f"or make a cache with {value}"
            )
    if autoencoder_hash(autoencoder) != cache.provenance["autoencoder"]:
        raise ValueError(
            f"{cache.folder} was made by another autoencoder, {cache.provenance['name']}: give that one with "
            f"--autoencoder, or make a cache with this one"
        )


def open_cached(
    cache: Cache, config: DataConfig, seed: int, validation: int, autoencoder: VideoAutoencoder, sample: bool
) -> tuple[VideoFiles, HeldOutFiles]:
    """Training and held-out data of a cache: the same clips as `open_data` has of its manifest.

    With `sample` they have log-variances too. Raises ValueError where the cache holds other ones.
    """
    check_data(config, autoencoder.compression)
    _check_provenance(cache, config, autoencoder)
    files = cache.files
    places = held_out_split(
        len(files), lambda: (file.path.as_posix() for file in files), config, seed, validation
    )
    kept, held = (RowList(files[k] for k in part) for part in places)
    data = CachedFiles(cache, config, seed, kept, autoencoder.compression, sample)
    return data, HeldOutFiles(held, data)


class CachedFiles(VideoFiles):
    """Files of a cache: which file, start and caption a draw has is what it is of the files themselves."""

    def __init__(
        self,
        cache: Cache,
        config: DataConfig,
        seed: int,
        entries: RowList[CachedFile],
        compression: Compression,
        sample: bool,
    ):
        super().__init__(config, seed, entries, compression)
        self.folder, self.dtype, self.parts = (
            cache.folder,
            DTYPES[cache.provenance["dtype"]],
            2 if sample else 1,
        )
        self.number = {start: k for k, start in enumerate(starts(config.clips_per_file))}

    def sizes(self, compression: Compression) -> FileSizes:
        """The planned tokens of every draw; a file that could not be read is taken for a median one."""
        counts = [
            math.prod(entry.clips[0].shape[2:]) // math.prod(PATCH) if entry.clips else 0
            for entry in self.entries
        ]
        usual = int(numpy.median([count for count in counts if count] or [1]))
        return FileSizes(numpy.array([count or usual for count in counts]), self.seed)

    def content(self, entry: CachedFile, start: float) -> tuple[None, tuple[Tensor, ...]]:
        """No video, and the posterior of a clip."""
        if entry.reason:
            raise UnreadableVideo(entry.reason)
        return None, _read_posterior(self.folder, entry.clips[self.number[start]], self.dtype, self.parts)


def _read_posterior(
    folder: Path, location: Location, dtype: torch.dtype, parts: int = 2
) -> tuple[Tensor, ...]:
    """Mean and log-variance C T H W, or so many of these; raises DamagedCache where they cannot be read."""
    try:
        return read_row(folder, location, dtype, parts).unbind()
    except (ValueError, OSError) as error:
        raise DamagedCache(f"{error}: {remedy(folder)}") from None
