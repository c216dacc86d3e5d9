"""`dit eval dimensions`: single dimensions of quality, as VBench names them (Huang et al. 2024)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from configs.load import nearest, parse
from configs.protocol import load_protocol
from configs.protocols.vbench_like import DimensionsProtocol
from configs.scoring import ScoringSettings
from eval import scoring
from eval.clips import Clip, choose_clips, open_sources, passed_lines, read_clip, side_hash
from eval.cpu import CannotScore, map_over_processes, single_threaded
from eval.features import checksum, rgb_hash
from eval.flow import flow_between, interpolated, reduced
from eval.groups import Groups, check_pattern, find_groups, own_prompt
from eval.networks import aesthetic, clip, dino
from eval.networks.certify import check_one
from eval.report.page import publish
from eval.shapes import wilson
from vae.quality.networks import NETWORKS, find_weights
from vae.training.device import own_device

PAIRS, FRAMES = 4, 16  # pairs of frames whose flow is computed at once, and frames in one call of a network


@dataclass(frozen=True)
class DimensionsSettings(ScoringSettings):
    """Measure dimensions of videos' quality as VBench names them; most are not comparable with its own."""

    videos: str = ""
    """Videos: a folder of them, a folder of folders of frames, or a manifest."""
    dimension: tuple[str, ...] = ()
    """What to measure, such as `dynamic_degree`; empty is all but those whose weights are not there."""
    protocol: str = "vbench-like"
    """Name of the protocol; `dit eval protocols` lists them."""
    weights: str = ""
    """Folder with CLIP ViT-B/32; without it, it is looked for as `dit eval weights` says."""
    clip_large: str = ""
    """Folder with CLIP ViT-L/14; without it, it is looked for as the other is."""
    dino: str = ""
    """File with DINO's weights; without it, they are looked for as CLIP's are."""
    aesthetic: str = ""
    """File with LAION's aesthetic head; without it, it is looked for as CLIP's weights are."""
    uncertified: bool = False
    """Measure with weights of DINO and LAION that nothing certifies; the score is stamped."""


@dataclass(frozen=True)
class Video:
    """What is measured: a clip's frames of bytes, the rate of its file (none of pictures), how and where."""

    frames_THWC: Tensor
    fps: float | None
    protocol: DimensionsProtocol
    device: torch.device


@dataclass(frozen=True)
class Dimension:
    """One dimension: what it is, what measures it, of how many frames at least, and by which networks.

    `measure` takes a Video and what `load` gave, and returns values by name, the dimension's among them.
    """

    title: str
    measure: Callable[..., dict[str, float]]
    least: int = 2
    networks: tuple[str, ...] = ()


def temporal_flickering(video: Video) -> dict[str, float]:
    """255 less the mean difference of neighbouring frames, over 255: 1 is without any change."""
    frames = video.frames_THWC
    each = [_difference(one, other) for one, other in pairwise(frames)]
    return {"temporal_flickering": 1 - sum(each) / len(each) / 255}


def _difference(one: Tensor, other: Tensor) -> float:
    """The mean absolute difference of two frames of bytes."""
    return (one.short() - other.short()).abs().double().mean().item()


def dynamic_degree(video: Video) -> dict[str, float]:
    """Whether a video moves: whether enough of its frames have parts that move fast enough; and their speed.

    VBench's rule. Speed is in pixels of frames of the protocol's size, from one looked-at frame to the next.
    """
    about = video.protocol
    fps = video.fps or about.rate
    every = max(1, round(fps / about.rate))
    frames = video.frames_THWC[::every]
    if len(frames) < 2:
        raise CannotScore(f"{len(video.frames_THWC)} frames at {fps:g} a second are too few to see motion")
    speeds = []
    for one, other in _pairs(frames[:-1], frames[1:], video):
        speed = flow_between(one, other).norm(dim=1).flatten(1)
        fastest = speed.topk(max(1, int(speed.shape[1] * about.fastest))).values.double().mean(1)
        speeds += (fastest * about.moves_side / min(one.shape[2:])).tolist()
    threshold = about.moves * max(1.0, about.rate / fps)
    needed = max(1, round(about.moving * len(frames)))
    moves = sum(speed > threshold for speed in speeds) >= needed
    return {"dynamic_degree": float(moves), "speed": sum(speeds) / len(speeds)}


