"""Proves that settings survive JSON and the command line, and that a wrong one is refused by its name."""

import ast
import contextlib
import dataclasses
import importlib
import inspect
import json
import re
import typing
from typing import Annotated, Literal

import pydantic
import pytest
from annotated_types import MultipleOf

import configs.load
from configs.load import first_paragraph, from_json, load_run, names, parse, parse_run, run_names, to_json
from configs.ranges import Count, CountOrZero, Decay, NonNegative, Positive, Seed, Share
from configs.sampling import SampleSettings
from configs.train import AutoencoderRun, LoopConfig, TransformerRun
from dit.cli import VERBS

CONFIGS = ("configs.model", "configs.data", "configs.train", "configs.sampling")
KINDS = [  # of `configs/`, and of every verb
    kind
    for module in (*CONFIGS, *(module for module, _ in VERBS.values() if module != "dit.doctor"))
    for kind in vars(importlib.import_module(module)).values()
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == module
    if kind.__name__.endswith(("Config", "Run", "Settings"))
]


def changed(kind):
    """Settings of which every one has its type and range, and another value than by default."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return kind(**{f.name: other(hints[f.name], getattr(kind(), f.name)) for f in dataclasses.fields(kind)})


def other(hint, value):
    """A value of the same type and range that is not the same."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return changed(hint)
    if type(None) in inner:  # the model's own, unless it is given
        return other(inner[0], value)
    if origin is typing.Annotated and typing.get_origin(inner[0]) is tuple:  # a positional one
        return other(inner[0], value)
    if origin is typing.Literal:
        return next(choice for choice in inner if choice != value)
    if origin is tuple:
        return tuple(other(inner[0], item) for item in value) or (other(inner[0], None), other(inner[0], 1))
    kind = inner[0] if origin is typing.Annotated else hint
    if kind is bool:
        return not value
    if kind is str:
        return f"{value}x"
    fits = pydantic.TypeAdapter(hint)
    for step in (1, 8, -0.5, 0.5) if kind is float else (1, 8, -1):
        with contextlib.suppress(pydantic.ValidationError):
            return fits.validate_python(kind((value or 0) + step), strict=True)
    raise AssertionError(f"no other value of {hint} than {value}")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_json_brings_every_setting_back(kind):
    text = json.dumps(to_json(changed(kind)))
    assert from_json(kind, json.loads(text)) == changed(kind) != kind()
    assert from_json(kind, {}) == kind()  # what an older file lacks takes its default


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_wrong_type_is_refused_by_name(kind):
    for field in dataclasses.fields(kind):
        hint, good = typing.get_type_hints(kind)[field.name], to_json(kind())[field.name]
        for wrong in ([{}], {"nonsense": 1}, None, "word" if not isinstance(good, str) else 7):
            if type(wrong) in typing.get_args(hint):  # None, or the text of an optional one
                continue
            message = rf"a saved {kind.__name__}: {field.name}(\[0\])? = .*: it must be "
            if dataclasses.is_dataclass(hint) and wrong == {"nonsense": 1}:
                message = rf"a saved {kind.__name__}: unknown setting {field.name}\.nonsense"
            with pytest.raises(ValueError, match=message):
                from_json(kind, {field.name: wrong})
    with pytest.raises(ValueError, match=rf"a saved {kind.__name__}: unknown setting no_such_one"):
        from_json(kind, {"no_such_one": 1})


def test_json_types_are_not_bent():
    assert from_json(LoopConfig, {"steps": 3}).steps == 3
    for wrong in (3.0, True, "3"):
        with pytest.raises(ValueError, match=r"a saved LoopConfig: steps = .*: it must be a valid integer$"):
            from_json(LoopConfig, {"steps": wrong})
    assert type(from_json(SampleSettings, {"fps": 8}).fps) is float
    with pytest.raises(ValueError, match=r"fps = nan: it must be a finite number$"):
        from_json(SampleSettings, json.loads('{"fps": NaN}'))
    with pytest.raises(ValueError, match=r"precision = 'fp8': it must be 'bf16' or 'fp32'$"):
        from_json(LoopConfig, {"precision": "fp8"})
    with pytest.raises(ValueError, match=r"unknown setting train.step; did you mean train.steps\?$"):
        from_json(TransformerRun, {"train": {"step": 3}})
    with pytest.raises(ValueError, match=r"LoopConfig = 7: it must be a set of settings$"):
        from_json(LoopConfig, 7)


