"""Thresholds of rules over the histograms of what they are of, with clips on both sides of each."""

from pathlib import Path

import numpy

from vae.curation.rules import Rule
from vae.data.manifest import Manifest
from vae.data.video import UnreadableVideo, read_frames
from vae.training.files import write_whole

SIDE = 4  # clips on each side of a threshold
BINS = 60


def draw_thresholds(manifest: Manifest, rules: list[Rule], file: Path) -> None:
    """Draws a row for each number that a rule compares: its histogram, and the clips nearest to the
    threshold.

    Clips that fulfil the condition are framed red, those beyond it green; their numbers stand above them.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = []
    for rule in rules:
        for condition in rule.conditions:
            rows += [(rule, condition.column, s, b) for s, b in condition.any_of if not isinstance(b, str)]
    figure = Figure(figsize=(4 + 3.2 * SIDE, 1.6 * len(rows)))
    figure.subplots_adjust(0.03, 0.3 / len(rows), 0.995, 1 - 0.35 / len(rows), wspace=0.08, hspace=0.55)
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), 1 + 2 * SIDE, squeeze=False, width_ratios=[3] + [1] * 2 * SIDE)
    for axes, (rule, column, sign, bound) in zip(grid, rows, strict=True):
        values = numpy.array([numpy.nan if v is None else float(v) for v in manifest.values(column)])
        _histogram(axes[0], values[numpy.isfinite(values)], bound)
        axes[0].set_title(f"{rule.name}: {column} {sign} {bound:g}", fontsize=8, loc="left")
        below = [k for k in numpy.argsort(-values, kind="stable") if values[k] < bound][:SIDE][::-1]
        above = [k for k in numpy.argsort(values, kind="stable") if values[k] >= bound][:SIDE]
        empty = [None] * SIDE
        shown = (empty + below)[-SIDE:] + (above + empty)[:SIDE]
        for axis, place in zip(axes[1:], shown, strict=True):
            axis.set_xticks([])
            axis.set_yticks([])
            if place is None:
                axis.axis("off")
                continue
            axis.imshow(_middle(manifest[int(place)]))
            low = values[place] < bound
            colour = "tab:red" if low == sign.startswith("<") else "tab:green"
            for spine in axis.spines.values():
                spine.set(color=colour, linewidth=2)
            axis.set_title(f"{values[place]:.3g}", fontsize=7, pad=2)
    write_whole(file, lambda temporary: figure.savefig(temporary, format="png", dpi=80))


def _histogram(axis, values, bound: float) -> None:
    """How often each value is there, with the threshold; where they spread over decades, their logarithms."""
    decades = len(values) and values.min() >= 0 and values.max() > 50 * max(numpy.median(values), 1e-9)
    if decades:
        axis.set_xscale("symlog", linthresh=max(bound / 10, 1e-6))
        edges = numpy.concatenate([[0], numpy.geomspace(max(bound / 10, 1e-6), values.max() + 1e-9, BINS)])
    else:
        edges = BINS
    axis.hist(values, edges, color="0.6")
    axis.set_yscale("log", nonpositive="clip")
    axis.axvline(bound, color="tab:red", linewidth=1)
    axis.tick_params(labelsize=6)


def _middle(entry):
    """The middle frame of a row, or a grey one where it cannot be read."""
    try:
        return read_frames(entry.path, [entry.frames // 2], entry)[0].numpy()
    except UnreadableVideo:
        return numpy.full((9, 16, 3), 128, numpy.uint8)
