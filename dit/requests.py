"""What `dit sample` is asked for, a video each: prompts, and a file of prompts or requests."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from configs.load import from_json
from configs.ranges import Frames, Seed, Side
from configs.sampling import GivenSettings, SampleSettings
from dit.givens import FILES, check_given, given_fields
from vae.data.tables import PROMPTS, TABLES, Row, lines_of, read_table, read_text, texts

COMMENT = "#"
NUMBERS = {"seed", "frames", "height", "width"}


@dataclass(frozen=True)
class Asked(GivenSettings):
    """One video: what a request in a file may say of it; all else is the command line's."""

    prompt: str
    """What it shows."""
    negative: str = ""
    """What guidance leads away from."""
    seed: Seed = 0
    """Seed of the first video, of as many as are asked for."""
    frames: Frames | None = None
    """Frames, 1 + 4k."""
    height: Side | None = None
    """Height in pixels."""
    width: Side | None = None
    """Width in pixels."""


def read_asked(settings: SampleSettings) -> list[Asked]:
    """Every video that the settings ask for, in order; raises ValueError for none, or for a wrong request."""
    alike = {name: getattr(settings, name) for name in ("negative", *given_fields(), *sorted(NUMBERS))}
    asked = [Asked(prompt, **alike) for prompt in settings.prompts]
    if settings.prompts_file:
        asked += [Asked(**alike | one) for one in _read_requests(Path(settings.prompts_file))]
    if not asked:
        raise ValueError('no prompt: try `dit sample "a red circle moves left"`')
    for one in asked:
        if one.seed + settings.number > 2**63:
            raise ValueError(f"seed = {one.seed}: with {settings.number} videos it reaches 2^63")
        check_given(one, one.frames)
    return [replace(one, seed=one.seed + k) for one in asked for k in range(settings.number)]


def _read_requests(file: Path) -> list[dict]:
    """What each request of a file says: of a table its cells, of any other text a prompt a line.

    A line that begins with `#` is a comment there.
    """
    if not file.is_file():
        raise ValueError(f"{file}: no such prompts file")
    if file.suffix.lower() in TABLES:
        return [_of_row(file, row) for row in read_table(file, {"prompt": PROMPTS})]
    lines = (line.strip() for line in lines_of(read_text(file)))
    return [{"prompt": line} for line in lines if line and line[0] != COMMENT]


def _of_row(file: Path, row: Row) -> dict:
    """What a row of a table asks for, its cells that are not empty; raises ValueError for a wrong one."""
    text = file.suffix.lower() in (".csv", ".tsv")  # where all is text, and nothing is no cell
    cells = {
        name: cell
        for name, cell in row.cells.items()
        if name and cell not in ((None, "") if text else (None,))
    }
    if {"negative", "negative_prompt"} <= cells.keys():
        raise ValueError(f"{file}, {row.place}, has both negative and negative_prompt: leave one")
    if "negative_prompt" in cells:  # as diffusers calls it
        cells["negative"] = cells.pop("negative_prompt")
    if text:
        cells |= {
            name: int(cells[name])
            for name in NUMBERS & cells.keys()
            if re.fullmatch(r"[0-9]{1,20}", cells[name])
        }
    if not texts(cells.get("prompt")):
        raise ValueError(f"{file}, {row.place}, has no prompt")
    if not isinstance(cells["prompt"], list):
        cells["prompt"] = str(cells["prompt"]).strip()
    one = from_json(Asked, cells, f"{file}, {row.place}")
    return cells | from_folder(one, FILES & cells.keys(), file.parent)


def from_folder(one: Asked | SampleSettings, names: Iterable[str], folder: Path) -> dict:
    """Settings that name files, of these names, with each file as it lies from a folder; "" stays."""
    here = {}
    for name in names:
        paths = getattr(one, name)
        if isinstance(paths, str):
            here[name] = str(folder / paths) if paths else ""
        else:
            here[name] = tuple(str(folder / path) for path in paths)
    return here
