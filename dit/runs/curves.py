"""The curves of runs as charts that a page draws: panels, axes with round ticks, and lines of few points."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy

from dit.runs.history import AXES, History, Series
from vae.training.log import thinned

WIDTH, HEIGHT = 460, 230  # of a chart, in its own units
LEFT, RIGHT, TOP, BOTTOM = 52, 452, 10, 204  # of the area that curves are drawn in
POINTS = 400  # of a line
FAINT_POINTS = 800  # of one that is drawn behind another
STRETCHES = 120  # of a noisy figure's rows, whose medians are drawn before it
LOGARITHMIC = 30.0  # a figure that grows so many times is drawn by its logarithm
HIDDEN = {"time", "seconds_left"}  # figures that say nothing as a curve


@dataclass(frozen=True)
class Panel:
    """What a chart shows: a figure, what is drawn faint behind it and what is drawn dashed, and their unit.

    `scale` multiplies the figures; `from_zero` has the axis begin at 0. Of a `noisy` one medians are drawn.
    """

    title: str
    key: str
    unit: str = ""
    behind: str = ""
    dashed: str = ""
    scale: float = 1.0
    from_zero: bool = False
    noisy: bool = False


PANELS = (
    Panel("Loss, smoothed", "smoothed", behind="loss"),
    Panel("Validation loss of the average", "validation", dashed="validation_weights"),
    Panel("Gradient norm", "gradient_norm", noisy=True),
    Panel("Learning rate", "learning_rate", from_zero=True),
    Panel("Tokens a second", "tokens_per_second", from_zero=True, noisy=True),
    Panel("Samples a second", "samples_per_second", from_zero=True, noisy=True),
    Panel("Model FLOP/s, all processes", "model_flops", from_zero=True, noisy=True),
    Panel("MFU", "mfu", "%", scale=100.0, from_zero=True, noisy=True),
    Panel("Time waited for data", "waited", "%", scale=100.0, from_zero=True, noisy=True),
    Panel("Goodput since the start", "goodput", "%", scale=100.0, from_zero=True),
    Panel("Peak memory", "peak_memory", "GiB", scale=1 / 1024, from_zero=True),
)
BIN = "validation_t"  # keys of the validation by time bin begin so


@dataclass(frozen=True)
class Line:
    """A run's line in a chart: which run's, how it is drawn (solid, faint or dashed), and its points."""

    run: int
    style: str
    points: str


@dataclass(frozen=True)
class Chart:
    """A panel over an axis: lines and ticks at places of the drawing, and what its edges stand for."""

    title: str
    axis: str
    unit: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    edges: tuple[float, float, float, float]
    logarithmic: bool
    dashed: bool
    marks: list[tuple[int, float]] = field(default_factory=list)


def panels_of(histories: Sequence[History]) -> list[Panel]:
    """The panels of what the runs' logs have: those that are known, time bins, and any other figure."""
    keys = list(dict.fromkeys(key for history in histories for key in history.series))
    bins = sorted(key for key in keys if key.startswith(BIN))
    of_bins = [
        Panel(f"Validation at t = {key.removeprefix(BIN)}", key, dashed=f"validation_weights_t{key[12:]}")
        for key in bins
    ]
    panels = [*PANELS[:2], *of_bins, *PANELS[2:]]
    shown = {name for panel in panels for name in (panel.key, panel.behind, panel.dashed)}
    panels += [Panel(key.replace("_", " "), key) for key in keys if key not in shown | HIDDEN]
    return [panel for panel in panels if panel.key in keys]


def axes_of(histories: Sequence[History]) -> list[str]:
    """The axes on which at least one run lies."""
    return [
        axis for axis in AXES if any(history.at(axis, [history.step]) is not None for history in histories)
    ]


