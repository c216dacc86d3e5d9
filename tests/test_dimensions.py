"""Proves that dimensions of quality are what is known of drawn videos, by the networks that are named."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import eval.dimensions
import vae.quality.networks
from configs.protocol import load_protocol
from dit.cli import run
from eval.compare import compare, read_scores
from eval.cpu import CPU, CannotScore
from eval.dimensions import (
    DimensionsSettings,
    Video,
    aesthetic_quality,
    background_consistency,
    consistency,
    dimensions,
    dynamic_degree,
    motion_smoothness,
    subject_consistency,
    temporal_flickering,
)
from eval.flow import flow_between, interpolated, reduced
from eval.networks.clip import preprocess_unsmoothed, seeded_clip
from eval.networks.dino import Dino, load_dino, preprocess, seeded_dino
from vae.data.drawn_world import Scene, draw
from vae.data.video import read_frames
from vae.data.write import write_video

PROTOCOL = load_protocol("vbench-like", "dimensions")


def moving(shape: str, speed: float, frames: int = 5, size: int = 64, motion: str = "right") -> Tensor:
    """Frames in [0, 1], T C H W, of a shape that moves by `speed` pixels a frame."""
    start = {"right": 0.3, "left": 0.7, "down": 0.3, "up": 0.7}.get(motion, 0.5)
    x, y = (start, 0.5) if motion in ("left", "right") else (0.5, start)
    scene = Scene(shape, "blue", "white", motion, x, y, 0.19, speed * (frames - 1) / size)
    return (draw(scene, frames, size, size).movedim(0, 1) + 1) / 2


def as_video(frames_TCHW: Tensor, fps: float | None = 8.0) -> Video:
    """Such frames as bytes, as a dimension takes them."""
    return Video((frames_TCHW * 255).round().byte().movedim(1, 3).contiguous(), fps, PROTOCOL, CPU)


def fastest(flow_N2HW: Tensor) -> Tensor:
    """The mean speed of the fastest twentieth of the pixels."""
    speed = flow_N2HW.norm(dim=1).flatten(1)
    return speed.topk(int(speed.shape[1] * 0.05)).values.mean(1)


@pytest.mark.parametrize("shape", ["circle", "square", "triangle", "star"])
def test_flow_is_the_displacement_that_was_drawn(shape):
    for motion, way in {"right": (1, 0), "up": (0, -1)}.items():
        for speed in (1.0, 2.5, 6.0):
            frames = moving(shape, speed, 3, motion=motion)
            flow = flow_between(frames[:-1], frames[1:])
            assert fastest(flow) / speed == pytest.approx(1, abs=0.1 if speed == 1 else 0.03)
            moved = flow[:, :, flow[0].norm(dim=0) > speed / 2]
            along = (moved * torch.tensor(way)[None, :, None]).sum(1) / moved.norm(dim=1)
            assert along.mean() > 0.97
    far = moving(shape, 30.0, 3, 256)  # the coarser levels find it
    assert fastest(flow_between(far[:-1], far[1:])) / 30 == pytest.approx(1, abs=0.03)
    fine = moving(shape, 2.0, 3, 256)  # half a pixel of a frame of 64
    assert fastest(flow_between(fine[:-1], fine[1:])) == pytest.approx(2, rel=0.12)


def test_flow_of_texture_is_right_at_every_pixel_and_back_in_time_is_its_opposite():
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 24, 24, generator=random)
    wide = F.interpolate(coarse, (120, 120), mode="bicubic", align_corners=False).clamp(0, 1)
    one, other = wide[..., 20:84, 20:100], wide[..., 17:81, 25:105]  # what is at x was 5 to the right of it
    flow = flow_between(one, other)
    inside = flow[..., 8:-8, 8:-8]
    assert (inside - torch.tensor([-5.0, 3.0])[None, :, None, None]).norm(dim=1).max() < 0.1
    assert flow_between(other, one) == pytest.approx(-flow.numpy(), abs=1e-3)
    assert flow_between(one, one).abs().max() == 0
    middle = interpolated(wide[..., 20:84, 20:100], wide[..., 18:82, 24:104])[..., 8:-8, 8:-8]
    truth = wide[..., 19:83, 22:102][..., 8:-8, 8:-8]
    assert (middle - truth).abs().max() < 0.01 < (one - wide[..., 19:83, 22:102]).abs().max()


def test_flicker_is_what_was_added():
    still = as_video(moving("star", 0.0, 6))
    assert temporal_flickering(still) == {"temporal_flickering": 1.0}
    grey = torch.full((6, 8, 8, 3), 100, dtype=torch.uint8)
    grey[1::2] += 17
    assert temporal_flickering(replace(still, frames_THWC=grey))["temporal_flickering"] == 1 - 17 / 255
    noise = torch.randint(0, 256, (5, 7, 9, 3), generator=torch.Generator().manual_seed(0)).byte()
    arrays = noise.numpy().astype(numpy.float32)  # as VBench has it
    known = (255.0 - numpy.mean([numpy.mean(numpy.abs(a - b)) for a, b in pairwise(arrays)])) / 255.0
    assert temporal_flickering(replace(still, frames_THWC=noise))["temporal_flickering"] == pytest.approx(
        known, abs=1e-7
    )


def test_a_video_moves_where_enough_frames_have_fast_enough_parts():
    threshold = 6 * 64 / 256
    for speed, moves in ((0.0, 0.0), (0.93 * threshold, 0.0), (1.07 * threshold, 1.0), (4.0, 1.0)):
        found = dynamic_degree(as_video(moving("circle", speed, 6)))
        assert found["dynamic_degree"] == moves
        assert found["speed"] == pytest.approx(speed * 4, rel=0.03)  # of frames of 256
    slow = moving("circle", 0.6 * threshold, 11)
    assert dynamic_degree(as_video(slow))["dynamic_degree"] == 0
    double = dynamic_degree(as_video(slow, fps=16.0))  # every second frame is looked at
    assert double["dynamic_degree"] == 1
    assert double["speed"] == pytest.approx(2 * dynamic_degree(as_video(slow))["speed"], rel=0.03)
    assert dynamic_degree(as_video(moving("circle", 1.9, 6), fps=4.0))["dynamic_degree"] == 0  # a longer step
    fast = moving("circle", 3.0, 4)
    still = fast[-1:].expand(13, -1, -1, -1)
    one_of_16 = torch.cat([fast[2:3], still, fast[-1:], fast[-1:]])
    assert dynamic_degree(as_video(one_of_16))["dynamic_degree"] == 0
    three_and_one = torch.cat([fast, still[:11], fast[:1]])  # four of sixteen
    assert dynamic_degree(as_video(three_and_one))["dynamic_degree"] == 1
    with pytest.raises(CannotScore, match="2 frames at 24 a second are too few to see motion"):
        dynamic_degree(as_video(fast[:2], fps=24.0))


def test_steady_motion_is_smooth_and_jitter_is_not():
    steady = moving("circle", 2.0, 9)
    order = [0, 2, 2, 4, 4, 6, 6, 8, 8]  # the same way in the same time, every second step twice as far
    values = [motion_smoothness(as_video(frames))["motion_smoothness"] for frames in (steady, steady[order])]
    assert values[0] > 0.9993 and values[1] < values[0] - 0.004
    assert motion_smoothness(as_video(steady[:1].expand(5, -1, -1, -1)))["motion_smoothness"] > 1 - 1e-6
    flashes = torch.full((7, 3, 32, 32), 100 / 255)
    flashes[1::2] += 20 / 255
    found = motion_smoothness(as_video(flashes[:6]))  # the last frame has no neighbour after it
    assert found["motion_smoothness"] == pytest.approx(1 - 20 / 255, abs=1e-6)
    large = F.interpolate(flashes, (300, 400), mode="nearest")
    assert reduced(as_video(large).frames_THWC, 256, CPU).shape == (7, 3, 256, 341)
    found = motion_smoothness(as_video(large))
    assert found["motion_smoothness"] == pytest.approx(1 - 20 / 255, abs=1e-6)


def test_consistency_is_vbench_s():
    one, two = torch.eye(2)
    assert consistency(torch.stack([one] * 4)) == 1
    assert consistency(torch.stack([one, two, -one, one])) == pytest.approx((0 + 0 + 0.5) / 3)
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)) + 0.5
    values = []
    for k in range(1, 6):  # its loop
        before, first = (max(0.0, F.cosine_similarity(y, x[k], dim=0).item()) for y in (x[k - 1], x[0]))
        values.append((before + first) / 2)
    assert consistency(x) == pytest.approx(sum(values) / 5, abs=1e-7)


def test_networks_see_the_frames_of_a_video():
    video, still = as_video(moving("star", 3.0, 5)), as_video(moving("star", 0.0, 5))
    clip, network = seeded_clip(), seeded_dino()
    for measure, judge in ((subject_consistency, network), (background_consistency, clip)):
        [same], [other] = measure(still, judge).values(), measure(video, judge).values()
        assert same == pytest.approx(1, abs=1e-6) and other < 1 - 1e-6
    head = torch.nn.Linear(512, 1)
    x = clip.of_pictures(preprocess_unsmoothed(video.frames_THWC))
    known = ((x @ head.weight[0] + head.bias) / 10).mean().item()
    assert aesthetic_quality(video, clip, head)["aesthetic_quality"] == pytest.approx(known, abs=1e-6)


def test_dino_is_that_of_transformers(tmp_path):
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    mine = Dino(32, 2, 4).eval()
    for parameter in mine.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        layer_norm_eps=1e-6,
        patch_size=16,
    )
    theirs = ViTModel(config, add_pooling_layer=False).eval()
    own, kept = dict(mine.named_parameters()), {}
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            block = name.split(".")[1] if name.startswith("layers.") else ""
            parts = {"query": 0, "q_proj": 0, "key": 1, "k_proj": 1, "value": 2, "v_proj": 2}
            part = next((k for word, k in parts.items() if f".{word}." in name), None)
            ending = name.rsplit(".", 1)[-1]
            words = {
                "cls_token": "cls_token",
                "position_embeddings": "pos_embed",
                "patch_embeddings": f"patch_embed.proj.{ending}",
                "layernorm_before": f"blocks.{block}.norm1.{ending}",
                "layernorm_after": f"blocks.{block}.norm2.{ending}",
                "fc1": f"blocks.{block}.mlp.fc1.{ending}",
                "intermediate": f"blocks.{block}.mlp.fc1.{ending}",
                "fc2": f"blocks.{block}.mlp.fc2.{ending}",
                "attention.output": f"blocks.{block}.attn.proj.{ending}",
                "o_proj": f"blocks.{block}.attn.proj.{ending}",
                "output.dense": f"blocks.{block}.mlp.fc2.{ending}",
                "layernorm": f"norm.{ending}",
            }
            source = next((source for word, source in words.items() if word in name), "")
            value = (
                own[f"blocks.{block}.attn.qkv.{ending}"].chunk(3)[part] if part is not None else own[source]
            )
            parameter.copy_(value)
            kept[name] = value.numel()
        assert sum(kept.values()) == sum(p.numel() for p in mine.parameters())
        pictures = torch.randn(2, 3, 224, 224)
        known = theirs(pictures).last_hidden_state[:, 0]
        assert mine(pictures).numpy() == pytest.approx(known.numpy(), abs=1e-5)
        wide = torch.randn(1, 3, 224, 320)
        known = theirs(wide, interpolate_pos_encoding=True).last_hidden_state[:, 0]
        error = (mine(wide) - known).abs().max() / known.abs().max()
        assert 0 < error < 0.05  # Facebook's tenth of a patch
    grey = torch.full((1, 448, 641, 3), 51, dtype=torch.uint8)
    assert preprocess(grey).shape == (1, 3, 224, 320)
    assert preprocess(grey)[0, :, 0, 0].tolist() == pytest.approx(
        [(0.2 - m) / s for m, s in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    )
    torch.save(mine.state_dict(), tmp_path / "dino.pth")
    with pytest.raises(ValueError, match=r"dino\.pth does not fit the model's settings: "):
        load_dino(tmp_path / "dino.pth")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three drawn videos of their names' speeds, one that is too short, and one that is none."""
    home = tmp_path_factory.mktemp("videos")
    for name, speed in (("fast", 3.0), ("slow", 0.5), ("still", 0.0)):
        write_video(home / f"{name}.mp4", moving("circle", speed, 6).movedim(0, 1) * 2 - 1, 8.0, {})
    write_video(home / "short.mp4", moving("circle", 0.0, 2).movedim(0, 1) * 2 - 1, 8.0, {})
    (home / "torn.mp4").write_bytes((home / "fast.mp4").read_bytes()[:700])
    return home


