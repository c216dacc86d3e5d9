"""A run's folder as it is read afterwards: settings, the curves of its log, starts, events and sheets."""

import json
import math
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy
from numpy import ndarray
from typing_extensions import TypedDict

from vae.training.files import read_json
from vae.training.folder import RunFile, flat
from vae.training.log import is_number, read_log

LOG, STARTS, SPIKE = "log.jsonl", "starts.jsonl", "spike.json"
SHEET = re.compile(r"(samples|reconstructions)-(\d+)\.png")
AXES = {"step": "steps", "tokens": "tokens", "device_hours": "device-hours"}  # what curves are drawn over
HOUR = 3600.0


class SpikeFile(TypedDict):
    """What is read of a wrong step's facts."""

    step: int
    samples: list[str]


@dataclass(frozen=True)
class Series:
    """A figure of the log: the steps whose rows have it, and its values there."""

    steps: ndarray
    values: ndarray

    @property
    def last(self) -> float:
        """Its newest value."""
        return float(self.values[-1])


@dataclass(frozen=True)
class History:
    """What a run's folder says: settings by dotted names, figures by their keys, and what happened when."""

    folder: Path
    name: str
    kind: str
    settings: dict
    facts: dict
    series: dict[str, Series]
    events: list[dict]
    starts: list[dict]
    sheets: dict[int, Path]

    @property
    def step(self) -> int:
        """The last step that the log has a row of."""
        return int(max(series.steps[-1] for series in self.series.values()))

    @property
    def first(self) -> int:
        """The step that the run began after: 0, or that of the checkpoint of another run."""
        return int(self.starts[0]["step"]) if self.starts else 0

    def has(self, key: str) -> bool:
        """Whether any row has this figure."""
        return key in self.series

    def last(self, key: str) -> float | None:
        """The newest value of a figure; None where no row has it."""
        return self.series[key].last if key in self.series else None

    def middle(self, key: str) -> float | None:
        """The median of a figure over all rows; None where no row has it."""
        return float(numpy.median(self.series[key].values)) if key in self.series else None

    def at(self, axis: str, steps: Sequence[float] | ndarray) -> ndarray | None:
        """Where steps lie on an axis of AXES; None where the log cannot tell."""
        places = numpy.asarray(steps, dtype=float)
        if axis == "step":
            return places
        known = {"tokens": self._tokens, "flops": self._flops, "device_hours": self._device_hours}[axis]()
        return None if known is None else numpy.interp(places, known.steps, known.values)

    def total(self, axis: str) -> float | None:
        """All tokens, model FLOPs or device-hours of the run so far; None where the log cannot tell."""
        known = self.at(axis, [self.step])
        return None if known is None else float(known[0])

    def _a_step(self) -> Series | None:
        """The tokens of a step, as they are between two rows: of all samples, or as it is set."""
        settings, rows = self.settings, self.series.get("tokens_per_second")
        if rows is None:
            return None
        if settings.get("train.tokens"):
            return Series(rows.steps, numpy.full(len(rows.steps), float(settings["train.tokens"])))
        samples = self.series.get("samples_per_second")
        if samples is None or not settings.get("train.batch") or len(samples.steps) != len(rows.steps):
            return None
        return Series(
            rows.steps, settings["train.batch"] * rows.values / numpy.maximum(samples.values, 1e-30)
        )

    def _summed(self, a_step: Series) -> Series:
        """A figure of a step summed over the steps; what another run did before counts as in the first."""
        steps = numpy.concatenate([[0], a_step.steps])
        return Series(steps, numpy.concatenate([[0.0], numpy.cumsum(numpy.diff(steps) * a_step.values)]))

    def _tokens(self) -> Series | None:
        """The tokens up to every row."""
        return None if (a_step := self._a_step()) is None else self._summed(a_step)

    def _flops(self) -> Series | None:
        """The model's FLOPs up to every row, by the usual count."""
        a_step, flops = self._a_step(), self.series.get("model_flops")
        if a_step is None or flops is None or len(flops.steps) != len(a_step.steps):
            return None
        rate = numpy.maximum(self.series["tokens_per_second"].values, 1e-30)
        return self._summed(Series(a_step.steps, a_step.values * flops.values / rate))

    def _device_hours(self) -> Series | None:
        """The hours of all processes up to every row: from each start to its last row that the log kept.

        What a kill lost of the log, and what it takes to start, is not known, and not in it.
        """
        rows = self.series.get("time")
        began = [(_seconds(start.get("time")), start.get("processes")) for start in self.starts]
        if rows is None or not began or not all(t and isinstance(p, int) for t, p in began):
            return None
        hours, total = numpy.zeros(len(rows.steps)), 0.0
        for number, (time, processes) in enumerate(began):
            until = began[number + 1][0] if number + 1 < len(began) else math.inf
            inside = (rows.values >= time) & (rows.values < until)
            spent = total + numpy.maximum.accumulate(rows.values[inside] - time) * processes / HOUR
            total = float(spent[-1]) if len(spent) else total
            hours[inside] = spent
        return Series(numpy.concatenate([[self.first], rows.steps]), numpy.concatenate([[0.0], hours]))


