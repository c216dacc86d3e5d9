"""What a part of the script for a GPU finds: rows, written as they are made: a time limit loses none."""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

Part = Callable[["Report"], None]


@dataclass(frozen=True)
class Report:
    """Where a part's rows go, a folder that it may write to, and whether sizes are tiny for a dry run."""

    file: Path
    folder: Path
    dry: bool
    rows: list[dict] = field(default_factory=list)

    def add(
        self, what: str, value: float | str, unit: str = "", goal: str = "", good: bool | None = None
    ) -> None:
        """Writes a row; `good` says whether a check holds, or a figure reaches its goal."""
        if isinstance(value, float) and not math.isfinite(value):
            value, good = str(value), False
        row = {"what": what, "value": value, "unit": unit, "goal": goal, "good": good}
        self.rows.append(row)
        with open(self.file, "a") as file:
            file.write(json.dumps(row) + "\n")
        print(in_words(row), flush=True)

    def check(self, what: str, difference: float, most: float) -> None:
        """Writes a difference that may be so large at most."""
        self.add(what, float(difference), goal=f"at most {most:g}", good=bool(difference <= most))


def in_words(row: dict) -> str:
    """A line of the table."""
    value = row["value"] if isinstance(row["value"], str) else f"{row['value']:.4g}"
    sign = {True: "ok", False: "NO", None: ""}[row["good"]]
    return f"{row['what']:66} {value:>12} {row['unit']:10} {row['goal']:22} {sign}"


def run_part(parts: dict[str, Part]) -> None:
    """Runs the part that the command line names; on a pretended device where that is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=[*parts])
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dry", action="store_true")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    parts[given.part](Report(given.file, given.folder, given.dry))
