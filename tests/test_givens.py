"""Proves what `dit sample` is given: each file at its place, kept to the bit, made again from the record."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from configs.sampling import SampleSettings
from dit.condition import lay
from dit.generate import generate
from dit.load import load_model
from dit.sample import sample
from tests.test_sample import folder, message, picture  # noqa: F401
from vae.data.video import read_frames, to_video
from vae.data.write import read_metadata, write_video


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Two videos without loss, of 11 and 9 frames of 32 x 32 at 8 a second, and two masks."""
    place = tmp_path_factory.mktemp("videos")
    for seed, (name, frames) in enumerate({"a": 11, "b": 9}.items()):
        noise = torch.rand(3, frames, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        video = noise.repeat_interleave(8, 2).repeat_interleave(8, 3)
        write_video(place / f"{name}.mkv", video, 8.0, {})
    mask = torch.zeros(32, 32, dtype=torch.uint8)
    mask[17:20, 30:] = 255
    Image.fromarray(mask.numpy()).save(place / "mask.png")
    mask[:, :20] = 255
    Image.fromarray(mask.numpy()).save(place / "outside.png")
    return place


def encoded(model, frames_THWC: torch.Tensor) -> torch.Tensor:
    return model.autoencoder.encode(to_video(frames_THWC)[None])[0]


def expected(case: str, model, videos: Path) -> tuple[int, dict]:
    """Frames of a case's video, and by latent frame what is given there: written out by hand."""
    a, b = (read_frames(videos / f"{name}.mkv", range(n)) for name, n in {"a": 11, "b": 9}.items())
    end = encoded(model, a[2:])  # the last 9 frames: 1 + 4 + 4
    after = encoded(model, torch.cat([b[:1], b[:8]]))[:, 1:]  # two latent frames of four frames each
    still = encoded(model, torch.cat([a[2:3]] * 5))[:, 1]
    last, one = (encoded(model, torch.cat([f[:1]] * 5))[:, 1] for f in (b, a))
    return {
        "extend": (17, {0: end[:, 0], 1: end[:, 1], 2: end[:, 2]}),
        "before": (13, {2: after[:, 0], 3: after[:, 1]}),
        "loop": (17, {0: end[:, 0], 1: end[:, 1], 2: end[:, 2], 4: still}),
        "join": (21, {0: end[:, 0], 1: end[:, 1], 2: end[:, 2], 4: after[:, 0], 5: after[:, 1]}),
        "last": (9, {2: last}),
        "keyframes": (13, {0: encoded(model, a[:1])[:, 0], 1: last, 3: one}),
    }[case]


CASES = {
    "extend": ("--extend", "a.mkv", "--seconds", "1"),
    "before": ("--extend", "b.mkv", "--before", "--seconds", "0.5"),
    "loop": ("--extend", "a.mkv", "--seconds", "1", "--loop"),
    "join": ("--join", "a.mkv", "b.mkv", "--seconds", "0.6"),
    "last": ("--last", "b.png", "--seconds", "1"),
    "keyframes": ("--keyframe", "a.png@0", "b.png@4", "a.png@9", "--frames", "13"),
}


QUICK = ("extend", "join")  # of the cases, those of the suite


@pytest.mark.parametrize(
    "case", [case if case in QUICK else pytest.param(case, marks=pytest.mark.long) for case in CASES]
)
def test_what_is_given_lies_at_its_place_and_the_video_is_made_again(
    case: str,
    folder: Path,  # noqa: F811
    videos: Path,
    tmp_path: Path,
    monkeypatch,
):
    from dit.cli import run

    for name in "ab":
        Image.fromarray(read_frames(videos / f"{name}.mkv", [0])[0].numpy()).save(videos / f"{name}.png")
    made = []
    keep = lambda *given: made.append((given[1], generate(*given))) or made[-1][1]  # noqa: E731
    monkeypatch.setattr("dit.sample.generate", keep)
    out = tmp_path / "one.mkv"
    files = [str(videos / word) if "." in word and word[0] in "ab" else word for word in CASES[case]]
    words = ["sample", "x", *files, "--model", str(folder), "--out", str(out), "--steps", "2", "--fps", "8"]
    assert run(words) == 0
    (requests, (latents,)), model = made[0], load_model(str(folder), torch.device("cpu"), torch.float32)
    frames, places = expected(case, model, videos)
    assert read_metadata(out)["video"]["frames"] == frames and latents.shape[1] == 1 + frames // 4
    start = lay(requests[0].condition.givens, latents.shape)[1]
    assert {k for k in range(len(start)) if not start[k].any()} == set(places) and start.unique().numel() == 2
    for place, given in places.items():
        assert torch.equal(latents[:, place], given)
    assert run(words) == 0 and len(made) == 1  # it is there
    assert run(["sample", "--again", str(out), "--model", str(folder)]) == 0
    assert torch.equal(made[1][1][0], latents)


@pytest.mark.parametrize("how", ["inside", "outside", "strength", "both"])
def test_a_part_of_a_video_is_made_anew_or_all_of_it_from_a_start(
    how: str,
    folder: Path,  # noqa: F811
    videos: Path,
    tmp_path: Path,
    monkeypatch,
):
    made = []
    keep = lambda *given: made.append((given[1], generate(*given))) or made[-1][1]  # noqa: E731
    monkeypatch.setattr("dit.sample.generate", keep)
    mask = "outside.png" if how == "outside" else "mask.png"
    options = {"mask": str(videos / mask)} if how != "strength" else {}
    options |= {"outside": how == "outside", "strength": 0.75 if how in ("strength", "both") else 1.0}
    where = {"model": str(folder), "out": str(tmp_path / "one.mkv"), "fps": 8.0, "steps": 2}
    sample(SampleSettings(prompts=("x",), video=str(videos / "b.mkv"), **options, **where))
    ((request,), (latents,)) = made[0]
    model = load_model(str(folder), torch.device("cpu"), torch.float32)
    whole = encoded(model, read_frames(videos / "b.mkv", range(9)))
    start = lay(request.condition.givens, latents.shape)[1]  # three frames of 2 x 2 tokens of 16 pixels
    anew = torch.zeros(3, 2, 2, dtype=torch.bool)
    anew[:, 0 if how == "outside" else 1, 1] = True
    anew[:, 1, 1] = True  # tokens of which any pixel is made anew
    assert start.unique().tolist() == {"strength": [0.25], "both": [0, 0.25]}.get(how, [0, 1])
    if how != "strength":
        assert torch.equal(start > 0, anew)
        kept = ~anew.repeat_interleave(2, 1).repeat_interleave(2, 2)
        assert torch.equal(latents[:, kept], whole[:, kept])
        assert not torch.isclose(latents[:, ~kept], whole[:, ~kept]).any(0).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--extend", "a.mkv"), "--extend takes --seconds"),
        (("--extend", "a.mkv", "--video", "b.mkv"), "--extend and --video each say which video"),
        (("--extend", "a.mkv", "--image", "a.png"), "--image has no part beside --extend"),
        (("--extend", "a.mkv", "--seconds", "1", "--frames", "9"), "leave out --frames"),
        (("--before",), "--before goes with --extend"),
        (("--mask", "mask.png"), "--mask goes with --video"),
        (("--video", "a.mkv"), "--video takes --mask"),
        (("--video", "a.mkv", "--outside"), "--outside goes with --mask"),
        (("--strength", "0.5"), "--strength goes with --video"),
        (("--keyframe", "mask.png@1", "mask.png@4", "--frames", "9"), "lie within the same 4 frames"),
        (("--seconds", "1", "--frames", "9"), "--seconds and --frames each"),
        (("--join", "a.mkv", "--seconds", "1"), "--join takes two videos, and 1 are given"),
        (("--loop",), "--loop goes with --image or --extend"),
        (("--keyframe", "a.png"), "it is FILE@FRAME"),
        (("--keyframe", "mask.png@99"), "the video has frames 0 to 4"),
        (("--extend", "mask.png", "--seconds", "1"), "mask.png is shorter than 5 frames at 8"),
        (("--last", "missing.png"), "missing.png: no such file"),
    ],
)
def test_what_cannot_be_given_together_is_one_sentence(words, said, folder, videos, capsys, monkeypatch):  # noqa: F811
    monkeypatch.chdir(videos)
    assert said in message(capsys, "x", *words, "--model", folder, "--out", "none.mkv")
