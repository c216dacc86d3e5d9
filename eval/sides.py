"""The two sides of a distance: their clips chosen, their features loaded, kept and saved, their stamps."""

import dataclasses
import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import TypedDict

from configs.load import from_json
from configs.protocol import DistanceProtocol, differences, load_protocol
from configs.ranges import Count
from configs.scoring import DistanceSettings
from eval import scoring
from eval.clips import Clip, Source, choose_clips, open_sources, side_hash, video_of
from eval.features import extract
from eval.groups import ALONE, Groups, check_pattern, find_groups, own_prompt
from eval.machine import features_made_with
from vae.quality.networks import folders
from vae.training.processes import gathered, processes
from vae.training.weights import load_weights, read_header, save_weights


class MadeBy(TypedDict):
    """What made features."""

    protocol: dict
    weights: str


class NeededOfSide(TypedDict):
    """What every side of saved features says."""

    clips: Count


class FeatureSide(NeededOfSide, total=False):
    """What saved features say of their side, of which more is shown than read."""

    which: str
    stamps: list[str]
    passed_over: dict[str, str]
    made_with: dict[str, str]
    rates: dict[str, Count]


class FeatureFacts(TypedDict):
    """The facts of saved features."""

    names: list[str]
    side: FeatureSide


def distance_protocol(settings: DistanceSettings, metric: str) -> DistanceProtocol:
    """The protocol that settings name, with the hash of the network where they name one.

    Raises ValueError for another metric's, and for a hash of a network that is not transformers'.
    """
    protocol = load_protocol(settings.protocol, metric)
    if not settings.encoder_sha256:
        return protocol
    if protocol.network == "i3d":
        raise ValueError(f"--encoder-sha256: the network of {protocol.name} is I3D, whose tensors are known")
    return dataclasses.replace(protocol, network_sha256=settings.encoder_sha256)


def check_save_real(settings: DistanceSettings) -> None:
    """Raises ValueError where the real side's features cannot be saved as they are asked to be."""
    if not settings.save_real:
        return
    if not settings.save_real.endswith(".safetensors"):
        raise ValueError(f"--save-real {settings.save_real}: give a name that ends in .safetensors")
    scoring.check_outputs(other=settings.save_real)
    if Path(settings.save_real).is_file():
        read_header(Path(settings.save_real), "features")  # nothing else is replaced


@dataclass(frozen=True)
class Side:
    """One side's features, and what there is to say of them."""

    values_ND: Tensor
    names: tuple[str, ...]
    facts: dict
    clips: tuple[Clip, ...] = ()  # none of saved features


def load_side(
    settings: DistanceSettings, protocol: DistanceProtocol, which: str, weights: str, network
) -> Side:
    """The features of one side: saved, kept in the cache, or computed; ValueError for too few, or others."""
    where = getattr(settings, which)
    if not where:
        raise ValueError(f"no --{which}: a folder of videos, a manifest, or saved features")
    if where.endswith(".safetensors"):
        names = {field.name for field in dataclasses.fields(DistanceProtocol)} - {"name", "metric"}
        chosen = {name: getattr(protocol, name) for name in names}
        saved = _load_features(Path(where), chosen, weights)
        made_as = saved.facts.pop("which", "real")  # --save-real writes no other
        if made_as != which and not _sides_alike(protocol):
            raise ValueError(
                f"{where} holds features of the {made_as} side, and {protocol.name} chooses --{which} clips "
                "otherwise: give the videos"
            )
        hard = [stamp for stamp in saved.facts["stamps"] if not stamp.startswith(scoring.NOT_CERTIFIED)]
        if hard and not settings.allow_small:
            raise ValueError(f"{where}: {hard[0]}; with --allow-small the score is stamped")
        now = features_made_with(network, settings.batch)
        if processes()[0] == 0 and (other := differences(saved.facts.get("made_with", {}), now)):
            print(f"note: {where} was made with another {'; '.join(other)}", file=sys.stderr)
        return saved
    sources, clips, passed = choose_side(settings, protocol, which)
    side_stamps(settings, protocol, which, sources, len(clips), passed)
    contents = contents_stamps(settings, protocol, which, sources, clips)
    side = cached_features(settings, protocol, clips, which, weights, network)
    passed |= side.facts["passed_over"]
    stamps = side_stamps(settings, protocol, which, sources, len(side.names), passed) + contents
    facts = {"where": Path(where).name, "videos": len(sources)} | side.facts
    facts |= {"passed_over": passed, "stamps": stamps}
    kept = tuple(clip for clip in clips if clip.source.name in {*side.names})
    return dataclasses.replace(side, facts=facts, clips=kept if len(kept) == len(side.names) else ())


def _sides_alike(protocol: DistanceProtocol) -> bool:
    """Whether both sides' clips are as many, and chosen in one way."""
    real, fake = (
        (protocol.of_side(which), count, stride)
        for which, count, stride in (
            ("real", protocol.real, protocol.real_stride),
            ("fake", protocol.fake, protocol.fake_stride),
        )
    )
    return real == fake


def side_groups(
    settings: DistanceSettings, protocol: DistanceProtocol, real: Side, fake: Side
) -> list[Groups]:
    """The groups of both sides' clips; generated ones' also by their prompts, but of saved features.

    UCF-101's prompts are its classes, all of them: strata that both sides have, and no sample of prompts.
    Raises ValueError where --group is found in no name.
    """
    names, fakes = ([video_of(name, protocol) for name in side.names] for side in (real, fake))
    check_pattern(settings.group, names, fakes)
    generated = find_groups(fakes, settings.group)
    if generated.by == ALONE and fake.clips and fake is not real and protocol.data != "ucf101":
        prompts = {clip.source.name: own_prompt(clip.source) for clip in fake.clips}
        generated = find_groups(fakes, settings.group, [prompts.get(name, "") for name in fake.names])
    return [find_groups(names, settings.group), generated]


