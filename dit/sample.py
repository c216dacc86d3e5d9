"""`dit sample PROMPT…`: videos from text, or from text and an image, each with its truth inside."""

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, fields, replace
from pathlib import Path
from typing import Annotated, NotRequired

from annotated_types import Len
from torch import Tensor
from typing_extensions import TypedDict

from configs.load import from_json, parse
from configs.ranges import CountOrZero, Seed, Share
from configs.sampling import SamplerConfig, SampleSettings
from dit.condition import Condition, lay
from dit.generate import Request, decode, generate
from dit.givens import FILES, first_image, frames_given, given_fields, read_given
from dit.jobs import run_jobs
from dit.load import Model, load_resolved
from dit.lora_files import parse_scaled
from dit.memory import text_embedded
from dit.record import FORMATS, givens_of, is_there, make_records, place_of, read_record, sidecar, write
from dit.requests import Asked, read_asked
from dit.text import cut_note
from samplers.guidance import guided_conditions
from vae.data.images import IMAGES
from vae.data.mark import draw_words
from vae.data.sheets import contact_sheet, evenly
from vae.data.video import VIDEOS, read_frames, to_video
from vae.data.write import check_frames_folder
from vae.interface import same_shapes
from vae.model import Autoencoder
from vae.quality.psnr_ssim import psnr
from vae.tiles import tile_for
from vae.training.files import check_writable, naming, read_json, remove_stale
from vae.training.processes import gathered, leave, processes
from vae.training.progress import progress, say

SHEET_FRAMES = 5
EMBEDDED = 64  # packs whose prompts are embedded before they are sampled: then the encoder makes room


class RecordAdapters(TypedDict):
    """What a record says of adapters that were added to the model's weights."""

    file: str
    sha256: str
    scale: float


class RecordModel(TypedDict):
    """What a record says of the model, beside its weights."""

    flow: dict
    text: dict
    loras: NotRequired[list[RecordAdapters]]


class RecordParts(TypedDict):
    """The parts of a record that every video has."""

    sample: dict
    sampler: dict
    model: RecordModel
    weights: str
    frames_sha256: str
    torch: str


class RecordGiven(TypedDict):
    """What a record says of latents that were given: their place, and where they are not large themselves."""

    frame: int
    strength: Share
    sha256: str
    tensors: NotRequired[str]


class Record(RecordParts, total=False):
    """The parts of a record by which a video is made again."""

    pack: Annotated[list[tuple[str, str, Seed]], Len(1, 10**6)]  # prompt, negative, seed
    place: CountOrZero
    givens: list[RecordGiven]


LOOKS_ALIKE = {"prompt": "", "negative": "", "seed": 0}  # what videos of one size and givens may differ in
PACKED = ("prompt", "negative", "seed")  # what a record has of each video of its packed call
WITH_AGAIN = {"again", "out", "model", "text_folder", "lora", "overwrite", "precision"}  # --again leaves open


