"""`dit card RUN`: a model card, of what a run's own files say; what they do not is said to be unknown."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from configs.data import DRAWN, DataConfig
from configs.load import Positional, from_json, parse, to_json
from configs.ranges import NonNegative
from configs.train import AutoencoderRun, TransformerRun
from dit import __version__
from dit.cli import printable
from dit.model import Transformer
from dit.runs.dashboard import ABOUT_HOURS, KINDS
from dit.runs.history import History, differing, read_history
from vae.data.mixture import source_weights
from vae.model import Autoencoder
from vae.training.files import check_writable, read_json, write_text
from vae.training.folder import RunFile, flat

UNKNOWN = "unknown"
WEIGHTS = ("transformer.safetensors", "lora.safetensors", "autoencoder.safetensors")
HELD_OUT = re.compile(r"validation(_|$)|psnr$|ssim$")
MARKUP = re.compile(r"([\\`*_{}\[\]()#+!|<>~&])")
Row = Sequence[str]


@dataclass(frozen=True)
class CardSettings:
    """A model card of a run, in Markdown, of what the run's own files say."""

    run: Positional[str] = ""
    """Folder of the run."""
    out: str = ""
    """Markdown file for the card; empty: README.md in the run's folder."""
    overwrite: bool = False
    """Write the card anew where one is there."""
    licence: str = ""
    """Licence of the weights, as Hugging Face's identifiers name it; empty: unknown."""
    scores: tuple[str, ...] = ()
    """Scores of the model: files that `dit eval` wrote with --json, or folders of `dit eval run`."""
    watts: NonNegative = 0.0
    """Mean power of one device while it trained, as you measured it; 0: the energy is unknown."""


def write_card(settings: CardSettings) -> Path:
    """Writes the card of a run; raises ValueError for a folder of none, and for a file that is there."""
    if not settings.run:
        raise ValueError("which run? give its folder: dit card RUN")
    history = read_history(settings.run)
    file = Path(settings.out) if settings.out else history.folder / "README.md"
    if file.exists() and not settings.overwrite:
        raise ValueError(f"{file} is there: give another --out, or --overwrite to write it anew")
    check_writable(file)
    write_text(file, card(history, settings))
    return file


def card(history: History, settings: CardSettings) -> str:
    """The card's text: its header for Hugging Face, and a section for every kind of fact."""
    run = _run_of(history)
    sections = {
        "Model": _table(("", ""), _model(history, run)),
        "Data": _data(run.data, history),
        "Training": _table(("", ""), _training(history, settings)),
        "Starts": _table(
            ("time", "step", "processes", "device", "precision", "code", "versions"), _starts(history)
        ),
        "Held-out clips": _table(("figure", "newest", "at step", "least", "most"), _held_out(history)),
        "Scores": _scores(settings.scores),
        "Settings that differ from the defaults": _table(("setting", "here", "default"), _differing(history)),
        "Limits": _bullets(_limits(history, run, settings)),
    }
    lines = [_header(history, settings), "", f"# {_plain(history.name)}", "", _about(history), ""]
    for title, text in sections.items():
        lines += [f"## {title}", "", *text, ""]
    return "\n".join(lines)


def _run_of(history: History) -> TransformerRun | AutoencoderRun:
    """The settings of a run as they were written."""
    file = history.folder / "run.json"
    saved = read_json(file, RunFile)
    if saved["kind"] not in KINDS:
        raise ValueError(
            f"{file}: a run of kind {saved['kind']!r} has no card: one of {', '.join(KINDS)} has"
        )
    return from_json(KINDS[saved["kind"]], saved["settings"], file)


def _header(history: History, settings: CardSettings) -> str:
    """The header that Hugging Face reads."""
    from huggingface_hub import ModelCardData

    pipeline = {} if history.kind == "autoencoder" else {"pipeline_tag": "text-to-video"}
    tags = ["video-generation", "diffusion-transformer" if pipeline else "video-autoencoder", "ai-generated"]
    data = ModelCardData(library_name="dit-lab", tags=tags, license=settings.licence or UNKNOWN, **pipeline)
    return f"---\n{data.to_yaml()}\n---"


