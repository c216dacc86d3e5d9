"""`dit eval compare`: scores of one protocol in a table; those of different ones are never side by side."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Required

from typing_extensions import TypedDict

from configs.load import Positional, from_json, parse
from configs.protocol import differences, load_protocols, protocol_names
from configs.ranges import CountOrZero
from dit.cli import printable
from eval.published import below
from eval.scoring import DIGITS, SIDES, aligned
from vae.training.files import read_json


@dataclass(frozen=True)
class CompareSettings:
    """Scores side by side, a table for each metric.

    Refused are other protocols, weights, real frames, prompts, numbers of clips or stamps; another decoder,
    device or version of a library is said below the table.
    """

    scores: Positional[tuple[str, ...]] = ()
    """JSON files that scoring wrote, or folders of `dit eval run`."""
    published: bool = False
    """Put the literature's values of the same task below a line; none of them compares with a score."""


TRUE = "of the true distance"
GENERATED = "generated"  # clips; the number of real ones stands beside it
MEASURED = {  # columns of a reconstruction, of those that it has; decimals
    "psnr": 2,
    "pooled_psnr": 2,
    "wrapped_psnr": 2,
    "ssim": 4,
    "ssim_uniform": 4,
    "ssim_grey": 4,
    "ssim_grey_uniform": 4,
    "lpips": 4,
    "unit_lpips": 4,
}


MADE = {"": "", "real": "real side, ", "fake": "generated side, "}  # parts of a score; how a note calls them


class Ends(TypedDict, total=False):
    """The ends of an interval, where there are clips enough for one, and what it is one of."""

    low: float
    high: float
    of: str


class ScoredProtocol(TypedDict):
    """What is read of a score's protocol, which as a whole is compared."""

    name: str


class ScoredSide(TypedDict, total=False):
    """What is read of a side."""

    clips: CountOrZero
    rgb_sha256: str
    decoder: str
    made_with: dict[str, str]


class NeededInSeveral(TypedDict):
    """The parts of every score that has a protocol."""

    metric: str
    protocol: ScoredProtocol
    protocol_sha256: str
    stamps: list[str]
    weights: str


class NeededInScore(NeededInSeveral):
    """The parts of every score of one number."""

    value: float


class Score(NeededInScore, total=False):
    """The parts of a score that are read."""

    interval: Ends | None
    true_interval: Ends | None
    real: ScoredSide
    fake: ScoredSide
    prompts_sha256: str
    made_with: dict[str, str]


class Several(NeededInSeveral, total=False):
    """The parts of a score of several numbers that are read."""

    scores: Required[dict[str, float]]
    intervals: Required[dict[str, Ends | None]]
    made_with: dict[str, str]
    real: ScoredSide
    fake: ScoredSide


class Video(TypedDict):
    """What is read of one video's reconstruction."""

    video: str


class NeededInReconstruction(TypedDict):
    """The parts of every score of reconstructions that are read."""

    metric: str
    scores: dict[str, float | None]
    lpips: dict | str | None
    each: list[Video]
    fvd: dict | None
    real: ScoredSide
    made_with: dict[str, str]


class Reconstruction(NeededInReconstruction, total=False):
    """The parts of such a score under a protocol of its own."""

    protocol: ScoredProtocol


def read_scores(name: str) -> dict[str, dict]:
    """The scores of a file, or of a folder of `dit eval run`, by metric; ValueError where there is none."""
    path = Path(name)
    if path.is_dir():
        path /= "scores.json"
    if not path.is_file():
        raise ValueError(
            f"{path}: no such score" + ("; dit eval run writes it" if path != Path(name) else "")
        )
    score = read_json(path)
    if "job" not in score or not isinstance(score.get("scores"), dict):
        return _read_score(path, score)
    if not score["scores"]:
        raise ValueError(f"{path} has no score")
    files = {metric: path.with_name(f"{_known(metric, path)}.json") for metric in score["scores"]}
    return {metric: _read_score(file, read_json(file), metric)[metric] for metric, file in files.items()}


def _known(metric: str, path: Path) -> str:
    """The metric that a file names; raises ValueError where no protocol has it."""
    known = sorted({m for name in protocol_names() for m in load_protocols(name)} - {"reconstruction"})
    if metric not in known:
        raise ValueError(f"{path}: {metric!r} is no metric; there are {', '.join(known)}")
    return metric


