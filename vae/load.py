"""Any autoencoder by its name: a weights file or run of ours, `builtin`, or a folder of diffusers."""

import hashlib
import json
import shutil
import sys
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

import torch

from configs.load import from_json, to_json
from configs.model import AutoencoderConfig
from vae.diffusers_folder import WAN, autoencoder_config, load_wan
from vae.diffusers_models import bare_autoencoder as bare_diffusers
from vae.diffusers_models import load_diffusers
from vae.interface import STATISTICS, VideoAutoencoder
from vae.model import Autoencoder
from vae.statistics import FILE as MEASURED
from vae.statistics import read_statistics
from vae.training.files import file_hash, naming, read_json, whole, write_whole
from vae.training.weights import (
    AUTOENCODERS,
    Header,
    check_fit,
    load_strictly,
    load_weights,
    read_header,
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


class Unloaded(VideoAutoencoder):
    """Stands in for an autoencoder whose every latent is in a cache: what it is, without its weights.

    `hashed` is its hash, `files` that of the files in `source`, with which it was made.
    """

    def __init__(self, source: str | Path, hashed: str, files: str):
        with torch.device("meta"):
            bare = bare_autoencoder(settings_of(find_autoencoder(source)))
        super().__init__(bare.channels)
        self.compression, self.settings = bare.compression, bare.settings
        self.source, self.hash, self.files = source, hashed, files

    def loaded(self) -> VideoAutoencoder:
        """The autoencoder itself, read anew, on the device that latents are on."""
        return load_autoencoder(self.source, self.latent_mean.device)

    def has_latents_of(self, source: str | Path, as_shipped: bool) -> bool:
        """Whether it is the very files of another place, all of which count."""
        ignored = as_shipped and (find_autoencoder(source) / MEASURED).exists()
        return not ignored and stored_hash(source) == self.files

    def _absent(self, *_) -> NoReturn:
        raise AssertionError(f"{self.source} is not loaded")

    posterior = decode = encode_stream = decode_stream = _absent


def bare_autoencoder(settings: AutoencoderConfig | dict) -> VideoAutoencoder:
    """The autoencoder of settings of ours, or of diffusers, without its weights."""
    return Autoencoder(settings) if isinstance(settings, AutoencoderConfig) else bare_diffusers(settings)


def settings_of(path: Path) -> AutoencoderConfig | dict:
    """The settings of an autoencoder from its weights file of ours, or diffusers' folder."""
    if shards(path):
        with naming(path):
            return from_json(AutoencoderConfig, read_header(path, *AUTOENCODERS).settings["model"], path)
    settings = read_json(path / "config.json")
    ours = settings.get("_class_name") == WAN and not settings.get("is_residual")
    return autoencoder_config(settings) if ours else settings


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
    """Writes the autoencoder that came from `source` into a run's folder, whole or not at all.

    Of one that is not loaded the very files, by which it is known again.
    """
    files, unloaded = shards(find_autoencoder(source)), isinstance(autoencoder, Unloaded)
    if unloaded and len(files) == 1:
        write_whole(out / WEIGHTS, lambda place: shutil.copyfile(files[0], place))
        return
    if isinstance(autoencoder, Autoencoder) or files:
        model = autoencoder.loaded()
        save_weights(out / WEIGHTS, model.state_dict(), "autoencoder", {"model": to_json(model.config)})
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
    if isinstance(autoencoder, Unloaded):
        return autoencoder.hash
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
