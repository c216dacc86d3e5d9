"""What a page says of a score, whatever its metric: its meaning, remarks, tables and pictures."""

import ast
import functools
import importlib
import inspect
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, replace

from configs.load import from_json
from configs.protocol import ClipChoice, load_protocols, protocol_module, protocol_names
from dit.cli import VERBS
from eval import repeats
from eval.published import literature, published, sureness
from eval.report.charts import (
    Bar,
    beside_chance,
    in_words,
    means_of_classes,
    of_classes,
    of_motion,
    to_infinity,
)
from eval.report.parts import Parts
from eval.report.pictures import Shelf, Shown, choice_of
from eval.scoring import DIGITS, Meaning, is_seeded, resampled
from eval.scoring import SIDES as KINDS

CLIPS = 4  # rows in a group of pictures
BEST = 5  # rows of the best, and of the worst, in a table
REASONS = 200  # of what was passed over
WORDS = {  # a part of a score, or of a side -> what it is called
    "where": "folder or file",
    "videos": "videos in it",
    "clips": "clips scored",
    "rates": "frames a second: clips",
    "sizes": "size: clips",
    "files_sha256": "SHA-256 of files and of their clips' frames",
    "rgb_sha256": "SHA-256 of the frames' RGB",
    "protocol_sha256": "SHA-256 of the protocol",
    "version": "version of this project",
    "torch": "PyTorch",
    "deviation": "standard deviation over splits",
    "methods_differ_by": "two ways to compute it differ by",
    "prompts_cut": "prompts longer than the network takes",
    "other_splits": "in the splits of other protocols",
    "psnr": "PSNR",
    "pooled_psnr": "pooled PSNR",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "wrapped_psnr": "wrapped PSNR",
    "ssim_grey": "SSIM, grey",
    "ssim_uniform": "SSIM, uniform",
    "ssim_grey_uniform": "SSIM, grey, uniform",
    "unit_lpips": "LPIPS of [0, 1]",
    "fvd": "FVD",
    "is": "IS",
    "clipsim": "CLIPSIM",
}
ELSEWHERE = {  # parts of a score that do not stand in the table of all others
    *("metric", "value", "stamps", "interval", "true_interval", "intervals", "groups", "repeats", "real"),
    *("fake", "protocol", "infinity", "panel", "motion", "nearest", "classes", "each", "scores", "measures"),
    *("passed_over", "fvd"),
}
SIDES = {"real": "the real side", "fake": "the generated side", "": "both sides"}


@dataclass(frozen=True)
class Row:
    """Clips side by side under a caption: the label and the address of each."""

    caption: str
    clips: list[tuple[str, str]]


@dataclass(frozen=True)
class Ranking:
    """The best and the worst videos: the head of their table, and their cells."""

    head: list[str]
    best: list[list[str]]
    worst: list[list[str]]


@dataclass(frozen=True)
class Section:
    """What a page says of one score."""

    label: str
    title: str
    value: str
    spread: str
    of: str
    intervals: list[tuple[str, str]]
    meaning: Meaning
    stamps: list[str]
    values: list[tuple[str, str, str, str]]
    weightless: list[str]
    remarks: list[str]
    bars: list[Bar]
    motion: list[Bar]
    motion_clips: int
    line: dict | None
    pictures: list[tuple[str, list[Row]]]
    classes: list[Bar]
    ranking: Ranking | None
    sides: list[tuple[str, str, str]]
    others: list[tuple[str, str]]
    follows: list[str]
    protocol: list[tuple[str, str, str]]
    passed: list[tuple[str, int, list[tuple[str, str]]]]
    paper: str
    command: str

    @property
    def seeded(self) -> bool:
        """Whether a seeded network scored."""
        return is_seeded(self.stamps)

    @property
    def short_protocol(self) -> str:
        """The protocol's name and the beginning of its hash."""
        fields = {name: value for name, value, _ in self.protocol}
        hash_ = dict(self.others).get(WORDS["protocol_sha256"], "")
        return f"{fields['name']} ({hash_[:12]})" if "name" in fields else ""


