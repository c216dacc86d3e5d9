"""What a sample is made from, in one object: its null, its draw in training, and what a record keeps of it.

To add a condition: a field here, with its null in `NULL` and its draw in `draw_condition` (a record keeps
texts and numbers by itself; tensors take a line in dit/record.py); what the network reads of it in
`Denoiser.embed`; and where it comes from: in training a field of `Clip` (vae/data/clips.py), while sampling a
setting of `SampleSettings` that dit/sample.py hands over.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from configs.train import FlowConfig
from vae.data.clips import Clip
from vae.training.seeds import generator


@dataclass(frozen=True)
class Condition:
    """A sample's prompt, and the latents C T H W of its first frames where they are given; a negative prompt.

    `image_THWC` are the pixels, uint8, that the latents were encoded from, for the record.
    """

    NULL: ClassVar[dict] = {"prompt": ""}  # what training learns for guidance: the same but for these

    prompt: str = ""
    given_CTHW: Tensor | None = None
    image_THWC: Tensor | None = None
    negative: str = ""

    def opposite(self) -> "Condition":
        """What guidance leads away from: its null, which a negative prompt, if there is one, speaks for."""
        return replace(self, **self.NULL | {"prompt": self.negative})


def draw_condition(clip: Clip, flow: FlowConfig, seed: int) -> Condition:
    """A training sample's condition by the draw: its null or not, for guidance."""
    condition = Condition(clip.caption)
    return replace(condition, **condition.NULL) if _shares(clip, seed)[1] < flow.prompt_dropout else condition


def draw_given(clip: Clip, latent_frames: int, flow: FlowConfig, seed: int) -> int:
    """How many first latent frames of a training sample are given, by the draw: one or none, not all."""
    return int(_shares(clip, seed)[0] < flow.first_frame and latent_frames > 1)


def _shares(clip: Clip, seed: int) -> tuple[float, float]:
    """Where a sample lies in the shares of those that have given frames, and of those that have a null."""
    return tuple(generator(seed, "condition", clip.draw).random(2))
