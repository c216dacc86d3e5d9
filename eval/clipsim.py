"""`dit eval clipsim`: how well videos show their prompts, by CLIP, under a named protocol."""

import json
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from configs.load import parse
from configs.protocol import load_protocol
from eval.clips import Clip, Source, choose_clips, find_sources, passed_lines, side_hash
from eval.features import Prepared, in_order, read_ahead
from eval.networks.certify import check_one
from eval.networks.clip import load_clip, preprocess, seeded_clip
from eval.scoring import publish, scored
from vae.data.captions import read_table
from vae.data.video import decoder
from vae.quality.networks import find_weights
from vae.training.files import check_writable
from vae.training.processes import gathered, own_device, processes
from vae.training.seeds import generator


@dataclass(frozen=True)
class ClipsimSettings:
    """Score how well videos show their prompts by CLIPSIM, under a named protocol."""

    videos: str = ""
    """Videos: a folder of them, a folder of folders of frames, or a manifest."""
    prompts: str = ""
    """CSV or JSONL with `path` and `caption`; empty takes the record or the text beside each video."""
    protocol: str = "msrvtt-2990"
    """Name of the protocol; `dit eval protocols` lists them."""
    json: str = ""
    """File for the score with its protocol and every video's, as JSON."""
    weights: str = ""
    """Folder with CLIP ViT-B/32; without it, it is looked for as `dit eval weights` says."""
    allow_small: bool = False
    """Score fewer videos than the protocol says; the score is stamped."""
    smoke: bool = False
    """Run with a seeded network in place of certified weights; the score is stamped: it is not CLIPSIM."""
    workers: int = 2
    """Processes that read videos while the network computes."""
    resamples: int = 1000
    """Bootstrap samples of the confidence interval; 0 makes none."""


SMOKE = "NOT CLIPSIM: seeded network"


def clipsim(settings: ClipsimSettings) -> dict:
    """The score with all that it depends on; written as JSON where that is asked for.

    Raises ValueError for what makes no score: no weights, no prompts, too few videos.
    """
    protocol = load_protocol(settings.protocol, "clipsim")
    if settings.workers < 0 or settings.resamples < 0:
        raise ValueError("--workers and --resamples must not be negative")
    if not settings.videos:
        raise ValueError("no --videos: a folder of videos, or a manifest")
    if settings.json and processes()[0] == 0:
        check_writable(Path(settings.json))
    sources = find_sources(settings.videos)
    clips, passed = choose_clips(sources, protocol, 0, protocol.fake_stride)
    pairs, without = pair(clips, settings)
    passed |= {name: f"{name} has no prompt" for name in without}
    stamps = [SMOKE] * settings.smoke + enough(settings, len(pairs), protocol, passed)
    check_one(settings.smoke, settings.weights)
    network, weights = (
        (seeded_clip(), SMOKE) if settings.smoke else load_clip(find_weights("clip", settings.weights))
    )
    network.to(own_device())
    rows = measure(pairs, network, settings.workers)
    for index, _, _, wrong in rows:
        if wrong:
            passed[pairs[index][0].source.name] = wrong
    kept = [row for row in rows if not row[3]]
    if len(kept) < len(rows):
        stamps = [SMOKE] * settings.smoke + enough(settings, len(kept), protocol, passed)
    values = torch.tensor([row[1] for row in kept], dtype=torch.float64)
    parts = {
        "real": {},
        "fake": {
            "where": Path(settings.videos).name,
            "videos": len(sources),
            "clips": len(kept),
            "files_sha256": side_hash([pairs[row[0]][0] for row in kept]),
            "rgb_crc32": zlib.crc32("".join(f"{row[2]:08x}" for row in kept).encode()),
            "decoder": decoder(),
            "passed_over": passed,
        },
        "interval": interval(values, protocol.seed, settings.resamples),
        "each": [
            {"video": pairs[row[0]][0].source.name, "prompt": pairs[row[0]][1], "value": row[1]}
            for row in kept
        ],
    }
    device = next(network.parameters()).device
    result = scored(protocol, values.mean().item(), stamps, weights, device, parts)
    publish(result, settings.json, sentence(result))
    return result


