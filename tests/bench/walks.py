"""How far one walks through the code: functions and files from a video file to the loss, and to an mp4.

python -m tests.bench.walks

Two runs are traced as they are (sys.setprofile): one step of `dit train` on real clips of a manifest, from
the data set's `__getitem__` and who called it to the backward pass, with one sample whose first frame is
given; and `dit sample PROMPT` with guidance, from `sample` to its return, but for the loading of the model.
The walk is the sequence of functions of ours (of configs, samplers, vae, dit and eval) in the order in which
each is first entered, so that loops do not count twice; what a thread draws ahead is drawn in its place.
Generator expressions, comprehensions and lambdas belong to the function that they stand in; a named inner
function is one of its own.

A network is a box: a method of an `nn.Module` counts when it is entered, and nothing below it does. Files are
counted twice: those of which something else than a network is entered, which one has to open, and in brackets
all. A return is an entry into a file, a network's too, that the walk had been in and had left for another.
The walk is printed, indented by who calls whom, with `*` at a network and `<-` at each return.
"""

import re
import sys
import tempfile
from collections.abc import Callable
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn

from configs.data import DataConfig
from configs.model import TextConfig, TransformerConfig
from configs.sampling import SamplerConfig, SampleSettings
from configs.train import FlowConfig, TaskWeights, TransformerLoop, TransformerRun

ROOT = Path(__file__).parent.parent.parent
OURS = ("configs/", "samplers/", "vae/", "dit/", "eval/")
INNER = re.compile(r"(\.<locals>)?\.<(listcomp|setcomp|dictcomp|genexpr|lambda)>")
GOALS = {"video file to loss": (24, 9, 6), "prompt to mp4": (32, 10, 10)}  # functions, files, returns
LOADING = {("dit/load.py", "load_resolved")}

Entry = tuple[int, str, str, bool]  # depth, file, function, whether it is a network's


class Trace:
    """Every entry of a function of ours that is not below a network, in order, and of the backward pass."""

    def __init__(self):
        self.entries: list[Entry] = []
        self.stack, self.box, self.names = [], None, {}

    def name(self, code) -> tuple[str, str]:
        """File and function that a piece of code belongs to; no file where it is not ours."""
        if code not in self.names:
            file = code.co_filename.removeprefix(f"{ROOT}/")
            ours = file.startswith(OURS) and not code.co_qualname.startswith("<")
            self.names[code] = (file if ours else "", INNER.sub("", code.co_qualname))
        return self.names[code]

    def __call__(self, frame, event: str, _) -> None:
        if event == "call" and self.box is None:
            file, function = self.name(frame.f_code)
            if function == "Tensor.backward":
                self.entries.append((0, "", function, False))
            elif (file, function) in LOADING:
                self.box = frame
            elif file:
                network = isinstance(frame.f_locals.get("self"), nn.Module)
                self.entries.append((len(self.stack), file, function, network))
                if network:
                    self.box = frame
                else:
                    self.stack.append(frame)
        elif event == "return" and frame is self.box:
            self.box = None
        elif event == "return" and self.stack and frame is self.stack[-1]:
            self.stack.pop()


@contextmanager
def traced():
    """Traces what runs within it, whose output is not shown."""
    trace = Trace()
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        sys.setprofile(trace)
        try:
            yield trace
        finally:
            sys.setprofile(None)


def first_entries(entries: list[Entry]) -> list[Entry]:
    """The walk: each function once, where it is first entered."""
    walk = {}
    for entry in entries:
        walk.setdefault(entry[1:3], entry)
    return list(walk.values())


def returns(walk: list[Entry]) -> list[int]:
    """The places of a walk at which it is back in a file that it had left."""
    back, left = [], set()
    for place, (_, file, *_) in enumerate(walk[1:], start=1):
        if file != walk[place - 1][1]:
            left.add(walk[place - 1][1])
            if file in left:
                back.append(place)
    return back


def training_walk(folder: Path) -> list[Entry]:
    """One step of a tiny run on clips of files, from the first look at its clip to the loss."""
    from dit.train import train
    from vae.data.index import main as index
    from vae.data.write import write_video

    noise = torch.Generator().manual_seed(0)
    for k in range(8):
        write_video(
            folder / "clips" / f"{k}.mp4", torch.rand(3, 17, 64, 96, generator=noise) * 2 - 1, 8.0, {}
        )
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        index([str(folder / "clips")])
    run = TransformerRun(
        out=str(folder / "run"),
        data=DataConfig(source=str(folder / "clips"), frames=5, size=32),
        model=TransformerConfig(width=24, depth=1, heads=2, mlp_width=32, text_width=16),
        text=TextConfig(width=16, depth=1, heads=2, mlp_width=16),
        flow=FlowConfig(tasks=TaskWeights(none=0.0)),
        sampler=SamplerConfig(steps=1),
        train=TransformerLoop(steps=1, batch=1, precision="fp32"),
    )
    with patch("dit.train.made_ahead", lambda steps, device: iter(steps)), traced() as trace:
        train(run)
    end = next(k for k, entry in enumerate(trace.entries) if entry[2] == "Tensor.backward")
    begin = max(k for k, entry in enumerate(trace.entries[:end]) if entry[2].endswith(".__getitem__"))
    callers, depth = [], trace.entries[begin][0]
    for entry in reversed(trace.entries[:begin]):
        if entry[0] < depth:
            callers, depth = [entry, *callers], entry[0]
    return callers + trace.entries[begin:end]


def sampling_walk(folder: Path) -> list[Entry]:
    """One sample of the built-in model, from the prompt to the mp4."""
    from dit.sample import sample

    settings = SampleSettings(prompts=("a red circle moves left",), out=str(folder / "videos"), steps=2)
    with traced() as trace:
        sample(settings)
    return trace.entries


def main() -> None:
    """Prints both walks, and what they count beside the goals."""
    torch.set_num_threads(1)
    walks: dict[str, Callable] = {"video file to loss": training_walk, "prompt to mp4": sampling_walk}
    rows = []
    for name, walked in walks.items():
        with tempfile.TemporaryDirectory() as folder:
            walk = first_entries(walked(Path(folder)))
        back = returns(walk)
        print(f"\n{name}\n")
        for place, (depth, file, function, network) in enumerate(walk):
            marks = " *" * network + " <-" * (place in back)
            print(f"{'  ' * (depth - walk[0][0])}{file}: {function}{marks}")
        files, opened = ({entry[1] for entry in walk if every or not entry[3]} for every in (True, False))
        rows.append((name, f"{len(walk)}", f"{len(opened)} [{len(files)}]", f"{len(back)}"))
    print(f"\n{'':20}{'functions':>16}{'files':>20}{'returns':>16}")
    for name, *counts in rows:
        cells = [f"{count}, goal {goal}" for count, goal in zip(counts, GOALS[name], strict=True)]
        print(f"{name:20}{cells[0]:>16}{cells[1]:>20}{cells[2]:>16}")


if __name__ == "__main__":
    main()
