"""Proves that an autoencoder's run begun from another's checkpoint is that run, or says what is different."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from configs.train import DiscriminatorConfig
from tests.tiny import autoencoder_run, fresh_accelerator, rows, state  # noqa: F401
from vae.train import WEIGHTS, train
from vae.training.checkpoints import checkpoints
from vae.training.weights import load_weights, read_tensors

START = 2  # the step from which the discriminator is trained


def config_of(out: Path, **change):
    """A run of five steps of two clips with all that a run can have, and all its checkpoints."""
    run = autoencoder_run(out, steps=5, batch=2, save_every=1, show_every=9)
    discriminator = DiscriminatorConfig(weight=0.5, start=START, width=8, depth=2)
    run = replace(run, train=replace(run.train, keep_every=1), discriminator=discriminator)
    return replace(run, learned_variance=True, **change)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The run that others begin from."""
    train(config_of(out := tmp_path_factory.mktemp("run") / "run"))
    return out


@pytest.mark.parametrize(
    "step",
    [pytest.param(1, marks=pytest.mark.long), 4],
    ids=["before the discriminator began", "after it began"],
)
def test_with_nothing_changed_it_is_the_run(run, tmp_path, capsys, step):
    out = tmp_path / "branch"
    train(config_of(out, from_run=f"{run}@{step}"))
    assert f"steps count on from {step}; changed: nothing" in capsys.readouterr().err
    one, two = state(out), state(run)
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert rows(out) == [row for row in rows(run) if row["step"] > step]
    last, other = (load_weights(folder / WEIGHTS)[0] for folder in (out, run))
    assert last.keys() == other.keys() and all(torch.equal(last[name], other[name]) for name in last)
    assert [path.name for path in checkpoints(out)] == [f"step-{k:08d}" for k in range(step, 6)]


def updates(checkpoint: Path, optimizer: str) -> set[float]:
    """How many updates the states of an optimizer say that they have had."""
    tensors = read_tensors(checkpoint / f"{optimizer}.safetensors")
    return {value.item() for name, value in tensors.items() if name.endswith(".step")}


@pytest.mark.long
def test_other_settings_are_recorded_and_both_optimizers_may_begin_anew(run, tmp_path, capsys):
    out = tmp_path / "branch"
    config = config_of(out, from_run=f"{run}@3", from_optimizer=False, crop=32)
    config = replace(config, optimizer=replace(config.optimizer, learning_rate=0.01, warmup_steps=4))
    train(config)
    assert "its optimizer begins anew" in capsys.readouterr().err
    header = load_weights(out / WEIGHTS)[1]
    for facts in (json.loads((out / "run.json").read_text())["facts"], header.facts):
        assert facts["from"]["step"] == 3 and facts["from"]["changed"] == {
            "crop": [16, 32],
            "optimizer.learning_rate": [0.001, 0.01],
            "optimizer.warmup_steps": [100, 4],
        }
    for name in ("model", "average", "likelihood", "discriminator"):
        one, two = (read_tensors(f / "step-00000003" / f"{name}.safetensors") for f in (out, run))
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    rates = [row["learning_rate"] for row in rows(out) if "loss" in row]
    assert rates == [0.01 / 4, 0.01 / 2], "its first updates, of four of warm-up"
    last = out / "step-00000005"
    assert updates(last, "optimizer") == updates(last, "discriminator_optimizer") == {2}
    train(replace(config, train=replace(config.train, steps=6)))
    assert updates(out / "step-00000006", "discriminator_optimizer") == {3}


@pytest.mark.long
def test_a_discriminator_that_the_run_did_not_have_begins_with_its_optimizer(tmp_path):
    without = replace(config_of(tmp_path / "run"), discriminator=DiscriminatorConfig())
    train(without)
    config = config_of(tmp_path / "branch", from_run=f"{tmp_path / 'run'}@3")
    train(config)
    last = tmp_path / "branch" / "step-00000005"
    assert updates(last, "optimizer") == {5} and updates(last, "discriminator_optimizer") == {2}
    recorded = json.loads((tmp_path / "branch" / "run.json").read_text())["facts"]["from"]["changed"]
    assert recorded["discriminator.weight"] == [0.0, 0.5] and recorded["discriminator.start"] == [0, START]
    train(replace(config, train=replace(config.train, steps=6)))
    assert updates(tmp_path / "branch" / "step-00000006", "discriminator_optimizer") == {3}


def test_an_encoder_that_was_trained_cannot_be_kept_and_nothing_is_written(run, tmp_path):
    config = config_of(tmp_path / "branch", from_run=f"{run}@3", train_encoder=False)
    with pytest.raises(ValueError, match=r"--from-run \S+run@3 trains its encoder: that cannot be kept"):
        train(config)
    assert not (tmp_path / "branch").exists()


@pytest.mark.parametrize("start", [0, 3, 4])
def test_a_discriminator_s_optimizer_does_not_begin_where_it_did_not(run, tmp_path, start):
    config = config_of(tmp_path / "branch", from_run=f"{run}@3")
    config = replace(config, discriminator=replace(config.discriminator, start=start))
    with pytest.raises(
        ValueError, match=rf"discriminator.start = 2, not {start}: give that, or --no-from-opt"
    ):
        train(config)
    assert not (tmp_path / "branch").exists()


@pytest.mark.long
def test_an_encoder_that_was_kept_forgets_its_statistics_where_it_is_trained(run, tmp_path):
    train(config_of(tmp_path / "kept", init=str(run), train_encoder=False))
    config = config_of(tmp_path / "branch", from_run=f"{tmp_path / 'kept'}@4")
    with pytest.raises(ValueError, match="trained other weights, with train_encoder = False: --no-from-opt"):
        train(config)
    train(replace(config, from_optimizer=False))
    names = [tmp_path / "kept" / "step-00000004"]
    names += [tmp_path / "branch" / f"step-0000000{k}" for k in (4, 5)]
    found = [read_tensors(name / "average.safetensors")["latent_std"] for name in names]
    assert found[0].ne(1).any() and torch.equal(found[0], found[1]), (
        "the weights are those that were measured"
    )
    assert found[2].eq(1).all(), "and are no more"
