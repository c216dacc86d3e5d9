"""The drawn world: coloured shapes that move over plain backgrounds, with captions, all exactly known."""

import math
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from vae.training.seeds import generator

SHAPES = ("circle", "square", "triangle", "star")
COLOURS = {
    "red": (215, 20, 30),
    "green": (30, 170, 60),
    "blue": (30, 70, 235),
    "yellow": (255, 235, 40),
    "purple": (150, 40, 200),
    "orange": (255, 135, 0),
}
BACKGROUNDS = {"black": (0, 0, 0), "white": (255, 255, 255), "grey": (128, 128, 128)}
MOTIONS = ("left", "right", "up", "down", "grows", "stays")
NEW_MOTIONS = ("shrinks",)  # which only data that asks for it has: to be learned by models that never saw it
TRIPLES = tuple(product(SHAPES, COLOURS, MOTIONS))
# A Latin rule: shape and colour indices of equal parity, and one motion for each such pair. It holds out 12
# of 144: each shape three times, each colour twice, each motion twice.
HELD_OUT = frozenset(
    (shape, colour, MOTIONS[(2 * s + c + 3) % 6])
    for s, shape in enumerate(SHAPES)
    for c, colour in enumerate(COLOURS)
    if (s + c) % 2 == 0
)
SPLITS = {
    "train": tuple(triple for triple in TRIPLES if triple not in HELD_OUT),
    "unseen_triples": tuple(triple for triple in TRIPLES if triple in HELD_OUT),
    "any": TRIPLES,
    "shrinks": tuple(product(SHAPES, COLOURS, NEW_MOTIONS)),
}

DIRECTION = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "grows": (0, 0),
    "stays": (0, 0),
    "shrinks": (0, 0),
}
GROWS = {"grows": 1, "shrinks": -1}
RADIUS = (0.17, 0.21)
TRAVEL = (0.25, 0.45)
GROWTH = (0.65, 1.0)
MARGIN = 0.02
STAR_INNER = 0.5


@dataclass(frozen=True)
class Scene:
    """One shape's life: where it starts, and by how much x, y or the radius changes over the clip (speed).

    x and y are fractions of width and height, the circumscribed radius of the shorter side.
    """

    shape: str
    colour: str
    background: str
    motion: str
    x: float
    y: float
    radius: float
    speed: float


def random_scene(seed: int, index: int, split: str) -> Scene:
    """Scene `index` of a seed; its triple is drawn evenly from `SPLITS[split]`.

    Each coordinate starts, half of the time, where every motion would fit, so that a first frame does not
    tell the motion; else anywhere this motion fits. Radius and background do not depend on the motion.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
    triple, background, size, x_zone, x_place, y_zone, y_place, pace = (
        generator(seed, "scene", split, index).random(8).tolist()
    )
    shape, colour, motion = pick(SPLITS[split], triple)
    radius = between(RADIUS, size)
    least, most = (radius * GROWTH[0], radius * GROWTH[1]) if motion in GROWS else TRAVEL
    reach = radius + MARGIN + (least if motion in GROWS else 0)
    x, y = (
        start(direction, reach, radius, zone, place)
        for direction, zone, place in zip(
            DIRECTION[motion], (x_zone, y_zone), (x_place, y_place), strict=True
        )
    )
    most = min(most, room(motion, x, y, radius))
    speed = 0.0 if motion == "stays" else between((least, most), pace)
    if motion == "shrinks":  # as large as what grows becomes, and back
        radius += speed
    return Scene(shape, colour, pick(tuple(BACKGROUNDS), background), motion, x, y, radius, speed)


def start(direction: int, reach: float, radius: float, zone: float, place: float) -> float:
    """A start coordinate at least `reach` from both sides, with room for the least travel."""
    common = radius + MARGIN + TRAVEL[0]
    if zone < 0.5:
        return between((common, 1 - common), place)
    low = reach + (TRAVEL[0] if direction < 0 else 0)
    high = 1 - reach - (TRAVEL[0] if direction > 0 else 0)
    return between((low, high), place)


def room(motion: str, x: float, y: float, radius: float) -> float:
    """How far the edge may still go in the motion's direction before it comes near the side."""
    gaps = {"left": x, "right": 1 - x, "up": y, "down": 1 - y}
    gap = gaps.get(motion, min(gaps.values()))
    return gap - radius - MARGIN


def between(limits: tuple[float, float], fraction: float) -> float:
    """The point at this fraction of an interval."""
    return limits[0] + (limits[1] - limits[0]) * fraction


def pick(choices: tuple, fraction: float):
    """The choice at this fraction, in [0, 1), of the list."""
    return choices[int(fraction * len(choices))]


def path(scene: Scene, frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """Centre x, centre y and radius in each frame (T each), in the units of the scene."""
    way_T = scene.speed * torch.linspace(0, 1, frames)
    right, down = DIRECTION[scene.motion]
    growth = GROWS.get(scene.motion, 0)
    return scene.x + right * way_T, scene.y + down * way_T, scene.radius + growth * way_T


def circle(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Signed distance to a circle, negative inside; y points down, as in the other three."""
    return (x * x + y * y).sqrt_() - radius


def square(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Signed distance to the sides of an upright square."""
    return torch.maximum(x.abs(), y.abs()) - radius * math.sqrt(0.5)


def triangle(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Signed distance to the sides of an equilateral triangle that points up."""
    return torch.maximum(x.abs() * math.sqrt(0.75) - y / 2, y) - radius / 2


def star(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Signed distance to the sides of a five-pointed star that points up, folded onto half of one point."""
    normal_x, normal_y = math.cos(math.pi / 5), math.sin(math.pi / 5)
    x, y = torch.broadcast_tensors(x.abs(), -y)
    for _ in range(2):
        beyond = (normal_x * x - normal_y * y).clamp_(min=0).mul_(2)
        x, y = (x - normal_x * beyond).abs_(), y + normal_y * beyond
    inner_x, inner_y = STAR_INNER * normal_y, STAR_INNER * normal_x
    length = math.hypot(inner_x, 1 - inner_y)
    return ((1 - inner_y) / length) * x + (inner_x / length) * (y - radius)


DISTANCE = {"circle": circle, "square": square, "triangle": triangle, "star": star}


def coverage(shape: str, x_T: Tensor, y_T: Tensor, radius_T: Tensor, height: int, width: int) -> Tensor:
    """How much of each pixel (T H W, 0 to 1) a shape covers; lengths in pixels, edges one pixel soft."""
    across = torch.arange(width) + 0.5 - x_T[:, None, None]
    along = torch.arange(height)[:, None] + 0.5 - y_T[:, None, None]
    return (0.5 - DISTANCE[shape](across, along, radius_T[:, None, None])).clamp_(0, 1)


def draw(scene: Scene, frames: int = 17, height: int = 64, width: int = 64) -> Tensor:
    """The scene as a float video C T H W in [-1, 1]; any size and number of frames shows the same motion."""
    x_T, y_T, radius_T = path(scene, frames)
    cover_THW = coverage(scene.shape, x_T * width, y_T * height, radius_T * min(height, width), height, width)
    colour_C111 = torch.tensor(COLOURS[scene.colour]).view(3, 1, 1, 1) / 127.5 - 1
    background_C111 = torch.tensor(BACKGROUNDS[scene.background]).view(3, 1, 1, 1) / 127.5 - 1
    return torch.addcmul(background_C111, colour_C111 - background_C111, cover_THW)
