"""`dit bench eval`: what scores cost: jobs beside their bare networks, distances beside plain ones."""

import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from configs.load import parse
from configs.protocol import FvdProtocol, load_protocol
from configs.ranges import Count, Workers
from dit.bench.measure import conditions, medians_in_turn, peak_memory, write_figures
from eval.clips import Clip, choose_clips, find_sources, read_clip
from eval.cpu import CPU, keep_memory, map_one_thread_each
from eval.features import extract
from eval.frechet import distance, statistics
from eval.kernel import discrepancies, discrepancy
from eval.networks.encoder import seeded_encoder
from eval.networks.i3d import I3D, seeded_tensors
from eval.preprocess import prepare
from vae.data.write import write_video
from vae.quality.psnr_ssim import grey, ssim
from vae.training.seeds import generator, normal


@dataclass(frozen=True)
class BenchEvalSettings:
    """Time scoring: jobs beside their bare networks, distances beside plain ones, memory over clips."""

    clips: Count = 96
    """Clips of the job that is timed."""
    batch: Count = 8
    """Clips in one call of the network on a GPU; a CPU computes each alone."""
    workers: Workers = 2
    """Processes that read videos while the network computes."""
    repeats: Count = 3
    """Measurements of each side, of which the median counts."""
    few: Count = 50
    """Clips of the smaller job whose memory is measured."""
    many: Count = 500
    """Clips of the larger one."""
    encoder_clips: Count = 8
    """Clips of the job whose network is a VideoMAE of the base size."""
    parts: tuple[Literal["job", "distance", "kernel", "encoder", "ssim", "memory"], ...] = (
        *("job", "distance", "kernel", "ssim"),
    )
    """What to measure; memory takes some ten minutes on two cores, the encoder some minutes."""
    json: str = ""
    """File for all figures; empty writes none."""


SIZE = (240, 320)  # of UCF-101
WIDTHS = {400: 2048, 2048: 4096}  # features -> clips a side
RESAMPLES = 200  # of a kernel distance's interval


def _make_clips(folder: Path, count: int) -> list[Clip]:
    """Clips of as many new videos of 24 frames as large as UCF-101's, of soft noise that moves."""
    for k in range(count):
        coarse = torch.from_numpy(generator("bench", k).random((1, 3, 6, 15, 20), "float32")) * 2 - 1
        video_BCTHW = torch.nn.functional.interpolate(coarse, (24, *SIZE), mode="trilinear")
        write_video(folder / f"{k:04d}.mp4", video_BCTHW[0], 25.0, {})
    protocol = replace(load_protocol("fvd-google", "fvd"), real=count)
    return choose_clips(find_sources(folder), protocol, count, 1)[0]


def _bench_job(
    clips: list[Clip], settings: BenchEvalSettings, protocol: FvdProtocol, network: nn.Module
) -> dict:
    """Clips a second of the whole job and of the bare network on the same tensors, in turn, medians."""
    keep_memory(torch.get_num_threads())
    tensors = [prepare(read_clip(clip), protocol)[None] for clip in clips]

    @torch.no_grad()
    def compute(tensor: Tensor) -> Tensor:
        return network(tensor)

    def bare() -> None:
        for _ in map_one_thread_each(compute, tensors, CPU):
            pass

    def whole() -> None:
        extract(clips, protocol, network, settings.batch, settings.workers, "job")

    seconds = medians_in_turn({"whole": whole, "bare": bare}, settings.repeats, time.perf_counter)
    return {name: len(clips) / value for name, value in seconds.items()} | {
        "ratio": seconds["bare"] / seconds["whole"]
    }


def _seeded_network() -> I3D:
    """I3D with seeded weights, which costs what the real one costs."""
    return I3D(seeded_tensors()).eval().to(memory_format=torch.channels_last_3d)


def _bench_distance(width: int, repeats: int) -> dict:
    """Seconds of the distance from statistics, and of scipy's square root of the product, in turn."""
    import numpy
    import scipy.linalg

    scale = (1 / torch.arange(1, width + 1, dtype=torch.float64)).sqrt()
    rotation = torch.linalg.qr(normal((width, width), "rotation").double())[0]
    sides = []
    for shift in (0.0, 0.05):
        features = normal((WIDTHS[width], width), "features", str(shift)).double() * scale
        sides.append(statistics(features @ rotation + shift))
    first, second = (side.covariance(1).numpy() for side in sides)
    values = {}

    def by_scipy() -> None:
        root = scipy.linalg.sqrtm(first @ second)
        means = (sides[0].mean_D - sides[1].mean_D).square().sum().item()
        values["scipy"] = means + numpy.trace(first) + numpy.trace(second) - 2 * numpy.trace(root.real)

    def ours() -> None:
        values["ours"] = distance(*sides, 1)

    seconds = medians_in_turn({"ours": ours, "scipy": by_scipy}, repeats, time.perf_counter)
    difference = abs(values["ours"] - values["scipy"]) / abs(values["scipy"])
    return seconds | {"ratio": seconds["scipy"] / seconds["ours"], "difference": difference}


