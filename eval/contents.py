"""What a video is, wherever it lies: the hash of its content, read once, by threads."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from vae.training.files import file_hash
from vae.training.processes import processes
from vae.training.progress import progress


def content_hashes(videos: Sequence[tuple[Path, ...]]) -> list[str]:
    """SHA-256 of every video's content: of its file's bytes, or of its frames' hashes in their order.

    No name or place is in it. A file that is as it was, by size and time, is not read again.
    """
    states = [tuple((file.stat().st_size, file.stat().st_mtime_ns) for file in files) for files in videos]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        hashes = pool.map(_content_hash, videos, states)
        about = {"desc": "hashing", "total": len(videos), "unit": "video", "delay": 2, "leave": False}
        return list(progress(hashes, disable=processes()[0] > 0, **about))


@lru_cache(maxsize=1 << 17)
def _content_hash(files: tuple[Path, ...], states: tuple[tuple[int, int], ...]) -> str:
    """The content's hash of files in one state of their bytes."""
    if len(files) == 1:
        return file_hash(files[0])
    return hashlib.sha256("".join(map(file_hash, files)).encode()).hexdigest()
