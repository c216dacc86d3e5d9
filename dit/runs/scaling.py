"""`dit scaling RUN…`: a law of scaling from the logs of runs, a forecast of the next, and how true it was."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy
from typing_extensions import TypedDict

from configs.load import Positional, load_run, parse, words_of
from configs.ranges import CountOrZero, NonNegative, Positive
from configs.train import TransformerRun
from dit import __version__
from dit.runs.curves import short
from dit.runs.history import read_histories
from dit.runs.law import Law, count, fit, optimal_split, split_exponent
from dit.runs.scaled import (
    Scaled,
    best_of_each,
    best_rate,
    check_alike,
    fixed_facts,
    growth_of_flops,
    hash_of,
    parameters_of,
    runs_of,
    transfers,
)
from dit.runs.scaling_picture import Picture, draw
from vae.training.files import check_replaceable, check_writable, read_json, write_json

LEVELS = 0.5, 0.99  # of intervals, that can be asked for
TOGETHER = 0.95  # correlation of parameters and samples above which they cannot be told apart
APART = 3  # different values that a variable of a law of its own needs
SAME = 0.005  # share by which a finished run may miss what was forecast for: a step more or less
VARIABLES = {"N": "parameters", "D": "samples", "C": "FLOPs"}
FEW = "too few runs to fit a floor: the law has none, and will promise too much far from the runs"


@dataclass(frozen=True)
class ScalingSettings:
    """A law of scaling from runs' logs, a forecast of the next made before it runs, and how true it was."""

    runs: Positional[tuple[str, ...]] = ()
    """Folders of finished runs on the same data, which differ in size, length and rates alone."""
    next: str = ""
    """Config of the run to forecast, such as ladder_30m: its size, and its samples if those are not given."""
    parameters: NonNegative = 0.0
    """Parameters of the transformer to forecast, in place of `next`."""
    samples: NonNegative = 0.0
    """Samples that the run to forecast will see; 0: those of `next`, or of the runs, if all saw as many."""
    keep: str = ""
    """JSON file in which the forecast is kept with its date and the runs' hashes; never overwritten."""
    against: str = ""
    """File of a kept forecast, with which the one run that is given, now finished, is compared."""
    out: str = "scaling.png"
    """PNG file for the picture of loss in compute and of width transfer; one that is there is drawn anew."""
    level: Positive = 0.9
    """Level of all intervals, from 0.5 to 0.99."""
    redraws: CountOrZero = 500
    """Times that losses are drawn anew from the law and fitted again, for the intervals; at least 100."""


class Forecast(TypedDict):
    """What is kept of a run that is to be made."""

    name: str
    parameters: float
    samples: float
    flops: float | None
    validation: float
    low: float
    high: float
    level: float


class KeptForecast(TypedDict):
    """The parts of a kept forecast that are read again."""

    made: str
    fixed: dict
    forecast: Forecast


def scaling(settings: ScalingSettings) -> None:
    """Fits and draws, or compares a run with a kept forecast; raises ValueError where runs say too little."""
    if settings.against:
        print(compared(settings))
        return
    _check(settings)
    runs = runs_of(read_histories(settings.runs))
    for run in (run for run in runs if not run.finished):
        print(f"left out: {run.name} has no validation after its last step, {run.config.train.steps:,}")
    finished = [run for run in runs if run.finished]
    points = best_of_each(finished)
    print(_table(points))
    if len(points) < len(finished):
        print(f"{len(finished)} runs: of those of one size and as many samples the best is taken")
    law, notes = law_of(points, settings.redraws)
    growth = growth_of_flops(points)
    for line in (*notes, *_law_in_words(law, points, growth, settings.level)):
        print(line)
    forecast = forecast_of(settings, law, points, growth) if _asked(settings) else None
    if forecast:
        print(_forecast_in_words(forecast, points))
    for line in _transfer_in_words(finished):
        print(line)
    draw(Picture(finished, points, law, growth, forecast, settings.level), Path(settings.out))
    if settings.keep:
        write_json(Path(settings.keep), _kept(settings, law, points, forecast, notes), new=True)
        print(
            f"kept: {settings.keep} (dit scaling RUN --against {shlex.quote(settings.keep)} once it has run)"
        )
    print(settings.out)


