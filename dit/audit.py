"""`dit data audit MANIFEST`: a page of a random sample to judge captions on, a data card, and what
judges found."""

import base64
import html
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
from typing_extensions import TypedDict

from configs.load import Positional, parse
from configs.ranges import Count, Positive, Seed, Side
from dit.page import render, script
from vae.data.columns import Entry
from vae.data.manifest import Manifest, load_manifest
from vae.data.video import UnreadableVideo, read_frames, resize_and_crop, to_video
from vae.data.write import write_video
from vae.training.files import check_replaceable, read_json, read_text, write_text
from vae.training.progress import progress, say
from vae.training.seeds import generator

ANSWERS = ("right", "wrong", "unsure")
MOST_BYTES = 1 << 28  # of a page: browsers hold it whole
CARD = "# Data card of "  # how one begins
SIDES = ((0, 256), (256, 480), (480, 720), (720, 1080), (1080, 1 << 16))  # shorter sides that a card counts


@dataclass(frozen=True)
class AuditSettings:
    """Write a page that opens offline with a random sample of clips and their captions, to judge right
    or wrong."""

    source: Positional[str] = ""
    """Manifest, or folder with one."""
    out: str = "audit.html"
    """Page to write; the data card is beside it, as `audit.card.md`."""
    sample: Count = 100
    """Captions to judge, each of another clip."""
    seed: Seed = 0
    """Seed of the sample."""
    side: Side = 320
    """Pixels that the longer side of a clip has on the page."""
    seconds: Positive = 4.0
    """Seconds of each clip on the page."""
    judged: tuple[str, ...] = ()
    """Files that the page saved, one for each judge: prints how many captions are right, and agreement."""


class Judged(TypedDict):
    """What a page saved: which page, who judged, and the answer to each caption by its id."""

    page: str
    judge: str
    answers: dict[str, str]
    origins: dict[str, str]


def audit(settings: AuditSettings) -> Path | None:
    """Writes page and card and returns the page's path, or prints what judges found."""
    if settings.judged:
        for line in found([read_json(Path(file), Judged) for file in settings.judged]):
            print(line)
        return None
    if not settings.source:
        raise ValueError("no manifest given: `dit data audit MANIFEST`")
    out, manifest = Path(settings.out), load_manifest(settings.source)
    if out.suffix != ".html":
        raise ValueError(f"out = {out}: give it a name that ends in .html")
    check_replaceable(out, ".html")
    card = out.with_suffix(".card.md")
    if card.is_file() and not read_text(card).startswith(CARD):
        raise ValueError(f"{card} is there, and is no data card: give another --out")
    clips = _sampled(manifest, settings)
    if not clips:
        raise ValueError(f"{settings.source} has no row with a caption that is kept and can be read")
    name = f"{Path(settings.source).name} {settings.seed} {len(clips)}"
    page = {"title": f"{Path(settings.source).name}: {len(clips)} captions", "name": name, "clips": clips}
    code, allowed = script("dit", "audit.js")
    write_text(out, render("dit", "audit.html", page=page, code=code, allowed=allowed))
    write_text(card, data_card(manifest, Path(settings.source).name))
    print(f"{out}: {len(clips)} captions to judge; {card}")
    return out


def _sampled(manifest: Manifest, settings: AuditSettings) -> list[dict]:
    """Clips of the page in the order of their draw: of each one caption."""
    random, clips, size = generator(settings.seed, "audit"), [], 0
    with progress(total=min(settings.sample, len(manifest)), desc="audit", unit="clip") as bar:
        for place in random.permutation(len(manifest)).tolist():
            if len(clips) == settings.sample:
                break
            entry = manifest[place]
            if entry.rejected or not entry.captions:
                continue
            caption = entry.captions[int(random.integers(len(entry.captions)))]
            try:
                video = _encoded(entry, settings)
            except UnreadableVideo as error:
                say(f"bad: {error}")
                continue
            size += len(video)
            if size > MOST_BYTES:
                raise ValueError(
                    f"{len(clips)} clips have {MOST_BYTES:,} bytes: give a smaller --side or --seconds"
                )
            about = [entry.source, entry.licence, f"{entry.width}x{entry.height}", f"{entry.duration:.1f} s"]
            clips.append(
                {
                    "id": f"{entry.key.hex()[:16]}-{_short_hash(caption)}",
                    "video": video,
                    "caption": str(caption),
                    "origin": getattr(caption, "origin", "") or "not known",
                    "language": getattr(caption, "language", ""),
                    "tags": list(entry.tags),
                    "about": [each for each in [entry.path.name, *about] if each],
                }
            )
            bar.update()
    return clips


def _short_hash(text: str) -> str:
    """Some digits that tell texts apart."""
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _encoded(entry: Entry, settings: AuditSettings) -> str:
    """The first seconds of a clip as mp4 in base 64, small enough for a page."""
    fps = entry.fps or 1.0
    step = max(1, round(fps / 30))
    places = list(range(0, max(1, min(entry.frames, int(settings.seconds * fps))), step))
    frames = read_frames(entry.path, places, entry)
    scale = min(1.0, settings.side / max(entry.height, entry.width))
    height, width = (max(2, round(side * scale)) for side in (entry.height, entry.width))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clip.mp4"
        write_video(
            file,
            to_video(resize_and_crop(frames.float(), height, width).round().clamp(0, 255)),
            fps / step,
            {},
        )
        return base64.b64encode(file.read_bytes()).decode()


