"""Weights: files of ours, whose header says kind, settings and facts; those of others, read safely."""

import hashlib
import json
import math
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NotRequired

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typing_extensions import TypedDict

from configs.load import from_json, parse_json
from configs.ranges import StepsOrZero
from vae.training.files import check_unfolded, file_hash, naming, out_of_memory, read_json, write_whole

KINDS = {  # of weights files, and the verb that makes each
    "transformer": "dit train",
    "transformer checkpoint": "dit train",
    "lora": "dit train",
    "lora checkpoint": "dit train",
    "autoencoder": "dit vae train",
    "autoencoder checkpoint": "dit vae train",
    "latents": "dit vae encode",
    "texts": "dit vae encode",
    "features": "dit eval fvd",
}
CHECKSUM = "tensors_crc32"  # in the header of our own files
OFFSETS = "DCP_SHARDING_INFO"  # torch.distributed.checkpoint's word for where a shard's tensors begin
POINTER = b"version https://git-lfs"
TRANSFORMERS = ("transformer", "transformer checkpoint")
AUTOENCODERS = ("autoencoder", "autoencoder checkpoint")


class Facts(TypedDict, total=False):
    """The facts in a header that more than their maker reads."""

    step: StepsOrZero
    smoothed: float | None


class CheckpointFacts(TypedDict):
    """The facts without which no run goes on from a checkpoint."""

    step: StepsOrZero
    smoothed: float | None
    begun: NotRequired[dict[str, StepsOrZero]]


@dataclass(frozen=True)
class Header:
    """What a weights file says of itself: its kind, the settings that made it, and facts of its making."""

    kind: str
    settings: dict
    facts: dict = field(default_factory=dict)


def save_weights(
    path: Path,
    tensors: Mapping[str, Tensor],
    kind: str,
    settings: dict,
    facts: dict | None = None,
    offsets: dict[str, list[int]] | None = None,
    others: Mapping[str, str] = {},
) -> None:
    """Saves tensors with kind, settings and facts in the header, and a checksum that every reader proves.

    `offsets` says of the parts of sharded tensors where they begin, as torch.distributed.checkpoint does;
    `others` is what the header says to the programs of others.
    """
    assert kind in KINDS, kind
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"kind": kind, **others}
    if offsets is not None:
        header[OFFSETS] = json.dumps({name: {"saved_offsets": begin} for name, begin in offsets.items()})
    header[CHECKSUM] = _checksum(plain, header.get(OFFSETS, ""))
    header |= {
        name: json.dumps(part or {}, sort_keys=True)
        for name, part in {"settings": settings, "facts": facts}.items()
    }

    def write(file: Path) -> None:
        save_file(plain, file, metadata=header)
        _sort_header(file)

    write_whole(path, write)


def shard(path: Path, number: int, count: int) -> Path:
    """The file of one of so many shards, counted from 1, of the weights that a path names."""
    return path.with_name(f"{path.stem}-{number:05d}-of-{count:05d}.safetensors") if count > 1 else path


def shards(path: Path) -> list[Path]:
    """The files of the weights that a path names: the one, or `NAME-00001-of-00002.safetensors` and so on.

    None where there is none; raises ValueError naming one that is missing, or is left over of others.
    """
    if path.suffix != ".safetensors":
        return [path] if path.is_file() else []
    pattern = re.compile(rf"{re.escape(path.stem)}-\d{{5}}-of-(\d{{5}})\.safetensors")
    found = {f: int(m[1]) for f in path.parent.glob("*.safetensors") if (m := pattern.fullmatch(f.name))}
    if path.is_file():
        if found:
            raise ValueError(f"{min(found)} is left over, beside {path.name}: leave one of them there")
        return [path]
    count = max(found.values(), default=0)
    files = [shard(path, number, count) for number in range(1, count + 1)]
    if missing := [file for file in files if file not in found]:
        raise ValueError(f"{missing[0]} is missing, one of {count} shards: bring it back")
    if len(found) > count:
        raise ValueError(f"{min(found.keys() - set(files))} is left over, there are {count} shards of others")
    return files