def pair(clips: list[Clip], settings: ClipsimSettings) -> tuple[list[tuple[Clip, str]], list[str]]:
    """Videos with their prompts, one of each row of the table, and the names of videos that have none.

    Raises ValueError where the table names videos that are not there.
    """
    if not settings.prompts:
        found = [(clip, beside(clip.source)) for clip in clips]
        return [(c, p) for c, p in found if p], [c.source.name for c, p in found if not p]
    table = Path(settings.prompts)
    if not table.is_file():
        raise ValueError(f"{table}: no such file")
    if table.suffix.lower() not in (".csv", ".jsonl"):
        raise ValueError(f"{table}: give a CSV or JSONL file with `path` and `caption`")
    by_name = {clip.source.name: clip for clip in clips}
    rows = [(Path(path).with_suffix("").as_posix(), caption) for path, caption in read_table(table)]
    absent = sorted({name for name, _ in rows} - by_name.keys())
    if not rows or len(absent) == len({name for name, _ in rows}):
        raise ValueError(f"{table} has prompts for none of the videos in {settings.videos}")
    if absent and not settings.allow_small:
        raise ValueError(
            f"{table} has prompts for {len(absent)} videos that are not in {settings.videos}, such as "
            f"{absent[0]}: with --allow-small the others are scored, and the score is stamped"
        )
    pairs = [
        (by_name[name], caption) for name, caption in sorted(rows) if name in by_name and caption.strip()
    ]
    return pairs, sorted(by_name.keys() - {clip.source.name for clip, _ in pairs})


def beside(source: Source) -> str:
    """The prompt in the JSON record beside a video, or the first line of the text beside it; or nothing."""
    record, text = (Path(f"{source.path.with_suffix('')}{ending}") for ending in (".json", ".txt"))
    if record.is_file():
        try:
            values = json.loads(record.read_text())
        except ValueError:
            raise ValueError(f"{record} is not JSON") from None
        return str(values.get("prompt", "")) if isinstance(values, dict) else ""
    lines = text.read_text(encoding="utf-8-sig").splitlines() if text.is_file() else []
    return next((line.strip() for line in lines if line.strip()), "")


def enough(settings: ClipsimSettings, have: int, protocol, passed: dict) -> list[str]:
    """The stamp of fewer videos than the protocol says; raises ValueError unless that is allowed."""
    if have >= protocol.fake:
        return []
    why = f"; passed over: {'; '.join(list(passed.values())[:2])}" if passed else ""
    if not have or not settings.allow_small:
        raise ValueError(
            f"{settings.videos} gives {have} videos with prompts, and {protocol.name} takes {protocol.fake}"
            + (": with --allow-small the score is stamped" if have else "; --prompts takes a table of them")
            + why
        )
    return [f"small: {have} of {protocol.fake} videos"]


def measure(pairs: list[tuple[Clip, str]], network, workers: int) -> list[tuple[int, float, int, str]]:
    """Index, CLIPSIM, checksum of the frames and what is wrong, of every pair in their order."""
    rank, ranks = processes()
    mine = list(range(rank, len(pairs), ranks))
    data = Prepared([clip for clip, _ in pairs], mine, preprocess)

    def compute(row: tuple[int, Tensor | None, int, str]) -> tuple[int, float, int, str]:
        index, pictures, checksum, wrong = row
        value = network.similarity(pictures, pairs[index][1]) if pictures is not None else 0.0
        return index, value, checksum, wrong

    made = in_order(compute, read_ahead(data, workers, 2), next(network.parameters()).device)
    bar = tqdm(made, "videos", len(mine), unit="video", disable=rank > 0, file=sys.stderr)
    return sorted(gathered(list(bar)))


def interval(values_N: Tensor, seed: int, resamples: int) -> dict | None:
    """A 95 % interval of the mean, by bootstrap over videos."""
    if not resamples:
        return None
    random, count = generator(seed, "bootstrap"), len(values_N)
    means = torch.stack(
        [values_N[torch.randint(count, (count,), generator=random)].mean() for _ in range(resamples)]
    )
    low, high = (means.quantile(q) for q in (0.025, 0.975))
    return {"low": low.item(), "high": high.item(), "resamples": resamples}


def sentence(result: dict) -> str:
    """A score as lines for the terminal."""
    value, about, side = result["value"], result["protocol"], result["fake"]
    line = f"{'similarity' if SMOKE in result['stamps'] else 'CLIPSIM'} {value:.4f}"
    if result["interval"]:
        low, high = (result["interval"][end] for end in ("low", "high"))
        line += f"  (95 % interval {low:.4f} to {high:.4f})"
    stamps = [stamp.upper() if stamp == SMOKE else stamp for stamp in result["stamps"]]
    lines = [*stamps, line, f"{about['name']} ({result['protocol_sha256'][:12]}), {side['clips']} videos"]
    return "\n".join(lines + passed_lines(side["passed_over"]))


def main(arguments: list[str]) -> None:
    """The verb `dit eval clipsim`."""
    clipsim(parse(ClipsimSettings, arguments, prog="dit eval clipsim"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("eval clipsim")
