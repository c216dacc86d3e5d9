"""Reconstruction FVD (rFVD) of video autoencoders on UCF-101: all 3,783 videos of the first test split.

One clip of 16 frames a video, at one place in original and reconstruction, frames of 128 x 128, as the line
of TATS and MAGVIT. Known to differ: papers reconstruct 16 or 17 frames, resize with kernels of their own, and
use I3D with an eps of 1e-3 or 1e-5.
"""

from configs.protocol import FvdProtocol

protocol = FvdProtocol(
    name="ucf101-recon",
    data="ucf101",
    split="test1",
    list_sha256="9786bbada20940362aae03b58ce6a8affb5a1944060b6bb4148edacd89b835df",
    real=3783,
    fake=3783,
    stored_size=128,
    stored_kernel="bilinear",
)
