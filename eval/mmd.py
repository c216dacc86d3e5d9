"""`dit eval mmd`: kernel distances of generated videos to real ones (KVD, JEDi, CMMD), by named protocols."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from configs.load import parse
from configs.protocol import KernelProtocol
from configs.scoring import DistanceSettings
from eval import scoring
from eval.clips import passed_lines
from eval.groups import Groups, check_pattern
from eval.kernel import discrepancies, discrepancy
from eval.networks.load import load_network
from eval.repeats import check_repeats, repeated
from eval.report.page import publish
from eval.sides import check_real, check_save_real, distance_protocol, load_side, save_real, side_groups
from vae.training.device import own_device


@dataclass(frozen=True)
class MmdSettings(DistanceSettings):
    """Score generated videos against real ones by a kernel's mean discrepancy, under a named protocol."""

    protocol: str = "kvd-tats"
    """Name of the protocol; `dit eval protocols` lists them."""


MEANING = scoring.Meaning(
    "MMD",
    better="lower",
    measures="How far generated clips lie from real ones as a set: the mean discrepancy by a kernel of what "
    "a network makes of them, which assumes no Gaussian; 0 is the same set.",
    blind="What its network does not see, and what happens after a clip's frames. An unbiased estimate may "
    "fall below 0 by chance; values compare under one protocol alone.",
    interval="of the expected score at these numbers of clips, by bootstrap over the videos of either side",
)


def mmd(settings: MmdSettings) -> dict:
    """The score with all that it depends on; written as JSON where that is asked for.

    Raises ValueError for what makes no score: no weights, too few clips, features of another protocol.
    """
    protocol = distance_protocol(settings, "mmd")
    scoring.check_outputs(settings.json, settings.report)
    check_save_real(settings)
    check_pattern(settings.group)
    check_repeats(settings.repeats, protocol, settings.real, settings.fake)
    network, weights, uncertified = load_network(protocol, settings)
    network.to(own_device())
    real, fake = (load_side(settings, protocol, which, weights, network) for which in ("real", "fake"))
    groups = side_groups(settings, protocol, real, fake)
    value = discrepancy(real.values_ND, fake.values_ND, protocol)
    parts = {
        "real": real.facts,
        "fake": fake.facts,
        "interval": _interval(real.values_ND, fake.values_ND, protocol, settings.resamples, value, groups),
        "groups": {"real": groups[0].facts(), "fake": groups[1].facts()},
    }
    seeded = [scoring.seeded_stamp(protocol.title)] * settings.smoke
    stamps = seeded + uncertified + real.facts["stamps"] + fake.facts["stamps"]
    result = scoring.result_of(protocol, value, stamps, weights, next(network.buffers()).device, parts)
    save_real(settings, real, protocol, weights)

    def again(other: KernelProtocol) -> float:
        sides = (load_side(settings, other, which, weights, network) for which in ("real", "fake"))
        return discrepancy(*(side.values_ND for side in sides), other)

    result |= repeated(value, settings.repeats, protocol, again)
    publish(result, settings, sentence(result))
    return result


def _interval(
    real_ND: Tensor,
    fake_ND: Tensor,
    protocol: KernelProtocol,
    resamples: int,
    value: float,
    groups: Sequence[Groups] = (),
) -> dict | None:
    """The interval by bootstrap; the kernel is computed once for all resamples, which are drawn before."""
    sides, drawn = tuple(torch.arange(len(side)) for side in (real_ND, fake_ND)), []

    def note(*indices: Tensor) -> float:
        drawn.append(indices)
        return 0.0

    scoring.interval(note, sides, resamples, protocol.seed, groups=groups)
    if not drawn:
        return None
    counts = [
        torch.stack([torch.bincount(indices[k], minlength=len(sides[k])) for indices in drawn], dim=1)
        for k in range(2)
    ]
    values = iter(discrepancies(real_ND, fake_ND, protocol, *counts).tolist())
    least = -torch.inf if protocol.unbiased else 0.0
    return scoring.interval(lambda *_: next(values), sides, resamples, protocol.seed, value, least, groups)


def sentence(result: dict) -> str:
    """A score as lines for the terminal."""
    counts = f"{result['real']['clips']} real, {result['fake']['clips']} generated clips"
    lines = scoring.opening_lines(result, result["protocol"]["title"], "distance", counts)
    for which, called in (("real", "real"), ("fake", "generated")):
        lines += [f"{called}: {line}" for line in passed_lines(result[which].get("passed_over", {}))]
    return "\n".join(lines)


def own_in_run(run, videos: str) -> dict:
    """What `dit eval run` says of kernel distances alone."""
    return {"real": run.real, "fake": videos, "weights": run.i3d}


def _check_in_run(settings: MmdSettings) -> None:
    """Raises ValueError for real videos that are not as the protocol says, and for other weights."""
    protocol = distance_protocol(settings, "mmd")
    check_real(settings, protocol)
    load_network(protocol, settings)


METRIC = scoring.Metric(MmdSettings, own_in_run, _check_in_run, mmd)


def main(arguments: list[str]) -> None:
    """The verb `dit eval mmd`."""
    mmd(parse(MmdSettings, arguments, prog="dit eval mmd"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("eval mmd")
