"""What a training run is: its loop, optimizer, losses and tasks, and the two runs."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Le, MultipleOf

from configs.data import DataConfig
from configs.model import AutoencoderConfig, TextConfig, TransformerConfig
from configs.ranges import (
    Count,
    CountOrZero,
    Decay,
    Frames,
    NonNegative,
    Positive,
    Seed,
    Share,
    Side,
    Steps,
    StepsOrZero,
    TokensOrZero,
    Width,
)
from configs.sampling import SamplerConfig


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter 2019) with a warm-up, and the average of the weights."""

    learning_rate: NonNegative = 1e-3
    """Peak learning rate."""
    warmup_steps: StepsOrZero = 100
    """Steps over which the learning rate rises from zero."""
    schedule: Literal["constant", "cosine", "trapezoid"] = "constant"
    """The rate after warm-up: constant, or falling, by a cosine to a tenth or by `decay_shape` to zero."""
    decay_start: StepsOrZero = 0
    """Step, of any checkpoint, from which the rate falls; counted from where the optimizer began."""
    decay_steps: StepsOrZero = 0
    """Steps over which the rate falls; later ones keep what it fell to."""
    decay_shape: Literal["linear", "sqrt"] = "sqrt"
    """How a trapezoid falls: 1 - p, or 1 - sqrt(p) (Haegele et al. 2024), p being the share of its steps."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay of every tensor of two or more dimensions; biases and vectors have none."""
    beta2: Decay = 0.99
    """Decay of the squared gradient's average."""
    max_gradient_norm: Positive = 1.0
    """Gradients are clipped to this global norm."""
    ema_decay: Decay = 0.999
    """Decay of the weight average that is used for sampling and validation."""
    base_width: CountOrZero = 0
    """Width of the transformer whose rate this is: at others start and rates scale by muP; 0: neither."""
    kind: Literal["adamw", "muon", "adamw8bit"] = "adamw"
    """AdamW; Muon (Jordan et al. 2024) for the blocks' matrices by heads, or moments of 8 bits (torchao)."""


@dataclass(frozen=True)
class LoopConfig:
    """What a training run does besides learning: how long, on how much, how often it reports."""

    steps: Steps = 1000
    """Optimizer steps of the whole run."""
    batch: Count = 16
    """Samples in a step, over all processes together."""
    seed: Seed = 0
    """Seed of the weights, the order of the data, the noise and the times."""
    log_every: Steps = 10
    """Steps between two lines of the log."""
    save_every: Steps = 500
    """Steps between two checkpoints; the newest two are kept, and so is any copy under another name."""
    keep_every: CountOrZero = 0
    """Keep every so many-th checkpoint for good, of those at every `save_every` steps; 0 keeps none."""
    show_every: Steps = 500
    """Steps between two validations, each with its pictures."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Precision of the computation; the weights are fp32 either way."""
    tf32: bool = False
    """Have a GPU round the factors of fp32 products to TF32's 10 bits, faster; other verbs never do."""
    from_older: bool = False
    """Where the newest checkpoint is damaged, put it aside and go on from the one before."""
    tracker: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Trackers that get the log's rows and the sheets too: tensorboard (RUN/tensorboard), wandb, trackio."""
    spike: Literal["stop", "skip", "back"] = "stop"
    """A spike or NaN: stop and keep it for --replay, make no update, or go back and pass it over."""
    spike_factor: NonNegative = 0.0
    """A loss or gradient norm above so many times its running average is a spike; 0: only one not finite."""


@dataclass(frozen=True)
class PerceptualConfig:
    """The perceptual loss on frames: the distance of their features in a frozen network."""

    network: str = "none"
    """`alex`, `vgg`, `squeeze` (LPIPS), a file of torchvision's weights of one, an autoencoder, or `none`."""
    weight: NonNegative = 1.0
    """Weight of the perceptual loss relative to the reconstruction error."""
    trunk: str = ""
    """File with the network's weights for LPIPS; empty looks in the usual places."""
    heads: str = ""
    """File with LPIPS' own linear weights; empty looks in the usual places."""


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The discriminator of the second stage: patches in space and time, hinge loss."""

    weight: NonNegative = 0.0
    """Weight of the adversarial loss in the autoencoder's loss; 0 trains without a discriminator."""
    start: StepsOrZero = 0
    """Step from which the discriminator is trained and its loss is used."""
    adaptive: bool = True
    """Multiply the weight by the ratio of both losses' gradients at the last layer, of the step before."""
    width: Annotated[Width, Ge(8), MultipleOf(8)] = 64
    """Channels of the discriminator's first layer, a multiple of 8."""
    depth: Annotated[int, Ge(1), Le(14)] = 3
    """Convolutions that halve height and width."""
    learning_rate: NonNegative = 1e-4
    """Peak learning rate; the other settings are those of `optimizer`, with steps counted from `start`."""