@pytest.fixture(autouse=True)
def no_weights(tmp_path, monkeypatch):
    """No weights lie in any usual place."""
    monkeypatch.setattr(vae.quality.networks, "folders", lambda: [tmp_path / "nowhere"])
    for name in ("CLIP", "CLIP_LARGE", "DINO", "AESTHETIC"):
        monkeypatch.delenv(f"DIT_{name}", raising=False)


def test_the_verb_gives_means_and_every_video_s_values(folder, tmp_path, capsys):
    file = tmp_path / "score.json"
    asked = DimensionsSettings(videos=str(folder), json=str(file), workers=0)
    score = dimensions(asked)
    assert json.loads(file.read_text()) == json.loads(json.dumps(score))
    assert dimensions(replace(asked, workers=1)) == score
    values = {row.pop("video"): row for row in json.loads(json.dumps(score["each"]))}
    assert set(values) == {"fast", "slow", "still"}
    assert [values[name]["dynamic_degree"] for name in ("fast", "slow", "still")] == [1, 0, 0]
    for name, row in values.items():
        video = Video(read_frames(folder / f"{name}.mp4", range(6)), 8.0, PROTOCOL, CPU)
        for measure in (temporal_flickering, dynamic_degree, motion_smoothness):
            assert measure(video).items() <= row.items()
    assert score["scores"]["dynamic_degree"] == pytest.approx(1 / 3)
    assert score["intervals"]["dynamic_degree"]["low"] == pytest.approx(0.0615, abs=1e-4)  # Wilson's
    ends = score["intervals"]["temporal_flickering"]
    assert ends["low"] < score["scores"]["temporal_flickering"] < ends["high"]
    assert set(score["left_out"]) == {"subject_consistency", "background_consistency", "aesthetic_quality"}
    passed = score["fake"]["passed_over"]
    assert "has 2 frames, and 3 are needed" in passed["short"] and "torn" in passed and len(passed) == 2
    told = capsys.readouterr().out
    assert "not VBench's number" in told and "subject_consistency left out: subject consistency needs" in told
    del score["scores"]["motion_smoothness"]
    file.write_text(json.dumps(score))
    with pytest.raises(
        ValueError, match=r"score\.json tells of motion_smoothness, and scores\.motion_smooth"
    ):
        read_scores(str(file))


