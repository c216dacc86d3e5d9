"""`dit vae encode MANIFEST --out CACHE`: encodes clips and captions once, for many trainings."""

import math
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from configs.data import SHAPES, ClipConfig, DataConfig
from configs.load import Positional, parse
from configs.model import TextConfig
from configs.ranges import Count, Positive, Seed
from dit.text import cut_note, load_pretrained, text_provenance
from vae.cache.clips import SAMPLING
from vae.cache.encoding import (
    ClipToEncode,
    clips_to_encode,
    drawn_files,
    encode_clips,
    file_hashes,
    in_shards,
    missing_clips,
    text_key,
)
from vae.cache.index import Cache, CachedFile, read_index, save_index
from vae.cache.shards import DTYPES, LATENTS, TEXTS, find_rows, stale_shards, write_shard
from vae.data.clips import check_data
from vae.data.columns import Entry
from vae.data.manifest import NAME, load_manifest
from vae.load import autoencoder_hash, load_autoencoder, stored_hash
from vae.training.device import own_device
from vae.training.files import remove_stale
from vae.training.folder import locked
from vae.training.processes import gathered, on_main, processes
from vae.training.progress import progress


@dataclass(frozen=True)
class EncodeSettings:
    """Encode clips and captions once, into a cache for `dit train --data.source CACHE`."""

    manifest: Positional[str] = ""
    """Manifest, or the folder that holds one; or `shapes`, scenes of the drawn world."""
    out: str = ""
    """Folder of the cache; the same command goes on after a kill, and encodes what is new or changed."""
    autoencoder: str = "builtin"
    """Weights file of the autoencoder, a run's or a diffusers folder; `builtin` is the drawn world's."""
    data: ClipConfig = field(default_factory=lambda: ClipConfig(clips_per_file=4, workers=2))
    """The clips."""
    text: TextConfig = field(default_factory=TextConfig)
    """Text encoder: a frozen one's embeddings of all captions are kept; a byte-level one runs in training."""
    dtype: Literal["fp16", "bf16", "fp32"] = "fp16"
    """Stored precision: fp16 rounds to 1 part in 2,048, bf16 to 1 in 256, fp32 not at all."""
    scenes: Count = 8192
    """Scenes of the drawn world, each one clip with several captions."""
    seed: Seed = 0
    """Seed of the drawn world's scenes."""
    shard_clips: Count = 512
    """Maximum clips of a shard, which is what a kill may lose."""
    encode_memory: Positive | None = None
    """GiB that encoding may take beside a clip: larger frames are encoded in tiles; none: no limit."""
    prune: bool = False
    """Remove shards of which nothing is used any more."""


TEXT_BATCH = 32


