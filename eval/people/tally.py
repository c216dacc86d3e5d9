"""From votes to a score: each model's strength, who is preferred to whom, and what the votes are worth."""

import statistics
from collections import Counter, defaultdict

import torch
from torch import Tensor

from dit import __version__
from eval.clips import passed_lines
from eval.people.agreement import alpha, alpha_interval
from eval.people.page import Key
from eval.people.strengths import LEFT, RIGHT, TIE, Fit, Votes, fit, interval, separated
from eval.people.votes import Vote
from eval.scoring import aligned

ANSWERS = {"left": LEFT, "right": RIGHT, "tie": TIE, "bad": TIE}  # neither is better where both are bad
LEAST_VOTERS, LEAST_VOTES = 3, 30  # a score of fewer is stamped; the votes are those of each model


def tally(votes: list[Vote], key: Key, passed: dict[str, str], resamples: int, seed: int) -> dict:
    """The score of votes on one page, with all that it depends on.

    A pair's first showing to a voter counts; the second, the other way round, tells how steady voters are.
    """
    first = [vote for vote in votes if not vote.again]
    if not first:
        raise ValueError("all votes are on pairs shown again: none counts")
    numbers = as_numbers(first, key)
    found = fit(numbers)
    order = sorted(range(len(key.models)), key=lambda k: -found.values[k].item())
    rows = [_row(k, first, key, found) for k in order]
    for row, model, other in zip(rows, order, order[1:], strict=False):
        row["beats_next"] = _preferred(found, model, other)
    return {
        "metric": "arena",
        "stamps": _stamps(numbers, key),
        "models": rows,
        "pairs": [
            _against(one, other, first, key, found) for one in order for other in order if one != other
        ],
        "position": _position(first, key, found),
        "agreement": _agreement(first, key, numbers, resamples, seed),
        "again": _again(votes),
        "seconds": _seconds(votes),
        "reasons": _reasons(first, key),
        "voters": _voters(first),
        "remarks": [
            {"prompt": key.pairs[vote.pair].prompt, "choice": _chosen(vote, key), "text": vote.text}
            for vote in votes
            if vote.text
        ],
        "votes": len(first),
        "prompts": found.prompts,
        "resamples": resamples,
        "page": key.page,
        "protocol": key.protocol,
        "protocol_sha256": key.protocol_sha256,
        "passed_over": passed,
        "torch": torch.__version__,
        "version": __version__,
    }


def as_numbers(votes: list[Vote], key: Key) -> Votes:
    """Votes as tensors, voters and prompts numbered as they sort."""
    voters = {name: k for k, name in enumerate(sorted({vote.voter for vote in votes}))}
    prompts = {name: k for k, name in enumerate(sorted({key.pairs[vote.pair].prompt for vote in votes}))}
    columns = [
        (voters[v.voter], prompts[key.pairs[v.pair].prompt], *_models(v, key), ANSWERS[v.choice])
        for v in votes
    ]
    return Votes(*torch.tensor(columns).T, models=len(key.models))


def _models(vote: Vote, key: Key) -> tuple[int, int]:
    """The models on the left and on the right."""
    return key.videos[vote.left].model, key.videos[vote.right].model


def _chosen(vote: Vote, key: Key) -> str:
    """The model that a vote prefers, or that it says `tie` or `bad`."""
    side = {"left": vote.left, "right": vote.right}.get(vote.choice)
    return key.models[key.videos[side].model] if side else vote.choice


def _unit(found: Fit, *ends: tuple[int, float]) -> Tensor:
    """A linear combination of what was fitted."""
    contrast = torch.zeros_like(found.values)
    for place, weight in ends:
        contrast[place] += weight
    return contrast


def _row(model: int, votes: list[Vote], key: Key, found: Fit) -> dict:
    """One model: its score over the mean of all, and its votes."""
    count = len(key.models)
    contrast = _unit(found, (model, 1.0), *((k, -1 / count) for k in range(count)))
    value, low, high = interval(found, contrast)
    won, lost, ties, bad = _counts(model, None, votes, key)
    number = won + lost + ties + bad
    return {
        "model": key.models[model],
        "score": value,
        "interval": {"low": low, "high": high},
        "win_rate": (won + (ties + bad) / 2) / number if number else None,
        "votes": number,
        "won": won,
        "lost": lost,
        "ties": ties,
        "both_bad": bad,
    }


