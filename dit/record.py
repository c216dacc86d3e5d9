"""A video's truth: all that makes it again, inside its file and beside it."""

import base64
import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from configs.load import to_json
from configs.sampling import SamplerConfig, SampleSettings
from dit import __version__
from dit.generate import Request
from dit.load import Model
from vae.data.video import to_frames
from vae.data.write import read_metadata, write_gif, write_png_frames, write_stream
from vae.training.files import read_json, write_text

LABEL = "AI-generated video"
FORMATS = (".mp4", ".gif", ".png")


@dataclass(frozen=True)
class Job:
    """One video to make: its request, the file it goes to, and the image that was given, if any."""

    request: Request
    file: Path
    image_THWC: Tensor | None


def sampler_of(settings: SampleSettings) -> SamplerConfig:
    """The sampler of whole settings."""
    return SamplerConfig(settings.steps, settings.solver, settings.guidance, settings.seed)


def records(model: Model, group: list[Job], settings: SampleSettings) -> list[dict]:
    """The records of the videos of one packed call; the settings are whole."""
    pack = [(job.request.prompt, job.request.seed) for job in group]
    own = [truth(job, settings, model) for job in group]
    return [facts | ({"pack": pack, "place": k} if len(pack) > 1 else {}) for k, facts in enumerate(own)]


def truth(job: Job, settings: SampleSettings, model: Model) -> dict:
    """All that makes this video: it is written inside the file and beside it."""
    sampler = sampler_of(settings)
    evaluations = 2 * sampler.steps - 1 if sampler.solver == "heun" else sampler.steps
    prompt, seed = job.request.prompt, job.request.seed
    one = replace(settings, prompts=(prompt,), prompts_file="", again="", number=1, seed=seed)
    record = {
        "prompt": prompt,
        "seed": seed,
        "label": LABEL,
        "ai_generated": True,
        "weights": model.weights,
        "model": model.settings | model.facts,
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


def write(job: Job, video_CTHW: Tensor, record: dict, fps: float) -> Path:
    """Writes a video in the format of its name, and its sidecar; returns the file or folder of frames."""
    return write_parts(job, [video_CTHW], record, fps, [])[0]


def write_parts(
    job: Job, parts_CTHW: Iterable[Tensor], record: dict, fps: float, places: list[int]
) -> tuple[Path, Tensor]:
    """As `write`, of a video's parts as they come; an mp4 is never held whole.

    Returns the frames at these places too, uint8 T H W C. `frames_sha256` in the record is of the RGB bytes
    that the model made, before any codec.
    """
    digest, some = hashlib.sha256(), []

    def passing() -> Iterator[Tensor]:
        first = 0
        for part in tqdm(parts_CTHW, desc=f"writing {job.file.name}", unit="part", delay=2, leave=False):
            frames = to_frames(part)
            digest.update(frames.numpy())
            some.append(frames[[place - first for place in places if 0 <= place - first < len(frames)]])
            first += len(frames)
            yield part

    def whole_record() -> dict:
        return record | {"frames_sha256": digest.hexdigest()}

    file, kind = job.file, job.file.suffix.lower()
    if kind == ".mp4":
        write_stream(file, passing(), fps, whole_record)
    elif kind == ".gif":
        write_gif(file, torch.cat(list(passing()), dim=1), fps)
    else:
        file = file.with_suffix("")
        write_png_frames(file, torch.cat(list(passing()), dim=1))
    write_text(sidecar(file), json.dumps(whole_record(), indent=2, ensure_ascii=False) + "\n")
    return file, torch.cat(some)


def sidecar(file: Path) -> Path:
    """The JSON beside a video, or beside a folder of frames, whose name may have dots."""
    return file.with_suffix(".json") if file.suffix.lower() in FORMATS else Path(f"{file}.json")


def read_record(file: Path) -> dict:
    """The record inside an mp4, or in the sidecar of a GIF or of a folder of frames."""
    if file.suffix.lower() != ".gif" and not file.is_dir():
        return read_metadata(file)
    if not sidecar(file).is_file():
        raise ValueError(f"{sidecar(file)}: no such file, and it holds the record of {file}")
    return read_json(sidecar(file))
