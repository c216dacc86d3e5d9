"""FVD as Latte's evaluation computes it (Ma et al. 2024): real clips take every third frame.

Frames are cropped to a square, then resized to 256 (Lanczos), and stored as StyleGAN-V stores them. Known to
differ: there every rank draws 2,048 real videos of its own, so that the score depends on how many there are;
here one draw is made from the seed.
"""

from configs.protocol import FvdProtocol

PUBLISHED = {"fvd": (("Latte, measured again by its authors", 168, "Vchitect/Latte, issue 123"),)}
protocol = FvdProtocol(
    name="fvd-latte-2048-stride3",
    real=2048,
    fake=2048,
    real_stride=3,
    stored_size=256,
    stored_order="crop-resize",
    stored_codec="jpeg-75",
    ddof=0,
)
