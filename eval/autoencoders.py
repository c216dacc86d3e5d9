"""`dit vae compare`: several autoencoders on the same clips: quality, latents, time, memory, a picture."""

import contextlib
import itertools
import math
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from configs.load import Positional, parse, to_json
from configs.protocol import Protocol, load_protocol
from dit import __version__
from dit.bench.measure import make_clock, medians_in_turn, peak_allocated
from eval.clips import (
    Clip,
    Source,
    choose_clips,
    find_sources,
    passed_lines,
    rates_and_sizes,
    read_clip,
    side_hash,
)
from eval.features import alone, mapped
from eval.fvd import same_choices
from eval.networks.certify import SMOKE, check_one
from eval.reconstruction import MEASURES, means, qualities
from eval.rfvd import NotFinite, feature, open_rfvd, score_rfvd
from eval.scoring import publish
from vae.compression import Compression, round_to
from vae.data.clips import SHAPES
from vae.data.drawn_world import draw, random_scene
from vae.data.sheets import contact_sheet, evenly
from vae.data.video import UnreadableVideo, decoder, resize_and_crop, to_video
from vae.data.write import to_frames, write_png_frames
from vae.load import BUILTIN, WEIGHTS, autoencoder_hash, load_autoencoder
from vae.model import Autoencoder
from vae.quality.lpips import load_lpips
from vae.quality.psnr_ssim import SSIM_SIDE
from vae.statistics import posterior_sums
from vae.training.files import check_writable
from vae.training.processes import own_device, processes


@dataclass(frozen=True)
class CompareVaeSettings:
    """Compare autoencoders on the same clips: quality, latents, compression, time and memory."""

    autoencoders: Positional[tuple[str, ...]] = ()
    """Autoencoders: `builtin`, weights files, runs of `dit vae train`, folders of diffusers."""
    data: str = ""
    """Videos: a folder of them, a folder of folders of frames, a manifest; or `shapes`, the drawn world."""
    count: int = 0
    """Clips, one a video; 0 takes the protocol's number, or all videos, or 32 scenes of the drawn world."""
    frames: int = 17
    """Frames of a clip; the nearest number that all autoencoders take is taken."""
    height: int = 128
    """Height of the clips in pixels, which are scaled to cover it and cut about the centre; likewise."""
    width: int = 128
    """Width in pixels; likewise."""
    stride: int = 1
    """Step between two frames of a clip."""
    seed: int = 0
    """Seed of the choice of videos, of where in them clips begin, and of the scenes."""
    json: str = ""
    """File for all figures, every clip's too, as JSON."""
    picture: str = ""
    """PNG for the same frames through each autoencoder, with amplified differences."""
    amplify: float = 8.0
    """How many times larger the picture shows differences."""
    save: str = ""
    """New folder for all originals and reconstructions, as folders of PNG frames."""
    protocol: str = ""
    """Protocol of the FVD of reconstructions, such as ucf101-recon; empty leaves it out."""
    weights: str = ""
    """File with the weights of I3D; without it, they are looked for as `dit eval weights` says."""
    allow_small: bool = False
    """FVD of fewer or other clips than the protocol says; it is stamped."""
    smoke: bool = False
    """FVD with a seeded network in place of certified weights; it is stamped: it is not FVD."""
    resamples: int = 200
    """Bootstrap samples of FVD's confidence interval; 0 makes none."""
    lpips: Literal["alex", "vgg", "squeeze", "none"] = "alex"
    """Trunk of LPIPS; `none` leaves it out, and so do weights that are not there."""
    lpips_trunk: str = ""
    """File with the trunk's weights, torchvision's; without it, it is looked for in the usual places."""
    lpips_heads: str = ""
    """File with LPIPS' own weights of version 0.1; without it, it is looked for in the usual places."""
    fps: float = 24.0
    """Frames in the second of video whose time and memory are measured."""
    repeats: int = 3
    """Measurements of time, of which the median counts; 0 leaves time and memory out."""
    threads: int = 1
    """Threads of a CPU that is timed; one is measured in CPU seconds, 0 is all, by the wall clock."""
    workers: int = 2
    """Processes that read videos."""