@dataclasses.dataclass(frozen=True)
class Ranges:
    """A setting of every range, and those that may be left to the model."""

    count: Count = 1
    other: CountOrZero = 0
    rate: Positive = 0.1
    weight: NonNegative = 0.0
    share: Share = 0.5
    decay: Decay = 0.9
    seed: Seed = 0
    width: Annotated[int, MultipleOf(8)] = 8
    parts: tuple[Count, ...] = ()
    steps: Count | None = None
    solver: Literal["euler", "heun"] | None = None
    name: str | None = None


@dataclasses.dataclass(frozen=True)
class Group:
    """Settings inside settings."""

    group: Ranges = dataclasses.field(default_factory=Ranges)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("count", 0, "at least 1"),
        ("other", -1, "at least 0"),
        ("rate", 0.0, "above 0"),
        ("rate", float("inf"), "a finite number"),
        ("weight", -0.5, "at least 0"),
        ("weight", float("nan"), "a finite number"),
        ("share", -0.5, "at least 0"),
        ("share", 1.5, "at most 1"),
        ("decay", 1.0, "below 1"),
        ("seed", -1, "at least 0"),
        ("seed", 2**63, "below 2^63"),
        ("width", 12, "a multiple of 8"),
        ("parts", (3, 0), "at least 1"),
        ("steps", 0, "at least 1"),
    ],
)
def test_a_range_is_checked_wherever_the_setting_comes_from(name, value, rule, config_file):
    values = value if isinstance(value, tuple) else (value,)
    index = f"[{len(values) - 1}]" if isinstance(value, tuple) else ""
    sentence = re.escape(f"group.{name}{index} = {values[-1]}: it must be {rule}") + "$"
    with pytest.raises(ValueError, match=f"^{sentence}"):
        parse(Group, [f"--group.{name}", *map(str, values)], "dit verb")
    with pytest.raises(ValueError, match=f"^a saved Group: {sentence}"):
        from_json(Group, {"group": {name: value}})
    text = "from tests.test_load import Group, Ranges\nfrom math import inf, nan\n"
    file = config_file(f"{text}config = Group(Ranges({name}={value}))")
    with pytest.raises(ValueError, match=f"^{re.escape(file)}: {sentence}"):
        load_run(Group, file)


def test_none_is_the_model_s_own_and_can_be_given():
    given = ["--group.steps", "3", "--group.solver", "heun", "--group.name", "a"]
    settings = parse(Group, given, "dit verb")
    assert (settings.group.steps, settings.group.solver, settings.group.name) == (3, "heun", "a")
    assert from_json(Group, to_json(settings)) == settings
    none = ["--group.steps", "None", "--group.solver", "None", "--group.name", "None"]
    assert parse(Group, none, "dit verb", settings) == Group() == from_json(Group, to_json(Group()))
    with pytest.raises(ValueError, match=r"--group.steps.*'many'\]$"):
        parse(Group, ["--group.steps", "many"], "dit verb")


def flags(kind, values, prefix: str = "") -> list[str]:
    """The command line that sets everything as in `values`."""
    words = []
    for field in dataclasses.fields(kind):
        value, name = getattr(values, field.name), prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            words += flags(type(value), value, f"{name}.")
        elif isinstance(value, bool):
            words.append(f"--{name}" if value else f"--{prefix}no-{field.name.replace('_', '-')}")
        elif isinstance(value, tuple):
            words += [f"--{name}", *map(str, value)]
        else:
            words += [f"--{name}", str(value)]
    return words


