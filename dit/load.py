"""A model folder: transformer, text encoder and autoencoder, loaded together from ours or diffusers'."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import TypedDict

from configs.data import DataConfig
from configs.load import from_json, to_json
from configs.model import TextConfig, TransformerConfig
from configs.ranges import Frames, Rate, Side
from configs.sampling import SamplerConfig, SolverSettings
from configs.train import FlowConfig
from dit.byte_t5 import TextInputs
from dit.condition import Condition
from dit.lora_files import AVERAGE, LORAS, Scaled, add_adapters, find_adapters, header_of, parse_scaled
from dit.model import TextMemory, Transformer
from dit.pack import Layout
from dit.text import encoder_hash, make_encoder
from vae.compression import round_to
from vae.load import BUILTIN, load_autoencoder, stored_hash
from vae.model import Autoencoder
from vae.training.checkpoints import checkpoints
from vae.training.device import own_device, own_precision
from vae.training.files import file_hash, naming, read_json
from vae.training.weights import (
    TRANSFORMERS,
    Header,
    check_fit,
    load_strictly,
    load_weights,
    read_header,
    shards,
    weights_files,
    weights_hash,
)

TRANSFORMER = "transformer.safetensors"
OURS = "dit.json"  # in an exported folder: the defaults of sampling, and how its text was trained
Settings = TypeVar("Settings", bound=SolverSettings)


class TextDefaults(TypedDict):
    """How the text of an exported folder was trained, in its `dit.json`."""

    text: dict


class Defaults(TextDefaults):
    """The parts of an exported folder's `dit.json`."""

    flow: dict
    sampler: dict
    size: tuple[Frames, Side, Side]
    fps: Rate


class Denoiser(nn.Module):
    """Transformer and text encoder as one module: from noisy tokens and conditions to velocities.

    A frozen encoder may be given, in place of the one that the settings name.
    """

    def __init__(self, config: TransformerConfig, text: TextConfig, encoder: nn.Module | None = None):
        super().__init__()
        self.text = make_encoder(text) if encoder is None else encoder
        self.transformer = Transformer(config)
        self.low_noise: Denoiser | None = None  # with the same text encoder, for times below the boundary
        self.boundary = 0.0

    def at(self, time: float) -> "Denoiser":
        """The one that denoises at a time: of two networks (Wan 2.2 A14B) by whether it has come so low."""
        return self if time >= self.boundary else self.low_noise

    def read(self, conditions: list[Condition]) -> TextInputs:
        """What `embed` takes of conditions, made on the host."""
        return self.text.read([condition.prompt for condition in conditions])

    def embed(self, conditions: list[Condition] | TextInputs) -> TextMemory:
        """What the blocks of the transformer read of conditions."""
        embeddings, lengths = self.text(self.read(conditions) if isinstance(conditions, list) else conditions)
        return self.transformer.embed_text(embeddings.to(self.transformer.proj_out.weight.dtype), lengths)

    def remember(self, conditions: list[Condition]) -> TextMemory:
        """`embed`, with all that does not depend on time: while sampling it is computed once."""
        return self.transformer.remember(self.embed(conditions))

    def forward(
        self,
        tokens_LP: Tensor,
        times_M: Tensor,
        layout: Layout,
        conditions: list[Condition] | TextInputs | TextMemory,
    ) -> Tensor:
        text = conditions if isinstance(conditions, TextMemory) else self.embed(conditions)
        return self.transformer(tokens_LP, times_M, text, layout)

    def trained_state(self) -> dict[str, Tensor]:
        """The tensors that training changes: all but a frozen text encoder's, and a loss's `projector`."""
        absent = ("projector.", *["text."] * bool(self.text.config.folder))
        return {k: v for k, v in self.state_dict().items() if not k.startswith(absent)}

    def load_trained_state(self, tensors: dict[str, Tensor], source: str | Path) -> None:
        """The inverse of `trained_state`; raises ValueError naming what of a source does not fit."""
        load_strictly(self, tensors, source, absent=("text.",) if self.text.config.folder else ())


