"""FVD of reconstructions to their originals, from frames as they come, with nothing written between."""

import sys
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from configs.protocol import FvdProtocol
from eval.clips import Clip, Source, choose_clips, with_keys
from eval.cpu import CannotScore, single_threaded
from eval.features import checksum, rgb_hash
from eval.fvd import FvdSettings, score_sides
from eval.networks.certify import load_i3d
from eval.preprocess import prepare
from eval.sides import Side, contents_stamps, side_stamps
from vae.data.video import decoder
from vae.quality.networks import find_weights
from vae.training.device import own_device
from vae.training.processes import processes


@dataclass(frozen=True)
class Rfvd:
    """What the FVD of reconstructions takes: its network, the videos, and of each side's clips the frames."""

    settings: FvdSettings
    protocol: FvdProtocol
    network: nn.Module
    weights: str
    sources: list[Source]
    spans: dict[str, dict[str, tuple[int, ...]]]


class NotFinite(CannotScore):
    """A clip of which a network makes NaN or infinite values."""


def open_rfvd(
    given: FvdSettings,
    protocol: FvdProtocol | None,
    sources: list[Source],
    names: list[str],
    passed: dict[str, str],
    frames: int,
) -> tuple[Rfvd | None, str]:
    """What the FVD of reconstructions takes, or nothing, and why.

    Raises ValueError for clips that do not make the protocol's, and for weights that are not I3D's.
    """
    if protocol is None:
        return None, "left out: --protocol ucf101-recon, or another, adds it"
    if protocol.videos == "windows":
        raise ValueError(f"{protocol.name} takes several clips of a video, and here there is one of each")
    spans = {}
    chosen = with_keys([source for source in sources if source.name in set(names)])
    whole = [Source(source.name, source.path, (source.path,) * frames, key=source.key) for source in chosen]
    for which, stride in (("real", protocol.real_stride), ("fake", protocol.fake_stride)):
        if frames < (least := protocol.least_frames(stride)):
            raise ValueError(f"{protocol.name} takes {least} frames of a video: --frames {least} or more")
        clips, _ = choose_clips(whole, protocol.of_side(which), getattr(protocol, which), stride)
        spans[which] = {clip.source.name: clip.frames for clip in clips}
    rfvd = Rfvd(given, protocol, None, "", sources, spans)
    stamps(rfvd, passed, *(len(clips) for clips in spans.values()))
    if not given.smoke:
        try:
            find_weights("i3d", given.weights)
        except ValueError as error:
            if given.weights:
                raise
            if processes()[0] == 0:
                print(f"rFVD left out: {error}", file=sys.stderr)
            return None, f"left out: {error}"
    network, weights = load_i3d(protocol.eps, given.weights, given.smoke)
    network = network.to(memory_format=torch.channels_last_3d)
    return Rfvd(given, protocol, network, weights, sources, spans), ""


def stamps(rfvd: Rfvd, passed: dict[str, str], real: int, fake: int) -> tuple[list, list]:
    """The stamps of both sides for what is not as the protocol says; ValueError unless that is allowed."""
    given, protocol = rfvd.settings, rfvd.protocol
    clips = [Clip(source, ()) for source in rfvd.sources if source.name in rfvd.spans["real"]]
    return tuple(
        side_stamps(given, protocol, which, rfvd.sources, count, passed)
        + contents_stamps(given, protocol, which, rfvd.sources, clips)
        for which, count in (("real", real), ("fake", fake))
    )


def feature(
    rfvd: Rfvd | None, which: str, name: str, frames_THWC: Tensor, device: torch.device
) -> tuple[Tensor, int] | None:
    """A clip's features by the network of FVD, and a checksum of its frames; none where FVD takes it not."""
    if not rfvd or name not in rfvd.spans[which]:
        return None
    frames_THWC = frames_THWC[list(rfvd.spans[which][name])]
    clip = single_threaded(partial(prepare, protocol=rfvd.protocol), frames_THWC)
    value = rfvd.network(clip[None].to(device)).float().cpu()[0]
    if not torch.isfinite(value).all():
        raise NotFinite("the network of FVD gives NaN or infinite values")
    return value, checksum(frames_THWC)


def score_rfvd(
    rfvd: Rfvd | None,
    passed: dict[str, str],
    names: list[str],
    originals: list[tuple[Tensor, int] | None],
    others: list[tuple[Tensor, int] | None],
) -> dict | None:
    """The FVD of one autoencoder's reconstructions to their originals, with all that a score carries."""
    if not rfvd:
        return None
    counts = [sum(row is not None for row in side) for side in (originals, others)]
    sides = []
    for side, side_stamped in zip((originals, others), stamps(rfvd, passed, *counts), strict=True):
        kept = [(name, *row) for name, row in zip(names, side, strict=True) if row]
        facts = {"where": rfvd.settings.real, "videos": len(rfvd.sources), "clips": len(kept)}
        facts |= {"rgb_sha256": rgb_hash([crc for *_, crc in kept]), "decoder": decoder()}
        facts |= {"passed_over": passed, "stamps": side_stamped}
        values_ND = torch.stack([value for _, value, _ in kept])
        sides.append(Side(values_ND, tuple(name for name, *_ in kept), facts))
    return score_sides(rfvd.settings, rfvd.protocol, *sides, rfvd.weights, own_device(), paired=True)
