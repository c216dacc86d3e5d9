"""`dit eval run JOB`: a data set's prompts sampled by a model, then scored; the same command goes on."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from configs.load import Positional, nearest, parse
from configs.protocol import Protocol, job_protocols
from configs.ranges import Count, Positive, Seed, StepsOrZero
from configs.sampling import SamplerConfig, SampleSettings, VideoSettings
from configs.scoring import ScoringSettings, StampSettings, inherited
from dit import __version__
from dit.cli import VERBS
from dit.condition import Condition
from dit.generate import Request, generate_videos
from dit.load import load_resolved, model_folder
from dit.pipelines import generate_with, is_foreign, load_pipeline
from dit.record import LABEL, is_there, make_records, write
from dit.text import cut_note
from eval import repeats
from eval.every import follow
from eval.h264 import cost, cost_in_words, cost_lines, costs_of, write_copies
from eval.report.page import command_of, write_page
from eval.scoring import DIGITS, Metric, check_outputs, number_alone, numbers_of
from vae.data.index import probe_all
from vae.data.manifest import NAME, load_manifest, save_manifest
from vae.data.msrvtt import number, read_annotations
from vae.data.sheets import contact_sheet
from vae.data.tables import few
from vae.data.ucf101 import PROMPTS, classes_in_proportion, words
from vae.data.video import read_frames, to_video
from vae.training.device import own_device, own_precision
from vae.training.files import remove_stale, write_json
from vae.training.processes import gathered, on_main, processes
from vae.training.progress import progress
from vae.training.seeds import uniform


@dataclass(frozen=True)
class RunEvalSettings(StampSettings, VideoSettings):
    """Sample a data set's prompts with a model, then score the videos; the same command goes on."""

    job: Positional[str] = ""
    """What to sample and score, such as ucf101-zeroshot or msrvtt; without it, the jobs are listed."""
    model: str = "builtin"
    """Model folder: ours, any text-to-video pipeline of diffusers, or `builtin`."""
    real: str = ""
    """Manifest of the real videos, as `dit data ucf101` and `dit data msrvtt` write it; or their folder."""
    annotations: str = ""
    """Folder with MSR-VTT's annotation files; without it, prompts are the manifest's captions."""
    every: str = ""
    """Run of `dit train` whose checkpoints are scored as they come, into one curve; in place of a model."""
    until: StepsOrZero = 0
    """Step of the run in `every` after which to end; 0 ends where the run does."""
    wait: bool = True
    """Wait for checkpoints to come; otherwise those of `every` that are there are scored."""
    poll: Positive = 30.0
    """Seconds between two looks for a checkpoint."""
    out: str = ""
    """Folder for videos and scores; empty is scores/JOB."""
    metrics: tuple[str, ...] = ()
    """What to score, such as `fvd is`; empty is all of the job's."""
    sample_only: bool = False
    """Only make the videos; the same command without this setting scores them."""
    count: Count | None = None
    """Videos to make; none: the protocol's number. Fewer need --allow-small."""
    prompts: Literal["sentences", "names"] | None = None
    """Prompts of UCF-101's classes: sentences of ours, or bare names; none: the job's own choice."""
    seed: Seed = 0
    """Seed of the first video; the next ones count up."""
    batch: Count = 1
    """Videos in one packed call of a model of ours; others make one at a time."""
    i3d: str = ""
    """File with the weights of I3D; without it, they are looked for as `dit eval weights` says."""
    clip: str = ""
    """Folder with CLIP ViT-B/32; without it, it is looked for as I3D is."""
    c3d: str = ""
    """File with C3D's weights; without it, they are looked for as I3D's are."""
    c3d_mean: str = ""
    """File with C3D's mean; without it, it is looked for as I3D's weights are."""
    uncertified: bool = False
    """Score with weights of C3D that nothing certifies; the score is stamped."""
    panel: bool = False
    """Put beside FVD what real clips score against other real ones."""
    repeats: Count = 1
    """Sets of videos by sampling seeds of their own; mean and spread stand beside the first one's scores."""
    h264: bool = False
    """Also print what H.264 would have cost: the videos as `dit sample` writes them, scored again."""