def copy_weights(source: Path, to: Path) -> None:
    """Copies the file of weights, or their shards, under another name."""
    files = shards(source) or [source]
    for number, file in enumerate(files, 1):
        shutil.copyfile(file, shard(to, number, len(files)))


def weights_hash(path: Path) -> str:
    """SHA-256 of the file of weights, or of the hashes of their shards; raises OSError where none is."""
    hashes = [file_hash(file) for file in shards(path) or [path]]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _sort_header(file: Path) -> None:
    """Gives a safetensors file's header its keys in order, so that equal content is equal bytes."""
    with open(file, "r+b") as opened:
        length = int.from_bytes(opened.read(8), "little")
        values = json.loads(opened.read(length))
        text = json.dumps(values, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= length:  # as it is but for the order
            opened.seek(8)
            opened.write(text.ljust(length))


def load_weights(path: Path, *kinds: str) -> tuple[dict[str, Tensor], Header]:
    """Tensors and header of a weights file of one of `kinds`; raises ValueError as `read_header` does."""
    header = read_header(path, *kinds)
    return read_tensors(path), header


def read_header(path: Path, *kinds: str) -> Header:
    """The header of weights, of one file or of all shards alike.

    Raises ValueError naming a file that is not ours, or of none of `kinds`; without `kinds` it may be of any.
    """
    if not (files := shards(Path(path))):
        raise ValueError(f"{path}: no such weights file")
    first, *others = [_read_header(file, *kinds) for file in files]
    for file, header in zip(files[1:], others, strict=True):
        if header != first:
            raise ValueError(f"{file} is a shard of other weights than {files[0].name} is")
    return first


def _read_header(path: Path, *kinds: str) -> Header:
    """The header of one file."""
    header = read_metadata(path)
    if not {"kind", "settings", "facts"} <= set(header):
        raise ValueError(
            f"{path} says no kind, settings and facts: it was not written by this project, or by a version "
            f"whose files are no longer read; make it again"
        )
    if kinds and (kind := header["kind"]) not in kinds:
        raise ValueError(
            f"{path} is of kind {kind}, where {kinds[0]} is needed: `{KINDS[kinds[0]]}` makes one"
        )
    of_kind = CheckpointFacts if header["kind"].endswith(" checkpoint") else Facts
    settings, facts = (
        from_json(kind, parse_json(header[part], where), where)
        for part, kind in (("settings", dict), ("facts", of_kind))
        for where in [f"{path}, {part} in its header"]
    )
    return Header(header["kind"], settings, facts)


def check_pointer(file: Path) -> None:
    """Raises ValueError for what Git leaves in place of a large file that it did not fetch."""
    with open(file, "rb") as opened:
        if opened.read(len(POINTER)) == POINTER:
            raise ValueError(f"{file} is a pointer of Git LFS, not the weights: `git lfs pull` fetches them")


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All that a safetensors file, its shards, or PyTorch's file holds, on the CPU; no code of it is run.

    Raises ValueError naming the file, and the tensor, where it cannot be read or a number is not finite.
    """
    if len(files := shards(file)) > 1:
        return _joined(file, files)
    check_pointer(file)
    try:
        check_unfolded(file)
        whole = file.suffix == ".safetensors"
        tensors = load_file(file) if whole else torch.load(file, "cpu", weights_only=True)
        stated, offsets = _stated(file) if whole else (None, "")
    except Exception as error:  # whatever a foreign file does wrong is the answer
        if out_of_memory(error):
            raise
        raise ValueError(f"{file} cannot be read as weights: {type(error).__name__}: {error}") from None
    if not isinstance(tensors, dict):
        raise ValueError(f"{file} holds no set of named tensors")
    check_finite(tensors, file)
    if stated is not None and stated != _checksum(tensors, offsets):
        raise ValueError(
            f"{file} is damaged: its tensors are not those that were written; restore or remake it"
        )
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """What the header of a safetensors file says beside its tensors, whoever wrote it."""
    check_pointer(path)
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error})") from None


def _stated(file: Path) -> tuple[str | None, str]:
    """What the header of a safetensors file says of its tensors' bytes, nothing in those of others; and of
    where a shard's tensors begin."""
    with safe_open(file, framework="pt") as opened:
        header = opened.metadata() or {}
    return header.get(CHECKSUM), header.get(OFFSETS, "")


def _checksum(tensors: Mapping[str, Tensor], offsets: str = "") -> str:
    """CRC-32 of the values of named tensors, by the names' order, after where they begin."""
    crc = zlib.crc32(offsets.encode())
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].contiguous().view(-1).view(torch.uint8).numpy(), crc)
    return f"{crc:08x}"


