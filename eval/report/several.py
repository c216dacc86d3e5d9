"""`dit eval report`: several scores on one page, side by side where they compare, with videos of each."""

import dataclasses
import importlib
from dataclasses import dataclass, replace
from pathlib import Path

from configs.load import Positional, from_json, parse
from dit.cli import VERBS
from eval.compare import differences_of, made_otherwise, read_scores
from eval.report.charts import side_by_side
from eval.report.facts import CLIPS, called, meaning_of, rows_of, section
from eval.report.page import Page, Table, command_of, html
from eval.report.parts import Parts
from eval.report.pictures import Shelf, Shown, choice_of
from eval.scoring import DIGITS, NOT_CERTIFIED, check_outputs, is_seeded
from vae.data.sheets import evenly
from vae.training.files import write_text


@dataclass(frozen=True)
class ReportSettings:
    """Several scores on one HTML page, a chart for all that compare; it opens offline."""

    scores: Positional[tuple[str, ...]] = ()
    """JSON files that scoring wrote, or folders of `dit eval run`."""
    out: str = "report.html"
    """HTML file for the page."""
    videos: tuple[str, ...] = ()
    """Folder of the generated videos of each score, in their order; of `dit eval run` its own are taken."""
    real: str = ""
    """Folder or manifest of the real videos, which are shown beside the generated ones."""


def report(settings: ReportSettings) -> None:
    """Writes the page of scores; ValueError for none, another number of folders, or other files."""
    names = settings.scores
    if not names:
        raise ValueError("which scores? dit eval report A.json B.json, or folders of dit eval run")
    if settings.videos and len(settings.videos) != len(names):
        raise ValueError(
            f"--videos has {len(settings.videos)} folders, and there are {len(names)} scores: give the "
            "folder of each, in their order"
        )
    check_outputs(page=settings.out)
    read = {
        name: {metric: from_json(Parts, score, name) for metric, score in read_scores(name).items()}
        for name in names
    }
    folders = dict(zip(names, settings.videos or map(_own_videos, names), strict=True))
    shelf, several = Shelf(), len(names) > 1
    rows = rows_of(
        _same_videos(read, folders, settings.real, shelf), choice_of(_first_protocol(read), names[0]), shelf
    )
    sections = [
        section(score, name, _command_again(score), {"real": settings.real, "fake": folders[name]}, shelf)
        for name in names
        for score in read[name].values()
    ]
    page = Page(
        title=f"{len(names)} scores side by side" if several else names[0],
        about=", ".join(names) if several else "",
        command=command_of(settings),
        sections=sections,
        tables=_tables(read) if several else [],
        rows=rows if several else [],
        without=shelf.without,
    )
    write_text(Path(settings.out), html(page))
    print(settings.out)


def _own_videos(name: str) -> str:
    """The videos that a folder of `dit eval run` has beside its scores; none elsewhere."""
    home = Path(name) if Path(name).is_dir() else Path(name).parent
    return str(home / "videos") if (home / "scores.json").is_file() and (home / "videos").is_dir() else ""


def _tables(read: dict[str, dict[str, dict]]) -> list[Table]:
    """A chart for all scores of a metric that compare; others have their own, with the first reason why."""
    tables = []
    for metric in dict.fromkeys(metric for scores in read.values() for metric in scores):
        groups: list[tuple[str, list[tuple[str, dict]]]] = []
        for name, score in ((name, scores[metric]) for name, scores in read.items() if metric in scores):
            home = next((rows for _, rows in groups if not differences_of(rows[0][1], score)), None)
            if home is not None:
                home.append((name, score))
                continue
            why = ""
            if groups:
                first, other = groups[0][1][0]
                why = f"Does not compare with {first}: {differences_of(other, score)[0]}."
            groups.append((why, [(name, score)]))
        for why, rows in groups:
            stamps = rows[0][1].get("stamps", [])  # which are equal where scores compare
            notes = stamps + made_otherwise(*map(list, zip(*rows, strict=True)))
            tables += [replace(table, notes=notes) for table in _charts(metric, why, rows)]
    return tables


