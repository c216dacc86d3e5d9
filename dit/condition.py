"""What a sample is made from, in one object that knows its null, its draw in training and its record.

To add a condition: a field here, with what guidance leaves out of it in `null`, its draw in `draw_condition`
and what is kept of it in `record`; what the network reads of it in `Denoiser.embed`; and where it comes from,
a field of `vae.data.clips.Clip` in training, a setting of `configs.sampling.SampleSettings` while sampling.
"""

import base64
import io
from dataclasses import dataclass, replace

from torch import Tensor

from configs.sampling import SampleSettings
from configs.train import FlowConfig
from vae.data.clips import Clip
from vae.data.video import read_frames, resize_and_crop, to_video
from vae.interface import VideoAutoencoder
from vae.training.seeds import uniform


@dataclass(frozen=True)
class Condition:
    """A sample's prompt, and the latents C T H W of its first frames where they are given.

    `image_THWC` are the pixels that the latents were encoded from, for the record.
    """

    prompt: str = ""
    given_CTHW: Tensor | None = None
    image_THWC: Tensor | None = None

    def null(self) -> "Condition":
        """What guidance compares with: the same without its prompt."""
        return replace(self, prompt="")

    @property
    def given_frames(self) -> int:
        """How many latent frames are given."""
        return 0 if self.given_CTHW is None else self.given_CTHW.shape[1]

    def record(self) -> dict:
        """What a video's record keeps of it, enough to make the video again."""
        if self.image_THWC is None:
            return {"prompt": self.prompt}
        from PIL import Image

        png = io.BytesIO()
        Image.fromarray(self.image_THWC[0].numpy()).save(png, format="PNG")
        return {"prompt": self.prompt, "image_png": base64.b64encode(png.getvalue()).decode()}


def draw_condition(clip: Clip, latents_CTHW: Tensor, flow: FlowConfig, seed: int) -> Condition:
    """A training sample's condition: by the draw without its caption, for guidance, or with a first frame."""
    given = latents_CTHW.shape[1] > 1 and uniform(seed, "task", clip.draw) < flow.first_frame
    condition = Condition(clip.caption, latents_CTHW[:, :1] if given else None)
    return condition.null() if uniform(seed, "dropout", clip.draw) < flow.prompt_dropout else condition


def asked_condition(settings: SampleSettings, autoencoder: VideoAutoencoder) -> Condition:
    """What resolved settings ask for, but for the prompt: their image as the first frame."""
    if not settings.image:
        return Condition()
    image_THWC = resize_and_crop(read_frames(settings.image, [0]), settings.height, settings.width)
    image_BCTHW = to_video(image_THWC)[None].to(autoencoder.latent_mean.device)
    return Condition(given_CTHW=autoencoder.encode(image_BCTHW)[0].cpu(), image_THWC=image_THWC)
