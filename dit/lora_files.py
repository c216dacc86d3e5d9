"""Files of low-rank adapters (LoRA): ours, diffusers', peft's, ComfyUI's and kohya's, added to weights.

Every key of a file is accounted for: one that names no layer of the transformer, or no LoRA, is refused.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from einops import rearrange
from torch import Tensor

from configs.load import from_json, parse_json
from configs.model import TransformerConfig
from configs.train import LoraConfig
from dit.model import Transformer
from dit.wan import TABLE, names
from vae.compression import PATCH
from vae.training.checkpoints import checkpoints, step_of
from vae.training.files import naming, read_json
from vae.training.weights import Header, read_header, read_metadata, read_tensors, shards, weights_hash

LORA = "pytorch_lora_weights.safetensors"  # the name that diffusers looks for in a folder
PEFT, PEFT_SETTINGS = "adapter_model.safetensors", "adapter_config.json"  # those of peft
AVERAGE = "average.safetensors"
METADATA = "lora_adapter_metadata"  # in a header: diffusers' settings of the adapters
LORAS = ("lora", "lora checkpoint")
ADAPTER = "default"  # peft's name of the adapter of a run
MARK = ".lora_"  # in the name of each of its tensors
PREFIXES = ("base_model.model.", "diffusion_model.", "transformer.", "lora_unet_", "")
PARTS = {  # ends of keys -> what of a layer's adapter it is
    **{
        f"lora_{letter}{name}.weight": part
        for letter, part in (("A", "down"), ("B", "up"))
        for name in ("", f".{ADAPTER}")
    },
    **{f"lora{sign}{part}.weight": part for sign in "_." for part in ("down", "up")},
    **{"lora_B.bias": "bias", "alpha": "alpha", "diff": "diff", "diff_b": "diff_b"},
}
ORIGINAL = (  # diffusers' names -> Wan's own
    (r"attn1\.to_([qkv])", r"self_attn.\1"),
    (r"attn2\.to_([qkv])", r"cross_attn.\1"),
    (r"attn1\.to_out\.0", "self_attn.o"),
    (r"attn2\.to_out\.0", "cross_attn.o"),
    (r"attn1\.norm", "self_attn.norm"),
    (r"attn2\.norm", "cross_attn.norm"),
    (r"\.norm2$", ".norm3"),
    (r"ffn\.net\.0\.proj", "ffn.0"),
    (r"ffn\.net\.2", "ffn.2"),
    (r"condition_embedder\.(time|text)_embedder\.linear_1", r"\1_embedding.0"),
    (r"condition_embedder\.(time|text)_embedder\.linear_2", r"\1_embedding.2"),
    (r"condition_embedder\.time_proj", "time_projection.1"),
    (r"^proj_out", "head.head"),
    (r"^blocks\.(\d+)\.scale_shift_table", r"blocks.\1.modulation"),
    (r"^scale_shift_table", "head.modulation"),
)
KNOWN = {"r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "use_rslora", "lora_bias"}
KNOWN |= {"peft_type", "task_type", "bias", "init_lora_weights", "inference_mode", "lora_dropout"}
KNOWN |= {"base_model_name_or_path", "revision", "peft_version", "megatron_core", "exclude_modules"}
KNOWN |= {"auto_mapping", "layers_to_transform", "layers_pattern"}
KNOWN |= {"qalora_group_size"}  # has an effect with use_qalora alone


@dataclass(frozen=True)
class Scaled:
    """A file of adapters, and how much of them is added."""

    file: Path
    scale: float

    @property
    def hash(self) -> str:
        """SHA-256 of the file."""
        return weights_hash(self.file)


def in_diffusers(
    tensors: Mapping[str, Tensor], config: TransformerConfig, lora: LoraConfig
) -> dict[str, Tensor]:
    """A run's adapters as `WanPipeline.load_lora_weights` takes them, a pair for each of its layers.

    alpha / rank is in the matrices, so that alpha is the rank: readers that know of none are right too.
    """
    scale, result = (lora.alpha or lora.rank) / lora.rank, {}
    pt, ph, pw = PATCH
    for ours, theirs in names(config):
        name = f"transformer.{ours.removesuffix('.weight')}{MARK}"
        if f"{name}A.{ADAPTER}.weight" not in tensors:
            continue
        down, up = (tensors[f"{name}{letter}.{ADAPTER}.weight"].float() for letter in "AB")
        pairs = zip(down.chunk(len(theirs)), (scale * up).chunk(len(theirs)), strict=True)
        for layer, (a, b) in zip(theirs, pairs, strict=True):
            if layer.startswith("patch_embedding"):
                a = rearrange(a, "r (c pt ph pw) -> r c pt ph pw", pt=pt, ph=ph, pw=pw)
                b = rearrange(b, "o r -> o r 1 1 1")
            layer = f"transformer.{layer.removesuffix('.weight')}{MARK}"
            result |= {f"{layer}A.weight": a.clone(), f"{layer}B.weight": b.clone()}
    return result


def about_adapters(tensors: Mapping[str, Tensor], lora: LoraConfig) -> dict[str, str]:
    """What the header of such a file says to diffusers: the rank, alpha, and which layers there are."""
    layers = sorted({name.removeprefix("transformer.").split(MARK)[0] for name in tensors})
    about = {"r": lora.rank, "lora_alpha": lora.rank, "target_modules": layers}
    return {METADATA: json.dumps({f"transformer.{name}": value for name, value in about.items()})}


def find_adapters(folder: Path) -> Path | None:
    """The adapters in a folder: a run's finished ones, or of a newer checkpoint of it, or another's.

    The folder may be a checkpoint itself. None where it holds something else.
    """
    steps = checkpoints(folder)
    for file in (folder / LORA, folder / PEFT):
        if file.is_file() and (not steps or read_header(file).facts.get("step", 0) >= step_of(steps[-1])):
            return file
    for file in (*(step / AVERAGE for step in steps[-1:]), folder / AVERAGE):
        if shards(file) and header_of(file):
            return file
    return None


def parse_scaled(given: str) -> Scaled:
    """The file that `FILE`, `FILE:SCALE` or a folder of one names, and its scale; ValueError for none."""
    name, _, number = given.rpartition(":")
    scale = 1.0
    if name and not Path(given).exists():
        try:
            scale = float(number)
        except ValueError:
            name = given
        if not math.isfinite(scale):
            raise ValueError(f"--lora {given}: {number} is no scale")
    else:
        name = given
    path = Path(name)
    file = path if path.is_file() else find_adapters(path)
    if file is None:
        raise ValueError(f"--lora {given}: no adapters there; give FILE or FILE:SCALE, or a run's folder")
    return Scaled(file, scale)


def header_of(file: Path) -> Header | None:
    """The header of adapters that a run of ours made; None for another's."""
    return read_header(file, *LORAS) if read_metadata(shards(file)[0]).get("kind") in LORAS else None


