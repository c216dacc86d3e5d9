"""Proves the page on which people judge: which videos meet, that it is blind, what votes of it count."""

import base64
import hashlib
import json
import re
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

import eval.people.page
from dit.cli import run
from eval.arena import ArenaSettings, count, make
from eval.people.page import read_key
from eval.people.pairs import find_shown, make_pairs, model_names
from tests.browser import browsing
from vae.data.video import probe
from vae.data.write import write_png_frames, write_video

PROMPTS = ["a cat that jumps", "rain </script> & snow", "a red kite", "waves on a shore"]
SETTINGS = {"reasons": ("motion", "picture"), "swapped": 2, "resamples": 50}


def video(seed: int, frames: int = 8, size: tuple[int, int] = (32, 48)) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    colours = torch.rand(3, 1, 4, 6, generator=random).repeat(1, frames, 1, 1)
    colours[seed // 100] *= 0.4  # a model's hue
    moving = colours + torch.linspace(-0.2, 0.2, frames)[None, :, None, None]
    return torch.nn.functional.interpolate(moving, size).clamp(0, 1) * 2 - 1


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[str, str]:
    """Two models: mp4 with records inside, and folders of frames with records beside them."""
    home = tmp_path_factory.mktemp("videos")
    for k, prompt in enumerate(PROMPTS):
        record = {
            "prompt": prompt,
            "seed": k,
            "model": {"name": "secretweights"},
            "sample": {"out": "secretplace"},
        }
        write_video(home / "zebra" / f"{k}.mp4", video(k), 8.0, record)
        write_png_frames(home / "quagga" / str(k), video(k + 100))
        (home / "quagga" / f"{k}.json").write_text(json.dumps(record))
    return str(home / "zebra"), str(home / "quagga")


@pytest.fixture(scope="module")
def arena(folders, tmp_path_factory) -> Path:
    """A page of theirs with its key."""
    page = tmp_path_factory.mktemp("arena") / "page.html"
    make(ArenaSettings(models=folders, out=str(page), **SETTINGS))
    return page


def key_of(page: Path):
    return read_key(page.with_suffix(".key.json"))


def pairs_of(page: Path) -> list[str]:
    """Ids of pairs by their prompts."""
    pairs = key_of(page).pairs
    return sorted(pairs, key=lambda pair: pairs[pair].prompt)


def vote(page: Path, voter: str, pair: str, choice: str, swapped: bool = False, **changes) -> dict:
    """A vote on a pair, its first model on the left where not swapped; or for a model, wherever that is."""
    key = key_of(page)
    left, right = sorted(key.pairs[pair].videos, key=lambda one: key.videos[one].model, reverse=swapped)
    if choice in key.models:
        choice = "left" if key.models[key.videos[left].model] == choice else "right"
    one = {"page": key.page, "voter": voter, "number": 0, "pair": pair, "left": left, "right": right}
    one |= {"again": False, "choice": choice, "reasons": ["motion"], "text": "", "seconds": 2.5}
    return one | {"at": "2026-01-01T00:00:00.000Z"} | changes


def write_votes(file: Path, votes: list) -> Path:
    file.write_text("".join((v if isinstance(v, str) else json.dumps(v)) + "\n" for v in votes))
    return file


def counted(page: Path, *files: Path) -> dict:
    key = str(page.with_suffix(".key.json"))
    return count(ArenaSettings(count=tuple(map(str, files)), key=key, resamples=50))


def test_videos_meet_by_prompt_and_by_seed_where_both_have_one(tmp_path):
    for name, seeds in {"a": (1, 2, None), "b": (2, None, 7), "c": (3,)}.items():
        for k, seed in enumerate(seeds):
            write_png_frames(tmp_path / name / str(k), video(k, 2, (8, 8)))
            record = {"prompt": "other" if name == "c" else "one"} | ({} if seed is None else {"seed": seed})
            (tmp_path / name / f"{k}.json").write_text(json.dumps(record))
    (tmp_path / "b" / "1.json").unlink()
    (tmp_path / "b" / "1.txt").write_text("one\n")  # without a seed
    write_png_frames(tmp_path / "b" / "9", video(9, 2, (8, 8)))  # without a prompt
    found = [find_shown(str(tmp_path / name), k, "") for k, name in enumerate("abc")]
    assert [without for _, without in found] == [{}, {"9": "no prompt"}, {}]
    pairs, alone = make_pairs([shown for shown, _ in found], 0, 0)
    met = {(pair.one.source.name, pair.other.source.name) for pair in pairs}
    assert met == {("1", "0"), ("2", "1")}  # seeds 2 and 2, then no seed and no seed; 1 and 7 are two seeds
    assert [sorted(lone) for lone in alone] == [["0"], ["2"], ["0"]]
    assert alone[2]["0"] == "no other model has a video of its prompt and seed"
    with pytest.raises(ValueError, match="no two folders have videos of one prompt"):
        make_pairs([found[0][0], found[2][0]], 0, 0)


def test_prompts_come_from_a_table_too_and_are_drawn_whole(folders, tmp_path):
    table = tmp_path / "prompts.csv"
    table.write_text("path,caption\n" + "".join(f"{k},same {k % 2}\n" for k in range(4)))
    found = [find_shown(folder, k, str(table))[0] for k, folder in enumerate(folders)]
    pairs, _ = make_pairs(found, 0, 0)
    assert sorted((p.one.prompt, p.one.source.name) for p in pairs) == sorted(
        (f"same {k % 2}", str(k)) for k in range(4)
    )
    three = [found[0], found[1], [s.__class__(2, s.source, s.prompt, s.seed) for s in found[1]]]
    drawn, _ = make_pairs(three, 7, 0)
    assert len(drawn) == 6 and Counter((p.one.model, p.other.model) for p in drawn) == {
        (0, 1): 2,
        (0, 2): 2,
        (1, 2): 2,
    }
    assert len({tuple(p.one.source.name for p in make_pairs(found, 1, seed)[0]) for seed in range(20)}) > 1


def test_models_are_named_by_what_tells_their_folders_apart():
    assert model_names(("runs/a/videos", "runs/b/videos")) == ["a/videos", "b/videos"]
    assert model_names(("x/a", "y/b/")) == ["a", "b"]
    with pytest.raises(ValueError, match="given twice"):
        model_names(("x/a", "x/../x/a"))
    with pytest.raises(ValueError, match="which models"):
        model_names(("a",))


def media(page: Path) -> dict[str, bytes]:
    """The videos in a page by their ids."""
    found = re.findall(r'<script type="text/plain" id="v-(\w+)">([^<]*)<', page.read_text())
    return {name: base64.b64decode(text) for name, text in found}


def test_a_page_does_not_say_whose_a_video_is(arena, folders, tmp_path):
    text, videos, key = arena.read_text(), media(arena), key_of(arena)
    assert videos.keys() == key.videos.keys() and len(videos) == 8
    everything = [text.encode(), *videos.values()]
    hidden = ["zebra", "quagga", "secretweights", "secretplace", Path(folders[0]).parent.name, "rgb_sha256"]
    hidden += [video.rgb_sha256 for video in key.videos.values()]
    for word in hidden:
        assert [word for part in everything if word.encode() in part] == [], word
    assert list(videos) == sorted(videos)  # by ids, which are of a secret
    assert all(data[4:8] == b"ftyp" for data in videos.values())
    firsts = Counter(key.videos[pair.videos[0]].model for pair in key.pairs.values())
    assert firsts == {0: 2, 1: 2}
    others = []
    for name in ("one", "two"):
        make(ArenaSettings(models=folders, out=str(tmp_path / f"{name}.html"), pairs=1, **SETTINGS))
        others.append(key_of(tmp_path / f"{name}.html"))
    assert not others[0].videos.keys() & others[1].videos.keys() and others[0].page != others[1].page
    assert others[0].protocol_sha256 == others[1].protocol_sha256  # the same contents and settings
    assert others[0].protocol_sha256 != key.protocol_sha256


def test_a_page_asks_for_nothing_outside_it_and_runs_its_own_script_alone(arena):
    text = arena.read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "connect-src" not in policy
    for tag in ("script", "style"):
        (body,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        checksum = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{checksum}'" in policy
    assert not re.search(r"https?:|//\w+\.|src=|href=|@import|url\(", text)
    assert json.loads(re.search(r'id="page">(.*?)</script>', text)[1])["pairs"][0]["prompt"] in PROMPTS


def write_model(folder: Path, video_CTHW: torch.Tensor) -> str:
    """A model with one video, of the first prompt."""
    write_png_frames(folder / "0", video_CTHW)
    (folder / "0.json").write_text(json.dumps({"prompt": PROMPTS[0], "seed": 0}))
    return str(folder)


def test_a_page_is_not_made_over_another(arena, folders, capsys):
    before = arena.read_bytes()
    assert run(["eval", "arena", *folders, "--out", str(arena)]) == 1
    assert "page.html is there, and votes need the key of their page" in capsys.readouterr().err
    assert arena.read_bytes() == before


def test_a_key_is_never_lost(arena, folders, tmp_path, monkeypatch, capsys):
    """Votes are worth nothing without it: no page, no score and no other process takes its place."""
    page = tmp_path / "page.html"
    assert run(["eval", "arena", *folders, "--out", str(page), "--key", str(page)]) == 1
    assert "is the page, which voters get" in capsys.readouterr().err and not page.exists()

    key = arena.with_suffix(".key.json")
    before, votes = key.read_bytes(), tmp_path / "votes.jsonl"
    write_votes(votes, [vote(arena, "v", pairs_of(arena)[0], "left")])
    words = ["eval", "arena", "--count", str(votes), "--key", str(key), "--json"]
    assert run([*words, str(key)]) == 1 and key.read_bytes() == before
    assert "page.key.json is there, and is not of the kind" in capsys.readouterr().err

    def meanwhile(*given):
        """Encodes while another process makes the same page."""
        monkeypatch.undo()
        assert run(["eval", "arena", *folders, "--out", str(page)]) == 0
        return encode(*given)

    encode = eval.people.page._encode
    monkeypatch.setattr("eval.people.page._encode", meanwhile)
    assert run(["eval", "arena", *folders, "--out", str(page)]) == 1
    assert "page.key.json is there by now" in capsys.readouterr().err
    assert key_of(page).page in page.read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["page.html", "page.key.json", "votes.jsonl"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_page_that_cannot_be_written_leaves_no_key_and_the_same_command_begins_anew(
    folders, tmp_path, monkeypatch, error
):
    def full(*given, **named):
        raise error

    words = ["eval", "arena", *folders, "--out", str(tmp_path / "page.html")]
    with monkeypatch.context() as patched:
        patched.setattr("eval.arena.write_text", full)
        assert run(words) in (1, 130) and not list(tmp_path.iterdir())
    assert run(words) == 0 and len(list(tmp_path.iterdir())) == 2


def test_an_arena_has_an_end():
    with pytest.raises(ValueError, match="65 models are given, and one arena is of at most 64"):
        model_names(tuple(f"model{k}" for k in range(65)))


def test_what_has_no_partner_or_looks_otherwise_is_said(folders, tmp_path, capsys):
    third = write_model(tmp_path / "third", video(0, size=(40, 64)))
    words = ["--out", str(tmp_path / "x.html"), "--seconds", "0.5", "--side", "48"]
    assert run(["eval", "arena", third, folders[1], *words]) == 0
    said = capsys.readouterr().out
    assert "x.html: 1 pair of 2 models on 1 prompt" in said
    assert "quagga: 3 passed over: 1: no other model has a video of its prompt and seed" in said
    assert "note: 1 of them differs in length, rate or size" in said
    known = read_key(tmp_path / "x.key.json").videos
    assert sorted((v.frames, v.height, v.width) for v in known.values()) == [(4, 32, 48), (4, 40, 64)]
    for identity, data in media(tmp_path / "x.html").items():
        (tmp_path / "shown.mp4").write_bytes(data)
        shown = probe(tmp_path / "shown.mp4")
        height = 30 if known[identity].height == 40 else 32
        assert (shown.frames, shown.height, shown.width, shown.fps) == (4, height, 48, 8.0)


def test_a_video_that_cannot_be_read_is_named_and_so_is_its_partner(folders, tmp_path):
    broken = tmp_path / "broken"
    for k in (0, 1):
        write_video(broken / f"{k}.mp4", video(k + 7), 8.0, {})
        (broken / f"{k}.json").write_text(json.dumps({"prompt": PROMPTS[k], "seed": k}))
    (broken / "1.mp4").write_bytes((broken / "1.mp4").read_bytes()[:-300])
    key = make(ArenaSettings(models=(str(broken), folders[1]), out=str(tmp_path / "x.html")))
    assert [pair.prompt for pair in key.pairs.values()] == PROMPTS[:1]
    assert "1.mp4 cannot be read" in key.passed_over[0]["1"] and list(key.passed_over[1]) == ["2", "3", "1"]
    assert key.passed_over[1]["1"] == "its partner cannot be shown"


def test_two_models_with_the_same_frames_make_no_pair(tmp_path, capsys):
    folders = [write_model(tmp_path / name, video(0)) for name in ("one", "two")]
    assert run(["eval", "arena", *folders, "--out", str(tmp_path / "y.html")]) == 1
    assert "the same frames as 0 of one" in capsys.readouterr().err
    assert list(tmp_path.glob("y.*")) == []
    folders.append(write_model(tmp_path / "three", video(1)))  # which both others meet
    key = make(ArenaSettings(models=tuple(folders), out=str(tmp_path / "y.html")))
    met = [sorted(key.videos[one].model for one in pair.videos) for pair in key.pairs.values()]
    assert sorted(met) == [[0, 2], [1, 2]]
    assert key.passed_over == ({}, {"0": "the same frames as 0 of one"}, {})


COLOURS = """sides.map((side) => {
  const paper = document.createElement("canvas").getContext("2d");
  paper.drawImage(at(side), 0, 0, 48, 32);
  const pixels = paper.getImageData(0, 0, 48, 32).data;
  const mean = (part) => part.reduce((sum, one) => sum + one) / part.length;
  return [0, 1, 2].map((k) => mean(pixels.filter((_, place) => place % 4 === k)));
})"""


def test_a_voter_judges_in_a_browser_by_keyboard_and_loses_nothing(arena, tmp_path):
    with browsing(tmp_path) as page:
        for width in (400, 1000):
            page.open(arena, width)
            assert page.sideways() == 0
        page.type("Ada L.")
        page.press("Enter")
        page.wait("ready()")
        assert page.sideways() == 0
        boxes = page.evaluate("sides.map(s => [at(s).clientWidth, at(s).clientHeight])")
        assert boxes[0] == boxes[1]
        assert page.evaluate("document.title") == "Which video is better?"
        page.wait("left.currentTime > 0.2")
        page.evaluate("left.pause(), right.pause(), right.currentTime = 0.7, left.currentTime = 0.3")
        page.wait("Math.abs(left.currentTime - right.currentTime) < 0.02")
        page.wait("sides.every((side) => !at(side).seeking && at(side).readyState > 1)")
        seen = page.evaluate(COLOURS)
        page.press("Enter")  # nothing is chosen yet, and nothing can be before both are there
        assert page.evaluate("show(0), choose('left'), draft.choice") is None
        for key in ("2", "ArrowLeft", "Enter", "ArrowUp", "ArrowUp"):
            page.wait("ready()")
            page.press(key)
        assert page.evaluate("place") == 2
        for key in ("Backspace", "ArrowDown", "t"):  # the second vote again
            page.wait("ready()")
            page.press(key)
        page.type("neither moves")
        page.press("Escape")
        page.press("Enter")
        page.open(arena, 400)  # the page is closed and opened again
        page.type("Ada L.")
        assert "after 2 of them" in page.evaluate("at('found').textContent")
        page.press("Enter")
        page.wait("ready()")
        assert page.sideways() == 0 and page.evaluate("place") == 2
        for key in ("ArrowRight", "Enter") * 4:
            page.wait("ready()")
            page.press(key)
        assert page.evaluate("[place, at('end').hidden, at('judge').hidden]") == [6, False, True]
        swaps = page.evaluate("shown.map((one) => [one.pair.id, one.swapped])")
        page.press("Enter")  # the focus is on the download
        file = tmp_path / f"votes-Ada_L_-{key_of(arena).page[:8]}.jsonl"
        end = time.monotonic() + 30
        while not file.is_file() and time.monotonic() < end:
            time.sleep(0.05)
        assert {*page.requests()} == {arena.as_uri()} and page.complaints() == []
        check_orders(page)
    votes = [json.loads(line) for line in file.read_text().splitlines()]
    assert [one["choice"] for one in votes] == ["left", "bad", "right", "right", "right", "right"]
    assert [one["again"] for one in votes] == [False] * 4 + [True] * 2
    assert votes[0]["reasons"] == ["picture"] and votes[1]["text"] == "neither moves"
    assert all(0 <= one["seconds"] < 60 for one in votes)
    result = counted(arena, file)
    assert result["votes"] == 4 and result["passed_over"] == {} and result["again"]["pairs"] == 2
    key = key_of(arena)
    for side, colours in zip(("left", "right"), seen, strict=True):
        judged = key.videos[votes[0][side]]
        own = video(int(judged.video) + 100 * judged.model).mean((1, 2, 3))
        seen_hue = torch.tensor(colours) / 127.5  # of any frame: channels move alike
        assert torch.allclose(
            seen_hue - seen_hue.mean(), own - own.mean(), atol=0.15
        )  # the other is 0.5 away
    assert [key.pairs[pair].videos[swapped] for pair, swapped in swaps] == [one["left"] for one in votes]
    winner = key.models[key.videos[votes[0]["left"]].model]
    assert result["reasons"][winner] == {"picture": 1}


def check_orders(page) -> None:
    """Orders are a function of the voter's name; sides are even for each, places for all."""
    voters = [f"voter {k}" for k in range(300)]
    ask = "((names) => names.map((name) => order(name).map((one) => [one.pair.id, one.swapped, one.again])))"
    orders = page.evaluate(f"{ask}({json.dumps(voters)})")
    assert orders == page.evaluate(f"{ask}({json.dumps(voters)})")
    assert len({json.dumps(one) for one in orders}) > 150  # of 384 there are
    first, swaps = Counter(), Counter()
    for one in orders:
        assert len(one) == 6 and sum(swapped for _, swapped, _ in one[:4]) == 2
        once = {pair: swapped for pair, swapped, _ in one[:4]}
        assert len(once) == 4 and all(again and once[pair] != swapped for pair, swapped, again in one[4:])
        first[one[0][0]] += 1
        swaps.update(pair for pair, swapped in once.items() if swapped)
    assert all(45 < count < 105 for count in first.values())  # 75 each, within four standard deviations
    assert all(115 < count < 185 for count in swaps.values())  # 150 each
    few = page.evaluate(f"((page.each = 3), {ask}({json.dumps(voters)}))")
    seen = Counter(pair for one in few for pair, _, again in one if not again)
    assert all(len(one) == 5 for one in few) and all(195 < count < 255 for count in seen.values())  # 225 each
