"""`dit data caption MANIFEST --by WRITER`: captions of clips by a model, beside those that are there."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from configs.load import Positional, parse
from configs.ranges import Count, Side
from dit.describe import Writer, load_writer
from vae.curation.measure import beside, put_column
from vae.curation.work import Journal
from vae.data.columns import Entry, column_types
from vae.data.images import UnreadableVideo
from vae.data.manifest import load_manifest, rewrite
from vae.data.sheets import evenly
from vae.data.video import read_frames
from vae.training.progress import progress, say

LENGTHS = {  # name -> how a caption of that length is asked for
    "short": "in one plain sentence of at most 20 words",
    "medium": "in two or three sentences",
    "long": "in one paragraph of about 120 words, with subjects, actions, setting, light and camera",
}
ASK = "These are frames of a video, in order. Describe what the video shows {length}, in {language}. {rule}"
RULE = "Say only what is seen, without an introduction."


@dataclass(frozen=True)
class CaptionSettings:
    """Caption the clips of a manifest by a model; earlier captions stay, and a run that was stopped goes
    on."""

    source: Positional[str] = ""
    """Manifest, or folder with one."""
    by: str = ""
    """What writes: a folder of transformers, an address such as http://host:8000/v1, or MODULE:FUNCTION."""
    model: str = ""
    """Name of the model at an address; of another writer, the name that captions have as their origin."""
    key_file: str = ""
    """File with the key of an address."""
    lengths: tuple[str, ...] = ("medium",)
    """Lengths that each clip is described in: short, medium, long."""
    languages: tuple[str, ...] = ("English",)
    """Languages that each clip is described in, as the model is asked for them."""
    prompt: str = ""
    """What is asked instead; {length} and {language} stand for how each caption is asked for."""
    frames: Count = 8
    """Frames that are shown of each clip, evenly from the first to the last."""
    side: Side = 448
    """Pixels that the longer side of a frame has at most."""
    tokens: Count = 256
    """Tokens of the longest caption."""
    batch: Count = 8
    """Clips that are described at once."""
    everything: bool = False
    """Caption rejected rows too."""
    device: str = "cpu"
    """Device of a model of transformers."""
    out: str = ""
    """Manifest to write; empty writes `captioned.parquet` beside the source."""


def caption(settings: CaptionSettings) -> Path:
    """Writes the manifest with the captions added and returns its path."""
    if not settings.source or not settings.by:
        raise ValueError("give a manifest and what writes: `dit data caption MANIFEST --by WRITER`")
    asked = questions(settings)
    out, manifest = beside(settings.source, settings.out, "captioned"), load_manifest(settings.source)
    write, origin = load_writer(
        settings.by, settings.model, settings.key_file, settings.tokens, settings.device
    )
    about = repr((origin, asked, settings.frames, settings.side, settings.tokens))
    journal = Journal(out, f"captions-{hashlib.sha256(about.encode()).hexdigest()[:12]}")
    first, added = 0, 0
    with progress(total=len(manifest), desc="caption", unit="clip") as bar:

        def change(table):
            nonlocal first, added
            import pyarrow

            entries = manifest[first : first + len(table)]
            first += len(table)
            cells = []
            for part in _parts(list(entries), settings.batch):
                cells += _captioned(part, asked, origin, write, settings, journal)
                bar.update(len(part))
            old = table["captions"].to_pylist()
            added += sum(map(len, cells))
            column = pyarrow.array(
                [a + b for a, b in zip(old, cells, strict=True)], column_types()["captions"]
            )
            return put_column(table, "captions", column)

        rewrite(settings.source, out, change)
    journal.done()
    print(f"{out}: {added} captions added by {origin}")
    return out


def _parts(values: list, size: int):
    """A list in parts."""
    return (values[k : k + size] for k in range(0, len(values), size))


def questions(settings: CaptionSettings) -> list[tuple[str, str]]:
    """What is asked of each clip: languages and prompts; raises ValueError for an unknown length."""
    if unknown := [length for length in settings.lengths if length not in LENGTHS]:
        raise ValueError(f"lengths = {unknown[0]}: it must be one of {', '.join(LENGTHS)}")
    text = settings.prompt or ASK.replace("{rule}", RULE)
    return list(
        dict.fromkeys(
            (language, text.replace("{length}", LENGTHS[length]).replace("{language}", language))
            for language in settings.languages
            for length in settings.lengths
        )
    )


def _captioned(
    entries: list[Entry],
    asked: list[tuple[str, str]],
    origin: str,
    write: Writer,
    settings: CaptionSettings,
    journal: Journal,
) -> list[list[dict]]:
    """The new captions of some rows, as cells: none of those that have this one, are rejected, or are
    unreadable."""
    wanted, videos = [], {}
    for place, entry in enumerate(entries):
        if entry.rejected and not settings.everything:
            continue
        have = {(each.origin, each.language, each.prompt) for each in entry.captions}
        for number, (language, prompt) in enumerate(asked):
            if (origin, language, prompt) not in have:
                wanted.append((place, f"{entry.key.hex()} {number}", language, prompt))
    missing = [each for each in wanted if each[1] not in journal]
    for place in dict.fromkeys(place for place, *_ in missing):
        try:
            videos[place] = _frames(entries[place], settings)
        except UnreadableVideo as error:
            say(f"bad: {error}")
    missing = [each for each in missing if each[0] in videos]
    for part in _parts(missing, settings.batch):
        texts = write([prompt for *_, prompt in part], [videos[place] for place, *_ in part])
        if len(texts) != len(part) or not all(isinstance(text, str) for text in texts):
            raise ValueError(
                f"{settings.by} gives {len(texts)} texts for {len(part)} prompts, or none that are texts"
            )
        for (_, key, *_), text in zip(part, texts, strict=True):
            journal.put(key, text.strip())
    cells: list[list[dict]] = [[] for _ in entries]
    for place, key, language, prompt in wanted:
        if key in journal and (text := journal.get(key)):
            cells[place].append({"text": text, "origin": origin, "language": language, "prompt": prompt})
    return cells


def _frames(entry: Entry, settings: CaptionSettings):
    """Frames of a clip, T H W 3 bytes, evenly from the first to the last, none larger than asked for."""
    import numpy
    from PIL import Image

    frames = read_frames(entry.path, evenly(entry.frames, settings.frames), entry).numpy()
    scale = settings.side / max(frames.shape[1:3])
    if scale >= 1:
        return frames
    size = max(1, round(frames.shape[2] * scale)), max(1, round(frames.shape[1] * scale))
    return numpy.stack(
        [numpy.asarray(Image.fromarray(f).resize(size, Image.Resampling.LANCZOS)) for f in frames]
    )


def main(arguments: list[str]) -> None:
    """The verb `dit data caption`."""
    caption(parse(CaptionSettings, arguments, prog="dit data caption"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("data caption")
