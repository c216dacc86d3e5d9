"""CMMD (Jayasumana et al. 2024) of videos' frames, one of each video: a distance of content without motion.

1,000 times the biased discrepancy by the Gaussian kernel of width 10 of unit embeddings of CLIP ViT-L/14 at
336 pixels: the middle of a frame by Pillow's bicubic, as the authors' code. Known to differ: theirs is of
pictures, 30,000 in the paper; here it is a frame at a random place of each of 2,048 videos a side. No hash
of the network as a folder of transformers is known here: `--encoder-sha256` names yours.
"""

from configs.protocol import KernelProtocol

protocol = KernelProtocol(
    name="cmmd-clip-frames",
    title="CMMD",
    real=2048,
    fake=2048,
    frames=1,
    stored_size=336,
    stored_order="crop-resize",
    stored_kernel="bicubic",
    size=336,
    network="clip-vision",
    pixels="clip",
    mmd_kernel="gaussian",
    unbiased=False,
    scale=1000.0,
)
