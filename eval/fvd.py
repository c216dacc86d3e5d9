"""`dit eval fvd`: the Frechet video distance of generated videos to real ones, under a named protocol."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from configs.load import parse
from configs.protocol import Protocol, load_protocol
from eval import panel, report
from eval.clips import (
    Clip,
    Source,
    choose_clips,
    clips_of,
    find_sources,
    passed_lines,
    rates_and_sizes,
    side_hash,
)
from eval.features import Features, extract
from eval.frechet import distance, distance_of_features, merge, quickest_distance, statistics
from eval.networks.certify import SMOKE, load_i3d
from eval.scoring import publish, scored
from vae.data.index import list_hash
from vae.data.video import decoder
from vae.quality.networks import folders
from vae.training.files import check_writable, write_text
from vae.training.processes import own_device, processes
from vae.training.seeds import generator
from vae.training.weights import load_weights, read_header, save_weights


@dataclass(frozen=True)
class FvdSettings:
    """Score generated videos against real ones by the Frechet video distance, under a named protocol."""

    real: str = ""
    """Real videos: a folder of them, a folder of folders of frames, a manifest, or saved features."""
    fake: str = ""
    """Generated videos: the same."""
    protocol: str = ""
    """Name of the protocol; `dit eval protocols` lists them."""
    json: str = ""
    """File for the score with its protocol, as JSON."""
    weights: str = ""
    """File with the weights of I3D; without it, they are looked for as `dit eval weights` says."""
    report: str = ""
    """HTML file for a page with tables, plots and pictures, which opens offline."""
    save_real: str = ""
    """File for the real side's features (.safetensors), which another run may take as --real."""
    cache: bool = True
    """Keep the real side's features in the user's cache, under the hashes of protocol, files and weights."""
    allow_small: bool = False
    """Score fewer clips than the protocol says; the score is stamped."""
    smoke: bool = False
    """Run with a seeded network in place of certified weights; the score is stamped: it is not FVD."""
    batch: int = 8
    """Clips in one call of the network on a GPU; a CPU computes each alone."""
    workers: int = 2
    """Processes that read videos while the network computes."""
    resamples: int = 200
    """Bootstrap samples of the confidence interval; 0 makes none."""
    panel: bool = False
    """Also score the real set against other real clips, and its frames shuffled, reversed and frozen."""


MOST_SAMPLES = 4096  # clips a side up to which the distance is computed from the features too
METHODS_AGREE = 1e-6
SHOWN = 5  # pairs in a report's picture
POINTS = 8  # sizes from which the score of infinitely many clips is extrapolated


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
    for name, least in {"batch": 1, "workers": 0, "resamples": 0}.items():
        if getattr(settings, name) < least:
            raise ValueError(f"--{name} {getattr(settings, name)}: it must be at least {least}")
    if settings.save_real and not settings.save_real.endswith(".safetensors"):
        raise ValueError(f"--save-real {settings.save_real}: give a name that ends in .safetensors")
    if settings.panel and settings.real.endswith(".safetensors"):
        raise ValueError("--panel needs the real videos: give --real their folder, not saved features")
    if processes()[0] == 0:
        for file in filter(None, (settings.json, settings.report, settings.save_real)):
            check_writable(Path(file))
    network, weights = load_i3d(protocol.eps, settings.weights, settings.smoke)
    network.to(own_device()).to(memory_format=torch.channels_last_3d)
    real = side(settings, protocol, "real", weights, network)
    if settings.panel and len(real.names) < 4:
        raise ValueError(f"--panel needs at least 4 real clips, not {len(real.names)}")
    fake = side(settings, protocol, "fake", weights, network)
    panels = beside(settings, protocol, real, weights, network) if settings.panel else None
    result = between(settings, protocol, real, fake, weights, next(network.buffers()).device, panels)
    if processes()[0] == 0:
        if settings.save_real:
            save_side(Path(settings.save_real), real, protocol, weights)
        if settings.report:
            write_text(Path(settings.report), report.page(result, sheets(settings, protocol, result)))
    publish(result, settings.json, sentence(result))
    return result


def same_choices(settings, real: str, fake: str) -> FvdSettings:
    """FVD of two sides with what another verb's settings say under the same names; its JSON is its own."""
    ours, theirs = ({field.name for field in dataclasses.fields(kind)} for kind in (FvdSettings, settings))
    shared = (ours & theirs) - {"json", "real", "fake"}
    return FvdSettings(real=real, fake=fake, **{name: getattr(settings, name) for name in shared})