JOBS = {  # protocols name theirs; prompts of UCF-101, and in which shares its classes come, or of MSR-VTT
    "ucf101-zeroshot": ("sentences", "alike"),
    "ucf101-zeroshot-13320": ("sentences", "as real"),
    "ucf101-zeroshot-2048": ("sentences", "as real"),
    "ucf101-class": ("names", "alike"),
    "ucf101-class-tats": ("names", "alike"),
    "ucf101-class-magvit": ("names", "as real"),
    "ucf101-class-walt": ("names", "as real"),
    "msrvtt": ("a caption", ""),
    "msrvtt-stride3": ("a caption", ""),
    "msrvtt-all-captions": ("every caption", ""),
}
SHOWN = 12  # videos in the picture
ENDING = ".mkv"  # FFV1: scores are of the frames that were made, not of what a codec left of them
PAGE = "report.html"  # of all scores, beside the videos


@dataclass(frozen=True)
class Sample:
    """One video to make: its name within the folder, its prompt and its seed."""

    name: str
    prompt: str
    seed: int


@dataclass(frozen=True)
class Maker:
    """A model that makes videos: the records of a group's videos, known before they are made; the videos
    C T H W; how many one group has; and the rate of their files."""

    records: Callable[[list[Sample]], list[dict]]
    videos: Callable[[list[Sample]], list[Tensor]]
    batch: int
    fps: float


def run(settings: RunEvalSettings) -> dict:
    """Makes the videos that are not there, then scores them all; returns the scores by metric.

    Everything that can be wrong with data, weights and settings raises ValueError before a video is made.
    """
    if settings.job not in JOBS:
        close = nearest(settings.job, list(JOBS))
        raise ValueError(f"no job {settings.job or '(none given)'}{close or ': ' + ', '.join(JOBS)}")
    protocols = protocols_of(settings)
    metrics = {name: importlib.import_module(VERBS[f"eval {name}"][0]).METRIC for name in protocols}
    out = Path(settings.out or f"scores/{settings.job}")
    rank, _ = processes()
    if not model_folder(settings.model).exists():
        raise ValueError(f"{settings.model}: no such model folder")
    samples = plan(settings, protocols)
    homes = [out, *(out / f"repeat-{k}" for k in range(1, settings.repeats))]
    scoring = [] if settings.sample_only else [_scoring(settings, protocols, metrics, home) for home in homes]
    for of_set in scoring[1:]:
        of_set |= {name: number_alone(asked) for name, asked in of_set.items()}
    check_outputs(str(out / "scores.json"), str(out / PAGE))
    own_device()
    maker = _pipeline_maker(settings) if is_foreign(settings.model) else _own_maker(settings, samples)
    least = max(p.least_frames(p.fake_stride) for p in protocols.values())  # of every video
    for k, home in enumerate(homes):
        other = [replace(sample, seed=sample.seed + k * len(samples)) for sample in samples]
        _make_all(other, maker, home / "videos", least, settings.model, settings.overwrite)
        on_main(rank == 0, partial(_list_videos, other, home / "videos", ENDING))
    every = [{name: metrics[name].score(asked) for name, asked in of_set.items()} for of_set in scoring]
    scores, costs = (every or [{}])[0], {}
    if len(every) > 1:
        _summarise(scores, every, out)
    if scores and settings.h264:
        costs = _cost_of_h264(settings, samples, protocols, metrics, scores, out)
    if scores and rank == 0:
        title = f"{settings.job}: {Path(settings.model).name}"
        pages, said = [list(scores.values()), list(scoring[0].values())], cost_in_words(scores, costs)
        write_page(out / PAGE, *pages, title, command_of(settings), said)
        _write_summary(settings, scores, costs, out)
    return scores


