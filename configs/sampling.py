"""What one may ask of a model that samples."""

from dataclasses import dataclass
from typing import Literal

from configs.load import Positional
from configs.ranges import Count, Frames, Guidance, Positive, Rate, SamplerSteps, Seed, Share, Side


@dataclass(frozen=True)
class SamplerConfig:
    """How samples are drawn from a model."""

    steps: SamplerSteps = 25
    """Solver steps."""
    solver: Literal["euler", "heun", "multistep"] = "multistep"
    """ODE solver; heun evaluates the model twice a step."""
    guidance: Guidance = 4.0
    """Classifier-free guidance scale; 1 is none, and half the work."""
    seed: Seed = 0
    """Seed of the noise; sample k of a prompt takes its own."""


@dataclass(frozen=True)
class SolverSettings:
    """How a model is to solve for its samples; None is the model's own (`dit.load.load_resolved`)."""

    steps: SamplerSteps | None = None
    """Solver steps; none: the model's own."""
    guidance: Guidance | None = None
    """Classifier-free guidance scale, 1 is none; none: the model's own."""
    solver: Literal["euler", "heun", "multistep"] | None = None
    """ODE solver; none: the model's own."""
    precision: Literal["bf16", "fp32"] | None = None
    """Precision of the transformer; none: bf16 on a GPU, fp32 on a CPU."""
    text_folder: str | None = None
    """Folder of the frozen text encoder that a run of ours was trained with; none: the model has its own."""
    lora: tuple[str, ...] = ()
    """Adapters to add to the transformer: a file or a run's folder each, FILE or FILE:SCALE."""


@dataclass(frozen=True)
class VideoSettings(SolverSettings):
    """What one may ask of a model that samples videos; None is the model's own."""

    frames: Frames | None = None
    """Frames, 1 + 4k, and 1 makes an image; none: what the model was trained on."""
    height: Side | None = None
    """Height in pixels, a multiple of 16; none: what the model was trained on."""
    width: Side | None = None
    """Width in pixels, a multiple of 16; none: what the model was trained on."""
    fps: Rate | None = None
    """Frames a second of the file; none: what the model was trained on."""
    producer: str = "dit"
    """Who is named as the maker in each file's AI-generated label, by name or code (`ContentProducer`)."""
    overwrite: bool = False
    """Make anew what is there; otherwise a video of the same record is kept, and any other file refused."""


@dataclass(frozen=True, kw_only=True)
class GivenSettings:
    """What a video is given beside its prompt (dit/README.md)."""

    image: str = ""
    """Image that is the first frame of every video (image-to-video)."""
    last: str = ""
    """Image that the video ends with, for as long as a latent frame lasts."""
    keyframe: tuple[str, ...] = ()
    """Images within the video, FILE@FRAME each, shown for as long as the latent frame of that frame lasts."""
    extend: str = ""
    """Video to go on with for --seconds, or with --before to come to."""
    before: bool = False
    """Whether what is made comes before the video of --extend."""
    join: tuple[str, ...] = ()
    """Two videos, between which --seconds are made."""
    loop: bool = False
    """Whether the first frame, of --image or --extend, is also what the video ends with."""
    video: str = ""
    """Video of which a part is made anew (--mask), or all of it from a starting point (--strength)."""
    mask: str = ""
    """Image or video that is white where --video is made anew."""
    outside: bool = False
    """Whether --video is made anew where the mask is black, in place of where it is white."""
    strength: Share = 1.0
    """How much of --video stays: less than 1 is a starting point for what is made anew (SDEdit)."""
    seconds: Positive | None = None
    """Seconds that are made beside what is given, or of the whole video; none: the model's own frames."""


@dataclass(frozen=True)
class SampleSettings(VideoSettings, GivenSettings):
    """Sample videos from text, or from text and an image, with the built-in model or another."""

    prompts: Positional[tuple[str, ...]] = ()
    """What the videos show, one prompt each."""
    prompts_file: str = ""
    """More prompts: one a line, `#` begins a comment; or a JSONL, CSV or TSV of requests (dit/README.md)."""
    jobs: str = ""
    """A JSONL whose every line is a call, `{"prompt": …, "steps": …}`, of any settings (dit/README.md)."""
    negative: str = ""
    """What the videos are not to show: guidance leads from it to the prompt, in place of from no prompt."""
    again: str = ""
    """A video that `dit sample` wrote, to make again by the record inside it or beside it."""
    out: str = "samples"
    """Folder for the videos; or a file: .mp4, .mkv (no loss), .gif, .png (an image, or a folder of more)."""
    model: str = "builtin"
    """Model folder: a run of `dit train` or one of its step-*, a diffusers Wan pipeline, or `builtin`."""
    seed: Seed = 0
    """Seed of the first video of a prompt; the next ones count up."""
    number: Count = 1
    """Videos per prompt."""
    batch: Count = 1
    """Videos in one packed call; more is faster on a GPU and may change the last digits. It is recorded."""
    mark: Literal["none", "start", "all"] = "none"
    """Words that say so in the frames themselves: on none, for the first two seconds, or on all."""
    mark_text: str = "AI-generated"
    """The words of --mark; China's rule wants AI or 人工智能, and 生成 or 合成."""
    mark_corner: Literal["bottom-right", "bottom-left", "top-right", "top-left"] = "bottom-right"
    """Where the words of --mark stand."""
    prompt_inside: bool = True
    """Whether prompts go into the file, its name and the JSON beside it; without them --again cannot work."""
    decode_memory: Positive | None = None
    """GiB that decoding may take beside the video: larger frames are decoded in tiles; none: no limit."""
