"""Steps whose gradient is a spike or not finite: found on the device, passed over, named and kept."""

import json
import math
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import TypedDict

from configs.train import LoopConfig
from vae.training.files import read_json, write_json

SMOOTHING = 0.98  # of the gradient's norm, a step
MOST_BACK = 10  # steps passed over since the last checkpoint, or one after another: then a run stops
PASSED = "passed.json"


class WentBack(Exception):
    """Ends an attempt of a run, which is to begin again from its last checkpoint."""


class PassedFile(TypedDict):
    """What `passed.json` says: steps that make no update, as a run of these settings went back."""

    steps: list[int]
    settings: dict


class Spikes:
    """Which steps make no update, decided on the device without a wait; the same in every process.

    A step that is not `ordered` to be passed over is wrong if its gradient is not finite, or its norm above
    `spike_factor` times the running `average` of those before. With `skip` it alone makes no update, else no
    step from it on does: the states are still those before it when the host reads.
    """

    def __init__(self, loop: LoopConfig, device: torch.device, average: float | None, ordered: set[int]):
        self.factor, self.holds, self.device = loop.spike_factor, loop.spike != "skip", device
        self.ordered = ordered
        self.average = self._number(math.nan if average is None else average)
        self._unknown = self._number(math.nan)
        self._nothing, self._ended = self._number(-1.0), torch.zeros((), dtype=torch.bool, device=device)
        self._norms: dict[int, Tensor] = {}  # since the last read: the norm of a step that is wrong, else -1
        self.bad = self._ended  # whether the newest step makes no update

    def _number(self, value: float) -> Tensor:
        """A number on the device, put there without a wait."""
        return torch.full((), value, device=self.device, dtype=torch.float64)

    def check(self, step: int, norm: Tensor, *values: Tensor) -> Tensor:
        """Whether a step makes no update, on the device; norm and values are equal in all processes."""
        norm = norm.detach().double()
        finite = torch.isfinite(torch.stack([norm, *(value.detach().double() for value in values)])).all()
        norm, wrong = torch.where(finite, norm, self._unknown), ~finite
        if self.factor:
            wrong = wrong | (norm > self.factor * self.average)  # never, while there is no average
        if step in self.ordered:
            wrong = torch.ones_like(wrong)
        self.bad = wrong | self._ended
        self._norms[step] = torch.where(wrong & ~self._ended, norm, self._nothing)
        if self.holds and step not in self.ordered:
            self._ended = self.bad
        moved = torch.where(
            torch.isnan(self.average), norm, SMOOTHING * self.average + (1 - SMOOTHING) * norm
        )
        self.average = torch.where(self.bad, self.average, moved)
        return self.bad

    def to_read(self) -> list[Tensor]:
        """What the host is to read: the average, and a number of every step since it last did."""
        return [self.average, *self._norms.values()]

    def read(self, average: float, *norms: float) -> tuple[float | None, dict[int, float]]:
        """The average, and the norms of the wrong steps among those read, by their numbers."""
        wrong = {step: norm for step, norm in zip(self._norms, norms, strict=True) if norm != -1.0}
        self._norms.clear()
        return None if math.isnan(average) else average, wrong


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


def write_spike(folder: Path, step: int, norm: float, samples: list[str], processes: int) -> None:
    """Writes the facts of a wrong step into its folder."""
    place = spike_folder(folder, step)
    place.mkdir(exist_ok=True)
    facts = {"step": step, "samples": samples, "processes": processes}
    write_json(place / "spike.json", facts | ({"gradient_norm": norm} if math.isfinite(norm) else {}))


def described(step: int, norm: float, samples: list[str]) -> str:
    """A wrong step in words."""
    what = f"gradient norm {norm:.3g} is a spike" if math.isfinite(norm) else "gradient not finite"
    return f"{what} at step {step}, on {', '.join(samples)}"