@dataclass(frozen=True)
class Model:
    """Everything that turns a prompt into a video, and what it is: weights by hash, settings, defaults."""

    denoiser: Denoiser
    autoencoder: Autoencoder
    sampler: SamplerConfig
    flow: FlowConfig
    weights: str
    size: tuple[int, int, int]
    fps: float
    settings: dict
    kind: str
    facts: dict


def transformer_hash(folder: Path) -> str:
    """SHA-256 of a model folder's transformer: of its weights file, or of all of diffusers'."""
    if is_diffusers(folder):
        return "+".join(map(file_hash, weights_files(folder / "transformer")))
    return weights_hash(find_weights(folder))


def model_folder(name: str) -> Path:
    """The folder that a setting names; `builtin` is the built-in model's."""
    return BUILTIN if name == "builtin" else Path(name)


def is_diffusers(folder: Path) -> bool:
    """Whether a model folder is a pipeline of diffusers."""
    return (folder / "model_index.json").is_file() or (folder / "transformer" / "config.json").is_file()


def load_model(
    folder: str,
    device: torch.device,
    dtype: torch.dtype,
    text_folder: str | None = None,
    loras: Sequence[str] = (),
) -> Model:
    """The model of a folder: ours (a run or its checkpoint), `builtin`, or a diffusers Wan pipeline's.

    A run that was trained with a frozen text encoder names its folder, but a file may come from anyone: that
    is not followed, and `text_folder` must be given. So is the base of a run of adapters, unless it is the
    built-in model. `loras` are files of adapters, FILE or FILE:SCALE, that are added to the weights. Raises
    ValueError where the folder is none of these.
    """
    path = model_folder(folder)
    scaled = [parse_scaled(given) for given in loras]
    own = None if is_diffusers(path) else find_adapters(path)
    if own:
        path, scaled = _base_of(own, folder), [Scaled(own, 1.0), *scaled]
    if is_diffusers(path):
        if text_folder:
            raise ValueError(f"{folder} has a text encoder of its own, so --text-folder has no place")
        model = _load_diffusers_model(path)
    else:
        model = _load_our_model(path, text_folder)
    if scaled:
        model = _with_adapters(model, scaled, transformer_hash(path))
    if own:
        model = _as_trained(model, own)
    networks = [one.transformer for one in (model.denoiser, model.denoiser.low_noise) if one]
    for network in networks:
        network.cast(dtype)  # before it moves: the device never holds both formats
    if model.denoiser.text.config.folder:  # frozen, and often larger than the transformer
        model.denoiser.text.to(dtype)
    model.denoiser.to(device).eval().requires_grad_(False)
    for network in networks:
        network.use_attention(device, dtype)
    model.autoencoder.to(device).eval().requires_grad_(False)
    return model


def load_resolved(settings: Settings, load: Callable | None = None) -> tuple[Model, Settings]:
    """The model that settings name, on a GPU if there is one, and the settings with its own for each None.

    `load` stands for `load_model`, as one that keeps what it loaded.
    """
    device = own_device()
    precision = settings.precision or own_precision(device)
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    model = (load or load_model)(settings.model, device, dtype, settings.text_folder, settings.lora)
    if model.kind.endswith(" checkpoint"):
        print(f"{settings.model} at step {model.facts['step']}", file=sys.stderr)
    sampler, (frames, height, width) = model.sampler, model.size
    own = {"steps": sampler.steps, "guidance": sampler.guidance, "solver": sampler.solver}
    own |= {"precision": precision, "frames": frames, "height": height, "width": width, "fps": model.fps}
    left_open = [field.name for field in fields(settings) if getattr(settings, field.name) is None]
    return model, replace(settings, **{name: own[name] for name in left_open if name in own})


def _base_of(adapters: Path, folder: str) -> Path:
    """The model that a run's adapters are of: the built-in one; ValueError where it is another's to name."""
    header = header_of(adapters)
    base = header.settings.get("init") if header else None
    if base != "builtin":
        of = (
            f"of {base!r}, which is not read unless you name it" if header else "of a model that it names not"
        )
        raise ValueError(f"{folder} holds adapters {of}: give --model MODEL --lora {folder}")
    return BUILTIN


