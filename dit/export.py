"""`dit export MODEL --out FOLDER`: a model as the folder of a Wan pipeline, or our own in half precision."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from configs.load import Positional, parse, to_json
from dit.load import AVERAGE, OURS, TRANSFORMER, Model, load_model
from dit.lora_files import LORAS
from dit.pack import patchify
from dit.wan import write_pipeline
from samplers.path import shift_for
from vae.diffusers_folder import write_wan
from vae.interface import STATISTICS
from vae.load import WEIGHTS as AUTOENCODER
from vae.load import load_autoencoder, same_latents
from vae.model import Autoencoder
from vae.training.files import read_json, whole, write_json
from vae.training.weights import TRANSFORMERS, read_header, save_weights, shards


@dataclass(frozen=True)
class ExportSettings:
    """Write a model as the folder of a Wan pipeline, which diffusers loads, or as our own files."""

    model: Positional[str] = "builtin"
    """Model folder: a run of `dit train`, or `builtin`; or an autoencoder alone: a run, or its file."""
    out: str = "exported"
    """Folder to write; it must not exist yet, or be empty."""
    autoencoder: str | None = None
    """Another autoencoder of the same latents, its decoder trained further; None takes the model's own."""
    text_folder: str | None = None
    """Folder of the frozen text encoder that a run was trained with; None: the model has its own."""
    lora: tuple[str, ...] = ()
    """Adapters to add to the transformer: a file or a run's folder each, FILE or FILE:SCALE."""
    format: Literal["diffusers", "half"] = "diffusers"
    """`diffusers` for `WanPipeline`; `half` for our own files in fp16, like the built-in model."""


def export(settings: ExportSettings) -> Path:
    """Writes the folder whole or not at all, and returns it; raises ValueError where it is already in use."""
    out = Path(settings.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} is already there: give the name of a new folder")
    if _is_autoencoder(Path(settings.model)):
        write, model = write_wan, load_autoencoder(settings.model)
    else:
        write = FORMATS[settings.format]
        device, dtype = torch.device("cpu"), torch.float32
        model = load_model(settings.model, device, dtype, settings.text_folder, settings.lora)
        if settings.autoencoder:
            model = replace(model, autoencoder=_same_latents(model.autoencoder, settings.autoencoder))
    with whole(out) as place:
        place.mkdir()
        write(place, model)
    return out


def _is_autoencoder(path: Path) -> bool:
    """Whether a model is an autoencoder alone: its weights file, or a folder of one and no transformer."""
    if not (path / AUTOENCODER).is_file():
        return bool(shards(path))
    if (path / "run.json").is_file():
        return read_json(path / "run.json").get("kind") == "autoencoder"
    files = [path / TRANSFORMER, *(step / AVERAGE for step in path.glob("step-*/"))]
    return not any(read_header(file).kind in TRANSFORMERS for file in files if shards(file))


def _same_latents(before: Autoencoder, source: str) -> Autoencoder:
    """The autoencoder of `source`; raises ValueError unless its latents are those of the one before."""
    other = load_autoencoder(source)
    if not isinstance(before, Autoencoder) or not isinstance(other, Autoencoder):
        raise ValueError(
            "--autoencoder takes the place of an autoencoder of Wan 2.1's or ours, by another such"
        )
    if not same_latents(before, other):
        raise ValueError(
            f"--autoencoder {source} has other latents than the model's own: train only its decoder"
        )
    return other


def _check_ours(model: Model) -> None:
    """Raises ValueError for a model of another's autoencoder, which lies in its run's folder as it was."""
    if not isinstance(model.autoencoder, Autoencoder):
        raise ValueError(
            "only models whose autoencoder is Wan 2.1's or ours are exported, and this has another"
        )


def _write_diffusers(folder: Path, model: Model) -> None:
    """A Wan pipeline's folder, and beside it what diffusers has no place for."""
    _check_ours(model)
    if model.denoiser.low_noise:
        raise ValueError("a model of two transformers is only sampled, not exported")
    denoiser, shape = model.denoiser, model.autoencoder.latent_shape(*model.size)
    tokens_LP, _ = patchify(torch.empty(shape, device="meta"))
    shift = shift_for(len(tokens_LP), model.flow)  # at the size that the model was trained on
    write_pipeline(folder, denoiser.transformer, model.autoencoder, denoiser.text, shift)
    write_json(folder / OURS, defaults(model))


def _write_half(folder: Path, model: Model) -> None:
    """Our two weights files in half precision; raises ValueError for a model that is not ours."""
    if model.kind not in (*TRANSFORMERS, *LORAS):
        raise ValueError("--format half takes a model that `dit train` made, not a diffusers folder")
    _check_ours(model)
    settings = {"model": to_json(model.autoencoder.config)}
    save_weights(folder / AUTOENCODER, half(model.autoencoder.state_dict()), "autoencoder", settings)
    trained = half(model.denoiser.trained_state())
    save_weights(folder / TRANSFORMER, trained, "transformer", model.settings, model.facts)


def half(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights in half precision; the latents' statistics stay as they are."""
    return {name: tensor if name in STATISTICS else tensor.half() for name, tensor in tensors.items()}


FORMATS = {"diffusers": _write_diffusers, "half": _write_half}


def defaults(model: Model) -> dict:
    """What diffusers' files have no place for."""
    return {
        "text": to_json(replace(model.denoiser.text.config, folder="")),
        "flow": to_json(model.flow),
        "sampler": to_json(model.sampler),
        "size": list(model.size),
        "fps": model.fps,
    }


def main(arguments: list[str]) -> None:
    """The verb `dit export`."""
    print(export(parse(ExportSettings, arguments, prog="dit export")))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("export")
