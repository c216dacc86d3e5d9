"""SSIM, PSNR, LPIPS and FVD as DisCo's code computes them (Wang et al. 2023), its errors included.

For its tables alone (`tool/metrics`, commit 4772790; issue 86; also magic-animate 146, champ 8, MagicDance
20): squared differences of bytes wrap in its PSNR, so that unrelated pictures score 27.9 dB, and LPIPS is
given frames in [0, 1]. All else is as in `pose-quadruple`, the right one. FVD's batch norm has an eps of
1e-5. Known to differ: FVD's clips pass GIFs of 256 colours and Pillow's bicubic resize there, and the last
one of each video is left out.
"""

from dataclasses import replace

from configs.protocols import pose_quadruple

reconstruction = replace(
    pose_quadruple.reconstruction, name="pose-quadruple-disco", psnr="wrapped_psnr", lpips="unit_lpips"
)
fvd = replace(pose_quadruple.fvd, name="pose-quadruple-disco", eps=1e-5)
