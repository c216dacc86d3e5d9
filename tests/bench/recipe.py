"""Trains the drawn world's recipe on one process and on several, and prints how far they come apart.

python -m tests.bench.recipe [--steps 100]

The recipe is `configs/runs/shapes.py`, from its first step, with its learning rate, warm-up, prompts that are
dropped and first frames that are given. The oracle is one process without packs.
"""

import argparse
import tempfile
from pathlib import Path

from tests.tiny import launch, rows, state

WORLDS = {
    "1 process, packs of 2,000 tokens": (1, "--train.pack-tokens 2000"),
    "2 processes": (2, ""),
    "2 processes, packs of 2,000 tokens": (2, "--train.pack-tokens 2000"),
    "2 processes, weights sharded": (2, "--parallel.shard full"),
    "2 processes, sharing packs": (2, "--parallel.context 2"),
    "3 processes": (3, ""),
}


def trained(out: Path, processes: int, words: str, steps: int) -> tuple[list[float], dict]:
    """The loss of every step, and the state in the end."""
    settings = f"--autoencoder builtin --out {out} --train.steps {steps} --train.log-every 1 {words}"
    settings += f" --train.save-every {steps} --train.show-every {steps}"
    done = launch("dit.train", "shapes", *settings.split(), processes=processes)
    assert done.returncode == 0, done.stderr[-3000:]
    return [row["loss"] for row in rows(out) if "loss" in row], state(out)


def main() -> None:
    """Trains in every world and prints a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=100)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as folder:
        losses, whole = trained(Path(folder) / "one", 1, "", steps)
        print(f"1 process: loss {losses[0]:.4f} to {losses[-1]:.4f} in {steps} steps", flush=True)
        names = [name for name in whole if name.startswith(("model/", "average/"))]
        for number, (name, (processes, words)) in enumerate(WORLDS.items()):
            others, other = trained(Path(folder) / str(number), processes, words, steps)
            loss = max(abs(a - b) / a for a, b in zip(losses, others, strict=True))
            norm = sum((whole[n] - other[n]).square().sum() for n in names).sqrt()
            weights = norm / sum(whole[n].square().sum() for n in names).sqrt()
            print(f"{name:36} loss {loss:.1e}  weights {weights:.1e} (relative)", flush=True)


if __name__ == "__main__":
    main()
