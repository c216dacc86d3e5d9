"""`dit eval arena`: a page on which people judge models' videos of the same prompts; their votes counted."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Le

from configs.load import Positional, parse, to_json
from configs.ranges import CountOrZero, NonNegative, Rate, Seed
from eval.clips import passed_lines
from eval.people.page import Key, make_page, read_key
from eval.people.pairs import find_shown, make_pairs, model_names
from eval.people.strengths import PRIOR
from eval.people.tally import sentence, tally
from eval.people.votes import read_votes
from eval.scoring import check_outputs, publish
from vae.training.files import check_writable, write_json, write_text


@dataclass(frozen=True)
class ArenaSettings:
    """Make a page on which people say which of two videos is better; with --count, count their votes."""

    models: Positional[tuple[str, ...]] = ()
    """Folders of videos of the same prompts, one a model, as `dit sample` and `dit eval run` write them."""
    prompts: str = ""
    """Table with `path` and `caption`; empty takes each video's own record, or the text beside it."""
    out: str = "arena.html"
    """The page."""
    key: str = ""
    """File that says which video is whose, and stays with you; empty is the page's name with .key.json."""
    question: str = "Which video is better?"
    """What voters are asked."""
    reasons: tuple[str, ...] = (
        "follows the words",
        "motion",
        "picture quality",
        "steady over time",
        "looks real",
    )
    """Reasons that a voter can tick, at most nine."""
    pairs: CountOrZero = 0
    """Most pairs of the page, prompts being drawn; 0 takes all."""
    each: CountOrZero = 0
    """Most pairs that one voter is shown; 0 shows all."""
    swapped: CountOrZero = 0
    """Pairs that each voter is shown again at the end with sides swapped, to see how steady voters are."""
    side: Annotated[int, Ge(16), Le(4096)] = 512
    """Longest side of a video in the page; larger ones are made smaller."""
    seconds: NonNegative = 0.0
    """How much of each video is shown; 0 shows all."""
    fps: Rate = 8.0
    """Rate of videos that are folders of frames."""
    seed: Seed = 0
    """Seed of the drawn prompts, of voters' orders and of the bootstrap."""
    count: tuple[str, ...] = ()
    """Files of votes, or folders of them: count these by --key, and make no page."""
    json: str = ""
    """File for the counted score with all that it depends on, as JSON."""
    resamples: Annotated[int, Ge(2), Le(100_000)] = 1000
    """Bootstrap samples of prompts behind the interval of the agreement."""


MOST_REASONS = 9  # a key each


def make(settings: ArenaSettings) -> Key:
    """Writes the page and its key, and prints what voters will see.

    Raises ValueError where there are no pairs, or a page is there: its key is all that its votes are worth.
    """
    if len(settings.reasons) > MOST_REASONS or len(set(settings.reasons)) < len(settings.reasons):
        raise ValueError(f"--reasons: {len(settings.reasons)} are given; at most {MOST_REASONS}, each once")
    page, secret = Path(settings.out), _key_file(settings)
    if page.suffix.lower() != ".html":
        raise ValueError(f"--out {settings.out}: a page's name ends in .html")
    if page.resolve() == secret.resolve():
        raise ValueError(f"--key {settings.key} is the page, which voters get: give the key another name")
    for file in (page, secret):
        if file.exists():
            raise ValueError(f"{file} is there, and votes need the key of their page: give another --out")
        check_writable(file)
    names = model_names(settings.models)
    found = [find_shown(folder, k, settings.prompts) for k, folder in enumerate(settings.models)]
    pairs, without = make_pairs([shown for shown, _ in found], settings.pairs, settings.seed)
    lone = [no_prompt | alone for (_, no_prompt), alone in zip(found, without, strict=True)]
    protocol = {
        "name": "arena",
        "metric": "arena",
        "question": settings.question,
        "reasons": settings.reasons,
    }
    protocol |= {
        name: getattr(settings, name) for name in ("each", "swapped", "side", "seconds", "fps", "seed")
    }
    protocol |= {"answers": ["left", "right", "tie", "bad"], "ties": "Davidson 1970", "prior_sd": PRIOR}
    html, key = make_page(pairs, names, lone, protocol, settings.side, settings.seconds, settings.fps)
    write_json(secret, to_json(key), new=True)  # of two processes one alone has both
    try:
        write_text(page, html, new=True)
    except BaseException:
        secret.unlink()  # of no page: the same command begins anew
        raise
    for line in _about(settings, key, page, secret):
        print(line)
    return key


def _key_file(settings: ArenaSettings) -> Path:
    """Where the key lies: as the settings say, or beside the page."""
    return Path(settings.key) if settings.key else Path(settings.out).with_suffix(".key.json")


def _about(settings: ArenaSettings, key: Key, page: Path, secret: Path) -> list[str]:
    """What was made and what was not, as lines for the terminal."""
    prompts, size = len({pair.prompt for pair in key.pairs.values()}), page.stat().st_size / 1e6
    pairs = f"{len(key.pairs)} pair{'s' * (len(key.pairs) > 1)} of {len(key.models)} models"
    lines = [f"{page}: {pairs} on {prompts} prompt{'s' * (prompts > 1)}, {size:.1f} MB: give it to voters"]
    lines.append(f"{secret}: says which video is whose: keep it, votes are counted by it")
    lines.append(f"then: dit eval arena --count VOTES --key {secret}")
    for name, passed in zip(key.models, key.passed_over, strict=True):
        lines += [f"{name}: {line}" for line in passed_lines({k: f"{k}: {why}" for k, why in passed.items()})]
    looks = [
        {(video.frames, video.fps, video.width, video.height) for video in map(key.videos.get, pair.videos)}
        for pair in key.pairs.values()
    ]
    if unlike := sum(len(look) > 1 for look in looks):
        said = f"{unlike} of them {'differs' if unlike == 1 else 'differ'}"
        lines.append(f"note: {said} in length, rate or size, by which voters may tell models apart")
    return lines


def count(settings: ArenaSettings) -> dict:
    """The score of votes; written as JSON where that is asked for."""
    if settings.models:
        raise ValueError("--count takes votes and --key, and no folders of videos: the key knows the models")
    check_outputs(settings.json)
    key = read_key(_key_file(settings))
    votes, passed = read_votes(settings.count, key)
    result = tally(votes, key, passed, settings.resamples, settings.seed)
    publish(result, settings.json, sentence(result))
    return result


def main(arguments: list[str]) -> None:
    """The verb `dit eval arena`."""
    settings = parse(ArenaSettings, arguments, prog="dit eval arena")
    count(settings) if settings.count else make(settings)


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("eval arena")