def _charts(metric: str, why: str, rows: list[tuple[str, dict]]) -> list[Table]:
    """The chart of scores that compare; of reconstructions one for each measure that all have."""
    first = rows[0][1]
    if "scores" in first:
        name = first.get("protocol", {}).get("name", "")
        tables = []
        for measure in first["scores"]:
            if all(score["scores"].get(measure) is not None for _, score in rows):
                bars = [(n, s["scores"][measure], s.get("intervals", {}).get(measure)) for n, s in rows]
                title = f"{called(measure)}{f': {name}' if name else ''}"
                tables.append(Table(title, why, side_by_side(bars, DIGITS.get(measure, 4))))
        return tables
    meaning, about = meaning_of(metric, first["protocol"]), first["protocol"]
    better = f", {meaning.better} is better" if meaning.better else ""
    stamped = "NOT " * is_seeded(first["stamps"])
    title = f"{stamped}{meaning.title}{better}: {about['name']} ({first['protocol_sha256'][:12]})"
    bars = [(name, score["value"], score.get("interval")) for name, score in rows]
    return [Table(title, why, side_by_side(bars, DIGITS.get(metric, 4)))]


def _same_videos(
    read: dict[str, dict[str, dict]], folders: dict[str, str], real: str, shelf: Shelf
) -> list[tuple[str, list[Shown]]]:
    """Videos of one name, of each score, and the real one of that name where there is one."""
    with_videos: dict[str, list[str]] = {}
    for name, folder in folders.items():
        if shelf.names(folder):
            with_videos.setdefault(folder, []).append(name)
    each = [set(shelf.names(folder)) for folder in with_videos]
    names = sorted(set.intersection(*each)) if len(each) > 1 else []
    said = {
        row["video"]: str(row["prompt"] or "")
        for scores in read.values()
        for row in scores.get("clipsim", {}).get("each", [])
        if {"video", "prompt"} <= row.keys()
    }
    rows = []
    for name in (names[k] for k in evenly(len(names), CLIPS)):
        clips = [Shown(f"{', '.join(scores)}:", folder, name) for folder, scores in with_videos.items()]
        clips += [Shown("real:", real, name, "real")] if name in shelf.names(real) else []
        rows.append((said.get(name, ""), clips))
    return rows


def _first_protocol(read: dict[str, dict[str, dict]]) -> dict:
    """The protocol of the first score that has one, by which clips are shown."""
    return next((s["protocol"] for scores in read.values() for s in scores.values() if "protocol" in s), {})


def _command_again(score: dict) -> str:
    """The command that would score so again, with folders by their names, as a score keeps no places."""
    module, _ = VERBS.get(f"eval {score['metric']}", ("", ""))
    metric = getattr(importlib.import_module(module), "METRIC", None) if module else None
    if metric is None:
        return ""
    stamps, fake = score["stamps"], str(score.get("fake", {}).get("where", ""))
    asked = {"real": str(score.get("real", {}).get("where", "")), "fake": fake, "videos": fake}
    asked |= {"protocol": score["protocol"]["name"], "smoke": is_seeded(stamps)}
    small = ("small", "other videos", "other contents")
    asked |= {"allow_small": any(stamp.startswith(small) for stamp in stamps)}
    loose = [stamp for stamp in stamps if not stamp.startswith(NOT_CERTIFIED)]
    asked |= {"uncertified": any("not certified" in stamp for stamp in loose)}
    asked |= {"encoder_sha256": score["protocol"].get("network_sha256", "")}
    known = {field.name for field in dataclasses.fields(metric.settings)}
    return command_of(metric.settings(**{name: value for name, value in asked.items() if name in known}))


def main(arguments: list[str]) -> None:
    """The verb `dit eval report`."""
    report(parse(ReportSettings, arguments, prog="dit eval report"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("eval report")
