"""Settings from the command line, a run's Python file and JSON; a wrong one is refused in one sentence."""

import contextlib
import dataclasses
import difflib
import functools
import importlib.util
import io
import json
import re
import sys
import typing
from pathlib import Path
from typing import TypeVar

from tyro.conf import Positional as Positional

Settings = TypeVar("Settings")
FOLDER = Path(__file__).parent / "runs"
NOT_RUNS = {"__init__"}
RULES = {  # pydantic's error -> what the value must be; of the others pydantic's own words are good
    "greater_than_equal": "at least {ge}",
    "greater_than": "above {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "below {lt}",
    "multiple_of": "a multiple of {multiple_of}",
    "tuple_type": "a list of values",
    "dataclass_type": "a set of settings",
}


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
        raise ValueError(first_paragraph(errors.getvalue()).split(". Got errors")[0]) from None
    return _validated(kind, dataclasses.asdict(settings))


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
    return _validated(kind, dataclasses.asdict(config), f"{file}: ")


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

    An unknown one, an ill-typed one or one out of its range raises ValueError.
    """
    return _validated(kind, values, f"a saved {kind.__name__}: ")


def _validated(kind: type[Settings], values: dict, where: str = "") -> Settings:
    """The one place where types and ranges are checked, whatever the settings come from."""
    from pydantic import ValidationError

    try:
        # What is not JSON becomes a string, which a setting of another type then refuses.
        return _adapter(kind).validate_json(json.dumps([values], default=str))[0]
    except ValidationError as errors:
        error = errors.errors(include_url=False)[0]
    name = re.sub(r"\.(\d+)", r"[\1]", ".".join(map(str, error["loc"][1:]))) or kind.__name__
    if error["type"] == "unexpected_keyword_argument":
        known = [name.replace("-", "_") for name in names(kind)]
        raise ValueError(f"{where}unknown setting {name}{nearest(name, known)}")
    bounds = {key: f"{b:g}" if isinstance(b, float) else b for key, b in error.get("ctx", {}).items()}
    rule = RULES.get(error["type"], error["msg"].removeprefix("Input should be ")).format(**bounds)
    raise ValueError(f"{where}{name} = {error['input']!r}: it must be {rule}")


@functools.cache
def _adapter(kind: type):
    """Pydantic's validator of a settings class: strict types, finite floats, no setting that is not there.

    The tuple carries the rules to the class and the groups inside it, which pydantic does for no bare class.
    """
    from pydantic import TypeAdapter

    return TypeAdapter(tuple[kind], config={"strict": True, "extra": "forbid", "allow_inf_nan": False})
