"""Proves that every picture and video says that a model made it, to others' readers too, and after a copy."""

import inspect
import json
import math
import re
from xml.etree import ElementTree

import av
import pytest
import torch
from PIL import Image

from configs.sampling import SampleSettings
from dit.cli import run
from dit.label import read_label
from dit.record import read_record, sidecar, write
from dit.sample import sample
from tests.test_sample import folder, message  # noqa: F401
from tests.test_video import noise
from vae.data import write as writers
from vae.data.label import AIGC, POSSIBLY, from_xmp
from vae.data.mark import draw_words, marked
from vae.data.sheets import contact_sheet
from vae.data.video import read_frames
from vae.data.write import ffmpeg, read_metadata, save_picture, write_video

KEYS = ["Label", "ContentProducer", "ProduceID", "ReservedCode1", "ContentPropagator", "PropagateID"]
KEYS += ["ReservedCode2"]
VIDEO = noise(5, 32, 48)
WRITE = {  # every way to write a file -> the file that it writes into a folder
    "write_video": lambda home: write_video(home / "a.mp4", VIDEO, 8, {}) or home / "a.mp4",
    "write_stream": lambda home: writers.write_stream(home / "a.mkv", [VIDEO], 8, dict) or home / "a.mkv",
    "write_gif": lambda home: writers.write_gif(home / "a.gif", VIDEO, 8) or home / "a.gif",
    "write_png": lambda home: writers.write_png(home / "a.png", VIDEO) or home / "a.png",
    "write_png_frames": lambda home: writers.write_png_frames(home / "a", VIDEO) or home / "a" / "0003.png",
    "save_picture": lambda home: save_picture(home / "a.png", Image.new("RGB", (9, 9))) or home / "a.png",
    "contact_sheet": lambda home: contact_sheet([VIDEO], ["it"], home / "a.png") or home / "a.png",
}


def test_no_way_to_write_is_forgotten():
    found = inspect.getmembers(writers, inspect.isfunction)
    own = {name for name, function in found if function.__module__ == writers.__name__}
    assert {name for name in own if re.match(r"(write|save)_", name)} == WRITE.keys() - {"contact_sheet"}


@pytest.mark.parametrize("how", WRITE)
def test_all_that_is_written_says_what_it_is(tmp_path, how):
    said = read_label(WRITE[how](tmp_path))
    assert "AI-generated" in said["label"] and list(said[AIGC]) == KEYS
    assert (said[AIGC]["Label"], said[AIGC]["ContentProducer"]) == ("1", "dit")
    assert re.fullmatch(r"[0-9a-f]{32}", said[AIGC]["ProduceID"])


def test_others_read_the_label(tmp_path):
    """PyAV in videos; in pictures Pillow, by the places that the rule's guide and IPTC name."""
    for name in ("a.mp4", "a.mkv"):
        write_video(tmp_path / name, VIDEO, 8, {})
        with av.open(str(tmp_path / name)) as container:
            assert json.loads(container.metadata[AIGC]) == read_label(tmp_path / name)[AIGC]
    writers.write_gif(tmp_path / "a.gif", VIDEO, 8)
    writers.write_png(tmp_path / "a.png", VIDEO)
    with (tmp_path / "a.jpg").open("wb") as opened:
        save_picture(opened, Image.new("RGB", (9, 9)))
    with Image.open(tmp_path / "a.gif", formats=["GIF"]) as image:
        assert json.loads(image.info["comment"])[AIGC] == read_label(tmp_path / "a.gif")[AIGC]
        assert image.n_frames == 5
    with Image.open(tmp_path / "a.png", formats=["PNG"]) as image:
        assert json.loads(image.text[AIGC]) == read_label(tmp_path / "a.png")[AIGC]
        (described,) = ElementTree.fromstring(image.text["XML:com.adobe.xmp"])[0]
        assert json.loads(described[0].text) == json.loads(image.text[AIGC])
        assert described[0].tag == "{http://www.tc260.org.cn/ns/AIGC/1.0/}AIGC"
        (source,) = (v for k, v in described.attrib.items() if k.endswith("}DigitalSourceType"))
        assert source.endswith("/trainedAlgorithmicMedia")
    with Image.open(tmp_path / "a.jpg", formats=["JPEG"]) as image:
        assert json.loads(from_xmp(image.info["xmp"].decode()))["Label"] == "1"


def test_what_others_wrote_is_read(tmp_path, capsys):
    """As an attribute of XMP, or as a key of a video whose comment is another's; damage is named."""
    foreign = '<rdf:Description TC260:AIGC="{&quot;Label&quot;:&quot;3&quot;}"/>'
    assert json.loads(from_xmp(foreign)) == {"Label": "3"}
    write_video(tmp_path / "ours.mp4", VIDEO, 8, {})
    about = ["-metadata", "comment=a walk", "-movflags", "use_metadata_tags", "-c", "copy", "-y"]
    for value, name in (('{"Label": "2"}', "theirs.mp4"), ("{", "bad.mp4")):
        tags = ["-map_metadata", "-1", "-metadata", f"AIGC={value}", *about, str(tmp_path / name)]
        assert ffmpeg(["-i", str(tmp_path / "ours.mp4"), *tags]).returncode == 0
    assert read_label(tmp_path / "theirs.mp4") == {"label": None, AIGC: {"Label": "2"}, "record": None}
    assert run(["label", str(tmp_path / "bad.mp4")]) == 1
    assert "bad.mp4, AIGC" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["-movflags", "use_metadata_tags"]])