def between(
    settings: FvdSettings,
    protocol: Protocol,
    real: Side,
    fake: Side,
    weights: str,
    device: torch.device,
    panels: dict | None = None,
) -> dict:
    """The score of two sides with all that stands beside it."""
    stamps = [SMOKE] * settings.smoke + real.facts["stamps"] + fake.facts["stamps"]
    value, apart = measured(real.values_ND, fake.values_ND, protocol.ddof)
    sides = real.values_ND, real.names, fake.values_ND, fake.names
    parts = {
        "real": real.facts,
        "fake": fake.facts,
        "methods_apart": apart,
        "interval": interval(value, real.values_ND, fake.values_ND, protocol, settings.resamples),
        "infinity": at_infinity(real.values_ND, fake.values_ND, protocol),
        "panel": panels,
        "nearest": panel.nearest(*sides),
        "classes": panel.classes(*sides, protocol.ddof),
    }
    return scored(protocol, value, stamps, weights, device, parts)


def sheets(settings: FvdSettings, protocol: Protocol, result: dict) -> dict[str, bytes]:
    """Pictures of the generated clips nearest to a real one and farthest from any; none of saved features."""
    if settings.real.endswith(".safetensors") or settings.fake.endswith(".safetensors"):
        return {}
    clips = {}
    for which, stride in (("real", protocol.real_stride), ("fake", protocol.fake_stride)):
        sources = find_sources(getattr(settings, which))
        chosen, _ = choose_clips(sources, protocol, getattr(protocol, which), stride)
        clips[which] = {clip.source.name: clip for clip in chosen}
    near = result["nearest"]
    nearest = near["pairs"][:SHOWN]
    farthest = [pair for pair in near["farthest"][:SHOWN] if pair not in nearest]
    titles = {"Nearest to a real clip": nearest, "Farthest from any real clip": farthest}
    made = {title: report.pair_sheet(pairs, clips["fake"], clips["real"]) for title, pairs in titles.items()}
    return {title: picture for title, picture in made.items() if picture}


def side(settings: FvdSettings, protocol: Protocol, which: str, weights: str, network) -> Side:
    """The features of one side: saved, kept in the cache, or computed."""
    where = getattr(settings, which)
    if not where:
        raise ValueError(f"no --{which}: a folder of videos, a manifest, or saved features")
    if where.endswith(".safetensors"):
        found = load_side(Path(where), protocol, weights)
        if found.facts["stamps"] and not settings.allow_small:
            raise ValueError(f"{where}: {found.facts['stamps'][0]}; with --allow-small the score is stamped")
        return found
    sources, clips, passed, small = chosen(settings, protocol, which)
    found = featured(settings, protocol, clips, which, which == "real", weights, network)
    if found.facts["passed_over"]:
        small = [stamp for stamp in small if not stamp.startswith("small")]
        small += enough(settings, protocol, which, len(found.names), passed | found.facts["passed_over"])
    facts = {"where": Path(where).name, "videos": len(sources), **found.facts}
    facts["passed_over"] = passed | found.facts["passed_over"]
    return dataclasses.replace(found, facts=facts | {"stamps": small})


def chosen(
    settings: FvdSettings, protocol: Protocol, which: str
) -> tuple[list[Source], list[Clip], dict[str, str], list[str]]:
    """One side's videos, its clips, what was passed over, and the stamps of what is not as the protocol says.

    Raises ValueError where that makes no score.
    """
    sources = find_sources(getattr(settings, which))
    stride = protocol.real_stride if which == "real" else protocol.fake_stride
    clips, passed = choose_clips(sources, protocol, getattr(protocol, which), stride)
    small = listed(settings, protocol, sources) if which == "real" else []
    return sources, clips, passed, small + enough(settings, protocol, which, len(clips), passed)


def featured(
    settings: FvdSettings, protocol: Protocol, clips: list[Clip], what: str, keep: bool, weights: str, network
) -> Side:
    """Features of clips, from the cache where they are kept and there."""
    files = side_hash(clips)
    cached = cache_file(protocol, files, weights) if settings.cache and keep else None
    if cached and cached.is_file():
        return load_side(cached, protocol, weights)
    made: Features = extract(clips, protocol, network, settings.batch, settings.workers, what)
    facts = {
        "clips": len(made.names),
        "files_sha256": files,
        "rgb_sha256": made.rgb,
        "decoder": decoder(),
        **rates_and_sizes([clip for clip in clips if clip.source.name not in made.passed]),
        "passed_over": made.passed,
    }
    result = Side(made.values_ND, made.names, facts)
    if cached and not made.passed and processes()[0] == 0:
        save_side(cached, result, protocol, weights)
    return result


