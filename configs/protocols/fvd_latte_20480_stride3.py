"""FVD as Latte's first evaluation code computes it (Ma et al. 2024, commit 03d2bda): 20,480 clips a side.

No data set of that paper has 20,480 videos, so that every real video counts, once. Its metric has the name
`fvd2048_16f` all the same, and other values than that of `fvd-latte-2048-stride3`, which all else is as in.
Known to differ: fewer generated videos are all scored there, and refused here. Not confirmed: which of the
two commits computed the values of the paper.
"""

from dataclasses import replace

from configs.protocols.fvd_latte_2048_stride3 import protocol as later

protocol = replace(later, name="fvd-latte-20480-stride3", real=0, fake=20480)
