"""FVD on MSR-VTT's test split with every third frame of real videos: 2,048 clips a side.

As DynamiCrafter (Xing et al. 2023) counts, by what its authors answer (issues 6 and 10 of its code). Known to
differ: its videos continue a real first frame, and here they are made from a caption alone; outsiders measure
more than it has. Not confirmed: its frames' size and resize.
"""

from dataclasses import replace

from configs.protocols.msrvtt_2990 import fvd as one_caption

JOBS = ("msrvtt-stride3",)
protocol = replace(
    one_caption, name="msrvtt-2048-stride3", real=2048, fake=2048, real_stride=3, fake_start="first"
)
