"""A run of adapters: what it freezes and saves, that it goes on to the bit, how its file is used."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from configs.train import LoraConfig, TransformerRun
from dit.load import load_model
from dit.lora_files import LORA
from dit.replay import replay
from dit.train import train
from tests.test_optimizer import autoencoder  # noqa: F401
from tests.tiny import assert_same_run, fresh_accelerator, rows, transformer_run  # noqa: F401
from vae.training.weights import read_tensors

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory, autoencoder) -> Path:  # noqa: F811
    """A model of two steps."""
    return train(transformer_run(tmp_path_factory.mktemp("base") / "run", autoencoder, steps=2)).parent


def adapted(out: Path, base: Path, autoencoder: Path, **loop) -> TransformerRun:  # noqa: F811
    """A run of adapters on a model."""
    run = transformer_run(out, autoencoder, **loop)
    return replace(run, init=str(base), lora=LoraConfig(rank=2, alpha=3.0))


@pytest.mark.long
def test_a_run_of_adapters_saves_them_alone_and_goes_on_to_the_bit(tmp_path, base, autoencoder):  # noqa: F811
    whole = train(adapted(tmp_path / "whole", base, autoencoder, steps=4, save_every=2, show_every=2))
    train(adapted(tmp_path / "stopped", base, autoencoder, steps=2, save_every=2, show_every=2))
    again = train(adapted(tmp_path / "stopped", base, autoencoder, steps=4, save_every=2, show_every=2))
    assert_same_run(again.parent, whole.parent)
    assert rows(whole.parent)[-1]["step"] == 4 and whole.name == LORA
    for file in (whole.parent / "step-00000004").glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            assert all(".lora_" in name for name in opened.keys()), file  # noqa: SIM118
    branch = replace(adapted(tmp_path / "branch", base, autoencoder, steps=4), from_run=f"{whole.parent}@2")
    losses = [
        [row["loss"] for row in rows(out) if "loss" in row] for out in (train(branch).parent, whole.parent)
    ]
    assert losses[0][-1] == losses[1][-1]


@pytest.mark.long
def test_a_step_of_adapters_is_replayed_as_it_was(tmp_path, base, autoencoder):  # noqa: F811
    out = train(adapted(tmp_path / "run", base, autoencoder, steps=4, save_every=2, log_every=1)).parent
    said, [row] = replay(out, 4, train), [row for row in rows(out) if row["step"] == 4 and "loss" in row]
    assert said["loss"] == pytest.approx(row["loss"], rel=1e-6)
    assert said["gradient_norm"] == pytest.approx(row["gradient_norm"], rel=1e-5)
    assert len(said["samples"]) == 4


def test_its_file_changes_its_model_by_scale_and_no_other_model(tmp_path, base, autoencoder):  # noqa: F811
    out = train(adapted(tmp_path / "run", base, autoencoder, steps=3)).parent
    plain = load_model(str(base), CPU, torch.float32)
    states = {}
    for scale in ("0.0", "0.5", "1.0"):
        model = load_model(str(base), CPU, torch.float32, None, (f"{out}:{scale}",))
        states[scale] = model.denoiser.transformer.state_dict()
        assert model.weights != plain.weights and model.facts["loras"][0]["scale"] == float(scale)
    changed = 0
    for name, weight in plain.denoiser.transformer.state_dict().items():
        assert torch.equal(states["0.0"][name], weight)
        half, full = states["0.5"][name] - weight, states["1.0"][name] - weight
        torch.testing.assert_close(2 * half, full, rtol=0, atol=1e-6)
        changed += bool(full.abs().max() > 1e-6)
    assert changed > 3
    with pytest.raises(ValueError, match=r"give --model MODEL --lora"):
        load_model(str(out), CPU, torch.float32)
    assert read_tensors(out / LORA)


def test_what_adapters_cannot_be_trained_on_is_refused(tmp_path, base, autoencoder):  # noqa: F811
    run = adapted(tmp_path / "run", base, autoencoder)
    with pytest.raises(ValueError, match=r"--lora\.rank trains adapters of a model: --init names it"):
        train(replace(run, init=""))
    with pytest.raises(ValueError, match=r"--new-latents has no place with --lora\.rank"):
        train(replace(run, new_latents=True))
    assert not (tmp_path / "run" / "run.json").exists()
