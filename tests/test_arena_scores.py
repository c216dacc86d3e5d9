"""Proves the scores of votes: an independent fit, planted strengths and sides, intervals, agreement."""

import itertools
import math

import numpy
import pytest
import scipy.optimize
import scipy.stats
import torch

from eval.people.agreement import alpha, alpha_interval
from eval.people.strengths import (
    LEFT,
    PRIOR,
    RIGHT,
    TIE,
    Fit,
    Votes,
    fit,
    interval,
    maximum,
    separated,
    student,
)


def simulate(
    seed: int, voters: int, prompts: int, scores, ties=-0.5, side=0.0, by_voter=0.0, by_prompt=0.0
) -> Votes:
    """Every voter's votes on every two models of every prompt, by which strengths vary as much as asked."""
    random = numpy.random.default_rng(seed)
    moved_VK = random.normal(0, by_voter, (voters, len(scores)))
    moved_PK = random.normal(0, by_prompt, (prompts, len(scores)))
    rows = []
    for voter, prompt in itertools.product(range(voters), range(prompts)):
        own = numpy.asarray(scores) + moved_VK[voter] + moved_PK[prompt]
        for pair in itertools.combinations(range(len(scores)), 2):
            left, right = random.permutation(pair)
            weights = [own[left] + side / 2, own[right] - side / 2, ties + (own[left] + own[right]) / 2]
            shares = numpy.exp(weights) / numpy.exp(weights).sum()
            rows.append((voter, prompt, left, right, random.choice(3, p=shares)))
    return Votes(*torch.tensor(rows).T, models=len(scores))


def score_of(model: int, models: int) -> torch.Tensor:
    """The linear combination that is a model's score over the mean."""
    contrast = torch.zeros(models + 2, dtype=torch.float64)
    contrast[:models] -= 1 / models
    contrast[model] += 1
    return contrast


def side_of(models: int) -> torch.Tensor:
    contrast = torch.zeros(models + 2, dtype=torch.float64)
    contrast[models] = 1
    return contrast


def by_scipy(votes: Votes) -> numpy.ndarray:
    """The most probable values by scipy, vote after vote, as the definition has it."""

    def loss(values):
        total = sum(value**2 for value in values) / (2 * PRIOR**2)
        side, ties = values[votes.models :]
        for left, right, answer in zip(
            *(x.tolist() for x in (votes.left, votes.right, votes.answer)), strict=True
        ):
            weights = {
                LEFT: math.exp(values[left] + side / 2),
                RIGHT: math.exp(values[right] - side / 2),
                TIE: math.exp(ties + (values[left] + values[right]) / 2),
            }
            total -= math.log(weights[answer] / sum(weights.values()))
        return total

    return scipy.optimize.minimize(loss, numpy.zeros(votes.models + 2), tol=1e-9).x


def test_scores_are_those_of_an_independent_fit():
    votes = simulate(1, 3, 5, (0.7, 0.0, -0.2), side=0.5)
    found = fit(votes)
    assert torch.allclose(found.values, torch.from_numpy(by_scipy(votes)), atol=2e-4)
    assert abs(found.values[:3].sum()) < 1e-9


def test_two_models_of_many_votes_are_at_the_logarithm_of_their_odds():
    counts = torch.zeros(1, 4, 3, dtype=torch.float64)  # Bradley & Terry (1952), sides even
    counts[0, 1], counts[0, 2] = torch.tensor([30e6, 10e6, 20e6]), torch.tensor([10e6, 30e6, 20e6])
    values = maximum(counts, 2)[0]
    # Davidson (1970): strengths of 3 to 1, and 20 ties to the root of 30 x 10.
    expected = torch.tensor([math.log(3) / 2, -math.log(3) / 2, 0.0, math.log(20 / math.sqrt(300))])
    assert torch.allclose(values, expected.double(), atol=1e-5)


def test_planted_strengths_and_a_planted_side_are_found():
    planted = (0.8, 0.1, -0.9)
    votes = simulate(2, 10, 30, planted, side=0.6)
    found = fit(votes)
    for model, strength in enumerate(planted):
        value, low, high = interval(found, score_of(model, 3))
        assert low < strength < high and high - low < 0.6, (model, value)
    value, low, high = interval(found, side_of(3))
    assert 0 < low < 0.6 < high < 1.2
    assert (found.by_voter is not None) and found.voters == 10 and found.prompts == 30
    value, low, high = interval(fit(simulate(3, 10, 30, planted)), side_of(3))
    assert low < 0 < high


def test_sides_and_the_order_of_votes_and_models_move_no_score():
    votes = simulate(4, 4, 6, (0.5, 0.2, -0.7), side=0.4)
    values = fit(votes).values
    order = torch.randperm(len(votes.answer))
    mixed = Votes(*(x[order] for x in (votes.voter, votes.prompt, votes.left, votes.right, votes.answer)), 3)
    assert torch.allclose(fit(mixed).values, values, atol=1e-9)
    other = torch.tensor([RIGHT, LEFT, TIE])[votes.answer]
    mirrored = fit(Votes(votes.voter, votes.prompt, votes.right, votes.left, other, 3)).values
    assert torch.allclose(mirrored, values * torch.tensor([1.0, 1, 1, -1, 1]), atol=1e-9)
    renamed = torch.tensor([2, 0, 1])
    turned = fit(Votes(votes.voter, votes.prompt, renamed[votes.left], renamed[votes.right], votes.answer, 3))
    assert torch.allclose(turned.values[renamed], values[:3], atol=1e-9)


