"""Inception score on UCF-101 as TGANv2 reports it (Saito et al. 2020): ten independent sets of 2,048 videos.

The score is the mean of the sets', its deviation that of the sets'. Known to differ: here they are ten splits
of 20,480 videos, which are shuffled since names may follow classes; there every set is drawn anew.
"""

from dataclasses import replace

from configs.protocols.is_c3d_10k import protocol as ten_thousand

protocol = replace(ten_thousand, name="is-tgan2-2048x10", fake=20480, added=1e-20)
