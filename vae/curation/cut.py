"""`dit data cut MANIFEST`: files into shots, and shots into spans of a wanted length, without encoding
anything."""

import os
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from configs.load import Positional, parse
from configs.ranges import NonNegative, Positive, Workers
from vae.curation import shots
from vae.curation.measure import beside, put_column, rejected
from vae.curation.scenedetect import SceneDetect, described
from vae.curation.shots import ShotSignals
from vae.curation.work import Journal, of_rows, workers
from vae.data.columns import Entry, cut_rows
from vae.data.images import UnreadableVideo
from vae.data.manifest import load_manifest, rewrite
from vae.data.stream import check_frames, stream_frames
from vae.training.progress import progress


@dataclass(frozen=True)
class CutSettings:
    """Cut the files of a manifest into shots: rows become spans, no frame is lost and nothing encoded."""

    source: Positional[str] = ""
    """Manifest, or folder with one."""
    out: str = ""
    """Manifest to write; empty writes `cut.parquet` beside the source."""
    least: NonNegative = 1.0
    """Seconds of the shortest span that is kept; shorter ones stay as rejected rows."""
    most: Positive = 10.0
    """Seconds of the longest span; longer shots are divided evenly."""
    detector: Literal["cells", "adaptive", "content"] = "cells"
    """What finds cuts: `cells`, which knows fades, dissolves and flashes, or a detector of PySceneDetect."""
    workers: Workers = 0
    """Processes that decode; 0 takes as many as there are cores."""


def cut(settings: CutSettings) -> Path:
    """Writes the manifest of spans and returns its path."""
    if not settings.source:
        raise ValueError("no manifest given: `dit data cut MANIFEST`")
    if settings.most < settings.least:
        raise ValueError(f"most = {settings.most}: it must be at least least = {settings.least}")
    by = f"cells {shots.VERSION}" if settings.detector == "cells" else described(settings.detector)
    out, manifest = beside(settings.source, settings.out, "cut"), load_manifest(settings.source)
    if out.exists() and os.path.samefile(out, settings.source):
        raise ValueError(f"--out {out} is the source itself, whose rows are kept: give another name")
    work = FIND[settings.detector]
    journal = Journal(out, f"cut-{settings.detector}-{shots.VERSION}")
    counts, first = Counter(), 0
    with workers(settings.workers, len(manifest)) as pool, progress(total=len(manifest), desc="cut") as bar:

        def change(table):
            nonlocal first
            entries = manifest[first : first + len(table)]
            first += len(table)
            found = of_rows(entries, work, journal, pool, bar)
            return _spans(table, entries, found, settings, by, counts)

        rewrite(settings.source, out, change)
    journal.done()
    rejected_as = {why: count for why, count in sorted(counts.items()) if why not in ("", "files")}
    told = "".join(f", {why} {count}" for why, count in rejected_as.items())
    spans = counts[""] + sum(rejected_as.values())
    print(f"{out}: rows {counts['files']}, spans {spans}, kept {counts['']}{told}")
    return out


def _spans(table, entries, found: list, settings: CutSettings, by: str, counts: Counter):
    """The rows of a table as spans; those that are no shot, or too short, are rejected."""
    import pyarrow

    places, starts, ends, reasons = [], [], [], {}
    for place, (entry, pieces) in enumerate(zip(entries, found, strict=True)):
        if isinstance(pieces, str):
            pieces = [(0, entry.frames, f"unreadable ({pieces})")]
        for low, high, why in pieces:
            for start, end in divided(low, high, 0.0 if why else settings.most, entry.fps):
                short = ""
                if not why and entry.fps and end - start < settings.least * entry.fps and entry.frames > 1:
                    short = f"short (duration < {settings.least:g} s)"
                if why or short:
                    reasons[len(places)] = [why or short]
                counts[(why or short).split(" (")[0]] += 1
                places.append(place)
                starts.append(entry.start + start)
                ends.append(entry.start + end)
        counts["files"] += 1
    parts = [
        starts[k] != entries[place].start or ends[k] != entries[place].end for k, place in enumerate(places)
    ]
    table = rejected(cut_rows(table, places, starts, ends), "cut", reasons)
    for name in {"signals", "copy_of"} & set(table.column_names):  # said of the whole, which a part is not
        cells = [None if part else cell for part, cell in zip(parts, table[name].to_pylist(), strict=True)]
        table = put_column(table, name, pyarrow.array(cells, table[name].type))
    return put_column(table, "cut_by", pyarrow.array([by] * len(table), pyarrow.string()))


def divided(start: int, end: int, most: float, fps: float) -> list[tuple[int, int]]:
    """A stretch of frames in the fewest parts of at most so many seconds, as even as can be; 0 leaves it
    whole."""
    parts = -(-(end - start) // max(1, int(most * fps))) if most and fps else 1
    edges = [start + (end - start) * k // parts for k in range(parts + 1)]
    return list(pairwise(edges))


def _pieces(entries: list[Entry], new) -> list:
    """The pieces of rows of one file, in frames of each row."""
    found = []
    for entry in entries:
        detector = new(entry.fps)
        try:
            for number, part in stream_frames(entry.path, entry, entry.start, entry.end):
                check_frames(entry.path, entry, number - entry.start, part)
                detector.add(part)
            found.append([list(piece) for piece in detector.pieces()])
        except UnreadableVideo as error:
            found.append(str(error))
    return found


def _by_cells(entries: list[Entry]) -> list:
    """Pieces by our own detector."""
    return _pieces(entries, ShotSignals)


def _by_adaptive(entries: list[Entry]) -> list:
    """Pieces by PySceneDetect's AdaptiveDetector."""
    return _pieces(entries, lambda fps: SceneDetect("adaptive", fps))


def _by_content(entries: list[Entry]) -> list:
    """Pieces by PySceneDetect's ContentDetector."""
    return _pieces(entries, lambda fps: SceneDetect("content", fps))


FIND = {"cells": _by_cells, "adaptive": _by_adaptive, "content": _by_content}


def main(arguments: list[str]) -> None:
    """The verb `dit data cut`."""
    cut(parse(CutSettings, arguments, prog="dit data cut"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("data cut")
