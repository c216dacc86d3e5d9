"""The door to text encoders: transformers' T5 and UMT5, embeddings of a cache, the byte-level one."""

import hashlib
import html
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.model import TextConfig
from dit.byte_t5 import BUCKETS, END, EPS, FARTHEST, PADDING, VOCABULARY, ByteEncoder, TextInputs
from vae.cache.index import Cache, remedy
from vae.cache.shards import DTYPES, Location, read_row
from vae.diffusers_folder import read_config
from vae.training.files import file_hash, out_of_memory, read_json, read_text
from vae.training.weights import read_model, weights_files

TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


class PretrainedEncoder(nn.Module):
    """A frozen T5 or UMT5 encoder through transformers."""

    def __init__(self, config: TextConfig, model: nn.Module, tokenizer):
        super().__init__()
        self.config, self.model, self.tokenizer = config, model.eval().requires_grad_(False), tokenizer

    def read(self, prompts: list[str]) -> TextInputs:
        """Padded token ids of prompts, their mask, and where in them those are that are no padding."""
        if self.config.padded:
            prompts = [clean(prompt) for prompt in prompts]
        batch = self.tokenizer(
            prompts,
            max_length=self.config.max_tokens,
            truncation=True,
            padding="longest",
            return_tensors="pt",
        )
        ids, mask = batch["input_ids"], batch["attention_mask"]
        lengths = [self.config.max_tokens] * len(ids) if self.config.padded else mask.sum(1).tolist()
        return TextInputs((ids, mask, mask.flatten().nonzero().squeeze(1)), lengths)

    @torch.no_grad()
    def forward(self, prompts: list[str] | TextInputs) -> tuple[Tensor, list[int]]:
        """Packed embeddings S x width of prompts, or of what is read of them, and each one's length, zero
        padding counted if kept."""
        inputs = prompts if isinstance(prompts, TextInputs) else self.read(prompts)
        ids, mask, places = inputs.to(next(self.model.parameters()).device).tensors
        embeddings = self.model(ids, attention_mask=mask)[0].float()
        if not self.config.padded:
            return embeddings.flatten(0, 1)[places], inputs.lengths
        missing = self.config.max_tokens - embeddings.shape[1]
        return F.pad(embeddings * mask[..., None], (0, 0, 0, missing)).flatten(0, 1), inputs.lengths


@dataclass(frozen=True)
class StoredText:
    """An embedding in a cache: its folder, the stored precision, and where it lies."""

    folder: Path
    dtype: torch.dtype
    location: Location

    def read(self) -> Tensor:
        """The embedding S x width; raises ValueError with the remedy where it cannot be read."""
        try:
            return read_row(self.folder, self.location, self.dtype)
        except (ValueError, OSError) as error:
            raise ValueError(f"{error}: {remedy(self.folder)}") from None


class EmbeddedText(nn.Module):
    """What a frozen encoder made of prompts, read from where a cache keeps it, in place of the encoder."""

    def __init__(self, config: TextConfig, stored: Mapping[str, StoredText]):
        super().__init__()
        self.config, self.stored = config, stored
        self.kept: dict[str, Tensor] = {}
        self.register_buffer("home", torch.empty(0), persistent=False)  # knows the device

    def keep(self, prompts: Iterable[str]) -> None:
        """Has the encoder itself, once, embed those prompts that the cache lacks."""
        if absent := [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.stored]:
            packed, lengths = load_pretrained(self.config)(absent)
            self.kept |= dict(zip(absent, packed.split(lengths), strict=True))

    def read(self, prompts: list[str]) -> TextInputs:
        """The embeddings of prompts, where they are kept."""
        rows = [
            self.kept[prompt] if prompt in self.kept else self.stored[prompt].read() for prompt in prompts
        ]
        if self.config.padded:
            rows = [F.pad(row, (0, 0, 0, self.config.max_tokens - len(row))) for row in rows]
        return TextInputs((torch.cat(rows),), [len(row) for row in rows])

    def forward(self, prompts: list[str] | TextInputs) -> tuple[Tensor, list[int]]:
        """Packed embeddings S x width of prompts, or of what is read of them, and each one's length, zero
        padding counted if kept."""
        inputs = prompts if isinstance(prompts, TextInputs) else self.read(prompts)
        return inputs.to(self.home.device).tensors[0], inputs.lengths


