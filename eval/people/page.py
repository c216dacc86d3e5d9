"""The page on which people judge pairs: one HTML file that does not say whose is what; and its key."""

import base64
import hashlib
import hmac
import html
import json
import re
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Annotated

from annotated_types import MaxLen
from torch import Tensor
from typing_extensions import TypedDict

from configs.load import from_json
from configs.ranges import CountOrZero, Positive, Steps
from dit import __version__
from eval.clips import Clip, Source, frame_count, read_clip
from eval.people.pairs import MOST_MODELS, Pair, Shown
from vae.data.label import POSSIBLY
from vae.data.video import UnreadableVideo, probe, resize_and_crop, to_video
from vae.data.write import write_stream
from vae.training.files import read_json
from vae.training.progress import progress
from vae.training.seeds import generator

MOST_BYTES = 1 << 28  # of a page: browsers hold it whole, and a text of twice as much not at all
PART = 16  # frames that are encoded at once
ID = 16  # hexadecimal digits of an id
POLICY = (  # nothing but what is in the page, and no other address
    "default-src 'none'; script-src {script}; style-src {style}; media-src blob:; "
    "base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class Judged:
    """A video of a page: whose it is, and its frames as they were before the page's encoding."""

    model: CountOrZero
    video: str
    rgb_sha256: str
    frames: Steps
    height: Steps
    width: Steps
    fps: Positive


@dataclass(frozen=True)
class Asked:
    """A pair of a page: the ids of its videos, and what both were made from."""

    prompt: str
    seed: int | None
    videos: tuple[str, str]


class KeyProtocol(TypedDict):
    """What is read of the protocol of votes, which as a whole is hashed."""

    reasons: list[str]


@dataclass(frozen=True)
class Key:
    """Which model is which: what stays with whoever asks, and what votes are counted by."""

    page: str
    models: Annotated[tuple[str, ...], MaxLen(MOST_MODELS)]
    protocol: dict
    protocol_sha256: str
    videos: dict[str, Judged]
    pairs: dict[str, Asked]
    passed_over: tuple[dict[str, str], ...]
    version: str


def read_key(file: Path) -> Key:
    """The key of a page; raises ValueError for another file, or one whose parts do not fit together."""
    if not file.is_file():
        raise ValueError(
            f"{file}: no such key; `dit eval arena A B` writes it beside the page: --key names it"
        )
    key = read_json(file, Key)
    from_json(KeyProtocol, key.protocol, f"{file}, protocol")
    if _hash(key.protocol) != key.protocol_sha256:
        raise ValueError(f"{file}: its protocol is not the one that its protocol_sha256 is of: it was edited")
    if len(set(key.models)) < len(key.models):
        raise ValueError(f"{file}: two models have one name")
    if any(video.model >= len(key.models) for video in key.videos.values()):
        raise ValueError(f"{file}: a video is of a model that is not there")
    if any(not set(pair.videos) <= key.videos.keys() for pair in key.pairs.values()):
        raise ValueError(f"{file}: a pair is of videos that are not there")
    if any(len({key.videos[name].model for name in pair.videos}) < 2 for pair in key.pairs.values()):
        raise ValueError(f"{file}: a pair is of one model's videos")
    if not key.pairs:
        raise ValueError(f"{file}: no pairs")
    return key


def make_page(
    pairs: list[Pair],
    models: list[str],
    passed: list[dict[str, str]],
    protocol: dict,
    side: int,
    seconds: float,
    fps: float,
) -> tuple[str, Key]:
    """The page's HTML and its key, which has what was passed over of each model, and what cannot be read.

    `side` is the longest that a video has in the page, `seconds` how much of each is shown (0: all), `fps` is
    the rate of frames in folders. Ids are of a random secret that is kept nowhere.
    Raises ValueError where no pair is left, or the page is too large.
    """
    secret = secrets.token_bytes(32)
    data, facts, wrong = {}, {}, {}
    wanted = {(video.model, video.source.name): video for pair in pairs for video in (pair.one, pair.other)}
    for name, video in progress(wanted.items(), "encoding", unit="video", leave=False):
        try:
            encoded, judged = _encode(video, side, seconds, fps)
        except UnreadableVideo as error:
            wrong[name] = str(error)
            continue
        identity = _id(secret, "video", *name)
        data[identity], facts[identity] = base64.b64encode(encoded).decode(), judged
        if sum(map(len, data.values())) > MOST_BYTES:
            raise ValueError(
                f"{len(data)} of {len(wanted)} videos have {MOST_BYTES:,} bytes, and a page no more: "
                "--pairs, --seconds or --side make it smaller"
            )
    asked, same = _ask(pairs, models, facts, secret)
    wrong |= {name: why for name, why in same.items() if name not in wrong}
    if not asked:
        why = next(iter(wrong.values()), "there are none")
        raise ValueError(f"no pair of videos can be shown: {why}")
    shown = {identity for pair in asked.values() for identity in pair.videos}
    lone = [name for name in wanted if name not in wrong and _id(secret, "video", *name) not in shown]
    wrong |= {name: "its partner cannot be shown" for name in lone}
    facts = {identity: fact for identity, fact in facts.items() if identity in shown}
    contents = [
        [pair.prompt, pair.seed, sorted((facts[name].rgb_sha256, facts[name].fps) for name in pair.videos)]
        for pair in asked.values()
    ]
    protocol = protocol | {"pairs": len(asked), "pairs_sha256": _hash(sorted(contents, key=str))}
    values = {name: protocol[name] for name in ("question", "reasons", "seed", "each", "swapped")}
    values["pairs"] = [
        {"id": identity, "prompt": pair.prompt, "videos": pair.videos, "ratio": _ratio(facts, pair)}
        for identity, pair in sorted(asked.items())
    ]
    values["hash"] = _hash(values)
    over = tuple(
        known | {name: why for (k, name), why in wrong.items() if k == model}
        for model, known in enumerate(passed)
    )
    key = Key(values["hash"], tuple(models), protocol, _hash(protocol), facts, asked, over, __version__)
    return _html(values, {identity: data[identity] for identity in sorted(shown)}), key


def _ask(
    pairs: list[Pair], models: list[str], facts: dict[str, Judged], secret: bytes
) -> tuple[dict[str, Asked], dict[tuple[int, str], str]]:
    """The pairs of which both videos are there, by their ids; and what has the same frames as its partner.

    In half of any two models' pairs each comes first, so that sides are even in every voter's half of swaps.
    """
    asked, same = {}, {}
    for one, other in combinations(range(len(models)), 2):
        both = [pair for pair in pairs if (pair.one.model, pair.other.model) == (one, other)]
        drawn = generator("arena", secret.hex(), one, other).permutation(len(both)) % 2
        for pair, swapped in zip(both, drawn, strict=True):
            names = [(video.model, video.source.name) for video in (pair.one, pair.other)]
            ids = [_id(secret, "video", *name) for name in (reversed(names) if swapped else names)]
            if not facts.keys() >= set(ids):
                continue
            if len({facts[identity].rgb_sha256 for identity in ids}) == 1:
                same[names[1]] = f"the same frames as {names[0][1]} of {models[one]}"
            else:
                asked[_id(secret, "pair", *ids)] = Asked(pair.one.prompt, pair.one.seed, tuple(ids))
    return asked, same


def _encode(video: Shown, side: int, seconds: float, fps: float) -> tuple[bytes, Judged]:
    """A video as H.264 that holds no word of its own, and the facts of its frames; raises UnreadableVideo."""
    source = video.source
    known = Clip(source, tuple(range(frame_count(source))))
    fps = fps if source.pictures else _rate(source)
    most = max(1, round(seconds * fps)) if seconds else len(known.frames)
    frames = read_clip(Clip(source, known.frames[:most]))
    count, height, width = frames.shape[:3]
    checksum = hashlib.sha256(f"{tuple(frames.shape)}".encode() + frames.numpy().tobytes()).hexdigest()
    scale = min(1.0, side / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))

    def parts() -> Iterator[Tensor]:
        for part in frames.split(PART):
            yield to_video(part if scale == 1 else resize_and_crop(part, *size))

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "video.mp4"
        write_stream(file, parts(), fps, dict, POSSIBLY)
        encoded = file.read_bytes()
    return encoded, Judged(video.model, source.name, checksum, count, height, width, fps)


