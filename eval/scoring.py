"""What every score carries beside its value: stamps, an interval, its sides, its protocol, where it goes."""

import dataclasses
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from configs.protocol import DistanceProtocol, Protocol
from configs.scoring import ScoringSettings, StampSettings, inherited
from dit import __version__
from dit.cli import printable
from eval import repeats
from eval.clips import Clip, Source, rates_and_sizes
from eval.groups import ALONE, Groups
from eval.interval import in_words
from eval.machine import made_with
from eval.published_videos import check_contents
from vae.data.index import list_hash
from vae.data.video import decoder
from vae.training.device import device_kind
from vae.training.files import check_replaceable, check_writable, write_json
from vae.training.processes import processes
from vae.training.progress import progress
from vae.training.seeds import generator

NOT_CERTIFIED = "contents not certified"  # how a stamp begins that refuses nothing
REASONS = 2  # of what was passed over, in an error
DIGITS = {  # decimals of a metric, or of a measure of reconstructions, wherever it is printed
    **{"fvd": 2, "mmd": 3, "clipsim": 4, "is": 4},
    **{"psnr": 2, "pooled_psnr": 2},
}
EXPECTED = "the expected score at this number of clips"
SIDES = {"real": "real clips", "fake": "generated clips", "": "videos"}


@dataclass(frozen=True)
class Meaning:
    """What a metric's number means, for a person: a verb's file may set MEANING to one.

    `title` is the metric's name in papers, `better` is "lower" or "higher"; `measures` and `blind` say in
    sentences what it measures and what it does not see, `interval` what its interval is one of.
    """

    title: str
    better: str = ""
    measures: str = ""
    blind: str = ""
    interval: str = "of the expected score at this number of videos, by bootstrap over them"


@dataclass(frozen=True)
class Metric:
    """What `dit eval run` asks of a metric, whose verb's file sets METRIC to one.

    `settings` is its verb's class; `own` gives those of its values that are not every metric's, from the
    settings of `dit eval run` and the folder of videos; `check` raises ValueError for what would keep it from
    a score, before there are videos; `score` scores, and returns what is written as JSON.
    """

    settings: type[ScoringSettings]
    own: Callable[[StampSettings, str], dict]
    check: Callable[[ScoringSettings], None]
    score: Callable[[ScoringSettings], dict]

    def settings_in_run(self, run: StampSettings, protocol: Protocol, out: Path) -> ScoringSettings:
        """The settings of this metric's verb, of the videos that `dit eval run` made."""
        shared = inherited(StampSettings, run) | {"json": str(out / f"{protocol.metric}.json")}
        return self.settings(protocol=protocol.name, **shared, **self.own(run, str(out / "videos")))


def number_alone(asked: ScoringSettings) -> ScoringSettings:
    """The settings of a score of which only the number is shown: content is not told from motion again."""
    return dataclasses.replace(asked, motion_clips=0) if hasattr(asked, "motion_clips") else asked


def seeded_stamp(title: str) -> str:
    """The stamp of a score by a seeded network."""
    return f"NOT {title}: seeded network"


def is_seeded(stamps: list[str]) -> bool:
    """Whether a stamp says that a seeded network scored."""
    return any(stamp.startswith("NOT ") for stamp in stamps)


def stamp_too_few(
    settings: StampSettings, protocol: Protocol, where: str, count: int, passed: dict, side: str = ""
) -> list[str]:
    """The stamp of fewer clips than a protocol takes of a side: `real`, `fake`, or the only one.

    Raises ValueError unless that is allowed, and for too few for any score.
    """
    takes = (protocol.real if side == "real" else protocol.fake) or protocol.least
    if count >= takes:
        return []
    if count < protocol.least or not settings.allow_small:
        clips = f"{count} clip{'' if count == 1 else 's'}"
        clips += f" of {protocol.frames} frames" if protocol.frames else ""
        rule = "with --allow-small the score is stamped"
        rule = rule if count >= protocol.least else f"any score takes at least {protocol.least}"
        why = f"; passed over: {'; '.join(list(passed.values())[:REASONS])}" if passed else ""
        raise ValueError(f"{where} gives {clips}, and {protocol.name} takes {takes}: {rule}{why}")
    return [f"small: {count} of {takes} {SIDES[side]}"]


