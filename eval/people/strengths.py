"""Bradley-Terry scores of models from votes on pairs, with ties, a left side's advantage, and intervals.

The weights of the three answers on a pair are exp(s_left + d / 2), exp(s_right - d / 2) and exp(t + (s_left +
s_right) / 2): Bradley & Terry (1952), with ties, t, as Davidson (1970) has them, and with an advantage of
the left side, d, as Davidson & Beaver (1977).
"""

import math
import statistics
from dataclasses import dataclass

import torch
from torch import Tensor

LEFT, RIGHT, TIE = range(3)  # answers
PRIOR = 3.0  # standard deviation of a normal prior of every score, of d and of t
LEVEL = 0.95
STEPS, LONGEST = 200, 2.0  # of Newton's method; the length of one step


@dataclass(frozen=True)
class Votes:
    """Votes as numbers: of each, the voter, the prompt, the models on both sides, and the answer, all N."""

    voter: Tensor
    prompt: Tensor
    left: Tensor
    right: Tensor
    answer: Tensor
    models: int


@dataclass(frozen=True)
class Fit:
    """Scores with mean 0, d and t, as one vector of models + 2; and what it is uncertain by.

    `by_voter`, `by_prompt` and `by_vote` are its covariances where voters, prompts and votes are independent;
    those of a single voter or prompt are None. `posterior` is that of the model itself, by its curvature.
    """

    values: Tensor
    by_voter: Tensor | None
    by_prompt: Tensor | None
    by_vote: Tensor
    posterior: Tensor
    voters: int
    prompts: int


def fit(votes: Votes) -> Fit:
    """The most probable scores, and how they vary over voters, prompts and votes.

    The prior, normal about 0, keeps finite what won or lost every vote (which has no maximum of the
    likelihood: Ford 1957); of a hundred votes it moves a score by about a hundredth of its error.
    Covariances are those of the groups' slopes (Liang & Zeger 1986), times groups over groups less one.
    """
    voters, prompts = (int(groups.max()) + 1 for groups in (votes.voter, votes.prompt))
    counts, design = _table(votes, torch.zeros_like(votes.voter), 1), _design(votes.models)
    values = maximum(counts, votes.models)
    _, hessian = _slopes(values, counts, design)
    posterior = torch.linalg.inv(hessian[0])
    shares = torch.einsum("cap,p->ca", design, values[0]).softmax(dim=1)
    slopes_CAP = design - torch.einsum("ca,cap->cp", shares, design)[:, None]

    def of_groups(groups: Tensor, number: int) -> Tensor | None:
        if number < 2:
            return None
        slopes = torch.einsum("gca,cap->gp", _table(votes, groups, number), slopes_CAP)
        return posterior @ (slopes.T @ slopes) @ posterior * (number / (number - 1))

    by_vote = posterior @ torch.einsum("ca,cap,caq->pq", counts[0], slopes_CAP, slopes_CAP) @ posterior
    covariances = of_groups(votes.voter, voters), of_groups(votes.prompt, prompts), by_vote, posterior
    return Fit(values[0], *covariances, voters, prompts)


def maximum(counts_BCA: Tensor, models: int) -> Tensor:
    """The most probable scores, d and t of B tables of votes: cells of two models x answers.

    By Newton's method: the logarithm of the posterior is concave.
    """
    design = _design(models)
    values = torch.zeros(len(counts_BCA), models + 2, dtype=torch.float64)
    for _ in range(STEPS):
        gradient, hessian = _slopes(values, counts_BCA, design)
        step = torch.linalg.solve(hessian, gradient)
        values += step * (LONGEST / step.norm(dim=1, keepdim=True).clamp(min=LONGEST))
        if step.abs().max() < 1e-10:
            return values
    raise AssertionError("Newton's method did not end")