def embedded_text(
    caches: Sequence[Cache], config: TextConfig, prompts: Iterable[str], print_once: Callable
) -> EmbeddedText | None:
    """The embeddings of caches, and of these prompts, in place of the frozen text encoder; None where a cache
    has none, and so says.

    Raises ValueError where another encoder or other settings made them.
    """
    needed, stored = text_provenance(config), {}
    for cache in caches:
        if not (held := cache.provenance["text"]):
            print_once(
                f"note: {cache.folder} has no embeddings, the text encoder runs in every step; "
                f"`dit vae encode … --text.folder {config.folder}` adds them"
            )
            return None
        for name, value in needed.items():
            if value != held[name]:
                what = (
                    f"text.{name} = {held[name]}, not {value}"
                    if name != "encoder"
                    else "another text encoder"
                )
                raise ValueError(
                    f"{cache.folder} holds embeddings of {what}: give `dit vae encode` the settings of this "
                    f"run, which encodes the captions alone"
                )
        places = {"": cache.empty}
        for file in cache.files:
            places |= zip(file.captions, file.texts, strict=True)
        dtype = DTYPES[cache.provenance["dtype"]]
        stored |= {text: StoredText(cache.folder, dtype, place) for text, place in places.items()}
    text = EmbeddedText(config, stored)
    text.keep(prompts)
    return text


def clean(prompt: str) -> str:
    """A prompt as open Wan weights saw it: Unicode mended, plain quotes, no HTML entities, single spaces."""
    import ftfy

    return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split())


def encoder_folder(config: TextConfig) -> Path:
    """Where the encoder's `config.json` and weights lie: in `config.folder`, or in a pipeline's subfolder."""
    folder = Path(config.folder)
    inner = folder / "text_encoder" if (folder / "text_encoder").is_dir() else folder
    if not (inner / "config.json").is_file():
        raise ValueError(f"{folder} holds no text encoder: it needs config.json, weights and a tokenizer")
    return inner