def section(score: dict, label: str, command: str, folders: dict[str, str], shelf: Shelf) -> Section:
    """What a page says of a score; ValueError naming `label` for a part of another type than a score's.

    `folders` are those of the sides, by `real` and `fake`, of which clips are shown, and by `copies_of` of
    whose videos the generated ones are copies.
    """
    score = from_json(Parts, score, label)
    metric, about = score.get("metric", ""), score.get("protocol", {})
    meaning, digits, stamps = meaning_of(metric, about), DIGITS.get(metric, 4), score.get("stamps", [])
    choice = choice_of(about, label)
    value = f"{score['value']:.{digits}f}" if "value" in score else ""
    passed = {which: score.get(which, {}).get("passed_over", {}) for which in ("real", "fake")}
    passed[""] = score.get("passed_over", {})
    name = str(about.get("name", ""))
    weightless = [called(one) for one, networks in score.get("networks", {}).items() if not networks]
    return Section(
        label=label,
        title=f"NOT {meaning.title}" if is_seeded(stamps) and not weightless else meaning.title,
        value=value,
        spread=in_words(score.get("interval"), digits),
        of=(score.get("interval") or {}).get("of", ""),
        intervals=_intervals(score, meaning, digits),
        meaning=meaning,
        stamps=stamps,
        values=_values(score),
        weightless=weightless,
        remarks=_remarks(score, digits),
        bars=beside_chance(score, digits),
        motion=of_motion(score, digits),
        motion_clips=(score.get("motion") or {"clips": 0})["clips"],
        line=to_infinity(score, digits),
        pictures=_pictures(score, meaning, folders, choice, shelf),
        classes=of_classes(score, digits) or means_of_classes(*_ranked(score, meaning)),
        ranking=_ranking(score, meaning),
        sides=_sides(score),
        others=[(called(part), plain(what)) for part, what in score.items() if part not in ELSEWHERE],
        follows=(protocol_module(name).__doc__ or "").strip().split("\n\n") if _known(name) else [],
        protocol=_protocol(about, metric),
        passed=[(SIDES[w], len(rows), list(rows.items())[:REASONS]) for w, rows in passed.items() if rows],
        paper=markdown(score) if value and name else "",
        command=command,
    )


def meaning_of(metric: str, protocol: dict) -> Meaning:
    """What a metric's verb says that its number means, by the title of its protocol if that has one."""
    module, _ = VERBS.get(f"eval {metric}", ("", ""))
    found = getattr(importlib.import_module(module), "MEANING", None) if module else None
    meaning = found or Meaning(called(metric).upper())
    return replace(meaning, title=protocol["title"]) if isinstance(protocol.get("title"), str) else meaning


def _known(protocol: str) -> bool:
    """Whether a protocol is one of this project's."""
    return protocol in protocol_names()


def _values(score: Parts) -> list[tuple[str, str, str, str]]:
    """The values of a score that has several: name, value, interval, and what each is.

    Those that its protocol calls SSIM, PSNR and LPIPS come first.
    """
    said, rows, scores = score.get("measures", {}), [], score.get("scores", {})
    first = [score.get("protocol", {}).get(name) for name in ("ssim", "psnr", "lpips")]
    order = [name for name in first if isinstance(name, str) and name in scores]
    for name, value in {**{name: scores[name] for name in order}, **scores}.items():
        digits = DIGITS.get(name, 4)
        spread = in_words(score.get("intervals", {}).get(name), digits)
        rows.append((called(name), f"{value:.{digits}f}", spread, said.get(name, "")))
    return rows


def _intervals(score: Parts, meaning: Meaning, digits: int) -> list[tuple[str, str]]:
    """What each interval of a score is one of, in sentences."""
    said, true = [], score.get("true_interval") or {}
    if spread := in_words(score.get("interval"), digits):
        said.append(("Its interval", f"{spread}: a 95 % interval {meaning.interval}."))
    if spread := in_words(true, digits):
        free = f" Without its bias the score is {true['value']:.{digits}f}." if "value" in true else ""
        said.append(
            ("True distance", f"{spread}: a 95 % interval of what infinitely many would score.{free}")
        )
    elif "refused" in true:
        said.append(("True distance", f"No interval of it: {true['refused']}."))
    return said


