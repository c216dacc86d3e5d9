"""`dit eval fvd`: the Frechet video distance of generated videos to real ones, under a named protocol."""

import dataclasses
import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import TypedDict

from configs.load import from_json, parse
from configs.protocol import FvdProtocol, load_protocol
from configs.ranges import Count
from configs.scoring import FeatureSettings, ScoringSettings, inherited
from eval import panel, report, scoring
from eval.clips import Clip, Source, choose_clips, find_sources, passed_lines, side_hash
from eval.features import extract
from eval.frechet import at_infinity, checked_distance, quickest_distance
from eval.networks.certify import SMOKE, load_i3d
from vae.data.video import decoder
from vae.quality.networks import folders
from vae.training.files import write_text
from vae.training.processes import own_device, processes
from vae.training.weights import load_weights, read_header, save_weights


@dataclass(frozen=True)
class FvdSettings(FeatureSettings):
    """Score generated videos against real ones by the Frechet video distance, under a named protocol."""

    real: str = ""
    """Real videos: a folder of them, a folder of folders of frames, a manifest, or saved features."""
    fake: str = ""
    """Generated videos: the same."""
    protocol: str = ""
    """Name of the protocol; `dit eval protocols` lists them."""
    report: str = ""
    """HTML file for a page with tables, plots and pictures, which opens offline."""
    save_real: str = ""
    """File for the real side's features (.safetensors), which another run may take as --real."""
    cache: bool = True
    """Keep the real side's features in the user's cache, under the hashes of protocol, files and weights."""
    panel: bool = False
    """Also score the real set against other real clips, and its frames shuffled, reversed and frozen."""


SHOWN = 5  # pairs in a report's picture


@dataclass(frozen=True)
class Side:
    """One side's features, and what there is to say of them."""

    values_ND: Tensor
    names: tuple[str, ...]
    facts: dict


def fvd(settings: FvdSettings) -> dict:
    """The score with all that it depends on; written as JSON where that is asked for.

    Raises ValueError for what makes no score: no weights, too few clips, features of another protocol.
    """
    protocol = load_protocol(settings.protocol, "fvd")
    if settings.save_real and not settings.save_real.endswith(".safetensors"):
        raise ValueError(f"--save-real {settings.save_real}: give a name that ends in .safetensors")
    if settings.panel and settings.real.endswith(".safetensors"):
        raise ValueError("--panel needs the real videos: give --real their folder, not saved features")
    scoring.check_outputs(settings.json, settings.report, settings.save_real)
    if settings.save_real and Path(settings.save_real).is_file():
        read_header(Path(settings.save_real), "features")  # nothing else is replaced
    network, weights = load_i3d(protocol.eps, settings.weights, settings.smoke)
    network.to(own_device()).to(memory_format=torch.channels_last_3d)
    real = _load_side(settings, protocol, "real", weights, network)
    if settings.panel and len(real.names) < 4:
        raise ValueError(f"--panel needs at least 4 real clips, not {len(real.names)}")
    fake = _load_side(settings, protocol, "fake", weights, network)
    panels = _panel_of(settings, protocol, real, weights, network) if settings.panel else None
    result = score_sides(settings, protocol, real, fake, weights, next(network.buffers()).device, panels)
    if processes()[0] == 0:
        if settings.save_real:
            _save_features(Path(settings.save_real), real, protocol, weights)
        if settings.report:
            write_text(Path(settings.report), report.page(result, sheets(settings, protocol, result)))
    scoring.publish(result, settings.json, sentence(result))
    return result


def fvd_of(settings: ScoringSettings, real: str, fake: str, protocol: str) -> FvdSettings:
    """FVD between two sides as another verb's settings ask for it; the JSON is that verb's."""
    asked = inherited(ScoringSettings, settings) | {"json": ""}
    return FvdSettings(real=real, fake=fake, protocol=protocol, **asked)


def score_sides(
    settings: ScoringSettings,
    protocol: FvdProtocol,
    real: Side,
    fake: Side,
    weights: str,
    device: torch.device,
    panels: dict | None = None,
) -> dict:
    """The score of two sides with all that stands beside it."""
    stamps = [SMOKE] * settings.smoke + real.facts["stamps"] + fake.facts["stamps"]
    value, difference = checked_distance(real.values_ND, fake.values_ND, protocol.ddof)
    values, distance = (real.values_ND, fake.values_ND), partial(quickest_distance, ddof=protocol.ddof)
    sides = real.values_ND, real.names, fake.values_ND, fake.names
    parts = {
        "real": real.facts,
        "fake": fake.facts,
        "methods_differ_by": difference,
        # Of sets that chance alone keeps apart it is about twice as wide as it need be.
        "interval": scoring.interval(distance, values, settings.resamples, protocol.seed, value, least=0.0),
        "infinity": at_infinity(*values, protocol.ddof, protocol.seed),
        "panel": panels,
        "nearest": panel.nearest(*sides),
        "classes": panel.classes(*sides, protocol.ddof),
    }
    return scoring.result_of(protocol, value, stamps, weights, device, parts)


