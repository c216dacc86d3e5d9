"""Features of many clips: workers decode while the network computes, processes share the batches."""

import ctypes
import hashlib
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from configs.protocol import Protocol
from eval.clips import Clip, read_clip
from eval.preprocess import prepare
from vae.video import UnreadableVideo

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Features:
    """Features N x D (fp32) of the clips that could be read, their names, what could not be read and why, and
    a hash of the frames as they were decoded."""

    values_ND: Tensor
    names: tuple[str, ...]
    passed: dict[str, str]
    rgb: str


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
        with one_thread():
            made = self.make(frames)
        return index, made, zlib.crc32(frames.numpy().tobytes()), ""


@contextmanager
def one_thread() -> Iterator[None]:
    """As in a worker process: a resize shared by several threads differs in its last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def read_ahead(data: Prepared, workers: int, ahead: int) -> Iterator[tuple[int, Tensor | None, int, str]]:
    """The rows in their order, each of some worker processes preparing so many before they are asked for."""
    return iter(
        DataLoader(data, batch_size=None, num_workers=workers, prefetch_factor=ahead if workers else None)
    )


def gathered(rows: list) -> list:
    """The rows of all processes."""
    if not dist.is_initialized():
        return rows
    parts: list = [None] * dist.get_world_size()
    dist.all_gather_object(parts, rows)
    return [row for part in parts for row in part]


def processes() -> tuple[int, int]:
    """Rank and number of the processes that share the work; joins them where a launcher started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("gloo")
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def own_device() -> torch.device:
    """This process's GPU where there is one, with exact fp32 products; else the CPU."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else CPU


def rows_of(read: list, network: nn.Module) -> list[tuple[int, Tensor | None, int, str]]:
    """Index, features, checksum and what is wrong, of one batch of prepared clips."""
    good = [row for row in read if row[1] is not None]
    wrong = [(index, None, 0, why) for index, clip, _, why in read if clip is None]
    if not good:
        return wrong
    device = next(network.buffers()).device
    inputs = torch.stack([rearrange(row[1], "c t h w -> t h w c") for row in good]).to(device)
    values = network(rearrange(inputs, "b t h w c -> b c t h w")).float().cpu()
    return [(row[0], value, row[2], "") for row, value in zip(good, values, strict=True)] + wrong


def give_back() -> None:
    """Returns freed memory to the system, where the C library can: else its gaps grow with every batch."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim:
        trim(0)


@torch.no_grad()
def extract(
    clips: list[Clip], protocol: Protocol, network: nn.Module, batch: int, workers: int, what: str
) -> Features:
    """Features of clips by a network, on the device that it is on.

    Clip k is in batch k // `batch` whatever the number of processes and workers: neither changes a bit.
    """
    rank, ranks = processes()
    groups = [range(k, min(k + batch, len(clips))) for k in range(0, len(clips), batch)][rank::ranks]
    data = Prepared(
        clips, [index for group in groups for index in group], partial(prepare, protocol=protocol)
    )
    reading = read_ahead(data, workers, max(2, batch // max(1, workers)))
    rows = []
    with tqdm(total=len(data), desc=what, unit="clip", disable=rank > 0, file=sys.stderr) as bar:
        for group in groups:
            rows += rows_of([next(reading) for _ in group], network)
            give_back()
            bar.update(len(group))
    rows = sorted(gathered(rows), key=lambda row: row[0])
    kept = [row for row in rows if row[1] is not None]
    passed = {clips[row[0]].source.name: row[3] for row in rows if row[1] is None}
    if not kept:
        raise ValueError(f"{what}: no clip can be read: {next(iter(passed.values()), 'there is none')}")
    digest = hashlib.sha256("".join(f"{row[2]:08x}" for row in kept).encode()).hexdigest()
    names = tuple(clips[row[0]].source.name for row in kept)
    return Features(torch.stack([row[1] for row in kept]), names, passed, digest)