@pytest.mark.parametrize("kind", [AutoencoderRun, TransformerRun])
def test_the_command_line_sets_every_setting(kind):
    words = flags(kind, changed(kind))
    assert {word[2:] for word in words if word.startswith("--")} <= set(names(kind))
    assert parse(kind, words, "dit verb") == changed(kind)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--train.step", "3"], r"^unknown setting --train.step; did you mean --train.steps\?$"),
        (["--steps=3"], r"^unknown setting --steps; did you mean --train.steps\?$"),
        (["--xyzzy", "3"], r"^unknown setting --xyzzy; dit train --help lists the settings$"),
        (["--train.steps", "many"], r"--train.steps.*'many'"),
        (["--train.steps", "1.5"], r"--train.steps.*'1.5'"),
        (["--train.steps"], r"--train.steps"),
        (["--train.precision", "fp8"], r"'fp8'.*--train.precision.*'bf16', 'fp32'"),
        (["word"], r"word"),
        (["--out", "\udcff"], r"^a setting of TransformerRun is no UTF-8 text$"),
        (
            ["--optimizer.learning-rate", "nan"],
            r"^optimizer.learning_rate = nan: it must be a finite number$",
        ),
        (["--flow.shift", "inf"], r"^flow.shift = inf: it must be a finite number$"),
    ],
)
def test_a_wrong_word_is_one_sentence(words, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse(TransformerRun, words, "dit train")
    assert "\n" not in str(caught.value) and "│" not in str(caught.value)


def test_the_sentence_is_the_first_paragraph_of_the_box():
    box = "╭─ error ──╮\n│ Wrong  │\n│ word.  │\n│ ────── │\n│ Try x  │\n╰────────╯"
    assert first_paragraph(box) == "Wrong word"
    dashes = " Title   \n ------- \n  Wrong  \n  word.  \n  -------\n  Try x  \n         \n"
    assert first_paragraph(dashes) == "Wrong word"


@pytest.fixture
def config_file(tmp_path):
    """Writes a config file with the given text."""

    def write(text: str) -> str:
        (tmp_path / "mine.py").write_text(text)
        return str(tmp_path / "mine.py")

    return write


def test_a_file_of_one_s_own_is_a_config_and_flags_change_it(config_file):
    file = config_file(
        "from configs.train import TransformerLoop, TransformerRun\n"
        "config = TransformerRun(out='here', train=TransformerLoop(steps=7, batch=3))\n"
    )
    config = parse_run(TransformerRun, [file, "--train.steps", "9"], "dit train")
    assert (config.out, config.train.steps, config.train.batch) == ("here", 9, 3)


@pytest.mark.parametrize("words", [["--from", "runs/a@4"], ["--from=runs/a@4"], ["--from-run", "runs/a@4"]])
def test_from_is_said_without_more(words, capsys):
    assert parse_run(TransformerRun, ["small", *words], "dit train").from_run == "runs/a@4"
    with pytest.raises(SystemExit):
        parse_run(TransformerRun, ["small", *words, "--print"], "dit train")
    assert re.search(r"from_run +runs/a@4 +command line", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config = 3", "must set `config` to TransformerRun, not int"),
        ("", "must set `config` to TransformerRun, not NoneType"),
        (
            "from configs.train import AutoencoderRun\nconfig = AutoencoderRun()",
            "is a config of `dit vae train`, not of `dit train`; there are",
        ),
        ("config = (", "is not a config: SyntaxError"),
        ("import no_such_module", "is not a config: ModuleNotFoundError"),
        (
            "from configs.train import TransformerRun\nconfig = TransformerRun(stepz=3)",
            "is not a config: TypeError.*stepz",
        ),
    ],
)
def test_a_file_that_is_no_config_is_named_with_the_reason(config_file, text, message):
    file = config_file(text)
    with pytest.raises(ValueError, match=message) as caught:
        load_run(TransformerRun, file)
    assert file in str(caught.value)


def test_the_repository_s_configs_load_under_their_names():
    found = run_names(AutoencoderRun) + run_names(TransformerRun)
    files = {file.stem for file in configs.load.FOLDER.glob("*.py")}
    assert sorted(found) == sorted(files - configs.load.NOT_RUNS) and "shapes_autoencoder" in found
    for kind in (AutoencoderRun, TransformerRun):
        for name in run_names(kind):
            assert from_json(kind, to_json(load_run(kind, name))) == load_run(kind, name)
    with pytest.raises(ValueError, match=r"no config shape_autoencoder; did you mean shapes_autoencoder\?"):
        load_run(AutoencoderRun, "shape_autoencoder")
    with pytest.raises(ValueError, match=r"which config\? dit vae train CONFIG.*shapes_autoencoder"):
        parse_run(AutoencoderRun, [], "dit vae train")


