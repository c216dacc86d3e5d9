"""Proves that a run goes on with its own states, autoencoder and latents alone, or says which is not."""

import json
import math
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import dit.train
import vae.train
from configs.train import DiscriminatorConfig
from dit.load import TRANSFORMER
from tests.test_train import autoencoder, cache_of  # noqa: F401
from tests.tiny import autoencoder_run, fresh_accelerator, newest_step, transformer_run  # noqa: F401
from vae.cache.clips import DamagedCache
from vae.cache.index import load_cache
from vae.cache.shards import read_row, shard_files
from vae.load import WEIGHTS
from vae.training.weights import load_weights, save_weights

LAST = "step-00000002"


@pytest.fixture(scope="module")
def run(tmp_path_factory, autoencoder) -> Path:  # noqa: F811
    """A transformer's run of two steps."""
    out = tmp_path_factory.mktemp("run") / "run"
    dit.train.train(transformer_run(out, autoencoder, steps=2, save_every=1, show_every=2))
    return out


def rewrite(file: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Changes the tensors of a weights file, and leaves its header as it is."""
    tensors, header = load_weights(file)
    save_weights(file, change(tensors), header.kind, header.settings, header.facts)


def broken(tensor: Tensor, number: float) -> Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[0] = number
    return tensor


BIAS = "transformer.proj_out.bias"
MATRIX = "text.shared.weight"
OPTIMIZER = {
    "empty": (lambda t: {}, f"{MATRIX}.exp_avg is missing"),
    "without one": (lambda t: {k: v for k, v in t.items() if k != f"{BIAS}.step"}, f"{BIAS}.step is missing"),
    "with another": (lambda t: t | {"999.step": t[f"{MATRIX}.step"].clone()}, "999.step has no place"),
    "transposed": (
        lambda t: t | {f"{MATRIX}.exp_avg": t[f"{MATRIX}.exp_avg"].T},
        rf"{MATRIX}.exp_avg is \(.*\), not",
    ),
    "of whole numbers": (
        lambda t: t | {f"{MATRIX}.exp_avg": t[f"{MATRIX}.exp_avg"].int()},
        f"{MATRIX}.exp_avg is of torch.int32",
    ),
    "whole steps": (
        lambda t: t | {f"{MATRIX}.step": t[f"{MATRIX}.step"].int()},
        f"{MATRIX}.step is of torch.int32",
    ),
    "of a step before": (
        lambda t: t | {f"{MATRIX}.step": t[f"{MATRIX}.step"] - 1},
        f"{MATRIX}.step is of 1 updates, not 2",
    ),
    "of steps to come": (
        lambda t: {k: v + 7 if k.endswith("step") else v for k, v in t.items()},
        "step is of 9 updates, not 2",
    ),
    "NaN": (
        lambda t: t | {f"{BIAS}.exp_avg": broken(t[f"{BIAS}.exp_avg"], math.nan)},
        f"{BIAS}.exp_avg holds NaN or infinity",
    ),
    "squares below 0": (
        lambda t: t | {f"{BIAS}.exp_avg_sq": broken(t[f"{BIAS}.exp_avg_sq"], -1.0)},
        f"{BIAS}.exp_avg_sq has squares below 0",
    ),
}
WEIGHTS_OF = {
    "of NaN": (lambda t: t | {BIAS: broken(t[BIAS], math.nan)}, f"{BIAS} holds NaN or infinity"),
    "of infinity": (lambda t: t | {BIAS: broken(t[BIAS], -math.inf)}, f"{BIAS} holds NaN or infinity"),
    "of whole numbers": (lambda t: t | {BIAS: t[BIAS].long()}, f"{BIAS} is of torch.int64"),
    "without one": (lambda t: {k: v for k, v in t.items() if k != BIAS}, f"{BIAS} is missing"),
}
HARM = {f"optimizer, {name}": ("optimizer", *harm) for name, harm in OPTIMIZER.items()}
HARM |= {
    f"{part} {name}": (part, *harm) for part in ("model", "average") for name, harm in WEIGHTS_OF.items()
}


@pytest.mark.parametrize(("part", "change", "words"), HARM.values(), ids=HARM)
def test_a_state_that_is_not_the_run_s_is_refused_by_file_and_tensor(
    run,
    autoencoder,  # noqa: F811
    tmp_path,
    part,
    change,
    words,
):
    out = tmp_path / "run"
    shutil.copytree(run, out)
    file = out / LAST / f"{part}.safetensors"
    rewrite(file, change)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=rf"^{re.escape(str(file))}.*{words}"):
        dit.train.train(transformer_run(out, autoencoder, steps=3, save_every=1, show_every=2))
    after = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    changed = {path.name for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed <= {"run.json"}  # which says how long the run is to be


def test_a_run_goes_on_with_its_own_autoencoder(run, autoencoder, tmp_path):  # noqa: F811
    out = tmp_path / "run"
    shutil.copytree(run, out)
    rewrite(out / WEIGHTS, lambda t: t | {"latent_mean": t["latent_mean"] + 0.1})
    config = transformer_run(out, autoencoder, steps=3, save_every=1, show_every=2)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(out))} began with other autoencoder weights"):
        dit.train.train(config)
    shutil.copyfile(run / WEIGHTS, out / WEIGHTS)
    dit.train.train(config)
    assert newest_step(out) == 3


@pytest.mark.parametrize("part", ["model", "average", "optimizer"])
def test_a_cut_part_is_named_and_the_older_checkpoint_gone_on_from(run, autoencoder, tmp_path, part):  # noqa: F811
    out = tmp_path / "run"
    shutil.copytree(run, out)
    os.truncate(out / LAST / f"{part}.safetensors", 1000)
    config = transformer_run(out, autoencoder, steps=3, save_every=1, show_every=4)
    with pytest.raises(ValueError, match=rf"{part}\.safetensors is not .*; --train.from-older goes on"):
        dit.train.train(config)
    dit.train.train(replace(config, train=replace(config.train, from_older=True)))
    assert newest_step(out) == 3 and (out / f"damaged-{LAST}").is_dir()


@pytest.mark.parametrize("part", ["model", "average", "optimizer"])
@pytest.mark.parametrize("other", ["settings", "facts"])
def test_a_part_of_another_run_at_the_same_step_is_named(run, autoencoder, tmp_path, part, other):  # noqa: F811
    out = tmp_path / "run"
    shutil.copytree(run, out)
    tensors, header = load_weights(file := out / LAST / f"{part}.safetensors")
    if other == "settings":
        header.settings["train"]["seed"] += 1
    else:
        header.facts["smoothed"] += 1e-9
    save_weights(file, tensors, header.kind, header.settings, header.facts)
    second = "average" if part == "model" else part
    with pytest.raises(ValueError, match=rf"{second}\.safetensors is of another run than model\.safetensors"):
        dit.train.train(transformer_run(out, autoencoder, steps=3, save_every=1, show_every=4))


def test_numbers_that_are_none_are_gone_back_from(run, autoencoder, tmp_path):  # noqa: F811
    out = tmp_path / "run"
    shutil.copytree(run, out)
    rewrite(out / LAST / "average.safetensors", lambda t: {name: x * torch.nan for name, x in t.items()})
    config = transformer_run(out, autoencoder, steps=3, save_every=1, show_every=4)
    dit.train.train(replace(config, train=replace(config.train, from_older=True)))
    assert newest_step(out) == 3 and (out / f"damaged-{LAST}").is_dir()


@pytest.mark.long
def test_an_autoencoder_s_optimizers_have_the_updates_of_their_steps(tmp_path):
    config = autoencoder_run(tmp_path / "run", steps=2, save_every=1, show_every=4)
    discriminator = DiscriminatorConfig(weight=0.1, start=2, width=8, depth=1)
    config = replace(config, discriminator=discriminator)
    vae.train.train(config)  # its discriminator has not begun, so that its optimizer's state is zero
    name = "discriminator_optimizer.safetensors"
    assert not any(value.any() for value in load_weights(tmp_path / "run" / LAST / name)[0].values())
    longer = replace(config, train=replace(config.train, steps=4))
    vae.train.train(longer)
    vae.train.train(replace(config, train=replace(config.train, steps=5)))
    file = tmp_path / "run" / "step-00000005" / name
    assert {value.item() for key, value in load_weights(file)[0].items() if key.endswith(".step")} == {3}
    rewrite(file, lambda t: {})
    with pytest.raises(ValueError, match=rf"^{re.escape(str(file))}.*weight.exp_avg is missing"):
        vae.train.train(replace(config, train=replace(config.train, steps=6)))
    part = file.with_name("model.safetensors")
    rewrite(part, lambda t: {k: v for k, v in t.items() if k != "quant_conv.bias"})
    with pytest.raises(ValueError, match=rf"^{re.escape(str(part))}.*quant_conv.bias is missing"):
        vae.train.train(replace(config, train=replace(config.train, steps=6)))


def test_latents_that_changed_are_not_trained_on(autoencoder, tmp_path):  # noqa: F811
    cache = Path(cache_of(4, tmp_path / "latents", autoencoder))
    (shard,) = shard_files(cache)
    whole = shard.read_bytes()
    location = load_cache(cache).files[0].clips[0]
    size = 2 * math.prod(location.shape)  # fp16, means and then log-variances
    assert read_row(cache, location, torch.float16).shape == location.shape

    def harmed(first: int, count: int, byte: bytes | None) -> None:
        part = whole[first : first + count]
        other = byte * count if byte else bytes(b ^ 1 for b in part)
        shard.write_bytes(whole[:first] + other + whole[first + count :])

    for first, count, byte in ((location.offset, size, b"\0"), (location.offset, 1, None)):
        harmed(first, count, byte)
        for parts in (1, 2, None):
            with pytest.raises(ValueError, match=rf"{shard.name} has changed since it was written"):
                read_row(cache, location, torch.float16, parts)
    harmed(location.offset + size - 1, 1, None)
    assert read_row(cache, location, torch.float16, 1).isfinite().all()  # the means are whole
    with pytest.raises(ValueError, match=rf"{shard.name} has changed since it was written"):
        read_row(cache, location, torch.float16)
    start = 8 + int.from_bytes(whole[:8], "little")
    harmed(start, len(whole) - start, b"\0")
    config = transformer_run(tmp_path / "run", autoencoder, str(cache), steps=1)
    with pytest.raises(DamagedCache, match="has changed since it was written: `dit data check"):
        dit.train.train(config)
    assert not (tmp_path / "run" / TRANSFORMER).exists()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["kind"] == "transformer"


def test_init_goes_on_with_the_latents_that_it_knows(run, autoencoder, tmp_path):  # noqa: F811
    config = transformer_run(tmp_path / "run", autoencoder, steps=1)
    known, header = load_weights(autoencoder)

    def start(init: Path, **changed: Tensor) -> None:
        other = tmp_path / "other.safetensors"
        save_weights(other, known | changed, "autoencoder", header.settings)
        dit.train.train(replace(config, init=str(init), autoencoder=str(other)))

    encoder = "encoder.conv_in.weight"
    for changed in ({"latent_std": known["latent_std"] * 1.01}, {encoder: known[encoder] + 0.01}):
        for init in (run, run / LAST):
            with pytest.raises(ValueError, match=rf"other latents than .* --init {init} knows: .*--new-l"):
                start(init, **changed)
    assert not (tmp_path / "run").exists()
    decoder = {name: tensor + 0.01 for name, tensor in known.items() if name.startswith("decoder.")}
    rounded = {encoder: known[encoder].half().float()}  # as `dit export --format half` leaves it
    start(run, **decoder, **rounded)
    assert newest_step(tmp_path / "run") == 1
    config = replace(config, out=str(tmp_path / "anew"), new_latents=True)
    start(run, latent_std=known["latent_std"] * 1.01)
    assert newest_step(tmp_path / "anew") == 1
