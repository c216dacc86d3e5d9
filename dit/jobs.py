"""`dit sample --jobs FILE.jsonl`: every line a call of its own, shared by processes, resumed, and listed."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from configs.load import from_json, to_json
from configs.sampling import SampleSettings
from dit import load
from dit.cli import sentence
from dit.givens import FILES
from dit.record import FORMATS
from dit.requests import from_folder
from vae.data.tables import read_table
from vae.training.files import naming, write_text
from vae.training.processes import gathered, processes

RESULTS = "results.jsonl"
REFUSED = ("jobs", "again")  # a line is neither more lines nor a video of before


def run_jobs(settings: SampleSettings, sample: Callable, files_of: Callable) -> list[Path]:
    """Runs the calls of a file by `dit.sample.sample` and returns their files, with the list of them last.

    `files_of` are those that a call writes. What is there with the same record is kept, as `sample` does. A
    job that fails is listed with its reason, and the others go on. Several processes share the jobs. Raises
    ValueError for a line that is no job, or would write another's file, before anything is made; and at the
    end, where one failed.
    """
    file, out = Path(settings.jobs), Path(settings.out)
    if settings.prompts or settings.prompts_file or settings.again:
        raise ValueError(
            "--jobs has the prompts in its lines: it takes no other, no --prompts-file, no --again"
        )
    if out.suffix.lower() in FORMATS:
        raise ValueError(f"--out {out} is one file: give --jobs a folder")
    jobs = read_jobs(file, settings)
    _check_apart(file, jobs, files_of)
    rank, ranks = processes()
    keeping = lru_cache(maxsize=1)(load.load_model)  # of jobs of one model the same
    rows = []
    for number in range(rank, len(jobs), ranks):
        row = {"job": number + 1}
        try:
            row["files"] = [str(made) for made in sample(jobs[number], None, keeping, (0, 1))]
        except (ValueError, OSError, MemoryError, RuntimeError) as error:  # of memory, the last two
            row["error"] = sentence(error)
        rows.append(row)
        if ranks == 1:
            _list(out, rows)
    rows = sorted(gathered(rows), key=lambda row: row["job"])
    if rank:
        return []
    _list(out, rows)
    failed = [row for row in rows if "error" in row]
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(rows)} jobs failed, as {out / RESULTS} says; the first, of line "
            f"{failed[0]['job']}: {failed[0]['error']}"
        )
    return [*(Path(name) for row in rows for name in row["files"]), out / RESULTS]


def read_jobs(file: Path, settings: SampleSettings) -> list[SampleSettings]:
    """The settings of every line: what it leaves out is the command line's; ValueError names a wrong line."""
    if not file.is_file():
        raise ValueError(f"{file}: no such file of jobs")
    if file.suffix.lower() != ".jsonl":
        raise ValueError(f"{file}: jobs are JSON lines: give a file that ends in .jsonl")
    jobs, alike = [], to_json(replace(settings, jobs=""))
    for row in read_table(file, {}):
        where, cells = f"{file}, {row.place}", dict(row.cells)
        for name, ours in {"prompt": "prompts", "negative_prompt": "negative"}.items():
            if name in cells:
                if ours in cells:
                    raise ValueError(f"{where}, has both {name} and {ours}: leave one")
                cells[ours] = cells.pop(name)
        if isinstance(cells.get("prompts"), str):
            cells["prompts"] = [cells["prompts"]]
        if wrong := [name for name in REFUSED if name in cells]:
            raise ValueError(f"{where}, has {wrong[0]}, which no job takes")
        job = from_json(SampleSettings, alike | cells, where)
        job = replace(job, **from_folder(job, {*FILES, "prompts_file"} & cells.keys(), file.parent))
        if not (job.prompts or job.prompts_file):
            raise ValueError(f"{where}, has no prompt")
        jobs.append(job)
    if not jobs:
        raise ValueError(f"{file} holds no job")
    return jobs


def _check_apart(file: Path, jobs: list[SampleSettings], files_of: Callable) -> None:
    """Raises ValueError where two jobs would write one file."""
    known: dict[Path, int] = {}
    for number, job in enumerate(jobs):
        with naming(f"{file}, line {number + 1}"):
            for made in files_of(job):
                if known.setdefault(made, number) != number:
                    raise ValueError(
                        f"it would write {made}, as line {known[made] + 1} does: give it another seed"
                    )


def _list(out: Path, rows: list[dict]) -> None:
    """Writes the list of results, a line each."""
    write_text(out / RESULTS, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
