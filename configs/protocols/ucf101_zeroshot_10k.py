"""FVD on UCF-101 of models that never saw it: 10,000 videos from the classes' prompts, 10,000 real ones.

Real videos are drawn evenly from all 13,320; each class is generated as often as any other. Text-to-video
papers compare under this name and agree on little else: prompts (class names, or sentences of their own),
which real videos, the resize and the I3D differ, and a published value was measured again as 689.6 where the
paper has 526.3 (Vchitect/LaVie, issue 65). Not confirmed, so that no published value compares with a score of
this protocol: what any of them did.
"""

from configs.protocol import FvdProtocol

JOBS = ("ucf101-zeroshot",)
protocol = FvdProtocol(
    name="ucf101-zeroshot-10k",
    data="ucf101",
    split="all",
    list_sha256="e6c0e5b7874711f3dd3d4b3da348ce3686b73d02d91942879f4b0f9cb2562b85",
    real=10000,
    fake=10000,
)
