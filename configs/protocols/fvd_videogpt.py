"""FVD on UCF-101 as VideoGPT computes it (Yan et al. 2021), with its later version's range: 2x / 255 - 1.

Real clips are 256 of all clips of the test videos of split 1, so that a long video has more. Its loader
resizes the shorter side to the model's 128 pixels without antialiasing, cuts out the middle, and cuts
fractions of bytes off after it took a half from the range and gave it back (commit 3eee7ec); then the square
becomes 224. The batch norm's eps is 1e-5. Known to differ: four trials of 256 clips in fp32 are averaged
there, here it is one set of 256 in float64; BAIR's model has 64 pixels; generated frames are cut to bytes
there, and here they are the file's. Values of forks of its first version, which fed half the range, compare
with nothing.
"""

from configs.protocol import FvdProtocol

protocol = FvdProtocol(
    name="fvd-videogpt",
    data="ucf101",
    split="test1",
    list_sha256="9786bbada20940362aae03b58ce6a8affb5a1944060b6bb4148edacd89b835df",
    real=256,
    fake=256,
    videos="windows",
    fake_start="first",
    stored_size=128,
    stored_kernel="bilinear-plain",
    stored_longer="ceil",
    stored_rounding="floor-halves",
    fit="crop",
    eps=1e-5,
)
