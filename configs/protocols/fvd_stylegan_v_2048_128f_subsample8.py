"""FVD of long videos as StyleGAN-V's `fvd2048_128f_subsample8f` computes it: every eighth of 128 frames.

Sixteen frames of both sides at a step of 8 (Skorokhodov et al. 2022); a video needs 128 frames, seven more
than its clip spans. All else, and what differs, is as in `fvd-stylegan-v-2048`.
"""

from dataclasses import replace

from configs.protocols.fvd_stylegan_v_2048 import protocol as short

protocol = replace(short, name="fvd-stylegan-v-2048-128f-subsample8", real_stride=8, fake_stride=8)
