"""CLIPSIM on MSR-VTT's test split, a caption a video: 2,990 videos, CLIP ViT-B/32 (Wu et al. 2021, GODIVA).

Mean over videos of the mean over all their frames of the cosine of frame and caption, not scaled: not times
100, without CLIP's logit scale. Video LDM, Show-1, ModelScope and VideoPoet draw a caption a video; their
choices are not published.
"""

from configs.protocol import Protocol

PUBLISHED = (
    ("Video LDM", 0.2929, "as listed in comparisons, captions not published"),
    ("VideoPoet, pretrained", 0.3049, "as listed in comparisons, captions not published"),
)
protocol = Protocol(
    name="clipsim-msrvtt-2990",
    metric="clipsim",
    data="msrvtt",
    real=0,
    fake=2990,
    start="first",
    frames=0,
    fit="crop",
    kernel="bicubic-pillow",
    network="clip-vit-base-patch32",
    layer="projected image and text embeddings",
)
