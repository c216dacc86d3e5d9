"""`dit export MODEL --out FOLDER`: a model as the folder of a Wan pipeline, which diffusers loads."""

import shutil
from dataclasses import replace
from pathlib import Path

import torch

from configs.load import parse, to_json
from configs.settings import ExportSettings
from dit.denoiser import OURS, Model, load_model
from dit.diffusers_format import write_json, write_pipeline
from dit.generate import latent_shape, shift_for
from dit.model import grid_of


def export(settings: ExportSettings) -> Path:
    """Writes the folder whole or not at all, and returns it; raises ValueError where it is already in use."""
    out = Path(settings.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} is already there: give the name of a new folder")
    model = load_model(settings.model, torch.device("cpu"), torch.float32)
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    write_pipeline(
        temporary, model.denoiser.transformer, model.autoencoder, model.denoiser.text, own_shift(model)
    )
    write_json(temporary / OURS, defaults(model))
    temporary.replace(out)
    return out


def own_shift(model: Model) -> float:
    """The shift of the times at the size the model was trained on."""
    shape = latent_shape(*model.size, model.autoencoder.config.latent_channels)
    return shift_for(torch.Size(grid_of(torch.empty(shape, device="meta"))).numel(), model.flow)


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