def _read_score(path: Path, score: dict, wanted: str = "") -> dict[str, dict]:
    """A file's score by its metric, of a reconstruction with that of its FVD.

    Raises ValueError for another file, or where the score is not of the metric that is wanted.
    """
    if (
        not wanted
        and score.get("metric") == "reconstruction"
        and set(score) >= Reconstruction.__required_keys__
    ):
        score = from_json(Reconstruction, score, path)
        if not score["scores"] or not score["each"]:
            raise ValueError(f"{path} is a score of no video, or has no number")
        if lost := sorted(
            {m for one in score["each"] for m in one if m in MEASURED} - score["scores"].keys()
        ):
            raise ValueError(f"{path} has {lost[0]} of its videos, and no mean of it: it is not whole")
        return {"reconstruction": score} | (_read_score(path, score["fvd"], "fvd") if score["fvd"] else {})
    kind = Several if set(score) >= Several.__required_keys__ else Score
    if not set(score) >= kind.__required_keys__:
        raise ValueError(
            f"{path} is no score of `dit eval` fvd, mmd, clipsim, is, dimensions, reconstruction or run: it "
            "has no metric, value, protocol and weights"
        )
    score = from_json(kind, score, path)
    metric = _known(score["metric"], path)
    _check_parts(score, path)
    if "real" in score["protocol"] and not score.get("real", {}).get("rgb_sha256"):
        raise ValueError(f"{path} does not say which real frames it is of: it has no rgb_sha256 of them")
    if wanted not in ("", metric):
        raise ValueError(f"{path} is a score of {metric}, not of {wanted}")
    return {metric: score}


def _check_parts(score: dict, path: Path) -> None:
    """Raises ValueError where the parts of a score contradict each other."""
    if (of := score["protocol"].get("metric", score["metric"])) != score["metric"]:
        raise ValueError(f"{path} is a score of {score['metric']}, by a protocol of {of}")
    if not score.get("scores", True):
        raise ValueError(f"{path} has no number")
    told = score.get("intervals", {}).keys() | score.get("measures", {}).keys()
    if lost := sorted(told - score["scores"].keys()) if "scores" in score else []:
        raise ValueError(f"{path} tells of {lost[0]}, and scores.{lost[0]} is missing: it is not whole")
    intervals = {name: score.get(name) for name in ("interval", "true_interval")} | score.get("intervals", {})
    for name, ends in intervals.items():
        if ends and {"low", "high"} <= ends.keys() and ends["low"] > ends["high"]:
            raise ValueError(f"{path}: {name} ends at {ends['high']:g}, below its beginning {ends['low']:g}")


def _identity(score: dict) -> list[dict]:
    """What must be equal where scores compare, part after part."""
    if score["metric"] == "reconstruction":
        videos = hashlib.sha256("\n".join(sorted(one["video"] for one in score["each"])).encode()).hexdigest()
        lpips = score["lpips"] if "lpips" in score["scores"] else "left out"
        named = {"videos by name": f"{len(score['each'])} of {videos[:12]}"}
        own = score.get("protocol", {})
        return [own, {"LPIPS": lpips}, named, {"real frames": _frames(score)}]
    counts = {SIDES[side]: score.get(side, {}).get("clips") for side in ("real", "fake")}
    prompts = {"prompts": score["prompts_sha256"][:12]} if "prompts_sha256" in score else {}
    parts = [score["protocol"], {"weights": score["weights"]}, {"real frames": _frames(score)}, prompts]
    return [*parts, counts, {"stamps": "; ".join(score["stamps"])}]


def _frames(score: dict) -> str:
    """The hash of a score's real frames as they were decoded, in short; empty where it has no real side."""
    return score.get("real", {}).get("rgb_sha256", "")[:12]


def made_otherwise(names: list[str], scores: list[dict]) -> list[str]:
    """A line for each score that another decoder, device or version made than the first."""
    lines = []
    for name, score in zip(names[1:], scores[1:], strict=True):
        by_part = {part: differences(*(_made(one, part) for one in (scores[0], score))) for part in MADE}
        other = list(by_part[""])
        for part, prefix in MADE.items():
            other += [f"{prefix}{line}" for line in by_part[part] if line not in by_part[""]]
        if other:
            lines.append(f"note: {names[0]} and {name} were not made alike: {'; '.join(other)}")
    return lines


def _made(score: dict, part: str) -> dict[str, str]:
    """What made a score, or one of its sides."""
    about = score.get(part, {}) if part else score
    return about.get("made_with", {}) | ({"decoder": about["decoder"]} if "decoder" in about else {})


def _clips(score: dict) -> str:
    """How many generated clips a score is of, and how many real ones where it has those."""
    real, fake = (str(score.get(side, {}).get("clips", "")) for side in ("real", "fake"))
    return f"{fake} ({real} real)" if real and fake else fake


