"""`dit eval reconstruction`: how near reconstructed videos are to their originals, frame by frame."""

import dataclasses
import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from configs.load import parse
from configs.protocol import ReconstructionProtocol, load_protocols, protocol_names
from configs.scoring import LpipsSettings, ScoringSettings
from dit import __version__
from eval.clips import Clip, Source, find_sources, frame_count, partners, passed_lines, read_clip
from eval.cpu import CannotScore, map_over_processes
from eval.features import checksum, rgb_hash
from eval.fvd import fvd, fvd_of
from eval.machine import made_with
from eval.report.page import publish
from eval.scoring import Meaning, check_outputs, row_in_words
from vae.data.video import to_video
from vae.quality.lpips import SMALLEST, Lpips, load_lpips, lpips_of
from vae.quality.psnr_ssim import SSIM_SIDE, grey, pooled_psnr, psnr, ssim, wrapped_psnr
from vae.training.device import own_device


@dataclass(frozen=True)
class ReconstructionSettings(LpipsSettings, ScoringSettings):
    """Compare videos with reconstructions: PSNR of both kinds, SSIM and LPIPS of frames, FVD of clips."""

    real: str = ""
    """Original videos: a folder of them, a folder of folders of frames, or a manifest."""
    fake: str = ""
    """Reconstructions of the same names, sizes and numbers of frames."""
    protocol: str = ""
    """Protocol of the FVD of both sides, such as ucf101-recon, or of all four, such as pose-quadruple."""


MEANING = Meaning(
    "Reconstruction",
    better="higher",
    measures="How near each frame of a reconstruction is to its original: PSNR and SSIM by pixels, higher is "
    "better; LPIPS by a network of pictures, lower is better; all as means over videos, or "
    "over the frames of all of them where the protocol says so.",
    blind="Flicker and all else that lies between frames; whether what is lost matters: PSNR and SSIM prefer "
    "blur to sharp detail that lies a little elsewhere.",
)
MEASURES = {  # name -> what it is, as the score says
    "psnr": "dB, mean over frames of each frame's, at most 100",
    "pooled_psnr": "dB, of the squared error of all frames together",
    "wrapped_psnr": "dB, squares wrap as bytes do: unrelated pictures score 27.9 dB by it, 7.7 rightly",
    "ssim": "Gaussian 11x11 of sigma 1.5, valid crop, population covariance, mean over channels",
    "ssim_grey": "the same of the luma (BT.601, in whole bytes)",
    "ssim_uniform": "scikit-image's default: box of 7x7, sample covariance, mean over channels",
    "ssim_grey_uniform": "the same of the luma",
    "lpips": "version 0.1, mean over frames",
    "unit_lpips": "the same, given frames in [0, 1], for which it is not made",
}


def _read_pair(pairs: list[tuple[Source, Source]], index: int) -> tuple[tuple[Tensor, Tensor], int]:
    """Both videos of a pair, C T H W in [-1, 1], and the original's checksum; raises UnreadableVideo, or
    CannotScore for other sizes."""
    original, other = pairs[index]
    sides = [read_clip(Clip(source, tuple(range(frame_count(source))))) for source in pairs[index]]
    if sides[0].shape != sides[1].shape:
        shapes = ["{} frames of {}x{}".format(*side.shape[:3]) for side in sides]
        raise CannotScore(f"{other.path} has {shapes[1]}, its original {shapes[0]}")
    if min(sides[0].shape[1:3]) < SSIM_SIDE:
        raise CannotScore(f"{original.path} has sides below {SSIM_SIDE} pixels, which SSIM needs")
    return (to_video(sides[0]), to_video(sides[1])), checksum(sides[0])


def _pair_up(real: list[Source], fake: list[Source]) -> tuple[list[tuple[Source, Source]], dict[str, str]]:
    """The pairs of one name, sorted, and the videos of either side that have none, with the reason."""
    others = partners(real, fake)
    pairs = [(source, others[source.name]) for source in real if source.name in others]
    paired = {other.name for _, other in pairs}
    passed = {source.name: "has no reconstruction" for source in real if source.name not in others}
    passed |= {source.name: "has no original" for source in fake if source.name not in paired}
    return pairs, passed


def qualities(original: Tensor, other: Tensor, lpips: Lpips | None, device: torch.device) -> dict[str, float]:
    """What each measure says of a video beside its original, both C T H W in [-1, 1]; sides of 11 or more."""
    values = {"psnr": psnr(original, other), "pooled_psnr": pooled_psnr(original, other)}
    values["ssim"] = ssim(original, other)
    if lpips and min(original.shape[2:]) >= SMALLEST:
        values["lpips"] = lpips_of(lpips, original.to(device), other.to(device))
    return values


def means(each: list[dict[str, float]], weights: list[int] | None = None) -> dict[str, float]:
    """The mean over videos of each measure that all of them have, of equal or of given weights."""
    names = [name for name in MEASURES if all(name in values for values in each)]
    weights = weights or [1] * len(each)
    pairs = list(zip(each, weights, strict=True))
    # `fsum` is exact, so that the order of the videos, which names give them, moves no bit.
    return {name: math.fsum(values[name] * w for values, w in pairs) / sum(weights) for name in names}


