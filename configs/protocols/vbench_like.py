"""Dimensions of VBench (Huang et al. 2024), so far as they need no network that only VBench's code loads.

Every frame of every video, of any prompts. `temporal_flickering` is VBench's arithmetic, which it does on its
static scenes alone, 25 videos a prompt, without those that RAFT sees move. `dynamic_degree` and
`motion_smoothness` have VBench's rules on another flow (Bruhn et al. 2005, no weights, in place of RAFT) and
on frames interpolated along it (in place of AMT), of at most 256 pixels: NOT comparable with VBench's
leaderboard. `subject_consistency` (DINO), `background_consistency` (CLIP ViT-B/32) and `aesthetic_quality`
(LAION's head on CLIP ViT-L/14) preprocess as VBench and run in fp32, where VBench runs CLIP in fp16 on a GPU;
means are over videos, where VBench's of both consistencies are over frames. Left out: `imaging_quality`
(MUSIQ), `overall_consistency` (ViCLIP), and all that detects or captions.
"""

from dataclasses import dataclass

from configs.protocol import ClipChoice, Protocol

JOBS = (
    *("ucf101-zeroshot", "ucf101-zeroshot-13320", "ucf101-zeroshot-2048"),
    *("ucf101-class", "ucf101-class-tats", "ucf101-class-magvit", "ucf101-class-walt"),
    *("msrvtt", "msrvtt-stride3", "msrvtt-all-captions"),
)


@dataclass(frozen=True, kw_only=True)
class DimensionsProtocol(ClipChoice, Protocol):
    """Dimensions of a video's quality, each a number of its own: their means over videos."""

    metric: str = "dimensions"
    """What is computed."""
    dimensions: tuple[str, ...]
    """What is measured, by VBench's names."""
    side: int
    """Shorter side, in pixels, to which larger frames are averaged before flow is measured in them."""
    flow: str
    """How flow is measured: combined local-global (Bruhn et al. 2005), at the moment between two frames."""
    rate: float
    """Frames per second in which motion is looked for; of more, every other frame or fewer is looked at."""
    fastest: float
    """Share of the pixels, the fastest ones, whose mean speed is the frame's."""
    moves: float
    """Speed above which a frame moves, in pixels of frames of the size `moves_side`, from frame to frame."""
    moves_side: int
    """Shorter side of the frames that `moves` is said of."""
    moving: float
    """Share of the frames that move in a video that moves."""


protocol = DimensionsProtocol(
    name="vbench-like",
    fake=0,
    videos="first",
    start="first",
    frames=0,
    dimensions=(
        "temporal_flickering",
        "dynamic_degree",
        "motion_smoothness",
        "subject_consistency",
        "background_consistency",
        "aesthetic_quality",
    ),
    side=256,
    flow="combined-local-global",
    rate=8.0,
    fastest=0.05,
    moves=6.0,
    moves_side=256,
    moving=0.25,
)
