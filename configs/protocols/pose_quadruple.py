"""SSIM, PSNR, LPIPS and FVD of videos made from a picture and poses, beside the real ones, computed rightly.

The four columns of DisCo (Wang et al. 2023), Animate Anyone and those after them, on their test videos:
TikTok's dances, UBC's fashion. SSIM is scikit-image's default on grey; LPIPS has VGG's trunk; all three are
means over the frames of all videos. FVD is of all clips of 16 frames of all videos, which overlap, so that
its interval draws whole videos. Known to differ from those tables: PSNR and the range that LPIPS is given are
right here, and wrong in `pose-quadruple-disco`, which has their errors. Not confirmed: frames' size, and
which papers use which code.
"""

from configs.protocol import FvdProtocol, ReconstructionProtocol

reconstruction = ReconstructionProtocol(
    name="pose-quadruple", ssim="ssim_grey_uniform", trunk="vgg", mean="frames"
)
fvd = FvdProtocol(name="pose-quadruple", real=0, fake=0, videos="windows")