def _about(history: History) -> str:
    """One sentence that says what the model is, and where all that follows comes from."""
    kinds = {
        "lora": "Adapters (LoRA) of a video diffusion transformer",
        "autoencoder": "A causal video autoencoder",
    }
    what = kinds.get(history.kind, "A video diffusion transformer, by rectified flow,")
    return (
        f"{what} as of step {history.step:,} of a run. All below is read from the run's own files by "
        f"`dit card` {__version__}; what these do not say is unknown."
    )


def _model(history: History, run: TransformerRun | AutoencoderRun) -> Iterable[Row]:
    """What the network is, counted without its weights, and the hashes of weights that are there."""
    with torch.device("meta"):
        network = Transformer(run.model) if isinstance(run, TransformerRun) else Autoencoder(run.model)
    yield (
        "parameters",
        f"{sum(p.numel() for p in network.parameters()):,} of the {network.__class__.__name__.lower()}",
    )
    if isinstance(run, TransformerRun):
        yield "network", f"width {run.model.width}, depth {run.model.depth}, heads {run.model.heads}"
        yield "text encoder", _plain(run.text.folder or "byte-level T5, trained along")
        yield "autoencoder", _plain(run.autoencoder)
        if history.kind == "lora":
            yield "adapters", f"rank {run.lora.rank}, alpha {run.lora.alpha:g}"
    side = run.data.size
    yield (
        "clips",
        f"up to {run.data.frames} frames at {run.data.fps:g} a second, {side} x {side} pixels or as many",
    )
    for name in WEIGHTS:
        if (file := history.folder / name).is_file():
            with open(file, "rb") as opened:
                yield f"SHA-256 of {name}", hashlib.file_digest(opened, "sha256").hexdigest()


def _data(data: DataConfig, history: History) -> list[str]:
    """The sources of the data with their shares, licences and origins."""
    weights = source_weights(data)
    whole = sum(weights.values())
    rows = [(_plain(name), f"{weight / whole:.1%}", *_origin(name)) for name, weight in weights.items()]
    lines = _table(("data", "share of draws", "files", "licences", "sources"), rows)
    return [*lines, "", f"Identity of the data (SHA-256): {_plain(str(history.facts.get('data', UNKNOWN)))}."]


def _origin(name: str) -> Row:
    """How many files a source has, their licences and where they are from, as its manifest says."""
    if name in DRAWN:
        return "drawn while training", "none needed", "drawn by the program itself"
    files = Path(name) if Path(name).is_file() else Path(name) / "manifest.parquet"
    if not files.is_file():
        return UNKNOWN, UNKNOWN, UNKNOWN
    import pyarrow.parquet

    manifest = pyarrow.parquet.ParquetFile(files)
    said = [_tally(manifest, column) for column in ("licence", "source")]
    return f"{manifest.metadata.num_rows:,}", *said


def _tally(manifest, column: str) -> str:
    """How often each value of a column of text stands in a manifest; unknown where it has none."""
    if column not in manifest.schema_arrow.names:
        return UNKNOWN
    counts = Counter()
    for batch in manifest.iter_batches(columns=[column]):
        counts.update(value or UNKNOWN for value in batch.column(0).to_pylist())
    more = f", {len(counts) - 8} more" if len(counts) > 8 else ""
    return ", ".join(f"{_plain(str(value))} ({count:,})" for value, count in counts.most_common(8)) + more


def _training(history: History, settings: CardSettings) -> Iterable[Row]:
    """What was computed, and what it took."""
    planned = history.settings.get("train.steps", history.step)
    yield "steps", f"{history.step:,} of {planned:,}"
    if "from" in history.facts:
        yield "goes on from", _plain(str(history.facts["from"]["checkpoint"]))
    for name in ("train.batch", "train.tokens", "train.seed", "train.precision", "optimizer.kind"):
        if history.settings.get(name) not in (None, 0, ""):
            yield name, _plain(str(history.settings[name]))
    for axis, name in {"tokens": "tokens", "flops": "model FLOPs", "device_hours": "device-hours"}.items():
        total = history.total(axis)
        yield name, UNKNOWN if total is None else f"{total:.4g}"
    hours = history.total("device_hours")
    known = hours is not None and settings.watts
    yield (
        "energy",
        f"{hours * settings.watts / 1000:.4g} kWh, at {settings.watts:g} W a device" if known else UNKNOWN,
    )
    for event, count in Counter(event["event"] for event in history.events).items():
        yield f"events: {_plain(event)}", str(count)