def _asked(settings: ScalingSettings) -> bool:
    """Whether a run is to be forecast."""
    return bool(settings.next or settings.parameters)


def _check(settings: ScalingSettings) -> None:
    """Raises ValueError for settings that ask for two things, or too little, before anything is fitted."""
    if not LEVELS[0] <= settings.level <= LEVELS[1]:
        raise ValueError(f"level = {settings.level:g}: it must be from {LEVELS[0]:g} to {LEVELS[1]:g}")
    if settings.redraws < 100:
        raise ValueError(f"redraws = {settings.redraws}: an interval takes at least 100")
    if settings.next and settings.parameters:
        raise ValueError("next and parameters both say which size to forecast: give one of them")
    if (settings.keep or settings.samples) and not _asked(settings):
        raise ValueError("which run is to be forecast? give --next CONFIG, or --parameters COUNT")
    if settings.keep:
        if Path(settings.keep).exists():
            raise ValueError(f"{settings.keep} is there, and a forecast is not made twice: give another name")
        check_writable(Path(settings.keep))
    check_replaceable(Path(settings.out), ".png")
    check_writable(Path(settings.out))


def law_of(points: Sequence[Scaled], redraws: int) -> tuple[Law, list[str]]:
    """The law with as many terms as the runs can tell apart, and in words what it leaves out.

    Raises ValueError for fewer than three different runs, and where compute is asked of logs without FLOPs.
    """
    sizes, samples = (numpy.log([getattr(p, name) for p in points]) for name in ("parameters", "samples"))
    counts = [len({round(value, 2) for value in values}) for values in (sizes, samples)]
    need, notes = f"a law needs 3 finished runs of different size or length; there are {len(points)}", []
    if len(points) < 3 or max(counts) < APART:
        same = " of different size, or of different length" if len(points) >= 3 else ""
        raise ValueError(need if not same else f"a law needs {APART} runs{same}; there are {max(counts)}")
    terms = ("N",) if counts[1] == 1 else ("D",) if counts[0] == 1 else ("N", "D")
    together = 1.0 if min(counts) == 1 else abs(float(numpy.corrcoef(sizes, samples)[0, 1]))
    if len(terms) == 1:
        fixed = "samples" if terms == ("N",) else "parameters"
        notes.append(f"all runs have the same {fixed}: a law of {VARIABLES[terms[0]]} alone")
    elif together > TOGETHER:
        terms = ("C",)
        notes.append(
            f"parameters and samples grow together (correlation {together:.2f}): no fit can tell them apart, "
            f"so that this is a law of compute, along that line alone"
        )
    elif min(counts) < APART or len(points) < count(terms, False) + 1:
        terms = ("C",)
        notes.append(
            f"{len(points)} runs of {counts[0]} sizes and {counts[1]} lengths cannot tell parameters from "
            f"samples (that takes {APART} of each and 6 runs): a law of compute alone, which is rough"
        )
    floor = len(points) > count(terms, True)
    notes += [] if floor else [FEW]
    return fit(terms, floor, _variables(points, terms), [p.loss for p in points], redraws), notes


def _variables(points: Sequence[Scaled], terms: Sequence[str]) -> dict[str, numpy.ndarray]:
    """What a law's terms are of, of every run; raises ValueError where a log has no FLOPs."""
    if "C" in terms and (without := [p.name for p in points if not p.flops]):
        raise ValueError(f"the log of {without[0]} says no FLOPs, which a law of compute needs")
    every = {"N": "parameters", "D": "samples", "C": "flops"}
    return {term: numpy.array([getattr(p, every[term]) for p in points], float) for term in terms}


