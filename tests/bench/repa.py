"""Whether aligned hidden states help on the drawn world: the same runs with the auxiliary loss and without.

nice python -m tests.bench.repa [--out FOLDER]

Clips, noise and start are those of one seed; every run is a folder, what is finished is read. The table has
the validation loss, of the flow alone, at half of the steps and at the end. Cost: 5 minutes of one core.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from configs.data import DataConfig
from configs.train import RepaConfig, TransformerRun
from dit.train import train
from tests.bench.mup import run_of
from vae.training.log import read_log

STEPS = 150
RUNS = {
    "without": RepaConfig(),
    "latents": RepaConfig(0.5, 2, "latents"),
    "drawn": RepaConfig(0.5, 2, "drawn"),
}


def run(home: Path, name: str) -> TransformerRun:
    """A run with one of the auxiliary losses, on scenes that are drawn as it goes."""
    config = run_of(home, 64, 2.0**-8, 0)
    loop = replace(config.train, steps=STEPS, save_every=STEPS, show_every=STEPS // 2)
    optimizer = replace(config.optimizer, decay_start=STEPS // 2, decay_steps=STEPS // 2)
    data = DataConfig(frames=5, size=64)
    out = str(home / name)
    return replace(config, out=out, data=data, train=loop, optimizer=optimizer, repa=RUNS[name])


def main() -> None:
    """Makes the runs that are not there yet and prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="runs/repa", help="folder of the runs")
    home = Path(parser.parse_args().out)
    torch.set_num_threads(1)
    print(f"| repa.features | after {STEPS // 2} steps | after {STEPS} |\n|---|---|---|")
    for name in RUNS:
        train(config := run(home, name))
        rows = read_log(Path(config.out) / "log.jsonl")
        losses = [f"{row['validation']:.4f}" for row in rows if "validation" in row]
        print(f"| {name} | {' | '.join(losses)} |", flush=True)


if __name__ == "__main__":
    main()
