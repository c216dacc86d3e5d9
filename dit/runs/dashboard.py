"""`dit dashboard RUN…`: runs on one HTML page that opens offline: curves, cost, settings, events, samples."""

import base64
import io
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from configs.load import Positional, parse, to_json, words_of
from configs.ranges import CountOrZero, NonNegative
from configs.train import AutoencoderRun, TransformerRun
from dit import __version__
from dit.page import render, script
from dit.runs.curves import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Chart, axes_of, chart, panels_of, short
from dit.runs.history import AXES, History, differing, read_histories
from vae.data.sheets import evenly
from vae.data.write import save_picture
from vae.training.branch import in_words
from vae.training.files import check_replaceable, check_writable, naming, write_text
from vae.training.folder import flat

SHEET_SIZE = 560, 2400  # pixels that a sheet on the page has at most
MOST_BYTES = 12 << 20  # of all sheets, as text of base64
MOST_EVENTS = 60
KINDS = {"transformer": TransformerRun, "lora": TransformerRun, "autoencoder": AutoencoderRun}
ABOUT_HOURS = (
    "Device-hours are the hours from each start to the last row of the log that is left of it, times its "
    "processes; what a kill lost, and the time that a start takes, is not in them."
)
ABOUT_CURVES = (
    "Long logs are thinned to the least and largest value of each stretch; of noisy figures the medians of "
    "stretches are drawn, and the most extreme values may lie outside. Dashed is the validation of the "
    "weights themselves, where the log has it. A triangle is a wrong step, or where a run was started again. "
    "Tokens are those of the clips, counted from the log's rates."
)


@dataclass(frozen=True)
class DashboardSettings:
    """Runs side by side on one HTML page that opens offline: curves, cost, settings, events and samples."""

    runs: Positional[tuple[str, ...]] = ()
    """Folders of runs, of transformers or autoencoders."""
    out: str = "dashboard.html"
    """HTML file for the page; one that is there is written anew."""
    price: NonNegative = 0.0
    """Price of an hour of one device, in any currency; 0 shows no cost."""
    sheets: CountOrZero = 5
    """Steps whose sheets of samples are shown, evenly spaced, of those that runs share."""


@dataclass(frozen=True)
class Page:
    """All that the page says."""

    title: str
    about: str
    command: str
    runs: Sequence[History]
    axes: dict[str, str]
    charts: list[dict[str, Chart]]
    head: list[str]
    summary: list[list[str]]
    notes: list[str]
    settings_title: str
    settings_head: list[str]
    settings: list[list[str]]
    events: list[list[str]]
    more_events: int
    sheets: list[tuple[str, list[tuple[int, str]]]]
    without: int
    about_curves: str = ABOUT_CURVES
    sheet_width: int = SHEET_SIZE[0]
    version: str = __version__
    size: tuple[int, int] = (WIDTH, HEIGHT)
    area: tuple[int, int, int, int] = (LEFT, RIGHT, TOP, BOTTOM)


def dashboard(settings: DashboardSettings) -> None:
    """Writes the page of runs; raises ValueError for a folder of none, and for a file of another kind."""
    file = Path(settings.out)
    histories = read_histories(settings.runs)
    check_replaceable(file, ".html")
    check_writable(file)
    code, allowed = script("dit.runs", "dashboard.js")
    page = page_of(histories, settings)
    write_text(file, render("dit.runs", "dashboard.html", page=page, code=code, allowed=allowed))
    print(settings.out)


