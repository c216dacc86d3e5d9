"""Proves which clips depend on each other, and that copies and chance are told from clips of other groups."""

import json

import pytest
import torch

from eval.clips import Source
from eval.groups import ALONE, Groups, check_pattern, find_groups, own_prompt
from eval.panel import floor, nearest


def count(groups: Groups) -> dict[str, int]:
    return {name: groups.of.count(name) for name in groups.of}


def test_names_of_data_sets_tell_their_groups():
    ucf = [
        f"{folder}v_{kind}_g{g:02d}_c{c:02d}"
        for folder, kind in (("a/", "Surfing"), ("", "YoYo"))
        for g in (1, 2)
        for c in (1, 2, 3)
    ]
    found = find_groups(ucf)
    assert sorted(count(found).values()) == [3] * 4 and found.facts() == {
        "groups": 4,
        "by": "UCF-101's groups",
    }
    captions = find_groups([f"video{k}-{c:02d}" for k in (7010, 7011) for c in range(20)])
    assert sorted(count(captions).values()) == [20, 20] and captions.by == "MSR-VTT's videos"
    for alone in (
        ["video7010", "video7011"],
        ["Surfing/00001", "Surfing/00002"],
        ["v_Surfing_g01", "v_Surfing_g02"],
    ):
        assert find_groups(alone).facts() == {"groups": 2, "by": ALONE}
    mixed = find_groups(["v_Surfing_g01_c01", "v_Surfing_g01_c02", "x", "y"])
    assert sorted(count(mixed).values()) == [1, 1, 2]


def test_clips_of_a_name_or_a_prompt_are_a_group_and_a_pattern_goes_first():
    assert find_groups(["a", "a", "b"], prompts=["x", "y", "x"]).facts() == {
        "groups": 2,
        "by": "their videos",
    }
    prompts = find_groups(["a", "b", "c", "d"], prompts=["x", "x", "", ""])
    assert prompts.facts() == {"groups": 3, "by": "their prompts"} and prompts.units().tolist() == [
        0,
        0,
        1,
        2,
    ]
    assert [rows.tolist() for rows in prompts.members()] == [[0, 1], [2], [3]]
    names = ["scene1/take1", "scene1/take2", "scene2/take1", "v_YoYo_g01_c01"]
    assert find_groups(names, r"(scene\d+)/").units().tolist() == [0, 0, 1, 2]
    assert find_groups(names, r"scene\d+").facts() == {"groups": 3, "by": r"scene\d+"}
    assert find_groups(["x"], "scene").by == ALONE  # the other side may have them
    with pytest.raises(ValueError, match=r"--group '\(' is no regular expression"):
        check_pattern("(")
    with pytest.raises(
        ValueError, match="--group 'shot' is found in no name of a clip, such as scene1/take1"
    ):
        check_pattern("shot", names, ["b"])


def test_a_prompt_is_in_the_record_or_the_text_beside_a_video(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.mp4").touch()
    (tmp_path / "a.json").write_text(json.dumps({"prompt": "a cat"}))
    (tmp_path / "b.txt").write_text("\n a  dog\n")
    assert [own_prompt(Source(name, tmp_path / f"{name}.mp4")) for name in "abc"] == ["a cat", "a dog", ""]


def scenes(count: int, takes: int, seed: int, spread: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    """Takes of scenes that are alike, and other takes of the same scenes."""
    random = torch.Generator().manual_seed(seed)
    middle = torch.randn(count, 8, generator=random).repeat_interleave(takes, 0)
    return tuple(middle + spread * torch.randn(middle.shape, generator=random) for _ in range(2))


def test_new_takes_of_training_scenes_are_not_chance():
    real, fake = scenes(60, 5, 0)
    fresh, _ = scenes(60, 5, 1)
    names = tuple(map(str, range(300)))
    groups = Groups(tuple(f"{k // 5}" for k in range(300)))
    assert nearest(real, names, fake, names, groups)["closer"] > 0.9
    assert nearest(real, names, fresh, names, groups)["closer"] < 0.05
    assert nearest(real, names, fake, names)["closer"] < 0.05  # as chance, where takes count as others
    one = nearest(real, names, fresh, names, Groups(("one",) * 300))
    assert one["closer"] == nearest(real, names, fresh, names)["closer"]


def test_the_floor_has_no_group_in_both_halves():
    real, _ = scenes(60, 5, 0)
    groups = Groups(tuple(f"{k // 5}" for k in range(300)))
    split = floor(real, None, 1, groups)
    assert split["clips"] == [150, 150] and split["value"] > 5 * floor(real, None, 1)["value"]
    other = floor(scenes(30, 5, 3)[0], scenes(30, 5, 4)[0], 1)
    assert 0.4 < split["value"] / other["value"] < 2.5  # as of scenes drawn apart
    alone = Groups(tuple(map(str, range(300))))
    assert floor(real, None, 1, alone) == floor(real, None, 1)