def beside(settings: FvdSettings, protocol: Protocol, real: Side, weights: str, network) -> dict:
    """The panel: what real clips score against other real ones, and against themselves in other motion."""
    sources, chosen = find_sources(settings.real), set(real.names)
    clips, _ = choose_clips(sources, protocol, protocol.real, protocol.real_stride)
    rest = [source for source in sources if source.name not in chosen]
    others, _ = choose_clips(rest, protocol, len(real.names), protocol.real_stride)

    def features(of: list[Clip], what: str) -> Tensor:
        return featured(settings, protocol, of, what, True, weights, network).values_ND

    far = features(others, "other real clips") if len(others) == len(real.names) else None
    kept = [clip for clip in clips if clip.source.name in chosen]
    return {
        "floor": panel.floor(real.values_ND, far, protocol.ddof),
        "motion": panel.motion(kept, real.values_ND, protocol, features),
    }


def listed(settings: FvdSettings, protocol: Protocol, sources: list[Source]) -> list[str]:
    """The stamp of real videos that are not the protocol's list; ValueError unless that is allowed."""
    if protocol.list_sha256 in ("", list_hash([Path(source.name).name for source in sources])):
        return []
    if not settings.allow_small:
        raise ValueError(
            f"{settings.real} holds {len(sources)} videos, which are not those of {protocol.data} "
            f"{protocol.split}: make a manifest of them with `dit data {protocol.data}`; with --allow-small "
            "the score is stamped"
        )
    return [f"other videos than {protocol.data} {protocol.split}"]


def enough(settings: FvdSettings, protocol: Protocol, which: str, have: int, passed: dict) -> list[str]:
    """The stamp of a side with fewer clips than its protocol says; ValueError unless that is allowed."""
    wanted = getattr(protocol, which) or 2
    if have >= wanted:
        return []
    why = f"; passed over: {'; '.join(list(passed.values())[:2])}" if passed else ""
    where = getattr(settings, which)
    if have < 2:
        raise ValueError(
            f"{where} gives {clips_of(have)} of {protocol.frames} frames, and FVD needs at least 2{why}"
        )
    if not settings.allow_small:
        raise ValueError(
            f"{where} gives {clips_of(have)}, and {protocol.name} takes {wanted}: with --allow-small "
            f"the score is stamped{why}"
        )
    called = "generated" if which == "fake" else which
    return [f"small: {have} of {wanted} {called} clips"]


def cache_file(protocol: Protocol, files: str, weights: str) -> Path:
    """Where the real side's features are kept: another file, protocol or weight has another name."""
    import hashlib

    key = hashlib.sha256(f"{protocol.hash()} {files} {weights} {decoder()}".encode()).hexdigest()
    return folders()[0] / "features" / f"{key}.safetensors"


def save_side(file: Path, side: Side, protocol: Protocol, weights: str) -> None:
    """Writes features with the protocol and weights that made them."""
    settings = {"protocol": dataclasses.asdict(protocol), "weights": weights}
    facts = {"names": side.names, "side": side.facts}
    save_weights(file, {"features": side.values_ND}, "features", settings, facts)


def load_side(file: Path, protocol: Protocol, weights: str) -> Side:
    """Saved features; raises ValueError where another protocol or other weights made them."""
    header = read_header(file, "features")
    about, facts = header.settings, header.facts
    other = [k for k, v in dataclasses.asdict(protocol).items() if about["protocol"].get(k) != v]
    if other:
        raise ValueError(f"{file} was made under another protocol: {', '.join(other)} differ")
    if about["weights"] != weights:
        raise ValueError(f"{file} was made with other weights")
    return Side(load_weights(file)[0]["features"], tuple(facts["names"]), {"stamps": []} | facts["side"])