def encode(settings: EncodeSettings) -> Path:
    """Encodes what a cache does not hold yet and writes its index; returns the cache's folder."""
    check(settings)
    rank, ranks = processes()
    main, out, dtype = rank == 0, Path(settings.out), settings.dtype
    config = DataConfig(**asdict(settings.data) | {"source": settings.manifest})
    if config.source == SHAPES:
        config = replace(config, clips_per_file=1)  # a scene is one clip
    autoencoder = load_autoencoder(settings.autoencoder, own_device())
    check_data(config, autoencoder.compression)
    if config.source == SHAPES:
        entries = drawn_files(out, config, settings.seed, settings.scenes)
    else:
        entries = load_manifest(config.source).kept()
    hashed = autoencoder_hash(autoencoder)
    provenance = {
        "data": {name: getattr(config, name) for name in SAMPLING},
        "autoencoder": hashed,
        "autoencoder_files": stored_hash(settings.autoencoder),
        "name": settings.autoencoder,
        "dtype": dtype,
        "text": text_provenance(settings.text),
    }
    with ExitStack() as held:
        clips_there, texts_there = on_main(main, partial(_open_folder, out, held, settings))
        files = sorted(gathered(file_hashes(entries, rank, ranks, config.workers)))
        clips = [
            [] if wrong else clips_to_encode(entries[number], sha256, config, autoencoder, hashed, dtype)
            for number, sha256, wrong in files
        ]
        wrong = {number: reason for number, _, reason in files if reason}
        work = partial(
            encode_clips,
            out,
            entries=entries,
            autoencoder=autoencoder,
            hashed=hashed,
            dtype=dtype,
            workers=config.workers,
            quiet=not main,
            budget=int((settings.encode_memory or 0) * 2**30),
        )
        there, failed = clips_there, None
        while failed != {}:  # of files of the same bytes one is tried, and the next where that cannot be read
            left = [[] if number in wrong else of_file for number, of_file in enumerate(clips)]
            groups = in_shards(missing_clips(left, entries, there), settings.shard_clips, dtype)
            failed = dict(gathered(work(groups[rank::ranks])))
            wrong |= failed
            if failed:
                there = on_main(main, lambda: set(find_rows(out, LATENTS)[0]))
        texts = {}  # the key of every caption and of the empty prompt
        if provenance["text"]:
            about = provenance["text"] | {"dtype": provenance["dtype"]}
            captions = dict.fromkeys(["", *(caption for entry in entries for caption in entry.captions)])
            if main and (note := cut_note(settings.text, captions, "captions")):
                print(note, file=sys.stderr)
            texts = {caption: text_key(caption, about) for caption in captions}
        missing, most = [text for text, key in texts.items() if key not in texts_there], settings.shard_clips
        text_groups = [missing[first : first + most] for first in range(0, len(missing), most)]
        mine = embed(out, text_groups[rank::ranks], settings.text, provenance, texts, not main)
        embedded = sum(gathered([mine]))  # when all have written theirs

        def finish() -> None:
            _note_replaced(out, provenance)
            cache = _write_cache(out, entries, files, clips, texts, wrong, provenance)
            print(report(out, cache, texts.values(), clips_there, embedded, settings.prune))

        on_main(main, finish)
    return out


def check(settings: EncodeSettings) -> None:
    """Raises ValueError for settings that cannot form a cache, before anything is computed."""
    if not settings.manifest or not settings.out:
        raise ValueError("give a manifest and a folder, `dit vae encode MANIFEST --out CACHE`")
    for name, what in {NAME: "manifest", "run.json": "run"}.items():
        if (Path(settings.out) / name).is_file():
            raise ValueError(f"--out {settings.out} holds a {what}: give the cache a folder of its own")
    if settings.manifest != SHAPES and settings.data.clips_per_file < 1:
        raise ValueError("data.clips_per_file = 0: a cache needs at least 1")


def _open_folder(out: Path, held: ExitStack, settings: EncodeSettings) -> tuple[set[str], set[str]]:
    """The keys of clips and captions that a cache holds; it is locked, and what is damaged is removed."""
    held.enter_context(locked(out))
    remove_stale(out)
    keys = []
    for kind in (LATENTS, TEXTS):
        rows, damaged = find_rows(out, kind)
        for file in damaged:
            print(f"{file} is damaged: its rows are made again", file=sys.stderr)
            file.unlink()
        keys.append(set(rows))
    return tuple(keys)


def _note_replaced(out: Path, provenance: dict) -> None:
    """Says so where a cache's index was made with other settings, as the new one takes its place."""
    try:
        before = read_index(out)[1]["provenance"]
    except ValueError:
        return
    other = [f"data.{k} = {v}" for k, v in before["data"].items() if v != provenance["data"][k]]
    other += [f"{k} = {before[k]}" for k in ("name", "dtype") if before[k] != provenance[k]]
    if other:
        message = "its clips stay in their shards until --prune, but only the new ones are listed"
        print(f"note: {out} was a cache with {', '.join(other)}: {message}", file=sys.stderr)


