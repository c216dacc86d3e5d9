"""What H.264 would have cost a score: lossless videos as `dit sample` writes them, which are scored again."""

from pathlib import Path

from dit.record import is_there, read_record, write
from eval.scoring import DIGITS, is_seeded
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
    """By metric, the score through H.264 and how far it is from that of the lossless frames."""
    values = {metric: (score["value"], lossy[metric]["value"]) for metric, score in lossless.items()}
    return {metric: {"value": other, "difference": other - one} for metric, (one, other) in values.items()}


def cost_lines(lossless: dict[str, dict], costs: dict[str, dict[str, float]]) -> list[str]:
    """A line for each metric; the value of a seeded network is not called by its title."""
    lines = []
    for metric, one in costs.items():
        score, digits = lossless[metric], DIGITS.get(metric, 4)
        title = score["stamps"][0] if is_seeded(score["stamps"]) else metric.upper()
        values = f"{score['value']:.{digits}f} from lossless frames, {one['value']:.{digits}f} through H.264"
        lines.append(f"{title}, {values}: {one['difference']:+.{digits}f}")
    return lines
