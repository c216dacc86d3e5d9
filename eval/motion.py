"""What FVD cannot see: real clips beside themselves in other motion, and content and motion of both sides."""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from configs.protocol import FvdProtocol, load_protocol
from eval.clips import Clip
from eval.frechet import distance_of_features
from eval.kernel import discrepancy
from vae.training.seeds import shuffled, uniform


def shuffle(clip: Clip, seed: int) -> Clip:
    """The clip with its frames in an order that seed and content decide."""
    order = shuffled(len(clip.frames), "frames", seed, clip.source.key)
    return replace(clip, frames=tuple(clip.frames[k] for k in order))


def reverse(clip: Clip, seed: int) -> Clip:
    """The clip backwards."""
    return replace(clip, frames=clip.frames[::-1])


def _freeze(clip: Clip, seed: int) -> Clip:
    """The clip's middle frame, all the time."""
    middle = len(clip.frames) // 2
    return replace(clip, frames=clip.frames[middle : middle + 1] * len(clip.frames))


MOTIONS: dict[str, Callable[[Clip, int], Clip]] = {
    "shuffled": shuffle,
    "reversed": reverse,
    "frozen": _freeze,
}


def draw(keys: list[str], count: int, seed: int) -> list[int]:
    """The places of so many clips, in order, which a seed and the keys of their videos choose."""
    chosen = sorted(range(len(keys)), key=lambda k: (uniform("motion", seed, keys[k]), keys[k]))
    return sorted(chosen[:count])


def measure(
    real: tuple[list[Clip], Tensor],
    fake: tuple[list[Clip], Tensor],
    protocol: FvdProtocol,
    features: Callable[[list[Clip], str], Tensor],
) -> dict:
    """Distances of as many real and generated clips, given with their features N D; `features` makes others.

    `itself` are Frechet distances of the real clips to themselves, shuffled, reversed and frozen: where they
    are small beside the score, it hardly sees motion, as Ge et al. (2024) found of FVD. `apart` are distances
    of both sides whole, by `content`, and by `motion`, see `apart`.
    """
    changed = {}
    for name, change in MOTIONS.items():
        changed[name] = features([change(clip, protocol.seed) for clip in real[0]], name)
    frozen = features([_freeze(clip, protocol.seed) for clip in fake[0]], "generated, frozen")
    return {
        "clips": len(real[0]),
        "itself": {name: distance_of_features(real[1], x, protocol.ddof) for name, x in changed.items()},
        "apart": apart(real[1], changed["frozen"], fake[1], frozen, protocol.ddof),
    }


def apart(
    real_ND: Tensor, real_frozen_ND: Tensor, fake_ND: Tensor, fake_frozen_ND: Tensor, ddof: int
) -> dict:
    """Distances of the sides whole, of their content and of their motion, each Frechet's and KVD's.

    Content is the features of frozen clips, of whose use in FVD Ge et al. (2024) warn: they hold no motion,
    and yet may score well. Motion is what a clip's features differ by from its frozen self's: a construction
    of this project, of no paper, and blind to what the network does not add up. KVD does not depend on the
    number of clips; Frechet's grows as they get fewer, and compares among these alone.
    """
    sides = {
        "whole": (real_ND, fake_ND),
        "content": (real_frozen_ND, fake_frozen_ND),
        "motion": (real_ND - real_frozen_ND, fake_ND - fake_frozen_ND),
    }
    kvd = load_protocol("kvd-tats", "mmd")
    return {
        name: {"frechet": distance_of_features(*pair, ddof), "kernel": discrepancy(*pair, kvd)}
        for name, pair in sides.items()
    }


def in_words(measured: dict) -> list[str]:
    """What was measured, as lines for the terminal."""
    called = {"whole": "as they are", "content": "content alone", "motion": "motion alone"}
    shown = ", ".join(
        f"{called[name]} {values['frechet']:.2f} and {values['kernel']:.3f}"
        for name, values in measured["apart"].items()
    )
    moved = ", ".join(f"{how} {value:.2f}" for how, value in measured["itself"].items())
    return [
        f"{measured['clips']} clips a side, Frechet distance and KVD: {shown}",
        f"as many real clips beside themselves: {moved}; small beside the first, it hardly sees motion",
    ]
