"""Steps whose loss or gradient is a spike or not finite: found on the device, passed over, named and kept."""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import TypedDict

from configs.train import LoopConfig
from vae.training.device import number
from vae.training.files import read_json, write_json

SMOOTHING = 0.98  # of the loss and of the gradient's norm, a step
MOST_BACK = 10  # steps passed over since the last checkpoint, or one after another: then a run stops
PASSED = "passed.json"


class WentBack(Exception):
    """Ends an attempt of a run, which is to begin again from its last checkpoint."""


class PassedFile(TypedDict):
    """What `passed.json` says: steps that make no update, as a run of these settings went back."""

    steps: list[int]
    settings: dict


@dataclass(frozen=True)
class Wrong:
    """What was wrong with a step: both numbers, of which one may not be finite, and by which of them."""

    loss: float
    norm: float
    by_loss: bool
    by_norm: bool

    def __str__(self) -> str:
        """In words, as `loss 40 is a spike, gradient not finite`."""
        loss, norm = f"loss {self.loss:.3g} is a spike", f"gradient norm {self.norm:.3g} is a spike"
        words = [loss if math.isfinite(self.loss) else "loss not finite"] * self.by_loss
        words += [norm if math.isfinite(self.norm) else "gradient not finite"] * self.by_norm
        return ", ".join(words) or "nothing wrong this time"

    def facts(self) -> dict:
        """The same for a row of the log."""
        numbers = {"loss": self.loss, "gradient_norm": self.norm}
        wrong = ["loss"] * self.by_loss + ["gradient_norm"] * self.by_norm
        return {"wrong": wrong} | {name: x for name, x in numbers.items() if math.isfinite(x)}


class Spikes:
    """Which steps make no update, decided on the device without a wait; the same in every process.

    A step that is not `ordered` to be passed over is wrong if its loss or its gradient is not finite, or the
    loss or the gradient's norm is above `spike_factor` times the running average of those before. With `skip`
    it alone makes no update, else no step from it on does: the states are still those before it when the host
    reads. `averages` are those of the loss and of the norm; they begin with the first step.
    """

    def __init__(
        self,
        loop: LoopConfig,
        device: torch.device,
        averages: tuple[float | None, float | None],
        ordered: set[int],
    ):
        self.factor, self.holds = loop.spike_factor, loop.spike != "skip"
        self.ordered = ordered
        self.averages = torch.stack([number(math.nan if x is None else x, device) for x in averages])
        self._ended = torch.zeros((), dtype=torch.bool, device=device)
        self._rows: dict[int, Tensor] = {}  # since the last read: see `check`
        self.bad = self._ended  # whether the newest step makes no update

    def check(self, step: int, loss: Tensor, norm: Tensor, *norms: Tensor, signed: bool = False) -> Tensor:
        """Whether a step makes no update, on the device; what it is told is equal in all processes.

        Gradients may have several norms, of which the first is the one that may be a spike. A `signed` loss,
        which may fall below 0 as a likelihood does, is wrong only where it is not finite.
        """
        both = torch.stack([loss.detach().double(), norm.detach().double()])
        finite = torch.isfinite(torch.stack([both[1], *(x.detach().double() for x in norms)])).all()
        wrong = torch.stack([~torch.isfinite(both[0]), ~finite])
        if self.factor:
            above = both > self.factor * self.averages  # never, while there is no average
            wrong = torch.stack([wrong[0] if signed else wrong[0] | above[0], wrong[1] | above[1]])
        this = wrong.any() if step not in self.ordered else torch.ones_like(self._ended)
        self._rows[step] = torch.cat([both, wrong, (this & ~self._ended)[None]])
        self.bad = this | self._ended
        if self.holds and step not in self.ordered:
            self._ended = self.bad
        before = torch.where(torch.isfinite(self.averages), self.averages, both)
        moved = SMOOTHING * before + (1 - SMOOTHING) * both
        self.averages = torch.where(self.bad, self.averages, moved)
        return self.bad

    def to_read(self) -> Tensor:
        """What the host is to read: the averages, and five numbers of every step since it last did."""
        return torch.cat([self.averages, *self._rows.values()])

    def read(self, numbers: list[float]) -> tuple[float | None, float | None, dict[int, Wrong]]:
        """The averages of loss and norm, and what is wrong with steps among those read, by their numbers."""
        loss, norm = (x if math.isfinite(x) else None for x in numbers[:2])
        rows = {step: numbers[2 + 5 * k :][:5] for k, step in enumerate(self._rows)}
        self._rows.clear()
        wrong = {step: Wrong(*row[:2], *map(bool, row[2:4])) for step, row in rows.items() if row[4]}
        return loss, norm, wrong


def read_passed(folder: Path, settings: dict, started: bool) -> set[int]:
    """The steps that a run passes over, as it went back because of them.

    One that has no checkpoint yet, and is begun anew with other settings, is another run.
    """
    file = folder / PASSED
    if not file.is_file():
        return set()
    known = read_json(file, PassedFile)
    if not started and known["settings"] != json.loads(json.dumps(settings)):
        file.unlink()
        return set()
    return set(known["steps"])


def write_passed(folder: Path, steps: set[int], settings: dict) -> None:
    """Has a run pass over these steps."""
    write_json(folder / PASSED, {"steps": sorted(steps), "settings": settings})


def going_back(train: Callable) -> Callable:
    """Makes a trainer of a run's settings begin again, from the last checkpoint, where the run goes back."""

    @wraps(train)
    def attempts(config, *rest):
        while True:
            try:
                return train(config, *rest)
            except WentBack as back:
                if not dist.is_initialized() or not dist.get_rank():
                    print(back, file=sys.stderr, flush=True)

    return attempts


def spike_folder(folder: Path, step: int) -> Path:
    """Where a run keeps what a wrong step is replayed from: a checkpoint before it, and its facts."""
    return folder / f"spike-{step:08d}"


def write_spike(folder: Path, step: int, wrong: Wrong, samples: list[str], processes: int) -> None:
    """Writes the facts of a wrong step into its folder."""
    place = spike_folder(folder, step)
    place.mkdir(exist_ok=True)
    facts = {"step": step, "samples": samples, "processes": processes}
    write_json(place / "spike.json", facts | wrong.facts())


def described(step: int, wrong: Wrong, samples: list[str]) -> str:
    """A wrong step in words."""
    return f"{wrong} at step {step}, on {', '.join(samples)}"
