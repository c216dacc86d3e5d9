"""Every setting of the project, as frozen dataclasses; the line under a field is its `--help`."""

from dataclasses import dataclass, field
from typing import Literal

from tyro.conf import Positional


@dataclass(frozen=True)
class AutoencoderConfig:
    """Shape of the causal autoencoder (the Wan 2.1 family); the defaults are Wan's own."""

    base_width: int = 96
    """Channels of the encoder's first level."""
    decoder_base_width: int = 96
    """Channels of the decoder's last level."""
    latent_channels: int = 16
    """Channels of the latents."""
    width_multipliers: tuple[int, ...] = (1, 2, 4, 4)
    """Width of each level in units of the base width; each level but the last halves height and width."""
    residual_blocks: int = 2
    """Residual blocks in each encoder level; the decoder has one more."""
    time_downsample: tuple[bool, ...] = (False, True, True)
    """Which levels also halve the number of frames."""
    patch: int = 1
    """Side of the square of pixels that is one position of the first level; 2 makes 4x8x8 4x16x16."""
    latent_mean: tuple[float, ...] = (0.0,) * 16
    """Mean of each latent channel, measured after training."""
    latent_std: tuple[float, ...] = (1.0,) * 16
    """Standard deviation of each latent channel, measured after training."""


@dataclass(frozen=True)
class DataConfig:
    """Which clips are trained on, and how large."""

    source: str = "shapes"
    """`shapes` (the drawn world), a manifest or its folder (`dit data index`), a cache (`dit vae encode`)."""
    frames: int = 17
    """Most frames of a clip, 1 + 4k; a shorter video gives the longest valid clip it has."""
    size: int = 64
    """Side in pixels of the square whose area a clip has; its aspect ratio is kept, to multiples of 16."""
    fps: float = 8.0
    """Frames a second that a clip of a file has: those nearest in time, repeated where the file has fewer."""
    places: int = 0
    """Evenly spaced places in a file at which its clips start; 0 is anywhere. A cache has at least 1."""
    workers: int = 0
    """Processes that read videos ahead; 0 reads in the training process."""


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
    images: float = 0.0
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
class StatsSettings:
    """Measure mean and standard deviation of an autoencoder's latents, and keep them where it ships none."""

    autoencoder: Positional[str] = ""
    """Weights file of ours, a run's folder, or an autoencoder's or pipeline's folder of diffusers."""
    data: str = ""
    """Manifest of the clips, or a folder that holds one (`dit data index FOLDER`); or `shapes`."""
    count: int = 64
    """Clips to measure; where the manifest has fewer files, several clips of each."""
    frames: int = 17
    """Most frames of a clip, as many as the autoencoder takes; a shorter video gives what it has."""
    size: int = 256
    """Side in pixels of the square whose area a clip has."""
    fps: float = 8.0
    """Frames a second of a clip."""
    seed: int = 0
    """Seed of the order of the files and of which part of each is taken."""
    workers: int = 0
    """Processes that read videos ahead; 0 reads in the measuring process."""
    replace: bool = False
    """Write the statistics also where the autoencoder has its own by channel, which models may know it by."""


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of the transformer (the Wan family); the defaults are Wan 2.1 1.3B's."""

    width: int = 1536
    """Width of the token stream."""
    depth: int = 30
    """Number of blocks."""
    heads: int = 12
    """Attention heads; the width is a multiple, a head of 64 or 128 is the fastest."""
    mlp_width: int = 8960
    """Width of the feed-forward layer."""
    text_width: int = 4096
    """Width of the text encoder's output."""
    latent_channels: int = 16
    """Channels of the latents."""
    time_frequencies: int = 256
    """Width of the sinusoidal embedding of time."""
    eps: float = 1e-6
    """Epsilon of the norms."""