SCENES = 32  # of the drawn world, where no number is asked for
SHOWN, COLUMNS = 2, 5  # clips of the picture, and frames of each
ORIGINAL = "original"  # what the clips are called where autoencoders are called by their names


@dataclass(frozen=True)
class Candidate:
    """An autoencoder that is compared, and what keeps other threads waiting where it is not ours: some keep
    what they saw of a clip in themselves, and some draw noise from the one generator that all share."""

    name: str
    source: str
    model: nn.Module
    turn: contextlib.AbstractContextManager


@dataclass(frozen=True)
class Choice:
    """The clips that all autoencoders see: videos, names, how each is read, and what was passed over."""

    sources: list[Source]
    names: list[str]
    read: Callable[[int], Tensor]
    passed: dict[str, str]
    facts: dict


@dataclass(frozen=True)
class Through:
    """One clip through one autoencoder: qualities, moments of its latents, the features of FVD with their
    frames' checksum, and frames for the picture."""

    values: dict[str, float]
    moments_3C: Tensor
    feature: tuple[Tensor, int] | None
    shown: Tensor | None


class Clips(Dataset):
    """The clips of one process: index, frames of bytes T H W C or None, what is wrong."""

    def __init__(self, read: Callable[[int], Tensor], indices: list[int]):
        self.read, self.indices = read, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, which: int) -> tuple[int, Tensor | None, str]:
        index = self.indices[which]
        try:
            return index, self.read(index), ""
        except UnreadableVideo as error:
            return index, None, str(error)


def compare(settings: CompareVaeSettings) -> dict:
    """All autoencoders on the same clips; written as JSON and as a picture where that is asked for.

    Frames are rounded to bytes on both sides, as files hold them. No score depends on how many
    processes and workers there are. Raises ValueError where nothing can be compared.
    """
    check(settings)
    candidates = open_candidates(settings.autoencoders)
    common, frames, height, width = fitting(candidates, settings)
    lpips, lpips_weights = load_lpips(settings.lpips, settings.lpips_trunk, settings.lpips_heads)
    protocol = load_protocol(settings.protocol, "fvd") if settings.protocol else None
    choice = choose(settings, protocol, frames, height, width)
    given = same_choices(settings, settings.data, settings.data)
    rfvd, why_no_rfvd = open_rfvd(given, protocol, choice.sources, choice.names, choice.passed, frames)
    device, (rank, ranks) = own_device(), processes()
    for module in (*(c.model for c in candidates), lpips, rfvd and rfvd.network):
        if module:
            module.to(device)

    @torch.no_grad()
    def compute(row: tuple[int, Tensor | None, str]) -> tuple[int, tuple | None, list[Through], str]:
        index, original_THWC, wrong = row
        if wrong:
            return index, None, [], wrong
        name, shown = choice.names[index], index < SHOWN
        save(settings, ORIGINAL, name, original_THWC)
        original, made = to_video(original_THWC), []
        try:
            real = feature(rfvd, "real", name, original_THWC, device)
            for candidate in candidates:
                other_THWC, moments_3C = reconstruct(candidate, original, device)
                save(settings, candidate.name, name, other_THWC)
                values = qualities(original, to_video(other_THWC), lpips, device)
                features = feature(rfvd, "fake", name, other_THWC, device)
                made.append(Through(values, moments_3C, features, columns(other_THWC) if shown else None))
        except NotFinite as error:
            return index, None, [], f"{name}: {error}"
        return index, real, made, ""

    data = Clips(choice.read, list(range(rank, len(choice.names), ranks)))
    rows = mapped(compute, data, settings.workers, device, "clips", "clip")
    passed = choice.passed | {choice.names[index]: wrong for index, *_, wrong in rows if wrong}
    kept = [row for row in rows if not row[-1]]
    if not kept:
        raise ValueError(f"no clip can be compared: {next(iter(passed.values()), settings.data)}")
    names = [choice.names[index] for index, *_ in kept]
    entries = []
    for k, candidate in enumerate(candidates):
        parts = [made[k] for _, _, made, _ in kept]
        entries.append(
            {
                **description(candidate),
                "scores": means([part.values for part in parts]),
                "fvd": score_rfvd(
                    rfvd, passed, names, [row[1] for row in kept], [part.feature for part in parts]
                ),
                "latents": latent_statistics(candidate.model, [part.moments_3C for part in parts]),
                "cost": None,
                "each": [{"video": name} | part.values for name, part in zip(names, parts, strict=True)],
            }
        )
    result = {
        "metric": "autoencoders",
        "settings": to_json(settings),
        "clips": choice.facts | {"count": len(kept), "rule": rule(common, settings, frames, height, width)},
        "measures": {name: MEASURES[name] for name in entries[0]["scores"]},
        "autoencoders": entries,
        "lpips": {"trunk": settings.lpips, "weights": lpips_weights},
        "fvd": why_no_rfvd,
        "cost": None,
        "passed_over": passed,
        "decoder": decoder(),
        "torch": torch.__version__,
        "device": device.type,
        "version": __version__,
    }
    if rank == 0 and settings.repeats:
        result["cost"], each = costs(candidates, settings, common, height, width, device)
        for entry, cost in zip(entries, each, strict=True):
            entry["cost"] = cost
    if rank == 0 and settings.picture:
        draw_picture(settings, candidates, choice, kept)
    publish(result, settings.json, table(result))
    return result


