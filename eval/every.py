"""`dit eval run JOB --every RUN`: the checkpoints of a training run scored as they come, into one curve."""

import dataclasses
import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from typing_extensions import TypedDict

from configs.load import from_json, parse_json
from configs.protocol import differences
from dit.load import AVERAGE, TRANSFORMER
from eval.scoring import DIGITS, is_seeded, numbers_of
from vae.load import WEIGHTS as AUTOENCODER
from vae.training.checkpoints import CHECKPOINTS_KEPT, checkpoints, finished_step, step_of
from vae.training.files import read_json, read_text, remove_stale, whole, write_whole
from vae.training.folder import RunFile
from vae.training.processes import on_main, processes
from vae.training.progress import say
from vae.training.weights import TRANSFORMERS, copy_weights, read_header, weights_hash

ROWS, CURVE, MODEL = "every.jsonl", "every.png", "model"
MAY_CHANGE = {  # settings that move no score
    *("every", "until", "wait", "poll", "out", "workers", "overwrite", "text_folder"),
    *("real", "i3d", "clip", "c3d", "c3d_mean"),  # what is in them every row says
}


class Number(TypedDict):
    """One number of a checkpoint, and its interval."""

    value: float
    interval: dict | None


class ScoredRow(TypedDict):
    """The parts of a row: a checkpoint's step and weights, its numbers, and how it was scored."""

    step: int
    weights: str
    numbers: dict[str, Number]
    stamps: list[str]
    scored: dict[str, dict[str, str]]
    asked: dict


@dataclass(frozen=True)
class Decision:
    """What is to be done next: to score a copied checkpoint, to end, or else to wait."""

    step: int | None = None
    end: bool = False


def follow(settings, score: Callable[[object], dict]) -> list[dict]:
    """Scores every checkpoint of the run in `settings.every`, by its averaged weights; returns all rows.

    A checkpoint is copied first, as the run drops old ones; it is there whole or not at all. The folder `out`
    has a row for each in every.jsonl, their curve in every.png, and a folder of `dit eval run` for each. It
    ends with the run, or with the step `settings.until`. Raises ValueError for no run, and where the folder
    holds scores made otherwise.
    """
    run, main = Path(settings.every), processes()[0] == 0
    if settings.model != "builtin":
        raise ValueError(f"--every {run} scores that run's models: leave --model out")
    if settings.sample_only:
        raise ValueError("--every makes a curve of scores, so it takes no --sample-only")
    out = Path(settings.out or f"scores/{settings.job}-{run.resolve().name}")
    on_main(main, lambda: _check_run(run))
    on_main(main, lambda: _open(out, run, settings))
    said: set[int] = set()
    waiting = ""
    while True:
        decision = on_main(main, lambda: _next(run, out, settings, said))
        if decision.step is not None:
            place = _place(out, decision.step)
            asked = replace(settings, every="", model=str(place / MODEL), out=str(place))
            scores, step = score(asked), decision.step
            on_main(main, lambda step=step, scores=scores: _keep(out, step, scores, settings))
        elif decision.end:
            break
        else:
            newest = max((row["step"] for row in rows_of(out)), default=None)
            told = f"waiting for a checkpoint of {run}" + (f" after step {newest}" if newest else "")
            if main and told != waiting:
                say(f"{told}; Ctrl-C ends it, the same command goes on")
            waiting = told
            time.sleep(settings.poll)
    rows = list(rows_of(out))
    if main:
        print(f"{out}: {len(rows)} checkpoints, {ROWS}, {CURVE}" if rows else f"{run} has no checkpoint")
    return rows


def _check_run(run: Path) -> None:
    """Raises ValueError for a folder that is no run of a transformer."""
    if not (run / "run.json").is_file():
        raise ValueError(f"{run} is no run of `dit train`: it has no run.json")
    if (kind := read_json(run / "run.json", RunFile)["kind"]) != "transformer":
        raise ValueError(f"{run} is a run of kind {kind}, and a transformer's is needed")


def _place(out: Path, step: int) -> Path:
    """The folder of a checkpoint's videos and scores."""
    return out / f"step-{step:08d}"


