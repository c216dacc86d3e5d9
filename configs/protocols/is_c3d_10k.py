"""Inception score on UCF-101 of 10,000 videos, in 10 splits after a shuffle.

C3D fine-tuned on UCF-101, as the code of TGANv2 (Saito et al. 2020) runs it: the first 16 frames of a video,
squashed to 112 x 112 without antialiasing. Papers say "10,000 samples" and leave the splits out: the same
probabilities give 2 % less in 10 splits than in one. Every score of this project gives the other variants
beside it. Known to differ: the resolution of the videos, which moves the score, is the user's.
"""

from configs.protocol import InceptionProtocol

JOBS = ("ucf101-zeroshot", "ucf101-zeroshot-13320")
protocol = InceptionProtocol(
    name="is-c3d-10k", fake=10000, start="first", size=112, kernel="bilinear-corners", splits=10, shuffle=42
)
