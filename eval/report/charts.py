"""What of a score is drawn on its page: bars beside chance, of classes, and the line to many clips."""

import math
from dataclasses import dataclass

from eval.report.parts import Ends, Parts
from eval.scoring import DIGITS


@dataclass(frozen=True)
class Bar:
    """A bar of a chart: its length and an interval's ends, in percent of the widest; `own` is the score."""

    label: str
    text: str
    length: float
    ends: tuple[float, float] | None = None
    own: bool = False
    remark: str = ""


def _in_percent(value: float, most: float) -> float:
    """A value as a length of a bar."""
    return round(100 * min(1.0, max(0.0, value / most)), 2) if most > 0 else 0.0


def _both(ends: Ends | None) -> tuple[float, float] | None:
    """Both ends of an interval, where there is one."""
    return (ends["low"], ends["high"]) if ends and {"low", "high"} <= ends.keys() else None


def in_words(ends: Ends | None, digits: int) -> str:
    """An interval's ends; empty where there is none."""
    both = _both(ends)
    return f"{both[0]:.{digits}f} to {both[1]:.{digits}f}" if both else ""


def beside_chance(score: Parts, digits: int) -> list[Bar]:
    """The score beside what chance gives, the nearer first."""
    panel, ends = score.get("panel"), _both(score.get("interval"))
    if not panel or "value" not in score:
        return []
    rows = {"real clips beside other real clips: chance": panel["floor"]["value"]}
    rows["this score"] = score["value"]
    most = max([*rows.values(), *(ends or ())])
    bars = []
    for label, value in sorted(rows.items(), key=lambda row: row[1]):
        own = label == "this score"
        spread = tuple(_in_percent(end, most) for end in ends) if own and ends else None
        bars.append(Bar(label, f"{value:.{digits}f}", _in_percent(value, most), spread, own))
    return bars


def of_motion(score: Parts, digits: int) -> list[Bar]:
    """Distances of the same few clips: of both sides whole, of content, of motion, of real clips changed."""
    measured = score.get("motion")
    if not measured:
        return []
    named = {"as they are": "whole", "content alone, frozen": "content", "motion alone": "motion"}
    rows = {label: measured["apart"][part]["frechet"] for label, part in named.items()}
    free = {label: f"KVD {measured['apart'][part]['kernel']:.3f}" for label, part in named.items()}
    rows |= {f"real clips beside themselves, {how}": value for how, value in measured["itself"].items()}
    most = max(rows.values())
    return [
        Bar(label, f"{value:.{digits}f}", _in_percent(value, most), None, label in free, free.get(label, ""))
        for label, value in rows.items()
    ]


def of_classes(score: Parts, digits: int) -> list[Bar]:
    """The distance within each class, the farthest first."""
    rows = sorted(score.get("classes", {}).items(), key=lambda item: (-item[1]["value"], item[0]))
    most = max((row["value"] for _, row in rows), default=0.0)
    return [
        Bar(
            f"{kind}, {' and '.join(map(str, row['clips']))} clips",
            f"{row['value']:.{digits}f}",
            _in_percent(row["value"], most),
        )
        for kind, row in rows
    ]


def means_of_classes(measures: list[str], ranked: list[dict]) -> list[Bar]:
    """The mean of the first measure over each folder's videos, from the worst; videos come from the best.

    Without several folders there are none.
    """
    members: dict[str, list[float]] = {}
    for row in ranked:
        if "/" in row["video"]:
            members.setdefault(row["video"].split("/")[0], []).append(row[measures[0]])
    if len(members) < 2:
        return []
    means = sorted((sum(values) / len(values), kind) for kind, values in members.items())
    if ranked[0][measures[0]] < ranked[-1][measures[0]]:  # lower is better
        means.reverse()
    most, digits = max(value for value, _ in means), DIGITS.get(measures[0], 4)
    return [
        Bar(f"{kind}, {len(members[kind])} videos", f"{value:.{digits}f}", _in_percent(value, most))
        for value, kind in means
    ]


def side_by_side(rows: list[tuple[str, float, Ends | None]], digits: int) -> list[Bar]:
    """Scores that compare: label, value and interval of each, in their order."""
    most = max(end for _, value, ends in rows for end in (value, *(_both(ends) or ())))
    return [
        Bar(
            label,
            f"{value:.{digits}f}",
            _in_percent(value, most),
            tuple(_in_percent(end, most) for end in both) if (both := _both(ends)) else None,
            True,
        )
        for label, value, ends in rows
    ]


def to_infinity(score: Parts, digits: int) -> dict | None:
    """The line to infinitely many clips, over 1 / clips: places in a box of 100 by 100, from its top left."""
    found = score.get("infinity")
    sizes, values = (found or {}).get("sizes", []), (found or {}).get("values", [])
    if not sizes or len(sizes) != len(values) or 0 in sizes or not {"value", "slope"} <= found.keys():
        return None
    inverse = [1 / size for size in sizes]
    right = 1.05 * max(inverse)
    ends = [found["value"], found["value"] + found["slope"] * right]
    low, high = min([*values, *ends]), max([*values, *ends])
    if not math.isfinite(2 * (high - low)):  # beyond what a number holds
        return None
    room = 0.1 * (high - low) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        return round(100 * x / right, 2), round(100 * (high + room - y) / (high - low + 2 * room), 2)

    pairs = sorted(zip(inverse, values, sizes, strict=True))
    return {
        "points": [(*place(x, y), f"{y:.{digits}f} of {size} clips") for x, y, size in pairs],
        "ends": [place(0, ends[0]), place(right, ends[1])],
        "value": f"{found['value']:.{digits}f}",
        "most": pairs[0][2],
        "fewest": pairs[-1][2],
    }