def found(judged: Sequence[Judged]) -> list[str]:
    """What judges found, in lines: the share of captions that are right, of all and by origin, each with
    an interval,
    and on how many two judges answer alike.

    Raises ValueError where they judged other pages, or answer with other words.
    """
    if len({each["page"] for each in judged}) > 1:
        raise ValueError(
            "the judges saw different pages: " + ", ".join(sorted({each["page"] for each in judged}))
        )
    if wrong := {answer for each in judged for answer in each["answers"].values()} - {*ANSWERS}:
        raise ValueError(f"an answer is {wrong.pop()!r}: it must be one of {', '.join(ANSWERS)}")
    votes: dict[str, list[str]] = {}
    origins = {key: origin for each in judged for key, origin in each["origins"].items()}
    for each in judged:
        for key, answer in each["answers"].items():
            votes.setdefault(key, []).append(answer)
    lines = []
    for origin in [None, *sorted(set(origins.values()))]:
        some = [answers for key, answers in votes.items() if origin in (None, origins.get(key))]
        sure = [_majority(answers) for answers in some]
        right, count = sure.count("right"), sure.count("right") + sure.count("wrong")
        if count:
            low, high = wilson(right, count)
            name = "all" if origin is None else origin
            unsure = f", {len(sure) - count} unsure or divided" if len(sure) > count else ""
            share = f"{right / count:.1%} ({low:.1%} to {high:.1%})"
            lines.append(f"{name}: {right} of {count} captions are right, {share}{unsure}")
    pairs = [
        (one["answers"][key] == other["answers"][key])
        for k, one in enumerate(judged)
        for other in judged[:k]
        for key in one["answers"].keys() & other["answers"].keys()
    ]
    if pairs:
        low, high = wilson(sum(pairs), len(pairs))
        lines.append(
            f"two judges agree on {sum(pairs)} of {len(pairs)}, {sum(pairs) / len(pairs):.1%} "
            f"({low:.1%} to {high:.1%})"
        )
    return lines or ["nothing was judged"]


def _majority(answers: list[str]) -> str:
    """What most say of right and wrong; else unsure."""
    counts = Counter(answers)
    if counts["right"] == counts["wrong"]:
        return "unsure"
    return "right" if counts["right"] > counts["wrong"] else "wrong"


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    z, share = 1.959964, hits / count
    middle = share + z * z / (2 * count)
    half = z * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    return max(0.0, (middle - half) / (1 + z * z / count)), min(1.0, (middle + half) / (1 + z * z / count))


def data_card(manifest: Manifest, name: str) -> str:
    """A data card in Markdown: what there is, from where, under which licences, and what was left out
    and why."""
    columns = {n for file in manifest.files.opened for n in file.schema_arrow.names}
    counts: dict[str, Counter] = {
        key: Counter() for key in ("source", "licence", "split", "tags", "side", "language")
    }
    origins, reasons, motions = Counter(), Counter(), []
    kept, seconds, left_seconds, number = 0, 0.0, 0.0, 0
    wanted = ["source", "licence", "split", "tags", "captions", "rejected", "height", "width", "duration"]
    wanted += [column for column in ("motion",) if column in columns]
    for table, _ in manifest.tables(wanted):
        for row in table.to_pylist():
            number += 1
            if row["rejected"]:
                left_seconds += row["duration"]
                reasons.update({why.split(" (")[0] for why in row["rejected"]})
                continue
            kept, seconds = kept + 1, seconds + row["duration"]
            for key in ("source", "licence", "split"):
                counts[key][row[key] or "not known"] += 1
            counts["tags"].update(row["tags"])
            side = min(row["height"], row["width"])
            low, high = next(pair for pair in SIDES if pair[0] <= side < pair[1])
            counts["side"][f"{low} to {high - 1}" if high < 1 << 16 else f"{low} or more"] += 1
            for caption in row["captions"]:
                counts["language"][caption["language"] or "not known"] += 1
                origins[caption["origin"] or "not known"] += 1
            if row.get("motion") is not None:
                motions.append(row["motion"])
    lines = [f"{CARD}{name}", ""]
    lines += [
        f"{kept:,} clips of {number:,} are kept, {seconds / 3600:.2f} h; "
        f"{left_seconds / 3600:.2f} h are left out."
    ]
    titles = {"source": "Sources", "licence": "Licences", "split": "Splits", "side": "Shorter sides, pixels"}
    titles |= {"tags": "Tags"}
    for key, title in titles.items():
        lines += _counted(title, counts[key], "clips")
    if motions:
        quantiles = numpy.quantile(motions, (0.05, 0.25, 0.5, 0.75, 0.95))
        words = ", ".join(f"{q:.3g}" for q in quantiles)
        lines += [
            "",
            "## Motion",
            "",
            f"Optical flow in shorter sides a second, at 5, 25, 50, 75 and 95 %: {words}.",
        ]
    lines += _counted("Languages of captions", counts["language"], "captions")
    lines += _counted("Origins of captions", origins, "captions")
    lines += _counted("Left out", reasons, "clips; a clip may have several reasons")
    return "\n".join(lines) + "\n"


def _counted(title: str, counts: Counter, what: str) -> Iterable[str]:
    """A table of how often each is there, the most frequent first."""
    if not counts:
        return []
    rows = [
        f"| {html.escape(str(each)).replace('|', '&#124;')} | {count:,} |"
        for each, count in counts.most_common(50)
    ]
    more = [f"| {len(counts) - 50} more | |"] if len(counts) > 50 else []
    return ["", f"## {title}", "", f"| | {what} |", "|---|---:|", *rows, *more]


def main(arguments: list[str]) -> None:
    """The verb `dit data audit`."""
    audit(parse(AuditSettings, arguments, prog="dit data audit"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("data audit")
