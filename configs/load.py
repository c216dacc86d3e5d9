"""Settings from the command line, a run's Python file and JSON; a wrong one is refused in one sentence."""

import contextlib
import dataclasses
import difflib
import functools
import importlib.util
import io
import itertools
import json
import re
import shlex
import sys
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from typing_extensions import is_typeddict
from tyro.conf import Positional as Positional

from configs.words import is_spoken_of, same_meaning, why_none

Settings = TypeVar("Settings")
FOLDER = Path(__file__).parent / "runs"
NOT_RUNS = {"__init__"}
TRAINED_BY = {"TransformerRun": "`dit train`", "AutoencoderRun": "`dit vae train`"}
RULES = {  # pydantic's error -> what the value must be; of the others pydantic's own words are good
    "greater_than_equal": "at least {ge}",
    "greater_than": "above {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "below {lt}",
    "multiple_of": "a multiple of {multiple_of}",
    "tuple_type": "a list of values",
    "too_short": "at least {min_length} values",
    "too_long": "at most {max_length} values",
    "dataclass_type": "a set of settings",
    "dict_type": "a set of values by name",
}


def parse_run(kind: type[Settings], arguments: list[str], prog: str) -> Settings:
    """The run of a config, a name in `configs/runs/` or a Python file, changed by the settings after it.

    With `--print` every setting is shown with its source, and the program exits. Raises ValueError for a
    config that is not there or holds another kind of run, and for a setting that is wrong.
    """
    if not arguments or arguments[0].startswith("-"):
        choices = f"a Python file or one of {', '.join(run_names(kind))}"
        if not {"-h", "--help"} & set(arguments):
            raise ValueError(f"which config? {prog} CONFIG, with {choices}")
        print(f"{prog} CONFIG [settings]: CONFIG is {choices}")
        print("--print shows every setting with where it comes from, and does nothing else\n")
        return parse(kind, ["--help"], f"{prog} CONFIG", kind())
    name, *words = _unabbreviated(arguments)
    changes = [word for word in words if word != "--print"]
    config = parse(kind, changes, f"{prog} {name}", load_run(kind, name))
    if changes == words:
        return config
    given = {_setting(word).replace("-", "_") for word in changes if word.startswith("--")}
    _print_settings(_origins(config, [("default", kind()), *_layers(kind, name)], given))
    raise SystemExit(0)


def _setting(word: str) -> str:
    """The name of the setting in a word of the command line, `--train.log-every=5`."""
    return word.split("=")[0][2:]


def _layers(kind: type[Settings], name: str) -> list[tuple[str, Settings]]:
    """The runs of this kind that a run's file replaces parts of, then its own, each under its file's name."""
    file = _run_file(name)
    replaced = re.findall(r"^from configs\.runs\.(\w+) import", file.read_text(), re.MULTILINE)
    below = [layer for other in replaced if other in run_names(kind) for layer in _layers(kind, other)]
    return [*below, (file.name, load_run(kind, name))]


def _origins(config, layers: list[tuple[str, object]], given: set[str], prefix: str = "") -> Iterator[tuple]:
    """Name, value and source of every setting: the command line, or the last layer that changed the value.

    A file that gives a default again changes nothing, so its source is the default.
    """
    for field in dataclasses.fields(config):
        name, value = prefix + field.name, getattr(config, field.name)
        values = [(source, getattr(layer, field.name)) for source, layer in layers]
        if dataclasses.is_dataclass(value):
            yield from _origins(value, values, given, f"{name}.")
            continue
        changed = [source for (_, before), (source, now) in itertools.pairwise(values) if now != before]
        on_command_line = {name, f"{prefix}no_{field.name}"} & given
        yield name, value, "command line" if on_command_line else (["default", *changed])[-1]