@dataclass(frozen=True)
class TextConfig:
    """The text encoder: a byte-level T5 trained with the transformer, or a frozen one from a folder."""

    folder: str = ""
    """Folder with a T5 or UMT5 encoder and its tokenizer, as transformers saves them; empty: byte-level."""
    width: int = 128
    """Width of the byte-level encoder."""
    depth: int = 2
    """Blocks of the byte-level encoder."""
    heads: int = 4
    """Attention heads of the byte-level encoder."""
    mlp_width: int = 256
    """Width of the byte-level encoder's gated feed-forward layer."""
    longest: int = 512
    """Most tokens of a prompt; the rest is cut."""
    padded: bool = False
    """Zero-pad every prompt to `longest` and attend to all of it, as the open Wan weights were trained."""


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


@dataclass(frozen=True)
class Ucf101Settings:
    """Make a manifest of UCF-101 by its official lists, with a prompt for each class."""

    root: Positional[str] = ""
    """Folder with the videos, in their classes' folders or not."""
    lists: str = ""
    """Folder with the official lists: classInd.txt, trainlist01.txt and so on."""
    split: Literal["all", "train1", "train2", "train3", "test1", "test2", "test3"] = "all"
    """Which videos; `all` are those of split 1, both parts."""
    prompts: Literal["sentences", "names"] = "sentences"
    """Captions: a sentence of ours for each class, or its bare name."""
    out: str = ""
    """File to write; empty is manifest.parquet in the folder."""
    workers: int = 0
    """Threads that probe files; 0 is one for each core."""


@dataclass(frozen=True)
class MsrvttSettings:
    """Make a manifest of MSR-VTT by its official annotation files, with their captions."""

    root: Positional[str] = ""
    """Folder with the videos and the annotation files, in it or below."""
    split: Literal["test", "train", "validate", "all"] = "test"
    """Which videos."""
    out: str = ""
    """File to write; empty is manifest.parquet in the folder."""
    workers: int = 0
    """Threads that probe files; 0 is one for each core."""


@dataclass(frozen=True)
class EvalSettings:
    """Score a model on the drawn world, exactly: text to video, image to video, reconstruction."""

    model: str = "builtin"
    """Model folder: a run of `dit train` or one of its step-*, a diffusers Wan pipeline, or `builtin`."""
    json: str = ""
    """File for scores, confusions, failures and the whole protocol, as JSON."""
    picture: str = ""
    """PNG for a contact sheet of failures, at most 24."""
    count: int = 512
    """Videos in each of the three parts: prompts, unseen triples, first frames."""
    reconstructions: int = 128
    """Drawings that the autoencoder reconstructs."""
    seed: int = 1000
    """Seed of the scenes, the words and the noise; not the one that the model was trained with."""
    steps: int = 0
    """Solver steps; 0 takes the model's own."""
    guidance: float = -1.0
    """Classifier-free guidance scale, 1 is none; -1 takes the model's own."""
    solver: Literal["model", "euler", "heun", "multistep"] = "model"
    """ODE solver; `model` takes the model's own."""
    batch: int = 32
    """Videos in one packed call; the scores do not depend on it."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Number format of the transformer; `auto` is bf16 on a GPU and fp32 on a CPU."""


@dataclass(frozen=True)
class ExportSettings:
    """Write a model as the folder of a Wan pipeline, which diffusers loads, or as our own files."""

    model: Positional[str] = "builtin"
    """Model folder: a run of `dit train`, or `builtin`; or an autoencoder alone: a run, or its file."""
    out: str = "exported"
    """Folder to write; it must not exist yet, or be empty."""
    autoencoder: str = ""
    """Another autoencoder of the same latents, its decoder trained on; empty takes the model's own."""
    format: Literal["diffusers", "half"] = "diffusers"
    """`diffusers` for `WanPipeline`; `half` for our own files in half precision, like the built-in model."""


@dataclass(frozen=True)
class IndexSettings:
    """Make a manifest of a folder: every video and image is decoded once, what is damaged is left out."""

    folder: Positional[str] = ""
    """Folder of videos, images and captions: each line of `clip.txt` is one, of which every use draws one."""
    out: str = ""
    """File to write; empty writes `manifest.parquet` in the folder, where `--data.source FOLDER` finds it."""
    workers: int = 0
    """Files decoded at the same time; 0 takes as many as there are cores."""


