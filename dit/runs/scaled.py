"""Runs as a law of scaling sees them: parameters, samples, FLOPs, validation; and which can be compared."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy
import torch
from numpy import ndarray

from configs.load import from_json, to_json
from configs.model import TransformerConfig
from configs.train import TransformerRun
from dit.model import Transformer
from dit.runs.history import LOG, History, differing
from vae.training.files import read_json
from vae.training.folder import MAY_CHANGE, flat

SIZES = {"model.width", "model.depth", "model.heads", "model.mlp_width"}
RATES = {f"optimizer.{name}" for name in ("learning_rate", "warmup_steps", "decay_start", "decay_steps")}
MAY_DIFFER = (MAY_CHANGE - {"data.held_out", "data.group"}) | SIZES | RATES
MAY_DIFFER |= {"optimizer.base_width", "optimizer.ema_decay", "optimizer.weight_decay", "prompts", "sampler"}
WHY = {  # of settings that begin so, why runs that differ in them are not compared
    "data": "other data",
    "flow": "other times or tasks, in training or validation",
    "train.seed": "other clips held out, and other noise to validate them with",
    "train.batch": "other samples a step",
    "train.tokens": "other tokens a step",
    "autoencoder": "other latents",
    "init": "another start",
    "from_run": "another start",
}


@dataclass(frozen=True)
class Scaled:
    """A run as a law sees it: what it is of, how much it saw, and the validation loss of its average.

    `flops` is None where the log does not tell; `losses` are the validations by the share of steps done.
    """

    history: History
    config: TransformerRun
    parameters: int
    samples: float
    flops: float | None
    loss: float | None
    shares: ndarray = field(repr=False)
    losses: ndarray = field(repr=False)

    @property
    def name(self) -> str:
        """What it is called beside the others."""
        return self.history.name

    @property
    def finished(self) -> bool:
        """Whether it was validated after its last step."""
        return self.loss is not None


def parameters_of(model: TransformerConfig) -> int:
    """Parameters of a transformer, without a text encoder, which every size shares."""
    with torch.device("meta"):
        return sum(part.numel() for part in Transformer(model).parameters())


def runs_of(histories: Sequence[History]) -> list[Scaled]:
    """Runs of transformers as a law sees them; raises ValueError where they cannot be compared."""
    runs = [_run_of(history) for history in histories]
    for one in runs[1:]:
        check_alike(runs[0].name, fixed_facts(runs[0]), one.name, fixed_facts(one))
    return runs


def _run_of(history: History) -> Scaled:
    """A run as a law sees it; raises ValueError for one of another kind."""
    if history.kind != "transformer":
        raise ValueError(
            f"{history.folder} is a run of kind {history.kind}: laws are fitted to runs of whole transformers"
        )
    file = history.folder / "run.json"
    config = from_json(TransformerRun, read_json(file)["settings"], file)
    validation = history.series.get("validation")
    steps = numpy.array([]) if validation is None else validation.steps
    losses = numpy.array([]) if validation is None else validation.values
    done = len(steps) > 0 and steps[-1] == config.train.steps
    return Scaled(
        history=history,
        config=config,
        parameters=parameters_of(config.model),
        samples=samples_of(history, config),
        flops=history.total("flops"),
        loss=float(losses[-1]) if done and losses[-1] > 0 else None,
        shares=steps / max(1, history.step),
        losses=losses,
    )


def samples_of(history: History, config: TransformerRun) -> float:
    """The samples that a run saw; raises ValueError where steps are of tokens and the log lacks samples."""
    if not config.train.tokens:
        return float(history.step * config.train.batch)
    rates = [history.series.get(f"{name}_per_second") for name in ("samples", "tokens")]
    if None in rates or len(rates[0].steps) != len(rates[1].steps):
        raise ValueError(f"{history.folder}: its log does not say how many samples a step had")
    a_step = config.train.tokens * rates[0].values / rates[1].values
    return float((numpy.diff(numpy.concatenate([[0], rates[0].steps])) * a_step).sum())


def fixed_facts(run: Scaled) -> dict:
    """What runs that are compared have in common: data, and all settings but sizes, lengths and rates."""
    settings = flat(to_json(run.config))
    kept = {name: value for name, value in settings.items() if not _may_differ(name)}
    return kept | {"data (hash)": run.history.facts["data"]}


def _may_differ(name: str) -> bool:
    """Whether runs of a law may have other values of a setting."""
    return name in MAY_DIFFER or name.split(".")[0] in MAY_DIFFER


def check_alike(name: str, facts: dict, other: str, its: dict) -> None:
    """Raises ValueError naming a setting, or the data, in which two runs of one law differ."""
    for what, (one, two) in differing([facts, its]).items():
        why = next((WHY[part] for part in (what, what.split(" ")[0].split(".")[0]) if part in WHY), "")
        value = [f"{value:.12}" if what.startswith("data (") else repr(value) for value in (one, two)]
        raise ValueError(
            f"{other} cannot be compared with {name}: its {what} is {value[1]}, not {value[0]}"
            f"{f' ({why})' if why else ''}: one law is of runs that differ in size, length and rates alone"
        )


def hash_of(history: History) -> str:
    """SHA-256 of a run's settings and log."""
    parts = [(history.folder / name).read_bytes() for name in ("run.json", LOG)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def best_of_each(runs: Sequence[Scaled]) -> list[Scaled]:
    """Of runs of one size and as many samples, as they differ in rates, the one of the least loss."""
    best: dict[tuple[int, int], Scaled] = {}
    for run in runs:
        key = run.parameters, round(run.samples)
        if key not in best or run.loss < best[key].loss:
            best[key] = run
    return list(best.values())


def growth_of_flops(runs: Sequence[Scaled]) -> tuple[float, float] | None:
    """k and m of the FLOPs k N^m that a sample costs a model of N parameters; None where no log tells.

    Of runs of one size m is 1.
    """
    if not runs or any(not run.flops for run in runs):
        return None
    sizes = numpy.log([run.parameters for run in runs])
    costs = numpy.log([run.flops / run.samples for run in runs])
    power = float(numpy.polyfit(sizes, costs, 1)[0]) if numpy.ptp(sizes) > 1e-9 else 1.0
    return math.exp(float(numpy.mean(costs - power * sizes))), power


def transfers(runs: Sequence[Scaled]) -> Iterator[tuple[str, dict[int, dict[float, float]]]]:
    """Losses by width and rate, of runs with muP and of others, where several widths have several rates.

    Of each the words that name it; runs at the base width are both.
    """
    bases = {run.config.optimizer.base_width for run in runs}
    for base in sorted(bases, reverse=True):
        table: dict[int, dict[float, float]] = {}
        for run in runs:
            width, own = run.config.model.width, run.config.optimizer.base_width
            if own == base or (not base and own == width):
                table.setdefault(width, {})[run.config.optimizer.learning_rate] = run.loss
        table = {width: losses for width, losses in sorted(table.items()) if len(losses) > 2}
        if len(table) > 1:
            yield (f"muP from width {base}" if base else "without muP"), table


def best_rate(losses: dict[float, float]) -> float:
    """Where a parabola through the best of the rates, in their logarithms, and its neighbours is least."""
    rates = sorted(losses)
    at = min(range(len(rates)), key=lambda k: losses[rates[k]])
    if not 0 < at < len(rates) - 1:
        return rates[at]
    near = rates[at - 1 : at + 2]
    if not all(math.isfinite(losses[rate]) for rate in near):
        return rates[at]
    curve = numpy.polyfit([math.log2(rate) for rate in near], [losses[rate] for rate in near], 2)
    return 2.0 ** (-curve[1] / (2 * curve[0]))
