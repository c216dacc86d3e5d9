"""What a training run is: its loop, optimizer, losses and tasks, and the two runs."""

from dataclasses import dataclass, field
from typing import Literal

from configs.data import DataConfig
from configs.model import AutoencoderConfig, TextConfig, TransformerConfig
from configs.sampling import SamplerConfig


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter 2019) with a warm-up, and the average of the weights."""

    learning_rate: float = 1e-3
    """Peak learning rate."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises from zero."""
    decay_steps: int = 0
    """Length of a cosine decay to a tenth, counted from step zero; 0 keeps the rate constant."""
    weight_decay: float = 0.0
    """Decoupled weight decay of every tensor of two or more dimensions; biases and vectors have none."""
    beta2: float = 0.99
    """Decay of the squared gradient's average."""
    max_gradient_norm: float = 1.0
    """Gradients are clipped to this global norm."""
    ema_decay: float = 0.999
    """Decay of the weight average that is used for sampling and validation."""


@dataclass(frozen=True)
class LoopConfig:
    """What a training run does besides learning: how long, on how much, how often it reports."""

    steps: int = 1000
    """Optimizer steps of the whole run."""
    batch: int = 16
    """Samples in a step, over all processes."""
    seed: int = 0
    """Seed of the weights, the order of the data, the noise and the times."""
    log_every: int = 10
    """Steps between two lines of the log."""
    save_every: int = 500
    """Steps between two checkpoints; the newest two stay, and copies under other names."""
    show_every: int = 500
    """Steps between two pictures and validations."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Number format of the compute; the weights are fp32 either way."""


@dataclass(frozen=True)
class PerceptualConfig:
    """The perceptual loss on frames: the distance of their features in a frozen network."""

    network: str = "none"
    """`alex`, `vgg` or `squeeze` for LPIPS of that trunk; or torchvision's file of one, or an autoencoder."""
    weight: float = 1.0
    """Its weight beside the reconstruction error."""
    trunk: str = ""
    """File with the trunk's weights for LPIPS; without it, it is looked for in the usual places."""
    heads: str = ""
    """File with LPIPS' own weights; likewise."""


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The discriminator of the second stage: patches in space and time, hinge loss."""

    weight: float = 0.0
    """Weight of its judgement in the autoencoder's loss; 0 trains without one."""
    start: int = 0
    """Step from which it learns and counts."""
    adaptive: bool = True
    """Multiply the weight by the ratio of both losses' gradients at the last layer, of the step before."""
    width: int = 64
    """Channels of its first layer, a multiple of 8."""
    depth: int = 3
    """Convolutions that halve height and width."""
    learning_rate: float = 1e-4
    """Peak learning rate; the rest of its optimizer is the autoencoder's, counted from its start."""


@dataclass(frozen=True)
class AutoencoderRun:
    """A training run of the autoencoder."""

    out: str = "runs/autoencoder"
    """Folder of the run; the same command in it goes on where it stopped."""
    init: str = ""
    """Weights file, run or diffusers folder to start from; empty starts from random weights."""
    data: DataConfig = field(default_factory=DataConfig)
    """The clips."""
    model: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    """The autoencoder."""
    train: LoopConfig = field(default_factory=LoopConfig)
    """The loop."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimizer."""
    crop: int = 64
    """Side in pixels of the random square crop that is trained on; a smaller side of a clip stays whole."""
    crop_frames: int = 17
    """Most frames of the random crop in time that is trained on, 1 + 4k; a shorter clip stays whole."""
    image_share: float = 0.0
    """Share of samples of which a single frame is trained on, beside the images of the data."""
    chunk: int = 0
    """Latent frames that are trained on at a time, the gradient cut between them; 0 takes whole clips."""
    error: Literal["l1", "l2"] = "l1"
    """Reconstruction error. L1 does not see an object until it knows where that is; L2 finds it first."""
    learned_variance: bool = False
    """Train on the likelihood of the error, whose scale is learned too."""
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)
    """The perceptual loss."""
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    """The discriminator."""
    kl_weight: float = 1e-6
    """Weight of the KL divergence, per latent number, beside the reconstruction error, per pixel number."""
    train_encoder: bool = True
    """Train the encoder too; without it the latents of `init` stay what they are, and models of them hold."""
    checkpoint_activations: bool = False
    """Compute activations again in the backward pass, for less memory."""


@dataclass(frozen=True)
class FlowConfig:
    """Which times, tasks and prompts a training sample gets (rectified flow; t = 0 is data, t = 1 noise)."""

    time_mean: float = 0.0
    """Mean of the logit of t (Esser et al. 2024, logit-normal sampling)."""
    time_std: float = 1.0
    """Standard deviation of the logit of t."""
    shift: float = 3.0
    """Shift of the times towards noise for a sample of `shift_tokens` tokens."""
    shift_tokens: int = 1024
    """Token count at which the shift is `shift`; it grows with the root of the count (same paper, eq. 23)."""
    prompt_dropout: float = 0.1
    """Share of samples trained with the empty prompt, for classifier-free guidance."""
    first_frame: float = 0.25
    """Share of clips whose first latent frame is given at t = 0 (image-to-video)."""


@dataclass(frozen=True)
class TransformerRun:
    """A training run of the transformer, with its text encoder where that is ours."""

    out: str = "runs/transformer"
    """Folder of the run; the same command in it goes on where it stopped. `dit sample --model` takes it."""
    autoencoder: str = "builtin"
    """Weights file of the autoencoder, a run's folder or diffusers'; `builtin` is the drawn world's."""
    init: str = ""
    """Model folder to start from, of a diffusers one the transformer alone; empty: random weights."""
    data: DataConfig = field(default_factory=DataConfig)
    """The clips."""
    model: TransformerConfig = field(default_factory=TransformerConfig)
    """The transformer."""
    text: TextConfig = field(default_factory=TextConfig)
    """The text encoder."""
    flow: FlowConfig = field(default_factory=FlowConfig)
    """Times, tasks and prompts of the training samples."""
    train: LoopConfig = field(default_factory=LoopConfig)
    """The loop."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimizer."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """How the pictures are sampled, and the defaults that the finished model carries."""
    cached_clips: int = 0
    """Scenes of the drawn world encoded once and then reused; 0 encodes in every step."""
    posterior: Literal["mean", "sample"] = "mean"
    """Latents that are trained on: the posterior's mean, or a draw from it, anew for every use of a clip."""
    prompts: tuple[str, ...] = ()
    """Prompts of the contact sheet, in one clip's shape; none takes held-out captions, each in its clip's."""
    checkpoint_activations: bool = False
    """Compute activations again in the backward pass, for less memory."""
