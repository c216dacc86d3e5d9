"""`dit data msrvtt ROOT`: a manifest of MSR-VTT's videos by its official annotation files, with captions."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from typing_extensions import TypedDict

from configs.load import Positional, from_json, parse, parse_json
from configs.ranges import Workers
from vae.data.index import one_each, probe_all, write_manifest
from vae.data.manifest import NAME
from vae.data.tables import few, read_text
from vae.data.video import VIDEOS


@dataclass(frozen=True)
class MsrvttSettings:
    """Make a manifest of MSR-VTT by its official annotation files, with their captions."""

    root: Positional[str] = ""
    """Folder with the videos and the annotation files, in it or below."""
    split: Literal["test", "train", "validate", "all"] = "test"
    """Which videos."""
    out: str = ""
    """File to write; empty is manifest.parquet in the folder."""
    workers: Workers = 0
    """Threads that probe files; 0 is one for each core."""


NAMED = re.compile(r"[\w-]{1,100}")  # a video, whose name becomes that of a file


class Video(TypedDict):
    """A video of an annotation file."""

    video_id: str
    split: str


class Sentence(TypedDict):
    """A caption of an annotation file."""

    video_id: str
    sen_id: int
    caption: str


class Annotations(TypedDict):
    """The parts of an annotation file."""

    videos: list[Video]
    sentences: list[Sentence]


FILES = {"train": "train_val_videodatainfo.json", "test": "test_videodatainfo.json"}
FILES["validate"] = FILES["train"]
COUNTS = {"train": 6513, "validate": 497, "test": 2990}
CAPTIONS = 20


def read_annotations(root: Path, split: str) -> dict[str, list[str]]:
    """The captions of every video of a split, in the order of their numbers; ValueError for other files.

    The files are looked for in and below the folder.
    """
    parts = tuple(COUNTS) if split == "all" else (split,)
    captions: dict[str, list[str]] = {}
    for name in dict.fromkeys(FILES[part] for part in parts):
        files = sorted(root.rglob(name))
        if not files:
            raise ValueError(f"{root} holds no {name}: it is MSR-VTT's annotation file")
        try:
            values = from_json(Annotations, parse_json(read_text(files[0]), files[0]), files[0])
        except ValueError as error:
            raise ValueError(f"{error}: it is no annotation file of MSR-VTT") from None
        for name in (video["video_id"] for video in values["videos"]):
            if not NAMED.fullmatch(name):
                raise ValueError(f"{files[0]}: {name!r} is no name of a video of MSR-VTT, such as video7010")
        videos = {v["video_id"] for v in values["videos"] if v["split"] in parts}
        rows = sorted(values["sentences"], key=lambda row: (row["video_id"], row["sen_id"]))
        rows = [(row["video_id"], " ".join(row["caption"].split())) for row in rows]
        captions |= {name: [] for name in videos}
        for video, caption in rows:
            if video in videos:
                captions[video].append(caption)
    if not captions:
        raise ValueError(f"{root} has annotations, but of no video of {split}")
    return captions


def number(name: str) -> tuple[int, str]:
    """The number in `video123`, by which videos are ordered."""
    digits = "".join(c for c in name if c.isdigit())
    return int(digits or 0), name


def find_videos(root: Path, names: list[str]) -> tuple[dict[str, Path], list[str]]:
    """The files of the videos in and below a folder, and what is missing; ValueError for two of one name."""
    known = set(names)
    videos = (file for file in sorted(root.rglob("video*")) if file.suffix.lower() in VIDEOS)
    files = one_each((file.stem, file) for file in videos if file.stem in known)
    return files, [name for name in names if name not in files]


def msrvtt(settings: MsrvttSettings) -> Path:
    """Writes the manifest, with every caption of every video; returns its path.

    Raises ValueError for a wrong root or wrong annotations, or where no video is there.
    """
    root = Path(settings.root)
    if not settings.root or not root.is_dir():
        raise ValueError(f"{settings.root or 'no folder given'}: give MSR-VTT's, `dit data msrvtt ROOT`")
    captions = read_annotations(root, settings.split)
    names = sorted(captions, key=number)
    official = sum(COUNTS.values()) if settings.split == "all" else COUNTS[settings.split]
    if len(names) != official:
        print(f"note: {len(names)} videos in the annotations, and MSR-VTT has {official}", file=sys.stderr)
    few_captions = [name for name in names if len(captions[name]) != CAPTIONS]
    if few_captions:
        print(
            f"note: {len(few_captions)} videos have not {CAPTIONS} captions: {few(few_captions)}",
            file=sys.stderr,
        )
    there, missing = find_videos(root, names)
    if missing:
        print(f"note: {len(missing)} of {len(names)} videos are missing: {few(missing)}", file=sys.stderr)
    if not there:
        raise ValueError(f"{root} holds none of the {len(names)} videos of {settings.split}")
    files = [there[name] for name in names if name in there]
    entries, bad = probe_all(files, {there[n]: tuple(captions[n]) for n in there}, settings.workers)
    out = Path(settings.out) if settings.out else root / NAME
    return write_manifest(entries, bad, out, f"MSR-VTT {settings.split}, list", names)


def main(arguments: list[str]) -> None:
    """The verb `dit data msrvtt`."""
    msrvtt(parse(MsrvttSettings, arguments, prog="dit data msrvtt"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("data msrvtt")