def _scoring(
    settings: RunEvalSettings, protocols: dict[str, Protocol], metrics: dict[str, Metric], home: Path
) -> dict[str, ScoringSettings]:
    """What every metric's verb is asked of a folder's videos; ValueError for what would keep it from that."""
    asked = {}
    for name, metric in metrics.items():
        asked[name] = metric.settings_in_run(settings, protocols[name], home)
        try:
            metric.check(asked[name])
        except ValueError as error:
            raise ValueError(f"{error}; --metrics leaves a score out, --sample-only all of them") from None
    return asked


def _summarise(scores: dict[str, dict], every: list[dict[str, dict]], out: Path) -> None:
    """Puts the mean and the spread over all sets of videos into the first one's scores, and prints them."""
    for name, score in scores.items():
        sets = [numbers_of(one[name]) for one in every]
        found = {n: repeats.summary([one[n] for one in sets], repeats.SETS) for n in numbers_of(score)}
        score |= {"repeats": found[name]} if name in found else {"repeats_of": found}
        if processes()[0] == 0:
            write_json(out / f"{name}.json", score)
            for number, one in found.items():
                print(f"{number}: {repeats.in_words({'repeats': one}, DIGITS.get(number, 4))[0]}")


def _cost_of_h264(
    settings: RunEvalSettings,
    samples: list[Sample],
    protocols: dict[str, Protocol],
    metrics: dict[str, Metric],
    scores: dict[str, dict],
    out: Path,
) -> dict[str, dict[str, float]]:
    """What every score would have lost through H.264: the same clips of the same videos, written again."""
    videos, home = out / "videos", out / "h264"
    write_copies(videos, home / "videos")
    gathered([])  # all are written
    on_main(processes()[0] == 0, partial(_list_videos, samples, home / "videos", ".mp4"))
    if processes()[0] == 0:
        print("the same videos, as `dit sample` writes them:")
    asked, again = replace(settings, panel=False), {}
    for name, metric in metrics.items():
        of_copies = number_alone(metric.settings_in_run(asked, protocols[name], home))
        again[name] = metric.score(replace(of_copies, copies_of=str(videos)))
    costs = cost(scores, again)
    if processes()[0] == 0:
        print("\n".join(cost_lines(scores, costs)))
    return costs


def protocols_of(settings: RunEvalSettings) -> dict[str, Protocol]:
    """The protocols of the metrics that are asked for; raises ValueError for one that the job has not."""
    protocols = job_protocols(settings.job)
    for metric in settings.metrics:
        if metric not in protocols:
            raise ValueError(f"--metrics {metric}: {settings.job} is scored by {' and '.join(protocols)}")
    return {metric: p for metric, p in protocols.items() if metric in (settings.metrics or protocols)}


def plan(settings: RunEvalSettings, protocols: dict[str, Protocol]) -> list[Sample]:
    """The videos to make, the same for the same settings; ValueError for a wrong number, or no prompts."""
    count = settings.count or max(protocol.fake for protocol in protocols.values())
    if not count:
        raise ValueError(f"no --count: {' and '.join(protocols)} of {settings.job} take any number of videos")
    for metric, protocol in ({} if settings.sample_only else protocols).items():
        if count < protocol.fake and not settings.allow_small:
            raise ValueError(
                f"--count {count}: {protocol.name} takes {protocol.fake} videos for its {metric}; with "
                "--allow-small the score is stamped"
            )
        if count < (least := max(2, protocol.least)):
            raise ValueError(
                f"--count {count}: {protocol.name} needs at least {least} videos for its {metric}; "
                "--metrics leaves it out"
            )
    if settings.job.startswith("ucf101"):
        return [sample for sample, _ in zip(_ucf101_samples(settings, count), range(count), strict=False)]
    return _msrvtt_samples(settings)[:count]


def _ucf101_samples(settings: RunEvalSettings, count: int) -> list[Sample]:
    """Videos of UCF-101's classes under their folders, in turn or as often as its real side has them."""
    prompts, shares = JOBS[settings.job]
    bare = (settings.prompts or prompts) == "names"
    split = job_protocols(settings.job)["fvd"].split
    classes = classes_in_proportion(split) if shares == "as real" else sorted(PROMPTS)
    samples = []
    for k in range(count):
        kind = classes[k % len(classes)]
        prompt = words(kind) if bare else PROMPTS[kind]
        samples.append(Sample(f"{kind}/{k:05d}", prompt, settings.seed + k))
    return samples