def test_videos_of_one_prompt_or_group_are_one_in_the_intervals(folder, tmp_path, capsys):
    speeds = {f"{name}-{k}": speed for name, speed in zip("abc", (3.0, 0.0, 2.0), strict=True) for k in "012"}
    for name, speed in speeds.items():
        frames = moving("circle", speed, 6).movedim(0, 1) * 2 - 1
        write_video(tmp_path / "all" / f"{name}.mp4", frames, 8.0, {"prompt": name[0]})
        write_video(tmp_path / "bare" / f"{name}.mp4", frames, 8.0, {})
    asked = DimensionsSettings(workers=0, dimension=("temporal_flickering", "dynamic_degree"))
    by_prompt = dimensions(replace(asked, videos=str(tmp_path / "all")))
    assert by_prompt["groups"] == {"": {"groups": 3, "by": "their prompts"}}
    assert "resampled: 3 groups of videos, by their prompts" in capsys.readouterr().out
    by_name = dimensions(replace(asked, videos=str(tmp_path / "bare"), group="^[abc]"))
    alone = dimensions(replace(asked, videos=str(tmp_path / "bare")))
    assert by_name["groups"][""] == {"groups": 3, "by": "^[abc]"} and alone["groups"][""]["groups"] == 9
    assert by_name["scores"] == by_prompt["scores"] == alone["scores"]
    for name, ends in by_name["intervals"].items():
        assert "all such videos" in ends["of"]
        assert ends["high"] - ends["low"] > alone["intervals"][name]["high"] - alone["intervals"][name]["low"]
    ends = by_name["intervals"]["dynamic_degree"]
    assert (ends["low"], ends["high"]) == pytest.approx((0.2077, 0.9385), abs=1e-4)  # Wilson's of 2 in 3
    one = dimensions(replace(asked, videos=str(tmp_path / "bare"), group="-"))
    assert set(one["intervals"].values()) == {None}
    for wrong, words in (("nonsense(", "is no regular expression"), ("nonsense", "is found in no name")):
        with pytest.raises(ValueError, match=words):
            dimensions(replace(asked, videos=str(folder), group=wrong))