def check(settings: CompareVaeSettings) -> None:
    """Raises ValueError for what cannot be compared, before anything is loaded."""
    if not settings.autoencoders:
        raise ValueError("which autoencoders? dit vae compare builtin runs/autoencoder --data MANIFEST")
    if not settings.data:
        raise ValueError(f"give --data: a folder of videos, a manifest, or `{SHAPES}` for the drawn world")
    least = {"frames": 1, "height": SSIM_SIDE, "width": SSIM_SIDE, "stride": 1}
    for name, lowest in (
        least | dict.fromkeys(("count", "workers", "repeats", "resamples", "threads"), 0)
    ).items():
        if getattr(settings, name) < lowest:
            raise ValueError(f"--{name} {getattr(settings, name)}: it must be at least {lowest}")
    for name in ("fps", "amplify"):
        if not 0 < getattr(settings, name) < math.inf:
            raise ValueError(f"--{name} {getattr(settings, name)}: it must be above 0")
    check_one(settings.smoke, settings.weights)
    if settings.save and Path(settings.save).exists() and any(Path(settings.save).iterdir()):
        raise ValueError(f"{settings.save} is not empty: give --save a new folder")
    if processes()[0] == 0:
        for file in filter(None, (settings.json, settings.picture)):
            check_writable(Path(file))


def open_candidates(sources: tuple[str, ...]) -> list[Candidate]:
    """Every autoencoder under a short name; raises ValueError where one is not there, or given twice."""
    found: dict[Path, str] = {}
    for source in sources:
        place = (BUILTIN if source == "builtin" else Path(source)).resolve()
        if place in found:
            twice = source if source == found[place] else f"{found[place]} and {source} are one, which"
            raise ValueError(f"{twice} is given twice: every autoencoder once")
        found[place] = source
    candidates, one_at_a_time = [], threading.Lock()
    for name, source in zip(short_names(sources), sources, strict=True):
        if name == ORIGINAL:
            raise ValueError(f"{source}: `{ORIGINAL}` is what the clips themselves are called; rename it")
        model = load_autoencoder(source)
        ours = isinstance(model, Autoencoder)  # which keeps a clip's state outside itself
        candidates.append(Candidate(name, source, model, contextlib.nullcontext() if ours else one_at_a_time))
    return candidates


def short_names(sources: tuple[str, ...]) -> list[str]:
    """The last parts of all paths, as many as tell them apart."""
    paths = [Path(source) for source in sources]
    paths = [path.parent if path.name == WEIGHTS and path.parent.name else path for path in paths]
    parts = [path.parts or (source,) for path, source in zip(paths, sources, strict=True)]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(sources)


def fitting(candidates: list[Candidate], settings: CompareVaeSettings) -> tuple[Compression, int, int, int]:
    """What all of them take: 1 + time * k frames and sides in multiples; and the frames, height and width of
    the clips, the nearest to those asked for."""
    each = [candidate.model.compression for candidate in candidates]
    side = math.lcm(*(compression.spatial for compression in each))
    step = next(k for k in itertools.count(1) if all(takes(compression, 1 + k, side) for compression in each))
    common = Compression(step, side)
    least = side * math.ceil(SSIM_SIDE / side)
    sides = [max(least, round_to(asked, side)) for asked in (settings.height, settings.width)]
    return common, common.nearest_frames(settings.frames), *sides


