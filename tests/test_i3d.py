"""Proves that I3D is TensorFlow's: against features of the graph and of its ports, and unit by unit."""

import numpy
import pytest
import torch
import torch.nn.functional as F

from configs.protocol import load_protocol
from eval.frechet import distance_of_features
from eval.networks.certify import load_i3d
from eval.networks.i3d import I3D, Unit, max_pool, same_padding, seeded_tensors, table
from eval.preprocess import prepare
from tests.conftest import REFERENCE
from vae.data.video import read_frames
from vae.quality.networks import find_weights

PROTOCOLS = {  # how the reference values name what our protocols do
    "squash": ("fvd-stylegan-v-2048", {"stored_size": 0}),
    "short": ("fvd-videogpt", {"stored_size": 0}),
    "tf1legacy": ("fvd-google", {}),
}
NETWORKS = {"eps1e-3": 1e-3, "tfhub_graph": 1e-3, "videogpt_eps1e-5": 1e-5}


def windows(clips, which: str, starts: list[int]) -> list[torch.Tensor]:
    """Windows of 16 frames of the UCF-101 clip, plain or distorted as the reference values' recipe says."""
    from scipy.ndimage import gaussian_filter

    every = torch.stack(
        list(read_frames(clips / "v_ApplyEyeMakeup_g01_c01.avi", range(164)).unfold(0, 16, 4))
    ).movedim(-1, 1)
    if which == "A_saltpepper":
        noise = numpy.random.RandomState(7).random_sample((38, 16, 240, 320))
        every = every.clone()
        every[torch.from_numpy(noise < 0.025)] = 0
        every[torch.from_numpy(noise > 0.975)] = 255
    chosen = [every[start] for start in starts]
    if which == "A_blur":
        blurred = [gaussian_filter(w.numpy().astype(float), (0, 2, 2, 0), truncate=4.0) for w in chosen]
        chosen = [torch.from_numpy(numpy.rint(w).astype(numpy.uint8)) for w in blurred]
    return [w.flip(0) for w in chosen] if which == "A_treverse" else chosen


@pytest.mark.long
@torch.no_grad()
def test_features_are_those_of_the_graph_and_its_ports(real_clips):
    """Every set, preprocessing and network there are values of, at a window each."""
    from dataclasses import replace

    known = numpy.load(REFERENCE / "i3d_seeded_features.npz")
    keys = [key for key in known if key.count("|") == 2]
    assert len(keys) == 10
    networks = {
        eps: I3D(seeded_tensors(), eps).to(memory_format=torch.channels_last_3d) for eps in (1e-3, 1e-5)
    }
    made: dict[str, list[torch.Tensor]] = {}
    for key in keys:
        which, fit, network = key.split("|")
        starts = [37] if "A_" not in which else [20]
        clips = made.setdefault(which, windows(real_clips, which, starts))
        name, changes = PROTOCOLS[fit]
        protocol = replace(load_protocol(name, "fvd"), **changes)
        inputs = torch.stack([prepare(clip, protocol) for clip in clips])
        ours = networks[NETWORKS[network]](inputs.to(memory_format=torch.channels_last_3d))
        wanted = torch.from_numpy(known[key][starts])
        assert ((ours - wanted).norm(dim=1) <= 1e-5 * wanted.norm(dim=1)).all(), key


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 1), (3, 2), (2, 2), (1, 1)])
def test_same_padding_is_tensorflow_s(size, kernel, stride):
    """As many outputs as inputs over stride, rounded up, by the least padding, its odd one behind."""
    before, after = same_padding((size,), (kernel,), (stride,))
    wanted = -(-size // stride)
    assert (size + before + after - kernel) // stride + 1 == wanted
    assert 0 <= after - before <= 1
    assert before + after == 0 or (size + before + after - 1 - kernel) // stride + 1 < wanted


def test_pooling_pads_behind_as_with_minus_infinity():
    x = torch.rand(1, 2, 3, 5, 6)
    padded = F.pad(x, same_padding((3, 5, 6), (1, 3, 3), (1, 2, 2)), value=-torch.inf)
    assert torch.equal(max_pool(x, (1, 3, 3), (1, 2, 2)), F.max_pool3d(padded, (1, 3, 3), (1, 2, 2)))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_unit_is_convolution_batch_norm_and_relu(stride):
    tensors = {
        "u/conv_3d/w": torch.randn(3, 3, 3, 2, 4),
        "u/batch_norm/beta": torch.randn(4),
        "u/batch_norm/moving_mean": torch.randn(4),
        "u/batch_norm/moving_variance": torch.rand(4) + 0.5,
    }
    x = torch.randn(2, 2, 5, 6, 7)
    kernel = tensors["u/conv_3d/w"].double().permute(4, 3, 0, 1, 2)
    y = F.conv3d(F.pad(x.double(), same_padding((5, 6, 7), (3, 3, 3), (stride,) * 3)), kernel, stride=stride)
    mean, variance = (tensors[f"u/batch_norm/moving_{part}"].double() for part in ("mean", "variance"))
    shaped = tensors["u/batch_norm/beta"].double()
    y = F.batch_norm(y, mean, variance, torch.ones(4).double(), shaped, eps=0.3).relu()
    ours = Unit(tensors, "u", stride, 0.3)(x)
    assert torch.allclose(ours.double(), y, atol=1e-5)


def test_what_is_no_clip_is_refused():
    network = I3D({name: torch.zeros(row["shape"]) for name, row in table().items()})
    for shape in ((1, 3, 16, 112, 112), (3, 16, 224, 224), (1, 1, 16, 224, 224)):
        with pytest.raises(ValueError, match="I3D takes clips of B 3 T 224 224"):
            network(torch.zeros(shape))
    with pytest.raises(ValueError, match="at least 9 frames, not 8"):
        network(torch.zeros(1, 3, 8, 224, 224))


@pytest.fixture(scope="module")
def true_network() -> I3D:
    """I3D with DeepMind's weights, where they are."""
    try:
        find_weights("i3d")
    except ValueError:
        pytest.skip("needs DeepMind's weights of I3D: `dit eval weights` says where")
    return load_i3d(1e-3, "", smoke=False)[0]


GOLD = {  # frames -> FVD of black to white clips, as published for StyleGAN-V's network
    30: 151.25648496845326,
    10: 569.230,
    11: 486.358,
    12: 551.961,
    13: 146.366,
    14: 172.855,
    15: 133.703,
    16: 152.918,
}


@torch.no_grad()
@pytest.mark.parametrize("frames", GOLD)
def test_true_weights_give_black_and_white_their_published_distance(true_network, frames):
    """JunyaoHu/common_metrics_on_video_quality: equal clips have no spread, so that means alone are apart."""
    black, white = (true_network(torch.full((1, 3, frames, 224, 224), level)) for level in (-1.0, 1.0))
    assert (black - white).double().square().sum().item() == pytest.approx(GOLD[frames], rel=2e-3)


@torch.no_grad()
def test_true_weights_give_noise_its_published_distance(true_network):
    """universome/fvd-comparison: the TensorFlow graph gives 10.13808536529541 for two sets of 128 clips."""
    sides = []
    for seed in (1, 2):
        random = numpy.random.RandomState(seed)
        clips = random.rand(128, 16, 224, 224, 3).astype(numpy.float32)
        sides.append(torch.cat([true_network(torch.from_numpy(c)[None].movedim(-1, 1)) for c in clips]))
    assert distance_of_features(*sides, ddof=1) == pytest.approx(10.13808536529541, rel=1e-5)
