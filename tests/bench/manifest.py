"""What a large manifest takes: to open, to plan by, to draw from, and in memory, of its readers too."""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy

CHECKSUMS = 300  # of a file, four bytes each
BLOCK = 8192
ROWS = (10_000, 100_000, 1_000_000)
DRAWS = 300
TITLES = ("rows", "file MiB", "open s", "plan s", "identity s", "split s", "draw ms", "MiB", "MiB a reader")


def write(file: Path, rows: int) -> None:
    """A manifest of files that are not there, with random checksums."""
    import pyarrow
    import pyarrow.parquet

    from vae.data.columns import Entry, as_row, column_types
    from vae.data.rows import GROUP_ROWS

    draw, schema = random.Random(0), pyarrow.schema(list(column_types().items()))
    with pyarrow.parquet.ParquetWriter(
        file, schema, use_dictionary=["codec", "reader", "decoder", "treatment"]
    ) as writer:
        for first in range(0, rows, BLOCK):
            columns = {name: [] for name in schema.names}
            for k in range(first, min(first + BLOCK, rows)):
                size = draw.choice([(720, 1280), (480, 854), (1080, 1920), (512, 512)])
                about = {"codec": "h264", "duration": CHECKSUMS / 24, "bytes": draw.randrange(10**5, 10**7)}
                about |= {"reader": "decord", "stream": 0, "streams": 1, "decoder": "decord 0.6.0"}
                entry = Entry(
                    CHECKSUMS,
                    24.0,
                    *size,
                    **about,
                    checksums=draw.randbytes(4 * CHECKSUMS),
                    path=Path(f"{k // 1000:05}/clip_{k:08}.mp4"),
                    captions=(f"a caption of clip {k} that is about as long as such are",),
                )
                for name, value in as_row(entry, str(entry.path)).items():
                    columns[name].append(value)
            writer.write_table(pyarrow.table(columns, schema), row_group_size=GROUP_ROWS)


def resident(process=None) -> float:
    """MiB of memory that are a process's alone."""
    import psutil

    return psutil.Process(process).memory_full_info().uss / 2**20


def measure(file: Path) -> list[float]:
    """Seconds and MiB of everything a training does with a manifest before and while it draws."""
    import torch.utils.data

    from configs.data import DataConfig
    from vae.compression import Compression
    from vae.data.clips import VideoFiles, files_hash, held_out_split
    from vae.data.manifest import load_manifest

    class Rows(torch.utils.data.Dataset):
        """Rows alone: no file is there to be decoded."""

        def __getitem__(self, draw: int) -> int:
            return data.entries[draw].frames

    config, before = DataConfig(source=str(file), frames=17, size=256), resident()
    seconds, began = [], time.perf_counter()

    def lap() -> None:
        nonlocal began
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()

    manifest = load_manifest(file)
    lap()
    data = VideoFiles(config, 0, manifest, Compression())
    data.sizes(Compression()).tokens(range(64))
    lap()
    files_hash(data)
    lap()
    held_out_split(len(manifest), manifest.paths, config, 0, 32)
    lap()
    places = numpy.random.default_rng(0).integers(0, len(manifest), DRAWS).tolist()
    times = []
    for place in places:
        began = time.perf_counter()
        data.entries[place]
        times.append(1e3 * (time.perf_counter() - began))
    memory = resident() - before

    # What a reader has for itself, beside one of a manifest that it does not have.
    def of_reader(draws: list[int]) -> float:
        loader = torch.utils.data.DataLoader(Rows(), sampler=draws, num_workers=1, batch_size=1)
        rows = iter(loader)
        for _ in draws:
            next(rows)
        return resident(rows._workers[0].pid)

    few, many = of_reader(places[:2]), of_reader(places)
    return [*seconds, float(numpy.median(times)), memory, many - few]


def as_line(row: list[float]) -> str:
    """A row of the table."""
    return " | ".join([f"{row[0]:,}", *(f"{value:.3f}" for value in row[1:])])


def main() -> None:
    """Prints a row for each number of files, and what follows for ten times the most."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--here", help="measure one manifest, in this process")
    settings = parser.parse_args()
    if settings.here:
        print(*measure(Path(settings.here)))
        return
    print(" | ".join(TITLES))
    table = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in settings.rows:
            file = Path(folder) / f"{rows}.parquet"
            write(file, rows)
            command = [sys.executable, "-m", "tests.bench.manifest", "--here", str(file)]
            measured = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            row = [rows, file.stat().st_size / 2**20, *map(float, measured)]
            table.append(row)
            print(as_line(row), flush=True)
            file.unlink()
    if len(table) > 1:  # a line through the last two, as all but a draw grows with the rows
        (few, *first), (many, *second) = table[-2:]
        rows = 10 * many
        ends = zip(first, second, strict=True)
        print(
            as_line([rows, *(b + (b - a) * (rows - many) / (many - few) for a, b in ends)]), "(extrapolated)"
        )


if __name__ == "__main__":
    main()
