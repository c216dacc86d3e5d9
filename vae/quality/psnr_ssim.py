"""Reconstruction quality: PSNR and SSIM of a video against its original."""

import torch
from torch import Tensor

SSIM_SIDE = 11  # of the largest window, and the least of a picture
UNIFORM_SIDE = 7  # of scikit-image's own window
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


def psnr(original_CTHW: Tensor, other_CTHW: Tensor) -> float:
    """Mean over frames of each frame's PSNR in dB, of videos in [-1, 1] (peak-to-peak 2); at most 100 dB."""
    error_T = (original_CTHW.double() - other_CTHW.double()).square().mean(dim=(0, 2, 3))
    return (10 * torch.log10(4 / error_T.clamp(min=4e-10))).mean().item()


def pooled_psnr(original_CTHW: Tensor, other_CTHW: Tensor) -> float:
    """PSNR in dB of the squared error of all frames together, of videos in [-1, 1]; at most 100 dB.

    It is at most `psnr`, and less by decibels where some frames are much worse than others: say which it is.
    """
    error = (original_CTHW.double() - other_CTHW.double()).square().mean()
    return (10 * torch.log10(4 / error.clamp(min=4e-10))).item()


def wrapped_psnr(original_CTHW: Tensor, other_CTHW: Tensor) -> float:
    """Mean over frames of a PSNR in dB whose squared differences wrap as bytes do; 100 of equal frames.

    A known error of the code of DisCo (Wang et al. 2023, issue 86), for its tables: unrelated pictures score
    27.9 dB by it, and 7.7 rightly. Videos of bytes in [-1, 1].
    """
    original, other = (((video.double() + 1) * 127.5).round().byte() for video in (original_CTHW, other_CTHW))
    squares = (original - other).square()  # of bytes: both wrap
    error_T = squares.double().mean(dim=(0, 2, 3))
    return torch.where(error_T > 0, 10 * torch.log10(255**2 / error_T), 100.0).mean().item()


def ssim(original_CTHW: Tensor, other_CTHW: Tensor, uniform: bool = False) -> float:
    """Mean over frames and channels of SSIM (Wang et al. 2004): Gaussian 11x11 of sigma 1.5, valid crop.

    Videos in [-1, 1], at least 11 x 11; equals scikit-image with `gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False`. `uniform` is its default in their place, which differs in the second
    digit: a box of 7x7, and the covariance of a sample.
    """
    window = torch.ones(UNIFORM_SIDE, dtype=torch.float64) if uniform else _gaussian()
    taps = (window / window.sum()).tolist()
    unbiased = UNIFORM_SIDE**2 / (UNIFORM_SIDE**2 - 1) if uniform else 1.0
    values = []
    for frames in zip(original_CTHW.movedim(1, 0), other_CTHW.movedim(1, 0), strict=True):
        x, y = ((frame_CHW.double() + 1) / 2 for frame_CHW in frames)  # a frame at a time stays near the core
        mean_x, mean_y = _filtered(x, taps), _filtered(y, taps)
        variances = _filtered(x * x, taps) - mean_x**2 + _filtered(y * y, taps) - mean_y**2
        covariance = _filtered(x * y, taps) - mean_x * mean_y
        luminance, contrast = 0.01**2, 0.03**2
        similarity = ((2 * mean_x * mean_y + luminance) * (2 * unbiased * covariance + contrast)) / (
            (mean_x**2 + mean_y**2 + luminance) * (unbiased * variances + contrast)
        )
        values.append(similarity.mean())
    return torch.stack(values).mean().item()


def grey(video_CTHW: Tensor) -> Tensor:
    """The luma of a video of bytes in [-1, 1], as whole bytes in [-1, 1], 1 T H W."""
    bytes_CTHW = ((video_CTHW.double() + 1) * 127.5).round()
    luma_THW = sum(weight * channel for weight, channel in zip(LUMA, bytes_CTHW, strict=True))
    return luma_THW.round()[None] / 127.5 - 1


def _gaussian() -> Tensor:
    """The window of Wang et al.: 11 taps of sigma 1.5."""
    offsets = torch.arange(SSIM_SIDE, dtype=torch.float64) - SSIM_SIDE // 2
    return torch.exp(-(offsets**2) / (2 * 1.5**2))


def _filtered(image_CHW: Tensor, taps: list[float]) -> Tensor:
    """A picture filtered by the taps along both sides, the valid part; sums of shifted pictures are twelve
    times as fast as PyTorch's convolution of doubles."""
    for side in (1, 2):
        length = image_CHW.shape[side] - len(taps) + 1
        total = torch.zeros_like(image_CHW.narrow(side, 0, length))
        for tap, weight in enumerate(taps):
            total.add_(image_CHW.narrow(side, tap, length), alpha=weight)
        image_CHW = total
    return image_CHW
