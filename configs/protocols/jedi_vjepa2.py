"""JEDi's distance (Luo et al. 2024) on V-JEPA 2: 100 times the biased discrepancy by the kernel (x y / D)^2.

Features are those of the attentive pooler of a classifier of Something-Something v2, as the videojedi package
takes them by default, of 16 frames of 224 x 224 by ImageNet's mean and deviation. Known to differ: JEDi takes
V-JEPA (ViT-H/16) of 2024, which transformers does not have, and V-JEPA 2 is another network, so that no
published JEDi is put beside a score; the resize is the caller's there, here antialiased, then a crop. No hash
of the network is published for this use: `--encoder-sha256` names yours.
"""

from configs.protocol import KernelProtocol

protocol = KernelProtocol(
    name="jedi-vjepa2",
    title="JEDi's distance",
    real=5000,
    fake=5000,
    stored_size=224,
    stored_kernel="bilinear",
    network="vjepa2",
    pixels="imagenet",
    pooling="attentive",
    degree=2,
    offset=0.0,
    unbiased=False,
    scale=100.0,
)
