"""The signals of a manifest's rows, measured where they are not there yet: one pass over each file."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from vae.curation import signals
from vae.curation.signals import Signals
from vae.curation.work import Journal, of_rows
from vae.data.columns import Entry
from vae.data.images import UnreadableVideo
from vae.data.manifest import NAME
from vae.data.stream import check_frames, stream_frames


def types() -> dict:
    """The type of each column of signals."""
    import pyarrow

    kinds = {
        "crop": pyarrow.list_(pyarrow.int64()),
        "signature": pyarrow.binary(),
        "signals": pyarrow.int64(),
    }
    return {name: kinds.get(name, pyarrow.float64()) for name in signals.COLUMNS}


def measure(entries: list[Entry]) -> list[dict | str]:
    """The signals of spans of one file, decoded once; of one that cannot be read, what is wrong."""
    first, end = min(entry.start for entry in entries), max(entry.end for entry in entries)
    spans = [Signals(e.fps, e.frames, e.height, e.width) for e in entries]
    try:
        for number, part in stream_frames(entries[0].path, entries[0], first, end):
            for entry, span in zip(entries, spans, strict=True):
                low, high = max(number, entry.start), min(number + len(part), entry.end)
                if low < high:
                    frames = part[low - number : high - number]
                    check_frames(entry.path, entry, low - entry.start, frames)
                    span.add(frames)
        return [span.result() for span in spans]
    except (UnreadableVideo, ValueError) as error:
        return [str(error)] * len(entries)


def with_signals(table, entries: Sequence[Entry], journal: Journal, pool: ProcessPoolExecutor | None, bar):
    """A table with the columns of signals, and what is wrong with rows that cannot be read, by their place.

    Rows that have them, of this version, are not measured again.
    """
    import pyarrow

    there = table["signals"].to_pylist() if "signals" in table.column_names else [None] * len(table)
    places = [k for k, version in enumerate(there) if version != signals.VERSION]
    found = of_rows([entries[k] for k in places], measure, journal, pool, bar)
    bar.update(len(table) - len(places))
    new = dict(zip(places, found, strict=True))
    wrong = {k: value for k, value in new.items() if isinstance(value, str)}
    for name, kind in types().items():
        old = table[name].to_pylist() if name in table.column_names else [None] * len(table)
        cells = [old[k] if k not in new else None if k in wrong else new[k][name] for k in range(len(table))]
        table = put_column(table, name, pyarrow.array(cells, kind))
    return table, wrong


def put_column(table, name: str, values):
    """A table with a column, in the place of one of that name."""
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, values)
    return table.append_column(name, values)


def rejected(table, verb: str, reasons: dict[int, list[str]]):
    """A table whose rows at some places are rejected for reasons of a verb; what it said before is gone."""
    import pyarrow

    cells = [
        [why for why in cell if not why.startswith(f"{verb}: ")] for cell in table["rejected"].to_pylist()
    ]
    for place, why in reasons.items():
        cells[place] += [f"{verb}: {each}" for each in why]
    return put_column(table, "rejected", pyarrow.array(cells, pyarrow.list_(pyarrow.string())))


def beside(source: str, out: str, name: str) -> Path:
    """Where a verb writes: as it is told, else beside its source with a name of its own."""
    if out:
        return Path(out)
    source = Path(source)
    if source.is_dir() and not (source / NAME).is_file():
        raise ValueError(
            f"{source} is a folder of several manifests, where another would be one of them: give --out"
        )
    return (source if source.is_dir() else source.parent) / f"{name}.parquet"