def chart(panel: Panel, axis: str, histories: Sequence[History]) -> Chart | None:
    """A panel's lines of all runs that have the figure and lie on the axis; None where none does."""
    drawn, heights = [], []
    for number, history in enumerate(histories):
        behind = panel.key if panel.noisy else panel.behind
        for style, key in (("faint", behind), ("solid", panel.key), ("dashed", panel.dashed)):
            series = history.series.get(key)
            places = None if series is None else history.at(axis, series.steps)
            if places is None:
                continue
            values = panel.scale * series.values
            if panel.noisy and style == "solid":
                places, values = _medians(places, values)
            heights.append((style, values))
            most = FAINT_POINTS if style == "faint" else POINTS
            drawn.append((number, style, *thinned(places, values, most)))
    if not drawn:
        return None
    ends = [history.at(axis, [history.first, history.step]) for history in histories]
    left, right = _range([end for end in ends if end is not None])
    low, high, logarithmic = _heights(heights, panel.from_zero)
    lines = []
    for number, style, x, y in drawn:
        y = numpy.maximum(y, low) if logarithmic else y
        lines.append(Line(number, style, _points(_across(x, left, right), _up(y, low, high, logarithmic))))
    x_ticks = [(float(_across(tick, left, right)), short(tick)) for tick in ticks(left, right, 5)]
    marked = log_ticks(low, high) if logarithmic else ticks(low, high, 4)
    y_ticks = [(float(_up(tick, low, high, logarithmic)), short(tick)) for tick in marked]
    marks = [
        (number, round(float(_across(place, left, right)), 1))
        for number, history in enumerate(histories)
        for place in _places(history, axis)
    ]
    return Chart(
        title=panel.title,
        axis=axis,
        unit=panel.unit,
        lines=sorted(lines, key=lambda line: line.style != "faint"),
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        edges=(left, right, low, high),
        logarithmic=logarithmic,
        dashed=any(line.style == "dashed" for line in lines),
        marks=marks,
    )


def _medians(places: numpy.ndarray, values: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The medians of a noisy figure's stretches, and those of where they lie; all of it where it is short."""
    if len(values) <= 2 * STRETCHES:
        return places, values
    parts = [numpy.array_split(each, STRETCHES) for each in (places, values)]
    return numpy.array([numpy.median(p) for p in parts[0]]), numpy.array([numpy.median(p) for p in parts[1]])


def _places(history: History, axis: str) -> Iterable[float]:
    """Where on an axis something happened to a run: it was started again, or a step was wrong."""
    steps = [row["step"] for row in history.events] + [start["step"] for start in history.starts[1:]]
    places = history.at(axis, sorted(set(steps))) if steps else None
    return () if places is None else places.tolist()


def _range(parts: list[numpy.ndarray]) -> tuple[float, float]:
    """From the least to the largest of numbers; never an empty range."""
    low, high = min(float(part.min()) for part in parts), max(float(part.max()) for part in parts)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _heights(parts: list[tuple[str, numpy.ndarray]], from_zero: bool) -> tuple[float, float, bool]:
    """The ends of the upright axis, and whether it is logarithmic: one spike squeezes no curve.

    Of lines in front it shows all but the most extreme hundredth, of those behind all but a twentieth.
    """
    ends = []
    for style, values in parts:
        cut = 5 if style == "faint" else 1
        ends.append(numpy.percentile(values, [cut, 100 - cut]) if len(values) >= 50 else _range([values]))
    low, high = float(min(end[0] for end in ends)), float(max(end[1] for end in ends))
    if from_zero:
        return 0.0, max(1.05 * high, 1e-12), False
    if low > 0 and high / low > LOGARITHMIC:
        room = (high / low) ** 0.04
        return low / room, high * room, True
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return low - room, high + room, False


def _across(x, left: float, right: float):
    """The place of values between two edges of a chart, from its left."""
    return LEFT + (numpy.asarray(x) - left) / (right - left) * (RIGHT - LEFT)


def _up(y, low: float, high: float, logarithmic: bool):
    """The place of values between a chart's foot and its top, from above."""
    if logarithmic:
        y, low, high = numpy.log(y), math.log(low), math.log(high)
    return BOTTOM - (numpy.asarray(y) - low) / (high - low) * (BOTTOM - TOP)


def _points(x: numpy.ndarray, y: numpy.ndarray) -> str:
    """A line's points as SVG has them; what lies far outside stays near enough for a browser's numbers."""
    y = numpy.clip(y, -10 * HEIGHT, 11 * HEIGHT)
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers within a range, about so many, a step of 1, 2 or 5 times a power of ten apart."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within a range, with 2 and 5 times them where there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if math.log10(high / low) < 2.5 else (1,)
    found = [k * 10.0**power for power in powers for k in factors if low <= k * 10.0**power <= high]
    return found[:: max(1, len(found) // 6)]


def short(value: float) -> str:
    """A number in few characters, such as 1.5k, 20M or 3e-05."""
    for prefix, scale in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= scale:
            return f"{value / scale:.4g}{prefix}"
    return f"{value:.3g}" if value else "0"


def figure_at(series: Series, step: float) -> float | None:
    """The value of a figure in the row of a step; None where there is none."""
    found = numpy.flatnonzero(series.steps == step)
    return float(series.values[found[-1]]) if len(found) else None
