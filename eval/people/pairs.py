"""Pairs of videos for people to judge: two models' of one prompt, and of one seed where both have it."""

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from itertools import accumulate, combinations, zip_longest
from pathlib import Path

from eval.clips import Clip, Source, find_sources
from eval.clipsim import ClipsimSettings
from eval.clipsim import pair as pair_with_prompts
from eval.groups import own_prompt, own_record
from vae.training.seeds import uniform

MOST_MODELS = 64  # scores of so many are fitted at once, in memory that grows as their third power


@dataclass(frozen=True)
class Shown:
    """A model's video of a prompt, with its seed where its record has one."""

    model: int
    source: Source
    prompt: str
    seed: int | None


@dataclass(frozen=True)
class Pair:
    """Two models' videos of one prompt."""

    one: Shown
    other: Shown


def model_names(folders: tuple[str, ...]) -> list[str]:
    """Names of models: the last parts of their folders' paths, as many as tell them apart.

    Raises ValueError for fewer than two folders, for too many, and for one that is given twice.
    """
    if len(folders) < 2:
        raise ValueError(
            "which models? dit eval arena A B: folders of videos of the same prompts, one a model"
        )
    if len(folders) > MOST_MODELS:
        raise ValueError(f"{len(folders)} models are given, and one arena is of at most {MOST_MODELS}")
    parts = [Path(folder).resolve().parts for folder in folders]
    if twice := next((folder for k, folder in enumerate(folders) if parts[k] in parts[:k]), None):
        raise ValueError(f"{twice} is given twice: a model does not stand against itself")
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def find_shown(folder: str, model: int, prompts: str) -> tuple[list[Shown], dict[str, str]]:
    """A folder's videos with their prompts, from a table or their own records; and what has none, and why.

    Of several captions of a video its first by the alphabet is taken, the same for all models.
    """
    clips = [Clip(source, ()) for source in find_sources(folder)]
    if prompts:
        asked = ClipsimSettings(videos=folder, prompts=prompts, allow_small=True)
        pairs, without = pair_with_prompts(clips, asked)
        every = [(clip.source, prompt) for clip, prompt in pairs]
    else:
        every = [(clip.source, prompt) for clip in clips if (prompt := own_prompt(clip.source))]
        with_one = {source.name for source, _ in every}
        without = [clip.source.name for clip in clips if clip.source.name not in with_one]
    first: dict[str, Shown] = {}
    for source, prompt in every:
        seed = own_record(source).get("seed")
        seed = seed if isinstance(seed, int) and not isinstance(seed, bool) else None
        first.setdefault(source.name, Shown(model, source, prompt, seed))
    return list(first.values()), {name: "no prompt" for name in without}


def make_pairs(shown: list[list[Shown]], most: int, seed: int) -> tuple[list[Pair], list[dict[str, str]]]:
    """Every pair of models on every prompt that both have; and of each model what has no partner, and why.

    Videos of a prompt meet by their seeds where both have one, else in the order of their names. Where there
    are more than `most` pairs (0: all), prompts are drawn, with a pair of every two models that have them.
    Raises ValueError where there is no pair.
    """
    by_prompt: dict[str, list[list[Shown]]] = defaultdict(lambda: [[] for _ in shown])
    for model, videos in enumerate(shown):
        for video in videos:
            by_prompt[video.prompt][model].append(video)
    groups: list[list[Pair]] = []
    for prompt in sorted(by_prompt, key=lambda prompt: (uniform("arena", seed, prompt), prompt)):
        several = [_meet(one, other) for one, other in combinations(by_prompt[prompt], 2)]
        groups += [[pair for pair in row if pair] for row in zip_longest(*several)]
    pairs = [pair for group in groups for pair in group]
    met = {(video.model, video.source.name) for pair in pairs for video in (pair.one, pair.other)}
    without = [
        {
            video.source.name: "no other model has a video of its prompt and seed"
            for video in videos
            if (video.model, video.source.name) not in met
        }
        for videos in shown
    ]
    if not pairs:
        raise ValueError(
            "no two folders have videos of one prompt, and of one seed where both have it; "
            "`dit sample` and `dit eval run` write both into their records, and --prompts takes a table"
        )
    kept = groups[: max(1, bisect_right([*accumulate(map(len, groups))], most))] if most else groups
    return [pair for group in kept for pair in group], without


def _meet(ones: list[Shown], others: list[Shown]) -> list[Pair]:
    """Pairs of two models' videos of one prompt."""
    by_seed = {video.seed: video for video in reversed(others) if video.seed is not None}
    pairs, left = [], []
    for one in ones:
        other = by_seed.pop(one.seed, None) if one.seed is not None else None
        pairs += [Pair(one, other)] if other else []
        left += [] if other else [one]
    met = {id(pair.other) for pair in pairs}
    left_others = [video for video in others if id(video) not in met]
    # Videos without a seed meet each other first, then those with one that found no partner.
    for seeded, other_seeded in ((False, False), (True, False), (False, True)):
        for one, other in zip(
            [video for video in left if (video.seed is not None) == seeded],
            [video for video in left_others if (video.seed is not None) == other_seeded],
            strict=False,
        ):
            pairs.append(Pair(one, other))
            left, left_others = [v for v in left if v is not one], [v for v in left_others if v is not other]
    return pairs
