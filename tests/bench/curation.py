"""How well curation finds planted faults, and what its signals cost beside plain decoding."""

import argparse
import random
import resource
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout, suppress
from functools import partial
from io import StringIO
from itertools import pairwise
from pathlib import Path

import numpy
import torch

from tests.bench.curation_world import CODECS, FAULTS, RATES, SIZES, Planted, encode, joined, scene
from vae.training.seeds import generator

COPIES = ("copy codec", "copy size", "copy crop", "copy speed")
SHOTS = ("cut", "fade", "dissolve", "flash")
KINDS = ("clean", *SHOTS, *FAULTS, *COPIES, "leak")
CLEAN = 8  # of as many clips as there are kinds and these more, the share that has no fault


def plan(count: int) -> list[Planted]:
    """What clips are drawn: a third without a fault, the rest of each fault alike; copies are of clean
    ones."""
    order, planted, clean = [*["clean"] * CLEAN, *KINDS[1:]], [], []
    for k in range(count):
        fault, draw = order[k % len(order)], generator("curation plan", k)
        name, fps = f"clip{k:05}", RATES[draw.integers(len(RATES))]
        codec = "damaged" if fault == "damaged" else ("h264", "mpeg4")[draw.integers(2)]
        of = ""
        if fault in COPIES or fault == "leak":
            source = clean.pop(0)
            of, fps, codec = source.name, source.fps, "vp9" if fault == "copy codec" else "h264"
        planted.append(Planted(name, fault, codec, fps, of=of))
        if fault == "clean":
            clean.append(planted[-1])
    return planted


def clip_of(name: str, fps: float, other: int = 0) -> numpy.ndarray:
    """The shot that a clip's name draws, or another one of the same size."""
    draw = generator("curation clip", name)
    height, width = SIZES[draw.integers(len(SIZES))]
    return scene(round(fps * draw.uniform(2.0, 3.5)), height, width, fps, name, other)


