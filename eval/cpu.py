"""What scoring asks of a CPU: one thread a clip, so that no count of threads moves a bit, and memory kept."""

import ctypes
import math
import mmap
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vae.data.clips import ignore_terminal_signals
from vae.data.video import UnreadableVideo
from vae.training.device import on_cpu
from vae.training.processes import gathered, processes
from vae.training.progress import progress

CPU = torch.device("cpu")
FORKS = sys.platform == "linux"  # whether worker processes are
RESERVE = 288 << 20  # bytes that a thread takes at most for a clip of I3D or C3D, with gaps
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of malloc.h


def single_threaded(make: Callable[[Tensor], Tensor], frames: Tensor) -> Tensor:
    """What `make` makes of frames with one thread, as in a worker process: shared by several, a resize
    differs in its last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return make(frames)
    finally:
        torch.set_num_threads(before)


def map_one_thread_each(compute: Callable, items: Iterable, device: torch.device) -> Iterator:
    """What `compute` makes of each item in order; on a CPU by as many threads as PyTorch has, an item each.

    Sums are added up in an order that depends on how many threads share them: of one each, a result is the
    same to the bit on any number of threads, workers and processes. It is also faster, as no thread waits for
    another that a worker has pushed aside.
    """
    if not on_cpu(device):
        yield from map(compute, items)
        return
    threads, waiting = torch.get_num_threads(), deque()
    torch.set_num_threads(1)  # for MKL all threads': what prepares a clip here meanwhile puts that back
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for item in items:
                waiting.append(pool.submit(compute, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        torch.set_num_threads(threads)


class CannotScore(ValueError):
    """What keeps one clip from a score, which passes it over."""


class Rows(Dataset):
    """Each of some indices with what `read` makes of it, or None and why it is unreadable."""

    def __init__(self, read: Callable[[int], object], indices: list[int]):
        self.read, self.indices = read, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, which: int) -> tuple:
        index = self.indices[which]
        try:
            return index, self.read(index), ""
        except (UnreadableVideo, CannotScore) as error:
            return index, None, str(error)


def map_over_processes(
    compute: Callable, read: Callable, count: int, workers: int, device: torch.device, what: str
) -> list[tuple]:
    """Index, what `compute` makes of it and of what `read` makes of it, and what kept it from that, of all.

    Processes share the indices, worker processes read, and a bar shows the progress of the first process.
    """

    def compute_row(row: tuple) -> tuple:
        index, value, wrong = row
        try:
            return index, None if wrong else compute(index, value), wrong
        except CannotScore as error:
            return index, None, str(error)

    rank, ranks = processes()
    rows = Rows(read, list(range(rank, count, ranks)))
    computed = map_one_thread_each(compute_row, read_ahead(rows, workers), device)
    bar = progress(computed, what, len(rows), unit="clip", disable=rank > 0)
    return sorted(gathered(list(bar)), key=lambda row: row[0])


def shared_memory(*shape: int) -> Tensor:
    """Memory (fp32) that this process and its workers share; where they are forks, not in /dev/shm, which
    containers keep small."""
    if not FORKS:
        return torch.zeros(shape).share_memory_()
    return torch.frombuffer(mmap.mmap(-1, 4 * math.prod(shape)), dtype=torch.float32).view(shape)


def read_ahead(data: Dataset, workers: int, ahead: int = 2) -> Iterator[tuple]:
    """The rows in their order, each of some worker processes preparing so many before they are asked for."""
    return iter(
        DataLoader(
            data,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=ahead if workers else None,
            multiprocessing_context="fork" if workers and FORKS else None,
            worker_init_fn=ignore_terminal_signals,
        )
    )


def keep_memory(threads: int) -> None:
    """Has the C library keep what is freed, where it can: a network asks for the same again, clip after clip.

    What all threads may need at once is taken at the start, so that no number of clips takes more.

    By default every large piece goes back to the system and comes anew, page by page, which takes up to a
    third of the time on a CPU; and the smaller ones leave gaps that grow with the number of clips.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)
        libc.mallopt(M_ARENA_MAX, 1)  # a thread's own memory could not hold such pieces
        reserve = [torch.full((RESERVE,), 1, dtype=torch.uint8) for _ in range(threads)]
        del reserve