def measured(real_ND: Tensor, fake_ND: Tensor, ddof: int) -> tuple[float, float | None]:
    """The distance, and how far two ways of computing it are apart; raises ValueError where that is far.

    From the features where that is possible, else from covariances.
    """
    pair = statistics_of(real_ND), statistics_of(fake_ND)
    by_covariance = distance(*pair, ddof)
    if max(len(real_ND), len(fake_ND)) > MOST_SAMPLES:
        return by_covariance, None
    value = distance_of_features(real_ND, fake_ND, ddof)
    # With fewer clips than features, eigenvalues that are zero come as 1e-16, and their roots count as 1e-8.
    share = 0.01 if min(len(real_ND), len(fake_ND)) > real_ND.shape[1] else 1.0
    scale = max(abs(value), share * pair[0].covariance(ddof).trace().item())
    apart = abs(value - by_covariance) / scale
    if not apart < METHODS_AGREE:
        raise ValueError(f"two methods disagree: {value} from features, {by_covariance} from covariances")
    return value, apart


def statistics_of(features_ND: Tensor, chunk: int = 512):
    """Statistics, merged chunk by chunk."""
    parts = [statistics(part) for part in features_ND.split(chunk)]
    total = parts[0]
    for part in parts[1:]:
        total = merge(total, part)
    return total


def interval(
    value: float, real_ND: Tensor, fake_ND: Tensor, protocol: Protocol, resamples: int
) -> dict | None:
    """A 95 % interval of the score at this number of clips, by bootstrap over videos of both sides.

    A resample has fewer distinct clips, so that its distance is larger: their spread about their own mean is
    taken, around the score. Of sets that chance alone keeps apart it is about twice as wide as it need be.
    """
    if not resamples:
        return None
    random, values = generator(protocol.seed, "bootstrap"), []
    for _ in tqdm(range(resamples), "bootstrap", leave=False, disable=processes()[0] > 0):
        drawn = [
            side[torch.randint(len(side), (len(side),), generator=random)] for side in (real_ND, fake_ND)
        ]
        values.append(quickest_distance(*drawn, protocol.ddof))
    spread = torch.tensor(values, dtype=torch.float64)
    low, high = (spread.quantile(q) - spread.mean() for q in (0.025, 0.975))
    return {"low": max(0.0, value + low.item()), "high": value + high.item(), "resamples": resamples}


def at_infinity(real_ND: Tensor, fake_ND: Tensor, protocol: Protocol) -> dict | None:
    """The score of infinitely many clips: a line through scores of N clips over 1 / N (Chong & Forsyth 2020).

    Sizes are even in 1 / N, from all clips to a quarter of them, at the same share of both sides. None where
    there are too few clips for a line.
    """
    least = min(len(real_ND), len(fake_ND))
    if least < 4 * POINTS:
        return None
    random, inverse, values = generator(protocol.seed, "infinity"), [], []
    orders = [torch.randperm(len(side), generator=random) for side in (real_ND, fake_ND)]
    for point in range(POINTS):
        share = 1 / (1 + 3 * point / (POINTS - 1))
        drawn = [
            side[order[: round(share * len(side))]]
            for side, order in zip((real_ND, fake_ND), orders, strict=True)
        ]
        inverse.append(1 / min(map(len, drawn)))
        values.append(quickest_distance(*drawn, protocol.ddof))
    x, y = (torch.tensor(v, dtype=torch.float64) for v in (inverse, values))
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    start = y.mean() - slope * x.mean()
    rest = (y - start - slope * x).square().mean().sqrt()
    sizes = [round(1 / v) for v in inverse]
    return {
        "value": start.item(),
        "slope": slope.item(),
        "residual": rest.item(),
        "sizes": sizes,
        "values": values,
    }


def sentence(result: dict) -> str:
    """A score as lines for the terminal."""
    lines = [f"{stamp.upper() if stamp == SMOKE else stamp}" for stamp in result["stamps"]]
    value, about = result["value"], result["protocol"]
    line = f"{'FVD' if SMOKE not in result['stamps'] else 'distance'} {value:.2f}"
    if result["interval"]:
        low, high = (result["interval"][end] for end in ("low", "high"))
        line += f"  (95 % interval {low:.2f} to {high:.2f})"
    lines.append(line)
    if result["infinity"]:
        lines.append(f"with infinitely many clips {result['infinity']['value']:.2f}")
    counts = f"{result['real']['clips']} real, {result['fake']['clips']} generated clips"
    lines.append(
        f"{about['name']} ({result['protocol_sha256'][:12]}), {counts}, {about['network']} "
        f"on {result['device']}"
    )
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


def main(arguments: list[str]) -> None:
    """The verb `dit eval fvd`."""
    fvd(parse(FvdSettings, arguments, prog="dit eval fvd"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("eval fvd")
