"""FVD and KVD on UCF-101 by class at 128 pixels, as TATS computes them (Ge et al. 2022), of 2,048 clips.

Real clips of 16 frames are drawn of all clips of the training videos of split 1, and come to 128 pixels and
to bytes as in `fvd-videogpt`, whose loader it has; then the square becomes 224, and the batch norm's eps is
1e-5 (commit 26c33f5). Generated videos have each class as often as any other. Known to differ: the distance
is in fp32 there, by singular values; a data set stored as HDF5 draws videos there, not clips. Not confirmed:
over how many runs the paper's 332 +- 18 was taken.
"""

from configs.protocol import FvdProtocol, kernel_beside

JOBS = ("ucf101-class-tats",)
protocol = FvdProtocol(
    name="ucf101-class-tats",
    data="ucf101",
    split="train1",
    list_sha256="88ec191e9d2c91ab54299c8d29de96a93b1aaa63dee65a9b982dd6e1cb2824b0",
    real=2048,
    fake=2048,
    videos="windows",
    fake_start="first",
    stored_size=128,
    stored_kernel="bilinear-plain",
    stored_longer="ceil",
    stored_rounding="floor-halves",
    eps=1e-5,
)
kernel = kernel_beside(protocol, title="KVD")  # as `kvd-tats`
