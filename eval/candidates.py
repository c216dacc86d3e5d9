"""The autoencoders of a comparison: what all of them take, and what each makes of a clip, and costs."""

import contextlib
import itertools
import math
import sys
import threading
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from dit.bench.measure import make_clock, medians_in_turn, peak_allocated
from eval.rfvd import NotFinite
from vae.compression import Compression, round_to
from vae.data.write import to_frames
from vae.load import BUILTIN, WEIGHTS, autoencoder_hash, load_autoencoder
from vae.model import Autoencoder
from vae.quality.psnr_ssim import SSIM_SIDE
from vae.statistics import posterior_sums
from vae.training.seeds import generator

ORIGINAL = "original"  # what the clips are called where autoencoders are called by their names


@dataclass(frozen=True)
class Candidate:
    """An autoencoder that is compared, and what keeps other threads waiting where it is not ours: some keep
    what they saw of a clip in themselves, and some draw noise from the one generator that all share."""

    name: str
    source: str
    model: nn.Module
    turn: contextlib.AbstractContextManager


def open_candidates(sources: tuple[str, ...]) -> list[Candidate]:
    """Every autoencoder under a short name; raises ValueError where one is not there, or given twice."""
    given: dict[Path, str] = {}
    for source in sources:
        place = (BUILTIN if source == "builtin" else Path(source)).resolve()
        if place in given:
            twice = source if source == given[place] else f"{given[place]} and {source} are one, which"
            raise ValueError(f"{twice} is given twice: every autoencoder once")
        given[place] = source
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


def fitting(
    candidates: list[Candidate], frames: int, height: int, width: int
) -> tuple[Compression, int, int, int]:
    """What all of them take: 1 + time * k frames and sides in multiples; and the frames, height and width of
    the clips, the nearest to those asked for."""
    each = [candidate.model.compression for candidate in candidates]
    side = math.lcm(*(compression.spatial for compression in each))
    step = next(k for k in itertools.count(1) if all(takes(compression, 1 + k, side) for compression in each))
    common = Compression(step, side)
    least = side * math.ceil(SSIM_SIDE / side)
    sides = [max(least, round_to(asked, side)) for asked in (height, width)]
    return common, common.nearest_frames(frames), *sides


def takes(compression: Compression, frames: int, side: int) -> bool:
    """Whether an autoencoder takes so many frames of a square."""
    try:
        compression.check(frames, side, side)
    except ValueError:
        return False
    return True


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
def measure_costs(
    candidates: list[Candidate],
    common: Compression,
    height: int,
    width: int,
    device: torch.device,
    *,
    fps: float,
    repeats: int,
    threads: int,
) -> tuple[dict, list[dict]]:
    """Seconds that a second of video takes each to encode and decode, measured in turn, medians; and most
    bytes that PyTorch holds meanwhile beyond weights and input. How it was measured comes first."""
    before = torch.get_num_threads()
    frames = max(1 + common.temporal, common.nearest_frames(round(fps)))  # an image is no video
    threads = threads or before
    clock, clock_name = make_clock(device, threads)
    torch.set_num_threads(threads)
    print(f"timing {frames} frames, {repeats} times in turn", file=sys.stderr)
    numbers = generator("timing").random((1, 3, frames, height, width), "float32")
    video = (torch.from_numpy(numbers) * 2 - 1).to(device)
    costs: list[dict] = [{} for _ in candidates]
    for way in ("encode", "decode"):
        calls = {}
        for candidate in candidates:
            model = candidate.model
            given = video if way == "encode" else model.encode(video)
            calls[candidate.name] = partial(getattr(model, way), given)
        seconds = medians_in_turn(calls, repeats, clock)
        for cost, (name, call) in zip(costs, calls.items(), strict=True):
            cost[f"{way}_seconds"] = seconds[name] / frames * fps
            cost[f"{way}_bytes"] = peak_allocated(call, device)
    torch.set_num_threads(before)
    how = {"frames": frames, "fps": fps, "height": height, "width": width, "clock": clock_name}
    return how | {"repeats": repeats, "threads": threads}, costs