def choose_side(
    settings: DistanceSettings, protocol: DistanceProtocol, which: str
) -> tuple[list[Source], list[Clip], dict[str, str]]:
    """One side's videos, its clips, and what was passed over with the reason."""
    copies_of = settings.copies_of if which == "fake" else ""
    sources = open_sources(getattr(settings, which), protocol, copies_of)
    stride = protocol.real_stride if which == "real" else protocol.fake_stride
    return sources, *choose_clips(sources, protocol.of_side(which), getattr(protocol, which), stride)


def check_real(settings: DistanceSettings, protocol: DistanceProtocol) -> None:
    """Raises ValueError for real videos that are not as the protocol says."""
    if not settings.real:
        raise ValueError(f"no --real: {protocol.metric.upper()} needs the real videos")
    sources, clips, passed = choose_side(settings, protocol, "real")
    side_stamps(settings, protocol, "real", sources, len(clips), passed)
    contents_stamps(settings, protocol, "real", sources, clips)


def contents_stamps(
    settings: DistanceSettings,
    protocol: DistanceProtocol,
    which: str,
    sources: list[Source],
    clips: list[Clip],
) -> list[str]:
    """The stamp of the real clips' videos, of an official list, whose contents are not certified; each counts
    once, however many clips are of it. ValueError for others."""
    where = getattr(settings, which)
    if which != "real":
        return []
    whole = not scoring.stamp_other_list(settings, protocol, where, sources)
    videos = {
        name: dataclasses.replace(clip.source, name=name)
        for clip in clips
        for name in [video_of(clip.source.name, protocol)]
    }
    return scoring.stamp_contents(settings, protocol, where, [*videos.values()], whole)


def side_stamps(
    settings: DistanceSettings,
    protocol: DistanceProtocol,
    which: str,
    sources: list[Source],
    count: int,
    passed: dict[str, str],
) -> list[str]:
    """The stamps of a side that is not as the protocol says; ValueError unless that is allowed."""
    where = getattr(settings, which)
    other = scoring.stamp_other_list(settings, protocol, where, sources) if which == "real" else []
    return other + scoring.stamp_too_few(settings, protocol, where, count, passed, which)


def cached_features(
    settings: DistanceSettings,
    protocol: DistanceProtocol,
    clips: list[Clip],
    what: str,
    weights: str,
    network,
) -> Side:
    """Features of clips, from the cache where they are there; its name says what they depend on.

    That is what makes features alone, so that distances which differ in their arithmetic share them. Names
    are not in it: the same clips under other names are found, and have those.
    """
    files, makers = side_hash(clips), features_made_with(network, settings.batch)
    depends = [protocol.making(), side_hash(clips, in_order=True), weights, makers]
    key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()
    cached = folders()[0] / "features" / f"{key}.safetensors" if settings.cache else None
    if cached and all(gathered([cached.is_file()])):  # what the first process just wrote, others may not see
        kept = _load_features(cached, protocol.making(), weights)
        return dataclasses.replace(kept, names=tuple(clip.source.name for clip in clips))
    features = extract(clips, protocol, network, settings.batch, settings.workers, what)
    kept = [clip for clip in clips if clip.source.name not in features.passed]
    facts = scoring.clip_facts(kept, files, features.rgb, features.passed) | {"made_with": makers}
    side = Side(features.values_ND, features.names, facts)
    if cached and not features.passed and processes()[0] == 0:
        _save_features(cached, side, protocol, weights)
    return side


def save_real(settings: DistanceSettings, real: Side, protocol: DistanceProtocol, weights: str) -> None:
    """Writes the real side's features where that is asked for; the first process alone does."""
    if settings.save_real and processes()[0] == 0:
        side = dataclasses.replace(real, facts=real.facts | {"which": "real"})
        _save_features(Path(settings.save_real), side, protocol, weights)


def _save_features(file: Path, side: Side, protocol: DistanceProtocol, weights: str) -> None:
    """Writes features with the protocol and weights that made them."""
    settings = {"protocol": dataclasses.asdict(protocol), "weights": weights}
    facts = {"names": side.names, "side": side.facts}
    save_weights(file, {"features": side.values_ND}, "features", settings, facts)


def _load_features(file: Path, wanted: dict, weights: str) -> Side:
    """Saved features; raises ValueError where a protocol of other fields or other weights made them."""
    tensors, header = load_weights(file, "features")
    about = from_json(MadeBy, header.settings, f"{file}, settings in its header")
    facts = from_json(FeatureFacts, header.facts, f"{file}, facts in its header")
    values_ND = tensors.get("features", torch.empty(0))
    if (values_ND.ndim, len(values_ND)) != (2, len(facts["names"])) or not torch.isfinite(values_ND).all():
        raise ValueError(
            f"{file} holds no finite features, a row for each of its {len(facts['names'])} names"
        )
    other = [name for name, value in sorted(wanted.items()) if about["protocol"].get(name) != value]
    if other:
        raise ValueError(f"{file} was made under another protocol: {', '.join(other)} differ")
    if about["weights"] != weights:
        raise ValueError(f"{file} was made with other weights")
    return Side(values_ND.float(), tuple(facts["names"]), {"stamps": []} | facts["side"])
