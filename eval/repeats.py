"""Scores repeated with other seeds, of drawn clips or of sampling: mean and spread, as papers give them."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from configs.protocol import ClipChoice

DRAWS = "draws of videos and starts"
SETS = "sets of videos of other sampling seeds"
Choice = TypeVar("Choice", bound=ClipChoice)


def check_repeats(repeats: int, protocol: ClipChoice, *saved: str, chosen: bool = True) -> None:
    """Raises ValueError where repeats would all be the same: of a protocol that draws nothing, or of files
    of features, which are drawn already. `chosen` says whether some of the videos are, rather than all."""
    if repeats == 1:
        return
    if file := next((name for name in saved if name.endswith(".safetensors")), ""):
        raise ValueError(f"--repeats {repeats} draws clips again: give the videos, not {file}")
    if not ((protocol.start == "random" and protocol.frames) or (protocol.videos != "first" and chosen)):
        raise ValueError(
            f"--repeats {repeats}: {protocol.name} draws no videos and no starts: all are the same"
        )


def repeated(
    value: float, repeats: int, protocol: Choice, again: Callable[[Choice], float]
) -> dict[str, dict]:
    """The part of a score that says its repeats: the score itself, then those under the seeds that follow."""
    if repeats == 1:
        return {}
    others = [again(replace(protocol, seed=protocol.seed + k)) for k in range(1, repeats)]
    return {"repeats": summary([value, *others], DRAWS)}


def summary(values: Sequence[float], of: str) -> dict:
    """Mean, standard deviation (ddof 1) and the single values, and what differs between them."""
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    return {"of": of, "count": len(values), "mean": mean, "deviation": deviation, "values": list(values)}


def in_words(result: dict, digits: int) -> list[str]:
    """The line of a score's repeats; none where it has none."""
    if not (found := result.get("repeats")):
        return []
    single = ", ".join(f"{value:.{digits}f}" for value in found["values"])
    spread = f"{found['mean']:.{digits}f} +- {found['deviation']:.{digits}f}"
    return [f"{spread}, mean and standard deviation over {found['count']} {found['of']}: {single}"]
