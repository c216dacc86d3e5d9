"""Whether memory grows with what a process does: reads clips, trains, samples videos, loads models.

python -m tests.bench.memory [clips] [steps] [samples] [models] [curves]

Each in a process of its own, which prints its resident memory in MiB at some counts: 20,000 clips of three
short files, 10,000 steps of a tiny autoencoder on drawn clips with a row of the log for each, 500 videos of
the built-in model, that model loaded 100 times, and the curve of a log of 5,000 rows drawn 200 times.
"""

import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

SHOWN = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)  # of the count


def resident() -> float:
    """The memory of this process, in MiB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if "VmRSS" in line).split()[1]) / 1024


def repeat(count: int, do: Callable[[int], object]) -> None:
    """Does something so many times, and prints the memory after some of them."""
    shown = {round(share * count) for share in SHOWN}
    for k in range(1, count + 1):
        do(k)
        if k in shown:
            gc.collect()
            print(f"  {k:6} {resident():8.1f} MiB", flush=True)


def clips() -> None:
    """Clips read, of files of three sizes."""
    from configs.data import DataConfig
    from dit.cli import run
    from vae.compression import Compression
    from vae.data.clips import VideoFiles
    from vae.data.manifest import load_manifest
    from vae.data.write import write_video

    with tempfile.TemporaryDirectory() as folder:
        for k, side in enumerate((32, 48, 64)):
            write_video(Path(folder) / f"{k}.mp4", torch.rand(3, 12, side, 64) * 2 - 1, 8.0, {})
        assert run(["data", "index", folder]) == 0
        config = DataConfig(source=folder, frames=5, size=32)
        data = VideoFiles(config, 0, load_manifest(folder), Compression())
        repeat(20_000, data.__getitem__)


def steps() -> None:
    """Steps of a training, from its own log; its last pictures and curve are in the last number."""
    from tests import tiny
    from vae.train import train
    from vae.training import session

    with tempfile.TemporaryDirectory() as folder:
        config = tiny.autoencoder_run(Path(folder) / "run", steps=10_000, batch=1, log_every=1)
        loop = replace(config.train, save_every=2_500, show_every=2_500)
        counted, end = iter(range(1, 10_001)), session.Session.end_step
        shown = {round(share * 10_000) for share in SHOWN}

        def end_step(run, step, *arguments, **terms):
            if next(counted) in shown:
                gc.collect()
                print(f"  {step:6} {resident():8.1f} MiB", flush=True)
            return end(run, step, *arguments, **terms)

        session.Session.end_step = end_step
        train(replace(config, train=loop))


def samples() -> None:
    """Videos sampled by the built-in model: five frames in two steps."""
    from dit.condition import Condition
    from dit.generate import Request, generate_videos
    from dit.load import load_model

    model = load_model("builtin", torch.device("cpu"), torch.float32)
    shape = model.autoencoder.channels, *model.autoencoder.compression.latent_size(5, 64, 64)
    sampler = replace(model.sampler, steps=2)
    repeat(
        500, lambda k: generate_videos(model, [Request(Condition(f"a red circle, {k}"), shape, k)], sampler)
    )


def models() -> None:
    """The built-in model, loaded anew."""
    from dit.load import load_model

    repeat(100, lambda _: load_model("builtin", torch.device("cpu"), torch.float32))


def curves() -> None:
    """The curve of a log, drawn anew."""
    from vae.training.log import draw_curve

    with tempfile.TemporaryDirectory() as folder:
        log, series = (
            Path(folder) / "log.jsonl",
            {"smoothed": "loss", "psnr": "PSNR", "gradient_norm": "gradient"},
        )
        row = {name: 0.1 for name in series}
        log.write_text("".join(json.dumps({"step": step} | row) + "\n" for step in range(5_000)))
        repeat(200, lambda _: draw_curve(log, series, Path(folder) / "curve.png"))


WORK = {work.__name__: work for work in (clips, steps, samples, models, curves)}


def main(names: list[str]) -> None:
    """Runs some of the work, or all, each in a process of its own."""
    if names[:1] == ["--here"]:
        WORK[names[1]]()
        return
    for name in names or WORK:
        print(f"{name}: {WORK[name].__doc__}", flush=True)
        subprocess.run([sys.executable, "-m", "tests.bench.memory", "--here", name], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