def add_adapters(transformer: Transformer, scaled: Sequence[Scaled]) -> None:
    """Adds the products of adapters to a transformer's weights, in place, in fp32.

    Raises ValueError naming the file, and the key in it, that does not fit.
    """
    changes: dict[str, list[Tensor]] = {}
    parameters, config = dict(transformer.named_parameters()), transformer.config
    for one in scaled:
        with naming(one.file):
            for name, change in _changes(one.file, parameters, config):
                changes.setdefault(name, []).append(one.scale * change)
    for ours, theirs in names(config):
        if any(name in changes for name in theirs):
            parameter = parameters[ours]
            summed = parameter.detach().float().clone()
            for name, part in zip(theirs, summed.chunk(len(theirs)), strict=True):
                for change in changes.get(name, ()):
                    part += change
            parameter.data = summed


def _changes(
    file: Path, parameters: Mapping[str, Tensor], config: TransformerConfig
) -> Iterator[tuple[str, Tensor]]:
    """What a file of adapters adds to each of diffusers' parameters, in the shape that ours has."""
    sizes = {}
    for ours, theirs in names(config):
        parts = parameters[ours].chunk(len(theirs))
        sizes |= {name: part.shape for name, part in zip(theirs, parts, strict=True)}
    tensors, settings = _read(file, config)
    found: dict[str, dict[str, tuple[str, Tensor]]] = {}
    spelled = _spellings(sizes)
    for key, tensor in tensors.items():
        layer, part = _place(key, spelled)
        if part in found.setdefault(layer, {}):
            raise ValueError(f"{key} and {found[layer][part][0]} are of the same layer")
        found[layer][part] = key, tensor.float()
    for layer, parts in found.items():
        weight, bias = (layer, "") if layer.endswith(TABLE) else (f"{layer}.weight", f"{layer}.bias")
        scale = _scale(layer, parts, settings)
        if "down" in parts:
            (down_key, down), (up_key, up) = parts["down"], parts["up"]
            _check_size(down_key, down.flatten(1), (len(down), sizes[weight][-1]))
            _check_size(up_key, up.flatten(1), (sizes[weight][0], len(down)))
            yield weight, scale * (up.flatten(1) @ down.flatten(1))
        for part, name, factor in (("diff", weight, 1.0), ("diff_b", bias, 1.0), ("bias", bias, scale)):
            if part in parts:
                key, change = parts[part]
                change = change.flatten(1) if change.ndim == 5 else change.squeeze(0)
                _check_size(key, change, sizes.get(name, ()))
                yield name, factor * change


