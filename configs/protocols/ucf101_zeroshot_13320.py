"""FVD on UCF-101 of models that never saw it: 13,320 videos, as many of each class as there are real ones.

As Stable Video Diffusion is said to count (Blattmann et al. 2023; not confirmed). Every real video gives a
clip. All else, and why no published value compares, is as in `ucf101-zeroshot-10k`.
"""

from dataclasses import replace

from configs.protocols.ucf101_zeroshot_10k import protocol as ten_thousand

JOBS = ("ucf101-zeroshot-13320",)
protocol = replace(ten_thousand, name="ucf101-zeroshot-13320", real=13320, fake=13320)
