"""Scores as one HTML page that opens offline, and where a score goes: the terminal, its JSON, its page."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from configs.load import words_of
from dit import __version__
from dit.cli import VERBS
from dit.page import render
from eval import scoring
from eval.report.charts import Bar
from eval.report.facts import Row, Section, section
from eval.report.pictures import Shelf
from eval.scoring import is_seeded, seeded_stamp
from vae.training.files import write_text
from vae.training.processes import processes


@dataclass(frozen=True)
class Table:
    """Scores side by side: bars in the order of their files; where they do not compare with others, why; and
    what else was not alike where they were made.
    """

    title: str
    remark: str
    bars: list[Bar]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Page:
    """All that a page says: its title, what stands in front of the scores, these, and the way to it again."""

    title: str
    about: str
    command: str
    sections: list[Section]
    tables: list[Table] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    without: int = 0

    @property
    def stamps(self) -> list[str]:
        """The stamps of all scores, each once; of the seeded networks' there is one, which names all."""
        every = list(dict.fromkeys(stamp for part in self.sections for stamp in part.stamps))
        seeded = [stamp for stamp in every if is_seeded([stamp]) and stamp == seeded_stamp(_of(stamp))]
        merged = [seeded_stamp(", ".join(map(_of, seeded)))] if seeded else []
        return merged + [stamp for stamp in every if stamp not in seeded]

    @property
    def shared(self) -> list[str]:
        """The stamps that every score has."""
        first, *others = (part.stamps for part in self.sections)
        return [stamp for stamp in first if all(stamp in stamps for stamps in others)]


def _of(stamp: str) -> str:
    """What a seeded network's stamp is of."""
    return stamp.removeprefix("NOT ").removesuffix(": seeded network")


def publish(result: dict, settings, text: str) -> None:
    """Prints a score and writes it as JSON and as a page, where its settings ask for them, in one process."""
    scoring.publish(result, settings.json, text)
    if settings.report and processes()[0] == 0:
        write_page(Path(settings.report), [result], [settings], "", command_of(settings))


def write_page(
    file: Path, results: Sequence[dict], asked: Sequence, title: str, command: str, about: str = ""
) -> None:
    """Writes the page of scores, each with the settings of its verb, whose folders have the videos.

    Scores of one number come first; what `about` does not say, the row of a table of papers does.
    """
    shelf, sections, places = Shelf(), [], []
    pairs = sorted(zip(results, asked, strict=True), key=lambda pair: "value" not in pair[0])
    about = about or next((f"{scoring.row_in_words(one)}." for one, _ in pairs if one.get("row")), "")
    for result, settings in pairs:
        folders = {which: getattr(settings, which, "") for which in ("real", "fake", "copies_of")}
        folders["fake"] = folders["fake"] or getattr(settings, "videos", "")
        places.append(" beside ".join(Path(folders[w]).name for w in ("fake", "real") if folders[w]))
        for score in scores_of(result):
            inner = {} if score is result else {"copies_of": folders["real"]}
            sections.append(section(score, "", command_of(settings), folders | inner, shelf))
    if not title:
        title = f"{sections[0].title}: {places[0]}" if places[0] else sections[0].title
    write_text(file, html(Page(title, about, command, sections, without=shelf.without)))


def scores_of(result: dict) -> list[dict]:
    """A score, and the FVD that a score of reconstructions may hold."""
    return [result, result["fvd"]] if isinstance(result.get("fvd"), dict) else [result]


def command_of(settings) -> str:
    """The command line that has these settings, as one would type it, of the verb whose file defines them."""
    verb = next(verb for verb, (module, _) in VERBS.items() if module == type(settings).__module__)
    return shlex.join(["dit", *verb.split(), *words_of(settings)])


def html(page: Page) -> str:
    """The page, all of it inside: it refers to nothing outside, and runs no code."""
    return render("eval.report", "page.html", page=page, version=__version__)