def interval(found: Fit, contrast: Tensor) -> tuple[float, float, float]:
    """The value of a linear combination of scores, d and t, and the ends of its 95 % interval.

    Voters and prompts are crossed: the variance is that over voters, and that over prompts, less that over
    votes, which both hold (Cameron, Gelbach & Miller 2011), and at least that of independent votes; degrees
    of freedom are Satterthwaite's (1946).
    """
    value = (contrast @ found.values).item()
    by_voter, by_prompt, by_vote, least = (
        0.0 if covariance is None else (contrast @ covariance @ contrast).item()
        for covariance in (found.by_voter, found.by_prompt, found.by_vote, found.posterior)
    )
    both = found.by_voter is not None and found.by_prompt is not None
    variance = by_voter + by_prompt - by_vote * both
    if variance <= least:
        half = student(math.inf) * math.sqrt(least)
    else:
        groups = [(by_voter, found.voters), (by_prompt, found.prompts)]
        freedom = variance**2 / sum(part**2 / (number - 1) for part, number in groups if number > 1)
        fewest = min(number for _, number in groups if number > 1)
        half = student(max(freedom, fewest - 1)) * math.sqrt(variance)
    return value, value - half, value + half


def student(freedom: float, level: float = LEVEL) -> float:
    """What Student's distribution has its middle 95 % within: 1.96 for many degrees of freedom."""
    if freedom > 1000:
        return statistics.NormalDist().inv_cdf((1 + level) / 2)
    # t = sqrt(n) tan(angle), where the angle's density is cos(angle)^(n - 1).
    angle = torch.linspace(-math.pi / 2, math.pi / 2, 40_001, dtype=torch.float64)
    share = torch.cumsum(angle.cos().clamp(min=0) ** (freedom - 1), 0)
    where = torch.searchsorted(share, share[-1] * (1 + level) / 2).item()
    return math.sqrt(freedom) * math.tan(angle[where].item())


def separated(votes: Votes) -> list[list[int]]:
    """The models in groups that never lost to, or tied with, a later group; usually one of all.

    Where there are several, the votes alone have no finite scores (Ford 1957).
    """
    reach = torch.eye(votes.models, dtype=torch.bool)
    for left, right, answer in zip(votes.left, votes.right, votes.answer, strict=True):
        if answer != RIGHT:
            reach[left, right] = True
        if answer != LEFT:
            reach[right, left] = True
    for middle in range(votes.models):  # Warshall (1962)
        reach |= reach[:, middle, None] & reach[None, middle]
    both = reach & reach.T
    groups = {tuple(row.nonzero().flatten().tolist()) for row in both}
    return sorted(map(list, groups), key=lambda group: (-int(reach[group[0]].sum()), group))


def _design(models: int) -> Tensor:
    """What each value adds to the logarithm of each answer's weight: cells x answers x (models + 2)."""
    rows = torch.zeros(models, models, 3, models + 2, dtype=torch.float64)
    for left in range(models):
        for right in range(models):
            rows[left, right, LEFT, left] += 1
            rows[left, right, RIGHT, right] += 1
            rows[left, right, TIE, left] += 0.5
            rows[left, right, TIE, right] += 0.5
    rows[:, :, LEFT, models], rows[:, :, RIGHT, models], rows[:, :, TIE, models + 1] = 0.5, -0.5, 1.0
    return rows.flatten(0, 1)


def _slopes(values_BP: Tensor, counts_BCA: Tensor, design_CAP: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of the posterior's logarithm, B P, and the negative of its second derivatives, B P P."""
    shares = torch.einsum("cap,bp->bca", design_CAP, values_BP).softmax(dim=2)
    total = counts_BCA.sum(dim=2, keepdim=True)
    gradient = torch.einsum("bca,cap->bp", counts_BCA - total * shares, design_CAP) - values_BP / PRIOR**2
    mean = torch.einsum("bca,cap->bcp", shares, design_CAP)
    hessian = torch.einsum("bca,cap,caq->bpq", total * shares, design_CAP, design_CAP)
    hessian = hessian - torch.einsum("bc,bcp,bcq->bpq", total[..., 0], mean, mean)
    return gradient, hessian + torch.eye(values_BP.shape[1], dtype=torch.float64) / PRIOR**2


def _table(votes: Votes, groups: Tensor, number: int) -> Tensor:
    """How many votes of each group gave each answer on each cell: groups x cells x answers."""
    cell = votes.left * votes.models + votes.right
    size = (number, votes.models**2, 3)
    index = (groups * size[1] + cell) * 3 + votes.answer
    return torch.bincount(index, minlength=math.prod(size)).double().view(size)
