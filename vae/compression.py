"""What a latent stands for: frames, sides and patch; and the sizes that fit."""

from dataclasses import dataclass
from functools import cached_property

PATCH = (1, 2, 2)  # latents of a patch along frames, height and width: a token of the transformer


@dataclass(frozen=True)
class Compression:
    """What a latent stands for: `spatial` x `spatial` pixels of `temporal` frames, of the first frame alone.

    So 1 + temporal * k frames become 1 + k latent frames, and an image is a video of one frame. An
    autoencoder of single frames has a `temporal` of 1, and takes any number of them. Some know only
    `latent_group` latent frames at once after the first, so that k is a multiple of that.
    """

    temporal: int = 4
    spatial: int = 8
    latent_group: int = 1

    @cached_property
    def token_side(self) -> int:
        """Pixels along a side of a token of the transformer: sides of videos are multiples of it."""
        return PATCH[1] * self.spatial

    @cached_property
    def step(self) -> int:
        """Frames between one valid number of them and the next."""
        return self.temporal * self.latent_group

    def nearest_frames(self, frames: int) -> int:
        """The valid number of frames nearest to `frames`."""
        return 1 + self.step * max(0, round((frames - 1) / self.step))

    def check(self, frames: int, height: int, width: int) -> None:
        """Raises ValueError naming the nearest valid size where a video's does not fit."""
        if frames < 1 or (frames - 1) % self.step:
            rule = f"1 + {self.step}k" if self.step > 1 else "at least 1"
            raise ValueError(f"{frames} frames do not fit {rule}: use {self.nearest_frames(frames)}")
        if min(height, width) < self.spatial or height % self.spatial or width % self.spatial:
            nearest = f"{round_to(height, self.spatial)}x{round_to(width, self.spatial)}"
            raise ValueError(f"{height}x{width} does not divide by {self.spatial}: use {nearest}")

    def latent_size(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """T' H' W' of the latents of a video; raises ValueError where its size does not fit."""
        self.check(frames, height, width)
        return 1 + (frames - 1) // self.temporal, height // self.spatial, width // self.spatial

    def check_latents(self, frames: int) -> None:
        """Raises ValueError naming the nearest valid number where there are no such latent frames."""
        if frames < 1 or (frames - 1) % self.latent_group:
            nearest = 1 + self.latent_group * max(0, round((frames - 1) / self.latent_group))
            raise ValueError(f"{frames} latent frames do not fit 1 + {self.latent_group}k: use {nearest}")


def round_to(size: int, multiple: int) -> int:
    """The positive multiple nearest to `size`."""
    return multiple * max(1, round(size / multiple))
