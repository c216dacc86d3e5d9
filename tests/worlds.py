"""Runs of the trainer in worlds of several processes, many after one start, and what they differ in."""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from shutil import copyfile
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import dit.train
from configs.data import DataConfig
from configs.load import to_json
from configs.model import TextConfig
from configs.train import FlowConfig, OptimizerConfig, ParallelConfig, TaskWeights, TransformerRun
from dit.blocks import why_not_compiled
from dit.cli import run as command
from dit.encode import EncodeSettings, encode
from dit.load import TRANSFORMER, Denoiser
from tests.test_text import tiny_umt5
from tests.tiny import MODEL, launch, rows, transformer_run
from vae.data.video import to_video
from vae.data.write import write_video
from vae.load import WEIGHTS
from vae.model import Autoencoder
from vae.training.session import Session
from vae.training.weights import save_weights

FILES = [(1, 48, 48), (9, 48, 32), (17, 32, 48), (1, 32, 64), (9, 48, 48), (5, 32, 32), (13, 48, 48)]
FILES += [(1, 32, 32), (17, 32, 32), (9, 64, 32), (1, 48, 32), (5, 48, 48), (9, 32, 32), (13, 32, 48)]
EQUAL = {"gradient": 1e-5, "gradient_norm": 1e-5, "weights": 1e-5, "average": 1e-5}
EQUAL |= {"loss": 1e-6, "validation": 1e-6}
# AdamW's eps: a step of a gradient much smaller than its tensor's largest, whose digits are rounding, is not
# brought to the size of the others.
STEADY = 1e-5


@dataclass(frozen=True)
class Case:
    """A run in a world: what of its settings only says how the work is spread, and what is broken in it."""

    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    train: tuple[tuple[str, object], ...] = ()
    run: tuple[tuple[str, object], ...] = ()
    frozen_text: bool = False
    steps: int = 20
    fault: Callable[[], object] | None = None


def make_home(home: Path) -> Path:
    """A cache of images and clips of many sizes, and a model of three heads to start from."""
    torch.manual_seed(0)
    for k, (frames, height, width) in enumerate(FILES):
        coarse = torch.rand(frames, 3, height // 8, width // 8)
        video = torch.nn.functional.interpolate(255 * coarse, size=(height, width)).byte().movedim(1, -1)
        if frames == 1:
            Image.fromarray(np.asarray(video[0])).save(home / f"{k}.png")
        else:
            write_video(home / f"{k}.mp4", to_video(video), 8, {})
        (home / f"{k}.txt").write_text("a word " * (1 + k % 4) + "\n")
    assert command(["data", "index", str(home)]) == 0
    save_weights(
        home / "vae.safetensors", Autoencoder(MODEL).state_dict(), "autoencoder", {"model": to_json(MODEL)}
    )
    data = DataConfig(frames=9, size=48, clips_per_file=2)
    encode(EncodeSettings(str(home), str(home / "cache"), str(home / "vae.safetensors"), data, dtype="fp32"))
    tiny_umt5(home / "umt5")
    for case in (Case(), Case(frozen_text=True)):
        config = settings(home, "", case)
        model = Denoiser(config.model, config.text)
        for parameter in model.parameters():  # none is zero: every path counts from the first step on
            parameter.data += 0.1 * torch.randn_like(parameter) * parameter.requires_grad
        (start := Path(config.init)).mkdir()
        save_weights(start / TRANSFORMER, model.trained_state(), "transformer", to_json(config))
        copyfile(home / "vae.safetensors", start / WEIGHTS)
    return home


def settings(home: Path, name: str, case: Case) -> TransformerRun:
    """The run of a case."""
    run = transformer_run(home / name, home / "vae.safetensors", str(home / "cache"))
    model = replace(run.model, width=24, heads=3, depth=2, mlp_width=40)
    text, start = run.text, home / "start"
    if case.frozen_text:
        text, start = TextConfig(folder=str(home / "umt5"), max_tokens=32), home / "frozen"
        model = replace(model, text_width=20)
    given = {"steps": case.steps, "save_every": case.steps, "show_every": case.steps} | dict(case.train)
    run = replace(
        run,
        init=str(start),
        new_latents=True,
        data=DataConfig(source=str(home / "cache"), frames=9, size=48, clips_per_file=2, held_out="0.3"),
        model=model,
        text=text,
        flow=FlowConfig(tasks=TaskWeights(none=0.5, first=0.5), prompt_dropout=0.3),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=1, ema_decay=0.8),
        train=replace(run.train, batch=6, **given),
        parallel=case.parallel,
    )
    return replace(run, **dict(case.run))


