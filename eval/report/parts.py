"""The parts of a score that its page reads, as the types that a foreign file must have."""

from typing_extensions import TypedDict

from configs.ranges import CountOrZero


class Ends(TypedDict, total=False):
    """The ends of an interval, the score without its bias if that is known, or why there is none."""

    low: float
    high: float
    value: float
    refused: str
    of: str


class Endless(Ends, total=False):
    """A score's limit of many clips: values at several numbers of clips, and a line over one through them."""

    slope: float
    sizes: list[CountOrZero]
    values: list[float]


class Floor(TypedDict):
    """What chance alone gives, between how many clips."""

    value: float
    clips: list[CountOrZero]


class Panel(TypedDict):
    """What stands beside a distance."""

    floor: Floor


class Changed(TypedDict):
    """Distances of real clips to themselves in other motion."""

    shuffled: float
    reversed: float
    frozen: float


class Both(TypedDict):
    """A distance of the same clips by Frechet's, and by KVD."""

    frechet: float
    kernel: float


class Apart(TypedDict):
    """Distances of both sides' clips as they are, of their content alone, and of their motion alone."""

    whole: Both
    content: Both
    motion: Both


class Motion(TypedDict):
    """What the score hardly sees: distances of so many clips a side."""

    clips: CountOrZero
    itself: Changed
    apart: Apart


class Pair(TypedDict):
    """A generated clip, and the real one nearest to it."""

    fake: str
    real: str
    distance: float


class Nearest(TypedDict):
    """How near generated clips lie to real ones."""

    closer: float
    same: CountOrZero
    median: float
    median_among_real: float
    pairs: list[Pair]
    farthest: list[Pair]


class OfClass(TypedDict):
    """The distance within a class, and the clips of either side."""

    value: float
    clips: list[CountOrZero]


class OfProtocol(TypedDict, total=False):
    """The fields of a protocol that are read; the others are shown as they are."""

    name: str
    metric: str
    title: str


class OfGroups(TypedDict):
    """How many groups the clips of a side form, and what says so."""

    groups: CountOrZero
    by: str


class Repeats(TypedDict):
    """Mean, standard deviation and single values of a score's repeats, and what differs between them."""

    of: str
    count: CountOrZero
    mean: float
    deviation: float
    values: list[float]


class OfSide(TypedDict, total=False):
    """The facts of a side that are read; the others are shown as they are."""

    where: str
    passed_over: dict[str, str]


class Parts(TypedDict, total=False):
    """Every part of a score that a page reads, where the score has it, as the types that files must have."""

    metric: str
    value: float
    stamps: list[str]
    protocol: OfProtocol
    protocol_sha256: str
    interval: Ends | None
    true_interval: Ends | None
    real: OfSide
    fake: OfSide
    groups: dict[str, OfGroups]
    repeats: Repeats
    infinity: Endless | None
    panel: Panel | None
    motion: Motion | None
    nearest: Nearest
    classes: dict[str, OfClass]
    each: list[dict[str, float | int | str | None]]
    scores: dict[str, float]
    intervals: dict[str, Ends | None]
    measures: dict[str, str]
    networks: dict[str, list[str]]
    passed_over: dict[str, str]