@dataclass(frozen=True)
class EncodeSettings:
    """Encode a manifest's clips and captions once, into a cache for `dit train --data.source CACHE`."""

    manifest: Positional[str] = ""
    """Manifest, or the folder that holds one."""
    out: str = ""
    """Folder of the cache; the same command goes on after a kill, and encodes what is new or changed."""
    autoencoder: str = "builtin"
    """Weights file of the autoencoder, a run's or a diffusers folder; `builtin` is the drawn world's."""
    data: DataConfig = field(default_factory=lambda: DataConfig(places=4, workers=2))
    """The clips: which, and how large; `data.source` is the manifest."""
    text: TextConfig = field(default_factory=TextConfig)
    """Text encoder: a frozen one's embeddings of all captions are kept; a byte-level one runs in training."""
    store: Literal["fp16", "bf16", "fp32"] = "fp16"
    """Stored number format: fp16 rounds to 1 part in 2,048, bf16 to 1 in 256, fp32 not at all."""
    shard_clips: int = 512
    """Most clips of a shard, which is what a kill may lose."""
    encode_memory: float = 0.0
    """GiB that encoding may take beside a clip: larger frames are encoded in tiles; 0 sets no limit."""
    prune: bool = False
    """Remove shards of which nothing is used any more."""


@dataclass(frozen=True)
class CheckSettings:
    """Verify every shard of a latent cache, byte for byte, and that its index fits them."""

    cache: Positional[str] = ""
    """Folder of the cache."""


@dataclass(frozen=True)
class BenchSettings:
    """Time training and sampling, beside diffusers with the same weights and beside padding with a mask."""

    config: Positional[str] = ""
    """Config of a training run, a name or a file; empty is width 384, depth 12, 6 heads, 1,024 tokens."""
    batch: int = 1
    """Clips in a call."""
    text_tokens: int = 77
    """Text tokens of a clip."""
    repeats: int = 7
    """Measurements of each side, of which the median counts."""
    threads: int = 1
    """Threads on a CPU; one is measured in CPU seconds, which a busy machine does not disturb."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to run; `auto` is the GPU where there is one."""
    precisions: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
    """Number formats to measure."""
    parts: tuple[Literal["model", "diffusers", "packs"], ...] = ("model", "diffusers", "packs")
    """What to measure: our training and sampling steps, the same work in diffusers, packs against padding."""
    json: str = ""
    """File for all figures; empty writes none."""


@dataclass(frozen=True)
class BenchVaeSettings:
    """Time and memory of encoding and decoding, beside diffusers' Wan autoencoder with the same weights."""

    parts: tuple[Literal["diffusers", "lengths", "seams"], ...] = ("diffusers",)
    """What to measure: beside diffusers; memory over lengths, streamed into an mp4; tiles on real clips."""
    shapes: tuple[Literal["tiny", "small", "wan"], ...] = ("tiny", "small")
    """Which autoencoders: the built-in one's shape, a third of Wan's width, Wan 2.1's."""
    precisions: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
    """Number formats of weights and compute; tiles are compared in fp32."""
    frames: int = 17
    """Frames of the clip beside diffusers, and of each real one; 1 + 4k."""
    size: int = 192
    """Height and width in pixels of the clip beside diffusers."""
    lengths: tuple[int, ...] = (17, 81, 321)
    """Frames of the videos of 256 x 256 whose memory is compared, each 1 + 4k."""
    clips: str = ""
    """Real clips for the tiles: a folder or a manifest, of which the first that are long enough are taken."""
    count: int = 3
    """How many of them."""
    model: str = "builtin"
    """Folder whose autoencoder the tiles are of, or `builtin`."""
    tile: int = 16
    """Side of a tile in latents, at most."""
    halos: tuple[int, ...] = (0, 2, 4, 8, -1)
    """How far tiles see beyond themselves, in latents; -1 is all that convolutions see."""
    repeats: int = 3
    """Measurements of each side, of which the median counts."""
    threads: int = 0
    """Threads on a CPU; 0 is all, measured by the wall clock, and one in CPU seconds."""
    json: str = ""
    """File for all figures; empty writes none."""


