"""`dit data filter MANIFEST --rules FILE`: measures rows and says of each which rules reject it."""

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from configs.load import Positional, parse
from configs.ranges import Workers
from vae.curation import signals
from vae.curation.measure import beside, rejected, with_signals
from vae.curation.pictures import draw_thresholds
from vae.curation.rules import read_rules, reasons
from vae.curation.work import Journal, workers
from vae.data.manifest import load_manifest, rewrite
from vae.training.files import check_replaceable
from vae.training.progress import progress


@dataclass(frozen=True)
class FilterSettings:
    """Measure the rows of a manifest and reject some by rules; none is deleted, and other rules change
    it back."""

    source: Positional[str] = ""
    """Manifest, or folder with one."""
    rules: str = ""
    """File of rules; empty takes ours, which `--show` prints."""
    out: str = ""
    """Manifest to write; empty writes `filtered.parquet` beside the source."""
    pictures: str = ""
    """Picture (.png) to draw: of each threshold the histogram, and clips on both of its sides."""
    show: bool = False
    """Print the rules and do nothing."""
    workers: Workers = 0
    """Processes that decode; 0 takes as many as there are cores."""


def filter_rows(settings: FilterSettings) -> Path | None:
    """Writes the manifest with columns and reasons and returns its path."""
    rules, text = read_rules(settings.rules)
    if settings.show:
        print(text, end="")
        return None
    if not settings.source:
        raise ValueError("no manifest given: `dit data filter MANIFEST`")
    if settings.pictures:
        if not settings.pictures.endswith(".png"):
            raise ValueError(f"pictures = {settings.pictures}: give it a name that ends in .png")
        check_replaceable(Path(settings.pictures), ".png")
    out, manifest = beside(settings.source, settings.out, "filtered"), load_manifest(settings.source)
    journal = Journal(out, f"signals-{signals.VERSION}")
    counts, first, kept, before = Counter(), 0, 0, 0
    with (
        workers(settings.workers, len(manifest)) as pool,
        progress(total=len(manifest), desc="filter") as bar,
    ):

        def change(table):
            nonlocal first, kept, before
            entries = manifest[first : first + len(table)]
            first += len(table)
            table, wrong = with_signals(table, entries, journal, pool, bar)
            found = reasons(table, rules)
            for place, error in wrong.items():
                found.setdefault(place, []).append(f"unreadable ({error})")
            for why in found.values():
                counts.update({each.split(" (")[0] for each in why})
            table = rejected(table, "filter", found)
            cells = table["rejected"].to_pylist()
            kept += sum(not cell for cell in cells)
            before += sum(bool(cell) and place not in found for place, cell in enumerate(cells))
            return table

        rewrite(settings.source, out, change)
    journal.done()
    told = "".join(f", {name} {count}" for name, count in counts.most_common())
    told += f", rejected before {before}" if before else ""
    print(f"{out}: rows {first}, kept {kept}{told}")
    if settings.pictures:
        draw_thresholds(load_manifest(out), rules, Path(settings.pictures))
        print(settings.pictures, file=sys.stderr)
    return out


def main(arguments: list[str]) -> None:
    """The verb `dit data filter`."""
    filter_rows(parse(FilterSettings, arguments, prog="dit data filter"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("data filter")
