"""`dit train RUN --replay STEP`: computes one step of a run again, and says what each sample gave to it."""

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor, nn
from torch.optim import Optimizer

from configs.load import from_json
from configs.train import ParallelConfig, TransformerRun
from dit.loss import flow_loss
from dit.steps import StepPacks, draw_steps
from dit.times import Losses, bin_of
from vae.data.sheets import contact_sheet
from vae.interface import VideoAutoencoder
from vae.load import WEIGHTS
from vae.training.checkpoints import checkpoints, step_of
from vae.training.files import read_json, write_json
from vae.training.folder import RunFile
from vae.training.session import Session
from vae.training.spikes import PASSED, spike_folder

COLUMNS = {"draw": 8, "time": 7, "bin": 8, "tokens": 7, "loss": 10, "gradient_norm": 13, "finite": 7}
LARGEST = 5  # blocks that are named
KINDS = ("transformer", "lora")  # of runs whose steps are replayed


def replay(run: Path, step: int, train: Callable) -> dict:
    """Computes a step's forward and backward again, from the states that it had; returns what it found.

    `train` goes on to the step from the newest states kept before it, in a folder that is thrown away. Raises
    ValueError where nothing is kept.
    """
    file = run / "run.json"
    if not file.is_file():
        raise ValueError(f"{run} is no run of dit train: it has no run.json")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError("a step is replayed in one process: start it without a launcher")
    known = read_json(file, RunFile)
    if known["kind"] not in KINDS:
        raise ValueError(
            f"{run} is a run of kind {known['kind']}: steps of {' and '.join(KINDS)} are replayed"
        )
    config = from_json(TransformerRun, known["settings"], file)
    start, found = _kept_before(run, step, config), {}
    with tempfile.TemporaryDirectory(prefix="dit-replay-") as place:
        folder = Path(place)
        for name in ("run.json", "log.jsonl", PASSED):
            if (run / name).is_file():
                shutil.copyfile(run / name, folder / name)
        for path in (start, run / WEIGHTS, run / "vae"):
            if path and path.exists():
                (folder / path.name).symlink_to(path.resolve())
        loop = replace(config.train, steps=step, spike="skip", save_every=step + 1)
        config = replace(config, out=place, train=loop, parallel=ParallelConfig())
        train(config, partial(_look, found=found, config=config))
    write_json(run / f"replay-{step:08d}.json", found["said"])
    videos = [
        (clip.video, f"draw {clip.draw}: {clip.source}") for clip in found["clips"] if clip.video is not None
    ]
    if videos:
        contact_sheet(*map(list, zip(*videos, strict=True)), run / f"replay-{step:08d}.png")
    return found["said"]


def _kept_before(run: Path, step: int, config: TransformerRun) -> Path | None:
    """The newest states kept before a step: at a spike, or a checkpoint; None is the start of the run."""
    before = [path for path in checkpoints(run) if step_of(path) < step]
    before += checkpoints(spike_folder(run, step))
    if before:
        return max(before, key=step_of)
    if step > config.train.save_every or step < 1:
        raise ValueError(f"{run} keeps nothing from before step {step} to replay it from")
    return None


def _look(
    share: StepPacks,
    network: nn.Module,
    optimizer: Optimizer,
    autoencoder: VideoAutoencoder,
    counted: Tensor,
    loss: Tensor,
    losses: Callable[[int], Losses],
    run: Session,
    found: dict,
    config: TransformerRun,
) -> None:
    """Notes the gradients of a step's backward, then computes every sample's alone."""
    step = config.train.steps
    parameters = [
        p for group in optimizer.param_groups for p in group["params"]
    ]  # in the order of the loop's
    said = {"step": step, "loss": _number(loss), "gradient_norm": _number(_norm(parameters))}
    said["blocks"] = _blocks(network)
    said["samples"] = []
    times = [time for pack in share.packs for time in pack.times]
    for clip, time in zip(share.clips, times, strict=True):
        network.zero_grad()
        one = [([[clip.draw]], [clip])]
        drawn = draw_steps(one, config, autoencoder, network.read, run.device, losses=losses, first=step)
        [pack] = next(drawn).packs
        with run.accelerator.autocast():
            error = flow_loss(network, pack.batch(autoencoder, run.device))
        (error / counted).backward()
        norm = _norm(parameters).item()
        row = {"source": clip.source, "caption": clip.caption, "draw": clip.draw, "time": time}
        row |= {"bin": bin_of(time), "tokens": pack.draw.layout.local.each[0]}
        row |= {"loss": _number(error / pack.draw.counted), "gradient_norm": _number(norm)}
        said["samples"].append(row | {"finite": math.isfinite(norm), "blocks": _blocks(network)})
    found |= {"said": said, "clips": share.clips}


def _number(value: Tensor | float) -> float | None:
    """A finite number, or None."""
    number = float(value.detach() if isinstance(value, Tensor) else value)
    return number if math.isfinite(number) else None


def _norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The norm of all gradients."""
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def _blocks(network: nn.Module) -> dict[str, float | None]:
    """The blocks with the largest gradients, those not finite first, each with its norm."""
    named = {f"blocks.{k}": block for k, block in enumerate(network.transformer.blocks)}
    named |= {name: part for name, part in network.transformer.named_children() if name != "blocks"}
    named |= {"text": network.text} if isinstance(network.text, nn.Module) else {}
    norms = {
        name: _norm(part.parameters()).item()
        for name, part in named.items()
        if any(p.grad is not None for p in part.parameters())
    }
    order = sorted(norms, key=lambda name: -norms[name] if math.isfinite(norms[name]) else -math.inf)
    return {name: _number(norms[name]) for name in order[:LARGEST]}


def table(said: dict) -> str:
    """What a replay found, as text: a line for every sample."""
    lines = ["".join(f"{name.replace('_', ' '):>{width}}" for name, width in COLUMNS.items()) + "  sample"]
    for row in said["samples"]:
        words = "".join(f"{_word(row[name]):>{width}}" for name, width in COLUMNS.items())
        lines.append(f"{words}  {row['source']}: {row['caption']}")
    blocks = ", ".join(f"{name} {_word(norm)}" for name, norm in said["blocks"].items())
    lines.append(
        f"step {said['step']}: loss {_word(said['loss'])}, gradient norm {_word(said['gradient_norm'])}, "
        f"largest in {blocks}"
    )
    return "\n".join(lines)


def _word(value: object) -> str:
    """A value of the table."""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.4g}" if isinstance(value, float) else "not finite" if value is None else str(value)


def replay_run(arguments: list[str], train: Callable) -> None:
    """`dit train RUN --replay STEP`."""
    rest = [word for word in arguments if not word.startswith("--")]
    if len(rest) != 2 or len(arguments) != 3 or arguments[1] != "--replay" or not rest[1].isdigit():
        raise ValueError("dit train RUN --replay STEP, with the folder of a run and the number of a step")
    print(table(replay(Path(rest[0]), int(rest[1]), train)))
