"""FVD on UCF-101 by class at 128 pixels as MAGVIT computes it (Yu et al. 2023): 10,000 clips.

Clips of 16 frames in a row of the 9,537 training videos of split 1, squashed from 128 to 224 by TensorFlow
1's resize, with the original batch norm (commit e05ced7). Generated videos have the real classes'
proportions, as labels are those of the real batch. Known to differ: 10,000 real clips, several of a video,
are drawn there four times and the scores averaged; here each video gives one clip. Not confirmed: the
loader's resize to 128 (bilinear without antialiasing, fractions of bytes cut off), and whether real clips
are cropped at random places.
"""

from configs.protocol import FvdProtocol

JOBS = ("ucf101-class-magvit",)
protocol = FvdProtocol(
    name="ucf101-class-magvit",
    data="ucf101",
    split="train1",
    list_sha256="88ec191e9d2c91ab54299c8d29de96a93b1aaa63dee65a9b982dd6e1cb2824b0",
    real=9537,
    fake=10000,
    fake_start="first",
    stored_size=128,
    stored_kernel="bilinear-plain",
    stored_rounding="floor",
    kernel="bilinear-tf1",
)