@dataclass(frozen=True)
class AutoencoderRun:
    """A training run of the autoencoder."""

    out: str = "runs/autoencoder"
    """Folder of the run; the same command given again resumes it where it stopped."""
    init: str = ""
    """Weights file, run or diffusers folder to start from; empty starts from random weights."""
    from_run: str = ""
    """Run to begin from with other settings, RUN or RUN@STEP (short: --from): weights, average, optimizer."""
    from_optimizer: bool = True
    """Take the optimizer of `from_run` too; without it that begins anew, and so does the learning rate."""
    data: DataConfig = field(default_factory=DataConfig)
    """The clips."""
    model: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    """The autoencoder."""
    train: LoopConfig = field(default_factory=LoopConfig)
    """The loop."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimizer."""
    crop: Side = 64
    """Side in pixels of the random square crop that is trained on; a smaller side of a clip stays whole."""
    crop_frames: Frames = 17
    """Maximum frames of the random crop in time, 1 + 4k; a shorter clip stays whole."""
    image_share: Share = 0.0
    """Share of samples cropped to a single frame, in addition to the images in the data."""
    chunk: CountOrZero = 0
    """Latent frames trained on at a time, with the gradient stopped between them; 0 takes whole clips."""
    error: Literal["l1", "l2"] = "l1"
    """Reconstruction error; L2 learns earlier than L1 where an object is, and L1 gives sharper edges."""
    learned_variance: bool = False
    """Train on the negative log-likelihood of the error, whose scale is learned."""
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)
    """The perceptual loss."""
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    """The discriminator."""
    kl_weight: NonNegative = 1e-6
    """Weight of the KL divergence per latent value, relative to the reconstruction error per pixel value."""
    train_encoder: bool = True
    """Train the encoder too; without it the latents stay those of `init`, and models of them stay valid."""
    checkpoint_activations: bool = False
    """Recompute activations in the backward pass, which takes less memory."""


@dataclass(frozen=True)
class TaskWeights:
    """How often each task is trained, relative to the others: which latents of a sample are given.

    What a task cannot give, since it would be all of the sample (of an image its first frame), is not given.
    """

    none: NonNegative = 0.75
    """Nothing: text to video, or to an image."""
    first: NonNegative = 0.25
    """The first latent frame, which is one frame of the video: image to video."""
    last: NonNegative = 0.0
    """The last latent frame."""
    first_and_last: NonNegative = 0.0
    """The first latent frame and the last."""
    some_frames: NonNegative = 0.0
    """Any latent frames: keyframes."""
    prefix: NonNegative = 0.0
    """As many latent frames from the first one: extension."""
    suffix: NonNegative = 0.0
    """As many latent frames up to the last one: what came before."""
    middle_missing: NonNegative = 0.0
    """As many latent frames from the first one, and up to the last one: joining."""
    every_kth: NonNegative = 0.0
    """The first latent frame and every k-th after it: interpolation."""
    region: NonNegative = 0.0
    """A box of tokens, in all frames or a span of them: painting around it."""
    all_but_region: NonNegative = 0.0
    """All but a box of tokens, in all frames or a span of them: repair."""


@dataclass(frozen=True)
class FlowConfig:
    """Which times, tasks and prompts a training sample gets (rectified flow; t = 0 is data, t = 1 noise)."""

    time_mean: float = 0.0
    """Mean of the logit of t (Esser et al. 2024, logit-normal sampling)."""
    time_std: NonNegative = 1.0
    """Standard deviation of the logit of t."""
    shift: Positive = 3.0
    """Shift of the times towards noise for a sample of `shift_tokens` tokens."""
    shift_tokens: StepsOrZero = 1024
    """Token count at which the shift is `shift`; it grows with the square root of the count (eq. 23)."""
    prompt_dropout: Share = 0.1
    """Share of samples trained with the empty prompt, for classifier-free guidance."""
    tasks: TaskWeights = field(default_factory=TaskWeights)
    """What is given: the weights of the tasks."""
    given_noise: Share = 0.0
    """What is given has noise up to this time, drawn evenly, which the network is told; 0: it is clean."""
    times: Literal["logit_normal", "uniform", "mode", "cosmap", "measured"] = "logit_normal"
    """How times are drawn, before the shift; `measured`: logit-normal, oftener where the loss is high."""
    mode_scale: Annotated[float, Ge(-1), Le(1.75)] = 1.29
    """Scale of `mode`: how much oftener the middle is drawn, or the ends (Esser et al. 2024, eq. 20)."""
    weighting: Literal["none", "cosmap", "min_snr"] = "none"
    """What the loss at a time counts: alike, by `cosmap`'s density, or with the ratio to noise limited."""
    snr_limit: Positive = 5.0
    """Limit of the signal-to-noise ratio in `min_snr` (Hang et al. 2023)."""


