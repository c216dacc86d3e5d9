"""Where a training starts: from the weights of a model, whose latents and text it then knows."""

from collections.abc import Callable
from pathlib import Path

from configs.load import from_json
from configs.model import TextConfig
from configs.train import TransformerRun
from dit.load import (
    OURS,
    Denoiser,
    TextDefaults,
    autoencoder_folder,
    find_weights,
    is_diffusers,
    model_folder,
)
from dit.text import encoder_hash
from vae.interface import VideoAutoencoder
from vae.load import Unloaded, load_autoencoder, same_latents
from vae.training.files import read_json
from vae.training.weights import TRANSFORMERS, load_strictly, load_weights


def check_init(config: TransformerRun, autoencoder: VideoAutoencoder, print_once: Callable) -> None:
    """Says where `init` is to be trained with other text; raises ValueError where its transformer never knew
    the autoencoder's latents, unless new ones are allowed."""
    if note := check_text(config.text, model_folder(config.init)):
        print_once(note)
    if not config.new_latents:
        folder = model_folder(config.init)
        home, shipped = autoencoder_folder(folder), is_diffusers(folder)
        check_latents(f"--init {config.init}", home, shipped, config.autoencoder, autoencoder)


def check_latents(whose: str, home: Path, shipped: bool, name: str, autoencoder: VideoAutoencoder) -> None:
    """Raises ValueError unless an autoencoder, of this name, has the latents of the one in `home`."""
    advice = "--new-latents has it learn others"
    try:
        if isinstance(autoencoder, Unloaded) and autoencoder.has_latents_of(home, shipped):
            return
        known = load_autoencoder(home, as_shipped=shipped)
    except ValueError as error:
        raise ValueError(f"nothing says which latents {whose} knows ({error}); {advice}") from None
    if not same_latents(known, autoencoder.loaded()):
        raise ValueError(
            f"--autoencoder {name} has other latents than those that {whose} knows: give its own, "
            f"--autoencoder {home}; {advice}"
        )


def check_text(config: TextConfig, folder: Path) -> str:
    """What to say where the transformer of a diffusers folder is to be trained with another text encoder.

    Raises ValueError where the encoder is the folder's own, or may be, but its text is padded otherwise.
    """
    if not (folder / "transformer" / "config.json").is_file():
        return ""
    ours, own = folder / OURS, TextConfig(folder=str(folder))
    padded = (
        from_json(TextConfig, read_json(ours, TextDefaults)["text"], ours).padded if ours.is_file() else True
    )
    known = (folder / "text_encoder" / "config.json").is_file()
    flag = f"--text.{'' if padded else 'no-'}padded"
    if not config.folder:
        takes = f"; --text.folder {folder} {flag} takes the one in the folder" if known else ""
        return f"note: of {folder} only the transformer is taken, the text encoder starts from random{takes}"
    if known and encoder_hash(config) != encoder_hash(own):
        return f"note: {config.folder} is not the text encoder of {folder}, which its transformer knows"
    if config.padded != padded:
        raise ValueError(f"the transformer of {folder} was trained with other text padding: give {flag}")
    return ""


def start_from(model: Denoiser, folder: Path) -> None:
    """Loads the weights of a model folder: of ours, or the transformer alone of a diffusers Wan pipeline."""
    if (folder / "transformer" / "config.json").is_file():
        from dit.wan import check_pipeline, load_transformer

        check_pipeline(folder)
        load_strictly(model.transformer, load_transformer(folder / "transformer").state_dict(), folder)
        return
    file = find_weights(folder)
    model.load_trained_state(load_weights(file, *TRANSFORMERS)[0], file)