def _row(name: str, score: dict) -> tuple[str, ...]:
    """A score in the columns of its metric's table."""
    if score["metric"] == "reconstruction":
        values = [(score["scores"].get(measure), digits) for measure, digits in MEASURED.items()]
        cells = ["" if value is None else f"{value:.{digits}f}" for value, digits in values]
        return name, *cells, str(len(score["each"]))
    digits = DIGITS.get(score["metric"], 4)
    spreads = [
        f"{ends['low']:.{digits}f} to {ends['high']:.{digits}f}"
        if ends and ends.keys() >= {"low", "high"}
        else ""
        for ends in (score.get("interval"), score.get("true_interval"))
    ]
    return name, f"{score['value']:.{digits}f}", *spreads, _clips(score), "; ".join(score["stamps"])


def _several(names: list[str], scores: list[dict]) -> list[tuple[str, ...]]:
    """The head and the rows of scores of several numbers, a column for each that one of them has."""
    columns = list(dict.fromkeys(column for score in scores for column in score["scores"]))
    rows = [("score", *columns, GENERATED, "stamps")]
    for name, score in zip(names, scores, strict=True):
        cells = []
        for column in columns:
            value, ends = score["scores"].get(column), score["intervals"].get(column)
            spread = f" ({ends['low']:.4f} to {ends['high']:.4f})" if ends and "low" in ends else ""
            cells.append("" if value is None else f"{value:.4f}{spread}")
        rows.append((name, *cells, _clips(score), "; ".join(score["stamps"])))
    return rows


def differences_of(one: dict, other: dict) -> list[str]:
    """Why two scores of a metric do not compare, the first reason first; none where they do."""
    parts = zip(_identity(one), _identity(other), strict=True)
    return [difference for pair in parts for difference in differences(*pair)]


def _table(names: list[str], scores: list[dict]) -> list[str]:
    """The lines of one metric's table; ValueError, the first difference first, where they differ."""
    for name, score in zip(names[1:], scores[1:], strict=True):
        if different := differences_of(scores[0], score):
            first, *others = different
            more = f"; and also {'; '.join(others)}" if others else ""
            raise ValueError(f"{names[0]} and {name} do not compare: {first}{more}")
    if scores[0]["metric"] == "reconstruction":
        title = scores[0].get("protocol", {}).get("name", "reconstruction")
        head = ("score", *(m.replace("_", " ") for m in MEASURED), "videos")
    else:
        title = f"{scores[0]['protocol']['name']} ({scores[0]['protocol_sha256'][:12]})"
        ends = (score.get("interval") or {} for score in scores)
        of = next((f" of {found['of']}" for found in ends if "of" in found), "")
        head = ("score", scores[0]["metric"], f"95 % interval{of}", TRUE, GENERATED, "stamps")
    if "intervals" in scores[0]:
        return [title, *aligned(_several(names, scores)), *made_otherwise(names, scores)]
    rows = list(map(_row, names, scores))
    measured = scores[0]["metric"] == "reconstruction"
    filled = [k for k in range(len(head)) if any(r[k] for r in rows) or not (measured or head[k] == TRUE)]
    return [
        title,
        *aligned([[row[k] for k in filled] for row in (head, *rows)]),
        *made_otherwise(names, scores),
    ]


def _below(score: dict) -> list[str]:
    """The literature's values of a score's task, below a line."""
    if score["metric"] == "reconstruction":
        name = score.get("protocol", {}).get("name", "reconstruction")
        measured = load_protocols(name).get("reconstruction") if name in protocol_names() else None
        columns = {of: getattr(measured, of, of) for of in ("ssim", "psnr", "lpips")}
        return below(name, tuple(columns), columns)
    return below(score["protocol"]["name"], (score["metric"],))


def compare(names: list[str], published: bool = False) -> str:
    """Scores as a table for each metric that all have, and the literature's values of it below a line if
    asked for; ValueError where anything that they mean differs."""
    if not names:
        raise ValueError("which scores? dit eval compare A.json B.json, or folders of dit eval run")
    scores = [read_scores(name) for name in names]
    shared = [metric for metric in scores[0] if all(metric in of_one for of_one in scores)]
    if not shared:
        other = next(k for k, of_one in enumerate(scores) if not {*of_one} & {*scores[0]})
        raise ValueError(
            f"{names[0]} and {names[other]} do not compare: metric: {' and '.join(scores[0])}, and "
            f"{' and '.join(scores[other])}"
        )
    tables = []
    for metric in shared:
        lines = _table(names, [of_one[metric] for of_one in scores])
        tables.append("\n".join(lines + (_below(scores[0][metric]) if published else [])))
    left = sorted({metric for of_one in scores for metric in of_one} - {*shared})
    return "\n\n".join([*tables, *([f"left out, as not all have it: {', '.join(left)}"] if left else [])])


def main(arguments: list[str]) -> None:
    """The verb `dit eval compare`."""
    settings = parse(CompareSettings, arguments, prog="dit eval compare")
    print(printable(compare(list(settings.scores), settings.published)))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("eval compare")