def _msrvtt_samples(settings: RunEvalSettings) -> list[Sample]:
    """A video of one drawn caption of each real one, or of every caption; ValueError without captions."""
    if settings.annotations:
        captions = read_annotations(Path(settings.annotations), "test")
    elif settings.real and (Path(settings.real).is_file() or (Path(settings.real) / NAME).is_file()):
        captions = {entry.path.stem: list(entry.captions) for entry in load_manifest(settings.real)}
    else:
        raise ValueError(
            "no prompts: give --annotations FOLDER, or --real with a manifest by `dit data msrvtt`"
        )
    without = sorted(name for name, lines in captions.items() if not any(line.strip() for line in lines))
    if without:
        raise ValueError(f"{settings.annotations or settings.real}: no caption for {few(without)}")
    pairs = []
    for name in sorted(captions, key=number):
        lines = [line for line in captions[name] if line.strip()]
        if JOBS[settings.job][0] == "a caption":
            pairs.append((name, lines[int(uniform("caption", settings.seed, name) * len(lines))]))
        else:
            pairs += [(f"{name}-{k:02d}", line) for k, line in enumerate(lines)]
    return [Sample(name, prompt, settings.seed + k) for k, (name, prompt) in enumerate(pairs)]


def _own_maker(settings: RunEvalSettings, samples: list[Sample]) -> Maker:
    """A model of ours, or a Wan pipeline."""
    asked = inherited(VideoSettings, settings)
    own = {"model": settings.model, "seed": settings.seed, "batch": settings.batch}
    model, whole = load_resolved(SampleSettings(**asked, **own, out=""))
    text, prompts = model.denoiser.text, [sample.prompt for sample in samples]
    note = cut_note(text.config, prompts, tokenizer=getattr(text, "tokenizer", None))
    if note and processes()[0] == 0:
        print(note, file=sys.stderr)
    shape = model.autoencoder.latent_shape(whole.frames, whole.height, whole.width)

    sampler = SamplerConfig(whole.steps, whole.solver, whole.guidance, whole.seed)

    def requests(group: list[Sample]) -> list[Request]:
        return [Request(Condition(sample.prompt), shape, sample.seed) for sample in group]

    return Maker(
        lambda group: make_records(model, whole, requests(group)),
        lambda group: generate_videos(model, requests(group), sampler),
        whole.batch,
        whole.fps,
    )


def _pipeline_maker(settings: RunEvalSettings) -> Maker:
    """Any other pipeline of diffusers; what the settings leave open is its own choice."""
    if settings.solver is not None or settings.batch != 1:
        raise ValueError(
            f"{settings.model} is another project's pipeline: it takes no --solver and no --batch"
        )
    device = own_device()
    precision = settings.precision or own_precision(device)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    pipeline = load_pipeline(settings.model, device, dtype)
    names = ("frames", "height", "width", "steps", "guidance")
    given = {name: getattr(settings, name) for name in names if getattr(settings, name) is not None}
    facts = {
        "label": LABEL,
        "ai_generated": True,
        "weights": pipeline.weights,
        "model": pipeline.facts,
        "sample": given | {"precision": precision},
        "version": __version__,
        "torch": torch.__version__,
    }
    return Maker(
        lambda group: [{"prompt": s.prompt, "seed": s.seed} | facts for s in group],
        lambda group: [generate_with(pipeline, s.prompt, s.seed, given) for s in group],
        1,
        settings.fps or 8.0,
    )


