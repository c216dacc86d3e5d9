"""Training clips: from the drawn world or from files, each a pure function of (seed, draw)."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from configs.settings import DataConfig
from vae.model import round_to
from vae.seeds import generator, shuffled
from vae.shapes import caption, random_scene
from vae.shapes import draw as draw_scene

SHAPES = "shapes"


@dataclass(frozen=True)
class Clip:
    """A training clip: float video C T H W in [-1, 1], its caption, and where it came from."""

    video: Tensor
    caption: str
    source: str


class DrawnWorld(Dataset):
    """The drawn world: draw `i` is scene `i` of the seed, for ever new."""

    skipped: tuple = ()

    def __init__(self, config: DataConfig, seed: int, split: str = "train"):
        self.config, self.seed, self.split = config, seed, split

    def __len__(self) -> int:
        return 1 << 31  # scenes do not run out

    def __getitem__(self, draw: int) -> Clip:
        scene = random_scene(self.seed, draw, self.split)
        video = draw_scene(scene, self.config.frames, self.config.size, self.config.size)
        return Clip(video, self.caption(draw, draw), f"scene {draw}")

    def caption(self, index: int, draw: int) -> str:
        """A caption of scene `index`, phrased anew for every draw."""
        return caption(random_scene(self.seed, index, self.split), self.seed, draw, "train")


class VideoFiles(Dataset):
    """Videos and images of a manifest; every epoch has its own order, clip positions and captions.

    A file that cannot be read is named on stderr once, counted in `skipped`, and replaced by the next one in
    the epoch's order; with nothing readable left ValueError is raised.
    """

    def __init__(self, config: DataConfig, seed: int, entries: list):
        self.config, self.seed, self.entries = config, seed, entries
        self.skipped: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, draw: int) -> Clip:
        from vae.video import UnreadableVideo

        count = len(self.entries)
        epoch, position = divmod(draw, count)
        order = shuffled(count, self.seed, "order", epoch)
        for attempt in range(count):
            entry = self.entries[order[(position + attempt) % count]]
            if entry.path in self.skipped:
                continue
            try:
                return self.read(entry, draw)
            except UnreadableVideo as error:
                self.skipped[entry.path] = str(error)
                print(f"skipped: {error}", file=sys.stderr)
        raise ValueError(f"none of the {count} files of {self.config.source} can be read")

    def read(self, entry, draw: int) -> Clip:
        """The clip of draw `draw` from one file: a random span at the wanted rate, of the wanted area."""
        from vae.video import read_frames, resize_and_crop, to_video

        random = generator(self.seed, "clip", draw)
        indices = clip_indices(entry.frames, entry.fps, self.config, random)
        height, width = fitted_size(entry.height, entry.width, self.config.size)
        frames = resize_and_crop(read_frames(entry.path, indices, entry), height, width)
        captions = entry.captions or ("",)
        which = torch.randint(len(captions), (), generator=random).item()
        return Clip(to_video(frames), captions[which], str(entry.path))


def clip_indices(frames: int, fps: float, config: DataConfig, random: torch.Generator) -> list[int]:
    """Indices of the longest valid clip (1 + 4k frames, at most `config.frames`) from a random start."""
    stride = max(1.0, fps / config.fps) if frames > 1 else 1.0
    available = int((frames - 1) / stride) + 1
    length = 1 + 4 * ((min(available, config.frames) - 1) // 4)
    slack = (frames - 1) - (length - 1) * stride
    start = torch.rand((), generator=random).item() * slack
    return [min(frames - 1, round(start + k * stride)) for k in range(length)]


def fitted_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width of area near `size` squared, in multiples of 16, near the given aspect ratio."""
    scale = size / (height * width) ** 0.5
    return round_to(height * scale, 16), round_to(width * scale, 16)


def open_data(config: DataConfig, seed: int, validation: int) -> tuple[Dataset, Dataset]:
    """Training and held-out data; of files the last `validation` in a seeded order are held out.

    Raises ValueError where the source is not there or nothing in it can be read.
    """
    if config.source == SHAPES:
        return DrawnWorld(config, seed), DrawnWorld(config, seed + 1)
    from vae.manifest import load_manifest

    entries = load_manifest(config.source)
    order = shuffled(len(entries), seed, "held out")
    held = set(order[: min(validation, len(entries) // 4)]) or {order[0]}
    kept = [entry for k, entry in enumerate(entries) if k not in held or len(entries) == 1]
    return VideoFiles(config, seed, kept), VideoFiles(config, seed, [entries[k] for k in sorted(held)])


def batches(
    data: Dataset, batch: int, first_step: int, steps: int, rank: int, ranks: int, workers: int
) -> Iterator:
    """This rank's share of every step's batch: step `s` holds draws `s * batch` to `(s + 1) * batch`.

    The whole batch does not depend on the number of ranks, nor a step on where the run was resumed.
    """
    draws = (range(s * batch + rank, (s + 1) * batch, ranks) for s in range(first_step, steps))
    loader = DataLoader(data, batch_sampler=draws, collate_fn=list, num_workers=workers)
    return iter(loader)
