"""CLIPSIM on MSR-VTT's test split with every caption: 59,800 videos, as Make-A-Video counts (59,794 there).

All else is as in `clipsim-msrvtt-2990`.
"""

from dataclasses import replace

from configs.protocols.clipsim_msrvtt_2990 import protocol as one_caption

PUBLISHED = (("Make-A-Video", 0.3049, "as listed in comparisons, 59,794 captions"),)
protocol = replace(one_caption, name="clipsim-msrvtt-all-captions", fake=59800)
