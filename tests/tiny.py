"""Training runs small enough for a test, and what two runs that should be one are compared by."""

import json
import os
import re
import subprocess
import sys
from array import array
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from configs.data import DataConfig
from configs.model import AutoencoderConfig, TextConfig, TransformerConfig
from configs.sampling import SamplerConfig
from configs.train import AutoencoderRun, LoopConfig, TransformerLoop, TransformerRun
from vae.data.video import TICKS, Probe
from vae.training.checkpoints import checkpoints
from vae.training.log import read_log
from vae.training.saving import Saver
from vae.training.weights import load_weights

ROOT = Path(__file__).parent.parent
MODEL = AutoencoderConfig(
    base_width=4, decoder_base_width=4, width_multipliers=(1, 1, 1, 1), residual_blocks=1, latent_channels=4
)
LOOP = {"steps": 6, "batch": 4, "log_every": 1, "save_every": 2, "show_every": 3, "precision": "fp32"}
CLOCK = {"tokens_per_second", "samples_per_second", "model_flops", "mfu", "goodput", "seconds_left"}
CLOCK |= {"waited", "peak_memory", "time"}


def autoencoder_run(out: Path, **loop) -> AutoencoderRun:
    """A run of an autoencoder of a few thousand weights on crops of 5 frames of 16 x 16."""
    return AutoencoderRun(
        out=str(out),
        data=DataConfig(frames=5, size=32),
        model=MODEL,
        crop=16,
        crop_frames=5,
        train=LoopConfig(**LOOP | loop),
    )


def transformer_run(out: Path, autoencoder: Path, source: str = "shapes", **loop) -> TransformerRun:
    """A run of a transformer of one block on clips of eight tokens."""
    return TransformerRun(
        out=str(out),
        autoencoder=str(autoencoder),
        data=DataConfig(source=source, frames=5, size=32, clips_per_file=int(source != "shapes")),
        model=TransformerConfig(
            width=32, depth=1, heads=2, mlp_width=32, text_width=16, latent_channels=4, time_frequencies=16
        ),
        text=TextConfig(width=16, depth=1, heads=2, mlp_width=16),
        sampler=SamplerConfig(steps=2, guidance=2.0),
        train=TransformerLoop(**LOOP | loop),
    )


def write_config(file: Path, config) -> Path:
    """The Python file of a run."""
    file.write_text(f"from configs.train import *\n\nconfig = {config!r}\n")
    return file


def command(module: str, *arguments: str, processes: int = 1) -> list[str]:
    """The command that runs a module with this Python, on several processes where asked."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *(launcher if processes > 1 else []), "-m", module, *map(str, arguments)]


def environment() -> dict[str, str]:
    """The environment of such a command: no GPU, as many threads as here."""
    threads = str(torch.get_num_threads())
    return os.environ | {"OMP_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}


def launch(module: str, *arguments: str, processes: int = 1) -> subprocess.CompletedProcess:
    """Runs a module in the repository's root; one that hangs ends in an error."""
    return subprocess.run(
        command(module, *arguments, processes=processes),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=900,
    )


def save_checkpoint(
    folder: Path, kind: str, states: dict, settings: dict, facts: dict, kept: int = 0
) -> None:
    """A checkpoint, of one process, that is written when this returns."""
    saver = Saver(torch.device("cpu"))
    saver.save(folder, kind, states, settings, facts, kept)
    saver.wait_written()


def load_checkpoint(checkpoint: Path, kind: str) -> tuple[dict, dict[str, dict[str, torch.Tensor]]]:
    """Facts and parts of a checkpoint, whatever processes wrote it."""
    parts = sorted({re.sub(r"-\d{5}-of-\d{5}", "", file.name) for file in checkpoint.glob("*.safetensors")})
    loaded = {Path(part).stem: load_weights(checkpoint / part, f"{kind} checkpoint") for part in parts}
    facts = next(iter(loaded.values()))[1].facts
    return facts, {part: tensors for part, (tensors, _) in loaded.items()}


def state(out: str | Path) -> dict[str, torch.Tensor]:
    """Every tensor of a run's newest checkpoint, with its step and smoothed loss."""
    kind = json.loads((Path(out) / "run.json").read_text())["kind"]
    facts, parts = load_checkpoint(checkpoints(Path(out))[-1], kind)
    tensors = {f"{part}/{name}": tensor for part, values in parts.items() for name, tensor in values.items()}
    assert {"model", "average", "optimizer"} <= set(parts)
    numbers = {name: torch.tensor(facts[name], dtype=torch.float64) for name in ("step", "smoothed")}
    return tensors | numbers


def rows(out: str | Path) -> list[dict]:
    """The log of a run without what the clock decides."""
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in read_log(Path(out) / "log.jsonl")]


def assert_same_run(out: str | Path, other: str | Path) -> None:
    """Two runs ended in the same state and wrote the same log, to the bit."""
    one, two = state(out), state(other)
    assert one.keys() == two.keys()
    different = [name for name in one if not torch.equal(one[name], two[name])]
    assert not different, f"{len(different)} of {len(one)} differ: {different[:5]}"
    assert json.dumps(rows(out)) == json.dumps(rows(other))


def largest_difference(out: str | Path, other: str | Path) -> float:
    """The largest difference of a weight between two runs, relative to the largest one of its tensor."""
    one, two = state(out), state(other)
    names = [name for name in one if name.startswith(("model/", "average/"))]
    return max(((one[n] - two[n]).abs().max() / one[n].abs().max().clamp(min=1e-3)).item() for n in names)


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """Each run of a process may have its own precision; a test file that imports this has it throughout."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def newest_step(out: str | Path) -> int:
    """The step of the newest complete checkpoint, 0 for none."""
    found = checkpoints(Path(out))
    return int(found[-1].name.removeprefix("step-")) if found else 0


def session(folder: Path, rank: int = 0, ranks: int = 1, **more) -> SimpleNamespace:
    """What parts of a trainer ask of a session, for one process of so many, without a run."""
    from accelerate import Accelerator

    values = {"accelerator": Accelerator(cpu=True), "device": torch.device("cpu"), "main": rank == 0}
    values |= {"rank": rank, "ranks": ranks, "folder": folder}
    return SimpleNamespace(**values | more)


def seconds_of(known: Probe) -> list[float]:
    """Every frame's time since the first one; of a file of constant rate, none."""
    return [tick / TICKS for tick in array("I", known.times)]
