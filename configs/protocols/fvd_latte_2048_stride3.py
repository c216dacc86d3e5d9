"""FVD as Latte's evaluation computes it (Ma et al. 2024, commit c227056): real clips take every third frame.

Frames are cropped to a square, then resized to 256 (Lanczos), and stored as StyleGAN-V stores them. Real
videos need 48 frames and start anywhere, generated ones are 16 frames from the first. Known to differ: there
every process draws 2,048 real videos of its own, so that the score depends on how many there are (issue 135);
here one draw is made from the seed. A smaller set is taken whole there, and refused here. The 168 that is
quoted for UCF-101 was measured by a user; a maintainer wrote that it is correct (issue 123).
"""

from configs.protocol import FvdProtocol

protocol = FvdProtocol(
    name="fvd-latte-2048-stride3",
    real=2048,
    fake=2048,
    fake_start="first",
    whole_steps=True,
    real_stride=3,
    stored_size=256,
    stored_order="crop-resize",
    stored_codec="jpeg-75",
    ddof=0,
)