def _starts(history: History) -> list[Row]:
    """Every start of the program: when, on what, and with which code."""
    names = ("time", "step", "processes", "device", "precision", "code")
    rows = []
    for start in history.starts:
        versions = start.get("versions")
        packages = versions.items() if isinstance(versions, dict) else ()
        said = ", ".join(f"{name} {version}" for name, version in packages) or UNKNOWN
        rows.append([*(_plain(str(start.get(name, UNKNOWN))) for name in names), _plain(said)])
    return rows


def _held_out(history: History) -> list[Row]:
    """Every figure that held-out clips gave."""
    return [
        (
            _plain(key),
            f"{line.last:.5g}",
            f"{line.steps[-1]:,.0f}",
            f"{line.values.min():.5g}",
            f"{line.values.max():.5g}",
        )
        for key, line in history.series.items()
        if HELD_OUT.match(key)
    ]


def _scores(given: Sequence[str]) -> list[str]:
    """Scores with their protocols and stamps; raises ValueError for a file that is none."""
    rows = []
    for file in [file for name in given for file in _score_files(Path(name))]:
        score = read_json(file)
        protocol = score.get("protocol")
        numbers = (
            score["scores"]
            if isinstance(score.get("scores"), dict)
            else {score.get("metric"): score.get("value")}
        )
        if not isinstance(protocol, dict) or not all(isinstance(x, int | float) for x in numbers.values()):
            raise ValueError(f"{file} is no score of one protocol, as dit eval writes with --json")
        digest = str(score.get("protocol_sha256", ""))[:12]
        for name, value in numbers.items():
            stamps = "; ".join(map(str, score.get("stamps", [])))
            called = f"{protocol.get('name', UNKNOWN)} {digest}".strip()
            rows.append((_plain(str(name)), f"{value:.5g}", _plain(called), _plain(stamps)))
    return _table(("metric", "value", "protocol", "stamps"), rows)


def _score_files(place: Path) -> list[Path]:
    """The scores at a path: a file, or those of a folder of `dit eval run`."""
    if not place.is_dir():
        return [place]
    files = [file for file in sorted(place.glob("*.json")) if "metric" in read_json(file)]
    if not files:
        raise ValueError(f"{place} has no score: give files that dit eval wrote with --json")
    return files


def _differing(history: History) -> list[Row]:
    """The settings that are not the defaults; those of others' machines, as paths, are words like any."""
    rows = differing([history.settings, flat(to_json(KINDS[history.kind]()))])
    return [
        (name, *(_plain(UNKNOWN if value is None else str(value)) for value in pair))
        for name, pair in rows.items()
    ]


def _limits(history: History, run: TransformerRun | AutoencoderRun, settings: CardSettings) -> Iterable[str]:
    """What is known of what the model cannot do, or what nobody measured."""
    planned = history.settings.get("train.steps", history.step)
    if history.step < planned:
        yield f"The run is not at its end: step {history.step:,} of {planned:,}."
    yield f"It was trained on clips of up to {run.data.frames} frames; no other length is scored here."
    if not settings.scores:
        yield "No score is on record here."
    if any(UNKNOWN in cell for name in source_weights(run.data) for cell in _origin(name)[1:]):
        yield "The licences or sources of the data are not all known."
    if isinstance(run, TransformerRun):
        yield "Nothing filters prompts or videos. Every file of `dit sample` says that a model made it."
    if history.total("device_hours") is not None:
        yield ABOUT_HOURS


def _table(head: Row, rows: Iterable[Row]) -> list[str]:
    """A table in Markdown; a line that says so where it has no row."""
    rows = list(rows)
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] if rows else [f"None is on record: {UNKNOWN}."]


def _bullets(texts: Iterable[str]) -> list[str]:
    """A list in Markdown."""
    return [f"- {text}" for text in texts]


def _plain(text: str) -> str:
    """A foreign text as Markdown shows it, in one line, whatever is in it."""
    return MARKUP.sub(r"\\\1", " ".join(printable(text).split())) or "–"


def main(arguments: list[str]) -> None:
    """The verb `dit card`."""
    print(write_card(parse(CardSettings, arguments, prog="dit card")))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("card")
