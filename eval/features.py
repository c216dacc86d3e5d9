"""Features of many clips: workers decode while the network computes, processes share the batches."""

import hashlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn

from configs.protocol import FeatureProtocol
from eval.clips import Clip, read_clip
from eval.cpu import Rows, keep_memory, map_one_thread_each, read_ahead, shared_memory, single_threaded
from eval.preprocess import prepare
from vae.training.device import on_cpu
from vae.training.processes import gathered, processes
from vae.training.progress import progress


@dataclass(frozen=True)
class Features:
    """Features N x D (fp32) of the clips that could be read, their names, what could not be read and why, and
    a hash of the frames as they were decoded."""

    values_ND: Tensor
    names: tuple[str, ...]
    passed: dict[str, str]
    rgb: str


def checksum(frames_THWC: Tensor) -> int:
    """CRC-32 of a clip's frames of bytes, as they were decoded."""
    return zlib.crc32(frames_THWC.contiguous().numpy())


def rgb_hash(checksums: list[int]) -> str:
    """SHA-256 of one side's frames, by its clips' checksums in whatever order."""
    return hashlib.sha256("".join(f"{value:08x}" for value in sorted(checksums)).encode()).hexdigest()


def read_prepared(clips: list[Clip], make: Callable[[Tensor], Tensor], index: int) -> tuple[Tensor, int]:
    """What `make` makes of a clip's frames, and their checksum; raises UnreadableVideo."""
    frames = read_clip(clips[index])
    return single_threaded(make, frames), checksum(frames)


class Placed(Rows):
    """Checksums of clips alone; each clip is written to its place among slots of shared memory, in turn.

    Nothing is allocated, sent or stacked: so many clips in a row are the network's input as they lie.
    """

    def __init__(self, read: Callable[[int], tuple[Tensor, int]], indices: list[int], slots: Tensor):
        super().__init__(read, indices)
        self.slots_NTHWC = slots

    def __getitem__(self, which: int) -> tuple[int, int | None, str]:
        index, row, wrong = super().__getitem__(which)
        if row is None:
            return index, None, wrong
        clip, crc = row
        self.slots_NTHWC[which % len(self.slots_NTHWC)] = rearrange(clip, "c t h w -> t h w c")
        return index, crc, ""


def extract(
    clips: list[Clip], protocol: FeatureProtocol, network: nn.Module, batch: int, workers: int, what: str
) -> Features:
    """Features of clips by a network, on the device that it is on.

    A clip's features are the same to the bit for any number of workers and processes, and on a CPU, where
    every clip is computed alone, for any batch.
    """
    rank, ranks = processes()
    device = next(network.buffers()).device
    size = 1 if on_cpu(device) else batch
    groups = [range(k, min(k + size, len(clips))) for k in range(0, len(clips), size)][rank::ranks]
    if on_cpu(device):
        keep_memory(min(torch.get_num_threads(), len(groups)))
    ahead = max(2, batch // max(1, workers))
    in_use = 2 + (torch.get_num_threads() if on_cpu(device) else 0)  # groups
    slots = size * (in_use + -(-max(1, workers) * ahead // size))
    place = shared_memory(slots, protocol.frames, protocol.size, protocol.size, 3)
    own = [index for group in groups for index in group]
    read = partial(read_prepared, clips, partial(prepare, protocol=protocol))
    reading = read_ahead(Placed(read, own, place), workers, ahead)

    def batches() -> Iterator[tuple[list, Tensor]]:
        for number, group in enumerate(groups):
            first = number * size % slots
            yield [next(reading) for _ in group], place[first : first + size]

    @torch.no_grad()
    def compute(batch: tuple[list, Tensor]) -> list[tuple[int, Tensor | None, int | None, str]]:
        placed, clips_BTHWC = batch
        values = network(rearrange(clips_BTHWC.to(device), "b t h w c -> b c t h w")).float().cpu()
        rows = []
        for (index, crc, wrong), value in zip(placed, values, strict=False):
            if not wrong and not torch.isfinite(value).all():
                wrong = f"{clips[index].source.path}: the network gives NaN or infinite values"
            rows.append((index, None if wrong else value.clone(), crc, wrong))
        return rows

    rows = []
    with progress(total=len(own), desc=what, unit="clip", disable=rank > 0) as bar:
        for computed in map_one_thread_each(compute, batches(), device):
            rows += computed
            bar.update(len(computed))
    rows = sorted(gathered(rows), key=lambda row: row[0])
    kept = [row for row in rows if row[1] is not None]
    passed = {clips[row[0]].source.name: row[3] for row in rows if row[1] is None}
    if not kept:
        raise ValueError(f"{what}: no clip can be read: {next(iter(passed.values()), 'there is none')}")
    names = tuple(clips[row[0]].source.name for row in kept)
    return Features(torch.stack([row[1] for row in kept]), names, passed, rgb_hash([row[2] for row in kept]))
