"""Reconstruction quality: PSNR and SSIM of a video against its original."""

import torch
from torch import Tensor

SSIM_SIDE = 11  # of the window, and the least of a picture


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


def ssim(original_CTHW: Tensor, other_CTHW: Tensor) -> float:
    """Mean over frames and channels of SSIM (Wang et al. 2004): Gaussian 11x11 of sigma 1.5, valid crop.

    Videos in [-1, 1], at least 11 x 11; equals scikit-image with `gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False`.
    """
    values = []
    for frames in zip(original_CTHW.movedim(1, 0), other_CTHW.movedim(1, 0), strict=True):
        x, y = ((frame_CHW.double() + 1) / 2 for frame_CHW in frames)  # a frame at a time stays near the core
        mean_x, mean_y = blur(x), blur(y)
        variance_x, variance_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
        covariance = blur(x * y) - mean_x * mean_y
        luminance, contrast = 0.01**2, 0.03**2
        similarity = ((2 * mean_x * mean_y + luminance) * (2 * covariance + contrast)) / (
            (mean_x**2 + mean_y**2 + luminance) * (variance_x + variance_y + contrast)
        )
        values.append(similarity.mean())
    return torch.stack(values).mean().item()


def blur(image_CHW: Tensor) -> Tensor:
    """A Gaussian of 11 taps and sigma 1.5 along both sides, the valid part; sums of shifted pictures are
    twelve times as fast as PyTorch's convolution of doubles."""
    offsets = torch.arange(SSIM_SIDE, dtype=torch.float64) - SSIM_SIDE // 2
    window = torch.exp(-(offsets**2) / (2 * 1.5**2))
    for side in (1, 2):
        length = image_CHW.shape[side] - SSIM_SIDE + 1
        total = torch.zeros_like(image_CHW.narrow(side, 0, length))
        for tap, weight in enumerate((window / window.sum()).tolist()):
            total.add_(image_CHW.narrow(side, tap, length), alpha=weight)
        image_CHW = total
    return image_CHW