def sample(
    settings: SampleSettings,
    before: dict | None = None,
    load: Callable | None = None,
    share: tuple[int, int] | None = None,
) -> list[Path]:
    """Samples every video the settings ask for; returns the files, the contact sheet of several last.

    With the record of a video from before that one is sampled again, in the packed call that it came from: a
    neighbour may change its last bits. `load` is as in `load_resolved`. The processes that a launcher started
    share the packs, or this one makes its `share`. Raises ValueError where the model is not the record's.
    """
    rank, ranks = share or processes()

    # What is asked for, each in a file of its own.
    asked = list(dict.fromkeys(read_asked(settings)))
    count = len(asked)
    if before and "pack" in before:
        with naming(Path(settings.again)):
            pack = [from_json(Asked, dict(zip(PACKED, one, strict=True))) for one in before["pack"]]
        asked = [replace(asked[0], **{name: getattr(one, name) for name in PACKED}) for one in pack]
    files = file_names(settings, asked, count)
    for file, one in {file.parent: (file, one) for file, one in zip(files, asked, strict=True)}.values():
        remove_stale(file.parent)  # of a call that was killed
        place = place_of(file, one.frames or settings.frames)
        check_writable(sidecar(place))
        if place != file:
            check_frames_folder(place)

    # Who samples it; what the settings leave open is the model's own.
    model, settings = load_resolved(settings, load)
    autoencoder = model.autoencoder
    if before:
        _check_same_model(settings, before, model)

    if settings.guidance == 1 and any(one.negative for one in asked):
        raise ValueError("a negative prompt has no part where --guidance is 1, which is none: give another")
    texts = [text for one in asked for text in (one.prompt, one.negative)]
    text = model.denoiser.text
    if note := cut_note(text.config, texts, tokenizer=getattr(text, "tokenizer", None)):
        print(note, file=sys.stderr)

    # Requests: size, seed, and the condition, a prompt and perhaps a negative one and a first frame.
    own = {name: getattr(settings, name) for name in ("frames", "height", "width")}
    asked = [replace(one, **{n: v for n, v in own.items() if getattr(one, n) is None}) for one in asked]
    lengths = [frames_given(one, settings.fps, autoencoder.compression) for one in asked]
    asked = [replace(one, frames=n or one.frames) for n, one in zip(lengths, asked, strict=True)]
    shapes = [_latent_shape(autoencoder, one, settings) for one in asked]
    tiles = dict.fromkeys(shapes, 0)
    if settings.decode_memory is not None:
        tiles = {z: tile_for(autoencoder, *z[2:], int(settings.decode_memory * 2**30)) for z in tiles}
    if settings.mark != "none":
        for size in {(one.height, one.width) for one in asked}:
            draw_words(settings.mark_text, *size)  # so that what finds no room is told now
    looks = [replace(one, **LOOKS_ALIKE) for one in asked]
    images = {look: first_image(look, look.height, look.width) for look in dict.fromkeys(looks)}
    if before:
        with naming(Path(settings.again)):
            givens = dict.fromkeys(looks, givens_of(before))
            lay(givens[looks[0]], shapes[0])  # raises where it does not lie within, as a record may say
    else:
        givens = {
            look: read_given(autoencoder, look, look.frames, look.height, look.width, settings.fps)
            for look in images
        }
    requests = [
        Request(Condition(prompt=one.prompt, givens=givens[look], negative=one.negative), shape, one.seed)
        for one, look, shape in zip(asked, looks, shapes, strict=True)
    ]

    # Packs, each of one size and image.
    sampler = SamplerConfig(settings.steps, settings.solver, settings.guidance, settings.seed)
    packs = [
        group[k : k + settings.batch]
        for group in same_shapes(list(map(astuple, looks)))
        for k in range(0, len(group), settings.batch)
    ]

    # What is there with the same record is kept; of a pack that is sampled again, one video is made.
    def records_of(pack: list[int]) -> list[dict]:
        names = (*given_fields(), "frames", "height", "width")
        look = {name: getattr(looks[pack[0]], name) for name in names}
        return make_records(model, replace(settings, **look), [requests[k] for k in pack])

    def conditions_of(pack: list[int]) -> list[Condition]:
        return guided_conditions([requests[k].condition for k in pack], sampler.guidance)

    wanted, kept = set(), 0
    for pack in packs:
        for k, record in zip(pack, records_of(pack), strict=True):
            if before and record.get("place", 0) != before.get("place", 0):
                continue  # a neighbour of the one that is sampled again
            there = not settings.overwrite and is_there(files[k], record)
            kept += there
            if before or not there:
                wanted.add(k)
    if (most := max(one.frames for one in asked)) > model.size[0] and wanted and not before:
        say(f"note: {most} frames are more than the {model.size[0]} that the model was trained on")
    if kept and not before and not rank:
        print(f"{kept} of {count} videos are there with the same record: kept", file=sys.stderr)

    # One pack after the other: latents, then frames, written as they are decoded.
    packs = [pack for pack in packs if wanted & set(pack)]
    names = "\n".join(file.name for file in files)
    sheet = files[0].parent / f"contact-sheet-{hashlib.sha256(names.encode()).hexdigest()[:8]}.png"
    if packs and count > 1 and not rank:
        sheet.unlink(missing_ok=True)  # of other videos of these names
    _together(ranks)  # all have looked before one writes
    title, packs = f"sampling {len(wanted)}", packs[rank::ranks]
    quiet = rank > 0 or not packs
    with progress(total=len(packs) * settings.steps, desc=title, unit="step", disable=quiet) as bar:
        for some in range(0, len(packs), EMBEDDED):
            window = packs[some : some + EMBEDDED]
            with text_embedded(model.denoiser, [conditions_of(pack) for pack in window]):
                for pack in window:
                    together = [requests[k] for k in pack]
                    latents = generate(model.denoiser, together, model.flow, sampler, lambda *_: bar.update())
                    for k, record, z in zip(pack, records_of(pack), latents, strict=True):
                        if k in wanted:
                            video = decode(autoencoder, z, tiles[shapes[k]])
                            video = _compared(video, images[looks[k]], files[k].name)
                            write(files[k], video, record, settings.fps)
    _together(ranks)  # all are written
    if rank:
        return []  # the first one says what there is
    if count == 1:
        mine = before.get("place", 0) if before else 0
        return [place_of(files[mine], asked[mine].frames)]
    return [*files, _draw_sheet(sheet, files, asked, settings.prompt_inside)]


