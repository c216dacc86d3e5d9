"""How often the intervals of a score hold the truth: of the true distance, of its extrapolation, of groups.

python -m tests.bench.coverage [--repetitions 200] [--first 0] [--only WORD] [--processes 2]

Every line is a case of known populations, drawn again and again with seeds of its own: the table is always
the same. Cases of two Gaussians: equal; shifted; shifted, with another spread that is turned (mixed). Then
what the method was not made on: more clips, unlike numbers, a steeper spectrum, heavy tails (Student's t of
8 degrees of freedom, one scale a clip), and 60 groups of 5 clips that correlate by a half. "expected" is
the bootstrap of the score at this number of clips, whose truth is the mean of many fresh scores; "mean" is
that of a mean of one number a clip, as CLIPSIM is; both also as they are when groups are ignored.
"""

import argparse
import time
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import torch
from torch import Tensor

from eval.frechet import distance, quickest_distance, statistics
from eval.groups import Groups
from eval.interval import many_clips
from eval.scoring import interval
from vae.training.seeds import generator

SHARE = 0.5  # of a clip's variance that its group has in common
GROUP = 5


@dataclass(frozen=True)
class Case:
    """Two populations, and how many clips are drawn of each."""

    kind: str
    width: int
    one: int
    other: int
    falls: float = 0.5  # the spectrum is k to the power of less this
    freedom: int = 0  # of Student's t; 0: a Gaussian
    groups: bool = False

    @property
    def name(self) -> str:
        extra = f", t of {self.freedom}" * bool(self.freedom) + f", spectrum 1/k^{self.falls:g}" * (
            self.falls != 0.5
        )
        grouped = f", {self.one // GROUP} groups of {GROUP}" * self.groups
        counts = f"{self.one}" if self.one == self.other else f"{self.one} and {self.other}"
        return f"{self.kind}, d {self.width}, {counts} clips{extra}{grouped}"


KINDS = ("equal", "shifted", "mixed")
CASES = [
    *(Case(kind, width, 4 * width, 4 * width) for width in (16, 32, 64) for kind in KINDS),
    *(Case(kind, 16, 128, 128) for kind in KINDS),
    *(Case(kind, 16, 64, 192) for kind in KINDS),
    *(Case(kind, 16, 64, 64, falls=1.0) for kind in KINDS),
    *(Case(kind, 16, 64, 64, freedom=8) for kind in KINDS),
    *(Case(kind, 16, 300, 300, groups=True) for kind in KINDS),
]


def population(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """The second mean D, and factors L of both covariances L L', D D; the first mean is zero."""
    values = torch.arange(1, case.width + 1, dtype=torch.float64) ** -case.falls
    first = second = values.diag()
    mean = torch.zeros(case.width, dtype=torch.float64)
    if case.kind != "equal":
        mean += (0.75 if case.kind == "shifted" else 0.3) / case.width**0.5
    if case.kind == "mixed":
        noise = generator(case.width, "turned").standard_normal((case.width, case.width))
        turned = torch.linalg.qr(torch.from_numpy(noise))[0]
        second = 0.7 * first + 0.39 * turned @ values.diag() @ turned.T
    return mean, torch.linalg.cholesky(first), torch.linalg.cholesky(second)


def true_distance(case: Case) -> float:
    """Of the populations, by the definition."""
    mean, one, other = population(case)
    shared = torch.linalg.svdvals(one.T @ other).sum()
    traces = one.square().sum() + other.square().sum()
    return (mean.square().sum() + traces - 2 * shared).item()


def draw(case: Case, *key: int | str) -> tuple[Tensor, Tensor]:
    """A sample of both populations."""
    random, sides = generator(repr(case), *key), []
    mean, *factors = population(case)
    for count, factor, shift in zip(
        (case.one, case.other), factors, (torch.zeros_like(mean), mean), strict=True
    ):
        noise = torch.from_numpy(random.standard_normal((count, case.width)))
        if case.groups:
            common = torch.from_numpy(random.standard_normal((count // GROUP, case.width)))
            noise = SHARE**0.5 * common.repeat_interleave(GROUP, 0) + (1 - SHARE) ** 0.5 * noise
        if case.freedom:
            scale = torch.from_numpy(random.chisquare(case.freedom, (count, 1))) / (case.freedom - 2)
            noise = noise / scale.sqrt()
        sides.append(noise @ factor.T + shift)
    return sides[0], sides[1]


def groups_of(case: Case) -> tuple[Groups, Groups]:
    """The groups of both sides' clips."""
    size = GROUP if case.groups else 1
    return tuple(Groups(tuple(str(k // size) for k in range(count))) for count in (case.one, case.other))


def expected_score(case: Case) -> float:
    """The mean of 1,000 fresh scores."""
    scores = [quickest_distance(*draw(case, "fresh", k), 1) for k in range(1000)]
    return sum(scores) / len(scores)


def repetition(case: Case, number: int) -> dict[str, tuple[float, float]]:
    """Every interval of one drawn pair as its ends; a group's also as it is when groups are ignored."""
    sides, groups = draw(case, number), groups_of(case)
    found = many_clips(*sides, 1, number, groups)
    ends = {"true": found["true_interval"], "infinity": found["infinity"]}
    if case.groups:
        alone = groups_of(Case(case.kind, case.width, case.one, case.other))
        ends["true, ignored"] = many_clips(*sides, 1, number, alone)["true_interval"]
        value = distance(statistics(sides[0]), statistics(sides[1]), 1)
        score, mean = partial(quickest_distance, ddof=1), lambda drawn_N: drawn_N.mean().item()
        for ignored, kept in (("", groups), (", ignored", alone)):
            ends[f"expected{ignored}"] = interval(score, sides, 200, number, value, 0.0, kept)
            ends[f"mean{ignored}"] = interval(mean, (sides[0][:, 0],), 1000, number, groups=kept[:1])
    return {name: (values["low"], values["high"]) for name, values in ends.items()}


def measure(
    case: Case, repetitions: int, first: int
) -> tuple[str, dict[str, tuple[float, float, float]], float]:
    """A case's name, the share of each interval that holds the truth, below and above it, the seconds."""
    torch.set_num_threads(1)
    start, true = time.perf_counter(), true_distance(case)
    expected = expected_score(case) if case.groups else None
    rows = [repetition(case, number) for number in range(first, first + repetitions)]
    shares = {}
    for name in rows[0]:
        truth = {"expected": expected, "mean": 0.0}.get(name.split(",")[0], true)
        below = sum(row[name][1] < truth - 1e-9 for row in rows) / repetitions
        above = sum(row[name][0] > truth + 1e-9 for row in rows) / repetitions
        shares[name] = (1 - below - above, below, above)
    return case.name, shares, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number, and so seed, of the first one")
    parser.add_argument("--only", default="", help="cases whose name has this")
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    start = time.perf_counter()
    cases = [case for case in CASES if asked.only in case.name]
    print("shares of intervals that hold the truth (that lie below it, above it)")
    with get_context("spawn").Pool(asked.processes) as pool:
        work = partial(measure, repetitions=asked.repetitions, first=asked.first)
        for name, shares, seconds in pool.imap(work, cases):
            cells = [
                f"{what} {held:.3f} ({below:.3f}, {above:.3f})"
                for what, (held, below, above) in shares.items()
            ]
            print(f"{name}: {'; '.join(cells)}; {seconds:.0f} s", flush=True)
    print(f"{asked.repetitions} repetitions of {len(cases)} cases in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
