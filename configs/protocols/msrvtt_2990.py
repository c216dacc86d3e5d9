"""CLIPSIM and FVD on MSR-VTT's test split, a caption a video: 2,990 generated videos, 2,990 real ones.

CLIPSIM (Wu et al. 2021, GODIVA) by CLIP ViT-B/32: mean over videos of the mean over all their frames of the
cosine of frame and caption, not scaled: not times 100, without CLIP's logit scale. Video LDM, Show-1,
ModelScope and VideoPoet draw a caption a video; their choices are not published, so ours is one of many.
FVD: a clip of 16 consecutive frames of every video, at a random place, squashed to 224 x 224. Known to
differ: papers take 2,048 or 2,990 real clips and steps of 1 to 3 frames and do not say which, so that no
published FVD compares with a score of this protocol.
"""

from configs.protocol import ClipsimProtocol, FvdProtocol

JOBS = ("msrvtt",)
fvd = FvdProtocol(
    name="msrvtt-2990",
    data="msrvtt",
    split="test",
    list_sha256="916e9b2dd9a4518131b76a1e9b4f47fd12847f50356ebd8413bcd555abe2bca8",
    real=2990,
    fake=2990,
)
clipsim = ClipsimProtocol(name="msrvtt-2990", fake=2990, start="first", frames=0)
