"""Shards: safetensors files of rows under keys of their content; headers say what the rows are."""

import hashlib
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import TypedDict

from configs.load import from_json, parse_json
from vae.training.files import naming
from vae.training.weights import Header, read_header, save_weights, tensors_hash

FORMAT = 3  # of shards and keys; another one makes every row anew
LATENTS, TEXTS = "latents", "texts"  # the two kinds of shards
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, slots=True)
class Location:
    """Where a row lies: the name of its shard, its first byte there, its shape, and its parts' checksums."""

    shard: str
    offset: int
    shape: tuple[int, ...]
    crc32: tuple[int, ...]


class Checksums(TypedDict):
    """The fact of a shard's header that every reader takes."""

    crc32: dict[str, list[int]]


def key_of(**content) -> str:
    """SHA-256 of everything that a row depends on, the code's format among it."""
    text = json.dumps(content | {"format": FORMAT}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_shard(folder: Path, kind: str, rows: Mapping[str, tuple[Tensor, dict]], about: dict) -> Path:
    """Writes rows, each a tensor and what it is, under their keys; whole or not at all, named by the keys."""
    tensors = {key: tensor for key, (tensor, _) in rows.items()}
    facts = {"rows": {key: what for key, (_, what) in rows.items()}, "sha256": tensors_hash(tensors)}
    facts["crc32"] = {key: _checksums(kind, tensor) for key, tensor in tensors.items()}
    file = folder / shard_name(kind, rows)
    save_weights(file, tensors, kind, about | {"format": FORMAT}, facts)
    return file


def _checksums(kind: str, row: Tensor) -> list[int]:
    """CRC-32 of the bytes of a row; of latents one of the means and one of the log-variances."""
    parts = row.unbind() if kind == LATENTS else [row]
    return [zlib.crc32(part.contiguous().view(-1).view(torch.uint8).numpy()) for part in parts]


def shard_name(kind: str, keys: Mapping | set) -> str:
    """The name of the shard that holds these keys."""
    return f"{kind}-{key_of(keys=sorted(keys))[:24]}.safetensors"


def shard_files(folder: Path, kind: str = "*") -> list[Path]:
    """The shards of a folder, by their names."""
    return sorted(folder.glob(f"{kind}-{'[0-9a-f]' * 24}.safetensors"))


def read_locations(file: Path) -> tuple[dict[str, Location], Header]:
    """Where every row of a shard lies, and the shard's header; raises ValueError for one that is not whole.

    A safetensors file is eight bytes with the length of its table, the table as JSON, and the tensors.
    """
    header = read_header(file, LATENTS, TEXTS)
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        table = parse_json(opened.read(length), file)
    locations, checksums = {}, from_json(Checksums, header.facts, f"{file}, facts in its header")["crc32"]
    with naming(file):
        for key in table.keys() - {"__metadata__"}:
            offset, shape = 8 + length + table[key]["data_offsets"][0], tuple(table[key]["shape"])
            locations[key] = Location(file.name, offset, shape, tuple(checksums[key]))
    return locations, header


def find_rows(folder: Path, kind: str) -> tuple[dict[str, Location], list[Path]]:
    """Where every row of a folder's shards of one kind lies, and the shards that are damaged."""
    locations, damaged = {}, []
    for file in shard_files(folder, kind):
        try:
            locations |= read_locations(file)[0]
        except ValueError:
            damaged.append(file)
    return locations, damaged


def stale_shards(folder: Path, used: set[str]) -> list[Path]:
    """The shards of a folder that hold nothing of what is used, or are damaged."""
    locations = {kind: find_rows(folder, kind) for kind in (LATENTS, TEXTS)}
    full = {location.shard for rows, _ in locations.values() for key, location in rows.items() if key in used}
    return [file for file in shard_files(folder) if file.name not in full]


def read_row(folder: Path, location: Location, dtype: torch.dtype, first: int | None = None) -> Tensor:
    """A row, or its `first` parts, as fp32; raises ValueError where it is cut, or not as it was written.

    It is read and not mapped: nothing stays open, and memory does not grow with what was read.
    """
    shape = location.shape if first is None else (first, *location.shape[1:])
    buffer, checksums = bytearray(math.prod(shape) * dtype.itemsize), location.crc32[:first]
    with open(folder / location.shard, "rb") as file:
        file.seek(location.offset)
        if (count := file.readinto(buffer)) != len(buffer):
            raise ValueError(f"{folder / location.shard} ends {len(buffer) - count} bytes too early")
    size = math.prod(shape[1:] if location.shard.startswith(LATENTS) else shape) * dtype.itemsize
    for checksum, first_byte in zip(checksums, range(0, len(buffer), size), strict=True):
        if zlib.crc32(memoryview(buffer)[first_byte : first_byte + size]) != checksum:
            raise ValueError(f"{folder / location.shard} has changed since it was written")
    return torch.frombuffer(buffer, dtype=dtype).view(shape).float()