def test_a_run_is_whole_or_replaces_one_that_is():
    runs = {file.stem: file.read_text() for file in configs.load.FOLDER.glob("*.py")}
    replaced = {name: re.findall(r"configs\.runs\.(\w+)", text) for name, text in runs.items()}
    for name, others in replaced.items():
        assert len(others) <= 1 and not any(replaced[other] for other in others), name
        assert runs[name].count("= replace(\n") == len(others), name
    assert replaced["shapes_longer"] == ["shapes"]
    for name in set(runs) - configs.load.NOT_RUNS:
        title, *rest = ast.get_docstring(ast.parse(runs[name])).split("\n\n")
        assert title.endswith(".") and f"dit {'vae ' * ('coder' in name)}train {name}" in rest[0], name
        assert re.search("^Cost", rest[-1]) and re.search(r"\b[Rr]esult: ", rest[-1]), name


def test_print_shows_every_setting_and_where_it_comes_from(tmp_path, monkeypatch, capsys, config_file):
    monkeypatch.chdir(tmp_path)

    def shown(*words):
        """Every setting that is printed, with its value and its source."""
        with pytest.raises(SystemExit) as stopped:
            parse_run(TransformerRun, [*words, "--print"], "dit train")
        assert not stopped.value.code
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 100 and lines[0].split() == ["setting", "value", "from"]
        rows = (line.split(maxsplit=1) for line in lines[1:] if not line.startswith(" "))
        return {name: re.sub("  +", " | ", rest.strip()) for name, rest in rows}

    words = ["--train.log-every=20", "--text.no-padded", "--prompts", "a red circle", "two"]
    rows = shown("shapes_longer", *words)
    dotted = [name.replace("-", "_") for name in names(TransformerRun) if ".no-" not in f".{name}"]
    assert not [*tmp_path.iterdir()] and list(rows) == [name for name in dotted if name != "help"]
    assert rows["train.log_every"] == "20 | command line"  # said there, though the file says the same
    assert rows["text.padded"] == "False | command line"
    assert rows["prompts"] == "'a red circle' two | command line"
    assert rows["init"] == "runs/shapes | shapes_longer.py"
    assert rows["train.seed"] == "1 | shapes_longer.py"
    assert rows["model.width"] == "192 | shapes.py"
    assert rows["optimizer.beta2"] == "0.99 | default"
    file = config_file(
        "from dataclasses import replace\n"
        "from configs.runs.shapes_longer import config\n"
        "from configs.runs.small_autoencoder import config as other\n"
        "config = replace(config, data=other.data, train={'steps': 7})\n"
    )
    rows = shown(file)
    assert rows["data.size"] == "256 | mine.py" and rows["train.steps"] == "7 | mine.py"
    assert rows["init"] == "runs/shapes | shapes_longer.py" and rows["model.width"] == "192 | shapes.py"


def documentation(kind: type) -> dict[str, str]:
    """The line under each field of a settings class and of those it derives from, read from the source."""
    lines = {}
    for part in kind.__mro__[:-1]:
        (node,) = ast.parse(inspect.getsource(part)).body
        for field, line in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign):
                assert isinstance(line, ast.Expr), f"{node.name}.{field.target.id} has no documentation"
                lines.setdefault(field.target.id, line.value.value)
    return lines


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.__name__.endswith(("Run", "Settings"))])
def test_help_shows_the_documentation_of_every_setting(kind, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stopped:
        parse(kind, ["--help"], "dit verb")
    assert not stopped.value.code
    shown = "".join(capsys.readouterr().out.replace("│", "").split())

    def check(kind):
        lines = documentation(kind)
        assert all("\n" not in line.strip() for line in lines.values())
        for field in dataclasses.fields(kind):
            inner = type(getattr(kind(), field.name))
            assert "".join(lines[field.name].split()) in shown, field.name
            if dataclasses.is_dataclass(inner):
                check(inner)

    check(kind)
