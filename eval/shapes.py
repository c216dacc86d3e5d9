"""`dit eval shapes`: how often a model's videos of the drawn world do what was asked, by the exact judge."""

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from configs.load import parse, to_json
from configs.ranges import Count, Seed
from configs.sampling import SamplerConfig, SolverSettings
from dit import __version__
from dit.condition import Condition, Given
from dit.generate import Request, generate_videos
from dit.load import Model, load_resolved
from eval.judge import Verdict, judge
from eval.scoring import aligned, check_outputs
from vae.data.drawn_captions import caption
from vae.data.drawn_world import NEW_MOTIONS, Scene, draw, random_scene
from vae.data.sheets import contact_sheet
from vae.quality.psnr_ssim import psnr, ssim
from vae.training.device import device_kind
from vae.training.files import write_json
from vae.training.progress import progress
from vae.training.weights import tensors_hash


@dataclass(frozen=True)
class EvalSettings(SolverSettings):
    """Score a model on the drawn world, exactly: text to video, image to video, reconstruction."""

    model: str = "builtin"
    """Model folder: a run of `dit train` or one of its step-*, a diffusers Wan pipeline, or `builtin`."""
    json: str = ""
    """File for scores, confusions, failures and the whole protocol, as JSON."""
    picture: str = ""
    """PNG for a contact sheet of failures, at most 24."""
    count: Count = 512
    """Videos in each of the three parts: prompts, unseen triples, first frames."""
    reconstructions: Count = 128
    """Drawings that the autoencoder reconstructs."""
    seed: Seed = 1000
    """Seed of the scenes, the words and the noise; not the one that the model was trained with."""
    batch: Count = 32
    """Videos in one packed call; the scores do not depend on it."""
    new_motion: bool = False
    """Score also the motion of `shapes-shrinking`, which the world does not have, on prompts of its own."""


PROTOCOL = "drawn-world-2"
KEPT_DB = 30.0
ASKED = ("shape", "colour", "motion")
PARTS = {  # name -> (split of the scenes, whether the first frame is given, what is measured)
    "prompts": ("train", False, "text to video, triples seen in training"),
    "unseen": ("unseen_triples", False, "text to video, triples never seen in training"),
    "image": ("train", True, "image to video, the first frame given"),
}
NEW = {"shrinks": ("shrinks", False, "text to video, a motion that the world does not have")}
MEASURES = ("shape", "colour", "kept", "motion", "all", "kept and moved", "psnr", "ssim")
TARGETS = {
    "prompts": {"shape": 0.95, "colour": 0.97, "motion": 0.95, "all": 0.90},
    "unseen": {"all": 0.75},
    "image": {"kept and moved": 0.90},
    "autoencoder": {"psnr": 34.0},
}
SHOWN_FAILURES = 24


@dataclass(frozen=True)
class Case:
    """One video to make and judge: the scene, the words for it, and the seed of the noise."""

    scene: Scene
    prompt: str
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What the judge saw in a case's video, and how well a given first frame was kept (dB)."""

    case: Case
    verdict: Verdict
    first_frame: float | None

    def right(self, name: str) -> bool:
        """Whether shape, colour or motion is the one that was asked for."""
        return getattr(self.verdict, name) == getattr(self.case.scene, name)

    @property
    def failed(self) -> bool:
        """Whether the video misses anything that its part of the score asks for."""
        if self.first_frame is None:
            return not all(self.right(name) for name in ASKED)
        return not (self.right("motion") and self.first_frame >= KEPT_DB)


def score(settings: EvalSettings) -> dict:
    """Protocol, scores, confusions and failures of a model; prints the table, writes the files asked for."""
    if settings.picture and Path(settings.picture).suffix.lower() != ".png":
        raise ValueError(f"--picture {settings.picture}: it is a PNG, give a name that ends in .png")
    check_outputs(settings.json, other=settings.picture)
    model, settings = load_resolved(settings)
    trained = model.settings.get("train", {}).get("seed")
    if trained is not None and settings.seed in (trained, trained + 1):  # the later one validated
        raise ValueError(
            f"--seed {settings.seed} draws the scenes that this model was trained on: give another"
        )
    sampler = SamplerConfig(settings.steps, settings.solver, settings.guidance, settings.seed)
    result = {"protocol": protocol(settings, model, sampler), "scores": {}, "confusions": {}}
    failures: list[dict] = []
    shown: list[tuple[Tensor, str]] = []
    parts, new_motions = PARTS | (NEW if settings.new_motion else {}), NEW_MOTIONS * settings.new_motion
    for part, (split, given, _) in parts.items():
        outcomes = []
        cases = make_cases(settings.seed, settings.count, split)
        for outcome, video in run_cases(model, cases, sampler, settings.batch, given, part, new_motions):
            outcomes.append(outcome)
            if outcome.failed:
                failures.append({"part": part} | record(outcome))
                if len(shown) < SHOWN_FAILURES:
                    shown.append((video, described(outcome)))
        result["scores"][part] = _first_frame_scores(outcomes) if given else _prompt_scores(part, outcomes)
        result["confusions"][part] = {name: confusion(outcomes, name) for name in ASKED}
    result["scores"]["autoencoder"] = _reconstruction_scores(model, settings)
    result["failures"] = failures
    print(table(result))  # before anything can fail
    if settings.json:
        write_json(Path(settings.json), result)
    if settings.picture and shown:
        contact_sheet([video for video, _ in shown], [text for _, text in shown], settings.picture)
    return result


