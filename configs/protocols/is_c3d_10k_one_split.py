"""Inception score on UCF-101 of 10,000 videos in one split.

All else is as in `is-c3d-10k`; 1e-20 is added to every probability, as TGANv2's code does.
"""

from dataclasses import replace

from configs.protocols.is_c3d_10k import protocol as ten_splits

protocol = replace(ten_splits, name="is-c3d-10k-one-split", splits=1, shuffle=None, added=1e-20)
