"""Proves that a score's clips are drawn evenly, by contents and seed alone, and what gives none is named."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from configs.protocol import load_protocol
from eval.clips import choose_clips, find_sources, frame_count, order_frames, read_clip
from eval.fvd import FvdSettings, fvd
from tests.test_fvd import Means, folders, quick, settings, video  # noqa: F401
from vae.data.columns import Entry
from vae.data.manifest import save_manifest
from vae.data.video import UnreadableVideo, probe, read_frames, to_video
from vae.data.write import write_video

GOOGLE = load_protocol("fvd-google", "fvd")


def test_features_that_are_no_numbers_are_passed_over(folders, quick, monkeypatch):  # noqa: F811
    whole = Means.forward
    dark = []

    def broken(self, x):
        values = whole(self, x)
        dark.append(x.mean().item())
        return torch.where(x.mean(dim=(1, 2, 3, 4))[:, None] < -0.035, torch.nan, values)

    monkeypatch.setattr(Means, "forward", broken)
    result = fvd(settings(folders, cache=False))
    lost = [why for side in ("real", "fake") for why in result[side]["passed_over"].values()]
    assert len(lost) == sum(mean < -0.035 for mean in dark) > 0
    assert all("the network gives NaN or infinite values" in why for why in lost)
    assert torch.isfinite(torch.tensor(result["value"]))


def test_a_folder_of_frames_is_the_video_and_a_manifest_is_the_folder(folders, quick, tmp_path):  # noqa: F811
    base = fvd(settings(folders, cache=False))
    frames = tmp_path / "frames"
    for file in folders[1].rglob("*.mp4"):
        home = frames / file.relative_to(folders[1]).with_suffix("")
        home.mkdir(parents=True)
        for k, frame in enumerate(read_frames(file, range(probe(file).frames))):
            Image.fromarray(frame.numpy()).save(home / f"frame_{k}.png")  # 10 comes after 9
    copies = settings((folders[0], frames), cache=False, copies_of=str(folders[1]))
    assert fvd(copies)["value"] == base["value"]
    files = sorted(folders[0].rglob("*.mp4"))
    entries = [Entry(**vars(probe(file)), path=file, captions=()) for file in files]
    shutil.copytree(folders[0], tmp_path / "indexed")
    entries = [replace(e, path=tmp_path / "indexed" / e.path.relative_to(folders[0])) for e in entries]
    save_manifest(tmp_path / "indexed" / "manifest.parquet", entries)
    for where in (tmp_path / "indexed", tmp_path / "indexed" / "manifest.parquet"):
        assert fvd(settings((where, folders[1]), cache=False))["value"] == base["value"]


ORDERED = {  # names in the order that they have in time
    "numbers": [f"{k}.png" for k in range(12)],
    "sizes": [f"frame_{k}_32x32.png" for k in range(12)],
    "versions": [f"{k}_v2.jpg" for k in range(12)],
    "seconds": [f"{k / 10:.5f}.png" for k in range(25)],
    "tenths": [f"{k / 10:.1f}.png" for k in range(25)],
    "clock": [f"00-{k // 60:02d}-{k % 60:02d}.{500 * (k % 2):03d}.png" for k in range(0, 120, 7)],
    "milliseconds": [f"t{int(k * 33.4)}.png" for k in range(40)],
    "every fifth": [f"{k:04d}.png" for k in range(0, 60, 5)],
    "shot": [f"shot2.{k:04d}.webp" for k in range(95, 105)],
    "parts": [f"part{k // 5}-{k % 5}.png" for k in range(60)],
    "one": ["cover.png"],
}
REFUSED = {  # names -> what is said of them
    "gap": (
        [f"{k}.png" for k in (0, 1, 2, 3, 46)],
        r"from 3\.png to 46\.png numbers step by 43, elsewhere by 1",
    ),
    "gap in seconds": ([f"{k / 10:.2f}.png" for k in (0, 1, 2, 5, 6)], "frames are missing"),
    "a closer one": ([f"{k}.png" for k in (0, 2, 4, 5, 6, 8, 10)], "frames are missing"),
    "zeros": (["1.png", "0001.png", "2.png"], "have one number"),
    "formats": (["1.png", "2.png", "2.jpg"], "have one number"),
    "copies": (["1.png", "2.png", "2 (1).png"], "are named in two ways"),
    "views": (["left_1.png", "left_2.png", "right_3.png"], "are named in two ways"),
    "decimals": ([f"{k}.png" for k in ("0.5", "0.25", "0.75")], "have not one length"),
    "words": (["start.png", "middle.png", "end.png"], "are named in two ways"),
}


@pytest.mark.parametrize("kind", ORDERED)
def test_frames_are_in_the_natural_order_of_their_whole_names(kind):
    frames = [Path("v") / name for name in ORDERED[kind]]
    assert order_frames(sorted(frames, key=lambda path: path.name[::-1])) == frames
    assert sorted(frames) == frames or kind in ("numbers", "sizes", "versions", "milliseconds", "parts")


@pytest.mark.parametrize("kind", REFUSED)
def test_frames_whose_order_is_not_sure_or_that_are_missing_are_passed_over(tmp_path, kind):
    names, words = REFUSED[kind]
    for folder, files in (("odd", names), ("whole", [f"{k}.png" for k in range(5)])):
        (tmp_path / folder).mkdir()
        for file in files:
            Image.new("RGB", (8, 8)).save(tmp_path / folder / file)
    clips, passed = choose_clips(find_sources(tmp_path), replace(GOOGLE, frames=2), 0, 1)
    assert [clip.source.name for clip in clips] == ["whole"]
    assert list(passed) == ["odd"] and re.search(rf"odd: .*{words}", passed["odd"])
    with pytest.raises(UnreadableVideo, match=words):
        frame_count(next(source for source in find_sources(tmp_path) if source.name == "odd"))


def test_pictures_that_are_no_frames_are_left_out_and_said(tmp_path, capsys):
    moving = [Image.new("RGB", (8, 8), (level, 0, 0)) for level in (0, 90, 180)]
    (tmp_path / "v").mkdir()
    for k, image in enumerate(moving):
        image.save(tmp_path / "v" / f"{k}.png")
    moving[0].save(tmp_path / "v" / "thumbnail.png")
    moving[0].save(tmp_path / "v" / "preview.gif", save_all=True, append_images=moving[1:])
    (source,) = find_sources(tmp_path)
    assert [picture.name for picture in source.pictures] == ["0.png", "1.png", "2.png"]
    assert "preview.gif and 1 more pictures are no frame of a video: left out" in capsys.readouterr().err
    moving[0].save(tmp_path / "a.webp", save_all=True, append_images=moving[1:], lossless=True)
    (source,) = find_sources(tmp_path)
    assert source.name == "a", "beside a video, pictures are sheets"
    assert "4 more pictures are no frame of a video" in capsys.readouterr().err
    clips, _ = choose_clips([source], replace(GOOGLE, frames=3), 0, 1)
    assert torch.equal(read_clip(clips[0])[:, 0, 0, 0], torch.tensor([0, 90, 180], dtype=torch.uint8))


def test_links_to_folders_are_followed_for_scores_too(folders, tmp_path):  # noqa: F811
    (tmp_path / "link").symlink_to(folders[0])
    names = [source.name for source in find_sources(folders[0])]
    assert [source.name for source in find_sources(tmp_path / "link")] == names
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "real").symlink_to(folders[0])
    assert [source.name for source in find_sources(tmp_path / "set")] == [f"real/{name}" for name in names]


def test_clips_depend_on_contents_and_seed_alone(folders, tmp_path):  # noqa: F811
    sources = find_sources(folders[0])
    assert [source.name for source in sources] == [f"class{k % 2}/{k}" for k in (0, 2, 4, 1, 3)]
    drawn = replace(GOOGLE, frames=4)
    clips, passed = choose_clips(sources, drawn, 3, 2)
    assert not passed and len(clips) == 3
    again, _ = choose_clips(sources[::-1], drawn, 3, 2)
    assert again == clips
    every = {clip.source.name: clip.frames for clip in choose_clips(sources, drawn, 0, 2)[0]}
    assert len(every) == 5 and all(every[clip.source.name] == clip.frames for clip in clips)
    assert all(frames == tuple(range(frames[0], frames[0] + 7, 2)) for frames in every.values())
    assert choose_clips(sources, replace(drawn, seed=1), 0, 2)[0] != choose_clips(sources, drawn, 0, 2)[0]
    first = choose_clips(sources, replace(drawn, videos="first", start="first"), 3, 1)[0]
    assert sorted(clip.source.name for clip in first) == ["class0/0", "class0/2", "class0/4"]
    assert {clip.frames for clip in first} == {(0, 1, 2, 3)}
    middle = choose_clips(sources, replace(drawn, start="middle"), 0, 1)[0]
    assert all(clip.frames[0] == (16 + int(clip.source.path.stem) - 4) // 2 for clip in middle)


def test_two_videos_of_one_name_are_refused(tmp_path):
    for name in ("a.mp4", "a.avi"):
        write_video(tmp_path / name, video(0), 8.0, {})
    with pytest.raises(ValueError, match=r"a\.mp4 have one name|a\.avi have one name"):
        find_sources(tmp_path)


def test_starts_and_videos_are_drawn_evenly(tmp_path):
    from eval.clips import Source

    pictures = tuple(Path(f"{k}.png") for k in range(20))
    sources = [Source(f"video {k}", Path("v"), pictures, key=f"{k}") for k in range(4000)]
    clips, _ = choose_clips(sources, replace(GOOGLE, frames=16), 2000, 1)
    starts = torch.tensor([clip.frames[0] for clip in clips]).bincount(minlength=5)
    assert len(starts) == 5 and (starts - 400).abs().max() < 100  # 400 +- 18
    chosen = torch.tensor([int(clip.source.name.split()[1]) for clip in clips])
    assert abs((chosen < 2000).sum() - 1000) < 120


def test_what_cannot_be_scored_is_passed_over_and_named(folders, quick, tmp_path, capsys):  # noqa: F811
    real = tmp_path / "real"
    shutil.copytree(folders[0], real)
    write_video(real / "short.mp4", video(7, 15), 8.0, {})
    (real / "broken.mp4").write_bytes((real / "class0" / "0.mp4").read_bytes()[:900])
    mixed = real / "frames"
    result = fvd(settings((real, folders[1]), cache=False))
    assert result["value"] == fvd(settings(folders, cache=False))["value"]
    assert result["real"]["videos"] == 7 and result["real"]["clips"] == 5
    passed = result["real"]["passed_over"]
    assert set(passed) == {"short", "broken"}
    assert "has 15 frames, and a clip takes 16" in passed["short"]
    assert "real: 2 passed over: " in capsys.readouterr().out
    for k in range(16):
        mixed.mkdir(exist_ok=True)
        Image.new("RGB", (40 + (k == 9), 32)).save(tmp_path / "real" / "frames" / f"{k}.png")
    for file in real.rglob("*.mp4"):
        file.unlink()
    with pytest.raises(ValueError, match=r"no clip can be read: .*frames of several sizes"):
        fvd(
            settings((real, folders[1]), cache=False, allow_small=True)
            if False
            else replace_small(real, folders)
        )


def replace_small(real: Path, folders) -> FvdSettings:  # noqa: F811
    """Settings of a real side whose one folder of frames stands beside a second that can be read."""
    shutil.copytree(real / "frames", real / "other")
    return settings((real, folders[1]), cache=False)


def test_a_clip_is_the_frames_of_its_video(folders):  # noqa: F811
    clip = choose_clips(find_sources(folders[0]), replace(GOOGLE, frames=5), 1, 3)[0][0]
    assert torch.equal(read_clip(clip), read_frames(clip.source.path, clip.frames))
    assert to_video(read_clip(clip)).shape == (3, 5, 32, 40)
