"""Proves what stands beside a score: copies are found, chance is chance, motion is seen where it is."""

import time
from pathlib import Path

import pytest
import torch

import eval.networks.load
from eval.clips import Clip, Source, read_clip
from eval.frechet import distance_of_features
from eval.fvd import fvd, sentence
from eval.groups import Groups
from eval.motion import MOTIONS
from eval.networks.certify import SMOKE
from eval.panel import classes, floor, nearest
from tests.test_fvd import folders, quick, settings, video  # noqa: F401
from vae.data.write import write_video


def normal(count: int, seed: int, width: int = 20) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def names(count: int, prefix: str = "") -> tuple[str, ...]:
    return tuple(f"{prefix}{k:03d}" for k in range(count))


def test_copies_of_real_clips_are_found_and_fresh_ones_are_not():
    real, fresh = normal(500, 0), normal(400, 1)
    by_chance = nearest(real, names(500), fresh, names(400))
    assert by_chance["closer"] < 0.04
    copied = fresh.clone()
    copied[:40] = real[100:140] + 0.01 * normal(40, 2)
    found = nearest(real, names(500), copied, names(400))
    assert 0.09 < found["closer"] < 0.14
    assert {(p["fake"], p["real"]) for p in found["pairs"]} <= {
        (f"{k:03d}", f"{k + 100:03d}") for k in range(40)
    }
    assert len(found["pairs"]) == 20
    wanted = torch.cdist(copied.double(), real.double()).min(dim=1).values.median()
    assert found["median"] == pytest.approx(wanted.item())


def test_chance_is_the_distance_of_other_real_clips():
    values, others = normal(60, 0), normal(60, 1)
    assert floor(values, others, 1) == {"value": distance_of_features(values, others, 1), "clips": [60, 60]}
    halves = floor(values, None, 1)
    assert halves["clips"] == [30, 30]
    assert halves["value"] == distance_of_features(values[::2], values[1::2], 1)


def test_every_group_goes_to_the_half_with_fewer_clips():
    random = torch.Generator().manual_seed(0)
    for count in (2, 3, 40, 200):
        of = torch.randint(max(2, count // 3), (count,), generator=random).tolist()
        groups, halves = Groups(tuple(map(str, of))), ([], [])
        for rows in groups.members():
            min(halves, key=lambda half: sum(map(len, half))).append(rows)
        if halves[1]:
            one, other = (normal(count, 0)[torch.cat(half)] for half in halves)
            wanted = {"value": distance_of_features(one, other, 0), "clips": [len(one), len(other)]}
            assert floor(normal(count, 0), None, 0, groups) == wanted


def test_halves_of_many_groups_are_counted_once(monkeypatch):
    monkeypatch.setattr("eval.panel.distance_of_features", lambda *_: 0.0)
    started = time.process_time()
    assert floor(normal(20000, 0, width=2), None, 1)["clips"] == [10000, 10000]
    assert time.process_time() - started < 5  # counting every half anew takes many times that


def test_classes_are_the_folders_that_both_sides_have():
    real, fake = normal(9, 0), normal(8, 1)
    real_names = [*(f"a/{k}" for k in range(4)), *(f"b/{k}" for k in range(4)), "alone"]
    fake_names = [*(f"b/{k}" for k in range(3)), *(f"c/{k}" for k in range(4)), "a/0"]
    found = classes(real, tuple(real_names), fake, tuple(fake_names), 1)
    assert found == {"b": {"value": distance_of_features(real[4:8], fake[:3], 1), "clips": [4, 3]}}


def test_a_changed_clip_has_the_same_frames_in_another_order(tmp_path: Path):
    write_video(tmp_path / "v.mp4", video(0, 20), 8.0, {})
    clip = Clip(Source("v", tmp_path / "v.mp4"), tuple(range(2, 18)))
    frames = read_clip(clip)
    changed = {name: read_clip(change(clip, 0)) for name, change in MOTIONS.items()}
    assert torch.equal(changed["reversed"], frames.flip(0))
    assert torch.equal(changed["frozen"], frames[8:9].expand_as(frames))
    order = [clip.frames.index(k) for k in MOTIONS["shuffled"](clip, 0).frames]
    assert sorted(order) == list(range(16)) and order != list(range(16))
    assert torch.equal(changed["shuffled"], frames[order])
    assert MOTIONS["shuffled"](clip, 0) == MOTIONS["shuffled"](clip, 0) != MOTIONS["shuffled"](clip, 1)


def test_a_score_with_its_panel(folders, quick):  # noqa: F811
    result = fvd(settings(folders, panel=True))
    assert result["panel"]["floor"]["clips"] == [3, 2]  # five clips: there are no others
    assert result["classes"].keys() == {"class0", "class1"} and len(result["nearest"]["pairs"]) == 5
    again = fvd(settings(folders, panel=True))  # from the cache
    assert again["panel"] == result["panel"]
    assert "real against real" in sentence(result) and result["motion"] is None
    assert fvd(settings((folders[0], folders[0])))["nearest"]["closer"] == 1
    with pytest.raises(ValueError, match="--panel needs the real videos"):
        saved = str(folders[0].parent / "real.safetensors")
        fvd(settings(folders, save_real=saved))
        fvd(settings((saved, folders[1]), panel=True))


def test_too_few_real_clips_for_a_panel_are_refused_before_they_are_computed(folders, monkeypatch):  # noqa: F811
    monkeypatch.setattr(eval.networks.load, "load_i3d", lambda *_: (torch.nn.Linear(1, 1), SMOKE))
    monkeypatch.setattr("eval.fvd.load_side", lambda *_: pytest.fail("features are computed"))
    with pytest.raises(ValueError, match="--panel needs at least 4 real clips, not 3"):
        fvd(settings((folders[0] / "class0", folders[1]), panel=True))
