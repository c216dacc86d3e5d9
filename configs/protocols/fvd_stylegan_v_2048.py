"""FVD as StyleGAN-V's `fvd2048_16f` computes it (Skorokhodov et al. 2022), its choice of videos included.

The real set is the first 2,048 videos by name: of UCF-101, 16 of 101 classes. Their clips start anywhere,
generated ones at the first frame (commit 1f630af). Frames are stored as JPEG of quality 75 at 256 pixels
(Lanczos, then a crop). Known to differ: starts come from the seed and the video, there from Python's unseeded
generator in loader workers; a smaller real set is taken whole there, and refused here. Not confirmed: that
the resize inside its TorchScript file is a bilinear squash.
"""

from configs.protocol import FvdProtocol

protocol = FvdProtocol(
    name="fvd-stylegan-v-2048",
    real=2048,
    fake=2048,
    videos="first",
    fake_start="first",
    whole_steps=True,
    stored_size=256,
    stored_codec="jpeg-75",
    ddof=0,
)
