"""FVD as StyleGAN-V's `fvd2048_16f`, of videos drawn evenly from the whole set: the sound one of the two.

Its values do not compare with those of `fvd-stylegan-v-2048`, nor with that paper's.
"""

from dataclasses import replace

from configs.protocols.fvd_stylegan_v_2048 import protocol as faithful

JOBS = ("ucf101-class",)
protocol = replace(faithful, name="fvd-stylegan-v-2048-uniform", videos="random")
