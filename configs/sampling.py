"""What one may ask of a model that samples."""

from dataclasses import dataclass
from typing import Literal

from configs.load import Positional


@dataclass(frozen=True)
class SamplerConfig:
    """How samples are drawn from a model."""

    steps: int = 25
    """Solver steps."""
    solver: Literal["euler", "heun", "multistep"] = "multistep"
    """ODE solver; heun evaluates the model twice a step."""
    guidance: float = 4.0
    """Classifier-free guidance scale; 1 is none, and half the work."""
    seed: int = 0
    """Seed of the noise; sample k of a prompt takes its own."""


@dataclass(frozen=True)
class SampleSettings:
    """Sample videos from text, or from text and an image, with the built-in model or another."""

    prompts: Positional[tuple[str, ...]] = ()
    """What the videos show, one prompt each."""
    prompts_file: str = ""
    """Text file with one prompt a line, beside those on the command line."""
    image: str = ""
    """Image that is the first frame of every video (image-to-video)."""
    again: str = ""
    """A video that `dit sample` wrote: make it again by its record, in the mp4, or beside a GIF or frames."""
    out: str = "samples"
    """Folder for the videos; or a file for one, ending in .mp4, .gif or .png (a folder of frames)."""
    model: str = "builtin"
    """Model folder: a run of `dit train` or one of its step-*, a diffusers Wan pipeline, or `builtin`."""
    frames: int = 0
    """Frames, 1 + 4k; 0 takes what the model was trained on, and 1 makes an image."""
    height: int = 0
    """Height in pixels, a multiple of 16; 0 takes what the model was trained on."""
    width: int = 0
    """Width in pixels, a multiple of 16; 0 takes what the model was trained on."""
    fps: float = 0.0
    """Frames a second of the file; 0 takes what the model was trained on."""
    steps: int = 0
    """Solver steps; 0 takes the model's own."""
    guidance: float = -1.0
    """Classifier-free guidance scale, 1 is none; -1 takes the model's own."""
    solver: Literal["model", "euler", "heun", "multistep"] = "model"
    """ODE solver; `model` takes the model's own."""
    seed: int = 0
    """Seed of the first video of a prompt; the next ones count up."""
    number: int = 1
    """Videos per prompt."""
    batch: int = 1
    """Videos in one packed call; more is faster on a GPU and may change the last digits. It is recorded."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Number format of the transformer; `auto` is bf16 on a GPU and fp32 on a CPU."""
    decode_memory: float = 0.0
    """GiB that decoding may take beside the video: larger frames are decoded in tiles; 0 sets no limit."""