def stamp_other_list(
    settings: StampSettings, protocol: DistanceProtocol, where: str, sources: list[Source]
) -> list[str]:
    """The stamp of real videos that are not the protocol's list; ValueError unless that is allowed."""
    if protocol.list_sha256 in ("", list_hash([Path(source.name).name for source in sources])):
        return []
    if not settings.allow_small:
        raise ValueError(
            f"{where} holds {len(sources)} videos, which are not those of {protocol.data} "
            f"{protocol.split}: make a manifest of them with `dit data {protocol.data}`; with --allow-small "
            "the score is stamped"
        )
    return [f"other videos than {protocol.data} {protocol.split}"]


def stamp_contents(
    settings: StampSettings, protocol: DistanceProtocol, where: str, sources: list[Source], whole: bool = True
) -> list[str]:
    """The stamp of videos of an official list whose contents nothing certifies: the list certifies names.

    Of videos that are not the `whole` list, those of its names alone are looked at, and only others' contents
    are said. Raises ValueError for one that is not as it is published, unless that is allowed.
    """
    if not protocol.list_sha256:
        return []
    by_hash, by_frames, wrong = check_contents(protocol.data, sources)
    if wrong and not settings.allow_small:
        raise ValueError(
            f"{where} holds other contents than {protocol.data}, {len(wrong)} of {len(sources)} videos: "
            f"{'; '.join(wrong[:REASONS])}; with --allow-small the score is stamped"
        )
    stamps = [f"other contents: {len(wrong)} of {len(sources)} real videos"] if wrong else []
    if whole and by_hash < len(sources):
        also = f", {by_frames} by their frames' number alone" if by_frames else ""
        stamps.append(f"{NOT_CERTIFIED}: {by_hash} of {len(sources)} real videos are, by hash{also}")
    return stamps


def clip_facts(clips: list[Clip], files: str, rgb: str, passed: dict[str, str]) -> dict:
    """What there is to say of the clips of one side: hashes of files and of frames, and what read them."""
    return {
        "clips": len(clips),
        "files_sha256": files,
        "rgb_sha256": rgb,
        "decoder": decoder(),
        **rates_and_sizes(clips),
        "passed_over": passed,
    }


def interval(
    statistic: Callable[..., float],
    sides: tuple[Tensor, ...],
    resamples: int,
    seed: int,
    around: float | None = None,
    least: float = -torch.inf,
    groups: Sequence[Groups] = (),
    of: str = EXPECTED,
    paired: bool = False,
) -> dict | None:
    """A 95 % interval of a score at this number of clips, by bootstrap over the clips of each side.

    Groups of clips that depend on each other are drawn whole. A resample has fewer distinct clips, by which
    some scores are moved: `around` takes the resamples' spread about their own mean, around the score.
    `least` is the least value that a score has; `of` says what the interval is one of. Sides that are
    `paired`, clip by clip, are drawn alike. None where none is asked for, or where a side is one group.
    """
    members = [group.members() for group in groups] or [torch.arange(len(side)).split(1) for side in sides]
    if not resamples or (groups and min(map(len, members)) < 2):
        return None
    if paired:
        members = members[:1] * len(sides)
    random, values = generator(seed, "bootstrap"), []
    for _ in progress(range(resamples), "bootstrap", leave=False, disable=processes()[0] > 0):
        drawn, order = [], None
        for side, rows in zip(sides, members, strict=True):
            order = random.integers(len(rows), size=len(rows)) if order is None or not paired else order
            drawn.append(side[order if len(rows) == len(side) else torch.cat([rows[k] for k in order])])
        values.append(statistic(*drawn))
    spread = torch.tensor(values, dtype=torch.float64)
    mean, centre = (0.0, 0.0) if around is None else (spread.mean(), around)
    low, high = (centre + (spread.quantile(q) - mean).item() for q in (0.025, 0.975))
    return {"low": max(least, low), "high": high, "of": of, "resamples": resamples}


def result_of(
    protocol: Protocol,
    value: float | None,
    stamps: list[str],
    weights: str,
    device: torch.device,
    parts: dict,
    libraries: tuple[str, ...] = (),
) -> dict:
    """A score with its whole protocol, the weights' hash and what computed it; `parts` are its metric's, and
    so are libraries that other metrics do without.

    A score of several numbers has no `value`; its parts have `scores` and `intervals`, by their names.
    """
    return {
        "metric": protocol.metric,
        **({} if value is None else {"value": value}),
        "stamps": stamps,
        "protocol": dataclasses.asdict(protocol),
        "protocol_sha256": protocol.hash(),
        "weights": weights,
        **parts,
        "torch": torch.__version__,
        "device": device_kind(device),
        "made_with": made_with(device, *libraries),
        "version": __version__,
    }


