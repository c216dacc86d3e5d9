"""Which clips are trained on, and how large."""

from dataclasses import dataclass, field

from configs.ranges import CountOrZero, Frames, Rate, Side, Workers

SHAPES = "shapes"
DRAWN = {SHAPES: "train", "shapes-shrinking": "shrinks"}  # sources -> which scenes are drawn


@dataclass(frozen=True)
class ClipConfig:
    """Which clips are taken from videos, and how large."""

    frames: Frames = 17
    """Maximum frames of a clip, 1 + 4k; a shorter video gives the longest valid clip it has."""
    size: Side = 64
    """Side in pixels of the square whose area a clip has; its aspect ratio is kept, to multiples of 16."""
    fps: Rate = 8.0
    """Frames per second of a clip: the file's frames nearest in time, repeated where it has fewer."""
    clips_per_file: CountOrZero = 0
    """Evenly spaced clips taken from each file; 0 starts a clip at any frame. A cache needs at least 1."""
    held_out: str = ""
    """Files not trained on: a share, as 0.05, or a text file with a name a line; empty: a few by the seed."""
    group: str = ""
    """Regular expression of a file's source in its path; of one source all files are held out or none."""
    workers: Workers = 0
    """Processes that read videos ahead; 0 reads in the training process."""


@dataclass(frozen=True)
class DataConfig(ClipConfig):
    """Which clips are trained on, and how large."""

    source: str = field(default=SHAPES, kw_only=True)
    """`shapes` (the drawn world), `shapes-shrinking` (another motion), a manifest, or a cache of latents."""
    sources: tuple[str, ...] = field(default=(), kw_only=True)
    """Several of these, of which each draw is one, with weights: `videos=0.7 images=0.3`."""