def _print_settings(rows: Iterable[tuple[str, object, str]]) -> None:
    """A table of settings with their values, as one would type them, and their sources."""
    from rich.console import Console
    from rich.table import Table

    table = Table("setting", "value", "from", box=None, pad_edge=False)
    for name, value, source in rows:
        values = value if isinstance(value, tuple) else (value,)
        table.add_row(name, shlex.join(map(str, values)), source, style="dim" if source == "default" else "")
    width = None if sys.stdout.isatty() else 100
    Console(width=width, markup=False, highlight=False, emoji=False).print(table)


def _unabbreviated(arguments: list[str]) -> list[str]:
    """The same words with `--from-run` for `--from`, as no field of Python's can be called `from`."""
    return [re.sub(r"^--from(?==|$)", "--from-run", word) for word in arguments]


def parse(kind: type[Settings], arguments: list[str], prog: str, default: Settings | None = None) -> Settings:
    """Settings of a dataclass from a command line over `default`; raises ValueError for a wrong one."""
    import tyro

    arguments = _unabbreviated(arguments)
    known = names(kind)
    for argument in arguments:
        name = _setting(argument).replace("_", "-")
        if argument.startswith("--") and name and name not in known:
            raise ValueError(_unknown(name, known, "--", prog))
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            # A box drawn for the terminal is hard to read in a log; its first paragraph is the sentence.
            default = kind() if default is None else default
            config = (tyro.conf.PositionalMetavarFromFieldName,)
            settings = tyro.cli(
                kind, args=arguments, prog=prog, default=default, config=config, registry=_described()
            )
    except SystemExit as exit:
        if not exit.code:
            raise
        problem = first_paragraph(errors.getvalue()).split(". Got errors")[0]
        word = problem.removeprefix("Unrecognized options: ").split(", ")[0]
        name = word.lstrip("-").split("=")[0].replace("_", "-")
        if word != problem and word != name and name:  # `-lr 3`, or `lr=3`
            given = f"{word}: a setting is given as --{name} VALUE"
            raise ValueError(given if name in known else _unknown(name, known, "--", prog)) from None
        raise ValueError(problem) from None
    return _validated(kind, dataclasses.asdict(settings))


def words_of(settings) -> list[str]:
    """The words of a command line that give settings, without those that are their class's defaults.

    It is the inverse of `parse`. Raises ValueError for what no command line says: no value, where the default
    is one.
    """
    kind, words, named = type(settings), [], []
    hints, default = typing.get_type_hints(kind, include_extras=True), kind()
    for field in dataclasses.fields(settings):
        value, flag = getattr(settings, field.name), f"--{field.name.replace('_', '-')}"
        if value == getattr(default, field.name):
            continue
        if value is None:
            raise ValueError(f"no command line takes {flag} away")
        values = [str(each) for each in (value if isinstance(value, tuple) else (value,))]
        if Positional in getattr(hints[field.name], "__metadata__", ()):
            words += values
        elif isinstance(value, bool):
            named.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, tuple):
            named += [flag, *values]
        else:
            named += [f"{flag}={values[0]}"] if values[0].startswith("-") else [flag, values[0]]
    return words + named


def _described():
    """Tyro's registry in which a setting's documentation ends with its range, and its default if any."""
    import tyro

    registry, inside = tyro.constructors.ConstructorRegistry(), False

    def described(field):
        conf = _ending(field.name, field.type, field.default)
        return dataclasses.replace(field, type=typing.Annotated[field.type, conf])

    @registry.struct_rule
    def rule(info):
        nonlocal inside
        if inside or not dataclasses.is_dataclass(info.type):
            return None  # tyro's own rule, which is asked below
        inside = True
        spec = registry.get_struct_spec(info)
        inside = False
        return dataclasses.replace(spec, fields=tuple(map(described, spec.fields)))

    return registry


