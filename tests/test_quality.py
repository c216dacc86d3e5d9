"""Proves that PSNR and SSIM equal scikit-image's, and the stored values of real frames."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import REFERENCE
from vae.quality.psnr_ssim import grey, pooled_psnr, psnr, ssim, wrapped_psnr

NAMES = {"psnr": "skimage_psnr_framemean", "ssim": "skimage_ssim_wang(gauss1.5,popcov)"}


def to_video(frames_THWC: np.ndarray) -> Tensor:
    """uint8 frames as a float video C T H W in [-1, 1]."""
    return torch.from_numpy(frames_THWC.copy()).movedim(-1, 0).double() / 127.5 - 1


@pytest.mark.parametrize("noise", [0.01, 0.2, 2.0])
def test_equal_scikit_image(noise):
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 3, 4, 5), size=(4, 23, 31), mode="trilinear")[0]
    original = smooth * 2 - 1
    other = (original + noise * torch.randn_like(original)).clamp(-1, 1)
    pairs = [  # on the scale of 0 to 1
        tuple((image.movedim(0, -1).double().numpy() + 1) / 2 for image in pair)
        for pair in zip(original.unbind(1), other.unbind(1), strict=True)
    ]
    expected = np.mean([peak_signal_noise_ratio(*pair, data_range=1) for pair in pairs])
    assert abs(psnr(original, other) - expected) < 1e-6
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": -1}
    expected = np.mean([structural_similarity(*pair, data_range=1, **options) for pair in pairs])
    assert 0 < expected < 1 and abs(ssim(original, other) - expected) < 1e-6
    uniform = np.mean([structural_similarity(*pair, data_range=1, channel_axis=-1) for pair in pairs])
    assert abs(ssim(original, other, uniform=True) - uniform) < 1e-6 < abs(uniform - expected)
    bytes_of = [[np.rint(np.rint(255 * image) @ [0.299, 0.587, 0.114]) for image in pair] for pair in pairs]
    options["channel_axis"] = None
    expected = np.mean([structural_similarity(*pair, data_range=255, **options) for pair in bytes_of])
    assert abs(ssim(grey(original), grey(other)) - expected) < 1e-6


def test_closed_forms():
    video = torch.rand(3, 2, 16, 16) - 0.5
    assert psnr(video, video + 0.2) == pytest.approx(20.0, abs=1e-5)  # 10 log10(2^2 / 0.2^2)
    one_frame_off = video.clone()
    one_frame_off[:, 1] += 0.2
    assert psnr(video, one_frame_off) == pytest.approx((100 + 20) / 2, abs=1e-5)  # each frame by itself
    assert pooled_psnr(video, one_frame_off) == pytest.approx(
        20 + 10 * math.log10(2), abs=1e-5
    )  # half the error
    assert pooled_psnr(video, video) == pytest.approx(100)
    assert ssim(video, video) == pytest.approx(1.0, abs=1e-12)
    # flat frames have no contrast: only the luminance term is left, of means 0.5 and 0.75 between 0 and 1
    luminance = (2 * 0.5 * 0.75 + 1e-4) / (0.5**2 + 0.75**2 + 1e-4)
    assert ssim(torch.zeros(3, 1, 16, 16), torch.full((3, 1, 16, 16), 0.5)) == pytest.approx(luminance)


@pytest.fixture(scope="module")
def first_window(real_clips: Path) -> np.ndarray:
    """The first 16 frames of the clip of the stored values, uint8 T H W C."""
    av = pytest.importorskip("av")
    with av.open(str(real_clips / "v_ApplyEyeMakeup_g01_c01.avi")) as container:
        frames = container.decode(video=0)
        return np.stack([next(frames).to_ndarray(format="rgb24") for _ in range(16)])


def blurred(frames_THWC: np.ndarray) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return np.rint(gaussian_filter(frames_THWC.astype(np.float64), (0, 2, 2, 0))).astype(np.uint8)


def speckled(frames_THWC: np.ndarray) -> np.ndarray:
    draws = np.random.RandomState(7).random_sample(frames_THWC.shape[:3])
    result = frames_THWC.copy()
    result[draws < 0.025], result[draws > 0.975] = 0, 255
    return result


DISTORTIONS = {"blur": blurred, "saltpepper": speckled}


@pytest.mark.parametrize("name", DISTORTIONS)
def test_real_frames_give_the_stored_values(name, first_window):
    stored = json.loads((REFERENCE / "psnr_ssim.json").read_text())[name]
    original, other = to_video(first_window), to_video(DISTORTIONS[name](first_window))
    assert abs(psnr(original, other) - stored[NAMES["psnr"]]) < 1e-6
    assert abs(pooled_psnr(original, other) - stored["psnr_global_mse"]) < 1e-6
    assert abs(ssim(original, other) - stored[NAMES["ssim"]]) < 1e-6
    assert abs(ssim(original, other, uniform=True) - stored["skimage_ssim_default_win7"]) < 1e-6
    assert abs(ssim(grey(original), grey(other)) - stored["skimage_ssim_wang_grayY"]) < 1e-6


def test_squares_that_wrap_give_unrelated_pictures_27_9_db():
    """Every pair of bytes once: d * d mod 256 has the mean 105.5, and (a - b)^2 that of (256^2 - 1) / 6."""
    levels = np.arange(256, dtype=np.uint8)
    rows = np.broadcast_to(levels[None, :, None, None], (1, 256, 256, 3))
    columns = np.broadcast_to(levels[None, None, :, None], (1, 256, 256, 3))
    pair = to_video(rows), to_video(columns)
    assert wrapped_psnr(*pair) == pytest.approx(10 * math.log10(255**2 / 105.5), abs=1e-9)
    assert round(wrapped_psnr(*pair), 2) == 27.90 and round(psnr(*pair), 2) == 7.75
    assert psnr(*pair) == pytest.approx(10 * math.log10(255**2 * 6 / (256**2 - 1)), abs=1e-9)
    assert wrapped_psnr(pair[0], pair[0]) == 100


NOISE = {  # deviation in levels -> PSNR in dB, right and wrapped, as computed by numpy's bytes elsewhere
    2: (42.08, 42.08),
    5: (34.25, 34.33),
    10: (28.33, 30.42),
    20: (22.47, 28.82),
    40: (16.89, 28.15),
    80: (11.85, 27.96),
}


@pytest.mark.parametrize("deviation", NOISE)
def test_noise_hides_below_the_floor_of_squares_that_wrap(deviation):
    random = np.random.RandomState(deviation)
    original = random.randint(0, 256, (2, 192, 192, 3)).astype(np.uint8)
    noisy = original + deviation * random.standard_normal(original.shape)
    other = np.rint(noisy.clip(0, 255)).astype(np.uint8)
    pair = to_video(original), to_video(other)
    assert (psnr(*pair), wrapped_psnr(*pair)) == pytest.approx(NOISE[deviation], abs=0.06)
    frames = zip(original, other, strict=True)
    exact = np.mean([10 * np.log10(255**2 / np.mean((one - two) ** 2)) for one, two in frames])
    assert wrapped_psnr(*pair) == pytest.approx(exact, abs=1e-9)
