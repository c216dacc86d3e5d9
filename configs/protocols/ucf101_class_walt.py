"""FVD on UCF-101 by class at 128 pixels in the line of W.A.L.T (Gupta et al. 2023): clips of 17 frames.

Its code is not public. Its tokenizer makes 17 frames; all else is as in `ucf101-class-magvit`, whose authors
it shares and beside whose values it puts its own. Not confirmed: that the real side is the training videos,
that there are 10,000 clips, and whether 16 or 17 frames were scored.
"""

from dataclasses import replace

from configs.protocols.ucf101_class_magvit import protocol as magvit

JOBS = ("ucf101-class-walt",)
protocol = replace(magvit, name="ucf101-class-walt", frames=17)
