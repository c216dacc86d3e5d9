"""Whether one learning rate serves every width: runs on the drawn world, with muP and without.

nice python -m tests.bench.mup [--out FOLDER]

Every run is a folder, `mup-256-0.00391` or `plain-256-0.004`: what is stopped goes on, what is finished is
read. Its last validation loss is in the table; the best rate of each width is where a parabola through the
best three has its least. `python -m tests.bench.mup --print` makes no runs. Cost: 45 minutes of one core.
"""

import argparse
import contextlib
import math
from pathlib import Path

import torch

from configs.data import ClipConfig, DataConfig
from configs.model import TextConfig, TransformerConfig
from configs.sampling import SamplerConfig
from configs.train import FlowConfig, OptimizerConfig, TransformerLoop, TransformerRun
from dit.encode import EncodeSettings, encode
from dit.runs.scaled import best_rate
from dit.train import train
from vae.training.log import read_log

WIDTHS, BASE, HEAD, DEPTH = (32, 64, 128, 256), 64, 16, 4
RATES = tuple(2.0**-k for k in range(9, 3, -1))  # at the base width
STEPS, BATCH = 200, 16


def run_of(home: Path, width: int, rate: float, base: int) -> TransformerRun:
    """The run of a width and a rate; with `base` 0, without muP. At the base width both are one run."""
    base = BASE if width == BASE else base
    return TransformerRun(
        out=str(home / f"{'mup' if base else 'plain'}-{width}-{rate:.5f}"),
        data=DataConfig(source=str(home / "latents"), frames=5, size=64, clips_per_file=1),
        model=TransformerConfig(
            width=width, depth=DEPTH, heads=width // HEAD, mlp_width=3 * width, text_width=64
        ),
        text=TextConfig(width=64, depth=1, heads=2, mlp_width=128, max_tokens=96),
        flow=FlowConfig(shift=2.0, shift_tokens=80),
        train=TransformerLoop(
            steps=STEPS, batch=BATCH, precision="fp32", log_every=20, save_every=STEPS, show_every=STEPS // 2
        ),
        optimizer=OptimizerConfig(
            learning_rate=rate,
            warmup_steps=20,
            schedule="trapezoid",
            decay_start=STEPS // 2,
            decay_steps=STEPS // 2,
            ema_decay=0.9,
            base_width=base,
        ),
        sampler=SamplerConfig(steps=1),
        prompts=("a red circle moves left",),
    )


def loss_of(config: TransformerRun) -> float:
    """The last validation loss of a run; infinite where the run ended in numbers that are none."""
    rows = list(read_log(Path(config.out) / "log.jsonl")) if Path(config.out).is_dir() else []
    found = [row["validation"] for row in rows if "validation" in row]
    return found[-1] if found else math.inf


def table(home: Path) -> str:
    """The losses of all runs, and the best rate of each width."""
    lines = []
    for base in (BASE, 0):
        rates = " | ".join(f"{rate:.5f}" for rate in RATES)
        lines += ["", f"| {'muP' if base else 'without'}: width | {rates} | best rate | its loss |"]
        lines += ["|---" * (len(RATES) + 3) + "|"]
        best = []
        for width in WIDTHS:
            losses = {rate: loss_of(run_of(home, width, rate, base)) for rate in RATES}
            best.append(best_rate(losses))
            cells = " | ".join(f"{losses[rate]:.4f}" for rate in RATES)
            lines.append(f"| {width} | {cells} | {best[-1]:.5f} | {min(losses.values()):.4f} |")
        lines.append(f"largest best rate over least: {max(best) / min(best):.2f}")
    return "\n".join(lines)


def main() -> None:
    """Makes the runs that are not there yet, the narrow ones first, and prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="runs/mup", help="folder of the runs and their cache")
    parser.add_argument("--print", action="store_true", help="make no runs")
    given = parser.parse_args()
    home = Path(given.out)
    if not given.print:
        torch.set_num_threads(1)
        clips = ClipConfig(frames=5, size=64, clips_per_file=1)
        encode(EncodeSettings("shapes", str(home / "latents"), data=clips, dtype="fp32", scenes=4096))
        for width in WIDTHS:
            for base in (BASE, 0):
                for rate in RATES:
                    with contextlib.suppress(ValueError):  # a rate so high that nothing is finite
                        train(run_of(home, width, rate, base))
            print(table(home), flush=True)
    print(table(home))


if __name__ == "__main__":
    main()