def sheets(settings: FvdSettings, protocol: FvdProtocol, result: dict) -> dict[str, bytes]:
    """Pictures of the generated clips nearest to a real one and farthest from any; none of saved features."""
    if settings.real.endswith(".safetensors") or settings.fake.endswith(".safetensors"):
        return {}
    clips = {}
    for which in ("real", "fake"):
        _, scored_clips, _ = _choose_side(settings, protocol, which)
        clips[which] = {clip.source.name: clip for clip in scored_clips}
    near = result["nearest"]
    nearest = near["pairs"][:SHOWN]
    farthest = [pair for pair in near["farthest"][:SHOWN] if pair not in nearest]
    titles = {"Nearest to a real clip": nearest, "Farthest from any real clip": farthest}
    pages = {title: report.pair_sheet(pairs, clips["fake"], clips["real"]) for title, pairs in titles.items()}
    return {title: picture for title, picture in pages.items() if picture}


def _load_side(settings: FvdSettings, protocol: FvdProtocol, which: str, weights: str, network) -> Side:
    """The features of one side: saved, kept in the cache, or computed; ValueError for too few, or others."""
    where = getattr(settings, which)
    if not where:
        raise ValueError(f"no --{which}: a folder of videos, a manifest, or saved features")
    if where.endswith(".safetensors"):
        saved = _load_features(Path(where), protocol, weights)
        if saved.facts["stamps"] and not settings.allow_small:
            raise ValueError(f"{where}: {saved.facts['stamps'][0]}; with --allow-small the score is stamped")
        return saved
    sources, clips, passed = _choose_side(settings, protocol, which)
    side_stamps(settings, protocol, which, sources, len(clips), passed)
    side = _cached_features(settings, protocol, clips, which, which == "real", weights, network)
    passed |= side.facts["passed_over"]
    stamps = side_stamps(settings, protocol, which, sources, len(side.names), passed)
    about = {"where": Path(where).name, "videos": len(sources)}
    return dataclasses.replace(side, facts=about | side.facts | {"passed_over": passed, "stamps": stamps})


def _choose_side(
    settings: FvdSettings, protocol: FvdProtocol, which: str
) -> tuple[list[Source], list[Clip], dict[str, str]]:
    """One side's videos, its clips, and what was passed over with the reason."""
    sources = find_sources(getattr(settings, which))
    stride = protocol.real_stride if which == "real" else protocol.fake_stride
    return sources, *choose_clips(sources, protocol, getattr(protocol, which), stride)


def side_stamps(
    settings: FvdSettings,
    protocol: FvdProtocol,
    which: str,
    sources: list[Source],
    count: int,
    passed: dict[str, str],
) -> list[str]:
    """The stamps of a side that is not as the protocol says; ValueError unless that is allowed."""
    where = getattr(settings, which)
    other = scoring.stamp_other_list(settings, protocol, where, sources) if which == "real" else []
    return other + scoring.stamp_too_few(settings, protocol, where, count, passed, which)


def _cached_features(
    settings: FvdSettings,
    protocol: FvdProtocol,
    clips: list[Clip],
    what: str,
    keep: bool,
    weights: str,
    network,
) -> Side:
    """Features of clips, from the cache where they are there; its name says what they depend on."""
    files = side_hash(clips)
    key = hashlib.sha256(f"{protocol.hash()} {files} {weights} {decoder()}".encode()).hexdigest()
    cached = folders()[0] / "features" / f"{key}.safetensors" if settings.cache and keep else None
    if cached and cached.is_file():
        return _load_features(cached, protocol, weights)
    features = extract(clips, protocol, network, settings.batch, settings.workers, what)
    kept = [clip for clip in clips if clip.source.name not in features.passed]
    facts = scoring.clip_facts(kept, files, features.rgb, features.passed)
    side = Side(features.values_ND, features.names, facts)
    if cached and not features.passed and processes()[0] == 0:
        _save_features(cached, side, protocol, weights)
    return side