def page_of(histories: Sequence[History], settings: DashboardSettings) -> Page:
    """All that the page of some runs says."""
    axes = axes_of(histories)
    panels = [
        {axis: drawn for axis in axes if (drawn := chart(panel, axis, histories))}
        for panel in panels_of(histories)
    ]
    head, summary = _summary(histories, settings.price)
    title, head_of_settings, rows = _settings(histories)
    events = _events(histories)
    shelf = _Shelf()
    sheets = _sheets(histories, settings.sheets, shelf)
    kinds = dict.fromkeys(history.kind for history in histories)
    return Page(
        title=" | ".join(history.name for history in histories)
        if len(histories) < 4
        else f"{len(histories)} runs",
        about=f"{len(histories)} run{'s' if len(histories) > 1 else ''} of kind {' and '.join(kinds)}",
        command=shlex.join(["dit", "dashboard", *words_of(settings)]),
        runs=histories,
        axes={axis: AXES[axis] for axis in axes},
        charts=panels,
        head=head,
        summary=summary,
        notes=_notes(histories),
        settings_title=title,
        settings_head=head_of_settings,
        settings=rows,
        events=events[:MOST_EVENTS],
        more_events=max(0, len(events) - MOST_EVENTS),
        sheets=sheets,
        without=shelf.without,
    )


def _summary(histories: Sequence[History], price: float) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of runs: where each stands and what it took, as far as one is known."""

    def steps(run: History) -> str:
        return f"{run.step:,} of {run.settings.get('train.steps', run.step):,}"

    def number(value: float | None, scale: float = 1.0, unit: str = "") -> str:
        return "" if value is None else f"{short(value * scale)}{unit}"

    def cost(run: History) -> str:
        hours = run.total("device_hours")
        return "" if hours is None or not price else f"{hours * price:,.2f}"

    def least(run: History) -> str:
        return f"{run.series['validation'].values.min():.4g}" if run.has("validation") else ""

    def device(run: History) -> str:
        return "; ".join(
            dict.fromkeys(f"{s.get('processes', 1)} x {s['device']}" for s in run.starts if "device" in s)
        )

    columns = {
        "run": lambda run: run.name,
        "steps": steps,
        "tokens": lambda run: number(run.total("tokens")),
        "loss, smoothed": lambda run: number(run.last("smoothed")),
        "validation, newest": lambda run: number(run.last("validation")),
        "validation, least": least,
        "PSNR": lambda run: number(run.last("psnr"), unit=" dB"),
        "SSIM": lambda run: number(run.last("ssim")),
        "device": device,
        "device-hours": lambda run: number(run.total("device_hours")),
        "cost": cost,
        "model FLOPs": lambda run: number(run.total("flops")),
        "tokens/s": lambda run: number(run.middle("tokens_per_second")),
        "samples/s": lambda run: number(run.middle("samples_per_second")),
        "MFU": lambda run: number(run.middle("mfu"), 100.0, " %"),
        "peak memory": lambda run: number(run.last("peak_memory"), 1 / 1024, " GiB"),
        "starts": lambda run: str(len(run.starts) or ""),
    }
    rows = [[say(run) for say in columns.values()] for run in histories]
    kept = [k for k, _ in enumerate(columns) if any(row[k] for row in rows)]
    return [list(columns)[k] for k in kept], [[row[k] or "unknown" for k in kept] for row in rows]


def _notes(histories: Sequence[History]) -> list[str]:
    """What is to be said of the table of runs."""
    notes = [ABOUT_HOURS] if any(run.total("device_hours") is not None for run in histories) else []
    for run in histories:
        if "from" in run.facts:
            came = run.facts["from"]
            notes.append(
                f"{run.name} goes on from {came['checkpoint']}; earlier tokens are taken to be like its own."
            )
    return notes


def _settings(histories: Sequence[History]) -> tuple[str, list[str], list[list[str]]]:
    """Title, head and rows of the settings that differ: between the runs, or of one from the defaults."""
    if len(histories) == 1 and (kind := KINDS.get(histories[0].kind)):
        both = [histories[0].settings, flat(to_json(kind()))]
        rows = differing(both)
        return "Settings that differ from the defaults", ["setting", "run", "default"], _worded(rows)
    facts = [{"data (hash)": run.facts.get("data", "")[:12]} | _of_starts(run) for run in histories]
    rows = differing([run.settings | fact for run, fact in zip(histories, facts, strict=True)])
    return "Settings that differ", ["setting", *(run.name for run in histories)], _worded(rows)


def _of_starts(run: History) -> dict:
    """What a run's newest start says of machine and versions."""
    newest = run.starts[-1] if run.starts else {}
    versions = newest.get("versions") if isinstance(newest.get("versions"), dict) else {}
    names = ("processes", "mesh", "device", "attention", "code")
    return {f"({name})": newest[name] for name in names if name in newest} | {
        f"({name})": version for name, version in versions.items()
    }