def test_networks_are_seeded_only_where_asked_and_never_left_out_in_silence(folder, tmp_path, capsys):
    words = ["eval", "dimensions", "--videos", str(folder), "--workers", "0"]
    assert run([*words, "--dimension", "subject_consistency"]) == 1
    assert "subject consistency needs the weights of dino, and there are none" in capsys.readouterr().err
    (tmp_path / "dino.pth").write_bytes(b"")
    assert run([*words, "--dino", str(tmp_path / "dino.pth")]) == 1
    assert "no checksum of dino_vitbase16_pretrain.pth is published" in capsys.readouterr().err
    assert run([*words, "--dimension", "subject_consistancy"]) == 1
    assert "did you mean subject_consistency" in capsys.readouterr().err
    files = [str(tmp_path / f"{k}.json") for k in range(3)]
    three = ["--dimension", "temporal_flickering", "subject_consistency", "--smoke", "--json"]
    assert run([*words, *three, files[0]]) == 0
    score = json.loads(Path(files[0]).read_text())
    assert score["stamps"] == ["NOT subject_consistency: seeded network"] and "value" not in score
    assert score["networks"] == {"temporal_flickering": [], "subject_consistency": ["seeded"]}
    for file, dimension in zip(files[1:], ("temporal_flickering", "dynamic_degree"), strict=True):
        assert run([*words, "--dimension", dimension, "--smoke", "--json", file]) == 0
    lines = compare(files[1:]).splitlines()
    assert lines[0].startswith("vbench-like (") and lines[1].split()[:3] == [
        "score",
        "temporal_flickering",
        "dynamic_degree",
    ]
    assert lines[2].split()[1] == f"{score['scores']['temporal_flickering']:.4f}"
    with pytest.raises(ValueError, match=r"do not compare: weights: 'seeded' and ''"):
        compare(files[:2])


def test_certified_weights_are_measured_with_and_uncertified_ones_stamped(folder, tmp_path, monkeypatch):
    network = seeded_dino()
    monkeypatch.setattr(eval.dimensions, "LOAD", {"dino": lambda file: (network, file.name)})
    asked = DimensionsSettings(videos=str(folder), workers=0, dimension=("subject_consistency",))
    (tmp_path / "dino.pth").write_bytes(b"")
    score = dimensions(replace(asked, dino=str(tmp_path / "dino.pth"), uncertified=True))
    assert score["stamps"] == ["dino not certified: no checksum is published"]
    assert score["weights"] == "dino.pth" and score["each"][-1]["video"] in ("fast", "slow", "still")
    with pytest.raises(ValueError, match="--smoke takes seeded weights"):
        dimensions(replace(asked, smoke=True, dino=str(tmp_path / "dino.pth")))
