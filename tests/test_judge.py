"""Proves that the judge of the drawn world is right on its drawings and says none to all else."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from eval.judge import Verdict, judge
from vae.data.drawn_world import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, Scene, coverage, draw, random_scene

OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up", "grows": None, "stays": "stays"}


def scenes(count: int, seed: int = 50, motions: tuple[str, ...] = MOTIONS) -> list[Scene]:
    """The first scenes of a seed with one of these motions."""
    drawn = (random_scene(seed, index, "any") for index in range(100 * count))
    return [scene for scene in drawn if scene.motion in motions][:count]


def truth(scene: Scene) -> Verdict:
    """What the judge should say of a scene."""
    return Verdict(scene.shape, scene.colour, scene.background, scene.motion)


def colour_of(name: str) -> torch.Tensor:
    """A colour or background of the world, 3 1 1 1 in [-1, 1]."""
    return torch.tensor({**COLOURS, **BACKGROUNDS}[name]).view(3, 1, 1, 1) / 127.5 - 1


def painted(cover_THW: torch.Tensor, colour: str = "red", background: str = "grey") -> torch.Tensor:
    """A video of what a mask covers."""
    return torch.lerp(colour_of(background), colour_of(colour), cover_THW.expand(3, -1, -1, -1))


def blurred(video: torch.Tensor) -> torch.Tensor:
    """Every frame under a Gaussian of 0.8 pixels."""
    window = torch.exp(-(torch.arange(-3, 4) ** 2) / (2 * 0.8**2))
    window = window / window.sum()
    frames = F.pad(video, (3, 3, 3, 3), mode="replicate").flatten(0, 1)[:, None]
    soft = F.conv2d(F.conv2d(frames, window.view(1, 1, 1, 7)), window.view(1, 1, 7, 1))
    return soft.view(video.shape)


def noisy(video: torch.Tensor, decibel: float) -> torch.Tensor:
    """With white noise of this PSNR."""
    return (video + torch.randn(video.shape) * 2 * 10 ** (-decibel / 20)).clamp(-1, 1)


@pytest.mark.long
def test_right_on_twelve_hundred_drawings():
    drawn = [random_scene(seed, index, "any") for seed in (3, 1000, 2**33) for index in range(400)]
    wrong = [scene for scene in drawn if judge(draw(scene)) != truth(scene)]
    assert len(wrong) <= 0.005 * len(drawn), wrong[:5]


@pytest.mark.parametrize(
    "degrade",
    [
        lambda video: noisy(blurred(video), 34),
        lambda video: noisy(video, 28),
        lambda video: blurred(blurred(video)),
        lambda video: ((video + 1) * 127.5).round().div(16).round().mul(16).div(127.5) - 1,
        lambda video: 0.94 * video + 0.03,
    ],
    ids=["soft and 34 dB", "28 dB", "very soft", "16 levels", "paler"],
)
def test_right_after_what_a_codec_or_an_autoencoder_does(degrade: Callable):
    drawn = scenes(40)
    assert sum(judge(degrade(draw(scene))) == truth(scene) for scene in drawn) >= 39


@pytest.mark.parametrize("size", [(17, 96, 128), (9, 40, 32), (33, 64, 64), (5, 256, 256)])
def test_right_at_other_sizes(size):
    for scene in scenes(12):
        assert judge(draw(scene, *size)) == truth(scene)


def test_nothing_on_noise():
    for noise in (
        *(std * torch.randn(3, 17, 64, 64) for std in (0.05, 0.3, 1, 3)),
        2 * torch.rand(3, 17, 64, 64) - 1,
        torch.randn(3, 1, 64, 64).expand(-1, 17, -1, -1),
        torch.randn(3, 17, 1, 1).expand(-1, -1, 64, 64),
        F.interpolate(torch.randn(1, 3, 5, 8, 8), (17, 64, 64), mode="trilinear")[0],
    ):
        verdict = judge(noise)
        assert (verdict.shape, verdict.colour, verdict.motion) == (None, None, None)
    assert judge(torch.randn(3, 17, 64, 64)) == Verdict(None, None, None, None)


@pytest.mark.parametrize("name", [*COLOURS, *BACKGROUNDS])
def test_only_the_background_on_blank_video(name):
    blank = colour_of(name).expand(3, 17, 64, 64)
    ground = name if name in BACKGROUNDS else None
    assert judge(blank) == judge(noisy(blank, 30)) == Verdict(None, None, ground, None)


def test_backwards_it_moves_the_other_way_and_mirrored_it_turns():
    for scene in scenes(24):
        video = draw(scene)
        assert judge(video.flip(1)) == replace(truth(scene), motion=OPPOSITE[scene.motion])
        sideways = scene.motion in ("left", "right")
        mirrored = OPPOSITE[scene.motion] if sideways else scene.motion
        assert judge(video.flip(3)) == replace(truth(scene), motion=mirrored)
        if scene.shape in ("circle", "square"):
            turned = {"left": "up", "up": "left", "right": "down", "down": "right"}
            motion = turned.get(scene.motion, scene.motion)
            assert judge(video.transpose(2, 3)) == replace(truth(scene), motion=motion)


def test_other_paint_is_another_colour_or_background_and_nothing_else():
    for scene in scenes(3):
        cover = draw(replace(scene, colour="red", background="black"))[:1].add(1).div(2)
        cover = cover / cover.max()
        for colour in COLOURS:
            for background in BACKGROUNDS:
                expected = replace(truth(scene), colour=colour, background=background)
                assert judge(painted(cover[0], colour, background)) == expected


def test_shuffled_frames_have_no_motion_but_all_else():
    for scene in scenes(30):
        verdict = judge(draw(scene)[:, torch.randperm(17)])
        assert verdict == replace(truth(scene), motion="stays" if scene.motion == "stays" else None)


@pytest.mark.parametrize("gap", [0.3, 0.4])
def test_two_shapes_are_none(gap):
    for one, other in zip(scenes(12, 1), scenes(12, 2), strict=True):
        places = [Scene(s.shape, s.colour, "grey", "stays", 0.5, 0.5, 0.14, 0) for s in (one, other)]
        left, right = replace(places[0], x=0.5 - gap / 2), replace(places[1], x=0.5 + gap / 2)
        second = (draw(right) - colour_of("grey")).abs().sum(dim=0) > 0
        both = torch.where(second, draw(right), draw(left))
        assert judge(both) == Verdict(None, None, "grey", None)


def test_a_shape_that_changes_has_no_colour_or_no_shape():
    for scene in scenes(12):
        video = draw(scene)
        for colour in set(COLOURS) - {scene.colour}:
            other = draw(replace(scene, colour=colour))
            jumps = judge(torch.cat([video[:, :9], other[:, 9:]], dim=1))
            assert jumps == replace(truth(scene), colour=None)
        fades = torch.lerp(video, other, torch.linspace(0, 1, 17)[:, None, None])
        assert judge(fades).colour is None
        for shape in set(SHAPES) - {scene.shape}:
            other = draw(replace(scene, shape=shape))
            assert judge(torch.cat([video[:, :9], other[:, 9:]], dim=1)).shape is None


def test_a_shape_that_vanishes_is_none():
    for scene in scenes(12):
        video = draw(scene)
        video[:, 6:9] = colour_of(scene.background)
        assert judge(video) == Verdict(None, None, scene.background, None)


@pytest.mark.parametrize("jump", [0.1, 0.15, 0.2, 0.4])
def test_a_jump_is_no_motion(jump):
    for scene in scenes(8, motions=("stays",)):
        still = replace(scene, x=0.3, y=0.5, radius=0.15)
        there = draw(replace(still, x=0.3 + jump))
        for frame in (1, 5, 9, 14):
            verdict = judge(torch.cat([draw(still)[:, :frame], there[:, frame:]], dim=1))
            assert verdict == replace(truth(still), motion=None) or (jump == 0.1 and frame in (1, 14))


def test_motions_that_the_world_does_not_know_are_none():
    t = torch.linspace(0, 1, 17)
    still, radius = torch.full((17,), 32.0), torch.full((17,), 10.0)
    tracks = {
        "diagonal": (20 + 24 * t, 20 + 24 * t, radius),
        "shrinks": (still, still, 16 - 8 * t),
        "there and back": (32 + 14 * (2 * torch.pi * t).sin(), still, radius),
        "around": (32 + 12 * (2 * torch.pi * t).sin(), 32 + 12 * (2 * torch.pi * t).cos(), radius),
        "too little": (29 + 7 * t, still, radius),
        "moves and grows": (20 + 24 * t, still, 8 + 8 * t),
        "pulses": (still, still, 10 + 4 * (4 * torch.pi * t).sin()),
    }
    for name, track in tracks.items():
        for shape in SHAPES:
            verdict = judge(painted(coverage(shape, *track, 64, 64)))
            assert verdict == Verdict(shape, "red", "grey", None), name


def test_shapes_that_the_world_does_not_know_are_none():
    y, x = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(64) - 31.5, indexing="ij")
    distance = (x.square() + y.square()).sqrt()
    masks = {
        "bar": (x.abs() < 16) & (y.abs() < 5),
        "ring": (distance < 14) & (distance > 8),
        "cross": ((x.abs() < 4) & (y.abs() < 14)) | ((y.abs() < 4) & (x.abs() < 14)),
        "triangle upside down": ((x.abs() * 3**0.5 - y * -1) < 8) & (y > -8),
        "half circle": (distance < 15) & (x > 0),
        "dots": (x.abs() % 10 < 3) & (y.abs() % 10 < 3) & (distance < 22),
    }
    for name, mask in masks.items():
        verdict = judge(painted(mask.float().expand(17, -1, -1)))
        assert verdict.shape is None, (name, verdict)


@pytest.mark.parametrize("stretch, compact", [(1.6, True), (2.5, False)])
def test_what_is_no_shape_has_colour_and_motion_only_if_it_is_compact(stretch, compact):
    y, x = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(64) - 31.5, indexing="ij")
    middles = torch.linspace(-10, 10, 17)[:, None, None]
    ellipses = ((x - middles) ** 2 / stretch + y**2 * stretch < 10**2).float()
    seen = ("red", "right") if compact else (None, None)
    assert judge(painted(ellipses)) == Verdict(None, seen[0], "grey", seen[1])


def test_a_background_of_two_colours_is_none():
    for scene in scenes(4):
        video = draw(scene)
        video[:, :, :, 44:] = colour_of("purple")
        assert judge(video).background is None
        ramp = draw(scene) + torch.linspace(-1, 1, 64)
        assert judge(ramp.clamp(-1, 1)).background is None


def test_one_frame_has_no_motion():
    for scene in scenes(12):
        assert judge(draw(scene)[:, :1]) == replace(truth(scene), motion=None)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 17, 64, 64), (3, 17, 64, 31), (1, 3, 17, 64, 64)])
def test_what_is_no_video_is_an_error(shape):
    with pytest.raises(ValueError, match="not a video of 3 T H W with sides of 32 or more"):
        judge(torch.zeros(shape))