def forecast_of(
    settings: ScalingSettings, law: Law, points: Sequence[Scaled], growth: tuple[float, float] | None
) -> Forecast:
    """What a law says of the run that is asked for; raises ValueError where the law says nothing of it."""
    parameters, samples, seen = settings.parameters, settings.samples, {round(p.samples) for p in points}
    if settings.next:
        config = load_run(TransformerRun, settings.next)
        parameters = parameters_of(config.model)
        loop = config.train
        a_sample = None
        if loop.tokens and not samples:
            a_sample = [p.history.total("tokens") / p.samples for p in points if p.history.total("tokens")]
            if not a_sample:
                raise ValueError("no log says how many tokens a sample has: give --samples")
        samples = samples or loop.steps * (loop.tokens / numpy.mean(a_sample) if a_sample else loop.batch)
    if not samples and len(seen) > 1:
        raise ValueError("how many samples will the run see? give --samples")
    samples = samples or points[0].samples
    for term, value in (("N", samples), ("D", parameters)):
        other = "D" if term == "N" else "N"
        of_runs = points[0].samples if other == "D" else points[0].parameters
        if law.terms == (term,) and abs(value / of_runs - 1) > SAME:
            raise ValueError(
                f"all runs have {short(of_runs)} {VARIABLES[other]}: their law says nothing of {short(value)}"
            )
    flops = growth[0] * parameters ** growth[1] * samples if growth else None
    at = {"N": parameters, "D": samples, "C": flops}
    if law.terms == ("C",) and (gone := _off_the_line(points, parameters, samples)):
        print(f"note: the runs' line has {short(gone)} samples at this size: the law is of that line")
    loss, low, high = law.forecast({term: at[term] for term in law.terms}, settings.level)
    name = settings.next or f"{short(parameters)} parameters"
    return Forecast(
        name=name,
        parameters=float(parameters),
        samples=float(samples),
        flops=flops,
        validation=loss,
        low=low,
        high=high,
        level=settings.level,
    )


def _off_the_line(points: Sequence[Scaled], parameters: float, samples: float) -> float:
    """The samples at a size of runs that grow together, where a run is to see 1.5 times others; else 0."""
    logs = [numpy.log([getattr(p, name) for p in points]) for name in ("parameters", "samples")]
    line = float(numpy.exp(numpy.polyval(numpy.polyfit(*logs, 1), numpy.log(parameters))))
    return line if max(line / samples, samples / line) > 1.5 else 0.0


def _kept(
    settings: ScalingSettings, law: Law, points: Sequence[Scaled], forecast: Forecast, notes: list[str]
) -> dict:
    """All that a forecast was made from."""
    runs = [
        {
            "folder": str(p.history.folder),
            "hash": hash_of(p.history),
            **{name: getattr(p, name) for name in ("parameters", "samples", "flops")},
            "validation": p.loss,
        }
        for p in points
    ]
    constants = {
        name: {"value": value, "low": low, "high": high}
        for name, (value, low, high) in law.constants(settings.level).items()
    }
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "command": shlex.join(["dit", "scaling", *words_of(settings)]),
        "law": {"form": str(law), "constants": constants, "scatter": law.scatter, "notes": notes},
        "forecast": forecast,
        "fixed": fixed_facts(points[0]),
        "runs": runs,
    }


