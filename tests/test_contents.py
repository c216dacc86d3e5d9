"""Proves that a score depends on what its videos are, not on where they or their manifest lie."""

import hashlib
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import eval.contents
import eval.machine
import eval.sides
from configs.protocol import load_protocol
from eval.clips import choose_clips, find_sources, open_sources, partners, side_hash, with_keys
from eval.features import rgb_hash
from eval.fvd import fvd
from eval.sides import Side, cached_features
from tests.test_fvd import Means, folders, quick, settings, video  # noqa: F401
from vae.data.index import IndexSettings, index, list_hash
from vae.data.write import write_video

CHOICE = replace(load_protocol("fvd-google", "fvd"), frames=4)
COUNTED = {"value", "interval", "infinity", "methods_differ_by"}


def moved(folder: Path, home: Path) -> dict[str, Path]:
    """The same videos in several places, under several names, and with manifests here and there."""
    (home / "elsewhere").mkdir(parents=True)
    places = {"as it is": folder, "copied": home / "copied" / "deep" / "down"}
    shutil.copytree(folder, places["copied"])
    index(IndexSettings(str(places["copied"])))  # in its own folder
    for name, source in (("far", folder), ("near", places["copied"])):
        places[name] = home / "elsewhere" / f"{name}.parquet"
        index(IndexSettings(str(source), out=str(places[name])))
    places["in the folder above"] = home / "copied" / "manifest.parquet"
    index(IndexSettings(str(places["copied"]), out=str(places["in the folder above"])))
    places["renamed"] = home / "renamed"
    places["renamed"].mkdir()
    for k, file in enumerate(sorted(folder.rglob("*.mp4"), reverse=True)):
        shutil.copy(file, places["renamed"] / f"another name {k}.mp4")
    return places


@pytest.mark.parametrize("count", [0, 3])
def test_no_place_and_no_name_moves_a_clip(folders, tmp_path, monkeypatch, count):  # noqa: F811
    chosen = {}
    for name, place in moved(folders[0], tmp_path).items():
        clips, _ = choose_clips(find_sources(place), CHOICE, count, 1)
        contents = [hashlib.sha256(clip.source.path.read_bytes()).hexdigest() for clip in clips]
        assert [clip.source.key for clip in clips] == contents == sorted(contents)
        chosen[name] = [(content, clip.frames) for content, clip in zip(contents, clips, strict=True)]
        assert len(clips) == (count or 5)
        hashed = side_hash(clips)
        assert side_hash(clips[::-1]) == hashed == chosen.setdefault("hash", hashed)
    monkeypatch.chdir(folders[0].parent)
    clips, _ = choose_clips(find_sources(folders[0].name), CHOICE, count, 1)
    assert side_hash(clips) == chosen.pop("hash")
    assert len({tuple(rows) for rows in chosen.values()}) == 1


def test_the_value_is_equal_to_the_bit_wherever_the_files_lie(folders, quick, tmp_path):  # noqa: F811
    def scored(real: Path, fake: Path) -> dict:
        result = fvd(settings((real, fake), cache=False))
        hashes = [result[side][kind] for side in ("real", "fake") for kind in ("files_sha256", "rgb_sha256")]
        return {name: result[name] for name in COUNTED} | {"hashes": hashes}

    base = scored(*folders)
    places = [moved(side, tmp_path / side.name) for side in folders]
    for name in ("far", "in the folder above"):
        assert scored(places[0][name], places[1]["as it is"]) == base, name
    assert scored(places[0]["near"], places[1]["renamed"]) == base


def test_names_for_people_do_not_say_where_a_manifest_lies(folders, tmp_path):  # noqa: F811
    places = moved(folders[0], tmp_path)
    names = [source.name for source in find_sources(places["as it is"])]
    assert names == [f"class{k % 2}/{k}" for k in (0, 2, 4, 1, 3)]
    for name in ("far", "near", "in the folder above", "copied"):
        assert [source.name for source in find_sources(places[name])] == names


