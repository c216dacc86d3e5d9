"""`dit eval is`: the Inception score of videos by C3D (Salimans et al. 2016), under a named protocol."""

from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from torch import Tensor

from configs.load import parse
from configs.protocol import Protocol, load_protocol, load_protocols, protocol_names
from eval.clips import choose_clips, clips_of, find_sources, passed_lines, side_hash
from eval.features import extract
from eval.networks.c3d import C3D
from eval.networks.certify import load_c3d
from eval.scoring import publish, scored
from vae.data.video import decoder
from vae.training.files import check_writable
from vae.training.processes import own_device, processes
from vae.training.seeds import generator


@dataclass(frozen=True)
class InceptionSettings:
    """Score how sure and how varied videos of UCF-101's classes are, by the Inception score of C3D."""

    videos: str = ""
    """Videos: a folder of them, a folder of folders of frames, or a manifest."""
    protocol: str = "is-c3d-10k"
    """Name of the protocol; `dit eval protocols` lists them."""
    json: str = ""
    """File for the score with its protocol, as JSON."""
    weights: str = ""
    """File with C3D's weights; without it, it is looked for as `dit eval weights` says."""
    mean: str = ""
    """File with C3D's mean, mean2.npz; without it, it is looked for likewise."""
    uncertified: bool = False
    """Score with weights that nothing certifies; the score is stamped."""
    allow_small: bool = False
    """Score fewer videos than the protocol says; the score is stamped."""
    smoke: bool = False
    """Run with a seeded network; the score is stamped: it is no Inception score."""
    batch: int = 8
    """Clips in one call of the network on a GPU; a CPU computes each alone."""
    workers: int = 2
    """Processes that read videos while the network computes."""
    resamples: int = 200
    """Bootstrap samples of the confidence interval; 0 makes none."""


SMOKE = "NOT IS: seeded network"
UNCERTIFIED = "C3D is not certified: no checksum of its weights is published"


