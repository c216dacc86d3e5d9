"""`dit data ucf101 ROOT --lists LISTS`: a manifest of UCF-101 by its official lists, with prompts."""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configs.load import Positional, parse
from configs.ranges import Workers
from vae.data.index import one_each, probe_all, write_manifest
from vae.data.manifest import NAME
from vae.data.tables import few, lines_of, read_text


@dataclass(frozen=True)
class Ucf101Settings:
    """Make a manifest of UCF-101 by its official lists, with a prompt for each class."""

    root: Positional[str] = ""
    """Folder with the videos, in their classes' folders or not."""
    lists: str = ""
    """Folder with the official lists: classInd.txt, trainlist01.txt and so on."""
    split: Literal["all", "train1", "train2", "train3", "test1", "test2", "test3"] = "all"
    """Which videos; `all` are those of split 1, both parts."""
    prompts: Literal["sentences", "names"] = "sentences"
    """Captions: a sentence of ours for each class, or its bare name."""
    out: str = ""
    """File to write; empty is manifest.parquet in the folder."""
    workers: Workers = 0
    """Threads that probe files; 0 is one for each core."""


# A sentence for each class, in our own words; another wording is another version.
PROMPTS = json.loads(Path(__file__).with_name("ucf101_prompts.json").read_text())
VERSION = 1
SPLITS = ("all", *(f"{part}{number}" for part in ("train", "test") for number in (1, 2, 3)))
TESTED = {"1": range(1, 8), "2": range(8, 15), "3": range(15, 22)}  # of every class's groups, by split
CLASSES, VIDEOS = 101, 13320
NAMED = re.compile(r"[A-Za-z]+/v_[A-Za-z]+_g\d\d_c\d\d\.avi")


def read_classes(lists: Path) -> list[str]:
    """The names of the classes in `classInd.txt`, in their order; raises ValueError for another file."""
    rows = [line.split() for line in _read_lines(lists / "classInd.txt")]
    if any(len(row) != 2 or not row[0].isdigit() for row in rows):
        raise ValueError(f"{lists / 'classInd.txt'}: a line is a number and a class")
    return [name for _, name in rows]


def read_split(lists: Path, split: str) -> list[str]:
    """The videos `CLASS/v_CLASS_gXX_cYY.avi` of a split, sorted; `all` are those of split 1, both parts."""
    names = []
    for part in ("train1", "test1") if split == "all" else (split,):
        file = lists / f"{part[:-1]}list0{part[-1]}.txt"
        for line in _read_lines(file):
            name = line.split()[0]
            if not NAMED.fullmatch(name):
                raise ValueError(f"{file}: {line!r} is no CLASS/v_CLASS_gXX_cYY.avi")
            names.append(name)
    return sorted(names)


def _read_lines(file: Path) -> list[str]:
    """The lines of an official list that hold anything; raises ValueError where it is not there."""
    if not file.is_file():
        raise ValueError(f"{file}: no such list; UCF-101's are in its ucfTrainTestlist folder")
    return [line.strip() for line in lines_of(read_text(file)) if line.strip()]


def find_videos(root: Path, names: list[str]) -> tuple[dict[str, Path], list[str]]:
    """The files of a split in or below a folder, by their names, and which names are missing.

    Case does not tell videos apart: copies are about whose class is HandStandPushups in one place and
    HandstandPushups in another. Raises ValueError where two files have one name.
    """
    files = one_each((file.name.lower(), file) for file in sorted(root.rglob("*.[aA][vV][iI]")))
    spelled = {name: name.split("/")[1].lower() for name in names}
    there = {name: files[key] for name, key in spelled.items() if key in files}
    return there, [name for name in names if name not in there]


def counts_of(split: str) -> dict[str, int]:
    """How many videos of a split each class has: those of whole groups are tested on, all others trained."""
    published = json.loads(Path(__file__).with_name("ucf101_videos.json").read_text())["frames"]
    spelled = {kind.lower(): kind for kind in PROMPTS}  # HandStandPushups there, HandstandPushups here
    tested = {f"g{number:02d}" for number in TESTED.get(split[-1], ())}
    return {
        spelled[kind.lower()]: sum(
            len(videos)
            for group, videos in groups.items()
            if split == "all" or (group in tested) == split.startswith("test")
        )
        for kind, groups in published.items()
    }


def classes_in_proportion(split: str) -> list[str]:
    """The classes of a split's videos, each spread evenly, so that any first part has the whole's shares."""
    counts = counts_of(split)
    places = [((k + 0.5) / count, kind) for kind, count in counts.items() for k in range(count)]
    return [kind for _, kind in sorted(places)]


def words(name: str) -> str:
    """The bare name of a class as words: ApplyEyeMakeup becomes `apply eye makeup`."""
    return " ".join(re.findall(r"[A-Z][a-z]*|[a-z]+", name)).lower()


def ucf101(settings: Ucf101Settings) -> Path:
    """Writes the manifest, its captions the class's sentence or its bare name; returns its path.

    Raises ValueError for a wrong root, wrong lists, or where no video of the split is there.
    """
    root, lists = Path(settings.root), Path(settings.lists)
    if not settings.root or not root.is_dir():
        raise ValueError(f"{settings.root or 'no folder given'}: give UCF-101's, `dit data ucf101 ROOT`")
    if not settings.lists:
        raise ValueError("--lists: give the folder of the official lists, with classInd.txt")
    classes, names = read_classes(lists), read_split(lists, settings.split)
    strange = sorted({name.split("/")[0] for name in names} - set(classes))
    if strange:
        raise ValueError(f"{lists}: the lists have classes that classInd.txt has not: {few(strange)}")
    there, missing = find_videos(root, names)
    if missing:
        print(f"note: {len(missing)} of {len(names)} videos are missing: {few(missing)}", file=sys.stderr)
    if not there:
        raise ValueError(f"{root} holds none of the {len(names)} videos of {settings.split}")
    captions = {}
    for name, file in there.items():
        kind = name.split("/")[0]
        sentence = words(kind) if settings.prompts == "names" else PROMPTS.get(kind, words(kind))
        captions[file] = (sentence,)
    entries, bad = probe_all([there[name] for name in sorted(there)], captions, settings.workers)
    out = Path(settings.out) if settings.out else root / NAME
    prompts = f"sentences, version {VERSION}" if settings.prompts == "sentences" else "bare names"
    about = f"UCF-101 {settings.split} ({len(classes)} classes; prompts: {prompts}), list"
    return write_manifest(entries, bad, out, about, names)


def main(arguments: list[str]) -> None:
    """The verb `dit data ucf101`."""
    ucf101(parse(Ucf101Settings, arguments, prog="dit data ucf101"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("data ucf101")