def _check_size(key: str, tensor: Tensor, size: Sequence[int]) -> None:
    """Raises ValueError for a tensor of another size than a layer of this transformer takes."""
    if tuple(tensor.shape) != tuple(size):
        raise ValueError(f"{key} is {tuple(tensor.shape)}, where this transformer takes {tuple(size)}")


def _scale(layer: str, parts: Mapping[str, tuple[str, Tensor]], settings: Mapping) -> float:
    """alpha / rank of a layer's adapter: its own alpha, or the one that is stated for all, or the rank.

    Raises ValueError where a part of the adapter is missing.
    """
    if not {"down", "up", "alpha", "bias"} & parts.keys():
        return 1.0
    if not {"down", "up"} <= parts.keys():
        key = next(iter(parts.values()))[0]
        raise ValueError(f"{key} stands alone: an adapter of a layer has two matrices")
    rank = len(parts["down"][1])
    alpha = settings.get("lora_alpha", rank)
    for pattern, value in (settings.get("alpha_pattern") or {}).items():  # the first one counts, as in peft
        if layer == pattern.removeprefix("^") or layer.endswith(f".{pattern}"):
            alpha = value
            break
    if "alpha" in parts:
        key, tensor = parts["alpha"]
        _check_size(key, tensor.flatten(), (1,))
        alpha = tensor.item()
    if not isinstance(alpha, int | float) or not rank:
        raise ValueError(f"{layer} has alpha = {alpha!r} and rank {rank}")
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _place(key: str, spelled: Mapping[str, str]) -> tuple[str, str]:
    """The layer, by diffusers' name, and the part of its adapter that a key names; ValueError for none."""
    end = next((end for end in PARTS if key.endswith(f".{end}")), None)
    if end is None:
        raise ValueError(f"{key} is no part of a LoRA; what is: *.lora_A.weight, *.lora_down.weight, *.alpha")
    name = key.removesuffix(f".{end}")
    for prefix in PREFIXES:
        if name.startswith(prefix) and (layer := spelled.get(name.removeprefix(prefix))):
            return layer, PARTS[end]
    raise ValueError(f"{key} names no layer of this transformer")


def _spellings(parameters: Mapping[str, object]) -> dict[str, str]:
    """All names that files give to layers -> diffusers' names: those, Wan's own, and kohya's of both."""
    spelled = {}
    for layer in (name.removesuffix(".weight") for name in parameters if not name.endswith(".bias")):
        original = layer
        for pattern, other in ORIGINAL:
            original = re.sub(pattern, other, original)
        spelled |= {name: layer for one in (layer, original) for name in (one, one.replace(".", "_"))}
    return spelled


def _read(file: Path, config: TransformerConfig) -> tuple[dict[str, Tensor], Mapping]:
    """The tensors of a file of adapters, and what is stated of all of them: rank, alpha and so on."""
    tensors = read_tensors(file)
    if not tensors:
        raise ValueError("there is nothing in it")
    if (header := header_of(file)) and header.kind == "lora checkpoint":
        lora = from_json(LoraConfig, header.settings["lora"], file)
        return in_diffusers(tensors, config, lora), {}
    settings = {}
    if file.suffix == ".safetensors":
        stated = read_metadata(file).get(METADATA)
        about = parse_json(stated, f"{METADATA} in its header") if stated else {}
        settings = {name.removeprefix("transformer."): value for name, value in about.items()}
    if any(key.startswith("base_model.model.") for key in tensors) and not settings:
        beside = file.with_name(PEFT_SETTINGS)
        if not beside.is_file():
            raise ValueError(f"it is peft's, whose alpha stands in {PEFT_SETTINGS}, which is not beside it")
        settings = read_json(beside)
    for name, value in settings.items():
        moved = name == "init_lora_weights" and not isinstance(value, bool)  # weights that it is added to
        if moved or (value and name not in KNOWN):
            raise ValueError(f"its adapters have {name} = {value!r}, which is not supported")
    for pattern in settings.get("alpha_pattern") or {}:
        if not re.fullmatch(
            r"\^?[\w.]+", pattern
        ):  # peft's may be any expression; ranks are the matrices' own
            raise ValueError(f"its alpha_pattern has {pattern!r}, which is no name of a layer")
    return tensors, settings
