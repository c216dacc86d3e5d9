"""Proves that data sets become manifests by their official lists and annotations, whatever lies where."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from dit.cli import run
from vae.data.index import list_hash
from vae.data.manifest import load_manifest
from vae.data.ucf101 import CLASSES, PROMPTS, SPLITS, VIDEOS, read_classes, read_split, words
from vae.data.write import write_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A small video to stand in for the data sets'."""
    file = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(file, torch.rand(3, 4, 32, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1, 25.0, {})
    return file


LISTED = {
    "trainlist01.txt": ["Archery/v_Archery_g08_c01.avi 1", "YoYo/v_YoYo_g09_c02.avi 2"],
    "testlist01.txt": ["Archery/v_Archery_g01_c01.avi", "YoYo/v_YoYo_g01_c04.avi"],
}


@pytest.fixture
def ucf101(tmp_path: Path, clip: Path) -> tuple[Path, Path]:
    """Root and lists in the official shape, with made-up numbers."""
    root, lists = tmp_path / "UCF-101", tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Archery\r\n2 YoYo\r\n\r\n")
    for file, lines in LISTED.items():
        (lists / file).write_text("\n".join(lines) + "\n")
        for line in lines:
            target = root / line.split()[0]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(clip, target)
    return root, lists


def told(capsys, *words: str) -> str:
    """The one line that a failing command prints."""
    assert run(["data", *map(str, words)]) == 1
    error = capsys.readouterr().err.strip()
    return error.splitlines()[-1]


def test_the_official_lists_are_read(ucf101_lists):
    lists = ucf101_lists
    classes = read_classes(lists)
    assert len(classes) == CLASSES and classes == list(PROMPTS)
    counts = {split: len(read_split(lists, split)) for split in SPLITS}
    assert (counts["all"], counts["train1"], counts["test1"]) == (VIDEOS, 9537, 3783)
    for number in "123":  # every split parts the same videos
        parts = read_split(lists, f"train{number}") + read_split(lists, f"test{number}")
        assert sorted(parts) == read_split(lists, "all")
    assert {name.split("/")[0] for name in read_split(lists, "all")} == set(classes)


def test_every_class_has_a_sentence_of_its_own():
    assert len(PROMPTS) == 101 == len(set(PROMPTS.values()))
    for name, sentence in PROMPTS.items():
        assert sentence[0].isupper() and sentence.endswith(".") and 4 <= len(sentence.split()) <= 14
        assert words(name) != sentence.lower().rstrip(".")
    assert [words(name) for name in ("ApplyEyeMakeup", "YoYo", "TaiChi", "Biking")] == [
        "apply eye makeup",
        "yo yo",
        "tai chi",
        "biking",
    ]


def test_ucf101_in_class_folders_or_flat_is_the_same_manifest(ucf101, tmp_path, capsys):
    root, lists = ucf101
    assert run(["data", "ucf101", str(root), "--lists", str(lists)]) == 0
    nested = load_manifest(root)
    printed = capsys.readouterr().out
    names = sorted(line.split()[0] for lines in LISTED.values() for line in lines)
    assert [entry.path.relative_to(root).as_posix() for entry in nested] == names
    assert f"list {list_hash(names)[:12]}: 4 of 4 videos" in printed
    assert [entry.captions for entry in nested] == [(PROMPTS[name.split("/")[0]],) for name in names]
    flat = tmp_path / "flat" / "deeper"
    flat.mkdir(parents=True)
    for file in root.rglob("*.avi"):
        shutil.copy(file, flat / file.name)
    assert run(["data", "ucf101", str(tmp_path / "flat"), "--lists", str(lists), "--prompts", "names"]) == 0
    other = load_manifest(tmp_path / "flat")
    assert [entry.path.name for entry in other] == [entry.path.name for entry in nested]
    assert [entry.checksums for entry in other] == [entry.checksums for entry in nested]
    assert {entry.captions for entry in other} == {("archery",), ("yo yo",)}


def test_splits_missing_videos_and_doubles_of_ucf101(ucf101, tmp_path, capsys):
    root, lists = ucf101
    out = tmp_path / "test1.parquet"
    assert (
        run(["data", "ucf101", str(root), "--lists", str(lists), "--split", "test1", "--out", str(out)]) == 0
    )
    assert [e.path.name for e in load_manifest(out)] == ["v_Archery_g01_c01.avi", "v_YoYo_g01_c04.avi"]
    (root / "YoYo" / "v_YoYo_g01_c04.avi").unlink()
    (root / "Archery" / "v_Archery_g01_c01.avi").write_bytes(b"RIFF")
    capsys.readouterr()
    assert run(["data", "ucf101", str(root), "--lists", str(lists)]) == 0
    printed = capsys.readouterr()
    assert "note: 1 of 4 videos are missing: YoYo/v_YoYo_g01_c04.avi" in printed.err
    assert "bad: " in printed.err and "2 of 4 videos" in printed.out
    shutil.copy(root / "YoYo" / "v_YoYo_g09_c02.avi", root / "v_YoYo_g09_c02.avi")
    assert "are one video: which is it?" in told(capsys, "ucf101", root, "--lists", lists)


def test_wrong_folders_and_lists_of_ucf101_are_told(ucf101, tmp_path, capsys):
    root, lists = ucf101
    assert "nowhere: give UCF-101's" in told(capsys, "ucf101", "nowhere", "--lists", lists)
    assert "--lists: give the folder" in told(capsys, "ucf101", root)
    assert "classInd.txt: no such list" in told(capsys, "ucf101", root, "--lists", tmp_path)
    assert "trainlist02.txt: no such list" in told(
        capsys, "ucf101", root, "--lists", lists, "--split", "train2"
    )
    assert "holds none of the 4 videos of all" in told(capsys, "ucf101", lists, "--lists", lists)
    (lists / "testlist01.txt").write_text("Archery/holiday.avi\n")
    assert "'Archery/holiday.avi' is no CLASS/v_CLASS" in told(capsys, "ucf101", root, "--lists", lists)
    (lists / "testlist01.txt").write_text("Chess/v_Chess_g01_c01.avi\n")
    assert "classes that classInd.txt has not: Chess" in told(capsys, "ucf101", root, "--lists", lists)


@pytest.fixture
def msrvtt(tmp_path: Path, clip: Path) -> Path:
    """MSR-VTT in its official shape: three videos of training and validation, two of the test."""
    root = tmp_path / "MSRVTT"
    splits = {
        "video2": "train",
        "video10": "train",
        "video5": "validate",
        "video7010": "test",
        "video7011": "test",
    }
    for file, wanted in (
        ("train_val_videodatainfo.json", ("train", "validate")),
        ("test_videodatainfo.json", ("test",)),
    ):
        names = [name for name, split in splits.items() if split in wanted]
        sentences = [
            {"video_id": name, "caption": f" {name}  caption {k}", "sen_id": 1000 - k}
            for k in range(20)
            for name in names
        ]
        videos = [{"video_id": name, "split": splits[name], "category": 1, "id": 3} for name in names]
        (root / "annotation").mkdir(parents=True, exist_ok=True)
        (root / "annotation" / file).write_text(
            json.dumps({"info": {}, "videos": videos, "sentences": sentences})
        )
        folder = root / ("TestVideo" if "test" in wanted else "TrainValVideo")
        folder.mkdir()
        for name in names:
            shutil.copy(clip, folder / f"{name}.mp4")
    return root


def test_msrvtt_is_read_by_its_annotations(msrvtt, capsys):
    assert run(["data", "msrvtt", str(msrvtt)]) == 0
    entries = load_manifest(msrvtt)
    assert [entry.path.stem for entry in entries] == ["video7010", "video7011"]
    assert [len(entry.captions) for entry in entries] == [20, 20]
    assert (
        entries[0].captions[0] == "video7010 caption 19" and entries[0].captions[19] == "video7010 caption 0"
    )
    printed = capsys.readouterr()
    assert "note: 2 videos in the annotations, and MSR-VTT has 2990" in printed.err
    assert f"{list_hash(['video7011', 'video7010'])[:12]}: 2 of 2 videos" in printed.out
    assert run(["data", "msrvtt", str(msrvtt), "--split", "train"]) == 0
    assert [entry.path.stem for entry in load_manifest(msrvtt)] == ["video2", "video10"]
    assert run(["data", "msrvtt", str(msrvtt), "--split", "all"]) == 0
    assert len(load_manifest(msrvtt)) == 5


def test_missing_videos_and_captions_of_msrvtt_are_counted(msrvtt, capsys):
    (msrvtt / "TestVideo" / "video7010.mp4").unlink()
    file = msrvtt / "annotation" / "test_videodatainfo.json"
    values = json.loads(file.read_text())
    values["sentences"] = values["sentences"][2:]
    file.write_text(json.dumps(values))
    assert run(["data", "msrvtt", str(msrvtt)]) == 0
    told = capsys.readouterr().err
    assert "note: 1 of 2 videos are missing: video7010" in told
    assert "note: 2 videos have not 20 captions: video7010, video7011" in told


def test_wrong_folders_and_annotations_of_msrvtt_are_told(msrvtt, tmp_path, capsys):
    assert "nowhere: give MSR-VTT's" in told(capsys, "msrvtt", "nowhere")
    assert "holds no test_videodatainfo.json" in told(capsys, "msrvtt", msrvtt / "TestVideo")
    file = msrvtt / "annotation" / "test_videodatainfo.json"
    for text in ("{", "[]", '{"videos": [{}], "sentences": []}', '{"videos": []}'):
        file.write_text(text)
        assert "is no annotation file of MSR-VTT" in told(capsys, "msrvtt", msrvtt)
    file.write_text('{"videos": [], "sentences": []}')
    assert "of no video of test" in told(capsys, "msrvtt", msrvtt)