def _together(ranks: int) -> None:
    """Waits for all processes that share a call's packs."""
    if ranks > 1:
        gathered([])


def _draw_sheet(sheet: Path, files: list[Path], asked: list[Asked], named: bool) -> Path:
    """Draws frames of a call's videos, as their files show them, where that is not done."""
    if not sheet.is_file():
        places = (evenly(one.frames, SHEET_FRAMES) for one in asked)
        videos = (to_video(read_frames(file, at)) for file, at in zip(files, places, strict=True))
        captions = [
            f"{one.prompt if named else ''} (seed {one.seed}, {file.name})".strip()
            for one, file in zip(asked, files, strict=True)
        ]
        contact_sheet(videos, captions, sheet, SHEET_FRAMES)
    return sheet


def _latent_shape(
    autoencoder: Autoencoder, one: Asked, settings: SampleSettings
) -> tuple[int, int, int, int]:
    """C T H W of a video's latents; raises ValueError, which names a request of a file."""
    try:
        return autoencoder.latent_shape(one.frames, one.height, one.width)
    except ValueError as error:
        if settings.prompts_file:
            raise ValueError(f"the request {one.prompt[:60]!r}: {error}") from None
        raise


def _compared(parts_CTHW: Iterable[Tensor], image_THWC: Tensor | None, name: str) -> Iterator[Tensor]:
    """A video's parts as they come; where its first frame was given, a line says how well that was kept."""
    for number, part in enumerate(parts_CTHW):
        if image_THWC is not None and not number:
            kept = psnr(to_video(image_THWC), part[:, :1])
            say(f"{name}: its first frame has a PSNR of {kept:.1f} dB to the image")
        yield part


def _check_same_model(settings: SampleSettings, record: dict, model: Model) -> None:
    """Raises ValueError where a video to make again was made with other weights, times or text."""
    if record["weights"] != model.weights:
        those = f"{settings.model}'s" + (f" with {' '.join(settings.lora)}" if settings.lora else "")
        raise ValueError(
            f"{settings.again} was made with other weights than {those}: give its model by --model, and its "
            f"adapters, if it has any, by --lora"
        )
    for part in ("flow", "text"):
        before, now = record["model"][part], model.settings[part]
        for name in now:
            if before.get(name) != now[name]:
                raise ValueError(
                    f"{settings.again} was made with {part}.{name} = {before.get(name)!r}, "
                    f"but {settings.model} has {now[name]!r}: give its model by --model"
                )


def files_of(settings: SampleSettings) -> list[Path]:
    """The files that a call writes."""
    asked = list(dict.fromkeys(read_asked(settings)))
    return file_names(settings, asked, len(asked))


def file_names(settings: SampleSettings, asked: list[Asked], count: int) -> list[Path]:
    """Where each video goes; `count` of them are written.

    That is `out` where it is a file, else a name in that folder from the prompt's words and the seed. A hash
    follows where the words are not all of the prompt, which has marks, capitals or too many, and of what a
    request has of its own. No name depends on the others.
    """
    out = Path(settings.out)
    if out.suffix.lower() in FORMATS:
        if count > 1:
            raise ValueError(f"--out {out} is one file, but {count} videos are asked for: give a folder")
        return [out] * len(asked)
    if out.suffix.lower() in VIDEOS | IMAGES and not out.is_dir():
        raise ValueError(f"--out {out}: {out.suffix} is none of {', '.join(FORMATS)}")
    names = []
    for one in asked:
        words = re.sub(r"[\W_]+", "-", one.prompt.lower() if settings.prompt_inside else "video").strip("-")
        words = words[:60].encode()[:120].decode(errors="ignore")  # names have at most 255 bytes
        names_of_own = ("negative", *given_fields(), "frames", "height", "width")
        values = {name: getattr(one, name) for name in names_of_own}
        own = {name: value for name, value in values.items() if value != getattr(settings, name)}
        if own or not words or words.replace("-", " ") != one.prompt:
            about = json.dumps([one.prompt, own])
            words = f"{words or 'untitled'}-{hashlib.sha256(about.encode()).hexdigest()[:8]}"
        names.append(f"{words}-{one.seed}.mp4")
    return [out / name for name in names]