@pytest.mark.parametrize("groups", ["voter", "prompt", "vote"])
def test_covariances_are_those_over_drawn_voters_prompts_and_votes(groups):
    votes = simulate(5, 15, 15, (0.4, 0.0, -0.4), by_voter=0.5, by_prompt=0.7)
    random, found = numpy.random.default_rng(0), fit(votes)
    group = torch.arange(len(votes.answer)) if groups == "vote" else getattr(votes, groups)
    count = int(group.max()) + 1
    tables = torch.zeros(count, 9, 3, dtype=torch.float64)
    for row in zip(*(x.tolist() for x in (group, votes.left, votes.right, votes.answer)), strict=True):
        tables[row[0], row[1] * 3 + row[2], row[3]] += 1
    drawn = torch.from_numpy(random.multinomial(count, [1 / count] * count, size=300)).double()
    values = maximum(torch.einsum("bg,gca->bca", drawn, tables), 3)
    spread = values.std(0) * math.sqrt(count / (count - 1))
    ours = getattr(found, f"by_{groups}").diagonal().sqrt()
    assert torch.allclose(ours, spread, rtol=0.15), (ours, spread)


@pytest.mark.parametrize("varies", ["by_voter", "by_prompt"])
def test_intervals_hold_what_voters_or_prompts_vary_by(varies):
    """Independent votes' intervals miss it; tests.bench.arena counts how often each holds the truth."""
    hits = {"ours": 0, "of independent votes": 0}
    for k in range(30):
        found = fit(simulate(k, 10, 12, (0.0, 0.0), **{varies: 1.0}))
        alone = Fit(found.values, None, None, 0 * found.posterior, found.posterior, 1, 1)
        for name, one in zip(hits, (found, alone), strict=True):
            _, low, high = interval(one, score_of(0, 2))
            hits[name] += low <= 0 <= high
    assert hits["ours"] >= 27 > 23 >= hits["of independent votes"], hits


def test_who_wins_every_vote_has_a_finite_score_and_a_wide_interval():
    rows = [(v, p, p % 2, 1 - p % 2, p % 2) for v in range(4) for p in range(10)]
    votes = Votes(*torch.tensor(rows).T, models=2)
    found = fit(votes)
    value, low, high = interval(found, score_of(0, 2))
    assert 1 < value < 5 and low > 0 and high - low > 1  # no resample differs: the posterior's width is left
    assert torch.allclose(found.values, torch.from_numpy(by_scipy(votes)), atol=2e-3)
    assert separated(votes) == [[0], [1]]
    for sides in ((0, 1), (1, 0)):
        tied = Votes(*torch.tensor([*rows, (0, 0, *sides, TIE)]).T, models=2)
        assert separated(tied) == [[0, 1]]
    alone = fit(Votes(votes.voter * 0, votes.prompt * 0, votes.left, votes.right, votes.answer, 2))
    assert alone.by_voter is None and interval(alone, score_of(0, 2))[1] > 0


def test_models_that_nobody_compared_stand_in_groups_of_their_own():
    rows = [
        (0, 0, 0, 1, LEFT),
        (0, 1, 1, 0, LEFT),
        (0, 2, 2, 3, LEFT),
        (0, 3, 3, 2, LEFT),
        (0, 4, 0, 2, LEFT),
    ]
    assert separated(Votes(*torch.tensor(rows[:4]).T, models=4)) == [[0, 1], [2, 3]]
    assert separated(Votes(*torch.tensor(rows).T, models=4)) == [[0, 1], [2, 3]]
    rows.append((0, 5, 3, 1, LEFT))
    assert separated(Votes(*torch.tensor(rows).T, models=4)) == [[0, 1, 2, 3]]


@pytest.mark.parametrize("freedom", [1, 2.5, 7, 30, 500])
def test_student_s_quantile_is_scipy_s(freedom):
    assert student(freedom) == pytest.approx(scipy.stats.t.ppf(0.975, freedom), rel=2e-3)
    assert student(math.inf) == pytest.approx(1.96, abs=1e-3)


def test_agreement_is_krippendorff_s_published_example():
    voters = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    counts = torch.zeros(12, 5)
    for answers in voters:
        for unit, answer in enumerate(answers):
            if answer != ".":
                counts[unit, int(answer) - 1] += 1
    assert alpha(counts) == pytest.approx(0.743, abs=5e-4)  # Krippendorff (2011), section C
    ends = alpha_interval(counts, torch.arange(12), 300, 0)
    assert ends["low"] < 0.743 < ends["high"]


def test_agreement_is_one_where_all_agree_and_none_of_lone_voters():
    assert alpha(torch.tensor([[3, 0], [0, 4], [2, 0], [0, 1]])) == 1
    assert alpha(torch.tensor([[1, 0], [0, 1]])) is None
    assert alpha(torch.tensor([[2, 0], [3, 0]])) is None
    random = numpy.random.default_rng(0)
    chance = torch.from_numpy(random.multinomial(4, [0.3, 0.3, 0.4], size=3000))
    assert abs(alpha(chance)) < 0.03
