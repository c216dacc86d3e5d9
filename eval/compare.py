"""`dit eval compare`: scores of one protocol in a table; those of different ones are never side by side."""

from dataclasses import dataclass
from pathlib import Path

from typing_extensions import TypedDict

from configs.load import Positional, from_json, parse
from configs.protocol import differences
from eval.scoring import aligned
from vae.training.files import read_json


@dataclass(frozen=True)
class CompareSettings:
    """Scores side by side; those of other protocols are refused."""

    scores: Positional[tuple[str, ...]] = ()
    """JSON files that scoring wrote."""


class Ends(TypedDict):
    """The ends of an interval."""

    low: float
    high: float


class ScoredProtocol(TypedDict):
    """What is read of a score's protocol, which as a whole is compared."""

    name: str


class ScoredSide(TypedDict, total=False):
    """What is read of a side."""

    clips: int
    files_sha256: str


class NeededInScore(TypedDict):
    """The parts of every score."""

    metric: str
    value: float
    protocol: ScoredProtocol
    protocol_sha256: str
    stamps: list[str]
    weights: str


class Score(NeededInScore, total=False):
    """The parts of a score that are read."""

    interval: Ends | None
    real: ScoredSide
    fake: ScoredSide


def _read_score(file: str) -> dict:
    """A score that scoring wrote; raises ValueError for another file."""
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"{file}: no such score")
    score = read_json(path)
    if not {"metric", "value", "protocol", "stamps", "weights"} <= set(score):
        near = "; its scores lie beside it" if "scores" in score else ""
        raise ValueError(
            f"{file} is no score of `dit eval`: it has no metric, value, protocol and weights{near}"
        )
    return from_json(Score, score, file)


def compare(files: list[str]) -> str:
    """Scores as a table; raises ValueError, field by field, where their protocols or weights differ."""
    if not files:
        raise ValueError("which scores? dit eval compare A.json B.json")
    scores = [_read_score(file) for file in files]
    for file, score in zip(files[1:], scores[1:], strict=True):
        different = differences(scores[0]["protocol"], score["protocol"])
        different += differences({"weights": scores[0]["weights"]}, {"weights": score["weights"]})
        if scores[0]["protocol"].get("data") == "any":
            real = [s.get("real", {}).get("files_sha256", "")[:12] for s in (scores[0], score)]
            different += differences({"real videos": real[0]}, {"real videos": real[1]})
        if different:
            raise ValueError(f"{files[0]} and {file} do not compare: {'; '.join(different)}")
    rows = [("score", scores[0]["metric"], "95 % interval", "clips", "stamps")]
    for file, score in zip(files, scores, strict=True):
        ends = score.get("interval")
        spread = f"{ends['low']:.2f} to {ends['high']:.2f}" if ends else ""
        clips = str(score.get("fake", {}).get("clips", ""))
        rows.append((file, f"{score['value']:.2f}", spread, clips, "; ".join(score["stamps"])))
    return "\n".join(
        [f"{scores[0]['protocol']['name']} ({scores[0]['protocol_sha256'][:12]})", *aligned(rows)]
    )


def main(arguments: list[str]) -> None:
    """The verb `dit eval compare`."""
    print(compare(list(parse(CompareSettings, arguments, prog="dit eval compare").scores)))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("eval compare")
