"""What one may ask of a score: settings that several scoring verbs inherit."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from configs.ranges import Count, CountOrZero, Workers


@dataclass(frozen=True)
class StampSettings:
    """What a score may go without; it is stamped with that."""

    allow_small: bool = False
    """Score fewer or other videos than the protocol says; the score is stamped."""
    smoke: bool = False
    """Try everything with a seeded network in place of certified weights; its value is stamped: no score."""
    workers: Workers = 2
    """Processes that read videos while the network computes."""


@dataclass(frozen=True)
class ScoringSettings(StampSettings):
    """What every score of videos may be asked."""

    json: str = ""
    """File for the score with its protocol and all that it depends on, as JSON."""
    report: str = ""
    """HTML file for a page with what the score means, tables, plots and videos, which opens offline."""
    weights: str = ""
    """Weights of the feature network; without it, they are looked for as `dit eval weights` says."""
    copies_of: str = ""
    """Videos of the same names that the generated ones are copies of: clips are drawn as theirs are."""
    resamples: CountOrZero = 200
    """Bootstrap samples of the interval of the expected score; 0 makes none."""
    group: str = ""
    """Regular expression of a clip's source in its name, which are resampled whole; empty: data sets' own."""


@dataclass(frozen=True)
class FeatureSettings(ScoringSettings):
    """What a score may be asked whose network sees one clip of every video."""

    batch: Count = 8
    """Clips in one call of the network on a GPU; a CPU computes each alone."""
    repeats: Count = 1
    """Draws of videos and starts by as many seeds; the first is the score, mean and spread stand beside."""


@dataclass(frozen=True)
class DistanceSettings(FeatureSettings):
    """What a distance of two sides' features may be asked."""

    real: str = ""
    """Real videos: a folder of them, a folder of folders of frames, a manifest, or saved features."""
    fake: str = ""
    """Generated videos: the same."""
    protocol: str = ""
    """Name of the protocol; `dit eval protocols` lists them."""
    save_real: str = ""
    """File for the real side's features (.safetensors), which another run may take as --real."""
    cache: bool = True
    """Keep both sides' features in the user's cache, under the hashes of all that made them."""
    encoder_sha256: str = ""
    """SHA-256 of the model of transformers in --weights, which certifies it and joins the protocol."""
    uncertified: bool = False
    """Score with a model of transformers whose SHA-256 nothing names; the score is stamped."""


@dataclass(frozen=True)
class LpipsSettings:
    """Whose LPIPS is measured, by which weights."""

    lpips: Literal["alex", "vgg", "squeeze", "none"] = "alex"
    """Trunk of LPIPS; `none` leaves it out, and so do weights that are not there."""
    lpips_trunk: str = ""
    """File with the trunk's weights, torchvision's; without it, it is looked for in the usual places."""
    lpips_heads: str = ""
    """File with LPIPS' own weights of version 0.1; without it, it is looked for in the usual places."""


def inherited(kind: type, settings) -> dict:
    """The values of a class's fields in settings that inherit it, for other settings that do."""
    return {field.name: getattr(settings, field.name) for field in dataclasses.fields(kind)}