def motion_smoothness(video: Video) -> dict[str, float]:
    """255 less the error of every other frame interpolated from its neighbours, over 255."""
    frames, errors = video.frames_THWC, []
    count = (len(frames) - 1) // 2
    kept = frames[0::2][: count + 1]
    between = iter(frames[1::2])
    for one, other in _pairs(kept[:-1], kept[1:], video):
        guess = interpolated(one, other)
        for made in guess:
            truth = reduced(next(between)[None], video.protocol.side, video.device)[0]
            errors.append((made - truth).abs().double().mean().item())
    return {"motion_smoothness": 1 - sum(errors) / len(errors)}


def _pairs(ones_THWC: Tensor, others_THWC: Tensor, video: Video) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of frames N C H W in [0, 1], at most the protocol's size, a few at a time."""
    for parts in zip(ones_THWC.split(PAIRS), others_THWC.split(PAIRS), strict=True):
        yield tuple(reduced(part, video.protocol.side, video.device) for part in parts)


def consistency(embeddings_TD: Tensor) -> float:
    """The mean over frames of the cosines with the frame before and with the first one, none below 0."""
    x = embeddings_TD.double()
    x = x / x.norm(dim=1, keepdim=True)
    before, first = (x[1:] * x[:-1]).sum(1), x[1:] @ x[0]
    return ((before.clamp(min=0) + first.clamp(min=0)) / 2).mean().item()


def _embedded(frames_THWC: Tensor, preprocess: Callable, embed: Callable, device: torch.device) -> Tensor:
    """Embeddings T D of frames, some at a time."""
    parts = [single_threaded(preprocess, part) for part in frames_THWC.split(FRAMES)]
    with torch.no_grad():
        return torch.cat([embed(part.to(device)).float().cpu() for part in parts])


def subject_consistency(video: Video, network: dino.Dino) -> dict[str, float]:
    """How alike frames are to DINO."""
    x = _embedded(video.frames_THWC, dino.preprocess, network, video.device)
    return {"subject_consistency": consistency(x)}


def background_consistency(video: Video, network: clip.Clip) -> dict[str, float]:
    """How alike frames are to CLIP."""
    x = _embedded(video.frames_THWC, clip.preprocess_unsmoothed, network.of_pictures, video.device)
    return {"background_consistency": consistency(x)}


def aesthetic_quality(video: Video, network: clip.Clip, head: nn.Linear) -> dict[str, float]:
    """The mean over frames of LAION's prediction, over 10."""

    def predicted(pictures: Tensor) -> Tensor:
        return head(network.of_pictures(pictures))[:, 0]

    values = _embedded(video.frames_THWC, clip.preprocess_unsmoothed, predicted, video.device)
    return {"aesthetic_quality": values.double().mean().item() / 10}


ALL = "all such videos"
UNLIKE = "not VBench's number"
DIMENSIONS = {  # VBench's name -> what it is here
    "temporal_flickering": Dimension(
        "1 - mean change of a pixel / 255; VBench's arithmetic, which it does on its static scenes alone",
        temporal_flickering,
    ),
    "dynamic_degree": Dimension(
        f"share of videos that move, by flow without weights in place of RAFT: {UNLIKE}", dynamic_degree
    ),
    "motion_smoothness": Dimension(
        f"1 - error of frames interpolated along that flow, in place of AMT: {UNLIKE}", motion_smoothness, 3
    ),
    "subject_consistency": Dimension(
        "cosine of DINO ViT-B/16 with the frame before and the first; mean over videos",
        subject_consistency,
        networks=("dino",),
    ),
    "background_consistency": Dimension(
        "cosine of CLIP ViT-B/32 with the frame before and the first; mean over videos",
        background_consistency,
        networks=("clip",),
    ),
    "aesthetic_quality": Dimension(
        "LAION's linear head on CLIP ViT-L/14, over 10", aesthetic_quality, 1, ("clip-large", "aesthetic")
    ),
}
UNPUBLISHED = ("dino", "aesthetic")  # networks of which no checksum is published
LOAD = {
    "clip": clip.load_clip,
    "clip-large": partial(clip.load_clip, model_name="ViT-L/14"),
    "dino": dino.load_dino,
    "aesthetic": aesthetic.load_aesthetic,
}
SEEDED = {
    "clip": clip.seeded_clip,
    "clip-large": clip.seeded_clip,
    "dino": dino.seeded_dino,
    "aesthetic": partial(aesthetic.seeded_aesthetic, 512),
}


