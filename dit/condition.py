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


def draw_condition(clip: Clip, latents_CTHW: Tensor, flow: FlowConfig, seed: int) -> Condition:
    """A training sample's condition: its null or not, for guidance, and first frames or none, by the draw."""
    random = generator(seed, "condition", clip.draw)
    given, null = random.random() < flow.first_frame, random.random() < flow.prompt_dropout
    condition = Condition(clip.caption, latents_CTHW[:, :1] if given and latents_CTHW.shape[1] > 1 else None)
    return replace(condition, **condition.NULL) if null else condition
