"""How much memory adapters take beside full tuning: a step of each, on the same clips, in one run.

python -m tests.bench.lora: 20.7M weights, the text encoder with them; measured as in `tests.bench.plan`, by
PyTorch's profiler, over the second step.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from configs.train import LoraConfig, TransformerRun
from tests.bench.plan import BASE, measure, planned, with_loop, with_model

RUN = with_model(BASE, width=384, depth=8, heads=6, mlp_width=1536)
RUNS = {
    "2 clips": with_loop(RUN, batch=2),
    "8 clips": RUN,
    "8 clips, activations of blocks computed again": replace(RUN, checkpoint_activations="blocks"),
    "8 clips, bf16, the same": replace(with_loop(RUN, precision="bf16"), checkpoint_activations="blocks"),
}


def trained(run: TransformerRun, out: Path) -> str:
    """The folder of a model of such a run, to adapt."""
    from dit import train

    return str(train.train(replace(run, out=str(out), train=replace(run.train, steps=1))).parent)


def main() -> None:
    """Prints measured and planned memory of both, and their ratio."""
    print("a step of | full tuning MiB (planned) | rank 16 MiB (planned) | difference")
    with tempfile.TemporaryDirectory() as folder:
        base = trained(RUNS["2 clips"], Path(folder) / "base")
        for name, run in RUNS.items():
            sides = run, replace(run, init=base, lora=LoraConfig(16))
            most = [measure(side, False)[0] / 2**20 for side in sides]
            plans = [planned(side)[0] / 2**20 for side in sides]
            parts = [f"{m:.1f} ({p:.1f})" for m, p in zip(most, plans, strict=True)]
            print(f"{name} | {' | '.join(parts)} | {most[1] / most[0] - 1:+.0%}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