def _remarks(score: Parts, digits: int) -> list[str]:
    """What the parts beside a score say of it, a sentence each."""
    said = []
    if (panel := score.get("panel")) and "value" in score:
        chance = panel["floor"]["value"]
        counts = " and ".join(map(str, panel["floor"]["clips"]))
        if chance > 0:
            said.append(
                f"It is {score['value'] / chance:.2f} times the distance that chance alone puts between real "
                f"clips ({counts})."
            )
    if motion := score.get("motion"):
        whole, itself, count = motion["apart"]["whole"]["frechet"], motion["itself"], motion["clips"]
        if whole > 0:
            said.append(
                f"Motion: frozen, {count} real clips move {itself['frozen'] / whole:.2f} times as far as "
                f"{count} generated ones lie from them, shuffled {itself['shuffled'] / whole:.2f} times: far "
                "below 1, the score hardly sees what is wrong with motion."
            )
    if "panel" in score and not score["panel"]:
        said.append("Chance was not measured beside it: --panel does.")
    if near := score.get("nearest"):
        said.append(
            f"Copies: {near['closer']:.1%} of the generated clips lie nearer to a real one than 99 % of the "
            f"real ones do to each other (1 % by chance); {near['same']} have the features of a real one. "
            f"The median distance to the nearest real clip is {near['median']:.3f}, of real clips to each "
            f"other {near['median_among_real']:.3f}."
        )
    endless = score.get("infinity") or {}
    if "value" in endless:
        spread = in_words(endless, digits)
        said.append(
            f"With infinitely many clips it would be about {endless['value']:.{digits}f}"
            f"{f' (95 % interval {spread})' if spread else ''}, by the line below."
        )
    elif "infinity" in score and not (score.get("true_interval") or {}).get("refused"):
        said.append("These clips are too few to say what it would be with infinitely many.")
    if (groups := score.get("groups")) and groups.keys() <= KINDS.keys():
        said.append(f"Its intervals resample {resampled(groups)}.")
    said += [f"{line}." for line in repeats.in_words(score, digits)]
    return said


def _ranked(score: Parts, meaning: Meaning) -> tuple[list[str], list[dict]]:
    """The measures that every video has, and the videos from the best to the worst by the first measure."""
    each = [row for row in score.get("each", []) if isinstance(row.get("video"), str)]
    first = list(score.get("scores", {})) or ["value"]
    numbers = [k for row in each[:1] for k in row if all(type(r.get(k)) in (int, float) for r in each)]
    names = sorted(set(numbers) & set(first), key=first.index)
    if not names:
        return [], []
    order = sorted(each, key=lambda row: row["video"])
    return names, sorted(order, key=lambda row: row[names[0]], reverse=meaning.better != "lower")


