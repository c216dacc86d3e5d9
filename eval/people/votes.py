"""Votes as the page writes them, a line of JSON each, read as files of others: what is no vote is named."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import MaxLen, MinLen

from configs.load import from_json, parse_json
from configs.ranges import CountOrZero, NonNegative
from eval.people.page import Key
from vae.data.tables import lines_of, read_text

Text = Annotated[str, MaxLen(1000)]
Name = Annotated[str, MinLen(1), MaxLen(64)]


@dataclass(frozen=True)
class Vote:
    """A voter's answer on a pair, with the ids of what was left and right, and when and after how long."""

    page: Name
    voter: Name
    number: CountOrZero
    pair: Name
    left: Name
    right: Name
    again: bool
    choice: Literal["left", "right", "tie", "bad"]
    reasons: tuple[Text, ...]
    text: Text
    seconds: NonNegative
    at: Name


def read_votes(places: tuple[str, ...], key: Key) -> tuple[list[Vote], dict[str, str]]:
    """The votes in files, and in folders' files `*.jsonl`, the last of each voter on each pair; and what was
    passed over, by file and line, with the reason.

    A pair that a voter was shown again, the other way round, has two. Raises ValueError where there is none.
    """
    kept: dict[tuple[str, str, bool], Vote] = {}
    passed: dict[str, str] = {}
    for place, line in _lines(places, passed):
        try:
            vote = from_json(Vote, parse_json(line, place), place)
            _check(vote, key, place)
        except ValueError as error:
            passed[place] = str(error)
            continue
        one = vote.voter, vote.pair, vote.again
        before = kept.get(one)
        if before and before != vote:
            passed[place] = f"{place}: a second vote of {vote.voter!r} on this pair: the later one counts"
        if not before or vote.at >= before.at:
            kept[one] = vote
    if not kept:
        why = next(iter(passed.values()), "no line")
        raise ValueError(f"{', '.join(places)}: no vote on this page: {why}")
    return [kept[one] for one in sorted(kept)], passed


def _lines(places: tuple[str, ...], passed: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Place and text of every line of files and folders; a file that is no text is passed over."""
    for name in places:
        path = Path(name)
        if not path.exists():
            raise ValueError(f"{name}: no such file or folder of votes")
        found = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
        if not found:
            raise ValueError(f"{name} holds no file of votes (*.jsonl)")
        for file in found:
            try:
                text = read_text(file)
            except ValueError as error:
                passed[str(file)] = str(error)
                continue
            for number, line in enumerate(lines_of(text), 1):
                if line.strip():
                    yield f"{file}, line {number}", line


def _check(vote: Vote, key: Key, place: str) -> None:
    """Raises ValueError for a vote that is not on this page, or names what is not in it."""
    if vote.page != key.page:
        raise ValueError(
            f"{place}: a vote on another page ({vote.page[:12]}, and the key is of {key.page[:12]})"
        )
    if vote.pair not in key.pairs:
        raise ValueError(f"{place}: no pair {vote.pair!r} is in the page")
    if sorted((vote.left, vote.right)) != sorted(key.pairs[vote.pair].videos):
        raise ValueError(
            f"{place}: {vote.left!r} and {vote.right!r} are not the videos of the pair {vote.pair!r}"
        )
    if unknown := set(vote.reasons) - set(key.protocol.get("reasons", ())):
        raise ValueError(f"{place}: {min(unknown)!r} is no reason of the page")
    if not vote.voter.strip():
        raise ValueError(f"{place}: the voter has no name")