def _panel_of(settings: FvdSettings, protocol: FvdProtocol, real: Side, weights: str, network) -> dict:
    """The panel: what real clips score against other real ones, and against themselves in other motion."""
    sources, clips, _ = _choose_side(settings, protocol, "real")
    names = set(real.names)
    rest = [source for source in sources if source.name not in names]
    others, _ = choose_clips(rest, protocol, len(real.names), protocol.real_stride)

    def features(of: list[Clip], what: str) -> Tensor:
        return _cached_features(settings, protocol, of, what, True, weights, network).values_ND

    far = features(others, "other real clips") if len(others) == len(real.names) else None
    kept = [clip for clip in clips if clip.source.name in names]
    return {
        "floor": panel.floor(real.values_ND, far, protocol.ddof),
        "motion": panel.motion(kept, real.values_ND, protocol, features),
    }


class MadeBy(TypedDict):
    """What made features."""

    protocol: dict
    weights: str


class FeatureSide(TypedDict, total=False):
    """What saved features say of their side, of which more is shown than read."""

    stamps: list[str]
    clips: Count
    passed_over: dict[str, str]


class FeatureFacts(TypedDict):
    """The facts of saved features."""

    names: list[str]
    side: FeatureSide


def _save_features(file: Path, side: Side, protocol: FvdProtocol, weights: str) -> None:
    """Writes features with the protocol and weights that made them."""
    settings = {"protocol": dataclasses.asdict(protocol), "weights": weights}
    facts = {"names": side.names, "side": side.facts}
    save_weights(file, {"features": side.values_ND}, "features", settings, facts)


def _load_features(file: Path, protocol: FvdProtocol, weights: str) -> Side:
    """Saved features; raises ValueError where another protocol or other weights made them."""
    tensors, header = load_weights(file, "features")
    about = from_json(MadeBy, header.settings, f"{file}, settings in its header")
    facts = from_json(FeatureFacts, header.facts, f"{file}, facts in its header")
    values_ND = tensors.get("features", torch.empty(0))
    if (values_ND.ndim, len(values_ND)) != (2, len(facts["names"])) or not torch.isfinite(values_ND).all():
        raise ValueError(
            f"{file} holds no finite features, a row for each of its {len(facts['names'])} names"
        )
    other = [k for k, v in dataclasses.asdict(protocol).items() if about["protocol"].get(k) != v]
    if other:
        raise ValueError(f"{file} was made under another protocol: {', '.join(other)} differ")
    if about["weights"] != weights:
        raise ValueError(f"{file} was made with other weights")
    return Side(values_ND.float(), tuple(facts["names"]), {"stamps": []} | facts["side"])


def sentence(result: dict) -> str:
    """A score as lines for the terminal."""
    counts = f"{result['real']['clips']} real, {result['fake']['clips']} generated clips"
    lines = scoring.opening_lines(result, "FVD", "distance", counts)
    if result["infinity"]:
        lines.append(f"with infinitely many clips {result['infinity']['value']:.2f}")
    rates = [list(result[which].get("rates", {})) for which in ("real", "fake")]
    if all(rates) and rates[0] != rates[1]:
        real, fake = (", ".join(some[:3]) + (" and others" if some[3:] else "") for some in rates)
        lines.append(
            f"note: real videos have {real} frames a second, generated ones {fake}; a protocol counts "
            "frames, so that another speed is another motion"
        )
    if result["panel"]:
        chance, moved = result["panel"]["floor"], result["panel"]["motion"]
        counts = " and ".join(map(str, chance["clips"]))
        lines.append(f"real against real {chance['value']:.2f} ({counts} clips)")
        lines.append("real against itself " + ", ".join(f"{how} {moved[how]:.2f}" for how in moved))
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
    report = str(Path(videos).parent / "fvd.html")
    return {"real": run.real, "fake": videos, "weights": run.i3d, "report": report, "panel": run.panel}


def _check_in_run(settings: FvdSettings) -> None:
    """Raises ValueError for real videos that are not as the protocol says, and for other weights."""
    if not settings.real:
        raise ValueError("no --real: FVD needs the real videos")
    protocol = load_protocol(settings.protocol, "fvd")
    sources, clips, passed = _choose_side(settings, protocol, "real")
    side_stamps(settings, protocol, "real", sources, len(clips), passed)
    load_i3d(protocol.eps, settings.weights, settings.smoke)


METRIC = scoring.Metric(FvdSettings, own_in_run, _check_in_run, fvd)


def main(arguments: list[str]) -> None:
    """The verb `dit eval fvd`."""
    fvd(parse(FvdSettings, arguments, prog="dit eval fvd"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("eval fvd")