def resized(clip: numpy.ndarray, scale: float) -> numpy.ndarray:
    """A clip of another size, its sides even."""
    size = [int(side * scale) // 2 * 2 for side in clip.shape[1:3]]
    video = torch.from_numpy(clip).permute(0, 3, 1, 2).float()
    video = torch.nn.functional.interpolate(video, size, mode="bicubic", antialias=True)
    return video.clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def write(planted: Planted, folder: Path) -> list[int]:
    """Writes a clip, and that of which it leaks among those held out; where its shots change."""
    draw, fps, cuts = generator("curation fault", planted.name), planted.fps, []
    clip = clip_of(planted.of or planted.name, fps)
    if planted.fault in ("cut", "fade", "dissolve"):
        clip, at = joined(clip, clip_of(planted.name, fps, 1), planted.fault, fps)
        cuts = [at]
    elif planted.fault == "flash":
        middle = len(clip) // 2
        clip[middle : middle + max(1, round(0.08 * fps))] = 255
    elif planted.fault in FAULTS:
        clip = FAULTS[planted.fault](clip, fps, draw)
    elif planted.fault == "copy size":
        clip = resized(clip, draw.uniform(0.55, 0.8))
    elif planted.fault == "copy crop":
        rows, columns = (round(side * draw.uniform(0.04, 0.1)) for side in clip.shape[1:3])
        clip = clip[:, rows : len(clip[0]) - rows, columns : clip.shape[2] - columns]
    elif planted.fault == "copy speed":
        pace = (0.8, 1.25, 1.5)[draw.integers(3)]
        clip = clip[numpy.arange(0, len(clip) - 1, pace).round().astype(int)]
    elif planted.fault == "leak":
        held = folder / "held-out" / f"{planted.name}.mp4"
        clip = clip_of(f"held out {planted.name}", fps)
        encode(held, clip, fps, "h264")
        clip = resized(clip, 0.8)
    encode(folder / "clips" / f"{planted.name}.{CODECS[planted.codec][0]}", clip, fps, planted.codec)
    return cuts


def curate(folder: Path, workers: int, manifest: Path, name: str) -> Path:
    """The verbs after each other, from a manifest of files to the last one's."""
    from dit.cli import run

    steps = [folder / f"{name}-{verb}.parquet" for verb in ("cut", "filter", "dedup")]
    words = ["--workers", str(workers)]
    for verb, source, out, more in zip(
        ("cut", "filter", "dedup"),
        (manifest, *steps),
        steps,
        ([], [], ["--against", str(folder / "held-out")]),
        strict=False,
    ):
        start = time.perf_counter()
        assert run(["data", verb, str(source), "--out", str(out), *more, *words]) == 0
        print(f"  {verb}: {time.perf_counter() - start:.1f} s")
    return steps[-1]


def rows_of(manifest: Path) -> dict[str, list[tuple[int, int, list[str]]]]:
    """Of each file's stem its spans, in order, and why each is rejected."""
    import pyarrow.parquet

    found = defaultdict(list)
    names = ["path", "start", "end", "rejected"]
    for row in pyarrow.parquet.read_table(manifest, columns=names).to_pylist():
        found[Path(row["path"]).stem].append((row["start"], row["end"], row["rejected"]))
    return {stem: sorted(spans) for stem, spans in found.items()}


def right(planted: Planted, cuts: list[int], spans: list[tuple[int, int, list[str]]], all_rows: dict) -> bool:
    """Whether a clip's fault was found: its reason is given, or the spans that are kept change where
    shots do."""
    whole = [(start, end) for start, end, why in spans if not any(each.startswith("cut: ") for each in why)]
    if planted.fault in SHOTS:
        edges = [(one[1], other[0]) for one, other in pairwise(whole)]
        return len(edges) == len(cuts) and all(a <= at <= b for (a, b), at in zip(edges, cuts, strict=True))
    said = " ".join(each for *_, why in spans for each in why)
    if planted.fault == "leak":
        return "dedup: leak" in said
    if planted.fault in COPIES:  # of two copies one must go
        other = " ".join(each for *_, why in all_rows.get(planted.of, []) for each in why)
        return "dedup: copy" in said + other
    wanted = ["filter: dark", "filter: black"] if planted.fault == "dark" else [f"filter: {planted.fault}"]
    return any(each in said for each in wanted)


def throughput(files: list[Path], seconds: float = 4.0) -> None:
    """Prints frames a second of processor time: decoding by the one reader, with the signals, with the
    shots."""
    from vae.curation.shots import ShotSignals
    from vae.curation.signals import Signals
    from vae.data.stream import stream_frames
    from vae.data.video import UnreadableVideo, probe

    def busy() -> float:
        return sum(
            sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )

    print("\nframes a second of one core: decoding, with all signals, with shots; their shares of decoding")
    totals = numpy.zeros(3)
    for file in files:
        with suppress(UnreadableVideo):
            known = probe(file)
            took = numpy.zeros((0, 3))
            begin = time.perf_counter()
            while len(took) < 3 or time.perf_counter() - begin < seconds:
                row = []
                for new in (None, Signals, ShotSignals):
                    state = (
                        None
                        if new is None
                        else ShotSignals(known.fps)
                        if new is ShotSignals
                        else new(known.fps, known.frames, known.height, known.width)
                    )
                    start = busy()
                    for _, part in stream_frames(file, known, 0, known.frames):
                        if state is not None:
                            state.add(part)
                    if state is not None:
                        state.result() if new is Signals else state.pieces()
                    row.append(busy() - start)
                took = numpy.concatenate([took, [row]])
            row = numpy.median(took, 0)
            totals += row
            rates = ", ".join(f"{known.frames / each:.0f}" for each in row)
            print(
                f"  {file.name} {known.width}x{known.height}: {rates}; "
                f"{row[0] / row[1]:.2f}, {row[0] / row[2]:.2f}"
            )
    print(f"  all: signals {totals[0] / totals[1]:.2f}, shots {totals[0] / totals[2]:.2f} of decoding")


def main() -> None:
    """Draws the set, curates it, and prints recall by fault, what was wrongly rejected, and throughput."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep the set here; what is there is not drawn again")
    parser.add_argument(
        "--again", action="store_true", help="once more in one process, the rows in another order"
    )
    parser.add_argument("--real", type=Path, help="folder of videos that throughput is measured on")
    arguments = parser.parse_args()
    if arguments.real:
        throughput(
            sorted(
                path for path in arguments.real.iterdir() if path.suffix in (".mp4", ".mkv", ".avi", ".webm")
            )
        )
    if not arguments.clips:
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        planted, cuts = plan(arguments.clips), {}
        for name in ("clips", "held-out"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        with ProcessPoolExecutor(arguments.workers) as pool:
            for clip, at in zip(
                planted, pool.map(partial(write, folder=folder), planted, chunksize=8), strict=True
            ):
                cuts[clip.name] = at
        print(f"{len(planted)} clips drawn in {time.perf_counter() - start:.0f} s")
        from dit.cli import run

        for name in ("clips", "held-out"):
            assert run(["data", "index", str(folder / name), "--workers", str(arguments.workers)]) == 0
        last = curate(folder, arguments.workers, folder / "clips" / "manifest.parquet", "all")
        report(planted, cuts, rows_of(last))
        if arguments.again:
            again(folder, last)


def report(planted: list[Planted], cuts: dict[str, list[int]], rows: dict) -> None:
    """Prints recall by fault, and what was wrongly rejected."""
    hits, totals, missed = Counter(), Counter(), defaultdict(list)
    copied = {clip.of for clip in planted if clip.fault in COPIES}
    for clip in planted:
        if clip.fault == "clean":
            continue
        totals[clip.fault] += 1
        good = right(clip, cuts[clip.name], rows[clip.name], rows)
        hits[clip.fault] += good
        if not good:
            missed[clip.fault].append(clip.name)
    for fault, total in totals.items():
        print(
            f"{fault:12} {hits[fault]:5} of {total:5}  {hits[fault] / total:.1%} "
            f"{' '.join(missed[fault][:4])}"
        )
    faults = sum(total for fault, total in totals.items() if fault != "flash")
    print(f"recall {sum(n for fault, n in hits.items() if fault != 'flash') / faults:.2%}")
    sound = [clip for clip in planted if clip.fault in ("clean", "flash") and clip.name not in copied]
    wrong = [
        clip.name for clip in sound if any(why for *_, why in rows[clip.name]) or len(rows[clip.name]) > 1
    ]
    print(f"wrongly rejected or cut: {len(wrong)} of {len(sound)}, {len(wrong) / len(sound):.2%}")
    for name in wrong[:8]:
        print(f"  {name}: {rows[name]}")


def again(folder: Path, last: Path) -> None:
    """Curates once more, in one process and from rows in another order, and says whether all is the same."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(folder / "clips" / "manifest.parquet")
    order = list(range(len(table)))
    random.Random(1).shuffle(order)
    (folder / "other").mkdir(exist_ok=True)
    other = folder / "clips" / "shuffled.parquet"
    pyarrow.parquet.write_table(table.take(order), other, row_group_size=256)
    with redirect_stdout(StringIO()):
        second = curate(folder, 1, other, "again")

    def content(file: Path) -> list:
        rows = pyarrow.parquet.read_table(file).to_pylist()
        return sorted((sorted(row.items(), key=str) for row in rows), key=str)

    print("one process and another order give the same rows:", content(last) == content(second))


if __name__ == "__main__":
    main()