@dataclass(frozen=True)
class TransformerLoop(LoopConfig):
    """The loop of a transformer, whose steps can have so many tokens instead, and are computed in packs."""

    tokens: TokensOrZero = 0
    """Tokens in a step on the average, over all processes, in place of `batch`; 0: `batch` samples."""
    pack_tokens: TokensOrZero = 0
    """Most tokens that a process computes at once; it adds up a step's packs of them. 0: all at once."""
    round_tokens: TokensOrZero = 0
    """Packs are padded, outside the loss, to a multiple of so many tokens; 0: they are not."""
    crossover_tokens: TokensOrZero = 0
    """Tokens of a sample whose attention takes as long as all else, to deal samples by; 0: by FLOPs."""


@dataclass(frozen=True)
class ParallelConfig:
    """How the processes share the work; the launcher says how many there are."""

    shard: Literal["none", "full", "hybrid"] = "none"
    """Weights, optimizer and average: on every process, sharded over all, or over groups of `shard_size`."""
    shard_size: CountOrZero = 0
    """Processes of a group that shards the weights, with `hybrid`; 0: those of one machine."""
    context: Count = 1
    """Processes that share a pack of samples, each a slice of its tokens, for clips that one cannot hold."""


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (Hu et al. 2021), which are trained in place of all weights of `init`."""

    rank: CountOrZero = 0
    """Rank of the adapters of the transformer of `init`, all else of which is frozen; 0: no adapters."""
    alpha: NonNegative = 0.0
    """The adapters' products are scaled by alpha / rank; 0: alpha is the rank."""
    layers: Literal["attention", "blocks", "all"] = "blocks"
    """Layers with an adapter: of the attentions, all of the blocks, or those around the blocks too."""


@dataclass(frozen=True)
class RepaConfig:
    """An auxiliary loss that aligns hidden states with features of the clean clips (REPA, Yu et al. 2024)."""

    weight: NonNegative = 0.0
    """Weight of 1 - the cosine between a token's projected hidden state and its feature; 0: no such loss."""
    block: Count = 2
    """Block whose hidden states are aligned, counted from 1."""
    features: Literal["latents", "drawn"] = "latents"
    """The autoencoder's clean latents of a token; or what is drawn there, of the drawn world alone."""


@dataclass(frozen=True)
class TransformerRun:
    """A training run of the transformer, with its text encoder where that is ours.

    With --plan it says what the run takes and begins none: --gpu KIND, --gpus N, --memory GiB, --hours H,
    --price P, --utilisation SHARE and --json FILE say what it is planned for (--plan --help).
    """

    out: str = "runs/transformer"
    """Folder of the run, for `dit sample --model`; the same command given again resumes the run."""
    autoencoder: str = "builtin"
    """Autoencoder: a weights file, a run's or a diffusers folder; `builtin` is the drawn world's."""
    init: str = ""
    """Model folder to start from (of a diffusers one the transformer alone); empty: random weights."""
    from_run: str = ""
    """Run to begin from with other settings, RUN or RUN@STEP (short: --from): weights, average, optimizer."""
    from_optimizer: bool = True
    """Take the optimizer of `from_run` too; without it that begins anew, and so does the learning rate."""
    new_latents: bool = False
    """Start from `init` on an autoencoder whose latents its transformer never knew, to learn them anew."""
    data: DataConfig = field(default_factory=DataConfig)
    """The clips."""
    model: TransformerConfig = field(default_factory=TransformerConfig)
    """The transformer."""
    text: TextConfig = field(default_factory=TextConfig)
    """The text encoder."""
    flow: FlowConfig = field(default_factory=FlowConfig)
    """Times, tasks and prompts of the training samples."""
    train: TransformerLoop = field(default_factory=TransformerLoop)
    """The loop."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """How the processes share the work."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimizer."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """How the contact sheet is sampled; the finished model carries these as its defaults."""
    posterior: Literal["mean", "sample"] = "mean"
    """Latents that are trained on: the posterior's mean, or a new draw from it for every use of a clip."""
    prompts: tuple[str, ...] = ()
    """Prompts of the contact sheet; without any, held-out captions are sampled, each in its clip's shape."""
    checkpoint_activations: Literal["none", "blocks", "selective"] = "none"
    """Activations to recompute in the backward pass: none, all, or all but products' and attention's."""
    compile: bool = False
    """Compile the transformer's blocks, once for packs of any lengths; takes a C++ compiler."""
    fp8: bool = False
    """Multiply the blocks' matrices in fp8, beside bf16, on a GPU that can, through torchao."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Adapters, in place of all weights."""
    repa: RepaConfig = field(default_factory=RepaConfig)
    """An auxiliary loss on hidden states."""
