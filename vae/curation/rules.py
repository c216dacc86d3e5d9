"""Rules of what is rejected: a small TOML file of conditions on columns."""

import math
import re
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from vae.training.files import naming, read_text

COMPARISONS = {  # sign -> pyarrow's function
    "<": "less",
    "<=": "less_equal",
    ">": "greater",
    ">=": "greater_equal",
    "==": "equal",
    "!=": "not_equal",
}
CONDITION = re.compile(r"(<=|>=|==|!=|<|>)\s*(\S.*)")


@dataclass(frozen=True)
class Condition:
    """A column, and comparisons with it, of which any may hold: a sign, and a number or text."""

    column: str
    any_of: tuple[tuple[str, float | str], ...]


@dataclass(frozen=True)
class Rule:
    """Why rows are rejected: all of its conditions hold."""

    name: str
    conditions: tuple[Condition, ...]


def read_rules(file: str) -> tuple[list[Rule], str]:
    """The rules of a file, or ours for "", and the text that they stand in; raises ValueError for others."""
    text = read_text(Path(file)) if file else files("vae.curation").joinpath("rules.toml").read_text("utf-8")
    with naming(Path(file or "rules.toml")):
        tables = tomllib.loads(text)
    rules = []
    for name, conditions in tables.items():
        where = f"{file or 'rules.toml'}: [{name}]"
        if not name.isprintable() or not name.strip():
            raise ValueError(f"{where}: a rule's name is a word or a few")
        if not isinstance(conditions, dict) or not conditions:
            raise ValueError(f'{where}: give conditions below it, as range = "< 0.05"')
        rules.append(Rule(name, tuple(_condition(where, *each) for each in conditions.items())))
    if not rules:
        raise ValueError(f'{file}: there is no rule: give one as [static] with range = "< 0.05" below it')
    return rules, text


def _condition(where: str, column: str, texts) -> Condition:
    """A condition as its line has it."""
    comparisons = []
    if texts == []:
        raise ValueError(f'{where}: {column} = []: give comparisons in it, as "< 0.05"')
    for text in texts if isinstance(texts, list) else [texts]:
        found = CONDITION.fullmatch(text.strip()) if isinstance(text, str) else None
        if not found:
            raise ValueError(f'{where}: {column} = {text!r}: give a comparison in quotes, as "< 0.05"')
        sign, value = found[1], found[2].strip()
        if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", value, re.IGNORECASE):
            value = float(value)
            if not math.isfinite(value):
                raise ValueError(f"{where}: {column} = {text!r}: {found[2].strip()} is no finite number")
        elif sign in ("==", "!="):
            value = value.strip("'\"")
        else:
            raise ValueError(f"{where}: {column} = {text!r}: {value} is no number")
        comparisons.append((sign, value))
    return Condition(column, tuple(comparisons))


def reasons(table, rules: list[Rule]) -> dict[int, list[str]]:
    """Why rows of a table are rejected, by their place; what was not measured fulfils no condition.

    Raises ValueError for a column that is not there, or is not of the type that it is compared with.
    """
    found: dict[int, list[str]] = {}
    for rule in rules:
        held = None
        for condition in rule.conditions:
            holds = _holds(table, rule, condition)
            held = holds if held is None else held & holds
        for place in held.nonzero()[0].tolist():
            found.setdefault(place, []).append(_in_words(table, rule, place))
    return found


def _holds(table, rule: Rule, condition: Condition):
    """Whether a condition does, of each row."""
    import pyarrow
    import pyarrow.compute as compute

    if condition.column not in table.column_names:
        raise ValueError(f"rule [{rule.name}]: there is no column {condition.column}")
    column, held = table[condition.column], None
    for sign, value in condition.any_of:
        try:
            each = getattr(compute, COMPARISONS[sign])(column, pyarrow.scalar(value))
        except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError):
            raise ValueError(
                f"rule [{rule.name}]: {condition.column} is of the type {column.type}, "
                f"and is not compared with {value!r}"
            ) from None
        each = compute.fill_null(each, False).to_numpy()
        held = each if held is None else held | each
    return held


def _in_words(table, rule: Rule, place: int) -> str:
    """A rule, and what of a row fulfils it."""
    words = []
    for condition in rule.conditions:
        value = table[condition.column][place].as_py()
        wanted = " or ".join(f"{sign} {_short(bound)}" for sign, bound in condition.any_of)
        words.append(f"{condition.column} = {_short(value)} {wanted}")
    return f"{rule.name} ({', '.join(words)})"


def _short(value) -> str:
    """A value in few digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