def _worded(rows: dict[str, list]) -> list[list[str]]:
    """Rows of a table of settings; what a run does not have is a dash."""

    def word(value) -> str:
        return "–" if value is None else " ".join(map(str, value)) if isinstance(value, list) else str(value)

    return [[name, *map(word, values)] for name, values in rows.items()]


def _events(histories: Sequence[History]) -> list[list[str]]:
    """What happened to the runs, by steps: wrong steps with their samples, and starts after the first."""
    rows = []
    for run in histories:
        for event in run.events:
            norm = f"gradient norm {event['gradient_norm']:.3g}; " if "gradient_norm" in event else ""
            samples = event.get("samples", [])
            more = f" and {len(samples) - 3} more" if len(samples) > 3 else ""
            rows.append(
                (event["step"], run.name, event["event"], f"{norm}{', '.join(map(str, samples[:3]))}{more}")
            )
        for start in run.starts[1:]:
            on = f"{start.get('processes', 1)} x {start.get('device', 'unknown')}, {start.get('time', '')}"
            changed = ", ".join(in_words(start.get("changed", {})))
            rows.append((start["step"], run.name, "started again", f"{on}; {changed}" if changed else on))
    return [
        [name, f"{step:,}", what, more] for step, name, what, more in sorted(rows, key=lambda row: row[0])
    ]


@dataclass
class _Shelf:
    """What room for sheets is left on the page, and how many had none."""

    left: int = MOST_BYTES
    without: int = 0
    made: dict[Path, str] = field(default_factory=dict)

    def address(self, file: Path) -> str:
        """A sheet as a `data:` address, shrunk; empty where there is no room."""
        if file not in self.made:
            self.made[file] = address = _shrunk(file)
            if len(address) > self.left:
                self.made[file] = ""
                self.without += 1
            self.left -= len(self.made[file])
        return self.made[file]


def _shrunk(file: Path) -> str:
    """A sheet of pictures as a `data:` address of a JPEG; raises ValueError naming one that is no PNG."""
    from PIL import Image

    out = io.BytesIO()
    with naming(file), Image.open(file, formats=["PNG"]) as sheet:
        picture = sheet.convert("RGB")
        picture.thumbnail(SHEET_SIZE)
        save_picture(out, picture)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


def _sheets(
    histories: Sequence[History], most: int, shelf: _Shelf
) -> list[tuple[str, list[tuple[int, str]]]]:
    """The sheets of steps that runs share, and the newest of each where these are of several steps."""
    with_any = [run for run in histories if run.sheets]
    if not with_any or not most:
        return []
    every = set.intersection(*(set(run.sheets) for run in with_any))
    steps = sorted(
        every or {s for run in with_any for s in run.sheets if sum(s in r.sheets for r in with_any) > 1}
    )
    rows = [
        (f"step {steps[k]:,}", {run.name: steps[k] for run in with_any}) for k in evenly(len(steps), most)
    ]
    newest = {run.name: max(run.sheets) for run in with_any}
    if len(set(newest.values())) > 1:
        rows.append(("the newest of each, at different steps", newest))
    shown = []
    for title, at in rows:
        sheets = [
            (number, address)
            for number, run in enumerate(histories)
            if (step := at.get(run.name)) in run.sheets and (address := shelf.address(run.sheets[step]))
        ]
        if sheets:
            shown.append((title, sheets))
    return shown


def main(arguments: list[str]) -> None:
    """The verb `dit dashboard`."""
    dashboard(parse(DashboardSettings, arguments, prog="dit dashboard"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("dashboard")