def protocol(settings: EvalSettings, model: Model, sampler: SamplerConfig) -> dict:
    """Everything that makes these scores again; the settings are whole."""
    frames, height, width = model.size
    return {
        "name": PROTOCOL,
        "seed": settings.seed,
        "count": settings.count,
        "reconstructions": settings.reconstructions,
        "splits": {part: PARTS[part][0] for part in PARTS}
        | ({"shrinks": "shrinks"} if settings.new_motion else {}),
        "phrasings": "test",
        "size": {"frames": frames, "height": height, "width": width},
        "first_frame_kept_db": KEPT_DB,
        "sampler": to_json(sampler),
        "batch": settings.batch,
        "precision": settings.precision,
        "device": device_kind(model.autoencoder.latent_mean),
        "weights": model.weights,
        "autoencoder": tensors_hash(model.autoencoder.state_dict()),
        "model": model.settings | model.facts,
        "version": __version__,
        "torch": torch.__version__,
    }


def make_cases(seed: int, count: int, split: str) -> list[Case]:
    """The first `count` scenes of a seed, in words whose templates training never uses."""
    scenes = [random_scene(seed, k, split) for k in range(count)]
    return [Case(scene, caption(scene, seed, k, "test"), seed + k) for k, scene in enumerate(scenes)]


def run_cases(
    model: Model,
    cases: list[Case],
    sampler: SamplerConfig,
    batch: int,
    given: bool,
    part: str,
    new_motions: Collection[str] = (),
):
    """Makes and judges the video of every case; yields outcome and video."""
    with progress(total=len(cases) * sampler.steps, desc=part, unit="step", smoothing=0.05) as bar:
        for first in range(0, len(cases), batch):
            group = cases[first : first + batch]
            requests = [make_request(model, case, given) for case in group]
            count = len(group)
            videos = generate_videos(model, requests, sampler, lambda *_, n=count: bar.update(n))
            for case, video in zip(group, videos, strict=True):
                kept = psnr(drawn(model, case.scene)[:, :1], video[:, :1]) if given else None
                yield Outcome(case, judge(video, new_motions), kept), video


def drawn(model: Model, scene: Scene) -> Tensor:
    """The scene at the size that the model makes."""
    return draw(scene, *model.size)


def make_request(model: Model, case: Case, given: bool) -> Request:
    """The request for a case's video, with the scene's own first frame where that is given."""
    shape = model.autoencoder.latent_shape(*model.size)
    condition = Condition(case.prompt)
    if given:
        frame_BCTHW = drawn(model, case.scene)[None, :, :1].to(model.autoencoder.latent_mean.device)
        condition = replace(condition, givens=(Given(model.autoencoder.encode(frame_BCTHW)[0].cpu()),))
    return Request(condition, shape, case.seed)


def _prompt_scores(part: str, outcomes: list[Outcome]) -> dict:
    """Shares of videos that have the shape, colour and motion that their prompts name, and all three."""
    rights = {name: sum(o.right(name) for o in outcomes) for name in ASKED}
    rights["all"] = sum(not o.failed for o in outcomes)
    targets = TARGETS.get(part, {})
    return {name: share(right, len(outcomes), targets.get(name)) for name, right in rights.items()}


def _first_frame_scores(outcomes: list[Outcome]) -> dict:
    """Shares of videos that keep the given frame, that then move as the prompt says, and that do both."""
    kept = [o.first_frame for o in outcomes]
    rights = {
        "kept": sum(db >= KEPT_DB for db in kept),
        "motion": sum(o.right("motion") for o in outcomes),
        "kept and moved": sum(not o.failed for o in outcomes),
    }
    scores = {name: share(right, len(outcomes), TARGETS["image"].get(name)) for name, right in rights.items()}
    return scores | {"psnr": mean(kept, "dB", None)}


@torch.no_grad()
def _reconstruction_scores(model: Model, settings: EvalSettings) -> dict:
    """Mean PSNR and SSIM of the autoencoder's reconstructions of drawings it never saw."""
    device = model.autoencoder.latent_mean.device
    qualities = {"psnr": [], "ssim": []}
    for k in progress(range(settings.reconstructions), desc="autoencoder", unit="video"):
        video = drawn(model, random_scene(settings.seed, k, "any"))
        other = model.autoencoder.decode(model.autoencoder.encode(video[None].to(device)))[0].cpu()
        qualities["psnr"].append(psnr(video, other))
        qualities["ssim"].append(ssim(video, other))
    return {
        "psnr": mean(qualities["psnr"], "dB", TARGETS["autoencoder"]["psnr"]),
        "ssim": mean(qualities["ssim"], "", None),
    }


