"""`dit data index FOLDER`: decodes every video and image of a folder once and writes a manifest of them."""

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from configs.load import Positional, parse
from configs.ranges import Workers
from vae.data.captions import find_captions, find_tables
from vae.data.columns import Entry
from vae.data.images import IMAGES
from vae.data.manifest import HALF, NAME, check_output, passed_over, save_manifest, walk
from vae.data.tables import few
from vae.data.video import VIDEOS, Probe, UnreadableVideo, probe
from vae.training.progress import progress, say


@dataclass(frozen=True)
class IndexSettings:
    """Make a manifest of a folder: every video and image is decoded once, what is damaged is left out."""

    folder: Positional[str] = ""
    """Folder of videos and images; a clip's captions are the lines of its `.txt` file, or in a table."""
    out: str = ""
    """File to write; empty writes `manifest.parquet` in the folder, where `--data.source FOLDER` finds it."""
    workers: Workers = 0
    """Files decoded at the same time; 0 takes as many as there are cores."""


def index(settings: IndexSettings) -> Path:
    """Writes the manifest and returns its path; bad files are named on stderr with their reason.

    Raises ValueError where the folder is not there or nothing in it can be read.
    """
    folder = Path(settings.folder)
    if not settings.folder or not folder.is_dir():
        raise ValueError(f"{settings.folder or 'no folder given'}: give a folder, `dit data index FOLDER`")
    out = Path(settings.out) if settings.out else folder / NAME
    check_output(out)
    there, broken = walk(folder)
    if broken:
        names = few([str(path.relative_to(folder)) for path in broken])
        print(f"note: {len(broken)} links or folders cannot be followed: {names}", file=sys.stderr)
    files = [path for path in there if path.suffix.lower() in IMAGES | VIDEOS]
    if not files:
        raise ValueError(f"{folder} holds no video or image")
    captions, notes = find_captions(folder, files)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    tables = find_tables(folder, files)
    rest = (path for path in passed_over(folder, there, files) if path not in tables)
    if others := [str(path.relative_to(folder)) for path in rest]:
        print(f"note: {len(others)} files are no video or image: {few(others)}", file=sys.stderr)
    entries, bad = probe_all(files, captions, settings.workers)
    if not entries:
        raise ValueError(f"none of the {len(files)} files in {folder} can be read")
    bad_files = sorted({*files} - {entry.path for entry in entries})
    own = os.path.abspath(out.parent) == os.path.abspath(folder)
    save_manifest(out, entries, bad_files if own else None)
    print(summary(entries, bad, out))
    return out


def probe_all(
    files: list[Path], captions: Mapping[Path, tuple[str, ...]], workers: int
) -> tuple[list[Entry], int]:
    """The entries of files that can be read, in their order, and how many cannot, each with its reason."""
    entries, bad = [], 0
    # Threads suffice: decoding happens in processes of its own or with the interpreter's lock released.
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        results = pool.map(_try_probe, files)
        for file, result in zip(
            files, progress(results, total=len(files), desc="index", unit="file"), strict=True
        ):
            if isinstance(result, UnreadableVideo):
                bad += 1
                say(f"bad: {result}")
                continue
            if result.streams > 1:
                others = f"{result.streams} video streams; stream {result.stream}, the first, is read"
                say(f"note: {file} has {others}")
            entries.append(
                Entry(**asdict(result), path=file, captions=captions[file], modified=file.stat().st_mtime_ns)
            )
    return entries, bad


def write_manifest(entries: list[Entry], bad: int, out: Path, about: str, names: list[str]) -> Path:
    """Writes the manifest of a data set with a list, and says what is in it; the list has a hash.

    Raises ValueError where there is no entry.
    """
    if not entries:
        raise ValueError(f"none of the {bad} videos can be read")
    check_output(out)
    save_manifest(out, entries)
    print(summary(entries, bad, out))
    print(f"{about} {list_hash(names)[:12]}: {len(entries)} of {len(names)} videos")
    return out


def one_each(named: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """The first file of each name; raises ValueError for another that is not a link to it."""
    files: dict[str, Path] = {}
    for name, file in named:
        if not file.is_file():
            continue  # a broken link, or a folder
        if not files.setdefault(name, file).samefile(file):
            raise ValueError(f"{files[name]} and {file} are one video: which is it?")
    return files


def list_hash(names: list[str]) -> str:
    """SHA-256 of the sorted names, a line each."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def _try_probe(file: Path) -> Probe | UnreadableVideo:
    """What a file holds, or what is wrong with it, its name included: a manifest's are UTF-8."""
    try:
        if HALF.search(str(file)):
            raise UnreadableVideo(f"{str(file)!a}: its name is not UTF-8: rename it")
        return probe(file)
    except UnreadableVideo as error:
        return error
    except OSError as error:
        return UnreadableVideo(f"{file} cannot be read: {error.strerror}")


def summary(entries: list[Entry], bad: int, out: Path) -> str:
    """The manifest in numbers."""
    videos = [entry for entry in entries if entry.reader != "image"]
    slow = sum(entry.reader == "sequential" for entry in videos)
    hours = sum(entry.frames / entry.fps for entry in videos) / 3600
    done = Counter(name for entry in entries for name in entry.treatment.split(", ") if name)
    done["animations"] = sum(entry.reader == "animation" for entry in videos)
    told = "".join(f"; {count} {name}" for name, count in done.items() if count)
    return (
        f"{out}: {len(videos)} videos ({sum(v.frames for v in videos)} frames, {hours:.2f} h; "
        f"{slow} can only be read from their start), {len(entries) - len(videos)} images, "
        f"{sum(not entry.captions for entry in entries)} without a caption; {bad} bad files left out{told}"
    )


def main(arguments: list[str]) -> None:
    """The verb `dit data index`."""
    index(parse(IndexSettings, arguments, prog="dit data index"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("data index")
