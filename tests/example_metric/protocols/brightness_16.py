"""Brightness of a video's first 16 frames: the example of a protocol of a new metric, its class beside it."""

from dataclasses import dataclass

from configs.protocol import ClipChoice, Protocol

JOBS = ("ucf101-class",)


@dataclass(frozen=True, kw_only=True)
class BrightnessProtocol(ClipChoice, Protocol):
    """The mean of all pixels of a clip, black 0 and white 1."""

    metric: str = "brightness"
    """What is computed."""


protocol = BrightnessProtocol(name="brightness-16", fake=2048, start="first")