def _bench_kernel(repeats: int) -> dict:
    """Seconds of KVD in blocks and by whole matrices of numpy, and of an interval's resamples at once."""
    protocol, width = load_protocol("kvd-tats", "mmd"), 400
    sides = [normal((WIDTHS[width], width), "kernel", str(k)).double() + 0.05 * k for k in range(2)]
    counts = [
        torch.from_numpy(generator("counts", k).poisson(1.0, (len(sides[k]), RESAMPLES))) for k in (0, 1)
    ]
    values = {}

    def ours() -> None:
        values["ours"] = discrepancy(*sides, protocol)

    def plain() -> None:
        x, y = (side.numpy() for side in sides)
        xx, yy, xy = ((a @ b.T / width + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
        n, m = len(x), len(y)
        within = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1))
        values["plain"] = within - 2 * xy.mean()

    def together() -> None:
        discrepancies(*sides, protocol, *counts)

    calls = {"ours": ours, "plain": plain, "resamples": together}
    seconds = medians_in_turn(calls, repeats, time.perf_counter)
    difference = abs(values["ours"] - values["plain"]) / abs(values["plain"])
    return seconds | {"ratio": seconds["plain"] / seconds["ours"], "difference": difference}


def _bench_ssim(repeats: int) -> dict:
    """Seconds of each SSIM of a clip as large as UCF-101's, and of scikit-image's for the uniform window."""
    from skimage.metrics import structural_similarity

    pair = [normal((3, 16, *SIZE), "ssim", str(k)).clamp(-1, 1) for k in range(2)]
    frames = [video.movedim(0, -1).double().numpy() for video in pair]

    def plain() -> None:
        for one, other in zip(*frames, strict=True):
            structural_similarity(one, other, data_range=2, channel_axis=-1)

    calls = {
        "ssim": lambda: ssim(*pair),
        "ssim_uniform": lambda: ssim(*pair, uniform=True),
        "ssim_grey": lambda: ssim(*map(grey, pair)),
        "scikit-image": plain,
    }
    return medians_in_turn(calls, repeats, time.perf_counter)


def _bench_memory(folder: Path, count: int, settings: BenchEvalSettings) -> int:
    """Peak bytes of a new process while it scores so many clips."""
    _make_clips(folder, count)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as new:
        return new.submit(_memory_of, folder, count, settings).result()


def _memory_of(folder: Path, count: int, settings: BenchEvalSettings) -> int:
    """Peak bytes of this process while it scores the videos of a folder."""
    protocol = replace(load_protocol("fvd-google", "fvd"), real=count)
    clips, _ = choose_clips(find_sources(folder), protocol, count, 1)
    network = _seeded_network()
    return peak_memory(
        lambda: extract(clips, protocol, network, settings.batch, settings.workers, f"{len(clips)} clips"),
        torch.device("cpu"),
    )


def bench(settings: BenchEvalSettings) -> dict:
    """Measures and prints the parts that are asked for."""
    result = conditions(settings, torch.device("cpu"), "wall clock")
    with tempfile.TemporaryDirectory() as folder:
        for part, called, count, name, make in (
            ("job", "FVD's", settings.clips, "fvd-google", lambda _: _seeded_network()),
            (
                "encoder",
                "VideoMAE's",
                settings.encoder_clips,
                "fvd-videomae",
                partial(seeded_encoder, whole=True),
            ),
        ):
            if part not in settings.parts:
                continue
            protocol = load_protocol(name, "fvd")
            job = _bench_job(_make_clips(Path(folder) / part, count), settings, protocol, make(protocol))
            result[part] = job
            print(
                f"{called} whole job {job['whole']:.2f} clips/s, bare network {job['bare']:.2f} clips/s: "
                f"{job['ratio']:.2f} of it (goal 0.85)"
            )
        if "distance" in settings.parts:
            result["distance"] = {}
            for width in WIDTHS:
                row = result["distance"][width] = _bench_distance(width, settings.repeats)
                print(
                    f"distance of {width} features: {row['ours']:.3f} s, scipy's sqrtm {row['scipy']:.2f} s: "
                    f"{row['ratio']:.1f} times as fast, difference {row['difference']:.0e}"
                )
        if "kernel" in settings.parts:
            row = result["kernel"] = _bench_kernel(settings.repeats)
            print(
                f"KVD of {WIDTHS[400]} clips a side: {row['ours']:.2f} s in blocks, {row['plain']:.2f} s by "
                f"whole matrices, {row['difference']:.0e} apart; {RESAMPLES} resamples "
                f"{row['resamples']:.2f} s"
            )
        if "ssim" in settings.parts:
            row = result["ssim"] = _bench_ssim(settings.repeats)
            shown = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in row.items())
            print(f"SSIM of 16 frames of {SIZE[1]}x{SIZE[0]}: {shown}")
        if "memory" in settings.parts:
            counts = settings.few, settings.many
            peaks = [_bench_memory(Path(folder) / str(count), count, settings) for count in counts]
            result["memory"] = dict(zip(counts, peaks, strict=True))
            few, many = peaks
            print(
                f"peak memory of {settings.few} clips {few / 2**20:.0f} MiB, of {settings.many} "
                f"{many / 2**20:.0f} MiB: {many / few - 1:+.1%}"
            )
    write_figures(settings.json, result)
    return result


def main(arguments: list[str]) -> None:
    """The verb `dit bench eval`."""
    bench(parse(BenchEvalSettings, arguments, prog="dit bench eval"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("bench eval")
