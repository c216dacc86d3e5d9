"""Work on every row of a manifest: by processes, in the manifest's order, each result kept so that it
goes on."""

import base64
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path

from vae.data.columns import Entry
from vae.training.progress import progress

FEW = 16  # files that one more process is not started for
AHEAD = 4  # files that each process has waiting


class Journal:
    """A file beside the output to which every result is added as it comes, by key; it goes when all are
    there."""

    def __init__(self, out: Path, what: str):
        self.file, self.what, self.places = out.with_name(f".{out.name}.{what}.jsonl"), what, {}
        if self.file.is_file():
            with open(self.file, "rb") as lines:
                place, line = 0, b"\n"
                for line in lines:
                    if line.endswith(b"}\n"):
                        self.places[json.loads(line)["key"]] = place
                    place += len(line)
            if not line.endswith(b"\n"):  # a kill cut it
                os.truncate(self.file, place - len(line))
        self.written = open(self.file, "ab")  # noqa: SIM115  # until `done`

    def __contains__(self, key: str) -> bool:
        return key in self.places

    def get(self, key: str):
        """The result of a key."""
        with open(self.file, "rb") as lines:
            lines.seek(self.places[key])
            return _from_text(json.loads(lines.readline())["value"])

    def put(self, key: str, value) -> None:
        """Keeps a result, also if the process is killed after."""
        self.places[key] = self.written.tell()
        self.written.write(json.dumps({"key": key, "value": _to_text(value)}).encode() + b"\n")
        self.written.flush()

    def done(self) -> None:
        """All results are elsewhere."""
        self.written.close()
        self.file.unlink(missing_ok=True)


def _to_text(value):
    """A value that JSON can hold: bytes as base 64."""
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {"dict": {name: _to_text(each) for name, each in value.items()}}
    return [_to_text(each) for each in value] if isinstance(value, list | tuple) else value


def _from_text(value):
    """The inverse of `_to_text`; tuples are lists."""
    if isinstance(value, dict):
        inside = value.get("dict")
        return (
            base64.b64decode(value["bytes"])
            if inside is None
            else {k: _from_text(v) for k, v in inside.items()}
        )
    return [_from_text(each) for each in value] if isinstance(value, list) else value


@contextmanager
def workers(count: int, rows: int) -> Iterator[ProcessPoolExecutor | None]:
    """Processes that work, 0 for as many as there are cores; None for few rows, which one does by itself."""
    count = min(count or os.cpu_count() or 1, rows // FEW)
    if count < 2:
        yield None
        return
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def of_rows(
    entries: Sequence[Entry],
    work: Callable[[list[Entry]], list],
    journal: Journal,
    pool: ProcessPoolExecutor | None,
    bar: "progress",
) -> list:
    """What `work` finds of each of some rows, in their order; those of one file that follow each other
    are one call.

    What the journal has is not worked on again. `work` must be a function of a module, and its result
    JSON's types.
    """
    missing = [entry for entry in entries if entry.key.hex() not in journal]
    files = [list(rows) for _, rows in groupby(missing, lambda entry: entry.path)]
    for rows, results in zip(files, _ahead(pool, work, files), strict=True):
        for entry, result in zip(rows, results, strict=True):
            journal.put(entry.key.hex(), result)
        bar.update(len(rows))
    bar.update(len(entries) - len(missing))
    return [journal.get(entry.key.hex()) for entry in entries]


def _ahead(pool: ProcessPoolExecutor | None, work: Callable, jobs: list) -> Iterator:
    """Results in order, of which so many are worked on ahead."""
    if pool is None:
        yield from map(work, jobs)
        return
    waiting, most = [], AHEAD * pool._max_workers
    for job in jobs:
        waiting.append(pool.submit(work, job))
        if len(waiting) >= most:
            yield waiting.pop(0).result()
    for each in waiting:
        yield each.result()
