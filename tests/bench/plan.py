"""How near the planned memory of a step is to what PyTorch hands out in a real one, and its FLOPs.

python -m tests.bench.plan: 10 runs of the drawn world, two steps each, of which the second is measured by
PyTorch's profiler: every allocation and release of the process between the step's begin and its end.
"""

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from configs.data import DataConfig
from configs.model import TextConfig, TransformerConfig
from configs.sampling import SamplerConfig
from configs.train import LoraConfig, OptimizerConfig, TransformerLoop, TransformerRun

BASE = TransformerRun(
    data=DataConfig(source="shapes", frames=17, size=64),
    model=TransformerConfig(width=256, depth=8, heads=4, mlp_width=768, text_width=128),
    text=TextConfig(width=128, depth=2, heads=4, mlp_width=256, max_tokens=128),
    train=TransformerLoop(steps=2, batch=8, precision="fp32", log_every=1, show_every=2, save_every=2),
    optimizer=OptimizerConfig(warmup_steps=1),
    sampler=SamplerConfig(steps=1),
    prompts=("a red circle moves left",),
)


def _convolution(x, weight, *_, out_val, **__) -> int:
    return conv_flop_count(x.shape, weight.shape, out_val.shape)


_convolution._get_raw = True  # tensors, not their shapes
CONVOLUTION = {
    torch.ops.aten.mkldnn_convolution: _convolution
}  # oneDNN's, of which the counter knows nothing


def with_loop(run: TransformerRun, **changes) -> TransformerRun:
    """A run with other settings of its loop."""
    return replace(run, train=replace(run.train, **changes))


def with_model(run: TransformerRun, **changes) -> TransformerRun:
    """A run with another transformer."""
    return replace(run, model=replace(run.model, **changes))


RUNS = {
    "width 256, depth 8, fp32": BASE,
    "bf16": with_loop(BASE, precision="bf16"),
    "activations of blocks computed again": replace(BASE, checkpoint_activations="blocks"),
    "the same, selective": replace(BASE, checkpoint_activations="selective"),
    "width 512, depth 12": with_model(BASE, width=512, depth=12, heads=8, mlp_width=1536),
    "packs of 800 tokens, batch 32": with_loop(BASE, batch=32, pack_tokens=800),
    "images of 128 x 128, packs rounded": replace(
        with_loop(BASE, round_tokens=128), data=replace(BASE.data, frames=1, size=128)
    ),
    "adapters of rank 8 on all layers": replace(
        with_model(BASE, width=192, depth=6, heads=3, mlp_width=576),
        init="builtin",
        lora=LoraConfig(8, layers="all"),
    ),
    "Muon": replace(BASE, optimizer=OptimizerConfig(warmup_steps=1, kind="muon")),
    "width 128, depth 3, 33 frames": replace(
        with_model(BASE, width=128, depth=3, heads=2, mlp_width=512), data=replace(BASE.data, frames=33)
    ),
}


def measure(run: TransformerRun, count: bool) -> tuple[int, float]:
    """The largest number of bytes that are handed out at once in the second step, or its FLOPs, as to count
    these keeps some tensors."""
    from accelerate.state import AcceleratorState

    from dit import train as trainer
    from dit.runs import trace  # noqa: F401  counts a CPU's flash attention
    from vae.training.session import Session

    marks, end, begin = [], Session.end_step, Session.steps
    flops = FlopCounterMode(display=False, custom_mapping=CONVOLUTION)
    AcceleratorState._reset_state(True)

    def steps(session, *arguments):
        for item in begin(session, *arguments):
            marks.append(time.time_ns())
            if count and len(marks) == 3:
                flops.__enter__()
            yield item

    def end_step(session, *arguments, **terms):
        if count and len(marks) == 3:
            flops.__exit__(None, None, None)
        marks.append(time.time_ns())
        return end(session, *arguments, **terms)

    Session.end_step, Session.steps = end_step, steps
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            profile(activities=[ProfilerActivity.CPU], profile_memory=True) as made,
        ):
            trainer.train(replace(run, out=str(Path(folder) / "run")))
    finally:
        Session.end_step, Session.steps = end, begin
    held = most = 0
    events = [e for e in made.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        if marks[2] <= event.start_ns() <= marks[3]:
            most = max(most, held)
    return most, flops.get_total_flops()


def planned(run: TransformerRun) -> tuple[float, float]:
    """The planned peak in bytes, and the planned FLOPs as they are executed."""
    from dit.runs.devices import PROCESSORS
    from dit.runs.estimate import PlanSettings, plan_one
    from dit.runs.work import open_source

    found = plan_one(open_source(run), run, PlanSettings(gpu="cpu"), PROCESSORS["h100"])
    return found.peak, found.executed_flops


def main() -> None:
    """Prints planned, measured and their ratio for every run."""
    print("run | planned MiB | measured MiB | ratio | planned GFLOP | counted GFLOP | ratio")
    for name, run in RUNS.items():
        if len(sys.argv) > 1 and sys.argv[1] not in name:
            continue
        (peak, flops), (most, _), (_, counted) = planned(run), measure(run, False), measure(run, True)
        mib = f"{peak / 2**20:.1f} | {most / 2**20:.1f} | {peak / most:.3f}"
        print(f"{name} | {mib} | {flops / 1e9:.1f} | {counted / 1e9:.1f} | {flops / counted:.4f}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
