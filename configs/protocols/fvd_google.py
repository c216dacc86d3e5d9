"""FVD as its authors computed it (Unterthiner et al. 2018; frechet_video_distance of google-research).

Frames of any size are squashed to 224 by TensorFlow 1's bilinear resize, without half-pixel centres. The data
set is the caller's. Not confirmed: N, which is not part of that code; 2,048 is what papers use.
"""

from configs.protocol import FvdProtocol

protocol = FvdProtocol(name="fvd-google", real=2048, fake=2048, kernel="bilinear-tf1")
