"""FVD on Kinetics-600 of frame prediction: 5 frames given, 11 predicted, all 16 scored, at 64 x 64.

The task of TrIVD-GAN (Luc et al. 2020), Video Transformer, MAGVIT and W.A.L.T: 50,000 clips of the test
split, resized to 64 pixels, then squashed to 224 by TensorFlow 1's resize. Generated videos are given whole,
with the 5 frames that they continue before the 11 that are predicted; nothing here checks that these are a
real clip's. Not confirmed: the split and number of each paper, whether the given frames count in all of them,
the resize to 64. MAGVIT predicts at 128 pixels and scores at 64.
"""

from configs.protocol import FvdProtocol

protocol = FvdProtocol(
    name="kinetics600-prediction",
    data="kinetics600",
    split="test",
    real=50000,
    fake=50000,
    fake_start="first",
    stored_size=64,
    stored_kernel="bilinear-plain",
    stored_rounding="floor",
    kernel="bilinear-tf1",
)
