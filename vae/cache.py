"""Latents of a data set's first clips, encoded once and kept in shards, so that training need not encode."""

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from vae.data import Clip, DrawnWorld, files_hash
from vae.model import Autoencoder
from vae.seeds import shuffled
from vae.weights import load_weights, read_settings, save_weights, tensors_hash

SHARD = 512


class CachedLatents(Dataset):
    """Clips whose `video` is normalised latents; every epoch has its own order, drawn scenes new captions."""

    def __init__(
        self,
        latents: list[Tensor],
        captions: list[str],
        sources: list[str],
        skipped: list[dict],
        data: Dataset,
        seed: int,
    ):
        self.latents, self.captions, self.sources, self.skipped = latents, captions, sources, skipped
        self.world = data if isinstance(data, DrawnWorld) else None
        self.seed = seed

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, draw: int) -> Clip:
        epoch, position = divmod(draw, len(self.latents))
        k = shuffled(len(self.latents), self.seed, "cached order", epoch)[position]
        caption = self.world.caption(k, draw) if self.world else self.captions[k]
        return Clip(self.latents[k].float(), caption, self.sources[k], self.skipped[k])


@torch.no_grad()
def encode_clips(
    data: Dataset,
    autoencoder: Autoencoder,
    count: int,
    folder: Path,
    key: dict,
    rank: int = 0,
    ranks: int = 1,
) -> None:
    """Encodes this rank's share of a data set's first `count` clips into shards in `folder`, half precision.

    A shard is written whole or not at all and holds the key it was made with: one that is there is kept, one
    of another key is made again.
    """
    mine = [shard for k, shard in enumerate(shards(count)) if k % ranks == rank]
    with tqdm(total=sum(map(len, mine)), desc="encoding clips", unit="clip", disable=rank > 0) as progress:
        for draws in mine:
            if is_made(shard_file(folder, draws), shard_key(key, draws)):
                progress.update(len(draws))
            else:
                encode_shard(data, autoencoder, draws, folder, key, progress)


def read_clips(data: Dataset, count: int, folder: Path, seed: int) -> CachedLatents:
    """The latents that `encode_clips` wrote."""
    latents, captions, sources, skipped = [], [], [], []
    for draws in shards(count):
        tensors, header = load_weights(shard_file(folder, draws))
        latents += [tensors[str(k)] for k in draws]
        captions += header["captions"]
        sources += header["sources"]
        told = header.get("skipped", {})  # which older shards lack
        skipped += [told.get(str(k), {}) for k in draws]
    return CachedLatents(latents, captions, sources, skipped, data, seed)


def cache_key(data: Dataset, settings: dict, autoencoder: Autoencoder, seed: int) -> dict:
    """What latents depend on: the clips' settings, files and seed, and the autoencoder's weights by hash."""
    made_with = {name: value for name, value in settings.items() if name != "workers"}
    return {
        "data": made_with,
        "files": files_hash(data),
        "autoencoder": tensors_hash(autoencoder.state_dict()),
        "seed": seed,
    }


def shards(count: int) -> list[range]:
    """The draws of every shard."""
    return [range(first, min(count, first + SHARD)) for first in range(0, count, SHARD)]


def shard_file(folder: Path, draws: range) -> Path:
    """Where a shard lies."""
    return folder / f"clips-{draws.start:07d}.safetensors"


def shard_key(key: dict, draws: range) -> dict:
    """The key of one shard: what its latents depend on, and which they are."""
    return key | {"clips": [draws.start, draws.stop]}


def is_made(file: Path, key: dict) -> bool:
    """Whether a shard is there and was made with this key."""
    return file.exists() and {k: v for k, v in read_settings(file).items() if k in key} == key


def encode_shard(
    data: Dataset, autoencoder: Autoencoder, draws: range, folder: Path, key: dict, progress: tqdm
) -> None:
    """Encodes some draws of a data set into one file."""
    latents, captions, sources, skipped = {}, [], [], {}
    for draw in draws:
        clip = data[draw]
        video = clip.video[None].to(autoencoder.latent_mean.device)
        latents[str(draw)] = autoencoder.encode(video)[0].half()
        captions.append(clip.caption)
        sources.append(clip.source)
        if clip.skipped:
            skipped[str(draw)] = clip.skipped
        progress.update()
    told = {"captions": captions, "sources": sources, "skipped": skipped}
    save_weights(shard_file(folder, draws), latents, shard_key(key, draws) | told)
