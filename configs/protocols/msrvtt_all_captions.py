"""CLIPSIM and FVD on MSR-VTT's test split with every caption: 59,800 generated videos, 2,990 real ones.

As Make-A-Video counts (59,794 captions there). All else is as in `msrvtt-2990`.
"""

from dataclasses import replace

from configs.protocols import msrvtt_2990

JOBS = ("msrvtt-all-captions",)
fvd, clipsim = (
    replace(one_caption, name="msrvtt-all-captions", fake=59800)
    for one_caption in (msrvtt_2990.fvd, msrvtt_2990.clipsim)
)
