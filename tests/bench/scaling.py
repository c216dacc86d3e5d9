"""Whether a law of scaling tells the truth: planted laws found again, and a rung of the drawn world forecast.

nice python -m tests.bench.scaling [--draws 200]
nice python -m tests.bench.scaling --out FOLDER

First: losses of a known law with noise, fitted, and how often intervals of 90 % hold the truth. Second: runs
of four widths and three lengths on the drawn world, the forecast of a wider one, kept before it runs, and how
far off it was; runs that are there are read. Cost: 5 minutes of a core, and 20.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy
import torch

from configs.data import ClipConfig
from configs.train import TransformerRun
from dit.encode import EncodeSettings, encode
from dit.runs.law import fit
from dit.runs.scaled import parameters_of
from dit.runs.scaling import ScalingSettings, scaling
from dit.train import train
from tests.bench.mup import BATCH, run_of

RATE = 2.0**-6  # at which muP's runs of every width were best
WIDTHS, LENGTHS = (32, 64, 96, 128), (200, 400, 800)
RUNG = 256, 800
TRUE = {"E": 0.3, "A": 60.0, "a": 0.35, "B": 40.0, "b": 0.4}


def rung(home: Path, width: int, steps: int) -> TransformerRun:
    """The run of a width and a length, whose rate falls in its second half."""
    run = run_of(home, width, RATE, 64)
    decay = replace(run.optimizer, decay_start=steps // 2, decay_steps=steps // 2)
    loop = replace(run.train, steps=steps, save_every=steps, show_every=steps // 2)
    return replace(run, out=str(home / f"law-{width}-{steps}"), optimizer=decay, train=loop)


def planted(parameters, samples):
    """The losses of the planted law."""
    t = TRUE
    return t["E"] + t["A"] / parameters ** t["a"] + t["B"] / samples ** t["b"]


def coverage(draws: int, noise: float, sizes: int, lengths: int) -> str:
    """How often intervals of 90 % hold what was planted, of the constants and of a run ten times as large."""
    grid = numpy.meshgrid(numpy.geomspace(1e5, 3e6, sizes), numpy.geomspace(3e3, 3e4, lengths))
    parameters, samples = map(numpy.ravel, grid)
    held, widths = dict.fromkeys([*TRUE, "law", "run"], 0), []
    for draw in range(draws):
        random = numpy.random.default_rng(draw)
        losses = planted(parameters, samples) * numpy.exp(noise * random.standard_normal(len(parameters)))
        law = fit(("N", "D"), True, {"N": parameters, "D": samples}, losses, redraws=300, seed=draw)
        for name, (_, low, high) in law.constants(0.9).items():
            held[name] += low <= TRUE[name] <= high
        next_one = {"N": 3e7, "D": 3e4}
        loss, low, high = law.forecast(next_one, 0.9)
        held["run"] += low <= planted(3e7, 3e4) * numpy.exp(noise * random.standard_normal()) <= high
        drawn = law.losses(next_one, drawn=True)[:, 0]
        held["law"] += numpy.quantile(drawn, 0.05) <= planted(3e7, 3e4) <= numpy.quantile(drawn, 0.95)
        widths.append((high - low) / loss)
    cells = " | ".join(f"{count / draws:.0%}" for count in held.values())
    return f"| {sizes} x {lengths} | {noise:.1%} | {cells} | {numpy.median(widths):.1%} |"


def forecast_a_rung(home: Path) -> None:
    """Makes the runs, keeps the forecast, makes the run that it is of, and compares."""
    torch.set_num_threads(1)
    clips = ClipConfig(frames=5, size=64, clips_per_file=1)
    encode(EncodeSettings("shapes", str(home / "latents"), data=clips, dtype="fp32", scenes=4096))
    known = [
        rung(home, width, steps) for steps in LENGTHS for width in WIDTHS if (width, steps) != (128, 800)
    ]
    for run in known:
        train(run)
    wide, file = rung(home, *RUNG), home / "forecast.json"
    if not file.exists():
        scaling(
            ScalingSettings(
                tuple(run.out for run in known),
                parameters=parameters_of(wide.model),
                samples=BATCH * RUNG[1],
                keep=str(file),
                out=str(home / "scaling.png"),
            )
        )
    train(wide)
    scaling(ScalingSettings((wide.out,), against=str(file)))


def main() -> None:
    """Counts what intervals of planted laws hold, or with a folder forecasts a run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="", help="folder of the runs, their cache and the forecast")
    parser.add_argument("--draws", type=int, default=200)
    given = parser.parse_args()
    if given.out:
        forecast_a_rung(Path(given.out))
        return
    print(
        "| sizes x lengths | noise | E | A | a | B | b | the law there | a run there | its interval's width |"
    )
    print("|---" * 10 + "|")
    for noise in (0.002, 0.01):
        for sizes, lengths in ((3, 3), (4, 3), (5, 4)):
            print(coverage(given.draws, noise, sizes, lengths), flush=True)


if __name__ == "__main__":
    main()