def _halves(rows: list, most: int) -> tuple[list, list]:
    """The first rows, and the last ones from the end; none is in both."""
    best = rows[: min(most, (len(rows) + 1) // 2)]
    return best, rows[len(best) :][::-1][:most]


def _ranking(score: Parts, meaning: Meaning) -> Ranking | None:
    """The best and the worst videos as a table."""
    names, rows = _ranked(score, meaning)
    if not rows:
        return None
    prompts = ["prompt"] if any("prompt" in row for row in rows) else []

    def cells(row: dict) -> list[str]:
        said = [str(row.get(name) or "") for name in prompts]
        return [row["video"], *said, *(f"{row[name]:.{DIGITS.get(name, 4)}f}" for name in names)]

    best, worst = _halves(rows, BEST)
    head = [meaning.title if name == "value" else called(name) for name in names]
    return Ranking(["video", *prompts, *head], [*map(cells, best)], [*map(cells, worst)])


def _pictures(
    score: Parts, meaning: Meaning, folders: dict[str, str], choice: ClipChoice, shelf: Shelf
) -> list[tuple[str, list[Row]]]:
    """Groups of clips that play: the nearest and the farthest pairs, the best and the worst, or some."""
    real, fake, copies_of = (folders.get(which, "") for which in ("real", "fake", "copies_of"))
    groups = []
    names, ranked = _ranked(score, meaning)
    if near := score.get("nearest"):
        pairs = near["pairs"][:CLIPS]
        others = [pair for pair in near["farthest"] if pair not in pairs][:CLIPS]
        for heading, some in (("Nearest to a real clip", pairs), ("Farthest from any real clip", others)):
            rows = [
                (
                    f"distance {pair['distance']:.3f}",
                    [
                        Shown("generated", fake, pair["fake"], "fake", copies_of),
                        Shown("the nearest real", real, pair["real"], "real"),
                    ],
                )
                for pair in some
            ]
            groups.append((heading, rows))
    elif ranked:
        for heading, some in zip(("The best", "The worst"), _halves(ranked, CLIPS), strict=True):
            rows = []
            for row in some:
                value = f"{row[names[0]]:.{DIGITS.get(names[0], 4)}f}"
                value = f"{meaning.title if names[0] == 'value' else called(names[0])} {value}"
                clips = [Shown("original", real, row["video"], "real")] if real else []
                label = "reconstruction" if real else "generated"
                clips.append(Shown(label, fake, row["video"], "fake", copies_of))
                rows.append((f"{row['prompt']} – {value}" if row.get("prompt") else value, clips))
            groups.append((heading, rows))
    else:
        there = shelf.names(fake)
        some = [there[k * len(there) // CLIPS] for k in range(CLIPS)] if len(there) > CLIPS else there
        groups.append(
            (
                "Some of the videos",
                [("", [Shown("generated", fake, name, "fake", copies_of)]) for name in some],
            )
        )
    shown = [(heading, rows_of(wanted, choice, shelf)) for heading, wanted in groups]
    return [(heading, rows) for heading, rows in shown if rows]


def rows_of(wanted: Iterable[tuple[str, list[Shown]]], choice: ClipChoice, shelf: Shelf) -> list[Row]:
    """Rows of clips that play, without those that cannot be shown."""
    rows = []
    for caption, clips in wanted:
        videos = [(f"{clip.label} {clip.name}", shelf.video(clip, choice)) for clip in clips]
        rows += [Row(caption, there)] if (there := [video for video in videos if video[1]]) else []
    return rows


def _sides(score: Parts) -> list[tuple[str, str, str]]:
    """The facts of both sides, a row each."""
    real, fake = score.get("real", {}), score.get("fake", {})
    names = [name for name in {**real, **fake} if name not in ("passed_over", "stamps")]
    return [(called(name), plain(real.get(name, "")), plain(fake.get(name, ""))) for name in names]


def _protocol(about: dict, metric: str) -> list[tuple[str, str, str]]:
    """A protocol's fields, each with its value and what it is, as its class says."""
    name = str(about.get("name", ""))
    known = load_protocols(name).get(metric) if _known(name) else None
    said = explanations(type(known)) if known else {}
    return [(field, plain(value), said.get(field, "")) for field, value in about.items()]


@functools.cache
def explanations(kind: type) -> dict[str, str]:
    """The words under each field of a dataclass and of those that it inherits."""
    said = {}
    for base in reversed(kind.__mro__[:-1]):
        [written] = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        for field, below in zip(written.body, written.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                said[field.target.id] = " ".join(ast.literal_eval(below.value).split())
    return said


def markdown(score: Parts) -> str:
    """The score as a Markdown table, and below it the literature's values of its task, none measured here."""
    about, stamps, digits = score["protocol"], score.get("stamps", []), DIGITS.get(score.get("metric"), 4)
    spread = ""
    for name in ("interval", "true_interval"):
        if ends := in_words(score.get(name), digits):
            of = score[name].get("of", "")
            spread += f" (95 % interval {ends}{f' of {of}' if of else ''})"
    sides = {"real": "real", "fake": "generated"}
    counts = [f"{score[w]['clips']} {said}" for w, said in sides.items() if score.get(w, {}).get("clips")]
    stamped = f" [{'; '.join(stamps)}]" if stamps else ""
    metric, short = called(score.get("metric", "")), score.get("protocol_sha256", "")[:12]
    lines = [
        f"| model | {metric}, {about['name']} {short} | source |",
        "|---|---|---|",
        f"| this | {score['value']:.{digits}f}{spread}{stamped} | {', '.join(counts)} clips |",
    ]
    rows = [
        f"| {row['model']} | {row['value']:g} | {row['paper']}; {row['protocol']}; {sureness(row)} |"
        for row in published(about["name"], score.get("metric", ""))
    ]
    if rows:
        lines += ["", f"{literature()['says'].capitalize()}, of other protocols and clips:", ""]
        lines += ["| model | value | source |", "|---|---|---|", *rows]
    return "\n".join(lines)


def called(name: str) -> str:
    """What a part of a score is called."""
    return WORDS.get(name, name.replace("_", " "))


def plain(value) -> str:
    """A list or a dict in words; anything else as it is."""
    if isinstance(value, dict):
        return ", ".join(f"{called(key)}: {plain(inner)}" for key, inner in value.items()) or "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    return (", ".join(map(plain, value)) or "–") if isinstance(value, list | tuple) else str(value)
