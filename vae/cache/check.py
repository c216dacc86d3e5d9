"""`dit data check CACHE`: verifies every shard of a latent cache, and that its index fits them."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from annotated_types import Len
from safetensors.torch import load_file
from torch import Tensor
from typing_extensions import TypedDict

from configs.load import Positional, from_json, parse
from configs.ranges import Count, Side
from vae.cache.encoding import clip_key, text_key
from vae.cache.index import EncoderFacts, locations_in, read_index
from vae.cache.shards import DTYPES, LATENTS, TEXTS, Location, read_locations, shard_files, shard_name
from vae.compression import Compression
from vae.training.files import TEMPORARY, naming
from vae.training.progress import progress
from vae.training.weights import Header, tensors_hash


@dataclass(frozen=True)
class CheckSettings:
    """Verify every shard of a latent cache, byte for byte, and that its index fits them."""

    cache: Positional[str] = ""
    """Folder of the cache."""


class Clip(TypedDict):
    """What a clip is."""

    file: str
    frames: tuple[int, ...] | int
    size: tuple[Side, Side]


class Caption(TypedDict):
    """What a caption is."""

    text: str


class Latents(TypedDict):
    """The facts of a shard of clips."""

    rows: dict[str, Clip]
    sha256: str


class Texts(TypedDict):
    """The facts of a shard of captions."""

    rows: dict[str, Caption]
    sha256: str


class LatentsMade(TypedDict):
    """What a shard of clips was made with."""

    autoencoder: str
    dtype: Literal["fp16", "bf16", "fp32"]
    compression: Annotated[tuple[Count, ...], Len(2, 3)]


class TextsMade(EncoderFacts):
    """What a shard of captions was made with."""

    dtype: Literal["fp16", "bf16", "fp32"]


PARTS = {LATENTS: (LatentsMade, Latents), TEXTS: (TextsMade, Texts)}  # of a shard's header
MEND = "delete it, and give the `dit vae encode` command again"
AGAIN = "give the `dit vae encode` command again"


def check(settings: CheckSettings) -> None:
    """Names what is wrong with a cache, a line each, then raises ValueError; or says that nothing is."""
    if not settings.cache:
        raise ValueError("give a cache, `dit data check CACHE`")
    in_index, about, folder = read_index(settings.cache)
    files, rows, problems = shard_files(folder), {}, []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for names, wrong in progress(pool.map(_check_shard, files), "shards", len(files), unit="shard"):
            rows |= names
            problems += wrong
    problems += _wrong_in_index(in_index, about, rows, folder)
    left = (path for path in sorted(folder.iterdir()) if TEMPORARY.fullmatch(path.name))
    problems += [f"{path} is half-written: its `dit vae encode` command removes it" for path in left]
    for line in problems:
        print(f"wrong: {line}", file=sys.stderr)
    unused = sorted({location.shard for location in rows} - set(about["shards"]))
    if unused:
        advice = "give its `dit vae encode` command again with --prune to remove them"
        print(f"note: {len(unused)} shards hold nothing that the index lists: {advice}", file=sys.stderr)
    if problems:
        count = "1 thing is" if len(problems) == 1 else f"{len(problems)} things are"
        raise ValueError(f"{folder}: {count} wrong, each in a line above with what to do")
    clips = sum(location.shard.startswith(LATENTS) for location in rows)
    print(f"{folder}: sound; {len(files)} shards, {clips} clips, {len(rows) - clips} captions")


def _check_shard(file: Path) -> tuple[dict[Location, tuple[str, str]], list[str]]:
    """What an index may call each row of a shard, key or caption, by location; and what is wrong there."""
    try:
        locations, header = read_locations(file)
        with naming(file):
            tensors = load_file(file)
        settings, facts = PARTS[header.kind]
        header = Header(
            header.kind, from_json(settings, header.settings, file), from_json(facts, header.facts, file)
        )
        what, digest = header.facts["rows"], header.facts["sha256"]
    except (ValueError, OSError) as error:
        return {}, [f"{file} cannot be read ({error}): {MEND}"]
    if locations.keys() != what.keys() or file.name != shard_name(header.kind, locations):
        return {}, [f"{file} holds other rows than its name and header say: {MEND}"]
    names = {location: (key, what[key].get("text", key)) for key, location in locations.items()}
    if tensors_hash(tensors) != digest:
        return names, [f"{file} has changed since it was written: {MEND}"]
    wrong = [
        f"{file}: row {key[:12]} {fault}: {MEND}"
        for key, tensor in tensors.items()
        for fault in _faults(key, tensor, what[key], header)
    ]
    return names, wrong


def _faults(key: str, row: Tensor, what: dict, header: Header) -> Iterator[str]:
    """What is wrong with a row, by what its shard's header says that it is."""
    about = header.settings
    if header.kind == LATENTS:
        frames = what["frames"] if isinstance(what["frames"], int) else len(what["frames"])
        try:
            size = Compression(*about["compression"]).latent_size(frames, *what["size"])
        except ValueError as error:
            yield f"is of a clip that has no latents ({error})"
            return
        fits = row.ndim == 5 and len(row) == 2 and tuple(row.shape[2:]) == tuple(size)
        expected = clip_key(what, about["autoencoder"], about["dtype"])
    else:
        fits = row.ndim == 2
        expected = text_key(what["text"], about)
    if not fits or row.dtype != DTYPES[about["dtype"]]:
        yield f"is {tuple(row.shape)} in {row.dtype}, which it cannot be"
    if key != expected:
        yield "is not what its key says"
    if not torch.isfinite(row).all():
        yield "is not finite"


def _wrong_in_index(
    files: list[dict], about: dict, rows: dict[Location, tuple[str, str]], folder: Path
) -> Iterator[str]:
    """What the index says that the shards do not hold."""
    names, count = list(about["shards"]), about["provenance"]["data"]["clips_per_file"]
    for name in names:
        if not (folder / name).is_file():
            yield f"{folder / name} is not there: {AGAIN}"
    there = {location.shard for location in rows}
    for file in files:
        clips = locations_in(file, "clip", names)
        if not len(clips) == len(file["keys"]) == (0 if file["reason"] else count):
            yield f"{file['path']} has {len(clips)} clips in the index, not {count}: {AGAIN}"
        texts = zip(locations_in(file, "text", names), file["captions"], strict=False)
        expected = [*zip(clips, file["keys"], strict=False), *texts]
        absent = {location.shard for location, name in expected if name not in rows.get(location, ())}
        if absent & there:  # of the others it was said
            which = ", ".join(sorted(absent & there))
            yield f"{file['path']} is not in {which} where the index says: {AGAIN}"


def main(arguments: list[str]) -> None:
    """The verb `dit data check`."""
    check(parse(CheckSettings, arguments, prog="dit data check"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("data check")