@dataclass(frozen=True)
class FvdSettings:
    """Score generated videos against real ones by the Frechet video distance, under a named protocol."""

    real: str = ""
    """Real videos: a folder of them, a folder of folders of frames, a manifest, or saved features."""
    fake: str = ""
    """Generated videos: the same."""
    protocol: str = ""
    """Name of the protocol; `dit eval protocols` lists them."""
    json: str = ""
    """File for the score with its protocol, as JSON."""
    weights: str = ""
    """File with the weights of I3D; without it, they are looked for as `dit eval weights` says."""
    report: str = ""
    """HTML file for a page with tables, plots and pictures, which opens offline."""
    save_real: str = ""
    """File for the real side's features (.safetensors), which another run may take as --real."""
    cache: bool = True
    """Keep the real side's features in the user's cache, under the hashes of protocol, files and weights."""
    allow_small: bool = False
    """Score fewer clips than the protocol says; the score is stamped."""
    smoke: bool = False
    """Run with a seeded network in place of certified weights; the score is stamped: it is not FVD."""
    batch: int = 8
    """Clips in one call of the network on a GPU; a CPU computes each alone."""
    workers: int = 2
    """Processes that read videos while the network computes."""
    resamples: int = 200
    """Bootstrap samples of the confidence interval; 0 makes none."""
    panel: bool = False
    """Also score the real set against other real clips, and its frames shuffled, reversed and frozen."""


@dataclass(frozen=True)
class ClipsimSettings:
    """Score how well videos show their prompts by CLIPSIM, under a named protocol."""

    videos: str = ""
    """Videos: a folder of them, a folder of folders of frames, or a manifest."""
    prompts: str = ""
    """CSV or JSONL with `path` and `caption`; empty takes the record or the text beside each video."""
    protocol: str = "msrvtt-2990"
    """Name of the protocol; `dit eval protocols` lists them."""
    json: str = ""
    """File for the score with its protocol and every video's, as JSON."""
    weights: str = ""
    """Folder with CLIP ViT-B/32; without it, it is looked for as `dit eval weights` says."""
    allow_small: bool = False
    """Score fewer videos than the protocol says; the score is stamped."""
    smoke: bool = False
    """Run with a seeded network in place of certified weights; the score is stamped: it is not CLIPSIM."""
    workers: int = 2
    """Processes that read videos while the network computes."""
    resamples: int = 1000
    """Bootstrap samples of the confidence interval; 0 makes none."""


@dataclass(frozen=True)
class InceptionSettings:
    """Score how sure and how varied videos of UCF-101's classes are, by the Inception score of C3D."""

    videos: str = ""
    """Videos: a folder of them, a folder of folders of frames, or a manifest."""
    protocol: str = "is-c3d-10k"
    """Name of the protocol; `dit eval protocols` lists them."""
    json: str = ""
    """File for the score with its protocol, as JSON."""
    weights: str = ""
    """File with C3D's weights; without it, it is looked for as `dit eval weights` says."""
    mean: str = ""
    """File with C3D's mean, mean2.npz; without it, it is looked for likewise."""
    uncertified: bool = False
    """Score with weights that nothing certifies; the score is stamped."""
    allow_small: bool = False
    """Score fewer videos than the protocol says; the score is stamped."""
    smoke: bool = False
    """Run with a seeded network; the score is stamped: it is no Inception score."""
    batch: int = 8
    """Clips in one call of the network on a GPU; a CPU computes each alone."""
    workers: int = 2
    """Processes that read videos while the network computes."""
    resamples: int = 200
    """Bootstrap samples of the confidence interval; 0 makes none."""