def _counts(model: int, other: int | None, votes: list[Vote], key: Key) -> tuple[int, int, int, int]:
    """How many votes a model won and lost, and how many said tie or bad, against one other or all."""
    counts: Counter = Counter()
    for vote in votes:
        left, right = _models(vote, key)
        if model not in (left, right) or (other is not None and other not in (left, right)):
            continue
        won = vote.choice == ("left" if left == model else "right")
        counts[vote.choice if vote.choice in ("tie", "bad") else won] += 1
    return counts[True], counts[False], counts["tie"], counts["bad"]


def _preferred(found: Fit, model: int, other: int) -> dict:
    """How often one is preferred to another, of votes that prefer one and with no side's advantage."""
    ends = interval(found, _unit(found, (model, 1.0), (other, -1.0)))
    return dict(zip(("value", "low", "high"), torch.tensor(ends).double().sigmoid().tolist(), strict=True))


def _against(model: int, other: int, votes: list[Vote], key: Key, found: Fit) -> dict:
    """One model beside another: votes, and how often it is preferred, by the votes on all."""
    won, lost, ties, bad = _counts(model, other, votes, key)
    names = {"model": key.models[model], "other": key.models[other]}
    return (
        names
        | {"won": won, "lost": lost, "ties": ties, "both_bad": bad}
        | {"preferred": _preferred(found, model, other)}
    )


def _position(votes: list[Vote], key: Key, found: Fit) -> dict:
    """How often the left one of two equal videos is preferred, with its interval; and what was said."""
    ends = interval(found, _unit(found, (len(key.models), 1.0)))
    said = Counter(vote.choice for vote in votes)
    values = torch.tensor(ends).double().sigmoid().tolist()
    return dict(zip(("left_share", "low", "high"), values, strict=True)) | {
        k: said[k] for k in ("left", "right")
    }


def _agreement(votes: list[Vote], key: Key, numbers: Votes, resamples: int, seed: int) -> dict:
    """Krippendorff's alpha of what is better on a pair: its first video, its second, or neither."""
    pairs = sorted({vote.pair for vote in votes})
    counts, prompts = torch.zeros(len(pairs), 3), torch.zeros(len(pairs), dtype=torch.long)
    for vote, prompt in zip(votes, numbers.prompt, strict=True):
        unit, videos = pairs.index(vote.pair), key.pairs[vote.pair].videos
        side = {"left": vote.left, "right": vote.right}.get(vote.choice)
        counts[unit, videos.index(side) if side else 2] += 1
        prompts[unit] = prompt
    several = int((counts.sum(1) > 1).sum())
    ends = alpha_interval(counts, prompts, resamples, seed) if several else None
    return {"alpha": alpha(counts), "interval": ends, "pairs": several, "of": len(pairs)}


def _again(votes: list[Vote]) -> dict:
    """How many pairs shown again, the other way round, have the same answer."""
    first = {(vote.voter, vote.pair): vote for vote in votes if not vote.again}
    both = [(first.get((vote.voter, vote.pair)), vote) for vote in votes if vote.again]
    same = [_better(one) == _better(two) for one, two in both if one]
    return {"pairs": len(same), "same": sum(same)}


def _better(vote: Vote) -> str:
    """The id of the video that is better, or that none is."""
    return {"left": vote.left, "right": vote.right}.get(vote.choice, "")


def _seconds(votes: list[Vote]) -> dict:
    """Seconds of a vote: the median, and between which a half of them lie."""
    seconds = torch.tensor([vote.seconds for vote in votes], dtype=torch.float64)
    quarter, median, three = seconds.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    return {"median": median, "quartiles": [quarter, three]}


