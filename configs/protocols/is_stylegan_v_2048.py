"""Inception score on UCF-101 as StyleGAN-V's `isv2048_ucf` computes it (Skorokhodov et al. 2022).

2,048 videos in 10 splits after numpy's shuffle with seed 42. Known to differ: its network is a TorchScript
port of TGANv2's, whose resize was not compared.
"""

from dataclasses import replace

from configs.protocols.is_c3d_10k import protocol as ten_thousand

JOBS = ("ucf101-class", "ucf101-zeroshot-2048")
protocol = replace(ten_thousand, name="is-stylegan-v-2048", fake=2048)