def dimensions(settings: DimensionsSettings) -> dict:
    """The dimensions with all that they depend on; written as JSON where that is asked for.

    Raises ValueError for what makes no score: no video that can be measured, no weights of what is asked for.
    """
    protocol = load_protocol(settings.protocol, "dimensions")
    if not settings.videos:
        raise ValueError("no --videos: a folder of videos, or a manifest")
    scoring.check_outputs(settings.json, settings.report)
    sources = open_sources(settings.videos, protocol, settings.copies_of)
    clips, passed = choose_clips(sources, protocol, protocol.fake, protocol.fake_stride)
    scoring.stamp_too_few(settings, protocol, settings.videos, len(clips), passed)
    check_pattern(settings.group, [clip.source.name for clip in clips])
    networks, weights, left_out = load_networks(settings)
    names = [name for name in _asked(settings) if name not in left_out]
    device = own_device()
    for network in networks.values():
        network.to(device)
    read = partial(_read, clips, max(DIMENSIONS[name].least for name in names))

    def compute(index: int, row: tuple[Tensor, int]) -> tuple[dict[str, float], int]:
        frames, crc = row
        known = clips[index].source.known
        video = Video(frames, known.fps if known else None, protocol, device)
        values: dict[str, float] = {}
        for name in names:
            own = DIMENSIONS[name]
            values |= own.measure(video, *(networks[network] for network in own.networks))
        return values, crc

    rows = map_over_processes(compute, read, len(clips), settings.workers, device, "videos")
    passed |= {clips[index].source.name: wrong for index, _, wrong in rows if wrong}
    kept = [(clips[index], *row) for index, row, wrong in rows if not wrong]
    small = scoring.stamp_too_few(settings, protocol, settings.videos, len(kept), passed)
    each = [{"video": source.source.name} | values for source, values, _ in kept]
    prompts = [own_prompt(source.source) for source, *_ in kept]
    groups = find_groups([row["video"] for row in each], settings.group, prompts)
    parts = {
        "scores": {name: sum(row[name] for row in each) / len(each) for name in names},
        "intervals": {
            name: _interval(name, each, groups, settings.resamples, protocol.seed) for name in names
        },
        "groups": {"": groups.facts()},
        "measures": {name: DIMENSIONS[name].title for name in names},
        "networks": {name: [weights[network] for network in DIMENSIONS[name].networks] for name in names},
        "left_out": left_out,
        "real": {},
        "fake": {"where": Path(settings.videos).name, "videos": len(sources)}
        | scoring.clip_facts(
            [source for source, *_ in kept], side_hash(clips), rgb_hash([crc for *_, crc in kept]), passed
        ),
        "each": each,
    }
    stamps = [*_network_stamps(settings, names), *small]
    result = scoring.result_of(protocol, None, stamps, "+".join(weights.values()), device, parts)
    publish(result, settings, table(result))
    return result


def _read(clips: list[Clip], least: int, index: int) -> tuple[Tensor, int]:
    """A clip's frames and their checksum; raises UnreadableVideo, or CannotScore for too few."""
    frames = read_clip(clips[index])
    if len(frames) < least:
        raise CannotScore(f"{clips[index].source.path} has {len(frames)} frames, and {least} are needed")
    return frames, checksum(frames)


def _interval(name: str, each: list[dict], groups: Groups, resamples: int, seed: int) -> dict | None:
    """The 95 % interval of a mean over videos, whose groups are drawn whole; of a share that of Wilson, as
    few videos may all be alike, as of so many videos as there are groups."""
    if name == "dynamic_degree":
        count = groups.facts()["groups"]
        low, high = wilson(sum(row[name] for row in each) / len(each) * count, count)
        return (
            {"low": low, "high": high, "of": f"the share of {ALL} that move"}
            if resamples and count > 1
            else None
        )
    values_N = torch.tensor([row[name] for row in each], dtype=torch.float64)
    return scoring.interval(
        lambda drawn_N: drawn_N.mean().item(),
        (values_N,),
        resamples,
        seed,
        groups=(groups,),
        of=f"the mean over {ALL}",
    )