def compared(settings: ScalingSettings) -> str:
    """In words how far a finished run is from its forecast; raises ValueError for a run of another kind."""
    kept = read_json(Path(settings.against), KeptForecast)
    said = kept["forecast"]
    if len(settings.runs) != 1:
        raise ValueError("--against compares one finished run with a forecast: give its folder alone")
    run = runs_of(read_histories(settings.runs))[0]
    if not run.finished:
        raise ValueError(f"{run.name} has no validation after its last step yet: let it end")
    check_alike(f"the forecast's {said['name']}", kept["fixed"], run.name, fixed_facts(run))
    for name in ("parameters", "samples"):
        if abs(getattr(run, name) / said[name] - 1) > SAME:
            raise ValueError(
                f"{run.name} has {short(getattr(run, name))} {name}; the forecast is of {short(said[name])}"
            )
    began = run.history.starts[0]["time"] if run.history.starts else None
    if began is None:
        when = f"made {kept['made']}; when the run began is unknown"
    elif datetime.fromisoformat(began) < datetime.fromisoformat(kept["made"]):
        when = f"made {kept['made']}, AFTER the run began at {began}: it is no forecast"
    else:
        when = f"made {kept['made']}, before the run began at {began}"
    off, inside = run.loss / said["validation"] - 1, said["low"] <= run.loss <= said["high"]
    return (
        f"{run.name}: validation loss {run.loss:.4f}; the forecast was {said['validation']:.4f}, from "
        f"{said['low']:.4f} to {said['high']:.4f} ({said['level']:.0%}): {off:+.1%} off, "
        f"{'inside' if inside else 'OUTSIDE'} the interval\n{when}"
    )


def _table(points: Sequence[Scaled]) -> str:
    """The runs that a law is fitted to."""
    rows = [("run", "parameters", "samples", "FLOPs", "rate", "validation")]
    for p in sorted(points, key=lambda p: (p.parameters, p.samples)):
        flops = short(p.flops) if p.flops else "unknown"
        rate = f"{p.config.optimizer.learning_rate:.3g}"
        rows.append((p.name, short(p.parameters), short(p.samples), flops, rate, f"{p.loss:.4f}"))
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)


def _law_in_words(
    law: Law, points: Sequence[Scaled], growth: tuple[float, float] | None, level: float
) -> list[str]:
    """A law, its constants, and the split of compute that it holds for the best."""
    of = ", ".join(f"{term} {VARIABLES[term]}" for term in law.terms)
    lines = [f"{law}  ({of}; {len(points)} runs scatter by {law.scatter:.2%} around it)"]
    for name, (value, low, high) in law.constants(level).items():
        lines.append(f"  {name} = {value:.4g}, from {low:.4g} to {high:.4g} ({level:.0%})")
    if law.terms != ("N", "D") or growth is None:
        return lines
    power, low, high = split_exponent(law, growth, level)
    lines.append(
        f"  best parameters grow as C^{power:.2f}, from {low:.2f} to {high:.2f}; samples by the rest"
    )
    most = max(p.flops for p in points)
    for times in (1, 10):
        parameters, samples = optimal_split(law, growth, numpy.array([times * most]))
        lines.append(
            f"  {short(times * most)} FLOPs{f', {times} times the largest run' if times > 1 else ''}: best "
            f"spent on {short(float(parameters[0]))} parameters and {short(float(samples[0]))} samples"
        )
    return lines


def _forecast_in_words(said: Forecast, points: Sequence[Scaled]) -> str:
    """A forecast, and how far it is from what was seen."""
    flops = f", {short(said['flops'])} FLOPs" if said["flops"] else ""
    size, long = (said[name] / max(getattr(p, name) for p in points) for name in ("parameters", "samples"))
    return (
        f"forecast of {said['name']} ({short(said['parameters'])} parameters, {short(said['samples'])} "
        f"samples{flops}): {said['validation']:.4f}, from {said['low']:.4f} to {said['high']:.4f} "
        f"({said['level']:.0%}); {size:.3g} times the largest run's parameters, {long:.3g} times its samples"
    )


def _transfer_in_words(runs: Sequence[Scaled]) -> list[str]:
    """The best rate of every width, and how far they are apart."""
    lines = []
    for words, table in transfers(runs):
        best = {width: best_rate(losses) for width, losses in table.items()}
        rates = ", ".join(f"{width}: {rate:.4g}" for width, rate in best.items())
        lines.append(
            f"best rate by width, {words}: {rates} (apart {max(best.values()) / min(best.values()):.2f})"
        )
    return lines


def main(arguments: list[str]) -> None:
    """The verb `dit scaling`."""
    scaling(parse(ScalingSettings, arguments, prog="dit scaling"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("scaling")
