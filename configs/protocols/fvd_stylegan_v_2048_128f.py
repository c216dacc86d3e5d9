"""FVD of long videos as StyleGAN-V's `fvd2048_128f` computes it (Skorokhodov et al. 2022): 128 frames.

I3D's logits are averaged over the whole clip. All else, and what differs, is as in `fvd-stylegan-v-2048`, the
first 2,048 videos included; videos of fewer than 128 frames are passed over, which few of UCF-101 survive.
"""

from dataclasses import replace

from configs.protocols.fvd_stylegan_v_2048 import protocol as short

protocol = replace(short, name="fvd-stylegan-v-2048-128f", frames=128)