@dataclass(frozen=True)
class ReconstructionSettings:
    """Compare videos with reconstructions: PSNR of both kinds, SSIM and LPIPS of frames, FVD of clips."""

    real: str = ""
    """Original videos: a folder of them, a folder of folders of frames, or a manifest."""
    fake: str = ""
    """Reconstructions of the same names, sizes and numbers of frames."""
    json: str = ""
    """File for the scores and every video's, as JSON."""
    protocol: str = ""
    """Protocol of the FVD between the two sides, such as ucf101-recon; empty leaves FVD out."""
    weights: str = ""
    """File with the weights of I3D; without it, they are looked for as `dit eval weights` says."""
    allow_small: bool = False
    """FVD of fewer or other clips than the protocol says; it is stamped."""
    smoke: bool = False
    """FVD with a seeded network in place of certified weights; it is stamped: it is not FVD."""
    lpips: Literal["alex", "vgg", "squeeze", "none"] = "alex"
    """Trunk of LPIPS; `none` leaves it out, and so do weights that are not there."""
    lpips_trunk: str = ""
    """File with the trunk's weights, torchvision's; without it, it is looked for in the usual places."""
    lpips_heads: str = ""
    """File with LPIPS' own weights of version 0.1; without it, it is looked for in the usual places."""
    workers: int = 2
    """Processes that read videos."""


@dataclass(frozen=True)
class CompareVaeSettings:
    """Compare autoencoders on the same clips: quality, latents, compression, time and memory."""

    autoencoders: Positional[tuple[str, ...]] = ()
    """Autoencoders: `builtin`, weights files, runs of `dit vae train`, folders of diffusers."""
    data: str = ""
    """Videos: a folder of them, a folder of folders of frames, a manifest; or `shapes`, the drawn world."""
    count: int = 0
    """Clips, one a video; 0 takes the protocol's number, or all videos, or 32 scenes of the drawn world."""
    frames: int = 17
    """Frames of a clip; the nearest number that all autoencoders take is taken."""
    height: int = 128
    """Height of the clips in pixels, which are scaled to cover it and cut about the centre; likewise."""
    width: int = 128
    """Width in pixels; likewise."""
    stride: int = 1
    """Step between two frames of a clip."""
    seed: int = 0
    """Seed of the choice of videos, of where in them clips begin, and of the scenes."""
    json: str = ""
    """File for all figures, every clip's too, as JSON."""
    picture: str = ""
    """PNG for the same frames through each autoencoder, with amplified differences."""
    amplify: float = 8.0
    """How many times larger the picture shows differences."""
    save: str = ""
    """New folder for all originals and reconstructions, as folders of PNG frames."""
    protocol: str = ""
    """Protocol of the FVD of reconstructions, such as ucf101-recon; empty leaves it out."""
    weights: str = ""
    """File with the weights of I3D; without it, they are looked for as `dit eval weights` says."""
    allow_small: bool = False
    """FVD of fewer or other clips than the protocol says; it is stamped."""
    smoke: bool = False
    """FVD with a seeded network in place of certified weights; it is stamped: it is not FVD."""
    resamples: int = 200
    """Bootstrap samples of FVD's confidence interval; 0 makes none."""
    lpips: Literal["alex", "vgg", "squeeze", "none"] = "alex"
    """Trunk of LPIPS; `none` leaves it out, and so do weights that are not there."""
    lpips_trunk: str = ""
    """File with the trunk's weights, torchvision's; without it, it is looked for in the usual places."""
    lpips_heads: str = ""
    """File with LPIPS' own weights of version 0.1; without it, it is looked for in the usual places."""
    fps: float = 24.0
    """Frames in the second of video whose time and memory are measured."""
    repeats: int = 3
    """Measurements of time, of which the median counts; 0 leaves time and memory out."""
    threads: int = 1
    """Threads of a CPU that is timed; one is measured in CPU seconds, 0 is all, by the wall clock."""
    workers: int = 2
    """Processes that read videos."""


