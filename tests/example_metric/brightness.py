"""`dit eval brightness`: how bright videos are; the example of a metric's verb, with its row of the table."""

from dataclasses import dataclass

import torch

from configs.load import parse
from configs.protocol import load_protocol
from configs.scoring import ScoringSettings
from eval import scoring
from eval.clips import choose_clips, open_sources, read_clip, side_hash
from eval.cpu import CPU
from eval.features import checksum, rgb_hash
from eval.report.page import publish


@dataclass(frozen=True)
class BrightnessSettings(ScoringSettings):
    """Score how bright videos are, under a named protocol."""

    videos: str = ""
    """Videos: a folder of them, or a manifest."""
    protocol: str = "brightness-16"
    """Name of the protocol."""


MEANING = scoring.Meaning(
    "brightness", measures="How bright videos are: 0 is black, 1 is white.", blind="Everything else."
)


def brightness(settings: BrightnessSettings) -> dict:
    """The mean over videos of their clips' brightness."""
    protocol = load_protocol(settings.protocol, "brightness")
    scoring.check_outputs(settings.json, settings.report)
    sources = open_sources(settings.videos, protocol, settings.copies_of)
    clips, passed = choose_clips(sources, protocol, protocol.fake, protocol.fake_stride)
    stamps = scoring.stamp_too_few(settings, protocol, settings.videos, len(clips), passed)
    frames = [read_clip(clip) for clip in clips]
    values_N = torch.stack([clip_THWC.double().mean() / 255 for clip_THWC in frames])
    rgb = rgb_hash([checksum(clip_THWC) for clip_THWC in frames])
    parts = {
        "real": {},
        "fake": scoring.clip_facts(clips, side_hash(clips), rgb, passed),
        "interval": scoring.interval(
            lambda drawn_N: drawn_N.mean().item(), (values_N,), settings.resamples, protocol.seed
        ),
    }
    result = scoring.result_of(protocol, values_N.mean().item(), stamps, "", CPU, parts)
    lines = scoring.opening_lines(result, "brightness", "brightness", f"{len(clips)} videos")
    publish(result, settings, "\n".join(lines))
    return result


def own_in_run(run, videos: str) -> dict:
    """What `dit eval run` says of this metric alone."""
    return {"videos": videos}


METRIC = scoring.Metric(BrightnessSettings, own_in_run, lambda settings: None, brightness)


def main(arguments: list[str]) -> None:
    """The verb `dit eval brightness`."""
    brightness(parse(BrightnessSettings, arguments, prog="dit eval brightness"))
