"""`dit eval clipsim`: how well videos show their prompts, by CLIP, under a named protocol."""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from configs.load import parse
from configs.protocol import load_protocol
from configs.ranges import CountOrZero
from configs.scoring import ScoringSettings
from eval import scoring
from eval.clips import Clip, choose_clips, open_sources, passed_lines, side_hash
from eval.cpu import map_over_processes
from eval.features import read_prepared, rgb_hash
from eval.groups import check_pattern, find_groups, own_prompt
from eval.networks.certify import check_one
from eval.networks.clip import LONGEST, load_clip, preprocess, seeded_clip
from eval.networks.clip import Clip as ClipNetwork
from eval.report.page import publish
from vae.data.captions import read_captions
from vae.data.index import list_hash
from vae.data.tables import TABLES, few, finder
from vae.quality.networks import find_weights
from vae.training.device import own_device


@dataclass(frozen=True)
class ClipsimSettings(ScoringSettings):
    """Score how well videos show their prompts by CLIPSIM, under a named protocol."""

    videos: str = ""
    """Videos: a folder of them, a folder of folders of frames, or a manifest."""
    prompts: str = ""
    """Table with `path` and `caption`; empty takes each video's own record, or the text beside it."""
    protocol: str = "msrvtt-2990"
    """Name of the protocol; `dit eval protocols` lists them."""
    resamples: CountOrZero = 1000
    """Bootstrap samples of the interval of the expected score; 0 makes none."""


CUT = f"have more than CLIP's {LONGEST} tokens: they are cut there"
SMOKE = scoring.seeded_stamp("CLIPSIM")
MEANING = scoring.Meaning(
    "CLIPSIM",
    better="higher",
    measures="How well videos show their prompts: the cosine of a frame and the prompt by CLIP, not scaled, "
    "as the mean over frames and videos. Published values lie between 0.24 and 0.32.",
    blind="Motion and order: every frame is judged alone, so that a still picture may score best; counts, "
    "relations and small things that CLIP does not tell apart; what of a prompt lies after 77 tokens.",
    interval="of the mean over all such videos, by bootstrap over these",
)


def clipsim(settings: ClipsimSettings) -> dict:
    """The score with all that it depends on; written as JSON where that is asked for.

    Raises ValueError for what makes no score: no weights, no prompts, too few videos.
    """
    protocol = load_protocol(settings.protocol, "clipsim")
    if not settings.videos:
        raise ValueError("no --videos: a folder of videos, or a manifest")
    scoring.check_outputs(settings.json, settings.report)
    sources = open_sources(settings.videos, protocol, settings.copies_of)
    clips, passed = choose_clips(sources, protocol, 0, protocol.fake_stride)
    check_pattern(settings.group, [clip.source.name for clip in clips])
    pairs, without = pair(clips, settings)
    passed |= {name: f"{name} has no prompt" for name in without}
    scoring.stamp_too_few(settings, protocol, settings.videos, _count_videos(pairs), passed)
    network, weights = load_network(settings)
    if cut := network.count_cut([prompt for _, prompt in pairs]):
        print(f"note: {cut} of {len(pairs)} prompts {CUT}", file=sys.stderr)
    network.to(own_device())
    rows = measure(pairs, network, settings.workers)
    passed |= {pairs[index][0].source.name: wrong for index, _, wrong in rows if wrong}
    kept = [(*pairs[index], *row) for index, row, wrong in rows if not wrong]
    by_video = _by_video(kept)
    stamps = scoring.stamp_too_few(settings, protocol, settings.videos, len(by_video), passed)
    values, scored_clips = _means(by_video), list(by_video)
    asked = ["\n".join(prompt for prompt, _ in measured) for measured in by_video.values()]
    groups = find_groups([clip.source.name for clip in scored_clips], settings.group, asked)
    rgb = rgb_hash(list({clip: checksum for clip, *_, checksum in kept}.values()))
    parts = {
        "real": {},
        "fake": {"where": Path(settings.videos).name, "videos": len(sources)}
        | scoring.clip_facts(scored_clips, side_hash(scored_clips), rgb, passed),
        "interval": scoring.interval(
            lambda drawn_N: drawn_N.mean().item(),
            (values,),
            settings.resamples,
            protocol.seed,
            groups=(groups,),
            of="the mean over all such videos",
        ),
        "groups": {"": groups.facts()},
        "prompts_cut": cut,
        "prompts_sha256": list_hash([prompt for _, prompt, *_ in kept]),
        "each": [
            {"video": clip.source.name, "prompt": prompt, "value": value}
            for clip, prompt, value, _ in sorted(kept, key=lambda row: (row[0].source.name, row[1]))
        ],
    }
    stamps = [SMOKE] * settings.smoke + stamps
    device = next(network.parameters()).device
    result = scoring.result_of(
        protocol, values.mean().item(), stamps, weights, device, parts, ("transformers",)
    )
    publish(result, settings, sentence(result))
    return result


