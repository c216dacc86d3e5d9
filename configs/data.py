"""Which clips are trained on, and how large."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataConfig:
    """Which clips are trained on, and how large."""

    source: str = "shapes"
    """`shapes` (the drawn world), a manifest or its folder (`dit data index`), a cache (`dit vae encode`)."""
    frames: int = 17
    """Most frames of a clip, 1 + 4k; a shorter video gives the longest valid clip it has."""
    size: int = 64
    """Side in pixels of the square whose area a clip has; its aspect ratio is kept, to multiples of 16."""
    fps: float = 8.0
    """Frames a second that a clip of a file has: those nearest in time, repeated where the file has fewer."""
    clips_per_file: int = 0
    """Evenly spaced starts of clips in a file; 0 starts them anywhere. A cache has at least 1."""
    workers: int = 0
    """Processes that read videos ahead; 0 reads in the training process."""