def _with_adapters(model: Model, scaled: list[Scaled], base: str) -> Model:
    """The model with adapters added to its weights; a line says which were trained on others than these.

    Raises ValueError for a model of two transformers, as nothing says which one they are of.
    """
    if model.denoiser.low_noise:
        raise ValueError("--lora adds to one transformer, and this model has two: nothing says to which")
    add_adapters(model.denoiser.transformer, scaled)
    for one in scaled:
        header = header_of(one.file)
        if header and header.facts.get("base_weights") != base:
            print(f"note: {one.file} was trained on other weights than these", file=sys.stderr)
    facts = {"loras": [{"file": one.file.name, "sha256": one.hash, "scale": one.scale} for one in scaled]}
    added = [f"{one.hash}@{one.scale!r}" for one in scaled]
    return replace(model, weights="+".join([model.weights, *added]), facts=model.facts | facts)


def _as_trained(model: Model, adapters: Path) -> Model:
    """The model with the sizes and defaults that its adapters were trained for."""
    header = read_header(adapters, *LORAS)
    with naming(adapters):
        settings = header.settings
        sampler, flow = from_json(SamplerConfig, settings["sampler"]), from_json(FlowConfig, settings["flow"])
        data = from_json(DataConfig, settings["data"])
    side = round_to(data.size, model.autoencoder.compression.token_side)
    return replace(
        model,
        sampler=sampler,
        flow=flow,
        size=(data.frames, side, side),
        fps=data.fps,
        settings=settings,
        kind=header.kind,
        facts=header.facts | model.facts,
    )


def find_weights(folder: Path) -> Path:
    """The transformer's weights in a model folder: the finished ones, or the average of a newer checkpoint.

    The folder may be a checkpoint itself. Where the average has shards, its name stands for them.
    """
    finished, steps = folder / TRANSFORMER, checkpoints(folder)
    newest = int(steps[-1].name.removeprefix("step-")) if steps else 0
    if shards(finished) and read_header(finished).facts.get("step", newest) >= newest:
        return finished
    for file in (*(step / AVERAGE for step in steps[-1:]), folder / AVERAGE):
        if shards(file):
            return file
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such model folder; --model takes a folder, not a file in it")
    raise ValueError(
        f"{folder} holds no model: neither {TRANSFORMER}, nor a checkpoint, nor a diffusers pipeline"
    )


def autoencoder_folder(folder: Path) -> Path:
    """Where a model folder's autoencoder lies: of diffusers in `vae`, of a checkpoint in its run."""
    if is_diffusers(folder):
        return folder / "vae"
    return folder.parent if find_weights(folder) == folder / AVERAGE else folder


def _load_our_model(folder: Path, text_folder: str | None) -> Model:
    """A model that this project trained."""
    file = find_weights(folder)
    tensors, header = load_weights(file, *TRANSFORMERS)
    with naming(file):
        settings = header.settings
        config, text = (
            from_json(TransformerConfig, settings["model"]),
            from_json(TextConfig, settings["text"]),
        )
        sampler, flow = from_json(SamplerConfig, settings["sampler"]), from_json(FlowConfig, settings["flow"])
        data = from_json(DataConfig, settings["data"])
    check_fit(lambda: Denoiser(config, text, nn.Identity() if text.folder else None), tensors, file)
    denoiser = Denoiser(config, _named_encoder(text, text_folder, header, file))
    denoiser.load_trained_state(tensors, file)
    home = autoencoder_folder(folder)
    autoencoder = load_autoencoder(home)
    side = round_to(data.size, autoencoder.compression.token_side)  # clips of files have that area
    return Model(
        denoiser=denoiser,
        autoencoder=autoencoder,
        sampler=sampler,
        flow=flow,
        weights="+".join([weights_hash(file), stored_hash(home), *_text_hash(denoiser)]),
        size=(data.frames, side, side),
        fps=data.fps,
        settings=settings,
        kind=header.kind,
        facts=header.facts,
    )


