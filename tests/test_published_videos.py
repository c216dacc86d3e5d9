"""Proves that videos of an official list are certified by what is published of them, and others refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import eval.scoring
import eval.sides
from configs.protocol import load_protocol
from eval.clips import find_sources
from eval.fvd import fvd
from eval.published_videos import FEW_MORE, Published, check_contents, published_videos
from tests.test_fvd import SMOKE, folders, quick, settings  # noqa: F401
from vae.data.index import list_hash
from vae.data.ucf101 import read_split
from vae.training.files import file_hash


def test_what_is_published_is_of_the_official_list(ucf101_lists):
    names = {Path(name).stem.lower() for name in read_split(ucf101_lists, "all")}
    known = published_videos("ucf101")
    assert set(known) == names and published_videos("msrvtt") == {}
    exact = {name: one for name, one in known.items() if one.sha256}
    assert list(exact) == ["v_applyeyemakeup_g01_c01"]
    rest = [one for one in known.values() if not one.sha256]
    assert {one.most - one.least for one in rest} == {FEW_MORE}
    # The longest video is said to last 71.04 s (Soomro et al. 2012), at 25 frames a second.
    assert max(rest, key=lambda one: one.least).least + 1 == round(71.04 * 25)


def test_the_real_file_is_certified(real_clips):
    sources = [one for one in find_sources(real_clips) if one.name == "v_ApplyEyeMakeup_g01_c01"]
    assert check_contents("ucf101", sources) == (1, 0, [])


@pytest.fixture
def listed(folders, quick, monkeypatch):  # noqa: F811
    """A protocol whose official list the real videos are, and a table of what is published of some."""
    names = list_hash([str(k) for k in range(5)])
    official = replace(load_protocol("ucf101-recon", "fvd"), list_sha256=names, real=5, fake=5)
    monkeypatch.setattr(eval.sides, "load_protocol", lambda *_: official)
    table = {"0": Published(16, 16, (40, 32), file_hash(folders[0] / "class0" / "0.mp4"))}
    table |= {"1": Published(17, 17 + FEW_MORE), "2": Published(1, 18)}
    monkeypatch.setattr("eval.published_videos.published_videos", lambda data: table)
    return table


def test_a_stamp_says_how_many_are_certified(folders, listed, tmp_path):  # noqa: F811
    saved = str(tmp_path / "real.safetensors")
    result = fvd(settings(folders, cache=False, allow_small=False, save_real=saved))
    stamp = "contents not certified: 1 of 5 real videos are, by hash, 2 by their frames' number alone"
    assert result["stamps"] == [SMOKE, stamp]
    again = fvd(settings((saved, folders[1]), cache=False, allow_small=False))  # which refuses nothing
    assert again["stamps"] == result["stamps"]
    for k in range(5):
        file = next(folders[0].rglob(f"{k}.mp4"))
        listed[str(k)] = Published(1, 99, (40, 32), file_hash(file))
    assert fvd(settings(folders, cache=False, allow_small=False))["stamps"] == [SMOKE]


def test_several_clips_of_a_video_count_it_once_and_do_not_hide_it(folders, listed, monkeypatch):  # noqa: F811
    plain = eval.sides.load_protocol("ucf101-recon", "fvd")
    monkeypatch.setattr(eval.sides, "load_protocol", lambda *_: replace(plain, videos="windows", real=0))
    result = fvd(settings(folders, cache=False, allow_small=False))
    assert result["real"]["clips"] > 5 and "1 of 5 real videos are, by hash, 2 by" in result["stamps"][1]
    listed["2"] = Published(19, 30)
    with pytest.raises(
        ValueError, match=r"other contents than ucf101, 1 of 5 videos: .*2\.mp4 has 18 frames"
    ):
        fvd(settings(folders, cache=False, allow_small=False))


WRONG = {
    "frames": ({"2": Published(19, 30)}, r"2\.mp4 has 18 frames, not 19 to 30"),
    "exact frames": ({"2": Published(19, 19)}, r"2\.mp4 has 18 frames, not 19;"),
    "size": ({"1": Published(17, 17, (320, 240), "a" * 64)}, r"1\.mp4 has 40x32 pixels, not 320x240"),
    "content": ({"1": Published(17, 17, (40, 32), "a" * 64)}, r"1\.mp4 has the SHA-256 \w{12}, not a{12};"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_listed_video_that_is_not_as_published_is_refused_by_name(folders, listed, what):  # noqa: F811
    changes, words = WRONG[what]
    listed |= changes
    with pytest.raises(ValueError, match=rf"real holds other contents than ucf101, 1 of 5 videos: .*{words}"):
        fvd(settings(folders, cache=False, allow_small=False))


def test_other_contents_are_stamped_where_that_is_allowed(folders, listed):  # noqa: F811
    listed["2"] = Published(19, 30)
    stamps = fvd(settings(folders, cache=False))["stamps"]
    assert stamps[1] == "other contents: 1 of 5 real videos" and stamps[2].startswith(
        "contents not certified"
    )


def test_foreign_contents_under_a_listed_name_are_said_where_the_list_is_not_whole(folders, listed, tmp_path):  # noqa: F811
    real = tmp_path / "real"
    shutil.copytree(folders[0], real)
    next(real.rglob("4.mp4")).unlink()
    asked = (real, folders[1])
    assert not any("contents" in stamp for stamp in fvd(settings(asked, cache=False))["stamps"])
    listed["1"] = Published(90, 99)
    assert "other contents: 1 of 4 real videos" in fvd(settings(asked, cache=False))["stamps"]