def _reasons(votes: list[Vote], key: Key) -> dict[str, dict[str, int]]:
    """How often each reason was given where a model was preferred."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for vote in votes:
        if vote.choice in ("left", "right"):
            counts[_chosen(vote, key)].update(vote.reasons)
    return {model: dict(counts[model]) for model in key.models if counts[model]}


def _voters(votes: list[Vote]) -> list[dict]:
    """Each voter: votes, how often the left was said of those that prefer one, and seconds."""
    by_voter: dict[str, list[Vote]] = defaultdict(list)
    for vote in votes:
        by_voter[vote.voter].append(vote)
    rows = []
    for voter, own in sorted(by_voter.items()):
        said = Counter(vote.choice for vote in own)
        decided = said["left"] + said["right"]
        row = {"voter": voter, "votes": len(own), "left": said["left"] / decided if decided else None}
        rows.append(row | {"seconds": statistics.median(vote.seconds for vote in own)})
    return rows


def _stamps(votes: Votes, key: Key) -> list[str]:
    """What the votes do not bear."""
    stamps, voters = [], int(votes.voter.max()) + 1
    if voters < LEAST_VOTERS:
        stamps.append(f"small: {voters} of {LEAST_VOTERS} voters")
    counts = torch.bincount(torch.cat([votes.left, votes.right]), minlength=votes.models).tolist()
    if few := [
        f"{name} has {count}" for name, count in zip(key.models, counts, strict=True) if count < LEAST_VOTES
    ]:
        stamps.append(f"small: of {LEAST_VOTES} votes on each model {', '.join(few)}")
    if len(groups := separated(votes)) > 1:
        names = "; ".join(" and ".join(key.models[k] for k in group) for group in groups)
        stamps.append(f"separated, kept finite by the prior: {names}")
    return stamps


def sentence(result: dict) -> str:
    """A score as lines for the terminal."""
    voters, rows = len(result["voters"]), result["models"]
    lines = [*result["stamps"]]
    lines.append(
        f"{result['votes']} votes of {voters} voter{'s' * (voters > 1)} on {result['prompts']} prompts"
    )
    lines.append(f"arena ({result['protocol_sha256'][:12]}), page {result['page'][:12]}")
    head = (
        "model",
        "Bradley-Terry",
        "95 % interval",
        "win rate",
        "won",
        "lost",
        "neither",
        "preferred to the next",
    )
    table = [head]
    for row in rows:
        ends, nearest = row["interval"], row.get("beats_next")
        rate = "" if row["win_rate"] is None else f"{row['win_rate']:.1%}"
        counts = (row["won"], row["lost"], row["ties"] + row["both_bad"])
        spread = f"{ends['low']:+.2f} to {ends['high']:+.2f}"
        table.append((row["model"], f"{row['score']:+.2f}", spread, rate, *map(str, counts), _share(nearest)))
    lines += ["", *aligned(table, right=True)]
    if len(rows) > 2:
        names = [row["model"] for row in rows]
        cells = {(cell["model"], cell["other"]): cell for cell in result["pairs"]}
        matrix = [[name, *(_rate(cells.get((name, other))) for other in names)] for name in names]
        lines += ["", *aligned([("win rate against", *names), *map(tuple, matrix)], right=True)]
    left, agreed, again = result["position"], result["agreement"], result["again"]
    lines += [
        "",
        f"of equal videos the left one is preferred in {_share(left | {'value': left['left_share']})}",
    ]
    if agreed["alpha"] is not None:
        ends = agreed["interval"]
        spread = f" ({ends['low']:.2f} to {ends['high']:.2f})" if ends else ""
        lines.append(
            f"Krippendorff's alpha {agreed['alpha']:.2f}{spread}, {agreed['pairs']} pairs of several voters"
        )
    else:
        lines.append("no agreement to measure: no pair has answers of several voters, or all are the same")
    if again["pairs"]:
        lines.append(f"shown again the other way round: {again['same']} of {again['pairs']} answers the same")
    lines.append(f"{result['seconds']['median']:.1f} s a vote in the middle")
    for model, counts in result["reasons"].items():
        lines.append(
            f"{model} for: {', '.join(f'{why} ({count})' for why, count in Counter(counts).most_common())}"
        )
    return "\n".join(lines + passed_lines(result["passed_over"]))


def _share(ends: dict | None) -> str:
    """A share with its interval, in percent."""
    return f"{ends['value']:.0%} ({ends['low']:.0%} to {ends['high']:.0%})" if ends else ""


def _rate(cell: dict | None) -> str:
    """A cell of the win rates: the share of votes, half of each that prefers neither, and how many."""
    number = sum(cell[name] for name in ("won", "lost", "ties", "both_bad")) if cell else 0
    return (
        f"{(cell['won'] + (cell['ties'] + cell['both_bad']) / 2) / number:.0%} of {number}" if number else "-"
    )
