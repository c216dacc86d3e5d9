"""`dit data dedup MANIFEST`: copies within a manifest, and leaks of others, as held-out or benchmark
videos."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from configs.load import Positional, parse
from configs.ranges import Workers
from vae.curation import signals
from vae.curation.copies import Copy, find_copies
from vae.curation.measure import beside, measure, put_column, rejected
from vae.curation.work import Journal, of_rows, workers
from vae.data.columns import Entry
from vae.data.manifest import Manifest, load_manifest, rewrite
from vae.training.progress import progress


@dataclass(frozen=True)
class DedupSettings:
    """Reject near-duplicates, whatever their codec, size, speed or small crop, and leaks of held-out
    videos."""

    source: Positional[str] = ""
    """Manifest, or folder with one."""
    against: tuple[str, ...] = ()
    """Manifests of what must not be trained on: a copy of any of their videos is rejected as a leak."""
    held_out: tuple[str, ...] = ("test", "val", "validation", "held-out")
    """Values of the column `split` whose rows must not be trained on either; they are never rejected."""
    out: str = ""
    """Manifest to write; empty writes `distinct.parquet` beside the source."""
    workers: Workers = 0
    """Processes that decode what was not measured; 0 takes as many as there are cores."""


@dataclass(frozen=True)
class _Row:
    """What is needed of a row: where it is, how good, and whether it must not be trained on."""

    name: str
    group: str
    rank: tuple
    held_out: str


def dedup(settings: DedupSettings) -> Path:
    """Writes the manifest with reasons and the column `copy_of`, and returns its path."""
    if not settings.source:
        raise ValueError("no manifest given: `dit data dedup MANIFEST`")
    out, manifest = beside(settings.source, settings.out, "distinct"), load_manifest(settings.source)
    others = [load_manifest(source) for source in settings.against]
    count = len(manifest) + sum(map(len, others))
    journal = Journal(out, f"signatures-{signals.VERSION}")
    rows, signatures = [], []
    with workers(settings.workers, count) as pool, progress(total=count, desc="dedup") as bar:
        for number, about in enumerate(["", *settings.against]):
            for entry, signature in _signatures([manifest, *others][number], journal, pool, bar):
                held = about or (entry.split if entry.split in settings.held_out else "")
                # Rows of one file are parts of it, but on two sides they may be leaks.
                group = f"{number} {held} {entry.path.resolve()}"
                rows.append(_Row(_named(entry), group, _rank(entry), held))
                signatures.append(signature)
    numbers = {name: k for k, name in enumerate(dict.fromkeys(row.group for row in rows))}
    copies = find_copies(signatures, [numbers[row.group] for row in rows])
    chosen = _choose(rows, copies)
    first, counts = 0, Counter()

    def change(table):
        nonlocal first
        import pyarrow

        reasons, names = {}, []
        for place in range(len(table)):
            kept, share = chosen.get(first + place, (None, 0.0))
            names.append(None if kept is None else rows[kept].name)
            if kept is not None:
                what = f"leak of {rows[kept].held_out}" if rows[kept].held_out else "copy"
                reasons[place] = [f"{what} ({rows[kept].name}, {share:.0%} of frames)"]
                counts["leaks" if rows[kept].held_out else "copies"] += 1
        first += len(table)
        return put_column(
            rejected(table, "dedup", reasons), "copy_of", pyarrow.array(names, pyarrow.string())
        )

    rewrite(settings.source, out, change)
    journal.done()
    print(f"{out}: {len(manifest)} rows, {counts['copies']} copies, {counts['leaks']} leaks")
    return out


def _signatures(manifest: Manifest, journal: Journal, pool, bar):
    """Every row with its signature, measured where its manifest has none; one that cannot be read has b""."""
    entries = iter(manifest)
    names = ["path", "signature", "signals"]
    there = set(names) <= {name for file in manifest.files.opened for name in file.schema_arrow.names}
    for table, _ in manifest.tables(names if there else names[:1]):
        part = [next(entries) for _ in range(len(table))]
        known: list = [None] * len(part)
        if there:
            versions = table["signals"].to_pylist()
            cells = zip(table["signature"].to_pylist(), versions, strict=True)
            known = [signature if version == signals.VERSION else None for signature, version in cells]
        missing = [entry for entry, signature in zip(part, known, strict=True) if signature is None]
        found = iter(of_rows(missing, _signature, journal, pool, bar))
        bar.update(len(part) - len(missing))
        yield from ((e, next(found) if s is None else s) for e, s in zip(part, known, strict=True))


def _signature(entries: list[Entry]) -> list[bytes]:
    """The signatures of rows of one file."""
    return [b"" if isinstance(found, str) else found["signature"] for found in measure(entries)]


def _named(entry: Entry) -> str:
    """A row in words."""
    return f"{entry.path.name} {entry.start}-{entry.end}"


def _rank(entry: Entry) -> tuple:
    """Which of two copies stays, the lower: that which nothing else rejects, of more pixels, of longer
    duration,
    of more bytes a frame; then by content and name, so that no order of rows matters."""
    others = [why for why in entry.rejected if not why.startswith("dedup: ")]
    best = -entry.height * entry.width, -entry.duration, -entry.bytes / entry.end
    return bool(others), *best, entry.key, str(entry.path), entry.start


def _choose(rows: list[_Row], copies: list[Copy]) -> dict[int, tuple[int, float]]:
    """The rows that go, each with one that stays of which it is a copy, and their share.

    From the best to the worst: who is a copy of one that stays goes, so that a chain of copies loses none
    that is a copy of no other. What is held out comes first and stays.
    """
    links: dict[int, dict[int, float]] = {}
    for copy in copies:
        links.setdefault(copy.one, {})[copy.other] = copy.share
        links.setdefault(copy.other, {})[copy.one] = copy.share
    stays, gone = {k for k in links if rows[k].held_out}, {}
    for k in sorted(links.keys() - stays, key=lambda k: rows[k].rank):
        near = sorted(stays & links[k].keys(), key=lambda j: (not rows[j].held_out, rows[j].rank))
        if near:
            gone[k] = near[0], links[k][near[0]]
        else:
            stays.add(k)
    return gone


def main(arguments: list[str]) -> None:
    """The verb `dit data dedup`."""
    dedup(parse(DedupSettings, arguments, prog="dit data dedup"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("data dedup")