def encoder_hash(config: TextConfig) -> str:
    """SHA-256 over the size of a frozen encoder's every weights file and 64 even pieces of 64 KiB of it.

    The first piece is its header, with every tensor's name and shape. UMT5-XXL has 23 GB, whose every byte
    would take a minute; weights that were trained on, rounded or swapped differ in these pieces too.
    """
    digest, piece = hashlib.sha256(), 2**16
    for path in weights_files(encoder_folder(config), "model"):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with open(path, "rb") as file:
            for k in range(64):
                file.seek(k * size // 64)
                digest.update(file.read(piece))
    return digest.hexdigest()


def text_provenance(config: TextConfig) -> dict | None:
    """What embeddings of a frozen encoder depend on; None for the byte-level one, which is trained."""
    if not config.folder:
        return None
    folder = Path(config.folder)
    words = folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder
    files = {encoder_folder(config) / "config.json", *words.glob("*.json"), *words.glob("*.model")}
    about = "".join(file_hash(file) for file in sorted(files))
    return {
        "encoder": encoder_hash(config),
        "files": hashlib.sha256(about.encode()).hexdigest(),
        "max_tokens": config.max_tokens,
        "padded": config.padded,
    }


def load_pretrained(config: TextConfig) -> PretrainedEncoder:
    """The encoder of `config.folder`: a model beside its tokenizer, or a pipeline with a subfolder for each.

    Its weights are fp32, in whatever format they are kept. Raises ValueError where one of them is missing.
    """
    from transformers import T5EncoderModel, UMT5EncoderModel

    model_folder = encoder_folder(config)
    kinds = {"t5": T5EncoderModel, "umt5": UMT5EncoderModel}
    kind = str(read_config(model_folder / "config.json").get("model_type"))
    if kind not in kinds:
        raise ValueError(
            f"{model_folder} holds a text encoder of type {kind}; only {' and '.join(kinds)} work"
        )
    tokenizer = load_tokenizer(config)
    tensors = read_model(model_folder, "model")
    if not tensors:
        raise ValueError(f"{model_folder} holds no text encoder: it needs config.json and model.safetensors")
    try:
        settings = kinds[kind].config_class.from_json_file(model_folder / "config.json")
        model, told = kinds[kind].from_pretrained(
            None,
            config=settings,
            state_dict=tensors,
            output_loading_info=True,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except Exception as error:  # whatever a foreign folder does wrong is the answer
        if out_of_memory(error):
            raise
        raise ValueError(f"{model_folder} holds no text encoder ({first_line(error)})") from None
    if wrong := sorted(told["missing_keys"]) + sorted(map(str, told["mismatched_keys"])):
        raise ValueError(f"{model_folder} does not fit the text encoder's settings: {wrong[0]} is missing")
    return PretrainedEncoder(config, model.float(), tokenizer)


def bare_encoder(config: TextConfig) -> nn.Module:
    """The encoder of a folder's `config.json`, without its weights; ValueError for one of another kind."""
    from transformers import T5EncoderModel, UMT5EncoderModel

    file = encoder_folder(config) / "config.json"
    kinds = {"t5": T5EncoderModel, "umt5": UMT5EncoderModel}
    kind = str(read_json(file).get("model_type"))
    if kind not in kinds:
        raise ValueError(f"{file} is of a text encoder of type {kind}; only {' and '.join(kinds)} work")
    return kinds[kind](kinds[kind].config_class.from_json_file(file))


def load_tokenizer(config: TextConfig):
    """The tokenizer of `config.folder`; raises ValueError where there is none."""
    from transformers import AutoTokenizer

    folder = Path(config.folder)
    folder = folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder
    for file in filter(Path.is_file, (folder / name for name in TOKENIZER_SETTINGS)):
        _check_printable(file)
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever a foreign folder does wrong is the answer
        if out_of_memory(error):
            raise
        raise ValueError(f"{folder} holds no tokenizer ({first_line(error)})") from None


def _check_printable(file: Path) -> None:
    """Raises ValueError where a name in a tokenizer's settings could steer a terminal: the tokenizers library
    prints the names that it does not know."""

    def check(pairs: list[tuple[str, object]]) -> None:
        if bad := next((name for name, _ in pairs if not name.isprintable()), None):
            raise ValueError(f"{file} has the setting {ascii(bad)[:60]}, whose name is not printable")

    with suppress(json.JSONDecodeError, RecursionError):  # of which the library's own reader speaks
        json.loads(read_text(file), object_pairs_hook=check)


def first_line(error: Exception) -> str:
    """The first line of what an error of transformers says."""
    return (str(error) or type(error).__name__).splitlines()[0]


def cut_note(config: TextConfig, prompts: Iterable[str], what: str = "prompts", tokenizer=None) -> str:
    """A line on how many prompts the encoder cuts, as they have more tokens than it takes; or nothing."""
    different, longest = list(dict.fromkeys(prompts)), config.max_tokens
    if not config.folder:
        cut = sum(len(prompt.encode()) + 1 > longest for prompt in different)
    else:
        # A token has at least a letter; beside them a text has a space in front and an end.
        sure = {p for p in different if p.isascii() and "&" not in p and len(p) + 2 <= longest}
        texts = [clean(p) if config.padded else p for p in different if p not in sure]
        tokenizer = tokenizer or (load_tokenizer(config) if texts else None)
        masks = tokenizer(texts, verbose=False)["attention_mask"] if texts else []
        cut = sum(len(mask) > longest for mask in masks)
    if not cut:
        return ""
    return f"note: {cut} of {len(different)} {what} have more than text.max_tokens = {longest}: cut there"


def make_encoder(config: TextConfig) -> nn.Module:
    """The text encoder of the settings."""
    return load_pretrained(config) if config.folder else ByteEncoder(config)


def write_encoder(encoder: nn.Module, folder: Path) -> dict[str, str]:
    """Writes `text_encoder` and `tokenizer` into a pipeline's folder; returns the names of their classes."""
    if isinstance(encoder, PretrainedEncoder):
        model, tokenizer = encoder.model, encoder.tokenizer
    else:
        model, tokenizer = as_transformers(encoder)
    model.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    return {"text_encoder": type(model).__name__, "tokenizer": type(tokenizer).__name__}


def as_transformers(encoder: ByteEncoder) -> tuple[nn.Module, object]:
    """The byte-level encoder as transformers' `T5EncoderModel`, and its tokenizer, which is ByT5's."""
    from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

    config = encoder.config
    model = T5EncoderModel(
        T5Config(
            vocab_size=VOCABULARY,
            d_model=config.width,
            d_kv=config.width // config.heads,
            d_ff=config.mlp_width,
            num_layers=config.depth,
            num_heads=config.heads,
            relative_attention_num_buckets=BUCKETS,
            relative_attention_max_distance=FARTHEST,
            layer_norm_epsilon=EPS,
            feed_forward_proj="gated-gelu",
            pad_token_id=PADDING,
            eos_token_id=END,
        )
    )
    state = {name: tensor.float().cpu() for name, tensor in encoder.state_dict().items()}
    model.load_state_dict(state | {"encoder.embed_tokens.weight": state["shared.weight"]})
    return model.eval(), ByT5Tokenizer(model_max_length=config.max_tokens)