def rows_of(out: Path) -> Iterator[ScoredRow]:
    """The rows of a curve's folder by their steps; ValueError naming a line that is none."""
    if (out / ROWS).is_file():
        lines = [line for line in read_text(out / ROWS).splitlines() if line.strip()]
        rows = [
            from_json(ScoredRow, parse_json(line, where), where)
            for number, line in enumerate(lines, 1)
            for where in [f"{out / ROWS}, line {number}"]
        ]
        yield from sorted(rows, key=lambda row: row["step"])


def _asked(settings) -> dict:
    """The settings that all checkpoints of one curve share, as JSON has them."""
    kept = {name: value for name, value in dataclasses.asdict(settings).items() if name not in MAY_CHANGE}
    return json.loads(json.dumps(kept))


def _open(out: Path, run: Path, settings) -> None:
    """Raises ValueError where a folder holds rows that were made with other settings, or of other weights, or
    a copied checkpoint that is none of this run."""
    now, there = _asked(settings), _models(run)
    for step, model in _copied(out).items():
        file, ahead = there.get(step), bool(there) and step > max(there)
        if ahead or (file and _weights(file) not in ("", _weights(model / TRANSFORMER))):
            raise ValueError(
                f"{model} is a copy of other weights than {file or f'any of {run}'}: the run began anew; "
                "give another folder with --out"
            )
    for row in rows_of(out):
        file = there.get(row["step"])
        if file and _weights(file) not in ("", row["weights"]):
            raise ValueError(
                f"{out / ROWS} has step {row['step']} of other weights than {file}: the run began anew; give "
                "another folder with --out"
            )
        for name, value in now.items():
            if row["asked"].get(name) != value:
                before = row["asked"].get(name)
                raise ValueError(
                    f"{out / ROWS} has step {row['step']} with {name} = {before!r}, not {value!r}: give "
                    "that, or another folder with --out"
                )


def _next(run: Path, out: Path, settings, said: set[int]) -> Decision:
    """What is next: the oldest copied checkpoint without a row, of all that are there now.

    What the run has dropped before it could be copied is said once.
    """
    rows = {row["step"]: row for row in rows_of(out)}
    remove_stale(out)
    there = _models(run)
    for step, file in there.items():
        if step not in rows and not (settings.until and step > settings.until):
            _copy(run, file, _place(out, step))
    pending = [step for step in _copied(out) if step not in rows]
    _say_missed(run, {*rows, *pending}, there, settings, said)
    if pending:
        return Decision(pending[0])
    newest = max(there.keys() | rows.keys(), default=0)
    ended = not settings.wait or (0 < settings.until <= newest)
    steps = read_json(run / "run.json", RunFile)["settings"].get("train", {}).get("steps")
    if not ended and isinstance(steps, int):
        ended = finished_step(run, run / TRANSFORMER, steps) is not None
        ended = ended and {*_models(run)} <= rows.keys()  # none came since
    return Decision(end=ended)


def _models(run: Path) -> dict[int, Path]:
    """The averaged weights of every step that a run has now, by step: of checkpoints, and of its end."""
    models = {step_of(place): place / AVERAGE for place in checkpoints(run)}
    if (run / TRANSFORMER).is_file():
        step = read_header(run / TRANSFORMER, *TRANSFORMERS).facts.get("step")
        models |= {step: run / TRANSFORMER} if step and step not in models else {}
    return dict(sorted(models.items()))


def _copied(out: Path) -> dict[int, Path]:
    """The copied models in a curve's folder, by step; a folder of another name is a user's own."""
    models = (
        place for place in out.glob(f"step-*/{MODEL}/") if re.fullmatch(r"step-\d{8}", place.parent.name)
    )
    return {step_of(model.parent): model for model in sorted(models)}


def _weights(file: Path) -> str:
    """SHA-256 of weights; empty where they are gone by now."""
    try:
        return weights_hash(file)
    except (FileNotFoundError, ValueError):
        return ""


def _copy(run: Path, file: Path, place: Path) -> None:
    """Copies a checkpoint's model, with the run's autoencoder, into a folder that `dit sample` takes.

    One that is dropped meanwhile is left out.
    """
    if (place / MODEL).is_dir():
        return
    try:
        read_header(file, *TRANSFORMERS)
        with whole(place / MODEL) as model:
            model.mkdir()
            copy_weights(file, model / TRANSFORMER)
            if (run / AUTOENCODER).is_file():
                shutil.copyfile(run / AUTOENCODER, model / AUTOENCODER)
            else:
                shutil.copytree(run / "vae", model / "vae")
    except (FileNotFoundError, ValueError) as error:
        if file.parent.is_dir():
            raise
        say(f"{file.parent} was dropped while it was copied: {error}")