def share(right: int, of: int, target: float | None) -> dict:
    """A share with its 95 % interval, and whether it meets its target."""
    value = right / of
    entry = {"value": value, "interval": wilson(right, of), "right": right, "of": of, "unit": "%"}
    return entry if target is None else entry | {"target": target, "met": value >= target}


def mean(values: list[float], unit: str, target: float | None) -> dict:
    """A mean, its 95 % interval by the standard error, the least value, and whether it meets its target."""
    of, value = len(values), sum(values) / len(values)
    error = 1.96 * math.sqrt(sum((v - value) ** 2 for v in values) / max(1, of - 1) / of)
    entry = {"value": value, "interval": (value - error, value + error), "least": min(values)}
    entry |= {"of": of, "unit": unit}
    return entry if target is None else entry | {"target": target, "met": value >= target}


def wilson(right: float, of: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval of a share (Wilson 1927): all p that right / of is at most z standard errors away from."""
    value = right / of
    centre = (value + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(value * (1 - value) / of + z * z / (4 * of * of))
    return centre - half if right else 0.0, centre + half if right < of else 1.0


def confusion(outcomes: list[Outcome], name: str) -> dict[str, dict[str, int]]:
    """For every shape, colour or motion that was asked for, how often the judge saw which one, or none."""
    table: dict[str, Counter] = {}
    for outcome in outcomes:
        row = table.setdefault(getattr(outcome.case.scene, name), Counter())
        row[getattr(outcome.verdict, name) or "none"] += 1
    return {asked: dict(row.most_common()) for asked, row in sorted(table.items())}


def record(outcome: Outcome) -> dict:
    """A failure as JSON: enough to make the video again and to see what is wrong with it."""
    kept = {} if outcome.first_frame is None else {"first_frame_db": outcome.first_frame}
    return {
        "prompt": outcome.case.prompt,
        "seed": outcome.case.seed,
        "scene": asdict(outcome.case.scene),
        "judged": asdict(outcome.verdict),
    } | kept


def described(outcome: Outcome) -> str:
    """A failure in words: the prompt, and what the judge saw."""
    seen = " ".join(
        getattr(outcome.verdict, name) or f"(no {name})" for name in ("colour", "shape", "motion")
    )
    kept = "" if outcome.first_frame is None else f", first frame {outcome.first_frame:.1f} dB"
    return f"{outcome.case.prompt} → {seen}{kept}"


def short_weights(weights: str) -> str:
    """The first digits of the hash of each part of a model, and of its adapters, with their scales."""
    parts = (part.partition("@") for part in weights.split("+"))
    return " + ".join(f"{name[:12]}{at}{scale}" for name, at, scale in parts)


def table(result: dict) -> str:
    """The scores as an aligned table, each beside its interval and its target."""
    truth, scores = result["protocol"], result["scores"]
    sampler = truth["sampler"]
    rows = [("", "came to", "95 % interval", "target", "")]
    titles = {part: title for part, (*_, title) in (PARTS | NEW).items()}
    titles["autoencoder"] = "the autoencoder, reconstructing drawings"
    for part, title in titles.items():
        if not (entries := scores.get(part)):
            continue
        rows.append((f"{title} ({next(iter(entries.values()))['of']} videos)", "", "", "", ""))
        rows += [(f"  {name}", *cells(entries[name])) for name in MEASURES if name in entries]
    weights, steps = short_weights(truth["weights"]), f"{sampler['steps']} {sampler['solver']} steps"
    head = (
        f"{truth['name']}: weights {weights}, {steps}, guidance {sampler['guidance']:g}, "
        f"seed {truth['seed']}, {truth['precision']} on {truth['device']}"
    )
    return "\n".join([head, "", *aligned(rows, right=True)])


def cells(entry: dict) -> tuple[str, str, str, str]:
    """Value, interval, target and verdict of a score in words."""
    factor, digits = {"%": (100, 1), "dB": (1, 1), "": (1, 4)}[entry["unit"]]
    low, high = (f"{factor * v:.{digits}f}" for v in entry["interval"])
    target = f"{factor * entry['target']:g} {entry['unit']}" if "target" in entry else ""
    met = {True: "met", False: "MISSED"}[entry["met"]] if "met" in entry else ""
    return f"{factor * entry['value']:.{digits}f} {entry['unit']}".rstrip(), f"{low} to {high}", target, met


def main(arguments: list[str]) -> None:
    """The verb `dit eval shapes`."""
    settings = parse(EvalSettings, arguments, prog="dit eval shapes")
    result = score(settings)
    failures = len(result["failures"])
    if settings.picture:
        print(
            f"{failures} failures: {settings.picture}" if failures else "no failures, so no picture of them"
        )
    if settings.json:
        print(settings.json)


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("eval shapes")