def _ending(name: str, hint, default):
    """How tyro is to end a setting's documentation; and for words without a setting's name, their name."""
    import tyro

    words, values = range_in_words(hint), default if isinstance(default, tuple) else (default,)
    if any(value not in ("", None) for value in values):
        words += f"{'; ' if words else ''}default: {shlex.join(map(str, values))}"
    several = Positional in getattr(hint, "__metadata__", ()) and isinstance(default, tuple)
    metavar = f"[{name.upper()} ...]" if several else None
    return tyro.conf.arg(help_behavior_hint=f"({words})" if words else " ", metavar=metavar)


def range_in_words(hint) -> str:
    """The range of a setting, from its annotation, in the words of the error on what is outside of it."""
    inner = next(filter(None, map(range_in_words, typing.get_args(hint)[:1])), "")
    if typing.get_origin(hint) is not typing.Annotated:
        return f"each {inner}" if inner and typing.get_origin(hint) is tuple else inner
    bounds = {}
    for rule in filter(dataclasses.is_dataclass, hint.__metadata__):
        bounds |= {name: b for name, b in dataclasses.asdict(rule).items() if not _is_far(name, b)}
    words = [
        rule.format(**_spelled(bounds)) for rule in RULES.values() if any(f"{{{b}}}" in rule for b in bounds)
    ]
    if bounds.get("min_length", -1) == bounds.get("max_length"):
        words = [f"{bounds['min_length']} values"]
    return " and ".join(filter(None, [*words, inner]))


def _is_far(name: str, bound) -> bool:
    """Whether a bound is an upper end that is there for files of others, and no person's concern."""
    return name == "le" and bound > 100


def _spelled(bounds: dict) -> dict:
    """Bounds of a range as one reads them."""
    return {
        name: "2^63" if b == 2**63 else f"{b:g}" if isinstance(b, float) else b for name, b in bounds.items()
    }


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
    dotted = ["help"] if not prefix else []
    for name, hint in typing.get_type_hints(kind).items():
        name = name.replace("_", "-")
        if dataclasses.is_dataclass(hint):
            dotted += names(hint, f"{prefix}{name}.")
        else:
            dotted += [f"{prefix}{name}", *([f"{prefix}no-{name}"] if hint is bool else [])]
    return dotted


def _unknown(name: str, known: list[str], mark: str = "", prog: str = "") -> str:
    """The sentence on a setting that is not there: why, and which one is meant or spelled most like it."""
    why, meant = why_none(name, known), same_meaning(name, known)
    hint = f"; did you mean {' and '.join(mark + setting for setting in meant)}?" if meant else ""
    if not hint and not why:
        hint = "" if is_spoken_of(name) else nearest(name, known, mark)
        hint = hint or (f"; {prog} --help lists the settings" if prog else "")
    return f"unknown setting {mark}{name}{f': {why}' if why else ''}{hint}"


