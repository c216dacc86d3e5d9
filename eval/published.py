"""Values of the literature, none measured here: what each is of, where it stands, and how sure that is."""

import functools
from pathlib import Path

from typing_extensions import TypedDict

from configs.load import from_json
from eval.scoring import aligned
from vae.training.files import read_json

FILE = Path(__file__).with_name("published.json")


class Published(TypedDict):
    """A value as it is printed: `protocol` is what is said there of its protocol, `source` whence we have it,
    and `confirmed` whether a second source has it too."""

    task: str
    metric: str
    model: str
    value: float
    paper: str
    protocol: str
    source: str
    confirmed: bool


class Literature(TypedDict):
    """All values, what is said wherever one is shown, and our protocols that are of each task."""

    says: str
    tasks: dict[str, list[str]]
    values: list[Published]


@functools.cache
def literature() -> Literature:
    """What the file says."""
    return from_json(Literature, read_json(FILE), FILE)


def published(name: str, metric: str) -> list[Published]:
    """The values of a metric in the tasks that a protocol of ours is of, in the file's order.

    None compares with a score of that protocol: each has only words for its own, and its clips are not known.
    """
    tasks = [task for task, names in literature()["tasks"].items() if name in names]
    return [value for value in literature()["values"] if value["task"] in tasks and value["metric"] == metric]


def sureness(value: Published) -> str:
    """How sure a value is, in words."""
    return f"{value['source']}, {'confirmed by a second source' if value['confirmed'] else 'not confirmed'}"


def below(name: str, metrics: tuple[str, ...], columns: dict[str, str] | None = None) -> list[str]:
    """Lines to put below a score's table: the literature's values of these metrics, each with its words.

    `columns` are those of the table that hold what the literature calls by a metric's name.
    """
    rows = [
        (value["model"], f"{metric} {value['value']:g}", value["paper"], value["protocol"], sureness(value))
        for metric in metrics
        for value in published(name, metric)
    ]
    if not rows:
        return [f"---- no value of the literature is of {name}"]
    says = [f"{literature()['says']}: none is known to have this protocol and these clips"]
    if other := {metric: column for metric, column in (columns or {}).items() if column != metric}:
        pairs = (f"{metric} beside {column.replace('_', ' ')}" for metric, column in other.items())
        says.append(f"of the columns above, its {', '.join(pairs)}")
    return [*(f"---- {line}" for line in says), *aligned(rows)]