def _asked(settings: DimensionsSettings) -> list[str]:
    """The dimensions that are asked for, in the protocol's order; ValueError for one that it has not."""
    known = load_protocol(settings.protocol, "dimensions").dimensions
    for name in settings.dimension:
        if name not in known:
            raise ValueError(
                f"--dimension {name}: {settings.protocol} has {', '.join(known)}{nearest(name, list(known))}"
            )
    return [name for name in known if name in (settings.dimension or known)]


def load_networks(
    settings: DimensionsSettings,
) -> tuple[dict[str, nn.Module], dict[str, str], dict[str, str]]:
    """The networks that the dimensions need, their weights' hashes, and the dimensions without, and why.

    Raises ValueError for a dimension that was asked for by name, or whose weights were, and has none.
    """
    given = {"clip": settings.weights, "clip-large": settings.clip_large}
    given |= {"dino": settings.dino, "aesthetic": settings.aesthetic}
    networks, weights, left_out = {}, {}, {}
    for name in _asked(settings):
        for network in DIMENSIONS[name].networks:
            check_one(settings.smoke, given[network])
            try:
                if network not in networks:
                    networks[network], weights[network] = _load(network, name, given[network], settings)
            except ValueError as error:
                if settings.dimension or given[network]:
                    raise
                left_out[name] = str(error)
                break
    if not {*_asked(settings)} - {*left_out}:
        raise ValueError(f"nothing is left to measure: {next(iter(left_out.values()))}")
    return networks, weights, left_out


def _load(network: str, dimension: str, given: str, settings: DimensionsSettings) -> tuple[nn.Module, str]:
    """A dimension's network and its weights' hash; ValueError where there are none, or uncertified ones."""
    if settings.smoke:
        return SEEDED[network](), "seeded"
    place = find_weights(network, given, dimension.replace("_", " "))
    if network in UNPUBLISHED and not settings.uncertified:
        raise ValueError(
            f"no checksum of {NETWORKS[network].files[0]} is published, so that yours cannot be certified: "
            "--uncertified measures with it, and stamps the score"
        )
    return LOAD[network](place)


def _network_stamps(settings: DimensionsSettings, names: list[str]) -> list[str]:
    """What is to be said of the networks of some dimensions."""
    of_network = [name for name in names if DIMENSIONS[name].networks]
    if settings.smoke:
        return [scoring.seeded_stamp(" or ".join(of_network))] if of_network else []
    needed = [network for name in names for network in DIMENSIONS[name].networks]
    loose = [network for network in dict.fromkeys(needed) if network in UNPUBLISHED]
    return [f"{' and '.join(loose)} not certified: no checksum is published"] if loose else []


def table(result: dict) -> str:
    """The dimensions as lines, each with its interval and what it is."""
    rows = []
    for name, value in result["scores"].items():
        ends = result["intervals"][name]
        spread = f"{ends['low']:.4f} to {ends['high']:.4f}" if ends else ""
        rows.append((name, f"{value:.4f}", spread, result["measures"][name]))
    side, protocol = result["fake"], f"{result['protocol']['name']} ({result['protocol_sha256'][:12]})"
    lines = [*result["stamps"], *scoring.aligned(rows)]
    lines.append(f"{protocol}, means over {side['clips']} videos, 95 % intervals")
    lines.append(f"resampled: {scoring.resampled(result['groups'])}")
    lines += [f"{name} left out: {why.split(': ')[0]}" for name, why in result["left_out"].items()]
    return "\n".join(lines + passed_lines(side["passed_over"]))


def own_in_run(run, videos: str) -> dict:
    """What `dit eval run` says of dimensions alone."""
    return {"videos": videos, "weights": run.clip, "uncertified": run.uncertified}


MEANING = scoring.Meaning(
    "Dimensions",
    better="higher",
    measures="Single dimensions of quality by VBench's names, each a mean over videos: how little "
    "neighbouring frames differ, how many videos move, how well motion tells the frame between two others, "
    "and, where the networks are there, how alike a video's frames are and how pleasing.",
    blind="Flicker, smoothness and both consistencies are best for a video that stands still: read them "
    "beside dynamic_degree. None sees whether a video shows its prompt.",
    interval="of the mean over videos like these, by bootstrap over them; of a share that of Wilson",
)
METRIC = scoring.Metric(DimensionsSettings, own_in_run, load_networks, dimensions)


def main(arguments: list[str]) -> None:
    """The verb `dit eval dimensions`."""
    dimensions(parse(DimensionsSettings, arguments, prog="dit eval dimensions"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("eval dimensions")