def nearest(name: str, known: list[str], mark: str = "") -> str:
    """`; did you mean X?` for the known name most like a wrong one, by its last part if not as a whole."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not close:
        close = [k for k in known if k.split(".")[-1] == name.split(".")[-1]]
    return f"; did you mean {mark}{close[0]}?" if close else ""


def run_names(kind: type) -> list[str]:
    """Names of the configs of one kind of run."""
    files = sorted(file for file in FOLDER.glob("*.py") if file.stem not in NOT_RUNS)
    return [file.stem for file in files if isinstance(_read_config(file), kind)]


def load_run(kind: type[Settings], name: str) -> Settings:
    """The `config` of a Python file, given by its path or as a name in `configs/runs/`."""
    file = _run_file(name)
    config = _read_config(file) if file.is_file() and file.stem not in NOT_RUNS else None
    if isinstance(config, kind):
        try:
            return _validated(kind, dataclasses.asdict(config), f"{file}: ")
        except RecursionError:
            raise ValueError(f"{file}: a setting is nested too deep, or contains itself") from None
    known = run_names(kind)
    choices = f"{', '.join(known)}, and any Python file"
    if not file.is_file() or file.stem in NOT_RUNS:
        if Path(name).is_dir():
            raise ValueError(f"{name} is a folder, and no config: a run resumes by the command that began it")
        near = nearest(name, known)
        raise ValueError(f"no config {name}{near}{' There' if near else '; there'} are {choices}")
    if type(config).__name__ in TRAINED_BY and kind.__name__ in TRAINED_BY:
        verbs = TRAINED_BY[type(config).__name__], TRAINED_BY[kind.__name__]
        raise ValueError(f"{name} is a config of {verbs[0]}, not of {verbs[1]}; there are {choices}")
    raise ValueError(
        f"{file} must set `config` to {kind.__name__}, not {type(config).__name__}; there are {choices}"
    )


def _run_file(name: str) -> Path:
    """The Python file of a run, given by its path or by its name in `configs/runs/`."""
    return FOLDER / f"{name}.py" if not name.endswith(".py") else Path(name)


def _read_config(file: Path):
    """What a Python file sets `config` to, or None."""
    spec = importlib.util.spec_from_file_location(f"run_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's file does wrong is the answer
        raise ValueError(f"{file} is not a config: {type(error).__name__}: {error}") from error
    return getattr(module, "config", None)


def to_json(settings) -> dict:
    """A settings dataclass as plain JSON values; `from_json` is its inverse."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def parse_json(text: str | bytes, where: str | Path):
    """The values of a JSON text; raises ValueError, which says where it is from, for any other text."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"{where} is no JSON of ours: its brackets are nested too deep") from None
    except ValueError as error:
        raise ValueError(f"{where} is not JSON ({error})") from None


def from_json(kind: type[Settings], values, where: str | Path = "") -> Settings:
    """Values of a JSON file as a settings dataclass, or as a TypedDict: the parts of a file that are read.

    A missing setting takes its default, an unknown one raises ValueError; with a TypedDict a missing part
    raises it, and others stay as they are. So does an ill-typed one, or one out of its range; `where` is the
    file, which the error names.
    """
    return _validated(kind, values, f"{where}: " if where else f"a saved {kind.__name__}: ")


def _validated(kind: type[Settings], values: dict, where: str = "") -> Settings:
    """The one place where types and ranges are checked, whatever the settings come from."""
    from pydantic import ValidationError

    try:
        # What is not JSON becomes a string, which a setting of another type then refuses.
        text = json.dumps([values], default=str, skipkeys=True)
    except (RecursionError, ValueError):
        raise ValueError(f"{where}a value is nested too deep, or contains itself") from None
    try:
        return _adapter(kind).validate_json(text)[0]
    except ValidationError as errors:
        error = errors.errors(include_url=False)[0]
    if error["type"] == "json_invalid":  # of what json writes, only a surrogate in a text, or its depth
        what = "is nested too deep" if "recursion" in error["msg"] else "is no UTF-8 text"
        raise ValueError(f"{where}a setting of {kind.__name__} {what}")
    name = re.sub(r"\.(\d+)", r"[\1]", ".".join(map(str, error["loc"][1:])))
    if error["type"] == "unexpected_keyword_argument":
        known = [name.replace("-", "_") for name in names(kind)]
        raise ValueError(where + _unknown(name, known))
    if error["type"] == "missing":
        raise ValueError(f"{where}{name} is missing")
    rule = RULES.get(error["type"], error["msg"].removeprefix("Input should be "))
    rule = rule.format(**_spelled(error.get("ctx", {})))
    name = name or (kind.__name__ if dataclasses.is_dataclass(kind) else "all of it")
    raise ValueError(f"{where}{name} = {error['input']!r}: it must be {rule}")


@functools.cache
def _adapter(kind: type):
    """Pydantic's validator of a settings class: strict types, finite floats, no setting that is not there.

    The tuple carries the rules to the class and the groups inside it, which pydantic does for no bare class.
    """
    from pydantic import TypeAdapter

    extra = "allow" if is_typeddict(kind) else "forbid"
    return TypeAdapter(tuple[kind], config={"strict": True, "extra": extra, "allow_inf_nan": False})
