"""Muon and AdamW of eight bits beside AdamW: the same steps on the drawn world, each at its best of three.

nice python -m tests.bench.optimizers [--out FOLDER]

Every run is a folder, `adamw-0.00391`; what is stopped goes on, what is finished is read. The table has the
last validation loss of each and the bytes of its states; below it, how far the smoothed loss of 8-bit AdamW
is from AdamW's, in any line of the log, which is to be 1 %. Cost: 5 minutes of one core.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from configs.data import ClipConfig
from configs.train import TransformerRun
from dit.encode import EncodeSettings, encode
from dit.load import Denoiser
from dit.train import train
from dit.width import matrix_parts
from tests.bench.mup import loss_of, run_of
from vae.training.checkpoints import optimizer_tensors
from vae.training.log import read_log
from vae.training.optimizer import make_optimizer

RATES = tuple(2.0**-k for k in (9, 8, 7))
KINDS = ("adamw", "muon")
WIDTH, STEPS, MARGIN = 64, 200, 0.01


def run(home: Path, kind: str, rate: float) -> TransformerRun:
    """A run by an optimizer at a rate."""
    config = run_of(home, WIDTH, rate, 0)
    loop = replace(config.train, steps=STEPS, save_every=STEPS, show_every=STEPS // 2)
    base = 0 if kind == "muon" else WIDTH  # of muP, which changes nothing at its base
    optimizer = replace(
        config.optimizer, kind=kind, base_width=base, decay_start=STEPS // 2, decay_steps=STEPS // 2
    )
    return replace(config, out=str(home / f"{kind}-{rate:.5f}"), train=loop, optimizer=optimizer)


def state_bytes(config: TransformerRun) -> int:
    """Bytes of an optimizer's states."""
    model = Denoiser(config.model, config.text)
    optimizer = make_optimizer(model, config.optimizer, parts=matrix_parts(model.transformer))
    return sum(x.nbytes for x in optimizer_tensors(optimizer).values())


def smoothed(config: TransformerRun) -> list[float]:
    """The running average of a run's loss, by lines of its log."""
    return [row["smoothed"] for row in read_log(Path(config.out) / "log.jsonl") if "smoothed" in row]


def main() -> None:
    """Makes the runs that are not there yet and prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="runs/optimizers", help="folder of the runs and their cache")
    home = Path(parser.parse_args().out)
    torch.set_num_threads(1)
    clips = ClipConfig(frames=5, size=64, clips_per_file=1)
    encode(EncodeSettings("shapes", str(home / "latents"), data=clips, dtype="fp32", scenes=4096))
    print("| | " + " | ".join(f"{rate:.5f}" for rate in RATES) + " | best | bytes of the states |")
    print("|---" * (len(RATES) + 3) + "|")
    for kind in KINDS:
        for rate in RATES:
            train(run(home, kind, rate))
        losses = [loss_of(run(home, kind, rate)) for rate in RATES]
        size = state_bytes(run(home, kind, RATES[0]))
        cells = " | ".join(f"{loss:.4f}" for loss in losses)
        print(f"| {kind} | {cells} | {min(losses):.4f} | {size:,} |", flush=True)
    rate = min(RATES, key=lambda rate: loss_of(run(home, "adamw", rate)))
    eight = run(home, "adamw8bit", rate)
    train(eight)
    pairs = zip(smoothed(run(home, "adamw", rate)), smoothed(eight), strict=True)
    apart = max(abs(b / a - 1) for a, b in pairs)
    print(f"adamw8bit at {rate:.5f}: {loss_of(eight):.4f}, {state_bytes(eight):,} bytes")
    stated = "as stated" if apart < MARGIN else "which is NOT as stated"
    print(f"its smoothed loss is at most {apart:.2%} from adamw's, {stated}")


if __name__ == "__main__":
    main()
