"""`dit train NAME --plan`: memory, time, energy and cost of a run before it is run, and what of it fits."""

import sys
from dataclasses import asdict, fields
from pathlib import Path

from configs.load import names, parse, parse_run
from configs.train import TransformerRun
from dit.runs.devices import UTILISATION
from dit.runs.estimate import Planned, Plans, PlanSettings, plan
from dit.runs.trace import Memory
from vae.training.files import write_json


def plan_run(arguments: list[str]) -> None:
    """The verb `dit train CONFIG --plan`: prints the plan; raises ValueError where nothing fits."""
    own = [f"--{name}" for name in names(PlanSettings) if name != "help"]
    mine, rest, words = [], [], iter(word for word in arguments if word != "--plan")
    for word in words:
        if word.split("=")[0] in own:
            mine += [word] if "=" in word else [word, next(words, "")]
        else:
            rest.append(word)
    if {"-h", "--help"} & set(rest):
        parse(PlanSettings, ["--help"], "dit train CONFIG --plan")
    settings = parse(PlanSettings, [word for word in mine if word], "dit train CONFIG --plan")
    plans = plan(rest[0] if rest else "", parse_run(TransformerRun, rest, prog="dit train"), settings)
    _print(plans)
    if settings.json:
        write_json(Path(settings.json), figures(plans))
    if plans.fits is None:
        raise ValueError(
            f"{plans.name} fits {settings.gpus} x {plans.processor.name} in no way that is tried: "
            f"a clip takes over {plans.limit / 2**30:.1f} GiB; give more GPUs or memory, or smaller clips"
        )


def figures(plans: Plans) -> dict:
    """All of a plan as plain values: bytes, FLOPs, seconds, hours, kWh and money."""
    shown = {"given": plans.given} | ({"fits": plans.fits} if plans.fits else {})
    return {
        "run": plans.name,
        "planned_for": asdict(plans.settings) | {"processor": asdict(plans.processor), "usable": plans.limit},
        "notes": plans.notes,
        "measured": False,
        **{which: _figures(planned, plans) for which, planned in shown.items()},
    }


def _figures(planned: Planned, plans: Plans) -> dict:
    """What is planned of a run with settings."""
    memory, loop, parallel = planned.traced.memory, planned.config.train, planned.config.parallel
    gpu_hours = planned.seconds * loop.steps * plans.settings.gpus / 3600
    result = {
        "settings": {
            "train.pack_tokens": loop.pack_tokens,
            "parallel.shard": parallel.shard,
            "parallel.context": parallel.context,
            "checkpoint_activations": planned.config.checkpoint_activations,
        },
        "parameters": planned.traced.parameters,
        "memory": {field.name: round(getattr(memory, field.name)) for field in fields(Memory)},
        "peak": round(memory.peak),
        "samples": planned.samples,
        "tokens": planned.step_tokens,
        "packs": planned.packs,
        "pack_tokens": planned.pack_tokens,
        "model_flops": planned.model_flops,
        "executed_flops": planned.executed_flops,
        "seconds": planned.seconds,
        "steps": loop.steps,
        "hours": planned.seconds * loop.steps / 3600,
        "gpu_hours": gpu_hours,
        "mfu": planned.model_flops / plans.settings.gpus / planned.seconds / plans.processor.bf16,
    }
    if plans.settings.hours:
        result["steps_within"] = int(3600 * plans.settings.hours / planned.seconds)
    if plans.processor.watts:
        result["kwh"] = gpu_hours * plans.processor.watts / 1000
    if plans.settings.price:
        result["cost"] = gpu_hours * plans.settings.price
    return result


def _print(plans: Plans) -> None:
    """The plan as a table, a column for the run as it is given and one for how it fits."""
    from rich.console import Console
    from rich.table import Table

    columns = {"as given": plans.given}
    if plans.fits and plans.fits is not plans.given:
        columns["as it fits"] = plans.fits
    console = Console(width=None if sys.stdout.isatty() else 120, markup=False, highlight=False, emoji=False)
    settings, processor = plans.settings, plans.processor
    console.print(f"{plans.name} on {settings.gpus} x {processor.name}: planned, nothing of it is measured\n")
    table = Table("", *columns, box=None, pad_edge=False)
    rows = [_rows(planned, plans) for planned in columns.values()]
    for name in dict.fromkeys(name for row in rows for name in row):
        style = "bold" if name in ("peak of a process", "verdict") else ""
        table.add_row(name, *(row.get(name, "") for row in rows), style=style)
    console.print(table)
    given = settings.utilisation or UTILISATION["cpu" if settings.gpu == "cpu" else "gpu"]
    said = "given" if settings.utilisation else "assumed"
    measured = ", which was measured" if settings.gpu == "cpu" else " that the maker states"
    notes = [
        f"time: FLOPs as they are executed, at {given:.0%} ({said}) of the rate of products{measured}; "
        f"data, exchanges between processes, checkpoints and pictures are not in it",
        *plans.notes,
    ]
    if processor.watts:
        notes.append(f"energy: {processor.watts:.0f} W a GPU, its board's limit, without host and cooling")
    console.print()
    for note in notes:
        console.print(f"- {note}")
    console.print(f"\n{summary(plans)}")
    if plans.fits and plans.fits is not plans.given:
        console.print(
            f"it does not fit as it is given; so it does: {' '.join(change(plans.given, plans.fits))}"
        )


