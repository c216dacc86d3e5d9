"""What a run's docstring says that it is planned to cost is what `dit train NAME --plan` plans, now."""

import ast
import textwrap
from dataclasses import replace

import pytest

from configs.load import FOLDER, load_run
from configs.train import TransformerRun
from dit.runs.estimate import PlanSettings, plan
from dit.runs.plan import summary

PLANNED = "Cost, planned until measured (`--plan`, at an assumed 35 % of a GPU's peak):\n"
RUNS = sorted(file.stem for file in FOLDER.glob("*.py") if PLANNED in file.read_text())
GPUS = (1, 8)


def lines(name: str, gpus: tuple[int, ...]) -> list[str]:
    """The lines of a run's docstring on so many GPUs; clips that several share, one takes whole."""
    run, result = load_run(TransformerRun, name), []
    for count in gpus:
        context = min(run.parallel.context, count)
        config = replace(run, parallel=replace(run.parallel, context=context))
        line = summary(plan(name, config, PlanSettings(gpus=count)))
        result += textwrap.wrap(f"- {line}", 109, subsequent_indent="  ", break_on_hyphens=False)
    return result


def said(name: str) -> list[str]:
    """The lines that a run's docstring has."""
    text = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text()))
    return text.split(PLANNED)[1].split("\nResult: ")[0].split("\n")


def test_a_recipe_says_what_is_planned():
    assert {"ucf101", "msrvtt", "wan_1b", "wan_5b", "wan_14b"} <= set(RUNS)
    assert [name for name in RUNS if name.startswith("ladder")] == [
        f"ladder_{size}" for size in ("100m", "10m", "1b", "300m", "30m")
    ]


@pytest.mark.long
@pytest.mark.parametrize("name", ["ladder_10m", "ucf101", "wan_1b"])  # the others take minutes
def test_some_recipes_say_what_is_planned(name):
    assert lines(name, GPUS) == said(name)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("ladder_10m", 10), ("ladder_30m", 30), ("ladder_100m", 100), ("ladder_300m", 300), ("ladder_1b", 1000)],
)
def test_a_rung_has_the_size_that_it_is_named_by(name, millions):
    """And sizes that run fast, one width of a head for muP, twenty tokens a parameter, a decay at its end."""
    run = load_run(TransformerRun, name)
    model, loop, optimizer = run.model, run.train, run.optimizer
    width, inner = model.width, model.mlp_width
    blocks = model.depth * (8 * width**2 + 2 * width * inner)
    assert (blocks + 9 * width**2) / 1e6 == pytest.approx(millions, rel=0.04)
    assert width % 128 == inner % 128 == 0 and width // model.heads == 64 and inner == 4 * width
    assert loop.steps * loop.tokens / (1e6 * millions) == pytest.approx(20, rel=0.05)
    assert optimizer.decay_start + optimizer.decay_steps == loop.steps
    lowest = load_run(TransformerRun, "ladder_10m")
    same = {"out": "", "model": lowest.model, "train": replace(loop, steps=1), "optimizer": lowest.optimizer}
    alike = replace(lowest, **same | {"train": replace(lowest.train, steps=1)})
    assert replace(run, **same) == alike, "a rung changes its size and its steps alone"
    spans = {"decay_start": 0, "decay_steps": 0}
    assert replace(optimizer, **spans) == replace(lowest.optimizer, **spans)