def embed(
    out: Path,
    groups: list[list[str]],
    config: TextConfig,
    provenance: dict,
    keys: dict[str, str],
    quiet: bool,
) -> int:
    """Embeds these shards' captions, those of like length together, and keeps them without padding.

    Returns how many.
    """
    if not groups:
        return 0
    encoder, dtype = load_pretrained(config).to(own_device()), provenance["dtype"]
    about = provenance["text"] | {"dtype": dtype}
    with progress(total=sum(map(len, groups)), desc="encoding captions", unit="text", disable=quiet) as bar:
        for group in groups:
            rows, ordered = {}, sorted(group, key=len)
            for first in range(0, len(ordered), TEXT_BATCH):
                texts = ordered[first : first + TEXT_BATCH]
                packed, lengths = encoder(texts)
                for text, row in zip(texts, packed.split(lengths), strict=True):
                    row = row[: 1 + row.any(1).nonzero().max()] if config.padded else row  # no padding
                    row = row.to(DTYPES[dtype], copy=True).cpu()  # a part would hold the whole batch
                    if not torch.isfinite(row).all():
                        raise ValueError(f"embeddings of {text!r} are not finite in {dtype}: --dtype fp32")
                    rows[keys[text]] = row, {"text": text}
                bar.update(len(texts))
            write_shard(out, TEXTS, rows, about)
    return sum(map(len, groups))


def _write_cache(
    out: Path,
    entries: Sequence[Entry],
    hashes: Sequence[tuple[int, str, str]],
    clips: Sequence[Sequence[ClipToEncode]],
    texts: dict[str, str],
    wrong: dict[int, str],
    provenance: dict,
) -> Cache:
    """Writes the index of what the shards now hold; raises ValueError where no file could be encoded."""
    if len(wrong) == len(entries):
        raise ValueError(f"none of the {len(entries)} files can be encoded: {next(iter(wrong.values()))}")
    there, embedded = find_rows(out, LATENTS)[0], find_rows(out, TEXTS)[0]
    files = []
    for number, (entry, (_, sha256, _), of_file) in enumerate(zip(entries, hashes, clips, strict=True)):
        keys = () if number in wrong else tuple(clip.key for clip in of_file)
        files.append(
            CachedFile(
                captions=entry.captions,
                keys=keys,
                path=entry.path,
                sha256=sha256,
                reason=wrong.get(number, ""),
                clips=tuple(there[key] for key in keys),
                texts=tuple(embedded[texts[caption]] for caption in entry.captions) if texts else (),
            )
        )
    empty = embedded[texts[""]] if texts else None
    save_index(out, files, provenance, empty)
    return Cache(out, files, provenance, empty)


def report(
    out: Path, cache: Cache, texts: Iterable[str], before: set[str], embedded: int, prune: bool
) -> str:
    """What the cache now holds; what was skipped, and is no longer used, goes to stderr. Prunes if asked."""
    skipped = [file.reason for file in cache.files if file.reason]
    for reason in skipped:
        print(f"skipped: {reason}", file=sys.stderr)
    clips = {
        key: location for file in cache.files for key, location in zip(file.keys, file.clips, strict=True)
    }
    rows = clips | dict.fromkeys(texts)
    stale = stale_shards(out, set(rows))
    for file in stale if prune else []:
        file.unlink()
    if stale:
        action = "removed" if prune else "--prune removes them"
        print(f"{len(stale)} shards hold nothing that is used any more: {action}", file=sys.stderr)
    size = sum(DTYPES[cache.provenance["dtype"]].itemsize * math.prod(row.shape) for row in clips.values())
    files = len(cache.files) - len(skipped)
    kept = len(clips.keys() & before)
    work = f"{len(clips) - kept} encoded, {kept} kept" if kept < len(clips) else "nothing to encode, all kept"
    captions = f"; {len(rows) - len(clips)} captions, {embedded} embedded" if rows.keys() - clips else ""
    each = f"{size / max(1, len(clips)) / 1024:.1f} KiB a clip"
    return (
        f"{out}: {len(clips)} clips of {files} files ({work}), {each}{captions}; {len(skipped)} files skipped"
    )


def main(arguments: list[str]) -> None:
    """The verb `dit vae encode`."""
    settings = parse(EncodeSettings, arguments, prog="dit vae encode")
    try:
        encode(settings)
    except (KeyboardInterrupt, OSError, MemoryError) as stopped:
        stopped.add_note("what is encoded is kept, the same command goes on")
        raise


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("vae encode")
