"""`dit vae compare`: several autoencoders on the same clips: quality, latents, time, memory, a picture."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from configs.data import SHAPES
from configs.load import Positional, parse, to_json
from configs.protocol import ClipChoice, FvdProtocol, load_protocol
from configs.ranges import Count, CountOrZero, Frames, Positive, Rate, Seed, Side, Workers
from configs.scoring import LpipsSettings, ScoringSettings
from dit import __version__
from eval.candidates import (
    ORIGINAL,
    description,
    fitting,
    latent_statistics,
    measure_costs,
    open_candidates,
    reconstruct,
)
from eval.clips import Clip, Source, choose_clips, open_sources, rates_and_sizes, read_clip, side_hash
from eval.cpu import CannotScore, map_over_processes, single_threaded
from eval.fvd import fvd_of
from eval.networks.certify import check_one
from eval.reconstruction import MEASURES, means, qualities
from eval.rfvd import feature, open_rfvd, score_rfvd
from eval.scoring import check_outputs, publish
from eval.side_by_side import SHOWN, Through, columns, draw_picture, table
from vae.compression import Compression
from vae.data.drawn_world import draw, random_scene
from vae.data.label import GENERATED, POSSIBLY
from vae.data.video import decoder, resize_and_crop, to_video
from vae.data.write import to_frames, write_png_frames
from vae.quality.lpips import load_lpips
from vae.quality.psnr_ssim import SSIM_SIDE
from vae.training.device import device_kind, own_device
from vae.training.processes import processes


@dataclass(frozen=True)
class CompareVaeSettings(LpipsSettings, ScoringSettings):
    """Compare autoencoders on the same clips: quality, latents, compression, time and memory."""

    autoencoders: Positional[tuple[str, ...]] = ()
    """Autoencoders: `builtin`, weights files, runs of `dit vae train`, folders of diffusers."""
    data: str = ""
    """Videos: a folder of them, a folder of folders of frames, a manifest; or `shapes`, the drawn world."""
    count: Count | None = None
    """Clips, one a video; none: the protocol's number, or all videos, or 32 scenes of the drawn world."""
    frames: Frames = 17
    """Frames of a clip; the nearest number that all autoencoders take is taken."""
    height: Annotated[Side, Ge(SSIM_SIDE)] = 128
    """Height in pixels, or the nearest that all take; clips are scaled to cover it and the width, and cut."""
    width: Annotated[Side, Ge(SSIM_SIDE)] = 128
    """Width in pixels, or the nearest that all autoencoders take."""
    stride: Count = 1
    """Step between two frames of a clip."""
    seed: Seed = 0
    """Seed of the choice of videos, of where in them clips begin, and of the scenes."""
    picture: str = ""
    """PNG for the same frames through each autoencoder, with amplified differences."""
    amplify: Positive = 8.0
    """How many times larger the picture shows differences."""
    save: str = ""
    """New folder for all originals and reconstructions, as folders of PNG frames."""
    protocol: str = ""
    """Protocol of the FVD of reconstructions, such as ucf101-recon; empty leaves it out."""
    fps: Rate = 24.0
    """Frames in the second of video whose time and memory are measured."""
    repeats: CountOrZero = 3
    """Measurements of time, of which the median counts; 0 leaves time and memory out."""
    threads: Workers = 1
    """Threads of a CPU that is timed; one is measured in CPU seconds, 0 is all, by the wall clock."""


SCENES = 32  # of the drawn world, where no number is asked for


@dataclass(frozen=True)
class Choice:
    """The clips that all autoencoders see: videos, names, how each is read, and what was passed over."""

    sources: list[Source]
    names: list[str]
    read: Callable[[int], Tensor]
    passed: dict[str, str]
    facts: dict


