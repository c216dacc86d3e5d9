"""What H.264 would have cost a score: lossless videos as `dit sample` writes them, which are scored again."""

from pathlib import Path

from dit.record import is_there, read_record, write
from eval.scoring import DIGITS, is_seeded, numbers_of
from vae.data.manifest import load_manifest
from vae.data.video import read_frames, to_video
from vae.training.files import remove_stale
from vae.training.processes import processes
from vae.training.progress import progress


def write_copies(videos: Path, copies: Path) -> None:
    """Writes an mp4 of every video of a folder's manifest, with its record, where that is not done.

    Several processes share them. Raises ValueError where another's file has a copy's name.
    """
    rank, ranks = processes()
    mine = load_manifest(videos)[rank::ranks]
    for entry in progress(mine, desc="H.264", unit="video", disable=rank > 0):
        copy = (copies / entry.path.relative_to(videos)).with_suffix(".mp4")
        remove_stale(copy.parent)
        record = read_record(entry.path)
        fps = record.pop("video")["fps"]
        if is_there(copy, record) and read_record(copy)["frames_sha256"] == record["frames_sha256"]:
            continue
        write(copy, [to_video(read_frames(entry.path, range(entry.frames), entry))], record, fps)


def cost(lossless: dict[str, dict], lossy: dict[str, dict]) -> dict[str, dict[str, float]]:
    """By each number's name, what it is through H.264 and how far that is from the lossless frames'."""
    pairs = {
        name: (one, numbers_of(lossy[metric])[name])
        for metric, score in lossless.items()
        for name, one in numbers_of(score).items()
    }
    return {name: {"value": other, "difference": other - one} for name, (one, other) in pairs.items()}


def costs_of(score: dict, costs: dict[str, dict[str, float]]) -> dict:
    """What H.264 costs a score, or each of its numbers."""
    mine = {name: costs[name] for name in numbers_of(score)}
    return mine.get(score["metric"], mine)


def cost_in_words(lossless: dict[str, dict], costs: dict[str, dict[str, float]]) -> str:
    """What H.264 costs, in a sentence; empty where it was not asked for."""
    if not costs:
        return ""
    return f"The same videos as `dit sample` writes them: {'; '.join(cost_lines(lossless, costs))}."


def cost_lines(lossless: dict[str, dict], costs: dict[str, dict[str, float]]) -> list[str]:
    """A line for each number; the value of a seeded network is not called by its title."""
    lines = []
    for score in lossless.values():
        for name, value in numbers_of(score).items():
            digits, one = DIGITS.get(name, 4), costs[name]
            called = name.upper() if "value" in score else name
            title = score["stamps"][0] if is_seeded(score["stamps"]) and "value" in score else called
            values = f"{value:.{digits}f} from lossless frames, {one['value']:.{digits}f} through H.264"
            lines.append(f"{title}, {values}: {one['difference']:+.{digits}f}")
    return lines