def takes(compression: Compression, frames: int, side: int) -> bool:
    """Whether an autoencoder takes so many frames of a square."""
    try:
        compression.check(frames, side, side)
    except ValueError:
        return False
    return True


def rule(common: Compression, settings: CompareVaeSettings, frames: int, height: int, width: int) -> str:
    """Which clips all autoencoders take, and what became of the size that was asked for."""
    frame_rule = f"1 + {common.temporal}k frames" if common.temporal > 1 else "any number of frames"
    line = f"all take {frame_rule}, sides in multiples of {common.spatial}"
    asked = settings.frames, settings.height, settings.width
    if asked == (frames, height, width):
        return line
    return "{}: the nearest to the {} frames of {}x{} asked for".format(line, *asked)


def choose(
    settings: CompareVaeSettings, protocol: Protocol | None, frames: int, height: int, width: int
) -> Choice:
    """The clips, one a video at a place that its name and the seed say, or scenes of the drawn world."""
    count = settings.count or (protocol.real if protocol else 0)
    facts = {"data": settings.data, "frames": frames, "height": height, "width": width}
    if settings.data == SHAPES:
        sources = [Source(f"scene-{k:05d}", Path(SHAPES)) for k in range(count or SCENES)]
        read = partial(read_scene, settings.seed, frames, height, width)
        return Choice(sources, [source.name for source in sources], read, {}, facts)
    sources = find_sources(settings.data)
    wanted = Protocol("vae compare", "fvd", "any", count, count, seed=settings.seed, frames=frames)
    clips, passed = choose_clips(sources, wanted, count, settings.stride)
    if not clips:
        raise ValueError(f"{settings.data} gives no clip: {next(iter(passed.values()))}")
    facts |= {"stride": settings.stride, "files_sha256": side_hash(clips), **rates_and_sizes(clips)}
    names = [clip.source.name for clip in clips]
    return Choice(sources, names, partial(read_fitted, clips, height, width), passed, facts)


def read_scene(seed: int, frames: int, height: int, width: int, index: int) -> Tensor:
    """A scene of the drawn world, of any triple, as bytes T H W C."""
    return alone(to_frames, draw(random_scene(seed, index, "any"), frames, height, width))


def read_fitted(clips: list[Clip], height: int, width: int, index: int) -> Tensor:
    """A clip's frames of bytes T H W C, scaled to cover a size and cut to it about the centre."""
    return alone(partial(resize_and_crop, height=height, width=width), read_clip(clips[index]))


