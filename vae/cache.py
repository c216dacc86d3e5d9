"""Latents of a data set's first clips, encoded once and kept in shards, so that training need not encode."""

import json
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from vae.data import Clip, DrawnWorld
from vae.model import Autoencoder
from vae.seeds import shuffled
from vae.weights import load_weights, read_settings, save_weights

SHARD = 512


class CachedLatents(Dataset):
    """Clips whose `video` is normalised latents; every epoch has its own order, and a drawn scene new captions."""

    def __init__(self, latents: list[Tensor], captions: list[str], sources: list[str], data: Dataset, seed: int):
        self.latents, self.captions, self.sources = latents, captions, sources
        self.world = data if isinstance(data, DrawnWorld) else None
        self.seed = seed

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, draw: int) -> Clip:
        epoch, position = divmod(draw, len(self.latents))
        k = shuffled(len(self.latents), self.seed, "cached order", epoch)[position]
        caption = self.world.caption(k, draw) if self.world else self.captions[k]
        return Clip(self.latents[k].float(), caption, self.sources[k])


@torch.no_grad()
def cached_latents(data: Dataset, autoencoder: Autoencoder, count: int, folder: Path, settings: dict, seed: int):
    """The first `count` clips of a data set as latents (half precision), read from `folder` or encoded into it.

    A shard is written whole or not at all and holds the settings it was made with; one with other settings is made
    again.
    """
    latents, captions, sources = [], [], []
    with tqdm(total=count, desc="encoding clips", unit="clip") as progress:
        for first in range(0, count, SHARD):
            last = min(count, first + SHARD)
            file = folder / f"clips-{first:07d}.safetensors"
            key = settings | {"clips": [first, last]}
            if not file.exists() or {k: v for k, v in read_settings(file).items() if k in key} != key:
                encode_shard(data, autoencoder, range(first, last), file, key, progress)
            tensors, header = load_weights(file)
            latents += [tensors[str(k)] for k in range(first, last)]
            captions += header["captions"]
            sources += header["sources"]
            progress.n = last
            progress.refresh()
    return CachedLatents(latents, captions, sources, data, seed)


def encode_shard(data: Dataset, autoencoder: Autoencoder, draws: range, file: Path, key: dict, progress: tqdm) -> None:
    """Encodes some draws of a data set into one file."""
    latents, captions, sources = {}, [], []
    for draw in draws:
        clip = data[draw]
        video = clip.video[None].to(autoencoder.latent_mean.device)
        latents[str(draw)] = autoencoder.encode(video)[0].half()
        captions.append(clip.caption)
        sources.append(clip.source)
        progress.update()
    texts = json.loads(json.dumps({"captions": captions, "sources": sources}))
    save_weights(file, latents, key | texts)
