"""What a latent stands for: frames, sides and patch; and the sizes that fit."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Compression:
    """What a latent stands for: `side` x `side` pixels of `time` frames, of the first frame alone.

    So 1 + time * k frames become 1 + k latent frames, and an image is a video of one frame. An autoencoder of
    single frames has a `time` of 1, and takes any number of them. Some know only `together` latent frames at
    once after the first, so that k is a multiple of that.
    """

    time: int = 4
    side: int = 8
    together: int = 1

    @property
    def step(self) -> int:
        """Frames between one valid number of them and the next."""
        return self.time * self.together

    def nearest_frames(self, frames: int) -> int:
        """The valid number of frames nearest to `frames`."""
        return 1 + self.step * max(0, round((frames - 1) / self.step))

    def check(self, frames: int, height: int, width: int) -> None:
        """Raises ValueError naming the nearest valid size where a video's does not fit."""
        if frames < 1 or (frames - 1) % self.step:
            rule = f"1 + {self.step}k" if self.step > 1 else "at least 1"
            raise ValueError(f"{frames} frames do not fit {rule}: use {self.nearest_frames(frames)}")
        if min(height, width) < self.side or height % self.side or width % self.side:
            nearest = f"{round_to(height, self.side)}x{round_to(width, self.side)}"
            raise ValueError(f"{height}x{width} does not divide by {self.side}: use {nearest}")

    def latent_size(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """T' H' W' of the latents of a video; raises ValueError where its size does not fit."""
        self.check(frames, height, width)
        return 1 + (frames - 1) // self.time, height // self.side, width // self.side

    def check_latents(self, frames: int) -> None:
        """Raises ValueError naming the nearest valid number where there are no such latent frames."""
        if frames < 1 or (frames - 1) % self.together:
            nearest = 1 + self.together * max(0, round((frames - 1) / self.together))
            raise ValueError(f"{frames} latent frames do not fit 1 + {self.together}k: use {nearest}")


def round_to(size: int, multiple: int) -> int:
    """The positive multiple nearest to `size`."""
    return multiple * max(1, round(size / multiple))
