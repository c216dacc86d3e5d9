"""`dit sample PROMPT…`: videos from text, or from text and an image, each with its truth inside."""

import base64
import hashlib
import json
import re
import sys
import tempfile
from dataclasses import fields, replace
from pathlib import Path

from tqdm import tqdm

from configs.load import from_json, parse
from configs.sampling import SampleSettings
from dit.generate import Request, generate_parts, latent_shape
from dit.load import Model, load_resolved
from dit.record import FORMATS, Job, read_record, records, sampler_of, sidecar, write_parts
from vae.data.sheets import contact_sheet, evenly
from vae.data.video import read_frames, resize_and_crop, to_video

SHEET_FRAMES = 5
WITH_AGAIN = {"again", "out", "model", "precision"}  # the settings that --again leaves open


def sample(settings: SampleSettings, record: dict | None = None) -> list[Path]:
    """Makes every video the settings ask for; returns the files, the contact sheet of several last.

    With the record of a video that one is made again, in the packed call that it was made in: a neighbour may
    change its last bits. Raises ValueError where the model is not the record's.
    """
    prompts = read_prompts(settings)
    if settings.image and settings.frames == 1:
        raise ValueError("--frames 1 with --image leaves nothing to make: the image is the first frame")
    model, settings = load_resolved(settings)
    if model.kind == "transformer checkpoint":
        print(f"dit sample: {settings.model} at step {model.facts['step']}", file=sys.stderr)
    if record:
        check_same_model(settings, record, model)
    sampler = sampler_of(settings)
    counted = range(settings.seed, settings.seed + settings.number)
    pairs = [(prompt, seed) for prompt in prompts for seed in counted]
    jobs = make_jobs(settings, record.get("pack", pairs) if record else pairs, len(pairs), model)
    files, shown = [], []
    groups = [jobs[k : k + settings.batch] for k in range(0, len(jobs), settings.batch)]
    with tqdm(total=len(groups) * sampler.steps, desc=f"sampling {len(jobs)}", unit="step") as progress:
        for group in groups:
            requests = [job.request for job in group]
            made = generate_parts(
                model, requests, sampler, lambda *_: progress.update(), settings.decode_memory
            )
            facts = records(model, group, settings)
            for place, (job, parts) in enumerate(zip(group, made, strict=True)):
                if record and place != record.get("place", 0):
                    continue
                file, some = write_parts(
                    job, parts, facts[place], settings.fps, evenly(settings.frames, SHEET_FRAMES)
                )
                files.append(file)
                shown.append(some)
    if len(files) > 1:
        sheet = files[0].parent / "contact-sheet.png"
        videos = (to_video(frames) for frames in shown)
        contact_sheet(videos, [job.request.prompt for job in jobs], sheet, SHEET_FRAMES)
        files.append(sheet)
    return files


def read_prompts(settings: SampleSettings) -> list[str]:
    """Prompts of the command line and the file; raises ValueError where there is none."""
    prompts = list(settings.prompts)
    if settings.prompts_file:
        file = Path(settings.prompts_file)
        if not file.is_file():
            raise ValueError(f"{file}: no such prompts file")
        prompts += [line.strip() for line in file.read_text().splitlines() if line.strip()]
    if not prompts:
        raise ValueError('no prompt: try `dit sample "a red circle moves left"`')
    return prompts


def check_same_model(settings: SampleSettings, record: dict, model: Model) -> None:
    """Raises ValueError where a video to make again was made with other weights, times or text."""
    if record["weights"] != model.weights:
        raise ValueError(
            f"{settings.again} was made with other weights than {settings.model}'s: give its model by --model"
        )
    for part in ("flow", "text"):
        before, now = record["model"].get(part, {}), model.settings[part]
        for name in now:
            if before.get(name) != now[name]:
                raise ValueError(
                    f"{settings.again} was made with {part}.{name} = {before.get(name)!r}, "
                    f"but {settings.model} has {now[name]!r}: give its model by --model"
                )


