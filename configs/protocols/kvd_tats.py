"""KVD, the kernel video distance, as TATS' code computes it (Ge et al. 2022) after Unterthiner et al. (2018).

The unbiased estimate by the polynomial kernel (x y / D + 1)^3 of I3D's logits: frames squashed to 224, batch
norm's eps 1e-5, as that code's FVD. Unlike FVD it does not fall as clips are added. Known to differ: TATS
computes in fp32, which moves the sixth digit; starts come from the seed and the video.
"""

from configs.protocol import KernelProtocol

protocol = KernelProtocol(name="kvd-tats", title="KVD", real=2048, fake=2048, eps=1e-5)
