"""FVD as StyleGAN-V's `fvd2048_16f`, of videos drawn evenly from the whole set: the sound one of the two.

All else is as in `fvd-stylegan-v-2048`, whose values, and that paper's, do not compare with these.
"""

from dataclasses import replace

from configs.protocols.fvd_stylegan_v_2048 import protocol as faithful

JOBS = ("ucf101-class",)
protocol = replace(faithful, name="fvd-stylegan-v-2048-uniform", videos="random")