def row_in_words(result: dict) -> str:
    """The columns of a table of papers that a reconstruction's protocol names, with the stamps of its FVD."""
    stamps = result["fvd"]["stamps"] if result["fvd"] else []
    called = {"fvd": "distance"} if is_seeded(stamps) else {}
    cells = [
        f"{called.get(name, name.upper())} {value:.4g}"
        for name, value in result["row"].items()
        if value is not None
    ]
    return ", ".join(cells) + (f" [{'; '.join(stamps)}]" if stamps else "")


def numbers_of(score: dict) -> dict[str, float]:
    """The numbers of a score by their names; the one number of most by its metric's."""
    return {score["metric"]: score["value"]} if "value" in score else score["scores"]


def opening_lines(result: dict, title: str, unnamed: str, counts: str, note: str = "") -> list[str]:
    """The lines that begin every score on a terminal: stamps, value, interval, what it resampled, protocol.

    The value of a seeded network is never called by the score's title, but `unnamed`.
    """
    digits = DIGITS.get(result["metric"], 4)
    stamps = [stamp.upper() if stamp.startswith("NOT ") else stamp for stamp in result["stamps"]]
    value = f"{unnamed if is_seeded(result['stamps']) else title} {result['value']:.{digits}f}{note}"
    lines = [value]
    if ends := result["interval"]:
        lines.append(f"95 % interval {ends['low']:.{digits}f} to {ends['high']:.{digits}f} of {ends['of']}")
    lines += in_words(result, digits) + repeats.in_words(result, digits)
    if drawn := result.get("groups"):
        lines.append(f"resampled: {resampled(drawn)}")
    about = result["protocol"]
    by = f", {about['network']} on {result['device']}" if "network" in about else ""
    return [*stamps, *lines, f"{about['name']} ({result['protocol_sha256'][:12]}), {counts}{by}"]


def resampled(groups: dict[str, dict]) -> str:
    """What is drawn of each side when a score is resampled, in words."""
    return "; ".join(_drawn(which, facts) for which, facts in groups.items())


def _drawn(which: str, facts: dict) -> str:
    """What is drawn of one side."""
    groups = f"{facts['groups']} group{'s' * (facts['groups'] > 1)}"
    whole = f"{facts['groups']} {SIDES[which]}, each alone" if facts["by"] == ALONE else ""
    one = ": no interval" * (facts["groups"] < 2)
    return whole or f"{groups} of {SIDES[which]}, by {facts['by']}{one}"


def aligned(rows: Sequence[Sequence[str]], right: bool = False) -> list[str]:
    """Rows of cells as lines, every column as wide as its widest; `right` pushes all but the first there."""
    from rich.console import Console
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0))
    for k in range(len(rows[0])):
        table.add_column(justify="right" if right and k else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(printable(cell).replace("\n", " ") for cell in row))
    console = Console(file=io.StringIO(), width=10_000, markup=False, highlight=False, emoji=False)
    console.print(table)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def check_outputs(json: str = "", page: str = "", other: str = "") -> None:
    """Raises ValueError for a file that cannot be written, of those that are asked for: a score, a page, and
    one whose name says what it is. Two of one name, and what is there and is of another kind, are refused."""
    if processes()[0] > 0:
        return
    wanted = [(Path(file), kind) for file, kind in ((json, ".json"), (page, ".html"), (other, "")) if file]
    places = [file.resolve() for file, _ in wanted]
    for k, (file, kind) in enumerate(wanted):
        if places[k] in places[:k]:
            raise ValueError(f"{file} is asked for twice: give each file a name of its own")
        check_replaceable(file, kind or file.suffix.lower())
        check_writable(file)


def publish(result: dict, file: str, text: str) -> None:
    """Writes a score as JSON, where a file is asked for, and prints it; the first process alone does."""
    if processes()[0] > 0:
        return
    if file:
        write_json(Path(file), result)
    print(printable(text))
