"""Features of many clips: workers decode while the network computes, processes share the batches."""

import ctypes
import hashlib
import math
import mmap
import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from configs.protocol import Protocol
from eval.clips import Clip, read_clip
from eval.preprocess import prepare
from vae.data.video import UnreadableVideo
from vae.training.processes import gathered, processes

CPU = torch.device("cpu")
FORKS = sys.platform == "linux"  # whether workers are
RESERVE = 288 << 20  # bytes that a thread takes at most for a clip of I3D or C3D, with gaps
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of malloc.h


@dataclass(frozen=True)
class Features:
    """Features N x D (fp32) of the clips that could be read, their names, what could not be read and why, and
    a hash of the frames as they were decoded."""

    values_ND: Tensor
    names: tuple[str, ...]
    passed: dict[str, str]
    rgb: str


def alone(make: Callable[[Tensor], Tensor], frames: Tensor) -> Tensor:
    """What `make` makes of frames with one thread, as in a worker process: shared by several, a resize
    differs in its last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return make(frames)
    finally:
        torch.set_num_threads(before)


class Prepared(Dataset):
    """The clips of one process, read and prepared: index, clip or None, checksum, what is wrong."""

    def __init__(self, clips: list[Clip], indices: list[int], make: Callable[[Tensor], Tensor]):
        self.clips, self.indices, self.make = clips, indices, make

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, which: int) -> tuple[int, Tensor | None, int, str]:
        index = self.indices[which]
        try:
            frames = read_clip(self.clips[index])
        except UnreadableVideo as error:
            return index, None, 0, str(error)
        return index, alone(self.make, frames), zlib.crc32(frames.contiguous().numpy()), ""


class Placed(Prepared):
    """The same, but each clip is written to its place among slots of shared memory, in turn.

    Nothing is allocated, sent or stacked: so many clips in a row are the network's input as they lie.
    """

    def __init__(
        self, clips: list[Clip], indices: list[int], make: Callable[[Tensor], Tensor], slots: Tensor
    ):
        super().__init__(clips, indices, make)
        self.slots_NTHWC = slots

    def __getitem__(self, which: int) -> tuple[int, bool, int, str]:
        index, clip, checksum, wrong = super().__getitem__(which)
        if clip is not None:
            self.slots_NTHWC[which % len(self.slots_NTHWC)] = rearrange(clip, "c t h w -> t h w c")
        return index, clip is not None, checksum, wrong


def in_order(compute: Callable, items: Iterable, device: torch.device) -> Iterator:
    """What `compute` makes of each item; on a CPU by as many threads as PyTorch has, each alone with one.

    Sums are added up in an order that depends on how many threads share them: of one each, a result is the
    same to the bit on any number of threads, workers and processes. It is also faster, as no thread waits for
    another that a worker has pushed aside.
    """
    if device.type != "cpu":
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


def read_ahead(data: Prepared, workers: int, ahead: int) -> Iterator[tuple[int, Tensor | None, int, str]]:
    """The rows in their order, each of some worker processes preparing so many before they are asked for."""
    return iter(
        DataLoader(
            data,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=ahead if workers else None,
            multiprocessing_context="fork" if workers and FORKS else None,
        )
    )


def shared(*shape: int) -> Tensor:
    """Memory (fp32) that this process and its workers share; where they are forks, not in /dev/shm, which
    containers keep small."""
    if not FORKS:
        return torch.zeros(shape).share_memory_()
    return torch.frombuffer(mmap.mmap(-1, 4 * math.prod(shape)), dtype=torch.float32).view(shape)


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


def mapped(
    compute: Callable, data: Dataset, workers: int, device: torch.device, what: str, unit: str
) -> list[tuple]:
    """The rows that `compute` makes of what processes share of a data set, all of them, by their first
    number; worker processes read, and a bar shows the progress of the first process."""
    reading = DataLoader(data, batch_size=None, num_workers=workers)
    made = in_order(compute, reading, device)
    bar = tqdm(made, what, len(data), unit=unit, disable=processes()[0] > 0, file=sys.stderr)
    return sorted(gathered(list(bar)), key=lambda row: row[0])


def extract(
    clips: list[Clip], protocol: Protocol, network: nn.Module, batch: int, workers: int, what: str
) -> Features:
    """Features of clips by a network, on the device that it is on.

    A clip's features are the same to the bit for any number of workers and processes, and on a CPU, where
    every clip is computed alone, for any batch.
    """
    rank, ranks = processes()
    device = next(network.buffers()).device
    size = 1 if device.type == "cpu" else batch
    groups = [range(k, min(k + size, len(clips))) for k in range(0, len(clips), size)][rank::ranks]
    if device.type == "cpu":
        keep_memory(min(torch.get_num_threads(), len(groups)))
    ahead = max(2, batch // max(1, workers))
    in_use = 2 + (torch.get_num_threads() if device.type == "cpu" else 0)  # groups
    slots = size * (in_use + -(-max(1, workers) * ahead // size))
    place = shared(slots, protocol.frames, protocol.size, protocol.size, 3)
    own = [index for group in groups for index in group]
    reading = read_ahead(Placed(clips, own, partial(prepare, protocol=protocol), place), workers, ahead)

    def batches() -> Iterator[tuple[list, Tensor]]:
        for number, group in enumerate(groups):
            first = number * size % slots
            yield [next(reading) for _ in group], place[first : first + size]

    @torch.no_grad()
    def compute(batch: tuple[list, Tensor]) -> list[tuple[int, Tensor | None, int, str]]:
        read, clips_BTHWC = batch
        values = network(rearrange(clips_BTHWC.to(device), "b t h w c -> b c t h w")).float().cpu()
        made = []
        for (index, good, checksum, wrong), value in zip(read, values, strict=False):
            if good and not torch.isfinite(value).all():
                good, wrong = (
                    False,
                    f"{clips[index].source.path}: the network gives NaN or infinite values",
                )
            made.append((index, value.clone() if good else None, checksum, wrong))
        return made

    rows = []
    with tqdm(total=len(own), desc=what, unit="clip", disable=rank > 0, file=sys.stderr) as bar:
        for made in in_order(compute, batches(), device):
            rows += made
            bar.update(len(made))
    rows = sorted(gathered(rows), key=lambda row: row[0])
    kept = [row for row in rows if row[1] is not None]
    passed = {clips[row[0]].source.name: row[3] for row in rows if row[1] is None}
    if not kept:
        raise ValueError(f"{what}: no clip can be read: {next(iter(passed.values()), 'there is none')}")
    digest = hashlib.sha256("".join(f"{row[2]:08x}" for row in kept).encode()).hexdigest()
    names = tuple(clips[row[0]].source.name for row in kept)
    return Features(torch.stack([row[1] for row in kept]), names, passed, digest)