def _joined(path: Path, files: list[Path]) -> dict[str, Tensor]:
    """The whole tensors of the shards of weights; raises ValueError naming one that they leave holes in."""
    parts: dict[str, list[tuple[list[int], Tensor]]] = {}
    for file in files:
        with naming(file):
            begins = json.loads(_stated(file)[1])
            for name, part in read_tensors(file).items():
                parts.setdefault(name, []).append((begins[name]["saved_offsets"], part))
    joined = {}
    with naming(path):
        for name, found in parts.items():
            ends = [[b + n for b, n in zip(begin, part.shape, strict=True)] for begin, part in found]
            size = [max(axis) for axis in zip(*ends, strict=True)]
            check_filled(name, size, [part.shape for _, part in found])
            joined[name] = torch.empty(size, dtype=found[0][1].dtype)
            for (begin, part), end in zip(found, ends, strict=True):
                joined[name][tuple(map(slice, begin, end))] = part
    return joined


def check_filled(name: str, size: Sequence[int], parts: Iterable[Sequence[int]]) -> None:
    """Raises ValueError for a tensor of this size that parts of those sizes do not make up."""
    if sum(map(math.prod, parts)) != math.prod(size):
        raise ValueError(f"{name} is not whole in its shards")


def check_finite(tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Raises ValueError naming the first tensor of a source that holds NaN or infinity."""
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.numel():
            x = tensor if tensor.element_size() > 1 else tensor.float()
            least, most = torch.aminmax(x)  # NaN where any is: one pass, which keeps nothing
            if not (math.isfinite(least.item()) and math.isfinite(most.item())):
                raise ValueError(
                    f"{source}: {name} holds NaN or infinity, so nothing can come of these weights"
                )


def weights_files(folder: Path, model: str = "diffusion_pytorch_model") -> list[Path]:
    """The safetensors of a folder that one model's weights are in: what its index names, or else one file.

    That is `MODEL.safetensors`, or where there is none its one variant, as `MODEL.fp16.safetensors`. Raises
    ValueError naming a file that nothing names, one that is named and not there, and what leaves a choice.
    """
    return list(_find_files(folder, model))


def _find_files(folder: Path, model: str) -> dict[Path, set[str] | None]:
    """The files that `weights_files` finds, each with the names of its tensors by the index, where one is."""
    variant, shard = r"(?:\.([\w-]+?))?", r"(-\d{5}-of-\d{5})?"
    pattern = re.compile(rf"{model}{variant}{shard}{variant}\.safetensors")
    wholes: dict[str, list[Path]] = {}  # by variant, of which the plain one has no name
    shards: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("[!.]*.safetensors")):
        if not (match := pattern.fullmatch(file.name)):
            raise ValueError(f"{file} is no part of {model}.safetensors, which is read: move it elsewhere")
        (shards if match[2] else wholes).setdefault(match[1] or match[3] or "", []).append(file)
    indices = {
        file.name.removeprefix(f"{model}.safetensors.index").removesuffix("json").strip("."): file
        for file in folder.glob(f"{model}.safetensors.index*.json")
    }
    variants = sorted(wholes.keys() | shards.keys() | indices.keys())
    if not variants:
        return {}
    if variants[0] and variants[1:]:
        raise ValueError(f"{folder} holds several variants, {', '.join(variants)}: leave one of them there")
    whole, parts = wholes.get(variants[0], []), shards.get(variants[0], [])
    if index := indices.get(variants[0]):
        named = _places(index)
        for file in named:
            if not file.is_file():
                raise ValueError(f"{file} is not there, and {index.name} names it: fetch it again")
    elif whole:
        named = {whole[0]: None}
    else:
        raise ValueError(f"{parts[0]} is a part, and no {model}.safetensors.index.json says of what")
    for file in (*whole, *parts):
        if file not in named:
            other = index.name if index else whole[0].name
            raise ValueError(f"{file} is left over, as {other} beside it does not name it: move it elsewhere")
    return named


def read_model(folder: Path, model: str = "diffusion_pytorch_model") -> dict[str, Tensor]:
    """All tensors of the files that `weights_files` finds.

    Raises ValueError as that does, and naming a tensor that is not in the one file where it should be.
    """
    tensors: dict[str, Tensor] = {}
    for file, named in _find_files(folder, model).items():
        part = read_tensors(file)
        if named is not None and (wrong := sorted(named ^ part.keys())):
            says = "is missing" if wrong[0] in named else "has no place"
            raise ValueError(f"{file}: {wrong[0]} {says} there by the index of the folder: fetch both again")
        tensors |= part
    return tensors


def _places(index: Path) -> dict[Path, set[str]]:
    """The tensors of every file that an index names; raises ValueError for one that is damaged."""
    places, files = read_json(index).get("weight_map"), {}
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{index} has no weight_map, from tensors to files: fetch it again")
    for tensor, file in places.items():
        if not isinstance(file, str) or not re.fullmatch(r"[\w.-]+\.safetensors", file):
            raise ValueError(f"{index} names {str(file)[:80]!r}, which is no safetensors file beside it")
        files.setdefault(index.with_name(file), set()).add(tensor)
    return dict(sorted(files.items()))


def load_strictly(
    module: nn.Module, tensors: Mapping[str, Tensor], source: str | Path, absent: tuple[str, ...] = ()
) -> None:
    """Loads tensors into a module as fp32, all of them or none; raises ValueError as `check_tensors` does.

    Names that begin with one of `absent` may be missing.
    """
    own = module.state_dict()
    kept = {name: tensor for name, tensor in own.items() if absent and name.startswith(absent)}
    check_tensors(kept | dict(tensors), own, source)
    module.load_state_dict(kept | {name: tensor.float() for name, tensor in tensors.items()})


def check_fit(
    make: Callable[[], nn.Module],
    tensors: Mapping[str, Tensor],
    source: str | Path,
    absent: tuple[str, ...] = (),
) -> None:
    """Raises ValueError as `check_tensors` does, before a module that a file describes takes memory."""
    with naming(Path(source)), torch.device("meta"):
        known = make().state_dict()
    check_tensors(
        {n: t for n, t in known.items() if absent and n.startswith(absent)} | dict(tensors), known, source
    )


def check_tensors(tensors: Mapping[str, Tensor], known: Mapping[str, Tensor], source: str | Path) -> None:
    """Raises ValueError naming the first tensors of a source that are missing, unknown or of another kind."""
    wrong = [f"{name} is missing" for name in known if name not in tensors]
    for name, tensor in tensors.items():
        if name not in known:
            wrong.append(f"{name} has no place")
        elif tensor.shape != known[name].shape:
            wrong.append(f"{name} is {tuple(tensor.shape)}, not {tuple(known[name].shape)}")
        elif tensor.is_floating_point() != known[name].is_floating_point():
            wrong.append(f"{name} is of {tensor.dtype}, not {known[name].dtype}")
    if wrong:
        more = f" and {len(wrong) - 2} more" if len(wrong) > 2 else ""
        raise ValueError(f"{source} does not fit the model's settings: {'; '.join(wrong[:2])}{more}")


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of named tensors' values, whatever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
