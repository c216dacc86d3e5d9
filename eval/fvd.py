"""`dit eval fvd`: the Frechet video distance of generated videos to real ones, under a named protocol."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from configs.load import parse
from configs.protocol import FvdProtocol, load_protocol
from configs.ranges import CountOrZero
from configs.scoring import DistanceSettings, ScoringSettings, inherited
from eval import motion, panel, scoring
from eval.clips import Clip, choose_clips, passed_lines, video_of
from eval.frechet import checked_distance, quickest_distance
from eval.groups import check_pattern, find_groups
from eval.interval import many_clips
from eval.networks.certify import SMOKE
from eval.networks.load import load_network
from eval.repeats import check_repeats, repeated
from eval.report.page import publish
from eval.sides import (
    Side,
    cached_features,
    check_real,
    check_save_real,
    choose_side,
    distance_protocol,
    load_side,
    save_real,
    side_groups,
)
from vae.training.device import own_device


@dataclass(frozen=True)
class FvdSettings(DistanceSettings):
    """Score generated videos against real ones by the Frechet video distance, under a named protocol."""

    panel: bool = False
    """Also score the real set against other real clips."""
    motion_clips: CountOrZero = 128
    """Clips a side that tell content from motion where --json or --report is given; 0 leaves it out."""


LEAST_OF_PANEL = 4  # real clips: two in each half
MEANING = scoring.Meaning(
    "FVD",
    better="lower",
    measures="How far generated clips lie from real ones as a set: the Frechet distance of two Gaussians, "
    "fitted to what I3D, a network of actions, makes of the clips of either side. 0 is the same set.",
    blind="Whether a video shows its prompt, what happens after a clip's frames, and much of what is wrong "
    "with motion: frozen or shuffled frames may cost less than an eye would say. It falls with the number "
    "of clips and moves with its protocol: compare it at equal numbers, under one protocol.",
    interval="of the expected score at these numbers of clips, not of the true distance, by bootstrap over "
    "the videos of either side",
)


def fvd(settings: FvdSettings) -> dict:
    """The score with all that it depends on; written as JSON where that is asked for.

    Raises ValueError for what makes no score: no weights, too few clips, features of another protocol.
    """
    protocol = distance_protocol(settings, "fvd")
    if settings.panel and settings.real.endswith(".safetensors"):
        raise ValueError("--panel needs the real videos: give --real their folder, not saved features")
    scoring.check_outputs(settings.json, settings.report)
    check_save_real(settings)
    check_pattern(settings.group)
    check_repeats(settings.repeats, protocol, settings.real, settings.fake)
    network, weights, uncertified = load_network(protocol, settings)
    network.to(own_device())
    if settings.panel and settings.real:
        _check_panel(len(choose_side(settings, protocol, "real")[1]))  # before their features are computed
    real = load_side(settings, protocol, "real", weights, network)
    if settings.panel:
        _check_panel(len(real.names))
    fake = load_side(settings, protocol, "fake", weights, network)
    panels = _panel_of(settings, protocol, real, weights, network) if settings.panel else None
    paired = bool(settings.copies_of) and Path(settings.copies_of).resolve() == Path(settings.real).resolve()
    device = next(network.buffers()).device
    result = score_sides(
        settings, protocol, real, fake, weights, device, panels, paired and real.names == fake.names
    )
    result["stamps"] = uncertified + result["stamps"]
    result["motion"] = _motion_of(settings, protocol, real, fake, weights, network)
    save_real(settings, real, protocol, weights)

    def again(other: FvdProtocol) -> float:
        sides = (load_side(settings, other, which, weights, network) for which in ("real", "fake"))
        return checked_distance(*(side.values_ND for side in sides), other.ddof)[0]

    result |= repeated(result["value"], settings.repeats, protocol, again)
    publish(result, settings, sentence(result))
    return result


def fvd_of(settings: ScoringSettings, real: str, fake: str, protocol: str) -> FvdSettings:
    """FVD of reconstructions as another verb's settings ask for it; JSON and page are that verb's.

    Raises ValueError for a protocol of another network than I3D, of which only `dit eval fvd` takes the hash.
    """
    if protocol and (network := load_protocol(protocol, "fvd").network) != "i3d":
        raise ValueError(f"{protocol} takes {network}: dit eval fvd --real … --fake … scores by it")
    asked = inherited(ScoringSettings, settings) | {"json": "", "report": "", "copies_of": real}
    return FvdSettings(real=real, fake=fake, protocol=protocol, **asked)


def score_sides(
    settings: ScoringSettings,
    protocol: FvdProtocol,
    real: Side,
    fake: Side,
    weights: str,
    device: torch.device,
    panels: dict | None = None,
    paired: bool = False,
) -> dict:
    """The score of two sides with all that stands beside it; they may be `paired`, copies and originals."""
    stamps = [SMOKE] * settings.smoke + real.facts["stamps"] + fake.facts["stamps"]
    value, difference = checked_distance(real.values_ND, fake.values_ND, protocol.ddof)
    values, distance = (real.values_ND, fake.values_ND), partial(quickest_distance, ddof=protocol.ddof)
    sides = real.values_ND, real.names, fake.values_ND, fake.names
    groups = side_groups(settings, protocol, real, fake)
    parts = {
        "real": real.facts,
        "fake": fake.facts,
        "methods_differ_by": difference,
        # Of sets that chance alone keeps apart it is about twice as wide as it need be.
        "interval": scoring.interval(
            distance, values, settings.resamples, protocol.seed, value, 0.0, groups, paired=paired
        ),
        **many_clips(*values, protocol.ddof, protocol.seed, groups, settings.resamples > 0, paired),
        "groups": {"real": groups[0].facts(), "fake": groups[1].facts()},
        "panel": panels,
        "nearest": panel.nearest(*sides, groups[0]),
        "classes": panel.classes(*sides, protocol.ddof),
    }
    return scoring.result_of(protocol, value, stamps, weights, device, parts)


def _check_panel(clips: int) -> None:
    """Raises ValueError for fewer real clips than two halves of a set need."""
    if clips < LEAST_OF_PANEL:
        raise ValueError(f"--panel needs at least {LEAST_OF_PANEL} real clips, not {clips}")


def _panel_of(settings: FvdSettings, protocol: FvdProtocol, real: Side, weights: str, network) -> dict:
    """The panel: what real clips score against other real ones."""
    sources, _, _ = choose_side(settings, protocol, "real")
    by_name = [source.name for source in sources]
    group_of = dict(zip(by_name, find_groups(by_name, settings.group).of, strict=True))
    there = {group_of[video_of(name, protocol)] for name in real.names}
    rest = [source for source in sources if group_of[source.name] not in there]
    others, _ = choose_clips(rest, protocol, len(real.names), protocol.real_stride)

    far = None
    if len(others) == len(real.names):
        far = cached_features(settings, protocol, others, "other real clips", weights, network).values_ND
    groups, _ = side_groups(settings, protocol, real, real)
    return {"floor": panel.floor(real.values_ND, far, protocol.ddof, groups)}


def _motion_of(
    settings: FvdSettings, protocol: FvdProtocol, real: Side, fake: Side, weights: str, network
) -> dict | None:
    """What FVD cannot see, of a few clips a side; None where that is not asked for, or of saved features."""
    count = min(settings.motion_clips, len(real.clips), len(fake.clips))
    if count < protocol.least or not (settings.json or settings.report):
        return None

    def features(of: list[Clip], what: str) -> Tensor:
        return cached_features(settings, protocol, of, what, weights, network).values_ND

    drawn = []
    for side in (real, fake):
        places = motion.draw([clip.source.key for clip in side.clips], count, protocol.seed)
        drawn.append(([side.clips[k] for k in places], side.values_ND[places]))
    return motion.measure(*drawn, protocol, features)


def sentence(result: dict) -> str:
    """A score as lines for the terminal."""
    counts = f"{result['real']['clips']} real, {result['fake']['clips']} generated clips"
    lines = scoring.opening_lines(result, "FVD", "distance", counts)
    rates = [sorted(result[which].get("rates", {}), key=float) for which in ("real", "fake")]
    if all(rates) and rates[0] != rates[1]:
        real, fake = (", ".join(some[:3]) + (" and others" if some[3:] else "") for some in rates)
        lines.append(
            f"note: real videos have {real} frames a second, generated ones {fake}; a protocol counts "
            "frames, so that another speed is another motion"
        )
    if result["panel"]:
        chance = result["panel"]["floor"]
        counts = " and ".join(map(str, chance["clips"]))
        lines.append(f"real against real {chance['value']:.2f} ({counts} clips)")
    lines += motion.in_words(result["motion"]) if result["motion"] else []
    near = result["nearest"]
    lines.append(
        f"copies: {near['closer']:.1%} of the generated clips are nearer to a real one than real ones are "
        f"(1 % by chance), {near['same']} have the features of a real one"
    )
    for which, called in (("real", "real"), ("fake", "generated")):
        lines += [f"{called}: {line}" for line in passed_lines(result[which].get("passed_over", {}))]
    return "\n".join(lines)


def own_in_run(run, videos: str) -> dict:
    """What `dit eval run` says of FVD alone."""
    return {"real": run.real, "fake": videos, "weights": run.i3d, "panel": run.panel}


def _check_in_run(settings: FvdSettings) -> None:
    """Raises ValueError for real videos that are not as the protocol says, and for other weights."""
    protocol = distance_protocol(settings, "fvd")
    check_real(settings, protocol)
    load_network(protocol, settings)


METRIC = scoring.Metric(FvdSettings, own_in_run, _check_in_run, fvd)


def main(arguments: list[str]) -> None:
    """The verb `dit eval fvd`."""
    fvd(parse(FvdSettings, arguments, prog="dit eval fvd"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("eval fvd")
