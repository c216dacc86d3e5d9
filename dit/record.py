"""A video's truth, all that makes it again: its record built, written with the video, and read."""

import base64
import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from configs.sampling import SampleSettings
from dit import __version__
from dit.generate import Request
from dit.load import Model
from vae.data.write import read_metadata, to_frames, write_gif, write_png, write_png_frames, write_stream
from vae.training.files import read_json, write_json
from vae.training.progress import progress

LABEL = "AI-generated video"
FORMATS = (".mp4", ".gif", ".png")


def make_records(model: Model, settings: SampleSettings, requests: list[Request]) -> list[dict]:
    """All that makes each video of a packed call again: it is written inside its file and beside it.

    The settings are resolved, with this call's size and image. A pack's other prompts, negative prompts and
    seeds are in it, as they may change its last bits.
    """
    sampler = {"steps": settings.steps, "solver": settings.solver, "guidance": settings.guidance}
    pack = [(request.condition.prompt, request.condition.negative, request.seed) for request in requests]
    records = []
    for place, (prompt, negative, seed) in enumerate(pack):
        one = replace(settings, prompts=(prompt,), negative=negative, seed=seed)
        one = replace(one, prompts_file="", again="", number=1)
        condition = vars(requests[place].condition)
        unknown = condition.keys() - {"given_CTHW", "image_THWC"}
        assert all(isinstance(condition[name], str | int | float) for name in unknown), "write it below"
        record = {
            name: value for name, value in condition.items() if isinstance(value, str | int | float)
        } | {
            "seed": seed,
            "label": LABEL,
            "ai_generated": True,
            "weights": model.weights,
            "model": model.settings | model.facts,
            "sample": asdict(one),
            "sampler": sampler | {"seed": seed},
            "evaluations": 2 * settings.steps - 1 if settings.solver == "heun" else settings.steps,
            "version": __version__,
            "torch": torch.__version__,
        }
        if condition["image_THWC"] is not None:
            record["image_png"] = _png(condition["image_THWC"][0])
        records.append(record | ({"pack": pack, "place": place} if len(pack) > 1 else {}))
    return records


def _png(frame_HWC: Tensor) -> str:
    """A frame as base64 PNG, without loss."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(frame_HWC.numpy()).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def write(
    file: Path, parts_CTHW: Iterable[Tensor], record: dict, fps: float, shown: Sequence[int] = ()
) -> tuple[Path, Tensor]:
    """Writes a video from its parts as they come, in the format of its name, and its record beside it.

    An mp4 is never held whole. Returns the file, or the folder of frames; and the frames at the places
    `shown`, uint8 T H W C. `frames_sha256` in the record is of the RGB bytes before any codec.
    """
    record, digest, picked = dict(record), hashlib.sha256(), []

    def hashed() -> Iterator[Tensor]:
        first = 0
        for part in progress(parts_CTHW, desc=f"writing {file.name}", unit="part", delay=2, leave=False):
            frames = to_frames(part)
            digest.update(frames.numpy())
            picked.append(frames[[place - first for place in shown if 0 <= place - first < len(frames)]])
            first += len(frames)
            yield part
        record["frames_sha256"] = digest.hexdigest()

    kind, file = file.suffix.lower(), place_of(file, record)
    if kind == ".mp4":
        write_stream(file, hashed(), fps, lambda: record)
    elif kind == ".gif":
        write_gif(file, torch.cat(list(hashed()), dim=1), fps)
    else:
        (write_png if file.suffix.lower() == ".png" else write_png_frames)(
            file, torch.cat(list(hashed()), dim=1)
        )
    write_json(sidecar(file), record)
    return file, torch.cat(picked)


def place_of(file: Path, record: dict) -> Path:
    """What is written for a file's name: that file, but for .png of several frames a folder of them."""
    is_folder = file.suffix.lower() == ".png" and record["sample"]["frames"] != 1
    return file.with_suffix("") if is_folder else file


def sidecar(file: Path) -> Path:
    """The JSON beside a video, or beside a folder of frames, whose name may have dots."""
    return file.with_suffix(".json") if file.suffix.lower() in FORMATS else Path(f"{file}.json")


def read_record(file: Path) -> dict:
    """The record inside an mp4, or in the sidecar of a GIF, of an image or of a folder of frames."""
    if file.suffix.lower() not in (".gif", ".png") and not file.is_dir():
        return read_metadata(file)
    if not sidecar(file).is_file():
        raise ValueError(f"{sidecar(file)}: no such file, and it holds the record of {file}")
    return read_json(sidecar(file))
