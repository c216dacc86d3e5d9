"""FVD on UCF-101 of models that never saw it: 2,048 videos in the real classes' proportions, 2,048 real ones.

The number that many text-to-video papers take; not confirmed is whether their prompts follow the classes'
proportions. Its bias is about five times that of 10,000 clips. All else, and why no published value compares,
is as in `ucf101-zeroshot-10k`.
"""

from dataclasses import replace

from configs.protocols.ucf101_zeroshot_10k import protocol as ten_thousand

JOBS = ("ucf101-zeroshot-2048",)
protocol = replace(ten_thousand, name="ucf101-zeroshot-2048", real=2048, fake=2048)
