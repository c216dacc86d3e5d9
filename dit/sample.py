"""`dit sample PROMPT…`: videos from text, or from text and an image, each with its truth inside."""

import base64
import hashlib
import io
import json
import re
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from configs.load import from_json, parse, to_json
from configs.settings import SamplerConfig, SampleSettings
from dit import __version__
from dit.denoiser import Model, load_model
from dit.generate import Request, generate_videos, latent_shape
from vae.video import (
    contact_sheet,
    read_frames,
    read_metadata,
    resize_and_crop,
    to_frames,
    to_video,
    write_gif,
    write_png_frames,
    write_video,
)
from vae.weights import write_text

LABEL = "AI-generated video"
FORMATS = (".mp4", ".gif", ".png")


@dataclass(frozen=True)
class Job:
    """One video to make: its request, the file it goes to, and the image that was given, if any."""

    request: Request
    file: Path
    image_THWC: Tensor | None


def sample(settings: SampleSettings, weights: str = "") -> list[Path]:
    """Makes every video the settings ask for; returns the files, the contact sheet of several last.

    Raises ValueError where the model is not the one whose weights have the given hash.
    """
    prompts = read_prompts(settings)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = settings.precision == "bf16" or (settings.precision == "auto" and device.type == "cuda")
    model = load_model(settings.model, device, torch.bfloat16 if half else torch.float32)
    if weights and weights != model.weights:
        raise ValueError(
            f"{settings.again} was made with other weights than {settings.model}'s: give its model by --model"
        )
    settings = replace(
        settings,
        frames=settings.frames or model.size[0],
        height=settings.height or model.size[1],
        width=settings.width or model.size[2],
        fps=settings.fps or model.fps,
        precision="bf16" if half else "fp32",
    )
    sampler = SamplerConfig(
        steps=settings.steps or model.sampler.steps,
        solver=model.sampler.solver if settings.solver == "model" else settings.solver,
        guidance=model.sampler.guidance if settings.guidance == -1.0 else settings.guidance,
        seed=settings.seed,
    )
    check(settings, sampler)
    jobs = make_jobs(settings, prompts, model)
    videos = []
    evaluations = sampler.steps * (2 if sampler.solver == "heun" else 1)
    groups = [jobs[k : k + settings.batch] for k in range(0, len(jobs), settings.batch)]
    with tqdm(total=len(groups) * sampler.steps, desc=f"sampling {len(jobs)}", unit="step") as progress:
        for group in groups:
            made = generate_videos(
                model, [job.request for job in group], sampler, lambda *_: progress.update()
            )
            for job, video in zip(group, made, strict=True):
                write(job, video, truth(job, settings, sampler, model, evaluations), settings.fps)
                videos.append(video)
    files = [job.file for job in jobs]
    if len(jobs) > 1:
        sheet = files[0].parent / "contact-sheet.png"
        contact_sheet(videos, [job.request.prompt for job in jobs], sheet)
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


def check(settings: SampleSettings, sampler: SamplerConfig) -> None:
    """Raises ValueError for numbers that make no video."""
    for name, value in {"steps": sampler.steps, "number": settings.number, "batch": settings.batch}.items():
        if value < 1:
            raise ValueError(f"--{name} {value}: it must be at least 1")
    if settings.fps <= 0:
        raise ValueError(f"--fps {settings.fps}: it must be positive")
    if sampler.guidance < 0:
        raise ValueError(f"--guidance {sampler.guidance}: it must not be negative, and 1 is none")
    if settings.image and settings.frames == 1:
        raise ValueError("--frames 1 with --image leaves nothing to make: the image is the first frame")


def make_jobs(settings: SampleSettings, prompts: list[str], model: Model) -> list[Job]:
    """Every prompt `number` times, with seeds that count up."""
    channels = model.autoencoder.config.latent_channels
    shape = latent_shape(settings.frames, settings.height, settings.width, channels)
    image = given = None
    if settings.image:
        image = resize_and_crop(read_frames(settings.image, [0]), settings.height, settings.width)
        device = model.autoencoder.latent_mean.device
        given = model.autoencoder.encode(to_video(image)[None].to(device))[0].cpu()
    jobs, count = [], len(prompts) * settings.number
    for prompt in prompts:
        for seed in range(settings.seed, settings.seed + settings.number):
            request = Request(prompt, shape, seed, given, 0 if given is None else 1)
            jobs.append(Job(request, file_name(settings, prompt, seed, count), image))
    names = [job.file for job in jobs]
    if len(set(names)) < len(names):
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
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "untitled"
    return out / f"{words}-{seed}.mp4"


def truth(job: Job, settings: SampleSettings, sampler: SamplerConfig, model: Model, evaluations: int) -> dict:
    """All that makes this video: it is written inside the file and beside it."""
    prompt, seed = job.request.prompt, job.request.seed
    one = replace(settings, prompts=(prompt,), prompts_file="", again="", number=1, seed=seed)
    record = {
        "prompt": prompt,
        "seed": seed,
        "label": LABEL,
        "ai_generated": True,
        "weights": model.weights,
        "model": model.settings,
        "sample": to_json(one),
        "sampler": to_json(replace(sampler, seed=seed)),
        "evaluations": evaluations,
        "version": __version__,
        "torch": torch.__version__,
    }
    if job.image_THWC is not None:
        record["image_png"] = png(job.image_THWC[0])
    return record


def png(frame_HWC: Tensor) -> str:
    """A frame as base64 PNG, without loss."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(frame_HWC.numpy()).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def write(job: Job, video_CTHW: Tensor, record: dict, fps: float) -> None:
    """Writes a video in the format of its name, and its sidecar."""
    record = record | {"frames_sha256": frames_hash(video_CTHW)}
    if job.file.suffix == ".mp4":
        write_video(job.file, video_CTHW, fps, record)
    elif job.file.suffix == ".gif":
        write_gif(job.file, video_CTHW, fps)
    else:
        write_png_frames(job.file.with_suffix(""), video_CTHW)
    write_text(job.file.with_suffix(".json"), json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def frames_hash(video_CTHW: Tensor) -> str:
    """SHA-256 of the RGB bytes that the model made, before any codec."""
    return hashlib.sha256(to_frames(video_CTHW).numpy().tobytes()).hexdigest()


def sample_again(settings: SampleSettings) -> list[Path]:
    """Makes the video of `settings.again` again, and says on stderr where it comes out different.

    Raises ValueError where the model has other weights.
    """
    before = Path(settings.again)
    record = read_metadata(before)
    default, made_with = SampleSettings(), from_json(SampleSettings, record["sample"])
    out = settings.out if settings.out != default.out else str(before.with_stem(before.stem + "-again"))
    model = settings.model if settings.model != default.model else made_with.model
    again = replace(made_with, out=out, model=model, again=settings.again)
    with tempfile.TemporaryDirectory() as folder:
        if "image_png" in record:
            image = Path(folder) / "first-frame.png"
            image.write_bytes(base64.b64decode(record["image_png"]))
            again = replace(again, image=str(image))
        files = sample(again, record["weights"])
    made = json.loads(files[0].with_suffix(".json").read_text())
    if made["frames_sha256"] != record["frames_sha256"]:
        print(f"dit sample: frames differ from {before} (made with torch {record['torch']})", file=sys.stderr)
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
