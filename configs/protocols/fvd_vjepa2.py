"""FVD on V-JEPA 2's features, the mean of its tokens: the Frechet distance beside JEDi's kernel.

16 frames of 224 x 224 by ImageNet's mean and deviation, 2,048 clips a side, ddof 1. Luo et al. (2024) compare
such features with I3D's; they take V-JEPA of 2024, which transformers does not have. It is no paper's
protocol: no published value is put beside a score. `--encoder-sha256` names the network.
"""

from configs.protocol import FvdProtocol

protocol = FvdProtocol(
    name="fvd-vjepa2",
    real=2048,
    fake=2048,
    stored_size=224,
    stored_kernel="bilinear",
    network="vjepa2",
    pixels="imagenet",
)