def inception_score(p_ND: Tensor, splits: int, shuffle: int = -1, added: float = 0.0) -> tuple[float, float]:
    """Mean and standard deviation over splits of exp(mean over clips of KL(p(y|x) || p(y))), in float64.

    The splits matter: the fewer clips in one, the lower its score. Raises ValueError for rows that are no
    probabilities, and for fewer clips than splits.
    """
    p = p_ND.double().cpu()
    if p.dim() != 2 or not torch.isfinite(p).all() or (p < 0).any() or (p.sum(1) - 1).abs().max() > 1e-4:
        raise ValueError("the Inception score takes rows of probabilities N D, each of sum 1")
    if len(p) < splits:
        raise ValueError(f"{len(p)} clips do not make {splits} splits")
    if shuffle >= 0:
        order = numpy.random.RandomState(shuffle).permutation(len(p))
        p = p[torch.from_numpy(order)]
    scores = []
    for split in range(splits):
        part = p[split * len(p) // splits : (split + 1) * len(p) // splits]
        ratio = (part + added).log() - (part.mean(0) + added).log()
        scores.append(torch.where(part > 0, part * ratio, 0.0).sum(1).mean().exp())
    values = torch.stack(scores)
    return values.mean().item(), values.std(correction=0).item()


def of_protocol(p_ND: Tensor, protocol: Protocol) -> tuple[float, float]:
    """The score under a protocol's splits."""
    return inception_score(p_ND, protocol.splits, protocol.shuffle, protocol.added)


def inception(settings: InceptionSettings) -> dict:
    """The score with all that it depends on; written as JSON where that is asked for.

    Raises ValueError for what makes no score: no weights, too few videos.
    """
    protocol = load_protocol(settings.protocol, "is")
    for name, least in {"batch": 1, "workers": 0, "resamples": 0}.items():
        if getattr(settings, name) < least:
            raise ValueError(f"--{name} {getattr(settings, name)}: it must be at least {least}")
    if not settings.videos:
        raise ValueError("no --videos: a folder of videos, or a manifest")
    if settings.json and processes()[0] == 0:
        check_writable(Path(settings.json))
    sources = find_sources(settings.videos)
    clips, passed = choose_clips(sources, protocol, protocol.fake, protocol.fake_stride)
    small = enough(settings, len(clips), protocol, passed)
    tensors, mean, weights = load_c3d(settings.weights, settings.mean, settings.smoke, settings.uncertified)
    network = C3D(tensors, mean).eval().to(own_device())
    made = extract(clips, protocol, network, settings.batch, settings.workers, "videos")
    if made.passed:
        passed |= made.passed
        small = enough(settings, len(made.names), protocol, passed)
    p = made.values_ND.double().softmax(dim=1)
    value, deviation = of_protocol(p, protocol)
    parts = {
        "deviation": deviation,
        "real": {},
        "fake": {
            "where": Path(settings.videos).name,
            "videos": len(sources),
            "clips": len(made.names),
            "files_sha256": side_hash(clips),
            "rgb_sha256": made.rgb,
            "decoder": decoder(),
            "passed_over": passed,
        },
        "interval": interval(p, protocol, settings.resamples),
        "other_splits": others(p, protocol),
    }
    stamps = [SMOKE if settings.smoke else UNCERTIFIED, *small]
    result = scored(protocol, value, stamps, weights, next(network.buffers()).device, parts)
    publish(result, settings.json, sentence(result))
    return result


def enough(settings: InceptionSettings, have: int, protocol: Protocol, passed: dict) -> list[str]:
    """The stamp of fewer videos than the protocol says; ValueError unless that is allowed."""
    if have >= protocol.fake:
        return []
    why = f"; passed over: {'; '.join(list(passed.values())[:2])}" if passed else ""
    if have < protocol.splits or not settings.allow_small:
        can = have >= protocol.splits
        raise ValueError(
            f"{settings.videos} gives {clips_of(have)} of {protocol.frames} frames, and {protocol.name} "
            f"takes {protocol.fake}"
            + (": with --allow-small the score is stamped" if can else f", and at least {protocol.splits}")
            + why
        )
    return [f"small: {have} of {protocol.fake} videos"]


def interval(p_ND: Tensor, protocol: Protocol, resamples: int) -> dict | None:
    """A 95 % interval by bootstrap over videos: the resamples' spread about their mean, around the score."""
    if not resamples:
        return None
    random, count = generator(protocol.seed, "bootstrap"), len(p_ND)
    drawn = [torch.randint(count, (count,), generator=random) for _ in range(resamples)]
    values = torch.tensor([of_protocol(p_ND[rows], protocol)[0] for rows in drawn], dtype=torch.float64)
    low, high = (values.quantile(q) - values.mean() for q in (0.025, 0.975))
    value = of_protocol(p_ND, protocol)[0]
    return {"low": max(1.0, value + low.item()), "high": value + high.item(), "resamples": resamples}


def others(p_ND: Tensor, protocol: Protocol) -> dict[str, float]:
    """What the same probabilities score in the splits of the other protocols of this metric."""
    every = (load_protocols(name).get("is") for name in protocol_names())
    same = [p for p in every if p and p.name != protocol.name and p.splits <= len(p_ND)]
    return {p.name: of_protocol(p_ND, p)[0] for p in same}


def sentence(result: dict) -> str:
    """A score as lines for the terminal."""
    value, about = result["value"], result["protocol"]
    smoke = SMOKE in result["stamps"]
    line = f"{'score' if smoke else 'IS'} {value:.4f} +- {result['deviation']:.4f}"
    line += f" over {about['splits']} split{'s' * (about['splits'] > 1)}"
    if result["interval"]:
        low, high = (result["interval"][end] for end in ("low", "high"))
        line += f"  (95 % interval {low:.4f} to {high:.4f})"
    stamps = [stamp.upper() if stamp == SMOKE else stamp for stamp in result["stamps"]]
    side = result["fake"]
    lines = [*stamps, line, f"{about['name']} ({result['protocol_sha256'][:12]}), {side['clips']} videos"]
    lines += [f"in the splits of {name} {score:.4f}" for name, score in result["other_splits"].items()]
    return "\n".join(lines + passed_lines(side["passed_over"]))


def main(arguments: list[str]) -> None:
    """The verb `dit eval is`."""
    inception(parse(InceptionSettings, arguments, prog="dit eval is"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("eval is")