def make_jobs(settings: SampleSettings, pairs: list[tuple[str, int]], videos: int, model: Model) -> list[Job]:
    """The videos of pairs of prompt and seed, of which so many are kept."""
    shape = latent_shape(model.autoencoder, settings.frames, settings.height, settings.width)
    image = given = None
    if settings.image:
        image = resize_and_crop(read_frames(settings.image, [0]), settings.height, settings.width)
        device = model.autoencoder.latent_mean.device
        given = model.autoencoder.encode(to_video(image)[None].to(device))[0].cpu()
    jobs = []
    for prompt, seed in pairs:
        request = Request(prompt, shape, seed, given, 0 if given is None else 1)
        jobs.append(Job(request, file_name(settings, prompt, seed, videos), image))
    names = [job.file for job in jobs]
    if videos > 1 and len(set(names)) < len(names):
        jobs = [
            replace(job, file=job.file.with_stem(f"{k:03d}-{job.file.stem}")) for k, job in enumerate(jobs)
        ]
    return jobs


def file_name(settings: SampleSettings, prompt: str, seed: int, videos: int) -> Path:
    """Where a video goes: `out` itself where that is a file, else a name of its own in that folder."""
    out = Path(settings.out)
    if out.suffix.lower() in FORMATS:
        if videos > 1:
            raise ValueError(f"--out {out} is one file, but {videos} videos are asked for: give a folder")
        return out
    if out.suffix and not out.is_dir():
        raise ValueError(f"--out {out}: {out.suffix} is none of {', '.join(FORMATS)}")
    return out / f"{file_words(prompt)}-{seed}.mp4"


def file_words(prompt: str) -> str:
    """A prompt as the name of a file; a hash of it follows where the words are none or too many."""
    words = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")
    short = words[:60].encode()[:120].decode(errors="ignore")  # names have at most 255 bytes
    if short == words != "":
        return words
    return f"{short or 'untitled'}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"


def sample_again(settings: SampleSettings) -> list[Path]:
    """Makes the video of `settings.again` again.

    Raises ValueError where the model has other weights, for settings that would make another video, and, once
    the video is written, where its frames came out different.
    """
    before, default = Path(settings.again), SampleSettings()
    for field in fields(SampleSettings):
        if field.name not in WITH_AGAIN and getattr(settings, field.name) != getattr(default, field.name):
            raise ValueError(
                f"--again makes the same video again, so it takes no {field.name.replace('_', '-')}; "
                f"only {', '.join(f'--{name}' for name in sorted(WITH_AGAIN - {'again'}))} go with it"
            )
    record = read_record(before)
    missing = {"sample", "sampler", "model", "weights", "frames_sha256", "torch"} - set(record)
    if missing:
        raise ValueError(f"{before} carries no whole record of `dit sample`: {', '.join(sorted(missing))}")
    made_with = from_json(SampleSettings, record["sample"])
    beside = before.with_name(
        f"{before.name}-again.png" if before.is_dir() else f"{before.stem}-again{before.suffix}"
    )
    out = settings.out if settings.out != default.out else str(beside)
    model = settings.model if settings.model != default.model else made_with.model
    precision = settings.precision if settings.precision != default.precision else made_with.precision
    again = replace(made_with, out=out, model=model, again=settings.again, precision=precision)
    with tempfile.TemporaryDirectory() as folder:
        if "image_png" in record:
            image = Path(folder) / "first-frame.png"
            image.write_bytes(base64.b64decode(record["image_png"]))
            again = replace(again, image=str(image))
        files = sample(again, record)
    made = json.loads(sidecar(files[0]).read_text())
    if made["frames_sha256"] != record["frames_sha256"]:
        raise ValueError(
            f"{files[0]} is written, but its frames differ from those of {before}: it was made with torch "
            f"{record['torch']} and {made_with.precision}, or on another processor"
        )
    return files


def main(arguments: list[str]) -> None:
    """The verb `dit sample`."""
    settings = parse(SampleSettings, arguments, prog="dit sample")
    files = sample_again(settings) if settings.again else sample(settings)
    for file in files:
        print(file)


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("sample")
