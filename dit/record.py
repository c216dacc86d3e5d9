"""A video's truth, all that makes it again: its record built, written with the video, and read."""

import base64
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as deserialise
from safetensors.torch import save as serialise
from torch import Tensor

from configs.sampling import GivenSettings, SampleSettings
from dit import __version__
from dit.condition import Given
from dit.generate import Request
from dit.givens import FILES
from dit.load import Model
from vae.data.label import AIGC, PRODUCER, make_aigc
from vae.data.mark import marked
from vae.data.video import UnreadableVideo, probe
from vae.data.write import (
    WITH_RECORD,
    read_metadata,
    to_frames,
    write_gif,
    write_png,
    write_png_frames,
    write_stream,
)
from vae.training.files import read_json, write_json
from vae.training.progress import progress

LABEL = "AI-generated video"
FORMATS = (".mp4", ".mkv", ".gif", ".png")
LARGE = 4 * 2**20  # bytes of what was given, of which more is recorded by its hash
PROMPTS = ("prompt", "negative", "pack", "givens", "sample.prompts", "sample.negative")
PROMPTS = (*PROMPTS, *(f"sample.{name}" for name in sorted(FILES)))  # and names of what was given
ELSE = "give another --out, or --overwrite to make it anew"
UNSURE = {  # of a record, what does not say which video it is
    *("version", "torch", "frames_sha256", "video", AIGC),
    # Where things lay: the record has what they were.
    *("sample.out", "sample.model", "sample.text_folder", "sample.lora"),
    *(f"sample.{field.name}" for field in fields(GivenSettings)),  # what these gave is in `givens`
}


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
        one = replace(one, prompts_file="", again="", number=1, overwrite=False)
        condition = vars(requests[place].condition)
        unknown = condition.keys() - {"givens"}
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
        if condition["givens"]:
            record["givens"] = _record_givens(condition["givens"])
        record |= {"pack": pack, "place": place} if len(pack) > 1 else {}
        records.append(record if settings.prompt_inside else _without_prompts(record))
    return records


def _record_givens(givens: Sequence[Given]) -> list[dict]:
    """What was given, as it lies in a record: place, strength and hash, and where they are not large the
    latents and their mask themselves, without loss."""
    entries, left = [], LARGE
    for given in givens:
        masks = {} if given.mask_THW is None else {"mask": given.mask_THW}
        data = serialise({"latents": given.latents_CTHW.contiguous()} | masks)
        entry = {"frame": given.frame, "strength": given.strength, "sha256": hashlib.sha256(data).hexdigest()}
        left -= len(data)
        entries.append(entry | ({"tensors": base64.b64encode(data).decode()} if left >= 0 else {}))
    return entries


def _without_prompts(record: dict) -> dict:
    """A record that tells no prompt, and no given picture, but only whether another has the same."""
    kept = {name: value for name, value in record.items() if name not in PROMPTS}
    kept["sample"] = {k: v for k, v in record["sample"].items() if f"sample.{k}" not in PROMPTS}
    hidden = [record.get(name) for name in PROMPTS if "." not in name]
    return kept | {"inputs_sha256": _hash_of(hidden)}


def _hash_of(values: dict | list) -> str:
    """SHA-256 of values as JSON, whatever their order."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _aigc(record: dict) -> dict[str, str]:
    """The label of a whole record, numbered by all of it but where things lay: made again, it is equal."""
    sample = {k: v for k, v in record["sample"].items() if f"sample.{k}" not in UNSURE}
    frames = record["frames_sha256"]
    same = {k: v for k, v in record.items() if k not in UNSURE} | {"sample": sample, "frames": frames}
    return make_aigc(_hash_of(same)[:32], frames, record["sample"].get("producer", PRODUCER))


def givens_of(record: dict) -> tuple[Given, ...]:
    """What a record says was given; raises ValueError where it has only the hash, or what is damaged."""
    givens = []
    for entry in record.get("givens", []):
        if "tensors" not in entry:
            raise ValueError("what was given is large, so that the record has its hash alone")
        data = base64.b64decode(entry["tensors"].encode(errors="replace"))
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise ValueError("what was given is not what its hash says")
        try:
            tensors = deserialise(data)
            given = Given(
                tensors["latents"], int(entry["frame"]), tensors.get("mask"), float(entry["strength"])
            )
        except (SafetensorError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"what was given cannot be read: {error}") from None
        latents = given.latents_CTHW
        if latents.ndim != 4 or not latents.is_floating_point() or not 0 <= given.strength <= 1:
            raise ValueError("what was given is no latents C T H W of a strength from 0 to 1")
        givens.append(given)
    return tuple(givens)


def write(file: Path, parts_CTHW: Iterable[Tensor], record: dict, fps: float) -> Path:
    """Writes a video from its parts as they come, in the format of its name, and its record beside it.

    An mp4 or mkv is never held whole. Returns the file, or the folder of frames. `frames_sha256` in the
    record is of the RGB bytes before any codec, with the mark that the record's settings ask for.
    """
    record, digest = dict(record), hashlib.sha256()
    look = record["sample"]
    if (mark := look.get("mark", "none")) != "none":
        parts_CTHW = marked(parts_CTHW, fps, look["mark_text"], look["mark_corner"], mark == "start")

    def hashed() -> Iterator[Tensor]:
        for part in progress(parts_CTHW, desc=f"writing {file.name}", unit=" part", delay=2, leave=False):
            digest.update(to_frames(part).numpy())
            yield part
        record["frames_sha256"] = digest.hexdigest()
        record[AIGC] = _aigc(record)

    kind, place = file.suffix.lower(), place_of(file, record["sample"].get("frames"))
    if kind in WITH_RECORD:  # which has the record inside, and so comes first
        write_stream(place, hashed(), fps, lambda: record)
        write_json(sidecar(place), record)
        return place
    video = torch.cat(list(hashed()), dim=1)
    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)  # of another record
    write_json(sidecar(place), record)  # without the video it says that nothing is there yet
    if kind == ".gif":
        write_gif(place, video, fps, record)
    else:
        (write_png if place == file else write_png_frames)(place, video, record)
    return place


def place_of(file: Path, frames: int | None) -> Path:
    """What is written for a file's name: that file, but for .png of several frames a folder of them."""
    return file.with_suffix("") if file.suffix.lower() == ".png" and frames != 1 else file