def test_another_content_is_another_hash(folders, tmp_path):  # noqa: F811
    shutil.copytree(folders[0], tmp_path / "real")
    before = side_hash(choose_clips(find_sources(tmp_path / "real"), CHOICE, 0, 1)[0])
    write_video(tmp_path / "real" / "class0" / "0.mp4", video(99), 8.0, {})
    clips, _ = choose_clips(find_sources(tmp_path / "real"), CHOICE, 0, 1)
    assert side_hash(clips) != before
    assert rgb_hash([1, 2]) == rgb_hash([2, 1]) != rgb_hash([1, 3])
    one = clips[0]
    other = replace(one, frames=tuple(frame + 1 for frame in one.frames))
    assert side_hash([other, *clips[1:]]) != side_hash(clips)


def test_frames_in_a_folder_are_their_bytes_in_order(tmp_path):
    for number in range(3):
        for place, name in (
            ("a", f"{number}.png"),
            ("b", f"frame {7 + number}.png"),
            ("c", f"{2 - number}.png"),
        ):
            (tmp_path / place).mkdir(exist_ok=True)
            Image.new("RGB", (8, 8), (80 * number, 0, 0)).save(tmp_path / place / name)
    sources = with_keys(find_sources(tmp_path))
    keys = {source.name: source.key for source in sources}
    assert keys["b"] == f"{keys['a']} 2" and keys["c"] not in keys["b"]


@pytest.mark.parametrize("videos", ["first", "random", "windows"])
def test_a_listed_video_that_is_gone_is_passed_over(folders, quick, tmp_path, videos):  # noqa: F811
    real = shutil.copytree(folders[0], tmp_path / "real")
    index(IndexSettings(str(real)))
    gone = real / "class0" / "0.mp4"
    gone.unlink()
    clips, passed = choose_clips(find_sources(real), replace(CHOICE, videos=videos), 0, 1)
    assert passed == {"class0/0": f"{gone}: no such file"}
    assert len({clip.source.path for clip in clips}) == 4 and len(side_hash(clips)) == 64
    scored = fvd(settings((real, folders[1])))
    assert scored["real"]["clips"] == 4 and scored["real"]["passed_over"] == passed


def test_a_file_is_read_once_for_its_hash(folders, tmp_path, monkeypatch):  # noqa: F811
    shutil.copytree(folders[0], tmp_path / "real")
    plain, read = eval.contents.file_hash, []
    monkeypatch.setattr(eval.contents, "file_hash", lambda file: read.append(file) or plain(file))
    sources = find_sources(tmp_path / "real")
    clips, _ = choose_clips(sources, CHOICE, 3, 1)
    assert len(read) == 5  # all are drawn from
    side_hash(clips)
    choose_clips(sources, CHOICE, 0, 1)
    assert len(read) == 5
    read.clear()
    shutil.copytree(folders[0], tmp_path / "again")
    first = replace(CHOICE, videos="first")
    side_hash(choose_clips(find_sources(tmp_path / "again"), first, 3, 1)[0])
    assert len(read) == 3, "of the first by name no others are read"


def test_an_official_list_draws_by_its_names_and_reads_no_file(folders, tmp_path, monkeypatch):  # noqa: F811
    official = replace(CHOICE, list_sha256=list_hash([str(k) for k in range(5)]))
    other = tmp_path / "other"  # other bytes of these names, as of another encoder
    for k in range(5):
        write_video(other / f"{k}.mp4", video(50 + k, 16 + k), 8.0, {})
    monkeypatch.setattr(eval.contents, "file_hash", lambda file: 1 / 0)
    frames = []
    for place in (folders[0], other):
        clips, _ = choose_clips(open_sources(place, official), official, 3, 1)
        frames.append([(clip.source.key, clip.frames) for clip in clips])
    assert frames[0] == frames[1] and [key for key, _ in frames[0]] == sorted(key for key, _ in frames[0])
    (other / "4.mp4").unlink()  # not the list any more
    with pytest.raises(ZeroDivisionError):
        choose_clips(open_sources(other, official), official, 3, 1)


def test_videos_of_one_content_are_drawn_apart_and_change_nothing(folders, tmp_path):  # noqa: F811
    file = folders[0] / "class0" / "4.mp4"
    hashes = set()
    for names in (("a", "b", "c"), ("z", "y", "x")):
        for name in names:
            (tmp_path / names[0]).mkdir(exist_ok=True)
            shutil.copy(file, tmp_path / names[0] / f"{name}.mp4")
        clips, _ = choose_clips(find_sources(tmp_path / names[0]), CHOICE, 0, 1)
        assert len({clip.source.key for clip in clips}) == 3
        assert len({clip.frames for clip in clips}) > 1
        hashes.add((side_hash(clips), tuple(clip.frames for clip in clips)))
    assert len(hashes) == 1


