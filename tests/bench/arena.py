"""How often the intervals of an arena's scores hold the truth: votes of planted models, again and again.

python -m tests.bench.arena [REPETITIONS]

Of two or three models judged by some voters on some prompts, whose liking of each model varies by both: the
share of 95 % intervals of the first model's score that hold its mean over all repetitions, beside that of
independent votes' intervals; the same of the left side's advantage; and how wide they are beside what 1.96
standard deviations of the scores are.
"""

import sys

import torch

from eval.people.strengths import Fit, fit, interval
from tests.test_arena_scores import score_of, side_of, simulate

WORLDS = [  # voters, prompts, scores, how much voters and prompts vary
    (10, 20, (0.4, -0.4), 0.0, 0.0),
    (10, 20, (0.4, -0.4), 0.5, 0.0),
    (10, 20, (0.4, -0.4), 0.0, 0.8),
    (10, 20, (0.4, -0.4), 0.5, 0.8),
    (4, 40, (0.4, -0.4), 0.5, 0.8),
    (25, 8, (0.4, -0.4), 0.5, 0.8),
    (4, 10, (0.4, -0.4), 0.8, 0.8),
    (10, 20, (0.5, 0.0, -0.5), 0.5, 0.8),
    (8, 12, (2.0, -2.0), 0.5, 0.5),
]
SIDE = 0.3


def main() -> None:
    """Prints a row for each world."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    print("voters prompts models  vary by    score: held (naive)  half width (1.96 sd)   side: held")
    for voters, prompts, scores, by_voter, by_prompt in WORLDS:
        models, ours, naive, sides = len(scores), [], [], []
        for k in range(count):
            votes = simulate(k, voters, prompts, scores, side=SIDE, by_voter=by_voter, by_prompt=by_prompt)
            found = fit(votes)
            lone = Fit(found.values, None, None, 0 * found.posterior, found.posterior, 1, 1)
            ours.append(interval(found, score_of(0, models)))
            naive.append(interval(lone, score_of(0, models)))
            sides.append(interval(found, side_of(models)))
        held, held_naive, held_side = (_held(rows) for rows in (ours, naive, sides))
        value, low, high = torch.tensor(ours, dtype=torch.float64).T
        world = f"{voters:6} {prompts:7} {models:6}  {by_voter:3.1f} {by_prompt:3.1f}"
        widths = f"{(high - low).mean() / 2:8.2f} ({1.96 * value.std():.2f})"
        print(f"{world}    {held:10.1%} ({held_naive:.1%})      {widths}   {held_side:10.1%}", flush=True)


def _held(rows: list[tuple[float, float, float]]) -> float:
    """The share of intervals that hold the mean of all values."""
    value, low, high = torch.tensor(rows, dtype=torch.float64).T
    mean = value.mean()
    return ((low <= mean) & (mean <= high)).double().mean().item()


if __name__ == "__main__":
    main()
