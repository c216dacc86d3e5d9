"""Settings from the command line, a run's Python file and JSON; wrong ones are told in one sentence."""

import contextlib
import dataclasses
import difflib
import importlib.util
import io
import json
import math
import re
import sys
import types
import typing
from pathlib import Path
from typing import TypeVar

from tyro.conf import Positional as Positional

Settings = TypeVar("Settings")
FOLDER = Path(__file__).parent / "runs"
NOT_RUNS = {"__init__"}


def parse_run(kind: type[Settings], arguments: list[str], prog: str) -> Settings:
    """The run of a config, a name in `configs/` or a Python file, with the settings that follow it changed.

    Raises ValueError for a config that is not there, holds another kind of run, or a setting that is wrong.
    """
    if not arguments or arguments[0].startswith("-"):
        if not {"-h", "--help"} & set(arguments):
            raise ValueError(
                f"which config? {prog} CONFIG, with a Python file or one of {', '.join(run_names(kind))}"
            )
        print(f"{prog} CONFIG [settings]: CONFIG is a Python file, or one of {', '.join(run_names(kind))}\n")
        return parse(kind, ["--help"], f"{prog} CONFIG", kind())
    return parse(kind, arguments[1:], f"{prog} {arguments[0]}", load_run(kind, arguments[0]))


def parse(kind: type[Settings], arguments: list[str], prog: str, default: Settings | None = None) -> Settings:
    """Settings of a dataclass from a command line over `default`; raises ValueError for a wrong one."""
    import tyro

    known = names(kind)
    for argument in arguments:
        name = argument.split("=")[0][2:].replace("_", "-")
        if argument.startswith("--") and name and name not in known:
            raise ValueError(f"unknown setting --{name}{nearest(name, known, '--')}")
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            # A box drawn for the terminal is hard to read in a log; its first paragraph is the sentence.
            default = kind() if default is None else default
            settings = tyro.cli(kind, args=arguments, prog=prog, default=default)
    except SystemExit as exit:
        if not exit.code:
            raise
        raise ValueError(first_paragraph(errors.getvalue())) from None
    check_finite(settings)
    return settings


def check_finite(settings, prefix: str = "") -> None:
    """Raises ValueError naming a setting that is infinite or no number."""
    for field in dataclasses.fields(settings):
        name, value = prefix + field.name, getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            check_finite(value, f"{name}.")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"{name} = {value}: it must be a finite number")


def first_paragraph(box: str) -> str:
    """The words of a drawn box between its title and its next rule, as one line.

    Where the terminal has no box characters, the title is a paragraph of its own, and rules are of dashes.
    """
    paragraphs = [[]]
    for line in box.splitlines():
        inner = line.strip().strip("│").strip()
        if inner.startswith(("╭", "╰")) or re.fullmatch("[─-]{3,}", inner):
            paragraphs.append([])
        else:
            paragraphs[-1].append(inner)
    sentences = [
        sentence for words in paragraphs if (sentence := re.sub(r"\s+", " ", " ".join(words)).strip())
    ]
    return sentences[0 if "╭" in box or len(sentences) == 1 else 1].rstrip(".")


def names(kind: type, prefix: str = "") -> list[str]:
    """All settings' names of a dataclass, dotted and with dashes, as on the command line."""
    found = ["help"] if not prefix else []
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(hints[field.name]):
            found += names(hints[field.name], f"{name}.")
        elif hints[field.name] is bool:
            found += [name, f"{prefix}no-{field.name.replace('_', '-')}"]
        else:
            found.append(name)
    return found


def nearest(name: str, known: list[str], mark: str = "") -> str:
    """`; did you mean X?` for the known name most like a wrong one, by its last part if not as a whole."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not close:
        close = [k for k in known if k.split(".")[-1] == name.split(".")[-1]]
    return f"; did you mean {mark}{close[0]}?" if close else ""


def run_names(kind: type) -> list[str]:
    """Names of the configs of one kind of run."""
    files = sorted(file for file in FOLDER.glob("*.py") if file.stem not in NOT_RUNS)
    return [file.stem for file in files if isinstance(read_config(file), kind)]


def load_run(kind: type[Settings], name: str) -> Settings:
    """The `config` of a Python file, given by its path or as a name in `configs/`."""
    file = FOLDER / f"{name}.py" if not name.endswith(".py") else Path(name)
    if not file.is_file() or file.stem in NOT_RUNS:
        raise ValueError(f"no config {name}{nearest(name, run_names(kind))}")
    config = read_config(file)
    if not isinstance(config, kind):
        raise ValueError(f"{file} must set `config` to a {kind.__name__}, not {type(config).__name__}")
    return config


def read_config(file: Path):
    """What a Python file sets `config` to, or None."""
    spec = importlib.util.spec_from_file_location(f"run_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file does wrong is the answer
        raise ValueError(f"{file} is not a config: {type(error).__name__}: {error}") from error
    return getattr(module, "config", None)


def to_json(settings) -> dict:
    """A settings dataclass as plain JSON values; `from_json` is its inverse."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def from_json(kind: type[Settings], values: dict) -> Settings:
    """A settings dataclass from JSON values; a missing one takes its default.

    An unknown or ill-typed one raises ValueError.
    """
    if not isinstance(values, dict):
        raise ValueError(f"a saved {kind.__name__} is {values!r}, which is no set of settings")
    hints = typing.get_type_hints(kind)
    fields = {field.name for field in dataclasses.fields(kind)}
    for name in values:
        if name not in fields:
            raise ValueError(
                f"unknown setting {name} in a saved {kind.__name__}{nearest(name, sorted(fields))}"
            )
    return kind(
        **{name: typed(hints[name], value, f"{kind.__name__}.{name}") for name, value in values.items()}
    )


def typed(hint, value, where: str):
    """A JSON value as a setting's type; raises ValueError where it is not one."""
    if dataclasses.is_dataclass(hint):
        return from_json(hint, value)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):  # X | None
        return None if value is None else typed(inner[0], value, where)
    if origin is typing.Literal and value in inner:
        return value
    if origin is tuple and isinstance(value, list):
        return tuple(typed(inner[0], item, where) for item in value)
    if hint is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    raise ValueError(f"{where} is {value!r}, which is no {getattr(hint, '__name__', hint)}")