def test_copies_are_drawn_as_what_they_are_copies_of(folders, tmp_path):  # noqa: F811
    for file in folders[0].rglob("*.mp4"):
        write_video(tmp_path / file.relative_to(folders[0]), video(60, 20), 8.0, {})
    originals = {source.name: source.key for source in with_keys(find_sources(folders[0]))}
    copies = open_sources(tmp_path, CHOICE, str(folders[0]))
    assert {source.name: source.key for source in copies} == originals
    own = {source.name: source.key for source in with_keys(find_sources(tmp_path))}
    assert not {*own.values()} & {*originals.values()}


def test_sides_given_from_other_heights_are_paired(folders, tmp_path):  # noqa: F811
    low, high = find_sources(folders[0] / "class1"), find_sources(folders[0])
    assert {a: b.name for a, b in partners(low, high).items()} == {"1": "class1/1", "3": "class1/3"}
    assert {a: b.name for a, b in partners(high, low).items()} == {"class1/1": "1", "class1/3": "3"}
    assert partners(high, high) == {source.name: source for source in high}


MAKERS = {  # what makes features beside clips, weights and protocol -> how it changes
    "code": lambda patch: _other_source(patch, "preprocess.py"),
    "the reader": lambda patch: _other_source(patch, "video.py"),
    "the network": lambda patch: _other_source(patch, "test_fvd.py"),
    "torch": lambda patch: _other_version(patch, "torch"),
    "Pillow": lambda patch: _other_version(patch, "Pillow"),
    "decoder": lambda patch: patch.setattr(eval.machine.write, "decoder", lambda: "another"),
    "device": lambda patch: patch.setattr(eval.machine.platform, "machine", lambda: "another"),
}


def _other_source(patch, name: str) -> None:
    plain = eval.machine.file_hash
    patch.setattr(eval.machine, "file_hash", lambda file: plain(file) + "+" * (file.name == name))


def _other_version(patch, name: str) -> None:
    plain = eval.machine.importlib.metadata.version
    patch.setattr(eval.machine.importlib.metadata, "version", lambda one: plain(one) + "+" * (one == name))


def test_kept_features_are_of_all_that_made_them_and_of_no_name(folders, quick, tmp_path, monkeypatch):  # noqa: F811
    """Older code, another library or device does not find them; the same files under other names do."""
    clips, _ = choose_clips(find_sources(folders[0]), CHOICE, 0, 1)
    computed, plain = [], eval.sides.extract
    monkeypatch.setattr(eval.sides, "extract", lambda *given: computed.append(given) or plain(*given))
    asked = settings(folders)

    def features(of: list) -> Side:
        return cached_features(asked, CHOICE, of, "real", "weights", Means())

    first = features(clips)
    assert len(computed) == 1 and len(features(clips).names) == 5 and len(computed) == 1
    for count, change in enumerate(MAKERS.values()):
        with monkeypatch.context() as patch:
            change(patch)
            features(clips)
            assert len(computed) == 2 + count
    renamed, _ = choose_clips(find_sources(moved(folders[0], tmp_path / "moved")["renamed"]), CHOICE, 0, 1)
    again = features(renamed)
    assert len(computed) == 1 + len(MAKERS) and torch.equal(again.values_ND, first.values_ND)
    assert again.names == tuple(clip.source.name for clip in renamed) != first.names
    features(renamed[::-1])  # rows are in the clips' order
    assert len(computed) == 2 + len(MAKERS)


def test_other_makers_of_saved_features_are_said(folders, quick, tmp_path, monkeypatch, capsys):  # noqa: F811
    saved = tmp_path / "real.safetensors"
    fvd(settings(folders, save_real=str(saved), cache=False))
    fvd(settings((saved, folders[1]), cache=False))
    assert "made with another" not in capsys.readouterr().err
    _other_version(monkeypatch, "torch")
    fvd(settings((saved, folders[1]), cache=False))
    assert re.search(r"note: \S+real\.safetensors was made with another torch: ", capsys.readouterr().err)
