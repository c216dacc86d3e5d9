"""FVD on FaceForensics as Latte uses it (Ma et al. 2024): the training videos, every third frame, at 256.

Videos are those that StyleGAN-V's `preprocess_ffs` cuts out around a face: give these, since nothing here
finds faces. Real clips are of the split that the model was trained on, as a maintainer says (issue 103).
Known to differ: at most 2,048 real videos are drawn there, and here all count; the training split has fewer.
"""

from dataclasses import replace

from configs.protocols.fvd_latte_2048_stride3 import protocol as latte

protocol = replace(latte, name="faceforensics-latte", data="faceforensics", split="train", real=0)
