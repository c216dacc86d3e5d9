"""Proves that `dit sample` keeps what is there alike, refuses to overwrite, and mixes no two calls."""

import json
from pathlib import Path

import pytest
import torch

import dit.record
from configs.sampling import SampleSettings
from dit.cli import run
from dit.sample import sample
from tests.test_sample import folder, message  # noqa: F401
from vae.data.write import read_metadata


@pytest.fixture
def calls(monkeypatch) -> list[list[tuple[str, int]]]:
    """The prompts and seeds of every packed call; nothing is computed, noise of the right shape comes out."""
    made = []

    def generate(denoiser, requests, *rest):
        made.append([(request.condition.prompt, request.seed) for request in requests])
        return [torch.randn(request.shape, generator=torch.manual_seed(request.seed)) for request in requests]

    monkeypatch.setattr("dit.sample.generate", generate)
    return made


def state(home: Path) -> dict[str, tuple[int, bytes]]:
    """Every file's time and bytes."""
    files = (path for path in sorted(home.rglob("*")) if path.is_file())
    return {str(file.relative_to(home)): (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def test_what_is_there_is_kept_and_what_is_missing_made(folder, calls, tmp_path, capsys):  # noqa: F811
    words = ["sample", "a cat", "A cat!", "--number", "2", "--model", str(folder), "--out", str(tmp_path)]
    assert run(words) == 0
    printed, whole = capsys.readouterr().out, state(tmp_path)
    assert len(calls) == 4 and len(whole) == 9
    assert run(words) == 0
    captured = capsys.readouterr()
    assert captured.out == printed and state(tmp_path) == whole and len(calls) == 4
    assert "4 of 4 videos are there with the same record: kept" in captured.err
    (tmp_path / "a-cat-1.mp4").unlink()
    (tmp_path / "a-cat-0.json").unlink()  # a kill between the two: the record is in the mp4
    assert run(words) == 0
    assert calls[4:] == [[("a cat", 1)]]
    bytes_of = {name: content for name, (_, content) in state(tmp_path).items()}
    assert bytes_of == {name: content for name, (_, content) in whole.items()}
    # Another call adds its own, and neither its names nor its sheet depend on the others.
    assert run([*words[:2], "a dog", *words[4:]]) == 0
    assert {name: state(tmp_path)[name] for name in whole if "sheet" in name or "dog" in name} == {
        name: value for name, value in state(tmp_path).items() if name in whole and "sheet" in name
    }
    assert len(list(tmp_path.glob("contact-sheet-*.png"))) == 2


def test_other_settings_are_refused_before_anything_is_made(folder, calls, tmp_path, capsys):  # noqa: F811
    words = ("a cat", "--model", folder, "--out", tmp_path / "videos")
    assert run(["sample", *map(str, words)]) == 0
    before = state(tmp_path)
    for change, name in {
        ("--steps", "7"): "sample.steps was",
        ("--guidance", "3"): "sample.guidance was 2.0, and is 3.0",
        ("--fps", "3"): "sample.fps was",
        ("--frames", "9"): "sample.frames was 5, and is 9",
    }.items():
        line = message(capsys, *words, *change)
        assert "a-cat-0.mp4 was made otherwise" in line and name in line and "--overwrite to make it" in line
    assert state(tmp_path) == before and len(calls) == 1
    assert run(["sample", *map(str, words), "--steps", "7", "--overwrite"]) == 0
    assert read_metadata(tmp_path / "videos" / "a-cat-0.mp4")["sample"]["steps"] == 7
    assert read_metadata(tmp_path / "videos" / "a-cat-0.mp4")["sample"]["overwrite"] is False


@pytest.mark.parametrize("name", ["a.mp4", "a.json", "a.gif", "a/0000.png", "a"])
@pytest.mark.parametrize("out", ["a.mp4", "a.gif", "a.png"])
def test_a_user_s_own_file_is_never_overwritten(folder, calls, tmp_path, capsys, name, out):  # noqa: F811
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    words = ("a cat", "--model", folder, "--out", tmp_path / out)
    own = {
        "a.mp4": ("a.mp4", "a.json"),
        "a.gif": ("a.gif", "a.json"),
        "a.png": ("a/0000.png", "a", "a.json"),
    }[out]
    if name in own:
        line = message(capsys, *words)
        assert ("no record says" in line or "is a file" in line) and calls == []
        assert [path for path, (_, content) in state(tmp_path).items() if content == b"mine"] == [name]
    else:
        assert run(["sample", *map(str, words)]) == 0
        assert (tmp_path / name).read_text() == "mine"


def test_frames_are_written_all_or_none_and_never_among_others(folder, calls, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "a.png"
    settings = SampleSettings(prompts=("a cat",), model=str(folder), out=str(out))
    assert sample(settings) == [tmp_path / "a"] and sample(settings) == [tmp_path / "a"] and len(calls) == 1
    words = ("a dog", "--model", folder, "--out", out, "--overwrite")
    (tmp_path / "a" / "notes.txt").write_text("mine")
    assert "holds notes.txt: give the frames a folder of their own" in message(capsys, *words)
    (tmp_path / "a" / "notes.txt").unlink()
    (tmp_path / "a" / "0009.png").write_text("of a longer video")
    assert run(["sample", *map(str, words)]) == 0
    assert [path.name for path in sorted((tmp_path / "a").iterdir())] == [f"{k:04d}.png" for k in range(5)]


def test_a_gif_s_record_alone_is_no_video(folder, calls, tmp_path):  # noqa: F811
    settings = SampleSettings(prompts=("a cat",), model=str(folder), out=str(tmp_path / "a.gif"))
    sample(settings)
    record = (tmp_path / "a.json").read_bytes()
    (tmp_path / "a.gif").unlink()  # a kill between the two
    sample(settings)
    assert len(calls) == 2 and (tmp_path / "a.json").read_bytes() == record


def test_the_output_is_tried_before_the_model_is_loaded(tmp_path, capsys):
    (tmp_path / "file").touch()
    for out in ("file/a.mp4", "n" * 252 + ".mp4"):
        line = message(capsys, "a", "--model", "missing", "--out", tmp_path / out)
        assert "Not a directory" in line or "File name too long" in line


def test_a_pack_is_made_whole_and_what_is_there_kept(folder, calls, tmp_path):  # noqa: F811
    settings = SampleSettings(prompts=("a", "b", "c"), model=str(folder), out=str(tmp_path), batch=2)
    files = sample(settings)
    times = [file.stat().st_mtime_ns for file in files[:3]]
    files[1].unlink()
    assert sample(settings) == files and calls[2:] == [[("a", 0), ("b", 0)]]
    now = [file.stat().st_mtime_ns for file in files[:3]]
    assert now[0] == times[0] and now[2] == times[2]
    assert json.loads(files[1].with_suffix(".json").read_text())["place"] == 1


def test_an_again_replaces_its_own_alone(folder, tmp_path, capsys):  # noqa: F811
    sample(SampleSettings(prompts=("a cat",), model=str(folder), out=str(tmp_path / "one.mp4")))
    for _ in range(2):  # asked for, it is made each time
        assert run(["sample", "--again", str(tmp_path / "one.mp4"), "--model", str(folder)]) == 0
    other = SampleSettings(prompts=("a dog",), model=str(folder), out=str(tmp_path / "two.mp4"))
    sample(other)
    line = message(capsys, "--again", tmp_path / "one.mp4", "--model", folder, "--out", tmp_path / "two.mp4")
    assert "two.mp4 was made otherwise: prompt was 'a dog', and is 'a cat'" in line


@pytest.mark.parametrize("kind", ["mp4", "gif"])
def test_a_kill_while_a_video_is_made_anew_leaves_none_that_is_taken_for_another(
    folder,  # noqa: F811
    tmp_path,
    kind,
    monkeypatch,
):
    words = ["sample", "a cat", "--model", str(folder), "--out", str(tmp_path / f"a.{kind}")]
    assert run([*words, "--steps", "1"]) == 0
    whole = dit.record.write_json if kind == "mp4" else dit.record.write_gif

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(dit.record, whole.__name__, killed)
        assert run([*words, "--steps", "2", "--overwrite"]) == 130
    assert run([*words, "--steps", "1"]) == 1, "what is there is of two steps, or nothing"
    assert run([*words, "--steps", "2"]) == 0
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["sample"]["steps"] == 2
    assert (
        run(["sample", "--again", words[-1], "--model", str(folder), "--out", str(tmp_path / "b.mp4")]) == 0
    )


def test_a_file_of_another_beside_a_video_is_not_replaced(folder, tmp_path, capsys):  # noqa: F811
    words = ["sample", "a cat", "--model", str(folder), "--steps", "1", "--out", str(tmp_path / "a.mp4")]
    assert run(words) == 0
    (tmp_path / "a.json").write_text('{"mine": 1}')
    assert run(words) == 1 and "a.json is there, and no record says" in capsys.readouterr().err
    assert json.loads((tmp_path / "a.json").read_text()) == {"mine": 1}


def test_a_setting_that_came_later_makes_no_other_video(folder, tmp_path):  # noqa: F811
    words = ["sample", "a cat", "--model", str(folder), "--steps", "1", "--out", str(tmp_path / "a.gif")]
    assert run(words) == 0
    record = json.loads((tmp_path / "a.json").read_text())
    del record["sample"]["decode_memory"], record["sample"]["batch"]
    (tmp_path / "a.json").write_text(json.dumps(record))
    assert run(words) == 0
    (tmp_path / "a.json").write_text(json.dumps(record | {"sample": record["sample"] | {"batch": 2}}))
    assert run(words) == 1


def test_what_a_kill_or_a_hand_cut_is_made_again(folder, tmp_path):  # noqa: F811
    plain = ["sample", "a cat", "--model", str(folder), "--steps", "1", "--out"]
    for name in ("a.gif", "b.png"):
        assert run([*plain, str(tmp_path / name)]) == 0
    gif, frame = tmp_path / "a.gif", tmp_path / "b" / "0001.png"
    whole = gif.read_bytes(), frame.read_bytes()
    gif.write_bytes(whole[0][:-40])
    frame.unlink()
    for name in ("a.gif", "b.png"):
        assert run([*plain, str(tmp_path / name)]) == 0
    assert (gif.read_bytes(), frame.read_bytes()) == whole


def test_a_record_is_of_one_format(folder, tmp_path, capsys):  # noqa: F811
    plain = ["sample", "a cat", "--model", str(folder), "--steps", "1", "--out"]
    assert run([*plain, str(tmp_path / "x.gif")]) == 0
    assert run([*plain, str(tmp_path / "x.mp4")]) == 1
    assert "the record of a video in .gif, not .mp4" in capsys.readouterr().err


def test_a_video_of_a_pack_is_made_again_in_another_folder(folder, tmp_path, capsys):  # noqa: F811
    words = ["sample", "a cat", "a dog", "--batch", "2", "--model", str(folder), "--steps", "1"]
    assert run([*words, "--out", str(tmp_path / "t")]) == 0
    again = ["sample", "--again", str(tmp_path / "t" / "a-dog-0.mp4"), "--model", str(folder)]
    capsys.readouterr()
    assert run([*again, "--out", str(tmp_path / "other.v1.5")]) == 0, "a dot in a folder's name is no format"
    assert capsys.readouterr().out.strip() == str(tmp_path / "other.v1.5" / "a-dog-0.mp4")
