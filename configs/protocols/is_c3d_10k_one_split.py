"""Inception score on UCF-101 of 10,000 videos in one split.

All else is as in `is-c3d-10k`; 1e-20 is added to every probability, as TGANv2's code does. MAGVIT's has one
split too, adds nothing, and averages four sets of 10,000 (commit e05ced7).
"""

from dataclasses import replace

from configs.protocols.is_c3d_10k import protocol as ten_splits

JOBS = ("ucf101-class-magvit", "ucf101-class-walt")
protocol = replace(ten_splits, name="is-c3d-10k-one-split", splits=1, shuffle=None, added=1e-20)