def compare(settings: CompareVaeSettings) -> dict:
    """All autoencoders on the same clips; written as JSON and as a picture where that is asked for.

    Frames are rounded to bytes on both sides, as files hold them. No score depends on how many
    processes and workers there are. Raises ValueError where nothing can be compared.
    """
    check(settings)
    candidates = open_candidates(settings.autoencoders)
    common, frames, height, width = fitting(candidates, settings.frames, settings.height, settings.width)
    lpips, lpips_weights = load_lpips(settings.lpips, settings.lpips_trunk, settings.lpips_heads)
    protocol = load_protocol(settings.protocol, "fvd") if settings.protocol else None
    choice = _choose(settings, protocol, frames, height, width)
    given = fvd_of(settings, settings.data, settings.data, settings.protocol)
    rfvd, why_no_rfvd = open_rfvd(given, protocol, choice.sources, choice.names, choice.passed, frames)
    device, (rank, _) = own_device(), processes()
    by_name = [candidate.name for candidate in candidates]
    for module in (*(c.model for c in candidates), lpips, rfvd and rfvd.network):
        if module:
            module.to(device)

    @torch.no_grad()
    def compute(index: int, original_THWC: Tensor) -> tuple[tuple[Tensor, int] | None, list[Through]]:
        name, shown = choice.names[index], index < SHOWN
        save(settings, ORIGINAL, name, original_THWC)
        original, parts = to_video(original_THWC), []
        try:
            real = feature(rfvd, "real", name, original_THWC, device)
            for candidate in candidates:
                other_THWC, moments_3C = reconstruct(candidate, original, device)
                save(settings, candidate.name, name, other_THWC)
                values = qualities(original, to_video(other_THWC), lpips, device)
                features = feature(rfvd, "fake", name, other_THWC, device)
                parts.append(Through(values, moments_3C, features, columns(other_THWC) if shown else None))
        except CannotScore as error:
            raise CannotScore(f"{name}: {error}") from None
        return real, parts

    rows = map_over_processes(compute, choice.read, len(choice.names), settings.workers, device, "clips")
    passed = choice.passed | {choice.names[index]: wrong for index, _, wrong in rows if wrong}
    kept = [(index, *row) for index, row, wrong in rows if not wrong]
    if not kept:
        raise ValueError(f"no clip can be compared: {next(iter(passed.values()), settings.data)}")
    names = [choice.names[index] for index, *_ in kept]
    entries = []
    for k, candidate in enumerate(candidates):
        each = [parts[k] for _, _, parts in kept]
        entries.append(
            {
                **description(candidate),
                "scores": means([part.values for part in each]),
                "fvd": score_rfvd(
                    rfvd, passed, names, [real for _, real, _ in kept], [part.feature for part in each]
                ),
                "latents": latent_statistics(candidate.model, [part.moments_3C for part in each]),
                "cost": None,
                "each": sorted(
                    ({"video": name} | part.values for name, part in zip(names, each, strict=True)),
                    key=lambda row: row["video"],
                ),
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
        "device": device_kind(device),
        "version": __version__,
    }
    if rank == 0 and settings.repeats:
        result["cost"], costs = measure_costs(
            candidates,
            common,
            height,
            width,
            device,
            fps=settings.fps,
            repeats=settings.repeats,
            threads=settings.threads,
        )
        for entry, cost in zip(entries, costs, strict=True):
            entry["cost"] = cost
    if rank == 0 and settings.picture:
        shown = [
            (choice.names[index], choice.read(index), dict(zip(by_name, parts, strict=True)))
            for index, _, parts in kept
            if index < SHOWN
        ]
        draw_picture(settings.picture, shown, settings.amplify)
    publish(result, settings.json, table(result))
    return result


def check(settings: CompareVaeSettings) -> None:
    """Raises ValueError for what cannot be compared, before anything is loaded."""
    if not settings.autoencoders:
        raise ValueError("which autoencoders? dit vae compare builtin runs/autoencoder --data MANIFEST")
    if not settings.data:
        raise ValueError(f"give --data: a folder of videos, a manifest, or `{SHAPES}` for the drawn world")
    check_one(settings.smoke, settings.weights)
    if settings.save and Path(settings.save).exists() and any(Path(settings.save).iterdir()):
        raise ValueError(f"{settings.save} is not empty: give --save a new folder")
    check_outputs(settings.json, other=settings.picture)


def rule(common: Compression, settings: CompareVaeSettings, frames: int, height: int, width: int) -> str:
    """Which clips all autoencoders take, and what became of the size that was asked for."""
    frame_rule = f"1 + {common.temporal}k frames" if common.temporal > 1 else "any number of frames"
    line = f"all take {frame_rule}, sides in multiples of {common.spatial}"
    asked = settings.frames, settings.height, settings.width
    if asked == (frames, height, width):
        return line
    return "{}: the nearest to the {} frames of {}x{} asked for".format(line, *asked)


def _choose(
    settings: CompareVaeSettings, protocol: FvdProtocol | None, frames: int, height: int, width: int
) -> Choice:
    """The clips, one a video at a place that its content and the seed say, or scenes of the drawn world."""
    count = settings.count or (protocol.real if protocol else 0)
    facts = {"data": settings.data, "frames": frames, "height": height, "width": width}
    if settings.data == SHAPES:
        names = [f"scene-{k:05d}" for k in range(count or SCENES)]
        sources = [Source(name, Path(SHAPES), key=name) for name in names]
        read = partial(_read_scene, settings.seed, frames, height, width)
        return Choice(sources, names, read, {}, facts)
    sources = open_sources(settings.data, protocol)
    choice = ClipChoice(seed=settings.seed, frames=frames)
    clips, passed = choose_clips(sources, choice, count, settings.stride)
    if not clips:
        raise ValueError(f"{settings.data} gives no clip: {next(iter(passed.values()))}")
    facts |= {"stride": settings.stride, "files_sha256": side_hash(clips), **rates_and_sizes(clips)}
    names = [clip.source.name for clip in clips]
    return Choice(sources, names, partial(_read_fitted, clips, height, width), passed, facts)


def _read_scene(seed: int, frames: int, height: int, width: int, index: int) -> Tensor:
    """A scene of the drawn world, of any triple, as bytes T H W C."""
    return single_threaded(to_frames, draw(random_scene(seed, index, "any"), frames, height, width))


def _read_fitted(clips: list[Clip], height: int, width: int, index: int) -> Tensor:
    """A clip's frames of bytes T H W C, scaled to cover a size and cut to it about the centre."""
    return single_threaded(partial(resize_and_crop, height=height, width=width), read_clip(clips[index]))


def save(settings: CompareVaeSettings, side: str, name: str, frames_THWC: Tensor) -> None:
    """Writes a clip's frames as PNG where they are to be kept."""
    if settings.save:
        kind = POSSIBLY if side == ORIGINAL else GENERATED
        folder = Path(settings.save) / side.replace("/", "-")
        write_png_frames(folder / name, to_video(frames_THWC), kind=kind)


def main(arguments: list[str]) -> None:
    """The verb `dit vae compare`."""
    compare(parse(CompareVaeSettings, arguments, prog="dit vae compare"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("vae compare")