@pytest.mark.parametrize("names", ["a.mp4 b.mp4", "a.mp4 b.mkv", "a.mkv b.mp4", "a.mp4 b.mov", "a.gif b.gif"])
def test_the_label_survives_a_copy_by_ffmpeg(tmp_path, names, flags):
    one, two = (tmp_path / name for name in names.split())
    (writers.write_gif if one.suffix == ".gif" else write_video)(one, VIDEO, 8, {"seed": 7})
    flags = flags if two.suffix in (".mp4", ".mov") else []
    assert ffmpeg(["-i", str(one), "-c", "copy", *flags, str(two)]).returncode == 0
    assert read_label(two) == read_label(one) and read_label(one)[AIGC]["Label"] == "1"
    again = two.with_name(f"c{two.suffix}")
    assert ffmpeg(["-i", str(two), "-c", "copy", str(again)]).returncode == 0
    assert read_label(again)[AIGC] == read_label(one)[AIGC], "a copy of a copy"


def test_a_sample_names_its_producer_and_is_numbered_by_what_it_is(folder, tmp_path, capsys):  # noqa: F811
    words = ["sample", "a cat", "--model", str(folder), "--producer", "实验室 & co", "--out"]
    numbers = {}
    for name in ("a.mp4", "a.gif", "a.png"):
        out = tmp_path / name.split(".")[1] / name
        assert run([*words, str(out)]) == 0
        assert run(["label", str(out.with_suffix("") if name == "a.png" else out)]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line[0] == "{"]
        assert len(lines) == (5 if name == "a.png" else 1) and all(one.keys() >= {"file"} for one in lines)
        said = [line[AIGC] for line in lines]
        record = json.loads(sidecar(out.with_suffix("") if name == "a.png" else out).read_text())
        assert all(one == record[AIGC] for one in said)
        assert said[0]["ContentProducer"] == "实验室 & co"
        assert said[0]["ReservedCode1"] == record["frames_sha256"]
        numbers[name] = said[0]["ProduceID"]
    assert len({*numbers.values()}) == 1, "one video, wherever and in whatever format it lies"
    assert run([*words, str(tmp_path / "c.gif"), "--seed", "1"]) == 0
    assert read_label(tmp_path / "c.gif")[AIGC]["ProduceID"] != numbers["a.gif"]