def reconstruct(candidate: Candidate, original_CTHW: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """A video's reconstruction from its posterior's mean, as bytes T H W C, and its latents' moments 3 C: the
    means of a latent, of its square, and of the posterior's variance in it."""
    model = candidate.model
    with candidate.turn:
        mean, log_variance = model.posterior(original_CTHW[None].to(device))
        other = model.decode(mean)[0].cpu()
    if other.shape != original_CTHW.shape:
        raise ValueError(f"{candidate.name} makes {tuple(other.shape)} of {tuple(original_CTHW.shape)}")
    *sums, number = posterior_sums(mean, log_variance).cpu()
    moments_3C = torch.stack(sums) / number
    if not (torch.isfinite(other).all() and torch.isfinite(moments_3C).all()):
        raise NotFinite(f"{candidate.name} gives NaN or infinite values")
    return to_frames(other), moments_3C


def columns(frames_THWC: Tensor) -> Tensor:
    """The frames of the picture, from first to last."""
    return frames_THWC[evenly(len(frames_THWC), COLUMNS)]


def save(settings: CompareVaeSettings, side: str, name: str, frames_THWC: Tensor) -> None:
    """Writes a clip's frames as PNG where they are to be kept."""
    if settings.save:
        write_png_frames(Path(settings.save) / side.replace("/", "-") / name, to_video(frames_THWC))


def description(candidate: Candidate) -> dict:
    """What an autoencoder is: where it came from, its weights' hash, its shape and its statistics."""
    model = candidate.model
    compression, channels = model.compression, model.channels
    return {
        "name": candidate.name,
        "source": candidate.source,
        "weights": autoencoder_hash(model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "compression": asdict(compression),
        "channels": channels,
        "numbers_per_latent": 3 * compression.temporal * compression.spatial**2 / channels,
        "latent_mean": model.latent_mean.flatten().tolist(),
        "latent_std": model.latent_std.flatten().tolist(),
    }


def latent_statistics(model: nn.Module, moments: list[Tensor]) -> dict[str, list[float]]:
    """Of every channel of the normalised latents that training draws: mean and standard deviation, the share
    of its variance that is the posterior's noise, and its share of all raw latents' variance."""
    first_C, second_C, noise_C = torch.stack(moments).mean(dim=0)
    variance_C = (second_C - first_C.square()).clamp(min=0)
    raw_C = variance_C * model.latent_std.double().cpu().flatten().square()
    tiny = torch.finfo(torch.float64).tiny
    return {
        "mean": first_C.tolist(),
        "std": variance_C.sqrt().tolist(),
        "noise": (noise_C / variance_C.clamp(min=tiny)).clamp(max=1).tolist(),
        "share": (raw_C / raw_C.sum().clamp(min=tiny)).tolist(),
    }


@torch.no_grad()
def costs(
    candidates: list[Candidate],
    settings: CompareVaeSettings,
    common: Compression,
    height: int,
    width: int,
    device: torch.device,
) -> tuple[dict, list[dict]]:
    """Seconds that a second of video takes each to encode and decode, measured in turn, medians; and most
    bytes that PyTorch holds meanwhile beyond weights and input. How it was measured comes first."""
    before = torch.get_num_threads()
    frames = max(1 + common.temporal, common.nearest_frames(round(settings.fps)))  # an image is no video
    threads = settings.threads or before
    clock, clock_name = make_clock(device, threads)
    torch.set_num_threads(threads)
    print(f"timing {frames} frames, {settings.repeats} times in turn", file=sys.stderr)
    random = torch.Generator().manual_seed(0)
    video = (torch.rand(1, 3, frames, height, width, generator=random) * 2 - 1).to(device)
    found: list[dict] = [{} for _ in candidates]
    for way in ("encode", "decode"):
        calls = {}
        for candidate in candidates:
            model = candidate.model
            given = video if way == "encode" else model.encode(video)
            calls[candidate.name] = partial(getattr(model, way), given)
        seconds = medians_in_turn(calls, settings.repeats, clock)
        for cost, (name, call) in zip(found, calls.items(), strict=True):
            cost[f"{way}_seconds"] = seconds[name] / frames * settings.fps
            cost[f"{way}_bytes"] = peak_allocated(call, device)
    torch.set_num_threads(before)
    how = {"frames": frames, "fps": settings.fps, "height": height, "width": width, "clock": clock_name}
    return how | {"repeats": settings.repeats, "threads": threads}, found


def draw_picture(
    settings: CompareVaeSettings, candidates: list[Candidate], choice: Choice, kept: list
) -> None:
    """Writes a PNG: of every clip shown the original, and of each autoencoder what it makes of the same
    frames and how far from the original that is, amplified, on black."""
    videos, captions = [], []
    for index, _, made, _ in kept:
        if index >= SHOWN:
            continue
        original = columns(choice.read(index))
        videos.append(to_video(original))
        captions.append(f"{ORIGINAL}: {choice.names[index]}")
        for candidate, part in zip(candidates, made, strict=True):
            videos += [to_video(part.shown), difference(original, part.shown, settings.amplify)]
            captions.append(
                f"{candidate.name}: PSNR {part.values['psnr']:.2f} dB, SSIM {part.values['ssim']:.4f}"
            )
            captions.append(
                f"{candidate.name}: difference to the original, {settings.amplify:g} times, black is none"
            )
    if videos:
        contact_sheet(videos, captions, settings.picture, COLUMNS)
    else:
        print(f"no picture: none of the first {SHOWN} clips can be compared", file=sys.stderr)


def difference(original_THWC: Tensor, other_THWC: Tensor, amplify: float) -> Tensor:
    """How far frames of bytes are apart, so many times, as a video in [-1, 1] whose black is equal."""
    return to_video((amplify * (other_THWC.float() - original_THWC.float()).abs()).round().clamp(max=255))


TITLES = {
    "psnr": "PSNR, mean of frames' (dB)",
    "pooled_psnr": "PSNR, of all frames (dB)",
    "ssim": "SSIM",
    "lpips": "LPIPS",
}


def table(result: dict) -> str:
    """All autoencoders side by side, and what was left out and why."""
    entries, clips = result["autoencoders"], result["clips"]
    rows = [("", [entry["name"] for entry in entries])]

    def row(title: str, cell: Callable[[dict], str]) -> None:
        rows.append((title, [cell(entry) for entry in entries]))

    for name in result["measures"]:
        row(TITLES[name], lambda e, name=name: f"{e['scores'][name]:.4f}")
    scores = [entry["fvd"] for entry in entries if entry["fvd"]]
    if scores:
        seeded = SMOKE in scores[0]["stamps"]
        name = scores[0]["protocol"]["name"]
        row(f"{SMOKE}, {name}" if seeded else f"rFVD, {name}", lambda e: f"{e['fvd']['value']:.2f}")
        if scores[0]["interval"]:
            row("  95 % interval", lambda e: "{low:.2f} to {high:.2f}".format(**e["fvd"]["interval"]))
    row("compression", lambda e: "{temporal}x{spatial}x{spatial}".format(**e["compression"]))
    row("latent channels", lambda e: str(e["channels"]))
    row("numbers of pixels per latent number", lambda e: f"{e['numbers_per_latent']:g}")
    row("latents: mean of a channel, farthest", lambda e: f"{max(e['latents']['mean'], key=abs):+.3f}")
    row(
        "  std of a channel, from and to",
        lambda e: f"{min(e['latents']['std']):.3f} to {max(e['latents']['std']):.3f}",
    )
    row("  largest share of the variance", lambda e: f"{max(e['latents']['share']):.1%}")
    row("  noise in the noisiest channel", lambda e: f"{max(e['latents']['noise']):.1%}")
    row("parameters", lambda e: f"{e['parameters']:,}")
    cost = result["cost"]
    if cost:
        for way in ("encode", "decode"):
            row(f"{way}, s per second of video", lambda e, way=way: f"{e['cost'][f'{way}_seconds']:.3f}")
            row("  peak memory (MiB)", lambda e, way=way: f"{e['cost'][f'{way}_bytes'] / 2**20:.1f}")
    head = max(len(title) for title, _ in rows)
    widths = [max(map(len, column)) for column in zip(*(cells for _, cells in rows), strict=True)]
    lines = [
        "{count} clips of {frames} frames, {height}x{width}, of {data}; ".format(**clips) + clips["rule"],
        *(
            "  ".join([title.ljust(head), *(c.rjust(w) for c, w in zip(cells, widths, strict=True))])
            for title, cells in rows
        ),
    ]
    stamped = [stamp for stamp in (scores[0]["stamps"] if scores else []) if stamp != SMOKE]
    lines += [f"rFVD: {stamp}" for stamp in stamped]
    if "lpips" not in result["measures"]:
        lines.append(f"LPIPS {left_out(result)}")
    if result["fvd"]:
        lines.append(f"rFVD {result['fvd']}")
    if cost:
        lines.append(
            "time and memory: {frames} frames at {fps:g} a second, fp32 on {device}, {threads} thread(s), "
            "{clock}, median of {repeats} in turn; memory beyond weights and input".format(
                **cost, device=result["device"]
            )
        )
    else:
        lines.append("time and memory left out: --repeats 3 measures them")
    return "\n".join(lines + passed_lines(result["passed_over"]))


def left_out(result: dict) -> str:
    """Why there is no LPIPS."""
    why = result["lpips"]["weights"]
    return why if why.startswith("left out") else "left out: it takes sides of at least 32 pixels"


def main(arguments: list[str]) -> None:
    """The verb `dit vae compare`."""
    compare(parse(CompareVaeSettings, arguments, prog="dit vae compare"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("vae compare")
