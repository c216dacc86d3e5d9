"""FVD as VideoGPT computes it (Yan et al. 2021), with the range of its later version: 2x / 255 - 1.

The shorter side becomes 224, the middle is cut out, the batch norm's eps is 1e-5. Known to differ: VideoGPT
averages four trials of 256 clips in fp32; here it is one set of 256, in float64. Values of forks of its first
version, which fed half the range, compare with nothing.
"""

from configs.protocol import FvdProtocol

protocol = FvdProtocol(name="fvd-videogpt", real=256, fake=256, fit="crop", eps=1e-5)