def test_the_verb_says_when_there_is_none(tmp_path, capsys):
    Image.new("RGB", (9, 9)).save(tmp_path / "plain.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "plain.gif", comment=b"holidays")
    raw = [*("-f", "lavfi", "-i", "color=s=32x32:d=0.5", "-metadata", "comment=a walk")]
    assert ffmpeg([*raw, str(tmp_path / "plain.mp4")]).returncode == 0
    assert run(["label", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert [line["label"] for line in lines] == [line[AIGC] for line in lines] == [None] * 3
    assert "3 of 3 say nothing of a model" in captured.err
    for words in (["missing.png"], []):
        assert run(["label", *words]) == 1
        assert ("no such file" if words else "no picture and no video") in capsys.readouterr().err


def test_a_video_that_may_be_a_model_s_says_so(tmp_path):
    write_video(tmp_path / "a.mp4", VIDEO, 8, {}, POSSIBLY)
    said = read_label(tmp_path / "a.mp4")
    assert said[AIGC]["Label"] == "2" and said["label"] == "possibly AI-generated"


# What can be seen.


@pytest.mark.parametrize("size", [(32, 32), (256, 256), (480, 832), (720, 240)])
def test_letters_of_the_mark_are_as_high_as_the_rule_wants(size):
    """Measured in the pixels: the lowest letter, alone, is 5 % of the shorter side or more."""
    for letter in ("AI-generated", "e"):
        colour, shade = draw_words("AI-generated", *size) if len(letter) > 1 else draw_words(letter, *size)
        assert colour.shape == shade.shape and colour.shape[0] <= size[0] and colour.shape[1] <= size[1]
        rows = (colour > 0).any(1).nonzero()
        assert rows.max() - rows.min() + 1 >= math.ceil(0.05 * min(size)) - (letter == "e")


@pytest.mark.parametrize("corner", ["bottom-right", "top-left", "top-right", "bottom-left"])
@pytest.mark.parametrize("start", [True, False])
def test_the_mark_stands_at_a_corner_for_its_time_and_nothing_else_changes(corner, start):
    video = torch.rand(3, 23, 64, 96, generator=torch.manual_seed(0)) * 2 - 1
    parts = list(marked(video.split((1, 4, 4, 4, 4, 6), dim=1), 7.5, "AI-generated", corner, start))
    drawn = torch.cat(parts, dim=1)
    assert torch.equal(drawn, torch.cat(list(marked([video], 7.5, "AI-generated", corner, start)), dim=1))
    changed = (drawn != video).any(0)
    frames = changed.flatten(1).any(1)
    assert frames.tolist() == [not start or k < 15 for k in range(23)], "two seconds at 7.5 a second"
    rows, columns = changed[0].any(1).nonzero(), changed[0].any(0).nonzero()
    height, width = draw_words("AI-generated", 64, 96)[0].shape
    box = torch.zeros(64, 96, dtype=bool)
    top, left = corner.startswith("top"), corner.endswith("left")
    box[:height] |= top
    box[64 - height :] |= not top
    aside = torch.zeros(64, 96, dtype=bool)
    aside[:, : width if left else 0] = True
    aside[:, 96 - width if not left else 96 :] = True
    assert len(rows) == height and len(columns) == width and not (changed & ~(box & aside)).any()
    assert drawn.min() >= -1 and drawn.max() <= 1


def test_a_mark_is_asked_for_recorded_and_made_again(folder, tmp_path, capsys):  # noqa: F811
    words = ["sample", "a cat", "--model", str(folder), "--out"]
    assert run([*words, str(tmp_path / "plain.mkv")]) == 0
    assert run([*words, str(tmp_path / "marked.mkv"), "--mark", "all", "--mark-corner", "top-left"]) == 0
    plain, drawn = (read_frames(tmp_path / f"{name}.mkv", range(5)) for name in ("plain", "marked"))
    height, width = draw_words("AI-generated", *plain.shape[1:3])[0].shape
    assert (plain != drawn).any(-1)[:, :height, :width].float().mean() > 0.5
    plain[:, :height, :width] = drawn[:, :height, :width]
    assert torch.equal(plain, drawn)
    assert run(["sample", "--again", str(tmp_path / "marked.mkv"), "--model", str(folder)]) == 0
    assert torch.equal(read_frames(tmp_path / "marked-again.mkv", range(5)), drawn)
    line = message(capsys, *words[1:], tmp_path / "plain.mkv", "--mark", "all")
    assert "sample.mark was 'none', and is 'all'" in line
    line = message(
        capsys, *words[1:], tmp_path / "x.mkv", "--mark", "all", "--mark-text", "AI-generated " * 9
    )
    assert "has no room on 32 x 32" in line and not (tmp_path / "x.mkv").exists()


def test_letters_that_no_font_has_are_refused(monkeypatch):
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: [])
    with pytest.raises(ValueError, match=r"no font here shows '.*成.*' of the mark .*fonts-noto-cjk"):
        draw_words("AI生成", 64, 64)


# What is left out.


def test_a_video_may_keep_its_prompt_to_itself(folder, tmp_path, capsys):  # noqa: F811
    words = ["sample", "secretly", "another secret", "--negative", "secret too", "--batch", "2"]
    words += ["--model", str(folder), "--no-prompt-inside", "--out"]
    assert run([*words, str(tmp_path)]) == 0
    made = sorted(tmp_path.glob("*.mp4"))
    assert len(made) == 2
    for file in tmp_path.iterdir():
        assert "secret" not in file.name and b"secret" not in file.read_bytes()
        if file.suffix == ".png":
            continue
        record = read_record(made[0]) if file.suffix == ".mp4" else json.loads(file.read_text())
        assert "secret" not in json.dumps(record) and record["seed"] == 0 and AIGC in record
    assert "does not say its prompt" in message(capsys, "--again", made[0], "--model", folder)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert run([*words, str(tmp_path)]) == 0, "what is there is kept"
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    one = ["sample", "secretly", "--model", str(folder), "--no-prompt-inside", "--out"]
    assert run([*one, str(tmp_path / "x.mp4")]) == 0
    other = ["--model", folder, "--no-prompt-inside", "--out", tmp_path / "x.mp4"]
    assert "inputs_sha256 was" in message(capsys, "another prompt", *other), "it is not taken for another's"


def test_frames_without_a_mark_are_untouched(folder, tmp_path):  # noqa: F811
    settings = SampleSettings(prompts=("a cat",), model=str(folder), out=str(tmp_path / "a.mkv"))
    (file,) = sample(settings)
    record = read_metadata(file)
    parts = [torch.zeros(3, 2, 32, 32), torch.ones(3, 3, 32, 32)]
    write(tmp_path / "b.mkv", parts, record, 8)
    back = read_frames(tmp_path / "b.mkv", range(5))
    assert (back[:2] == 128).all() and (back[2:] == 255).all()


def test_the_label_survives_another_encoding_by_ffmpeg(tmp_path):

    write_video(tmp_path / "a.mp4", VIDEO, 8, {})
    again = [*("-i", str(tmp_path / "a.mp4"), "-vf", "scale=64:64", str(tmp_path / "b.mp4"))]
    assert ffmpeg(again).returncode == 0
    assert read_label(tmp_path / "b.mp4") == read_label(tmp_path / "a.mp4")
