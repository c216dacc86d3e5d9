"""`dit label FILE…`: what pictures and videos, ours and others', say of who made them."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from configs.load import Positional, from_json, parse, parse_json
from vae.data.images import FORMATS, IMAGES
from vae.data.label import AIGC, from_xmp
from vae.data.video import VIDEOS
from vae.data.write import read_tags
from vae.training.files import naming


@dataclass(frozen=True)
class LabelSettings:
    """Print the label of pictures and videos as JSON, a line each; status 1 where one has none."""

    files: Positional[tuple[str, ...]] = ()
    """Files of pictures and videos, or folders of them."""
    record: bool = False
    """Print all that a video of ours says of its making too."""


def read_label(file: Path) -> dict:
    """What a file says: `label` in words, the `AIGC` object of GB 45438-2025, `record` of a video of ours.

    Each is None where the file has none. Raises ValueError naming a file that cannot be read, or whose object
    is none.
    """
    if not file.is_file():
        raise ValueError(f"{file}: no such file")
    tags = _of_picture(file) if file.suffix.lower() in IMAGES else read_tags(file)
    record = {}
    with suppress(ValueError):  # another's comment is no label
        record = from_json(dict, parse_json(tags.get("comment") or "null", file), file)
    text = tags.get(AIGC.lower()) or from_xmp(tags.get("xmp", ""))
    found = from_json(dict, parse_json(text, f"{file}, {AIGC}"), f"{file}, {AIGC}") if text else None
    label = record.get("label") or (None if record else tags.get("comment"))
    return {
        "label": label if isinstance(label, str) and "AI-generated" in label else None,
        AIGC: found if found is not None else record.get(AIGC),
        "record": record if "sample" in record else None,
    }


def _of_picture(file: Path) -> dict[str, str]:
    """The texts in a picture that may be a label, by keys in small letters."""
    from PIL import Image

    with naming(file), Image.open(file, formats=FORMATS) as image:
        about = {name.lower(): value for name, value in image.info.items() if isinstance(name, str)}
        about["xmp"] = about.get("xmp") or about.get("xml:com.adobe.xmp") or ""
    texts = {k: v.decode(errors="replace") if isinstance(v, bytes) else v for k, v in about.items()}
    return {name: value for name, value in texts.items() if isinstance(value, str)}


def _files_of(name: str) -> Iterator[Path]:
    """A file, or the pictures and videos in a folder."""
    place = Path(name)
    yield from (
        sorted(f for f in place.iterdir() if f.suffix.lower() in IMAGES | VIDEOS)
        if place.is_dir()
        else [place]
    )


def main(arguments: list[str]) -> None:
    """The verb `dit label`."""
    settings = parse(LabelSettings, arguments, prog="dit label")
    files = [file for name in settings.files for file in _files_of(name)]
    if not files:
        raise ValueError("no picture and no video: try `dit label samples/*.mp4`")
    without = []
    for file in files:
        said = read_label(file)
        if not (said["label"] or said[AIGC]):
            without.append(str(file))
        if not settings.record:
            del said["record"]
        print(json.dumps({"file": str(file)} | said, ensure_ascii=False))
    if without:
        raise ValueError(f"{len(without)} of {len(files)} say nothing of a model: {', '.join(without[:3])}")


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("label")