@dataclass(frozen=True)
class RunEvalSettings:
    """Sample a data set's prompts with a model, then score the videos; the same command goes on."""

    job: Positional[str] = ""
    """What to sample and score: ucf101-zeroshot, ucf101-class, msrvtt or msrvtt-all-captions."""
    model: str = "builtin"
    """Model folder: ours, any text-to-video pipeline of diffusers, or `builtin`."""
    real: str = ""
    """Manifest of the real videos, as `dit data ucf101` and `dit data msrvtt` write it; or their folder."""
    annotations: str = ""
    """Folder with MSR-VTT's annotation files; without it, prompts are the manifest's captions."""
    out: str = ""
    """Folder for videos and scores; empty is scores/JOB."""
    metrics: tuple[Literal["fvd", "clipsim", "is"], ...] = ()
    """What to score; empty is all of the job's."""
    sample_only: bool = False
    """Make the videos and leave scoring for later, with the same command without this."""
    count: int = 0
    """Videos to make; 0 is the protocol's number, and fewer need --allow-small."""
    prompts: Literal["job", "sentences", "names"] = "job"
    """Prompts of UCF-101's classes: sentences of ours, or bare names; `job` is the job's own choice."""
    seed: int = 0
    """Seed of the first video; the next ones count up."""
    frames: int = 0
    """Frames of a video; 0 takes the model's own number."""
    height: int = 0
    """Height in pixels; 0 takes the model's own."""
    width: int = 0
    """Width in pixels; 0 takes the model's own."""
    fps: float = 0.0
    """Frames a second of the files; 0 takes the model's own, or 8 where it has none."""
    steps: int = 0
    """Solver steps; 0 takes the model's own."""
    guidance: float = -1.0
    """Classifier-free guidance scale, 1 is none; -1 takes the model's own."""
    solver: Literal["model", "euler", "heun", "multistep"] = "model"
    """ODE solver of a model of ours; `model` takes its own."""
    batch: int = 1
    """Videos in one packed call of a model of ours; others make one at a time."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Number format of the model; `auto` is bf16 on a GPU and fp32 on a CPU."""
    i3d: str = ""
    """File with the weights of I3D; without it, they are looked for as `dit eval weights` says."""
    clip: str = ""
    """Folder with CLIP ViT-B/32; likewise."""
    c3d: str = ""
    """File with C3D's weights; likewise."""
    c3d_mean: str = ""
    """File with C3D's mean; likewise."""
    uncertified: bool = False
    """Score with weights of C3D that nothing certifies; the score is stamped."""
    allow_small: bool = False
    """Score fewer or other videos than the protocol says; scores are stamped."""
    smoke: bool = False
    """Score with seeded networks in place of certified weights; scores are stamped: they are none."""
    panel: bool = False
    """Put beside FVD what real clips score against other real ones, and with their motion changed."""
    workers: int = 2
    """Processes that read videos while a network computes."""


@dataclass(frozen=True)
class CompareSettings:
    """Scores side by side; those of other protocols are refused."""

    scores: Positional[tuple[str, ...]] = ()
    """JSON files that scoring wrote."""


@dataclass(frozen=True)
class WeightsSettings:
    """Which networks scores need, where their weights are looked for, and whether they are certified."""

    i3d: str = ""
    """File with the weights of I3D, in place of the usual ones."""
    clip: str = ""
    """Folder with CLIP ViT-B/32, in place of the usual ones."""
    c3d: str = ""
    """File with C3D's weights, in place of the usual ones."""


@dataclass(frozen=True)
class ProtocolsSettings:
    """The protocols of scores: what each follows, all its fields, and its hash."""

    name: Positional[str] = ""
    """A protocol to show whole; empty lists them."""


@dataclass(frozen=True)
class BenchEvalSettings:
    """Time scoring: the whole job beside its bare network, the distance beside scipy's, memory over clips."""

    clips: int = 96
    """Clips of the job that is timed."""
    batch: int = 8
    """Clips in one call of the network on a GPU; a CPU computes each alone."""
    workers: int = 2
    """Processes that read videos while the network computes."""
    repeats: int = 3
    """Measurements of each side, of which the median counts."""
    few: int = 50
    """Clips of the smaller job whose memory is measured."""
    many: int = 500
    """Clips of the larger one."""
    parts: tuple[Literal["job", "distance", "memory"], ...] = ("job", "distance")
    """What to measure; memory takes some ten minutes on two cores."""
    json: str = ""
    """File for all figures; empty writes none."""
