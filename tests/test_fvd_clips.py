"""Proves that a score's clips are drawn evenly, by names and seed alone, and what gives none is named."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from configs.protocol import load_protocol
from eval.clips import choose_clips, find_sources, read_clip
from eval.fvd import FvdSettings, fvd
from tests.test_fvd import Means, folders, quick, settings, video  # noqa: F401
from vae.data.manifest import Entry, save_manifest
from vae.data.video import probe, read_frames, to_video
from vae.data.write import write_video

GOOGLE = load_protocol("fvd-google", "fvd")


def test_features_that_are_no_numbers_are_passed_over(folders, quick, monkeypatch):  # noqa: F811
    whole = Means.forward
    dark = []

    def broken(self, x):
        values = whole(self, x)
        dark.append(x.mean().item())
        return torch.where(x.mean(dim=(1, 2, 3, 4))[:, None] < -0.05, torch.nan, values)

    monkeypatch.setattr(Means, "forward", broken)
    result = fvd(settings(folders, cache=False))
    lost = {**result["real"]["passed_over"], **result["fake"]["passed_over"]}
    assert len(lost) == sum(mean < -0.05 for mean in dark) > 0
    assert all("the network gives NaN or infinite values" in why for why in lost.values())
    assert torch.isfinite(torch.tensor(result["value"]))


def test_a_folder_of_frames_is_the_video_and_a_manifest_is_the_folder(folders, quick, tmp_path):  # noqa: F811
    base = fvd(settings(folders, cache=False))
    frames = tmp_path / "frames"
    for file in folders[1].rglob("*.mp4"):
        home = frames / file.relative_to(folders[1]).with_suffix("")
        home.mkdir(parents=True)
        for k, frame in enumerate(read_frames(file, range(probe(file).frames))):
            Image.fromarray(frame.numpy()).save(home / f"frame_{k}.png")  # 10 comes after 9
    assert fvd(settings((folders[0], frames), cache=False))["value"] == base["value"]
    files = sorted(folders[0].rglob("*.mp4"))
    entries = [Entry(**vars(probe(file)), path=file, captions=()) for file in files]
    shutil.copytree(folders[0], tmp_path / "indexed")
    entries = [replace(e, path=tmp_path / "indexed" / e.path.relative_to(folders[0])) for e in entries]
    save_manifest(tmp_path / "indexed" / "manifest.parquet", entries)
    for where in (tmp_path / "indexed", tmp_path / "indexed" / "manifest.parquet"):
        assert fvd(settings((where, folders[1]), cache=False))["value"] == base["value"]


def test_clips_depend_on_names_and_seed_alone(folders, tmp_path):  # noqa: F811
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
    assert [clip.source.name for clip in first] == ["class0/0", "class0/2", "class0/4"]
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
    sources = [Source(f"video {k}", Path("v"), pictures) for k in range(4000)]
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
