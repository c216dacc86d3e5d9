"""How long a checkpoint holds the loop: written behind it, and written while it waits.

python -m tests.bench.checkpoints [--width 384] [--depth 6] [--tokens 512] [--rounds 5]

A step is a transformer's forward and backward pass, AdamW's update and the average's. `stands still` is the
time in which the loop does nothing but wait: to begin a checkpoint, for the copy before the next update, for
the write. `longer` is what the steps between two checkpoints take more than others, by the clock: where
all cores compute, the thread that copies and writes takes its time from them.
"""

import argparse
import copy
import statistics
import tempfile
import time
from pathlib import Path

import torch

from configs.model import TransformerConfig
from configs.train import OptimizerConfig
from dit.bench.passes import forward, make_pack, random_model
from vae.training.checkpoints import optimizer_tensors
from vae.training.device import own_device, wait_for
from vae.training.optimizer import make_optimizer, update_average
from vae.training.saving import Saver

STEPS = 3  # from one checkpoint to the next


def main() -> None:
    """Times checkpoints both ways in turn, and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    for name, default in {"width": 384, "depth": 6, "tokens": 512, "rounds": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    device = own_device()
    config = TransformerConfig(
        width=given.width, depth=given.depth, heads=given.width // 64, mlp_width=4 * given.width
    )
    model = random_model(config, device)
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = make_optimizer(model, OptimizerConfig())
    pack = make_pack(config, [(1, 16, given.tokens // 16)], 32, device)
    states = {"model": model.state_dict(), "average": average.state_dict()}
    states["optimizer"] = optimizer_tensors(optimizer)
    size = sum(tensor.nbytes for part in states.values() for tensor in part.values())
    saver = Saver(device)

    def steps(folder: Path, behind: bool | None) -> tuple[float, float]:
        """Seconds of the steps after a checkpoint, if there is one, and of those in which the loop waits."""
        began, held = time.perf_counter(), 0.0
        if behind is not None:
            saver.save(folder, "transformer", states, {}, {"step": 1, "smoothed": None})
            if not behind:
                saver.wait_written()
            held += time.perf_counter() - began
        for step in range(STEPS):
            forward(model, pack, torch.float32).square().mean().backward()
            wait_for(device)
            waits = time.perf_counter()
            saver.wait_copied()
            held += time.perf_counter() - waits
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            update_average(average, model, step, 0.999)
        wait_for(device)
        waits = time.perf_counter()
        saver.wait_written()  # as the next one does
        held += time.perf_counter() - waits
        return time.perf_counter() - began, held

    sides = {"none": None, "written behind it": True, "while it waits": False}
    found = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as folder:
        for k in range(given.rounds + 1):
            for name, behind in sides.items():
                seconds = steps(Path(folder), behind)
                found[name] += [seconds] * bool(k)  # the first warms up, and makes the memory of the copies
    step = statistics.median(total for total, _ in found["none"]) / STEPS
    weights = sum(p.numel() for p in model.parameters())
    print(
        f"{weights / 1e6:.0f} M weights, {size / 2**20:.0f} MiB of states, {step:.2f} s a step, on {device}"
    )
    for name in list(sides)[1:]:
        total, held = map(statistics.median, zip(*found[name], strict=True))
        shares = f"stands still {held / step:7.1%} of a step, longer by {(total - STEPS * step) / step:7.1%}"
        print(f"{name:18} {shares}")


if __name__ == "__main__":
    main()
