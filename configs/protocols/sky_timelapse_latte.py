"""FVD on Sky Time-lapse as Latte uses it (Ma et al. 2024): the training videos, every third frame, at 256.

The data set is MD-GAN's (Xiong et al. 2018), `sky_train`, a folder of frames for each clip. Real clips are of
the split that the model was trained on, as a maintainer says (issue 103). Known to differ: at most 2,048 real
videos are drawn there, and here all of 48 frames or more count. Not confirmed: how the paper's 59.82 was made
(issues 65 and 80 have 50 to 234).
"""

from dataclasses import replace

from configs.protocols.fvd_latte_2048_stride3 import protocol as latte

protocol = replace(latte, name="sky-timelapse-latte", data="sky-timelapse", split="train", real=0)