def read_history(folder: str | Path, name: str = "") -> History:
    """The history of a run's folder; raises ValueError where it is none, or its log has no row yet."""
    place = Path(folder)
    if not place.is_dir():
        raise ValueError(f"{place}: no such folder of a run")
    if not (place / "run.json").is_file():
        raise ValueError(f"{place} is no folder of a run: it has no run.json")
    saved = read_json(place / "run.json", RunFile)
    series, events = _read_rows(place / LOG)
    if not series:
        raise ValueError(f"{place} has no row in its {LOG} yet: no step of it has ended")
    return History(
        folder=place,
        name=name or place.resolve().name,
        kind=saved["kind"],
        settings=flat(saved["settings"]),
        facts=saved["facts"],
        series=series,
        events=sorted(events + _stops(place, {row["step"] for row in events}), key=lambda row: row["step"]),
        starts=list(_read_starts(place / STARTS)),
        sheets=_sheets(place),
    )


def read_histories(folders: Sequence[str]) -> list[History]:
    """The histories of several runs, each by a name of its own; raises ValueError for none, or one twice."""
    if not folders:
        raise ValueError("which runs? give the folders of one or more")
    places = [Path(folder).resolve() for folder in folders]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise ValueError(f"{folders[number]} is given twice")
    return [read_history(*pair) for pair in zip(folders, _names(places), strict=True)]


def _names(places: list[Path]) -> list[str]:
    """The last parts of every path, as many as it takes for all to be different."""
    for count in range(1, max(len(place.parts) for place in places) + 1):
        names = ["/".join(place.parts[-count:]) for place in places]
        if len(set(names)) == len(names):
            break
    return names


def _read_rows(file: Path) -> tuple[dict[str, Series], list[dict]]:
    """The figures of a log by their keys, of all rows that have them, and its events."""
    columns: dict[str, tuple[array, array]] = {}
    events = []
    for row in read_log(file):
        if isinstance(row.get("event"), str):
            events.append(row)
            continue
        figures = row | ({"time": _seconds(row["time"])} if "time" in row else {})
        for key, value in figures.items():
            if key != "step" and is_number(value) and value == value:
                steps, values = columns.setdefault(key, (array("d"), array("d")))
                steps.append(row["step"])
                values.append(value)
    series = {key: Series(*map(numpy.asarray, pair)) for key, pair in columns.items()}
    return series, events


def _stops(folder: Path, known: set[int]) -> list[dict]:
    """The wrong steps that a run kept in folders and stopped at, and that its log does not know."""
    rows = []
    for file in sorted(folder.glob(f"spike-*/{SPIKE}")):
        facts = read_json(file, SpikeFile)
        if facts["step"] not in known:
            rows.append({"event": "stopped", **facts})
    return rows


def _read_starts(file: Path) -> Iterator[dict]:
    """The starts of a run, of which every one says its step."""
    yield from read_log(file)


def _seconds(time) -> float | None:
    """Seconds since 1970 of a time in a log; None where it is none."""
    try:
        return datetime.fromisoformat(time).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def _sheets(folder: Path) -> dict[int, Path]:
    """The sheets of pictures that a run made, by step."""
    found = {int(m[2]): file for file in folder.iterdir() if (m := SHEET.fullmatch(file.name))}
    return dict(sorted(found.items()))


def differing(settings: Sequence[dict], left_out: Sequence[str] = ("out",)) -> dict[str, list]:
    """The settings that are not the same in all, by their names: a value of each, None where it has none."""
    names = dict.fromkeys(name for each in settings for name in each if name not in left_out)
    rows = {name: [each.get(name) for each in settings] for name in names}
    return {
        name: values
        for name, values in rows.items()
        if len({json.dumps(v, sort_keys=True) for v in values}) > 1
    }