def _named_encoder(text: TextConfig, folder: str | None, header: Header, file: Path) -> TextConfig:
    """Settings of text with the encoder's folder that the user names; ValueError for none, or another's."""
    if not text.folder:
        if folder:
            raise ValueError(f"{file} has a text encoder of its own, so --text-folder has no place")
        return text
    if not folder:
        raise ValueError(
            f"{file} was trained with the text encoder {text.folder}, which is not read unless you name it: "
            f"give its folder with --text-folder"
        )
    text = replace(text, folder=folder)
    if header.facts.get("text_weights") != encoder_hash(text):
        raise ValueError(f"--text-folder {folder} is not the text encoder that {file} was trained with")
    return text


def _load_diffusers_model(folder: Path) -> Model:
    """A text-to-video Wan pipeline's folder: transformer, vae, text_encoder, tokenizer, scheduler.

    A folder that `dit export` wrote also holds what diffusers has no place for, so that it samples as before.
    """
    from dit import wan

    boundary = wan.check_pipeline(folder, two=True)
    transformer = wan.load_transformer(folder / "transformer")
    shift = wan.scheduler_shift(folder / "scheduler")
    text, sampler = TextConfig(padded=True), SamplerConfig(steps=50, guidance=5.0)
    flow = from_json(FlowConfig, {"shift": shift, "shift_tokens": 0}, folder / "scheduler")
    autoencoder = load_autoencoder(folder / "vae", as_shipped=True)
    newer = autoencoder.settings.get("is_residual")  # Wan 2.2 TI2V, whose size is another
    size, fps = ((121, 704, 1280), 24.0) if newer else ((81, 480, 832), 16.0)
    if (folder / OURS).is_file():
        settings = read_json(folder / OURS, Defaults)
        with naming(folder / OURS):
            text = from_json(TextConfig, settings["text"])
            sampler = from_json(SamplerConfig, settings["sampler"])
            flow, size, fps = (from_json(FlowConfig, settings["flow"]), settings["size"], settings["fps"])
    denoiser = _around(transformer, make_encoder(replace(text, folder=str(folder))))
    if boundary:
        low_noise = wan.load_transformer(folder / "transformer_2")
        if low_noise.config != transformer.config:
            raise ValueError(f"{folder}: its two transformers have other settings, which is not supported")
        denoiser.low_noise, denoiser.boundary = _around(low_noise, denoiser.text), boundary
    if autoencoder.channels != transformer.config.latent_channels:
        raise ValueError(
            f"{folder}: the transformer takes {transformer.config.latent_channels} latent channels, but the "
            f"autoencoder has {autoencoder.channels}"
        )
    parts = ["transformer", *["transformer_2"] * bool(boundary), "vae"]
    files = [file for part in parts for file in weights_files(folder / part)]
    return Model(
        denoiser=denoiser,
        autoencoder=autoencoder,
        sampler=sampler,
        flow=flow,
        weights="+".join([*map(file_hash, files), *_text_hash(denoiser)]),
        size=size,
        fps=fps,
        settings={
            "folder": folder.name,
            "model": to_json(transformer.config),
            "text": to_json(replace(text, folder="")),
            "flow": to_json(flow),
            "sampler": to_json(sampler),
        },
        kind="diffusers pipeline",
        facts={},
    )


def _around(transformer: Transformer, encoder: nn.Module) -> Denoiser:
    """A transformer that is there and its text encoder as one module: nothing is drawn to be overwritten."""
    with torch.device("meta"):
        denoiser = Denoiser(replace(transformer.config, depth=0), encoder.config, encoder)
    denoiser.transformer = transformer
    return denoiser


def _text_hash(denoiser: Denoiser) -> list[str]:
    """The hash of a frozen text encoder; one that was trained with the transformer lies in its file."""
    config = denoiser.text.config
    return [encoder_hash(config)] if config.folder else []
