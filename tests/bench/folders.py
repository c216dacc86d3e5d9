"""Draws the folders of the code, and an arrow for the imports from each to each, counted in the code.

python -m tests.bench.folders

Writes tests/bench/pictures/folders.svg. An import is a module that a file names; what runs only as a
script is left out.
"""

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

from matplotlib import pyplot
from matplotlib.patches import FancyBboxPatch

from tests.test_house import OURS, ROOT, module_of, ours_imported_by

PICTURE = Path(__file__).parent / "pictures" / "folders.svg"
BOXES = {  # folder -> left, right, bottom, top, what it is; of `vae` the files at its top and its rooms
    "eval": (0, 100, 84, 94, "judgement, with the networks of scores in networks/"),
    "dit": (8, 80, 68, 78, "the denoiser: training, sampling, the verbs; timing in bench/"),
    "samplers": (0, 17, 46, 56, "path, solvers,\nguidance"),
    "vae": (24, 91, 14, 62, "pixels and latents"),
    "configs": (0, 100, 0, 8, "the numbers: settings, protocols/, runs/"),
}
ROOMS = {
    "vae/cache": (38, 77, 46, 54, "latents encoded once"),
    "vae/data": (26, 42, 33, 41, "clips"),
    "vae/*.py": (50, 65, 33, 41, "networks"),
    "vae/quality": (73, 89, 33, 41, "PSNR, LPIPS"),
    "vae/training": (34, 81, 18, 26, "what both trainers stand on"),
}


def count_imports(rooms: bool) -> Counter:
    """Imports from one folder into another: of the top folders, or of the rooms of `vae`."""
    by_module = {module_of(path): path for path in OURS}
    counts: Counter = Counter()
    for path in OURS:
        for module in ours_imported_by(path):
            ends = [_folder(end, rooms) for end in (path, by_module[module])]
            if ends[0] != ends[1] and "" not in ends:
                counts[tuple(ends)] += 1
    return counts


def _folder(path: Path, rooms: bool) -> str:
    parts = path.relative_to(ROOT).parts
    if not rooms:
        return parts[0]
    return "" if parts[0] != "vae" else f"vae/{parts[1]}" if len(parts) > 2 else "vae/*.py"


def _lane(upper: str, lower: str, boxes: dict) -> float:
    """Where between two boxes a vertical arrow meets no other: the middle of the widest free part."""
    left, right = (pick(boxes[upper][k], boxes[lower][k]) for k, pick in ((0, max), (1, min)))
    between = [b for b in boxes.values() if boxes[lower][3] < b[3] and b[2] < boxes[upper][2]]
    between = [b for b in between if b not in (boxes[upper], boxes[lower])]
    edges = sorted({left, right, *(min(max(x, left), right) for b in between for x in b[:2])})
    free = [(a, b) for a, b in pairwise(edges) if not any(x[0] <= a and b <= x[1] for x in between)]
    start, end = max(free, key=lambda span: span[1] - span[0])
    return (start + end) / 2


def _draw(axes, boxes: dict, counts: Counter, colour: str) -> None:
    for name, (left, right, bottom, top, words) in boxes.items():
        size = (right - left, top - bottom)
        axes.add_patch(
            FancyBboxPatch((left, bottom), *size, "round,pad=0,rounding_size=1", fc=colour, ec="#456")
        )
        middle = (left + right) / 2
        axes.text(
            middle, top - 1.2, f"{name}/" if "." not in name else name, ha="center", va="top", weight="bold"
        )
        axes.text(middle, top - 4.4, words, ha="center", va="top", size=8, color="#345")
    for (a, b), count in counts.items():
        style = {
            "arrowstyle": "-|>",
            "color": "#345",
            "lw": 0.6 + 0.6 * math.log2(count),
            "shrinkA": 0,
            "shrinkB": 0,
        }
        one, other = boxes[a], boxes[b]
        if one[2] == other[2]:  # side by side; the two directions run one above the other
            left_to_right = one[0] < other[0]
            height = one[2] + (5.5 if left_to_right else 2.5)
            start, end = (one[1], other[0]) if left_to_right else (one[0], other[1])
            ends, place = ((start, height), (end, height)), (start + (end - start) / 4, height + 0.3)
        else:
            down = one[2] > other[2]
            lane = _lane(*((a, b) if down else (b, a)), boxes)
            lane += 0 if (b, a) not in counts else 2 if down else -2
            ends = ((lane, one[2]), (lane, other[3])) if down else ((lane, one[3]), (lane, other[2]))
            place = (lane + 0.6, (max(one[2], other[2]) + max(one[2], other[2]) - 4) / 2)
        axes.annotate("", ends[1], ends[0], arrowprops=style)
        axes.text(*place, str(count), size=8, ha="center" if one[2] == other[2] else "left", va="bottom")


def main() -> None:
    """Counts, draws and writes."""
    pyplot.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "folders", "font.family": "sans-serif"})
    figure, axes = pyplot.subplots(figsize=(8.5, 7.5), layout="tight")
    _draw(axes, BOXES, count_imports(rooms=False), "#eef4fb")
    _draw(axes, ROOMS, count_imports(rooms=True), "#ffffff")
    axes.set(xlim=(-1, 101), ylim=(-1, 95))
    axes.axis("off")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    main()