def _rate(source: Source) -> float:
    """The rate of a video's file."""
    return (source.known or probe(source.path)).fps


def _ratio(facts: dict[str, Judged], pair: Asked) -> float:
    """The wider shape of a pair's two, width by height: both are shown in a box of it."""
    return round(max(facts[identity].width / facts[identity].height for identity in pair.videos), 4)


def _id(secret: bytes, *names: object) -> str:
    """An id that says nothing of what it names to whoever has not the secret."""
    return hmac.new(secret, json.dumps(names).encode(), "sha256").hexdigest()[:ID]


def _hash(values: object) -> str:
    """SHA-256 of values as JSON with sorted keys and no spaces."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _html(values: dict, data: dict[str, str]) -> str:
    """The page of its values and videos, whose policy lets it run nothing but its own script."""
    parts = {
        name: files("eval.people").joinpath(f"page.{name}").read_text("utf-8")
        for name in ("html", "css", "js")
    }
    hashes = {
        name: f"'sha256-{base64.b64encode(hashlib.sha256(parts[name].encode()).digest()).decode()}'"
        for name in ("css", "js")
    }
    filled = {
        "policy": POLICY.format(script=hashes["js"], style=hashes["css"]),
        "question": html.escape(values["question"]),
        "style": parts["css"],
        "script": parts["js"],
        "page": json.dumps(values, sort_keys=True, ensure_ascii=False).replace("<", "\\u003c"),
        "videos": "\n".join(
            f'<script type="text/plain" id="v-{name}">{text}</script>' for name, text in data.items()
        ),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: filled[found[1]], parts["html"])