def _say_missed(run: Path, have: set[int], there: dict[int, Path], settings, said: set[int]) -> None:
    """Says once of every step that the run saved and has dropped, as its settings say when it saves."""
    every = read_json(run / "run.json", RunFile)["settings"].get("train", {}).get("save_every")
    if not isinstance(every, int) or every < 1 or not there:
        return
    last = min(max(there), settings.until or max(there))
    missed = [step for step in range(every, last + 1, every) if step not in have and step not in said]
    if missed:
        said.update(missed)
        steps = ", ".join(map(str, missed[:8])) + (f" and {len(missed) - 8} more" if missed[8:] else "")
        say(
            f"missed: step {steps}: {run} keeps its newest {CHECKPOINTS_KEPT} checkpoints and had dropped "
            f"{'it' if len(missed) == 1 else 'them'} before"
        )


def _keep(out: Path, step: int, scores: dict[str, dict], settings) -> None:
    """Adds a checkpoint's row, draws the curve, and drops the copy of its model."""
    model = _place(out, step) / MODEL
    row = {
        "step": step,
        "weights": weights_hash(model / TRANSFORMER),
        "numbers": {
            name: {"value": value, "interval": _interval(score, name)}
            for score in scores.values()
            for name, value in numbers_of(score).items()
        },
        "stamps": sorted({stamp for score in scores.values() for stamp in score["stamps"]}),
        "scored": {metric: _identity(score) for metric, score in scores.items()},
        "asked": _asked(settings),
    }
    for before in list(rows_of(out))[:1]:
        if different := differences(before["scored"], row["scored"]):
            raise ValueError(f"{out / ROWS} has step {before['step']} scored otherwise: {different[0]}")
    rows = sorted([*rows_of(out), row], key=lambda each: each["step"])
    write_whole(out / ROWS, lambda file: file.write_text("".join(json.dumps(r) + "\n" for r in rows)))
    draw_scores(rows, out / CURVE)
    shutil.rmtree(model)
    numbers = (f"{name} {number['value']:.{DIGITS.get(name, 4)}f}" for name, number in row["numbers"].items())
    stamped = f" [{'; '.join(row['stamps'])}]" if row["stamps"] else ""
    print(f"step {step}: {', '.join(numbers)}{stamped}", file=sys.stderr)


def _identity(score: dict) -> dict[str, str]:
    """What must be equal for scores of one curve: protocol, network and real frames, by their hashes."""
    real = score.get("real", {}).get("rgb_sha256", "")
    return {"protocol": score["protocol_sha256"], "weights": score["weights"], "real frames": real}


def _interval(score: dict, name: str) -> dict | None:
    """The interval of one number of a score."""
    return score["interval"] if "value" in score else score["intervals"].get(name)


def draw_scores(rows: list[ScoredRow], path: Path) -> None:
    """Draws every number over the steps, with its interval, a panel each; stamps are the picture's title."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for row in rows for name in row["numbers"]))
    across = min(3, len(names))
    down = -(-len(names) // across)
    figure = Figure(figsize=(4.5 * across, 3.2 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).flatten()
    for axes, name in zip(panels, names, strict=False):
        points = [(row["step"], row["numbers"][name]) for row in rows if name in row["numbers"]]
        steps, values = [step for step, _ in points], [number["value"] for _, number in points]
        (line,) = axes.plot(steps, values, lw=1, marker=".")
        ends = [(step, number["interval"]) for step, number in points if number["interval"]]
        ends = [(step, found) for step, found in ends if {"low", "high"} <= found.keys()]
        if ends:
            low, high = ([found[end] for _, found in ends] for end in ("low", "high"))
            axes.vlines([step for step, _ in ends], low, high, color=line.get_color(), alpha=0.5)
        axes.set(title=name.replace("_", " "), xlabel="step")
        axes.grid(alpha=0.3)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    stamps = sorted({stamp for row in rows for stamp in row["stamps"]}, key=lambda s: not is_seeded([s]))
    figure.suptitle("; ".join(stamps), fontsize="small", wrap=True)
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))
