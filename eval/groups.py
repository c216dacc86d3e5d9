"""Clips that depend on each other, as takes of one scene do: by a pattern, by names or by prompts."""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from eval.clips import Source
from vae.data.tables import lines_of, read_text, texts
from vae.data.write import WITH_RECORD, read_metadata
from vae.training.files import read_json

KNOWN = {  # what is found in names of data sets, whose clips come several from one video
    "UCF-101's groups": re.compile(r"(?:^|/)(v_[A-Za-z]+_g\d+)_c\d+$"),
    "MSR-VTT's videos": re.compile(r"(?:^|/)(video\d+)-\d+$"),
}
ALONE = "each clip alone"


@dataclass(frozen=True)
class Groups:
    """The group of every clip, in the clips' order, and what says so."""

    of: tuple[str, ...]
    by: str = ALONE

    def units(self) -> Tensor:
        """The groups' numbers, N, from zero in the order of their first clips."""
        places = {name: k for k, name in enumerate(dict.fromkeys(self.of))}
        return torch.tensor([places[name] for name in self.of], dtype=torch.int64)

    def members(self) -> tuple[Tensor, ...]:
        """The places of every group's clips."""
        units = self.units()
        return units.argsort(stable=True).split(units.bincount().tolist())

    def facts(self) -> dict:
        """What a score says of its groups, which are drawn and halved as wholes."""
        count = len(set(self.of))
        return {"groups": count, "by": self.by if count < len(self.of) else ALONE}


def find_groups(names: Sequence[str], pattern: str = "", prompts: Sequence[str] = ()) -> Groups:
    """The groups of clips: what `pattern` finds in their names, or its first part in brackets; without one,
    the sources that names of known data sets tell; else clips of one name, and clips of one prompt.

    A clip in whose name nothing is found is alone.
    """
    own = {pattern: check_pattern(pattern)} if pattern else {}
    for title, rule in (own or KNOWN).items():
        found = [rule.search(name) for name in names]
        if any(found):
            first = min(1, rule.groups)
            return Groups(_or_alone(names, [match and (match[first] or match[0]) for match in found]), title)
    if len(set(names)) < len(names):
        return Groups(tuple(names), "their videos")
    if len({*prompts} - {""}) < sum(map(bool, prompts)):
        return Groups(_or_alone(names, list(prompts)), "their prompts")
    return Groups(tuple(names))


def check_pattern(pattern: str, *sides: Sequence[str]) -> re.Pattern:
    """The expression of `--group`; ValueError where it is none, and where no name of any side has it."""
    try:
        rule = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--group {pattern!r} is no regular expression: {error}") from None
    names = [name for side in sides for name in side]
    if pattern and names and not any(map(rule.search, names)):
        raise ValueError(f"--group {pattern!r} is found in no name of a clip, such as {names[0]}")
    return rule


def _or_alone(names: Sequence[str], found: list[str | None]) -> tuple[str, ...]:
    """What was found in every name, or the name itself."""
    return tuple(
        f"group {group}" if group else f"clip {name}" for name, group in zip(names, found, strict=True)
    )


def own_prompt(source: Source) -> str:
    """The prompt in a video's own record, or the first line of the text beside it, or nothing."""
    text = Path(f"{source.path if source.pictures else source.path.with_suffix('')}.txt")
    if prompts := texts(own_record(source).get("prompt")):
        return prompts[0]
    lines = lines_of(read_text(text)) if text.is_file() else []
    return next((" ".join(line.split()) for line in lines if line.strip()), "")


def own_record(source: Source) -> dict:
    """The JSON record beside a video or inside it; empty where there is none."""
    record = Path(f"{source.path if source.pictures else source.path.with_suffix('')}.json")
    if record.is_file():
        return read_json(record)
    if source.path.suffix.lower() in WITH_RECORD and not source.pictures:
        with suppress(ValueError):  # another's video, whose text may lie beside it
            return read_metadata(source.path)
    return {}