def summary(plans: Plans) -> str:
    """A plan in a line, as docstrings of `configs/runs/` have it."""
    where, found = f"{plans.settings.gpus} x {plans.settings.gpu.upper()}", plans.fits
    if found is None:
        return f"{where}: does not fit"
    changes = " ".join(change(plans.given, found))
    values, memory = _figures(found, plans), f"{found.peak / 2**30:.1f} of {plans.limit / 2**30:.1f} GiB"
    hours, energy = f"{_two(values['gpu_hours'])} GPU-hours", f"{_two(values.get('kwh', 0))} kWh"
    what = f"{memory}, {_two(found.seconds)} s a step, {hours}, {energy}"
    return f"{where}{f' with {changes}' if changes else ''}: {what}"


def _two(value: float) -> str:
    """A number in two digits: time is planned no better."""
    return f"{float(f'{value:.2g}'):,g}"


def change(given: Planned, fits: Planned) -> list[str]:
    """The words of a command line that lead from a run as it is given to how it fits."""
    one, other = given.config, fits.config
    pairs = {
        "--train.pack-tokens": (one.train.pack_tokens, other.train.pack_tokens),
        "--parallel.shard": (one.parallel.shard, other.parallel.shard),
        "--parallel.context": (one.parallel.context, other.parallel.context),
        "--checkpoint-activations": (one.checkpoint_activations, other.checkpoint_activations),
    }
    return [word for flag, (a, b) in pairs.items() if a != b for word in (flag, str(b))]


def _rows(planned: Planned, plans: Plans) -> dict[str, str]:
    """Every line of a column."""
    values, limit = _figures(planned, plans), plans.limit
    config, memory = planned.config, planned.traced.memory
    rows = {"parameters": ", ".join(f"{_short(n)} {name}" for name, n in planned.traced.parameters.items())}
    rows["a step"] = f"{planned.samples:,.0f} samples, {planned.step_tokens:,.0f} tokens"
    many = f"{planned.packs} packs, the largest of" if planned.packs > 1 else "one pack of"
    rows["of it a process"] = f"{many} {planned.pack_tokens:,} tokens"
    rows["sharding"] = f"{config.parallel.shard}" + (
        f", packs shared by {config.parallel.context}" if config.parallel.context > 1 else ""
    )
    rows["activations computed again"] = config.checkpoint_activations
    for field in fields(Memory):
        rows[f"  {field.name.replace('_', ' ')}"] = _bytes(getattr(memory, field.name))
    rows["peak of a process"] = f"{_bytes(memory.peak)} of {_bytes(limit)} usable"
    rows["verdict"] = "fits" if memory.peak <= limit else "does not fit"
    rows["FLOPs of a step"] = f"{planned.model_flops:.3g}, executed {planned.executed_flops:.3g}"
    rows["seconds of a step"] = f"{planned.seconds:.3g} ({values['mfu']:.0%} MFU)"
    rows["tokens a second"] = f"{planned.step_tokens / planned.seconds:,.0f}"
    rows[f"{values['steps']:,} steps"] = f"{values['hours']:,.3g} hours, {values['gpu_hours']:,.3g} GPU-hours"
    if "steps_within" in values:
        share = values["steps_within"] / values["steps"]
        rows[f"{plans.settings.hours:g} hours"] = f"{values['steps_within']:,} steps, {share:.0%} of them"
    if "kwh" in values:
        rows["energy"] = f"{values['kwh']:,.3g} kWh"
    if "cost" in values:
        rows["cost"] = f"{values['cost']:,.4g} at {plans.settings.price:g} an hour of a GPU"
    return rows


def _bytes(count: float) -> str:
    """Bytes as one reads them."""
    return f"{count / 2**30:,.2f} GiB" if count >= 2**30 / 100 else f"{count / 2**20:,.2f} MiB"


def _short(count: float) -> str:
    """A count of parameters as one says it."""
    for unit, word in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.3g}{word}"
    return f"{count:.0f}"
