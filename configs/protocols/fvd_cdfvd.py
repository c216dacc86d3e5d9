"""FVD with I3D as the cd-fvd package computes it (Ge et al. 2024): its loader, its port of the network.

The loader resizes the shorter side to 256 with antialiasing, cuts out the middle and cuts fractions of bytes
off; the network's batch norm has an eps of 1e-5, which moves features by 1 % and FVD by 2 %. Every real
video counts. Known to differ: starts come from the seed and the video; fewer than 2,048 generated videos are
refused, there they are used twice.
"""

from configs.protocol import FvdProtocol

protocol = FvdProtocol(
    name="fvd-cdfvd",
    real=0,
    fake=2048,
    stored_size=256,
    stored_kernel="bilinear",
    stored_longer="ceil",
    stored_rounding="floor",
    eps=1e-5,
    ddof=0,
)