def is_there(file: Path, record: dict) -> bool:
    """Whether the video of this record is there already; its sidecar is written where a kill lost that.

    Raises ValueError where anything else has its name, or its sidecar's: nothing is overwritten unasked.
    """
    place = place_of(file, record["sample"].get("frames"))
    beside = sidecar(place)
    if place.is_dir() if file == place else place.is_file():
        raise ValueError(f"{place} is {'a folder' if file == place else 'a file'}: give another name")
    there = place.is_file() or (place.is_dir() and any(place.iterdir()))
    if not there and not beside.exists():
        return False

    # An mp4 or mkv has its own record, which the sidecar may have lost, or be behind.
    within = there and place.suffix.lower() in WITH_RECORD
    try:
        before = read_record(place) if within else read_json(beside)
    except (ValueError, OSError):
        what = place if there else beside
        raise ValueError(f"{what} is there, and no record says that `dit` made it: {ELSE}") from None
    _check_same(place, before, record)
    said = {name: value for name, value in before.items() if name != "video"}
    if within and not _says(beside, said):
        write_json(beside, said)
    return there and (within or _is_whole(place, before["sample"].get("frames")))


def _is_whole(place: Path, frames: int | None) -> bool:
    """Whether a GIF, an image or a folder of frames has all that its record says: a kill may have cut it."""
    if place.is_dir():
        return len(list(place.glob("*.png"))) == frames
    try:
        return probe(place).frames == frames
    except UnreadableVideo:
        return False


def _check_same(place: Path, before: dict, record: dict) -> None:
    """Raises ValueError naming what of a record is not as before; a default may be lacking there."""
    own = {f"sample.{name}": value for name, value in asdict(SampleSettings()).items()}
    other = [
        f"{name} was {was!r:.80}, and is {now!r:.80}"
        for name, was, now in changed(before, json.loads(json.dumps(record)))
        if name not in UNSURE and not (was is None and name in own and now == own[name])
    ]
    kinds = [_kind(one.get("sample", {}).get("out")) for one in (before, record)]
    if kinds[0] != kinds[1]:
        other.insert(0, f"it is the record of a video in {kinds[0]}, not {kinds[1]}")
    if other:
        raise ValueError(f"{place} was made otherwise: {'; '.join(other[:3])}: {ELSE}")


def _kind(out: str | None) -> str:
    """The format of the video that goes to an output: in a folder it is mp4."""
    suffix = Path(out or "").suffix.lower()
    return suffix if suffix in FORMATS else ".mp4"


def _says(beside: Path, record: dict) -> bool:
    """Whether a sidecar holds this record; raises ValueError for another's file, which is not replaced."""
    try:
        said = read_json(beside)
    except (ValueError, OSError):
        return False
    if not {"weights", "sample"} <= said.keys():
        raise ValueError(f"{beside} is there, and no record says that `dit` made it: {ELSE}")
    return said == record


def changed(before: dict, record: dict, within: str = "") -> Iterator[tuple[str, object, object]]:
    """Names and both values of what differs, those of nested dicts as `sample.steps`; None is none."""
    for name in dict.fromkeys([*record, *before]):
        was, now = before.get(name), record.get(name)
        if isinstance(now, dict) and isinstance(was, dict):
            yield from changed(was, now, f"{within}{name}.")
        elif was != now:
            yield within + name, was, now


def sidecar(file: Path) -> Path:
    """The JSON beside a video, or beside a folder of frames, whose name may have dots."""
    return file.with_suffix(".json") if file.suffix.lower() in FORMATS else Path(f"{file}.json")


def read_record(file: Path) -> dict:
    """The record inside an mp4 or mkv, or in the sidecar of a GIF, of an image or of a folder of frames."""
    if file.suffix.lower() not in (".gif", ".png") and not file.is_dir():
        return read_metadata(file)
    if not sidecar(file).is_file():
        raise ValueError(f"{sidecar(file)}: no such file, and it holds the record of {file}")
    return read_json(sidecar(file))
