"""`dit vae stats AUTOENCODER --data MANIFEST`: measures mean and standard deviation of latents."""

import sys
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import Dataset

from configs.data import DRAWN, DataConfig
from configs.load import Positional, parse, to_json
from configs.ranges import Count, Frames, Rate, Seed, Side, Workers
from vae.compression import Compression
from vae.data.clips import DrawnWorld, VideoFiles, batches, check_data, files_hash
from vae.load import BUILTIN, find_autoencoder, load_autoencoder
from vae.statistics import (
    FILE,
    Statistics,
    checked,
    latent_sums,
    read_statistics,
    statistics_of,
    write_statistics,
)
from vae.training.device import own_device
from vae.training.files import check_writable, read_json
from vae.training.processes import gathered, processes
from vae.training.progress import progress
from vae.training.weights import read_header, save_weights


@dataclass(frozen=True)
class StatsSettings:
    """Measure mean and standard deviation of an autoencoder's latents, and keep them where it ships none."""

    autoencoder: Positional[str] = ""
    """Weights file of ours, a run's folder, or an autoencoder's or pipeline's folder of diffusers."""
    data: str = ""
    """Manifest of the clips, or a folder that holds one (`dit data index FOLDER`); or `shapes`."""
    count: Count = 64
    """Clips to measure; where the manifest has fewer files, several clips of each."""
    frames: Frames = 17
    """Maximum frames of a clip, a length that the autoencoder takes; a shorter video gives what it has."""
    size: Side = 256
    """Side in pixels of the square whose area a clip has."""
    fps: Rate = 8.0
    """Frames per second of a clip."""
    seed: Seed = 0
    """Seed of the order of the files and of which part of each is taken."""
    workers: Workers = 0
    """Processes that read videos ahead; 0 reads in the measuring process."""
    replace: bool = False
    """Also replace statistics that the autoencoder has already, though models may depend on those."""


def stats(settings: StatsSettings) -> Statistics:
    """Measures mean and std of an autoencoder's latents, every process on its share of the clips.

    They are printed, and written where it ships none by channel, or with `replace`. Raises ValueError for
    settings that do not fit before anything is computed, and afterwards for a channel that does not vary.
    """
    if not settings.autoencoder:
        raise ValueError("which autoencoder? dit vae stats AUTOENCODER --data MANIFEST")
    if not settings.data:
        raise ValueError("--data is empty: give a manifest, a folder that holds one, or shapes")
    rank, ranks = processes()
    autoencoder = load_autoencoder(settings.autoencoder, own_device(), as_shipped=True)
    path = find_autoencoder(settings.autoencoder)
    ships = autoencoder.ships_statistics
    known = False
    with suppress(ValueError):  # statistics of other weights are measured anew
        known = path.is_dir() and read_statistics(path, autoencoder.channels) is not None
    writes, run = settings.replace or not (ships or known), path.parent / "run.json"
    is_copy = path.parent == BUILTIN or (run.is_file() and read_json(run).get("kind") == "transformer")
    if writes and is_copy:
        raise ValueError(
            f"{path} is a model's own copy, which was trained on its latents: measure another copy"
        )
    if writes and rank == 0:
        check_writable(path if path.is_file() else path / FILE)
    config = DataConfig(
        source=settings.data,
        frames=settings.frames,
        size=settings.size,
        fps=settings.fps,
        workers=settings.workers,
    )
    data = _all_clips(config, settings.seed, autoencoder.compression)
    rows = sorted(gathered(_measure(autoencoder, data, settings, rank, ranks)), key=lambda row: row[0])
    statistics = checked(statistics_of([sums for _, sums, _ in rows]))
    if rank > 0:
        return statistics
    skipped = {file: reason for _, _, one in rows for file, reason in one.items()}
    for reason in skipped.values():
        print(f"skipped: {reason}", file=sys.stderr)
    for line in _table(statistics, autoencoder):
        print(line)
    if not writes:
        shipped = "in the weights file" if path.is_file() else "that the folder ships"
        where = f"in {path / FILE}" if known else shipped
        print(f"not written: the statistics {where} are kept; --replace replaces them", file=sys.stderr)
        return statistics
    measured = {"data": to_json(replace(config, workers=0)), "files": files_hash(data), "seed": settings.seed}
    measured |= {"count": settings.count, "skipped": sorted(skipped), "torch": torch.__version__}
    if path.is_dir():
        file = write_statistics(path, statistics, measured)
    else:
        autoencoder.set_statistics(statistics)
        header, tensors = read_header(path), autoencoder.state_dict()
        save_weights(
            file := path, tensors, header.kind, header.settings, header.facts | {"statistics": measured}
        )
    print(f"written: {file}", file=sys.stderr)
    return statistics


def _all_clips(config: DataConfig, seed: int, compression: Compression) -> Dataset:
    """The clips of all files of a manifest, none held out; or the drawn world."""
    check_data(config, compression)
    if split := DRAWN.get(config.source):
        return DrawnWorld(config, seed, split)
    from vae.data.manifest import load_manifest

    return VideoFiles(config, seed, load_manifest(config.source).kept(), compression)


def _measure(
    autoencoder, data: Dataset, settings: StatsSettings, rank: int, ranks: int
) -> list[tuple[int, Tensor, dict]]:
    """For each clip of this process's share: draw, sums of its latents, and the files skipped for it."""
    draws = range(rank, settings.count, ranks)
    loader = batches(data, ([draw] for draw in draws), settings.workers)
    bar = progress(zip(draws, loader, strict=True), "measuring", len(draws), unit="clip", disable=rank > 0)
    return [(draw, latent_sums(autoencoder, clip.video), clip.skipped) for draw, (clip,) in bar]


def _table(statistics: Statistics, autoencoder) -> list[str]:
    """A line for each channel: what was measured, and the same after the statistics that it ships."""
    shift, scale = (part.flatten().tolist() for part in (autoencoder.latent_mean, autoencoder.latent_std))
    lines = [f"{'channel':>7} {'mean':>10} {'std':>10}   as they ship: mean, std"]
    for channel, (mean, std) in enumerate(zip(statistics.mean, statistics.std, strict=True)):
        shipped = f"{(mean - shift[channel]) / scale[channel]:8.4f} {std / scale[channel]:8.4f}"
        lines.append(f"{channel:7d} {mean:10.5f} {std:10.5f}   {shipped:>28}")
    return lines


def main(arguments: list[str]) -> None:
    """The verb `dit vae stats`."""
    stats(parse(StatsSettings, arguments, prog="dit vae stats"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("vae stats")