def run_case(home: Path, name: str, case: Case) -> None:
    """Trains, and keeps the gradients of the first step, and weights and average after the last."""
    seen: dict[str, Tensor] = {}
    with ExitStack() as stack:
        if case.fault:
            stack.enter_context(case.fault())
        make, clip, update = dit.train.make_optimizer, dit.train.clip_gradients, dit.train.update_average

        def make_steady(*arguments):
            optimizer = make(*arguments)
            for group in optimizer.param_groups:
                group["eps"] = STEADY
            return optimizer

        def clip_seen(optimizer, config):
            if not seen:
                groups = [zip(g["param_names"], g["params"], strict=True) for g in optimizer.param_groups]
                seen.update({f"gradient/{n}": _whole(p.grad) for group in groups for n, p in group})
            return clip(optimizer, config)

        def update_seen(average, model, step, decay, bad):
            update(average, model, step, decay, bad)
            if step == case.steps:
                for part, network in {"weights": model, "average": average}.items():
                    seen.update(
                        {f"{part}/{n}": _whole(x.detach()) for n, x in network.trained_state().items()}
                    )

        stack.enter_context(patch.object(dit.train, "make_optimizer", make_steady))
        stack.enter_context(patch.object(dit.train, "clip_gradients", clip_seen))
        stack.enter_context(patch.object(dit.train, "update_average", update_seen))
        stack.enter_context(patch.object(Session, "save", lambda *_, **__: None))
        stack.enter_context(patch.object(Session, "finish", lambda *_: None))
        dit.train.train(settings(home, name, case))
    if not dist.is_initialized() or dist.get_rank() == 0:
        save_file(seen, home / name / "seen.safetensors")


def _whole(tensor: Tensor) -> Tensor:
    """A tensor that processes may share, on each of them."""
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).clone().contiguous()


def differences(home: Path, name: str, reference: str) -> dict[str, float]:
    """The largest difference of a gradient, a weight and its average, relative to the largest number of its
    tensor; of a loss, and of a time bin's validation loss, relative to itself."""
    one, two = (load_file(home / which / "seen.safetensors") for which in (name, reference))
    assert one.keys() == two.keys()
    found = {part: 0.0 for part in EQUAL}
    for key in one:
        difference = ((one[key] - two[key]).abs().max() / two[key].abs().max().clamp(min=1e-30)).item()
        assert math.isfinite(difference), key
        part = key.split("/")[0]
        found[part] = max(found[part], difference)
    pairs = list(zip(rows(home / name), rows(home / reference), strict=True))
    for row, other in pairs:
        assert row.keys() == other.keys()
        for key in row:
            part = "validation" if key.startswith("validation") else key
            if part in found:
                assert math.isfinite(row[key]), key
                found[part] = max(found[part], abs(row[key] / other[key] - 1))
    return found


@contextmanager
def joined() -> Iterator[None]:
    """Within it the processes stay joined from one run to the next."""
    dist.init_process_group("gloo")
    leave = dist.destroy_process_group
    try:
        with patch.object(dist, "destroy_process_group", lambda *_: None):
            yield
            dist.barrier()
    finally:
        leave()


def run_world(home: Path, processes: int, module: str) -> None:
    """Runs all cases of a module's `CASES` that are of so many processes."""
    done = launch("tests.worlds", str(home), module, processes=processes)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]


def again() -> None:
    """Lets a process begin another run."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


def main(home: Path, module: str) -> None:
    """What `run_world` starts in each process."""
    torch.set_num_threads(1)
    cases = import_module(module).CASES
    with joined():
        for name, (processes, case) in cases.items():
            compiled = dict(case.run).get("compile") and why_not_compiled(torch.device("cpu"))
            if processes == dist.get_world_size() and not compiled:
                again()
                run_case(home, name, case)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