def _sample_again(settings: SampleSettings) -> list[Path]:
    """Samples the video of `settings.again` again.

    Raises ValueError where the model has other weights, for settings that would make another video, and, once
    the video is written, where its frames came out different.
    """
    video, default = Path(settings.again), SampleSettings()
    for field in fields(SampleSettings):
        if field.name not in WITH_AGAIN and getattr(settings, field.name) != getattr(default, field.name):
            raise ValueError(
                f"--again samples the same video again, so it takes no {field.name.replace('_', '-')}; "
                f"only {', '.join(f'--{name}' for name in sorted(WITH_AGAIN - {'again'}))} go with it"
            )
    record = from_json(Record, read_record(video), f"{video} carries no whole record of `dit sample`")
    origin = from_json(SampleSettings, record["sample"], f"{video}, sample in its record")
    if not origin.prompt_inside:
        raise ValueError(
            f"{video} does not say its prompt (--no-prompt-inside), so it cannot be made again from itself: "
            f"give `dit sample` the prompt, with the seed and settings of its record"
        )
    if record.get("place", 0) >= len(record.get("pack", [""])):
        raise ValueError(f"{video} carries a record of place {record['place']}, which its pack has not")
    name = f"{video.name}-again.png" if video.is_dir() else f"{video.stem}-again{video.suffix}"
    out = settings.out if settings.out != default.out else str(video.with_name(name))
    if (
        settings.model == default.model != origin.model
    ):  # a video may come from anyone: its paths are not read
        raise ValueError(f"{video} was made by {origin.model}, which is not read unless you name it: --model")
    nothing = {name: getattr(default, name) for name in given_fields()}
    named = [name for name in sorted(FILES) if getattr(origin, name)]
    if named and "givens" not in record:
        raise ValueError(f"{video} holds nothing that was given, and its record names --{named[0]}")
    precision = settings.precision if settings.precision != default.precision else origin.precision
    ours = {
        "number": 1,
        "out": out,
        "model": settings.model,
        "text_folder": settings.text_folder,
        "lora": _same_adapters(settings, origin, record),
        "prompts_file": "",
    }
    again = replace(origin, **ours, **nothing, again=settings.again, precision=precision)
    again = replace(again, overwrite=settings.overwrite)
    files = sample(again, record)
    if read_json(sidecar(files[0]))["frames_sha256"] != record["frames_sha256"]:
        raise ValueError(
            f"{files[0]} is written, but its frames differ from those of {video}: it was made with torch "
            f"{record['torch']} and {origin.precision}, or on another processor"
        )
    return files


def _same_adapters(settings: SampleSettings, origin: SampleSettings, record: Record) -> tuple[str, ...]:
    """The adapters of a video to make again, given by name, each with the scale that it had there.

    They are known by their hashes, and added in the order that they had. Raises ValueError for one that is
    missing, or was not there.
    """
    stated = record["model"].get("loras", [])
    stated = stated[len(stated) - len(origin.lora) :]
    if stated and not settings.lora:
        files = " ".join(one["file"] for one in stated)
        raise ValueError(
            f"{settings.again} was made with adapters, not read unless you name them: --lora {files}"
        )
    given = {one.hash: one.file for one in map(parse_scaled, settings.lora)}
    for one in stated:
        if one["sha256"] not in given:
            raise ValueError(
                f"{settings.again} was made with the adapters {one['file']}, SHA-256 {one['sha256'][:12]}…, "
                f"which no --lora names"
            )
    if other := given.keys() - {one["sha256"] for one in stated}:
        raise ValueError(f"{settings.again} was made without {given[min(other)]}: leave that --lora out")
    return tuple(f"{given[one['sha256']]}:{one['scale']!r}" for one in stated)


def main(arguments: list[str]) -> None:
    """The verb `dit sample`."""
    settings = parse(SampleSettings, arguments, prog="dit sample")
    try:
        if settings.jobs:
            files = run_jobs(settings, sample, files_of)
        else:
            files = _sample_again(settings) if settings.again else sample(settings)
    except (KeyboardInterrupt, OSError, MemoryError) as stopped:
        stopped.add_note("videos that are written are kept, the same command goes on")
        raise
    leave()
    for file in files:
        print(file)


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("sample")
