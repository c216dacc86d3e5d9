"""The picture of `dit scaling`: losses in compute with the law's envelope, and by rate at every width."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy

from dit.runs.law import Law, optimal_split
from dit.runs.scaled import Scaled, best_rate, transfers
from vae.training.files import write_whole


@dataclass(frozen=True)
class Picture:
    """What is drawn: all finished runs, those that the law is fitted to, the law, and what is forecast."""

    runs: Sequence[Scaled]
    points: Sequence[Scaled]
    law: Law
    growth: tuple[float, float] | None
    forecast: dict | None
    level: float


def draw(picture: Picture, file: Path) -> None:
    """Draws a picture into a PNG file."""
    from matplotlib.figure import Figure

    tables = list(transfers(picture.runs))
    figure = Figure(figsize=(6.4 + 4.4 * len(tables), 4.4), layout="constrained")
    axes = figure.subplots(1, 1 + len(tables), squeeze=False)[0]
    _draw_law(axes[0], picture)
    for place, (words, table) in zip(axes[1:], tables, strict=True):
        _draw_transfer(place, words, table)
    low = min(place.get_ylim()[0] for place in axes[1:]) if tables else 0
    high = max(place.get_ylim()[1] for place in axes[1:]) if tables else 0
    for place in axes[1:]:
        place.set_ylim(low, high)
    write_whole(file, lambda temporary: figure.savefig(temporary, dpi=120, format="png"))


def _cost(picture: Picture, parameters, samples):
    """Where sizes and samples lie across: FLOPs, or parameters times samples where no log says FLOPs."""
    k, m = picture.growth or (1.0, 1.0)
    return k * numpy.asarray(parameters, float) ** m * numpy.asarray(samples, float)


def _draw_law(axes, picture: Picture) -> None:
    """Validations in compute, a colour for each size; the law at what it is of; the forecast."""
    from matplotlib import colormaps

    sizes = sorted({run.parameters for run in picture.points})
    colours = dict(zip(sizes, colormaps["viridis"](numpy.linspace(0.05, 0.85, len(sizes))), strict=True))
    for run in sorted(picture.points, key=lambda run: run.parameters):
        costs = _cost(picture, run.parameters, run.samples * run.shares)
        axes.plot(costs, run.losses, "-", lw=0.8, alpha=0.5, color=colours[run.parameters])
        axes.plot(costs[-1], run.loss, "o", ms=5, color=colours[run.parameters])
    for size in sizes:
        axes.plot([], [], "o", color=colours[size], label=f"{_words(size)} parameters")
    ends = [_cost(picture, run.parameters, run.samples) for run in picture.points]
    most = max(ends)
    if picture.forecast:
        said = picture.forecast
        at = _cost(picture, said["parameters"], said["samples"])
        most = max(most, at)
        error = [[said["validation"] - said["low"]], [said["high"] - said["validation"]]]
        label = f"forecast of {said['name']}, {said['level']:.0%}"
        axes.errorbar(
            [at], [said["validation"]], error, fmt="D", ms=5, capsize=4, color="crimson", label=label
        )
    across = numpy.geomspace(min(ends) / 1.2, most * 1.5, 200)
    _draw_envelope(axes, picture, across)
    axes.set(xscale="log", yscale="log", title=f"Validation loss: {picture.law}", ylabel="validation loss")
    axes.set_xlabel("FLOPs" if picture.growth else "parameters x samples (the logs have no FLOPs)")
    seen = [run.loss for run in picture.points]
    low = min(seen + ([picture.forecast["low"]] if picture.forecast else []))
    axes.set_ylim(low * 0.93, max(seen) * 1.15)
    _plain(axes.yaxis)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=7)


def _draw_envelope(axes, picture: Picture, across: numpy.ndarray) -> None:
    """The law's losses across compute, of the best split where it has one, with their interval."""
    law, (k, m), first = picture.law, picture.growth or (1.0, 1.0), picture.points[0]
    if law.terms == ("N", "D"):
        sizes, samples = optimal_split(law, (k, m), across)
        at, label = {"N": sizes, "D": samples}, "the law, compute spent best"
    elif law.terms == ("N",):
        at, label = {"N": (across / first.samples / k) ** (1 / m)}, "the law, at the runs' samples"
    elif law.terms == ("D",):
        at, label = {"D": across / (k * first.parameters**m)}, "the law, at the runs' size"
    else:
        at, label = {"C": across}, "the law"
    drawn = law.losses(at, drawn=True)
    low, high = numpy.quantile(drawn, [(1 - picture.level) / 2, (1 + picture.level) / 2], axis=0)
    axes.fill_between(across, low, high, color="black", alpha=0.1, lw=0)
    axes.plot(across, law.losses(at), "k--", lw=1.2, label=label)


def _draw_transfer(axes, words: str, table: dict[int, dict[float, float]]) -> None:
    """Loss by rate, a line for each width, and where each is best."""
    from matplotlib import colormaps

    for colour, (width, losses) in zip(
        colormaps["viridis"](numpy.linspace(0.05, 0.85, len(table))), table.items(), strict=True
    ):
        rates = sorted(losses)
        axes.plot(rates, [losses[rate] for rate in rates], ".-", lw=1, color=colour, label=f"width {width}")
        axes.axvline(best_rate(losses), color=colour, ls=":", lw=1)
    best = [best_rate(losses) for losses in table.values()]
    title = f"Best rates, {words}: {max(best) / min(best):.2f} apart"
    axes.set(xscale="log", yscale="log", title=title, xlabel="learning rate", ylabel="validation loss")
    rates = sorted({rate for losses in table.values() for rate in losses})
    axes.set_xticks(rates[:: 1 + len(rates) // 8], [f"{rate:.2g}" for rate in rates[:: 1 + len(rates) // 8]])
    axes.set_xticks([], minor=True)
    _plain(axes.yaxis)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=7)


def _plain(axis) -> None:
    """Has an axis of logarithms say losses as one writes them."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

    axis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _words(count: float) -> str:
    """A count of parameters in few characters."""
    return f"{count / 1e6:.3g}M" if count >= 1e6 else f"{count / 1e3:.0f}k"