def _own_measures(
    protocol: ReconstructionProtocol,
    original: Tensor,
    other: Tensor,
    lpips: Lpips | None,
    device: torch.device,
) -> dict[str, float]:
    """What a protocol measures otherwise than `qualities`, or besides."""
    values = {}
    if protocol.psnr == "wrapped_psnr":
        values["wrapped_psnr"] = wrapped_psnr(original, other)
    if protocol.ssim == "ssim_grey_uniform":
        values["ssim_grey_uniform"] = ssim(grey(original), grey(other), uniform=True)
    if protocol.lpips == "unit_lpips" and lpips and min(original.shape[2:]) >= SMALLEST:
        sides = (((video + 1) / 2).to(device) for video in (original, other))
        values["unit_lpips"] = lpips_of(lpips, *sides)
    return values


def reconstruction(settings: ReconstructionSettings) -> dict:
    """The scores, means over videos or frames, with every video's; written as JSON where that is asked for.

    Raises ValueError where no pair can be compared.
    """
    if not settings.real or not settings.fake:
        raise ValueError("give both --real and --fake: folders of videos, or manifests")
    check_outputs(settings.json, settings.report)
    pairs, passed = _pair_up(find_sources(settings.real), find_sources(settings.fake))
    if not pairs:
        raise ValueError(f"{settings.real} and {settings.fake} have no video of one name")
    protocols = load_protocols(settings.protocol) if settings.protocol in protocol_names() else {}
    protocol = protocols.get("reconstruction")
    trunk = protocol.trunk if protocol and settings.lpips != "none" else settings.lpips
    lpips, weights = load_lpips(trunk, settings.lpips_trunk, settings.lpips_heads)
    between = None
    if settings.protocol:  # before the pairs are compared, as it may fail for its weights
        between = fvd(fvd_of(settings, settings.real, settings.fake, settings.protocol))
    device = own_device()
    if lpips:
        lpips.to(device)

    def compute(index: int, read: tuple[tuple[Tensor, Tensor], int]) -> tuple[dict[str, float], int]:
        pair, crc = read
        greys = [grey(video) for video in pair]
        others = {"ssim_grey": ssim(*greys), "ssim_uniform": ssim(*pair, uniform=True)}
        own = _own_measures(protocol, *pair, lpips, device) if protocol else {}
        return qualities(*pair, lpips, device) | others | own | {"frames": pair[0].shape[1]}, crc

    read = partial(_read_pair, pairs)
    rows = map_over_processes(compute, read, len(pairs), settings.workers, device, "videos")
    passed |= {pairs[index][0].name: wrong for index, _, wrong in rows if wrong}
    kept = [(index, row) for index, row, wrong in rows if not wrong]
    if not kept:
        raise ValueError(f"no pair can be compared: {next(iter(passed.values()))}")
    each = [values for _, (values, _) in kept]
    by_frames = protocol is not None and protocol.mean == "frames"
    scores = means(each, [values["frames"] for values in each] if by_frames else None)
    result = {
        "metric": "reconstruction",
        "scores": scores,
        "measures": {name: MEASURES[name] for name in scores},
        "fvd": between,
        "lpips": {"trunk": trunk, "weights": weights},
        "videos": len(kept),
        "passed_over": passed,
        "each": [{"video": pairs[index][0].name} | values for index, (values, _) in kept],
        "real": {"rgb_sha256": rgb_hash([crc for _, (_, crc) in kept])},
        "made_with": made_with(device),
        "version": __version__,
    }
    if protocol:
        result |= {"protocol": dataclasses.asdict(protocol), "protocol_sha256": protocol.hash()}
        result["row"] = {name: scores.get(getattr(protocol, name)) for name in ("ssim", "psnr", "lpips")}
        result["row"] |= {"fvd": between["value"]} if between else {}
    publish(result, settings, table(result))
    return result


def table(result: dict) -> str:
    """The scores as lines, each with what it is."""
    lines = [
        f"{name.replace('_', ' '):14}{value:9.4f}  {MEASURES[name]}"
        for name, value in result["scores"].items()
    ]
    about = result.get("protocol", {})
    over = f" of {sum(row['frames'] for row in result['each'])} frames, means over all of these"
    lines.append(f"{result['videos']} videos{over if about.get('mean') == 'frames' else ', means over them'}")
    if about:
        lines.append(f"{about['name']} ({result['protocol_sha256'][:12]}): {row_in_words(result)}")
    if "lpips" not in result["scores"]:
        lines.append(f"LPIPS {result['lpips']['weights']}")
    if not result["fvd"]:
        lines.append("FVD left out: --protocol ucf101-recon, or another, adds it")
    return "\n".join(lines + passed_lines(result["passed_over"]))


def main(arguments: list[str]) -> None:
    """The verb `dit eval reconstruction`."""
    reconstruction(parse(ReconstructionSettings, arguments, prog="dit eval reconstruction"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("eval reconstruction")
