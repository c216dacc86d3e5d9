"""Any autoencoder by its name: a weights file or run of ours, `builtin`, or a folder of diffusers."""

import hashlib
import json
import shutil
import sys
from functools import lru_cache
from pathlib import Path

import torch

from configs.load import from_json, to_json
from configs.model import AutoencoderConfig
from vae.diffusers_folder import WAN, load_wan
from vae.diffusers_models import load_diffusers
from vae.interface import STATISTICS, VideoAutoencoder
from vae.model import Autoencoder
from vae.statistics import FILE as MEASURED
from vae.statistics import read_statistics
from vae.training.files import file_hash, naming, read_json, whole
from vae.training.weights import (
    AUTOENCODERS,
    Header,
    check_fit,
    load_strictly,
    load_weights,
    save_weights,
    shards,
    tensors_hash,
    weights_files,
    weights_hash,
)

BUILTIN = Path(__file__).parent.parent / "dit" / "builtin"
WEIGHTS = "autoencoder.safetensors"


def load_autoencoder(
    source: str | Path, device: str | torch.device = "cpu", as_shipped: bool = False
) -> VideoAutoencoder:
    """An autoencoder from a weights file of ours or its folder, `builtin`, or a diffusers folder.

    fp32, for inference. Statistics that `dit vae stats` left in a diffusers folder hold, unless it is taken
    `as_shipped`. Raises ValueError where there is none.
    """
    path = find_autoencoder(source)
    model = _load_ours(path) if shards(path) else load_folder(path, as_shipped)
    return model.to(device).eval().requires_grad_(False)


def find_autoencoder(source: str | Path) -> Path:
    """The weights file of ours, or diffusers' folder, that a name means; raises ValueError where none is."""
    path = BUILTIN if str(source) == "builtin" else Path(source)
    for place in (path, path / WEIGHTS):
        if shards(place):
            return place
    for folder in (path / "vae", path):  # a pipeline's, a run's, or the autoencoder's own
        if (folder / "config.json").is_file():
            return folder
    raise ValueError(
        f"{source}: no autoencoder there; it is a weights file, or a folder with {WEIGHTS}: "
        f"`dit vae train` makes one, and `builtin` is one that is here"
    )


def stored_hash(source: str | Path) -> str:
    """SHA-256 of an autoencoder's weights file; of a folder that of all its files, statistics included."""
    path = find_autoencoder(source)
    if shards(path):
        return weights_hash(path)
    return hashlib.sha256("".join(map(file_hash, _folder_files(path))).encode()).hexdigest()


def _folder_files(folder: Path) -> list[Path]:
    """The files of diffusers' folder that an autoencoder is made of."""
    files = [*folder.glob("config.json"), *sorted(folder.glob("*.safetensors.index*.json"))]
    return [*files, *weights_files(folder), *folder.glob(MEASURED)]


def keep_copy(source: str | Path, autoencoder: VideoAutoencoder, out: Path) -> None:
    """Writes the autoencoder that came from `source` into a run's folder, whole or not at all."""
    if isinstance(autoencoder, Autoencoder):
        settings = {"model": to_json(autoencoder.config)}
        save_weights(out / WEIGHTS, autoencoder.state_dict(), "autoencoder", settings)
        return
    with whole(out / "vae") as place:
        place.mkdir()
        for file in _folder_files(find_autoencoder(source)):
            shutil.copyfile(file, place / file.name)
        shutil.rmtree(out / "vae", ignore_errors=True)


def load_folder(folder: Path, as_shipped: bool = False) -> VideoAutoencoder:
    """An autoencoder from diffusers' folder of one: Wan 2.1's into our own network, others into their own."""
    settings = read_json(folder / "config.json")
    if settings.get("_class_name") == WAN and not settings.get("is_residual"):
        model = load_wan(folder)
    else:
        model = load_diffusers(folder)
    if as_shipped:
        return model
    if (measured := read_statistics(folder, model.channels)) is not None:
        model.set_statistics(measured)
    elif not model.ships_statistics:
        note_unmeasured(folder)
    return model


@lru_cache
def note_unmeasured(folder: Path) -> None:
    """Says once that latents are scaled by one factor for all channels, and what would measure them."""
    print(
        f"note: {folder} ships no statistics by channel, so its latents are scaled by its one factor; "
        f"dit vae stats {folder} --data MANIFEST measures them",
        file=sys.stderr,
    )


def _load_ours(path: Path) -> Autoencoder:
    """An autoencoder from its weights file, fp32.

    Raises ValueError for other weights, and for a checkpoint's, whose latents have no statistics yet.
    """
    tensors, header = load_weights(path, *AUTOENCODERS)
    with naming(path):
        config = from_json(AutoencoderConfig, header.settings["model"], path)
    check_fit(lambda: Autoencoder(config), tensors, path)
    autoencoder = Autoencoder(config)
    load_strictly(autoencoder, tensors, path)
    check_measured(autoencoder, path, header)
    return autoencoder


def check_measured(autoencoder: Autoencoder, path: Path, header: Header) -> None:
    """Raises ValueError for an autoencoder of a checkpoint, whose latents' statistics are not known yet."""
    if header.kind == "autoencoder checkpoint" and not autoencoder.measured:
        raise ValueError(
            f"{path} is of a checkpoint, and its latents' statistics are measured when its run ends: "
            f"finish that, with --train.steps {header.facts.get('step')} to end here"
        )


def autoencoder_hash(autoencoder: VideoAutoencoder) -> str:
    """SHA-256 of all that latents depend on: weights, with the latents' statistics, and settings."""
    about = json.dumps(autoencoder.settings, sort_keys=True, default=str)
    return hashlib.sha256((tensors_hash(autoencoder.state_dict()) + about).encode()).hexdigest()


def same_latents(one: VideoAutoencoder, other: VideoAutoencoder) -> bool:
    """Whether two autoencoders make the same latents: of ours the decoders may differ, and fp16 rounds."""
    if not isinstance(one, Autoencoder) or not isinstance(other, Autoencoder):
        return autoencoder_hash(one) == autoencoder_hash(other)
    ours, theirs = one.state_dict(), other.state_dict()
    names = [name for name in ours if name.startswith(("encoder.", "quant_conv.", *STATISTICS))]
    return one.config == other.config and all(
        torch.equal(ours[name].half(), theirs[name].half()) for name in names
    )
