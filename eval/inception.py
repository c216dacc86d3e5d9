"""`dit eval is`: the Inception score of videos by C3D (Salimans et al. 2016), under a named protocol."""

from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from torch import Tensor

from configs.load import parse
from configs.protocol import InceptionProtocol, load_protocol, load_protocols, protocol_names
from configs.scoring import FeatureSettings
from eval import scoring
from eval.clips import choose_clips, open_sources, passed_lines, side_hash
from eval.features import extract
from eval.groups import check_pattern, find_groups
from eval.networks.c3d import C3D
from eval.networks.certify import load_c3d
from eval.repeats import check_repeats, repeated
from eval.report.page import publish
from vae.training.device import own_device


@dataclass(frozen=True)
class InceptionSettings(FeatureSettings):
    """Score how sure and how varied videos of UCF-101's classes are, by the Inception score of C3D."""

    videos: str = ""
    """Videos: a folder of them, a folder of folders of frames, or a manifest."""
    protocol: str = "is-c3d-10k"
    """Name of the protocol; `dit eval protocols` lists them."""
    mean: str = ""
    """File with C3D's mean, mean2.npz; without it, it is looked for as its weights are."""
    uncertified: bool = False
    """Score with weights that nothing certifies; the score is stamped."""


SMOKE = scoring.seeded_stamp("IS")
MEANING = scoring.Meaning(
    "IS",
    better="higher",
    measures="How surely C3D, a classifier of UCF-101, says what each video shows, and how varied that is "
    "over all: from 1, where it is never sure or always says the same, to 101, the number of classes.",
    blind="Real videos, which it is not given; variety within a class, of which one video would do; all that "
    "no class of UCF-101 is about. It falls with the number of clips in a split.",
    interval="of the expected score at this number of videos and these splits, by bootstrap over them",
)
UNCERTIFIED = "C3D is not certified: no checksum of its weights is published"


def inception_score(
    p_ND: Tensor, splits: int, shuffle: int | None = None, added: float = 0.0
) -> tuple[float, float]:
    """Mean and standard deviation over splits of exp(mean over clips of KL(p(y|x) || p(y))), in float64.

    The splits matter: the fewer clips in one, the lower its score. Raises ValueError for rows that are no
    probabilities, and for fewer clips than splits.
    """
    p = p_ND.double().cpu()
    if p.dim() != 2 or not torch.isfinite(p).all() or (p < 0).any() or (p.sum(1) - 1).abs().max() > 1e-4:
        raise ValueError("the Inception score takes rows of probabilities N D, each of sum 1")
    if len(p) < splits:
        raise ValueError(f"{len(p)} clips do not make {splits} splits")
    if shuffle is not None:
        order = numpy.random.RandomState(shuffle).permutation(len(p))
        p = p[torch.from_numpy(order)]
    scores = []
    for split in range(splits):
        part = p[split * len(p) // splits : (split + 1) * len(p) // splits]
        ratio = (part + added).log() - (part.mean(0) + added).log()
        scores.append(torch.where(part > 0, part * ratio, 0.0).sum(1).mean().exp())
    values = torch.stack(scores)
    return values.mean().item(), values.std(correction=0).item()


def of_protocol(p_ND: Tensor, protocol: InceptionProtocol) -> tuple[float, float]:
    """The score under a protocol's splits."""
    return inception_score(p_ND, protocol.splits, protocol.shuffle, protocol.added)


def inception(settings: InceptionSettings) -> dict:
    """The score with all that it depends on; written as JSON where that is asked for.

    Raises ValueError for what makes no score: no weights, too few videos.
    """
    protocol = load_protocol(settings.protocol, "is")
    if not settings.videos:
        raise ValueError("no --videos: a folder of videos, or a manifest")
    scoring.check_outputs(settings.json, settings.report)
    sources = open_sources(settings.videos, protocol, settings.copies_of)
    clips, passed = choose_clips(sources, protocol, protocol.fake, protocol.fake_stride)
    scoring.stamp_too_few(settings, protocol, settings.videos, len(clips), passed)
    check_repeats(settings.repeats, protocol, chosen=len(sources) - len(passed) > len(clips))
    check_pattern(settings.group, [clip.source.name for clip in clips])
    tensors, mean, weights = load_network(settings)
    network = C3D(tensors, mean).eval().to(own_device())
    features = extract(clips, protocol, network, settings.batch, settings.workers, "videos")
    passed |= features.passed
    small = scoring.stamp_too_few(settings, protocol, settings.videos, len(features.names), passed)
    kept = [clip for clip in clips if clip.source.name not in features.passed]
    p_ND = features.values_ND.double().softmax(dim=1)
    value, deviation = of_protocol(p_ND, protocol)

    groups = find_groups(features.names, settings.group)  # by prompts no: they are the classes, all of them

    def resampled(drawn_ND: Tensor) -> float:
        return of_protocol(drawn_ND, protocol)[0]

    parts = {
        "deviation": deviation,
        "real": {},
        "fake": {"where": Path(settings.videos).name, "videos": len(sources)}
        | scoring.clip_facts(kept, side_hash(clips), features.rgb, passed),
        "interval": scoring.interval(
            resampled, (p_ND,), settings.resamples, protocol.seed, value, least=1.0, groups=(groups,)
        ),
        "groups": {"": groups.facts()},
        "other_splits": _in_other_splits(p_ND, protocol),
    }
    stamps = [SMOKE if settings.smoke else UNCERTIFIED, *small]
    result = scoring.result_of(protocol, value, stamps, weights, next(network.buffers()).device, parts)

    def again(other: InceptionProtocol) -> float:
        drawn, _ = choose_clips(sources, other, other.fake, other.fake_stride)
        values_ND = extract(drawn, other, network, settings.batch, settings.workers, "videos").values_ND
        return of_protocol(values_ND.double().softmax(dim=1), other)[0]

    result |= repeated(value, settings.repeats, protocol, again)
    publish(result, settings, sentence(result))
    return result


def load_network(settings: InceptionSettings) -> tuple[dict[str, Tensor], Tensor, str]:
    """C3D's tensors, its mean and their hash; ValueError where there are none, or uncertified ones."""
    return load_c3d(settings.weights, settings.mean, settings.smoke, settings.uncertified)


def _in_other_splits(p_ND: Tensor, protocol: InceptionProtocol) -> dict[str, float]:
    """What the same probabilities score in the splits of the other protocols of this metric."""
    every = (load_protocols(name).get("is") for name in protocol_names())
    same = [p for p in every if p and p.name != protocol.name and p.splits <= len(p_ND)]
    return {p.name: of_protocol(p_ND, p)[0] for p in same}


def sentence(result: dict) -> str:
    """A score as lines for the terminal."""
    splits, side = result["protocol"]["splits"], result["fake"]
    note = f" +- {result['deviation']:.4f} over {splits} split{'s' * (splits > 1)}"
    lines = scoring.opening_lines(result, "IS", "score", f"{side['clips']} videos", note=note)
    lines += [f"in the splits of {name} {score:.4f}" for name, score in result["other_splits"].items()]
    return "\n".join(lines + passed_lines(side["passed_over"]))


def own_in_run(run, videos: str) -> dict:
    """What `dit eval run` says of the Inception score alone."""
    weights = {"weights": run.c3d, "mean": run.c3d_mean, "uncertified": run.uncertified}
    return {"videos": videos, **weights}


METRIC = scoring.Metric(InceptionSettings, own_in_run, load_network, inception)


def main(arguments: list[str]) -> None:
    """The verb `dit eval is`."""
    inception(parse(InceptionSettings, arguments, prog="dit eval is"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("eval is")
