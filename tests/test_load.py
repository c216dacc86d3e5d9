"""Proves that settings survive JSON and the command line, and that a wrong one is refused by its name."""

import ast
import dataclasses
import importlib
import inspect
import json
import typing

import pytest

import configs.load
from configs.load import first_paragraph, from_json, load_run, names, parse, parse_run, run_names, to_json
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
    """Settings of which every one has its type, and another value than by default."""
    hints = typing.get_type_hints(kind)
    return kind(**{f.name: other(hints[f.name], getattr(kind(), f.name)) for f in dataclasses.fields(kind)})


def other(hint, value):
    """A value of the same type that is not the same."""
    inner = typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return changed(hint)
    if typing.get_origin(hint) is typing.Literal:
        return next(choice for choice in inner if choice != value)
    if isinstance(value, tuple):
        literal = typing.get_origin(inner[0]) is typing.Literal
        some = typing.get_args(inner[0])[:2] if literal else ("first", "second")
        return (*(other(inner[0], item) for item in value), *value[:1]) or some
    if value is None:  # left to the model
        choices = [typing.get_args(part) for part in inner if typing.get_origin(part) is typing.Literal]
        return choices[0][0] if choices else inner[0](1)
    if isinstance(value, bool):
        return not value
    return value + "x" if isinstance(value, str) else value + 1


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_json_brings_every_setting_back(kind):
    text = json.dumps(to_json(changed(kind)))
    assert from_json(kind, json.loads(text)) == changed(kind) != kind()
    assert from_json(kind, {}) == kind()  # what an older file lacks takes its default


def refusal(kind, field, wrong) -> str:
    """What the message of a wrong value must say; one inside a group of settings is that of the group."""
    group = typing.get_type_hints(kind)[field.name]
    if not dataclasses.is_dataclass(group):
        return rf"{kind.__name__}\.{field.name} is .*, which is no "
    if wrong == {"nonsense": 1}:
        return rf"unknown setting nonsense in a saved {group.__name__}"
    return rf"a saved {group.__name__} is .*, which is no set of settings"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_wrong_type_is_refused_by_name(kind):
    for field in dataclasses.fields(kind):
        good = to_json(kind())[field.name]
        none = [None] if good is not None else []  # else None leaves it to the model
        for wrong in ([{}], {"nonsense": 1}, *none, "word" if not isinstance(good, str) else 7):
            with pytest.raises(ValueError, match=refusal(kind, field, wrong)):
                from_json(kind, {field.name: wrong})
    with pytest.raises(ValueError, match=r"unknown setting no_such_one in a saved"):
        from_json(kind, {"no_such_one": 1})


def test_json_types_are_not_bent():
    assert from_json(LoopConfig, {"steps": 3}).steps == 3
    for wrong in (3.0, True, "3"):
        with pytest.raises(ValueError, match=r"LoopConfig.steps is .* which is no int"):
            from_json(LoopConfig, {"steps": wrong})
    assert from_json(SampleSettings, {"fps": 8}).fps == 8.0
    with pytest.raises(ValueError, match=r"SampleSettings.fps is nan, which is no float"):
        from_json(SampleSettings, json.loads('{"fps": NaN}'))
    with pytest.raises(ValueError, match=r"LoopConfig.precision is 'fp8'"):
        from_json(LoopConfig, {"precision": "fp8"})
    with pytest.raises(ValueError, match=r"unknown setting step .* did you mean steps\?"):
        from_json(TransformerRun, {"train": {"step": 3}})


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
        (["--xyzzy", "3"], r"^unknown setting --xyzzy$"),
        (["--train.steps", "many"], r"--train.steps.*'many'"),
        (["--train.steps", "1.5"], r"--train.steps.*'1.5'"),
        (["--train.steps"], r"--train.steps"),
        (["--train.precision", "fp8"], r"'fp8'.*--train.precision.*'bf16', 'fp32'"),
        (["word"], r"word"),
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
        "from configs.train import LoopConfig, TransformerRun\n"
        "config = TransformerRun(out='here', train=LoopConfig(steps=7, batch=3))\n"
    )
    config = parse_run(TransformerRun, [file, "--train.steps", "9"], "dit train")
    assert (config.out, config.train.steps, config.train.batch) == ("here", 9, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config = 3", "must set `config` to a TransformerRun, not int"),
        ("", "must set `config` to a TransformerRun, not NoneType"),
        ("from configs.train import AutoencoderRun\nconfig = AutoencoderRun()", "not AutoencoderRun"),
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


def documentation(kind: type) -> dict[str, str]:
    """The line under each field of a settings class and of those it derives from, read from the source."""
    lines = {}
    for part in kind.__mro__[:-1]:
        (node,) = ast.parse(inspect.getsource(part)).body
        for field, line in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign):
                assert isinstance(line, ast.Expr), f"{node.name}.{field.target.id} has no documentation"
                lines[field.target.id] = line.value.value
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
