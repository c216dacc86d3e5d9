"""Proves LPIPS against values of the published code on seeded trunks, and its properties."""

import copy
import json
import math

import numpy
import pytest
import torch

from tests.conftest import REFERENCE
from vae.data.video import read_frames, to_video
from vae.quality.lpips import TRUNKS, Lpips, load_lpips


def seeded(trunk: str, order: list, spatial: bool = False) -> Lpips:
    """A trunk whose weights one numpy RandomState draws in a given order of names and shapes."""
    random, tensors = numpy.random.RandomState(0), {}
    for name, shape in order:
        value = random.standard_normal(shape)
        value = value * (math.sqrt(2 / math.prod(shape[1:])) if len(shape) == 4 else 0.1)
        tensors[name.replace(name.split(".")[0], "features")] = torch.from_numpy(value.astype(numpy.float32))
    model = Lpips(trunk, spatial)
    model.load_trunk(tensors)
    return model


def distorted(frames: torch.Tensor, how: str) -> torch.Tensor:
    """The first window's frames as the reference values' recipe distorts them."""
    from scipy.ndimage import gaussian_filter

    if how == "blur":
        blurred = gaussian_filter(frames.numpy().astype(float), (0, 2, 2, 0), truncate=4.0)
        return torch.from_numpy(numpy.rint(blurred).astype(numpy.uint8))
    noise = torch.from_numpy(numpy.random.RandomState(7).random_sample((16, 240, 320))[: len(frames)])
    result = frames.clone()
    result[noise < 0.025], result[noise > 0.975] = 0, 255
    return result


@pytest.mark.parametrize("trunk", list(TRUNKS))
@torch.no_grad()
def test_it_is_the_published_code(trunk, real_clips):
    known = json.loads((REFERENCE / "lpips_seeded.json").read_text())[trunk]
    heads = torch.load(REFERENCE / "lpips_heads_v0.1" / f"{trunk}.pth", "cpu", weights_only=True)
    every = read_frames(real_clips / "v_ApplyEyeMakeup_g01_c01.avi", range(4))
    for spatial, chosen in ((False, [0]), (True, [3])):
        model = seeded(trunk, known["params"], spatial)
        model.load_heads(heads)
        for how in ("blur", "saltpepper"):
            sides = (to_video(f[chosen]).movedim(0, 1) for f in (every, distorted(every, how)))
            wanted = known["values"][f"{how}_spatial_mean" if spatial else how]
            wanted = pytest.approx([wanted[frame] for frame in chosen], rel=1e-5)
            assert model(*sides).tolist() == wanted, (how, spatial)
        if not spatial:
            one, other = (torch.full((1, 3, 64, 64), level) for level in (-1.0, 1.0))
            assert model(one, other).item() == pytest.approx(known["values"]["zeros_vs_ones_64"], rel=1e-5)


@pytest.mark.parametrize("trunk", list(TRUNKS))
@torch.no_grad()
def test_equal_pictures_are_at_zero_and_a_batch_is_its_pictures(trunk):
    torch.manual_seed(1)
    model = Lpips(trunk)
    for head in model.heads:
        head.data = torch.rand_like(head)
    one, other = torch.rand(2, 3, 3, 48, 40) * 2 - 1
    apart = model(one, other)
    assert (apart > 0).all() and torch.equal(model(one, one), torch.zeros(3))
    assert torch.allclose(apart, model(other, one))
    assert torch.allclose(apart, torch.cat([model(one[k : k + 1], other[k : k + 1]) for k in range(3)]))
    parts = torch.zeros(3)
    for head in model.heads:  # the distance is a sum over layers, each linear in its weights
        alone = copy.deepcopy(model)
        for other_head in alone.heads:
            other_head.data *= 3.0 if torch.equal(other_head, head) else 0.0
        parts += alone(one, other) / 3
    assert torch.allclose(apart, parts)


def test_wrong_weights_and_pictures_are_told():
    model = Lpips("alex")
    good = {f"features.{name}": tensor for name, tensor in model.features.state_dict().items()}
    model.load_trunk(good | {"classifier.1.weight": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"no features\.3\.weight"):
        model.load_trunk({name: tensor for name, tensor in good.items() if name != "features.3.weight"})
    with pytest.raises(ValueError, match=r"features\.0\.bias is \(3,\), not \(64,\)"):
        model.load_trunk(good | {"features.0.bias": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"no lin0\.model\.1\.weight"):
        model.load_heads({})
    with pytest.raises(ValueError, match="N 3 H W"):
        model(torch.zeros(3, 64, 64), torch.zeros(3, 64, 64))
    with pytest.raises(ValueError, match="at least 32 pixels"):
        model(torch.zeros(1, 3, 16, 64), torch.zeros(1, 3, 16, 64))


def test_true_weights_give_black_and_white_their_published_distance():
    """JunyaoHu/common_metrics_on_video_quality: 0.8140090703964233 of 64 x 64 pictures, AlexNet."""
    model, why = load_lpips("alex")
    if model is None:
        pytest.skip(f"LPIPS {why}")
    black, white = (torch.full((1, 3, 64, 64), level) for level in (-1.0, 1.0))
    assert model(black, white).item() == pytest.approx(0.8140090703964233, rel=1e-4)