def _make_all(
    samples: list[Sample], maker: Maker, folder: Path, least: int, model: str, overwrite: bool
) -> None:
    """Makes the videos that are not there; groups are the plan's, whatever is there, on any processes.

    Raises ValueError where one in the folder was made otherwise, is too short, or is not finite.
    """
    rank, ranks = processes()
    for place in {(folder / sample.name).parent for sample in samples}:
        remove_stale(place)
    groups = [samples[k : k + maker.batch] for k in range(0, len(samples), maker.batch)]
    facts = [maker.records(group) for group in groups]
    there = [
        [
            not overwrite and is_there(folder / f"{s.name}{ENDING}", record)
            for s, record in zip(g, f, strict=True)
        ]
        for g, f in zip(groups, facts, strict=True)
    ]
    unmade = [k for k, made in enumerate(there) if not all(made)]
    have = sum(map(sum, there))
    if rank == 0:
        kinds = {sample.name.split("/")[0] for sample in samples if "/" in sample.name}
        of = f" of {len(kinds)} classes" if kinds else ""
        print(f"{len(samples)} videos{of}, {have} are there", file=sys.stderr)
    gathered([])  # all have looked before one writes
    mine = unmade[rank::ranks]
    missing = sum(not made for k in mine for made in there[k])
    with progress(
        total=missing, desc="sampling", unit="video", disable=rank > 0 or not missing, smoothing=0.05
    ) as bar:
        for k in mine:
            for sample, record, made, video in zip(
                groups[k], facts[k], there[k], maker.videos(groups[k]), strict=True
            ):
                if made:
                    continue
                _check_video(sample, video, least, model)
                write(folder / f"{sample.name}{ENDING}", [video], record, maker.fps)
                bar.update()
    gathered([])  # all are written


def _check_video(sample: Sample, video_CTHW: Tensor, least: int, model: str) -> None:
    """Raises ValueError for a video that no score can take."""
    if video_CTHW.shape[1] < least:
        nearest_frames = 1 + 4 * -(-(least - 1) // 4)
        raise ValueError(
            f"{model} makes {video_CTHW.shape[1]} frames, and a score takes {least}: "
            f"give --frames {nearest_frames}"
        )
    if not torch.isfinite(video_CTHW).all():
        raise ValueError(f"{model} gave NaN or infinite values for {sample.prompt!r}, seed {sample.seed}")


def _list_videos(samples: list[Sample], folder: Path, ending: str) -> None:
    """Writes the manifest of the videos and a picture of some; raises ValueError where one cannot be read."""
    captions = {folder / f"{sample.name}{ending}": (sample.prompt,) for sample in samples}
    entries, bad = probe_all(list(captions), captions, 0)
    if bad:
        raise ValueError(f"{bad} videos cannot be read, as said above: delete them, and run this again")
    save_manifest(folder / NAME, entries)
    count = min(SHOWN, len(entries))
    some = [k * len(entries) // count for k in range(count)]
    videos = (to_video(read_frames(e.path, range(e.frames), e)) for e in (entries[k] for k in some))
    about = [f"{samples[k].prompt} (seed {samples[k].seed}, {samples[k].name}{ending})" for k in some]
    contact_sheet(videos, about, folder.parent / "contact-sheet.png")


def _write_summary(
    settings: RunEvalSettings, scores: dict[str, dict], costs: dict[str, dict[str, float]], out: Path
) -> None:
    """Writes all scores into one file, beside the file that each has of its own."""
    parts = ("value", "interval", "true_interval", "scores", "intervals", "repeats", "stamps")
    short = {
        metric: {name: score[name] for name in (*parts, "protocol_sha256") if name in score}
        | {"protocol": score["protocol"]["name"], "file": f"{metric}.json"}
        | ({"h264": costs_of(score, costs)} if costs else {})
        for metric, score in scores.items()
    }
    about = {"job": settings.job, "model": Path(settings.model).name, "scores": short}
    about |= {"version": __version__}
    write_json(out / "scores.json", about)
    files = [name for name in ("scores.json", PAGE, "contact-sheet.png") if (out / name).is_file()]
    print(f"{out}: {', '.join(files)}")


def main(arguments: list[str]) -> None:
    """The verb `dit eval run`."""
    settings = parse(RunEvalSettings, arguments, prog="dit eval run")
    try:
        _ = follow(settings, run) if settings.every else run(settings)
    except (KeyboardInterrupt, OSError, MemoryError) as stopped:
        stopped.add_note("videos that are written are kept, the same command goes on")
        raise


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("eval run")