def _by_video(rows: list[tuple[Clip, str, float, int]]) -> dict[Clip, list[tuple[str, float]]]:
    """Every video's prompts, each with its value."""
    by_video: dict[Clip, list[tuple[str, float]]] = {}
    for clip, prompt, value, _ in rows:
        by_video.setdefault(clip, []).append((prompt, value))
    return by_video


def _means(by_video: dict[Clip, list[tuple[str, float]]]) -> Tensor:
    """A value for each video: its prompts are one measurement, and as so many would narrow the interval."""
    means = [sum(value for _, value in measured) / len(measured) for measured in by_video.values()]
    return torch.tensor(means, dtype=torch.float64)


def _count_videos(pairs: list[tuple[Clip, str]]) -> int:
    """How many videos there are, of which a table may give one several prompts."""
    return len({clip for clip, _ in pairs})


def load_network(settings: ClipsimSettings) -> tuple[ClipNetwork, str]:
    """The network of CLIPSIM and its weights' hash; raises ValueError where there are none, or others."""
    check_one(settings.smoke, settings.weights)
    if settings.smoke:
        return seeded_clip(), SMOKE
    return load_clip(find_weights("clip", settings.weights, "CLIPSIM"))


def pair(clips: list[Clip], settings: ClipsimSettings) -> tuple[list[tuple[Clip, str]], list[str]]:
    """Videos with their prompts, one of each text of the table, and the names of videos that have none.

    Raises ValueError where the table names videos that are not there.
    """
    if not settings.prompts:
        every = [(clip, own_prompt(clip.source)) for clip in clips]
        pairs = [(clip, prompt) for clip, prompt in every if prompt]
        without = [clip.source.name for clip, prompt in every if not prompt]
        if not pairs:
            raise ValueError(f"no video in {settings.videos} has a prompt: --prompts takes a table of them")
        return pairs, without
    table = Path(settings.prompts)
    if not table.is_file():
        raise ValueError(f"{table}: no such file")
    if table.suffix.lower() not in TABLES:
        raise ValueError(f"{table}: give a table of files and captions, one of {', '.join(TABLES)}")
    rows, left_out = read_captions(table)
    for note in left_out:
        print(f"note: {note}", file=sys.stderr)
    home = Path(settings.videos)
    by_path = {clip.source.path: clip for clip in clips}
    find = finder(by_path, home if home.is_dir() else home.parent, any_ending=True)
    pairs, absent = [], []
    for place, name, captions in rows:
        try:
            path = find(name)
        except ValueError as error:
            raise ValueError(f"{table}, {place}: {error}: give its whole name") from None
        absent += [name] * (path is None)
        pairs += [(by_path[path], caption) for caption in captions if path is not None]
    absent = list(dict.fromkeys(absent))
    if not pairs:
        such = f", such as {few(absent[:1])}" if absent else ""
        raise ValueError(f"{table} has prompts for none of the videos in {settings.videos}{such}")
    if absent and not settings.allow_small:
        raise ValueError(
            f"{table} has prompts for {len(absent)} videos that are not in {settings.videos}, such as "
            f"{few(absent[:1])}: with --allow-small the others are scored, and the score is stamped"
        )
    pairs.sort(key=lambda pair: (pair[0].source.key, pair[1]))
    prompted = {clip.source.name for clip, _ in pairs}
    return pairs, sorted(clip.source.name for clip in clips if clip.source.name not in prompted)


def measure(
    pairs: list[tuple[Clip, str]], network: ClipNetwork, workers: int
) -> list[tuple[int, tuple[float, int] | None, str]]:
    """Of every pair its index, CLIPSIM with the checksum of the frames, and what is wrong."""

    def compute(index: int, row: tuple[Tensor, int]) -> tuple[float, int]:
        pictures, crc = row
        return network.similarity(pictures, pairs[index][1]), crc

    read = partial(read_prepared, [clip for clip, _ in pairs], preprocess)
    device = next(network.parameters()).device
    return map_over_processes(compute, read, len(pairs), workers, device, "videos")


def sentence(result: dict) -> str:
    """A score as lines for the terminal."""
    lines = scoring.opening_lines(result, "CLIPSIM", "similarity", f"{result['fake']['clips']} videos")
    return "\n".join(lines + passed_lines(result["fake"]["passed_over"]))


def own_in_run(run, videos: str) -> dict:
    """What `dit eval run` says of CLIPSIM alone; prompts lie beside the videos."""
    return {"videos": videos, "weights": run.clip}


METRIC = scoring.Metric(ClipsimSettings, own_in_run, load_network, clipsim)


def main(arguments: list[str]) -> None:
    """The verb `dit eval clipsim`."""
    clipsim(parse(ClipsimSettings, arguments, prog="dit eval clipsim"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("eval clipsim")
