"""Proves that of a folder's weights files the right one is read, or it is said why none is; and no NaN."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from configs.model import TextConfig
from dit.text import encoder_hash, make_encoder
from dit.wan import load_transformer, to_diffusers, transformer_settings
from eval.networks.clip import load_clip, seeded_clip
from tests.test_diffusers_format import new_autoencoder
from tests.test_model import TINY, random_transformer
from tests.test_others import CASES, saved
from tests.test_text import tiny_umt5
from vae.diffusers_folder import write_folder, write_wan
from vae.load import load_autoencoder, stored_hash
from vae.training.weights import read_model, read_tensors, weights_files

MODEL = "diffusion_pytorch_model"
ONE = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
ZEROS = {name: torch.zeros_like(tensor) for name, tensor in ONE.items()}


def shards(folder: Path, tensors: dict[str, Tensor], variant: str = "", count: int = 2) -> None:
    """Writes tensors as the shards of a model, with their index."""
    places, names = {}, sorted(tensors)
    for k in range(count):
        part = {name: tensors[name] for name in names[k::count]}
        file = f"{MODEL}{variant}-{k + 1:05d}-of-{count:05d}.safetensors"
        save_file(part, folder / file)
        places |= dict.fromkeys(part, file)
    index = folder / f"{MODEL}.safetensors.index{variant}.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))


def one(folder: Path, tensors: dict[str, Tensor], name: str = MODEL) -> None:
    save_file(tensors, folder / f"{name}.safetensors")


def change_index(folder: Path, change: Callable[[dict], object]) -> None:
    index = folder / f"{MODEL}.safetensors.index.json"
    values = json.loads(index.read_text())
    change(values["weight_map"])
    index.write_text(json.dumps(values))


READ = {
    "one file": lambda f: one(f, ONE),
    "shards": lambda f: shards(f, ONE),
    "its one variant": lambda f: one(f, ONE, f"{MODEL}.fp16"),
    "a variant's shards": lambda f: shards(f, ONE, ".fp16"),
    "plain beside a variant": lambda f: (one(f, ONE), one(f, ZEROS, f"{MODEL}.fp16")),
    "plain beside a variant's shards": lambda f: (one(f, ONE), shards(f, ZEROS, ".bf16")),
    "shards beside a variant": lambda f: (shards(f, ONE), one(f, ZEROS, f"{MODEL}.fp16")),
    "hidden files": lambda f: (one(f, ONE), (f / f"._{MODEL}.safetensors").write_bytes(b"of another system")),
    "shards named otherwise": lambda f: (
        one(f, ONE, f"{MODEL}-00001-of-00001"),
        (f / f"{MODEL}.safetensors.index.json").write_text(
            json.dumps({"weight_map": dict.fromkeys(ONE, f"{MODEL}-00001-of-00001.safetensors")})
        ),
    ),
}


@pytest.mark.parametrize("write", READ.values(), ids=READ)
def test_the_files_of_one_model_are_read(tmp_path: Path, write):
    write(tmp_path)
    tensors = read_model(tmp_path)
    assert tensors.keys() == ONE.keys() and all(torch.equal(tensors[name], ONE[name]) for name in ONE)


REFUSED = {
    "stale beside index": (lambda f: (shards(f, ONE), one(f, ZEROS)), f"{MODEL}.safetensors is left over"),
    "average beside": (
        lambda f: (one(f, ONE), one(f, ZEROS, f"{MODEL}_ema")),
        "_ema.safetensors is no part of",
    ),
    "copy beside": (lambda f: (one(f, ONE), one(f, ZEROS, "z")), "z.safetensors is no part of"),
    "other name alone": (lambda f: one(f, ONE, "model"), f"model.safetensors is no part of {MODEL}"),
    "LoRA beside": (
        lambda f: (one(f, ONE), one(f, ZEROS, "pytorch_lora_weights")),
        "lora_weights.safetensors",
    ),
    "two variants": (
        lambda f: (one(f, ONE, f"{MODEL}.fp16"), one(f, ONE, f"{MODEL}.bf16")),
        "several variants, bf16, fp16",
    ),
    "shards of before": (
        lambda f: (shards(f, ZEROS, count=1), shards(f, ONE)),
        "00001-of-00001.safetensors is left over",
    ),
    "whole beside shards": (
        lambda f: (shards(f, ONE), (f / f"{MODEL}.safetensors.index.json").unlink(), one(f, ZEROS)),
        "00001-of-00002.safetensors is left over",
    ),
    "no index": (
        lambda f: (shards(f, ONE), (f / f"{MODEL}.safetensors.index.json").unlink()),
        "00001-of-00002.safetensors is a part, and no",
    ),
    "no shard": (
        lambda f: (shards(f, ONE), (f / f"{MODEL}-00002-of-00002.safetensors").unlink()),
        "00002-of-00002.safetensors is not there, and .* names it",
    ),
    "tensor in two files": (
        lambda f: (shards(f, ONE), save_file(ONE, f / f"{MODEL}-00002-of-00002.safetensors")),
        "00002-of-00002.safetensors: a has no place there by the index",
    ),
    "tensor named and not there": (
        lambda f: (shards(f, ONE), change_index(f, lambda m: m.update(c=m["a"]))),
        "00001-of-00002.safetensors: c is missing there by the index",
    ),
    "tensors swapped": (
        lambda f: (shards(f, ONE), change_index(f, lambda m: m.update(a=m["b"], b=m["a"]))),
        "00001-of-00002.safetensors: a has no place",
    ),
    "a path": (
        lambda f: (shards(f, ONE), change_index(f, lambda m: m.update(a="../x.safetensors"))),
        "names '../x.safetensors', which is no safetensors file beside it",
    ),
    "an absolute path": (
        lambda f: (shards(f, ONE), change_index(f, lambda m: m.update(a="/dev/zero"))),
        "names '/dev/zero', which is no",
    ),
    "no name": (
        lambda f: (shards(f, ONE), change_index(f, lambda m: m.update(a=None))),
        "names 'None', which",
    ),
    "an empty index": (
        lambda f: (shards(f, ONE), (f / f"{MODEL}.safetensors.index.json").write_text("{}")),
        "index.json has no weight_map",
    ),
    "an index of a list": (
        lambda f: (shards(f, ONE), (f / f"{MODEL}.safetensors.index.json").write_text('{"weight_map": [1]}')),
        "index.json has no weight_map",
    ),
    "a pointer": (
        lambda f: (f / f"{MODEL}.safetensors").write_text(
            "version https://git-lfs.github.com/spec/v1\noid 0\n"
        ),
        "is a pointer of Git LFS, not the weights: `git lfs pull`",
    ),
    "no weights": (
        lambda f: (f / f"{MODEL}.safetensors").write_bytes(b"nothing"),
        "cannot be read as weights",
    ),
}


@pytest.mark.parametrize(("write", "words"), REFUSED.values(), ids=REFUSED)
def test_what_leaves_a_choice_or_a_gap_is_refused_by_name(tmp_path: Path, write, words: str):
    write(tmp_path)
    with pytest.raises(ValueError, match=words) as caught:
        read_model(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def wan_folder(folder: Path) -> None:
    tensors = to_diffusers(random_transformer(TINY).state_dict(), TINY)
    write_folder(folder, transformer_settings(TINY), tensors)


def clip_folder(folder: Path) -> None:
    seeded_clip().model.save_pretrained(folder)


def text_folder(folder: Path) -> None:
    tiny_umt5(folder.parent)


LOADERS = {  # what writes a folder, what loads it, and what its weights are called
    "transformer": (wan_folder, load_transformer, MODEL),
    "Wan 2.1": (lambda folder: write_wan(folder, new_autoencoder()), load_autoencoder, MODEL),
    **{
        name: (lambda folder, name=name: saved(folder, CASES[name]), load_autoencoder, MODEL)
        for name in ("Wan 2.2", "KL", "Tiny", "DC")
    },
    "text encoder": (text_folder, lambda f: make_encoder(TextConfig(folder=str(f.parent))), "model"),
    "CLIP": (clip_folder, lambda folder: load_clip(folder, certify=False), "model"),
}
EVERY = pytest.mark.parametrize("which", LOADERS)


@EVERY
def test_every_loader_reads_by_these_rules(tmp_path: Path, which: str):
    folder = tmp_path / "text_encoder"
    write, load, name = LOADERS[which]
    write(folder)
    (file,) = folder.glob("*.safetensors")
    assert file.name == f"{name}.safetensors"
    tensors = load_file(file)
    save_file({k: torch.zeros_like(v) for k, v in tensors.items()}, folder / f"{name}_old.safetensors")
    with pytest.raises(ValueError, match=rf"{name}_old\.safetensors is no part of {name}\.safetensors"):
        load(folder)
    (folder / f"{name}_old.safetensors").unlink()
    first = next(k for k, v in tensors.items() if v.is_floating_point() and v.numel() > 1)
    for number in (math.nan, math.inf, -math.inf):
        broken = tensors[first].clone()
        broken.view(-1)[-1] = number
        save_file(tensors | {first: broken}, file, {"format": "pt"})
        with pytest.raises(ValueError, match=rf"{re.escape(str(file))}: {re.escape(first)} holds NaN or inf"):
            load(folder)
    file.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"is a pointer of Git LFS"):
        load(folder)


def test_weights_of_whole_numbers_are_none(tmp_path: Path):
    wan_folder(tmp_path)
    tensors = load_file(tmp_path / f"{MODEL}.safetensors")
    save_file(
        tensors | {"proj_out.bias": tensors["proj_out.bias"].to(torch.int8)},
        tmp_path / f"{MODEL}.safetensors",
    )
    with pytest.raises(ValueError, match=r"proj_out\.bias is of torch\.int8, not torch\.float32"):
        load_transformer(tmp_path)


def test_a_text_encoder_without_a_tensor_is_refused_and_not_drawn_at_random(tmp_path: Path):
    tiny_umt5(tmp_path)
    file = tmp_path / "text_encoder" / "model.safetensors"
    tensors, name = load_file(file), "encoder.final_layer_norm.weight"
    save_file({k: v for k, v in tensors.items() if k != name}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=rf"text_encoder does not fit .*{re.escape(name)}"):
        make_encoder(TextConfig(folder=str(tmp_path)))
    save_file(tensors | {name: torch.ones(3)}, file, {"format": "pt"})
    with pytest.raises(ValueError, match="text_encoder"):
        make_encoder(TextConfig(folder=str(tmp_path)))


def test_hashes_are_of_the_files_that_are_read(tmp_path: Path):
    tiny_umt5(tmp_path)
    config = TextConfig(folder=str(tmp_path))
    before = encoder_hash(config)
    save_file({"x": torch.zeros(1)}, tmp_path / "text_encoder" / "model.fp16.safetensors")
    assert encoder_hash(config) == before and len(weights_files(tmp_path / "text_encoder", "model")) == 1
    write_wan(tmp_path / "vae", new_autoencoder())
    before = stored_hash(tmp_path / "vae")
    save_file({"x": torch.zeros(1)}, tmp_path / "vae" / f"{MODEL}.fp16.safetensors")
    assert stored_hash(tmp_path / "vae") == before


@pytest.mark.parametrize("bits", ["float64", "float32", "bfloat16", "float16", "float8_e4m3fn"])
def test_numbers_that_are_none_are_found_in_every_format(tmp_path: Path, bits: str):
    file, dtype = tmp_path / "x.safetensors", getattr(torch, bits)
    largest = torch.full((7, 5), torch.finfo(dtype).max, dtype=torch.float64).to(dtype)
    save_file({"large": largest, "empty": torch.zeros(0, 3), "whole": torch.tensor([2**31])}, file)
    assert read_tensors(file)["large"].dtype == dtype
    largest = largest.float()
    largest[3, 4] = math.nan
    save_file({"fine": torch.ones(2), "bad": largest.to(dtype)}, file)
    with pytest.raises(ValueError, match=r"x\.safetensors: bad holds NaN or infinity"):
        read_tensors(file)


def test_a_pickle_of_code_is_not_run(tmp_path: Path):
    class Planted:
        def __reduce__(self):
            return (Path.write_text, (tmp_path / "ran", "x"))

    torch.save({"a": Planted()}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth cannot be read as weights"):
        read_tensors(tmp_path / "x.pth")
    assert not (tmp_path / "ran").exists()
