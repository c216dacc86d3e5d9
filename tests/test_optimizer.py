"""Proves the schedules by their closed forms, and that a decay begins at any checkpoint of a run."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from configs.load import to_json
from configs.train import OptimizerConfig
from dit.train import train
from tests.tiny import (
    MODEL,
    fresh_accelerator,  # noqa: F401
    rows,
    transformer_run,
)
from vae.model import Autoencoder
from vae.training.optimizer import check_optimizer_settings, learning_rate
from vae.training.weights import save_weights


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory) -> Path:
    """A small autoencoder's weights, not trained."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("autoencoder") / "vae.safetensors"
    save_weights(file, Autoencoder(MODEL).state_dict(), "autoencoder", {"model": to_json(MODEL)})
    return file


def test_learning_rates_follow_their_formulas():
    constant = OptimizerConfig(learning_rate=2.0, warmup_steps=10)
    assert [learning_rate(step, constant) for step in (1, 5, 10, 10**6)] == [0.2, 1.0, 2.0, 2.0]
    cosine = replace(constant, schedule="cosine", decay_start=100, decay_steps=100)
    for step in range(100, 300):
        share = min(1.0, max(0.0, (step - 101) / 100))
        expected = 0.2 + (2.0 - 0.2) * (1 + math.cos(math.pi * share)) / 2  # SGDR's eq. 5, down to a tenth
        assert learning_rate(step, cosine) == pytest.approx(expected)
    line = replace(cosine, schedule="trapezoid", decay_shape="linear")
    assert [learning_rate(step, line) for step in (1, 10, 100, 101, 151, 176, 201, 999)] == pytest.approx(
        [0.2, 2.0, 2.0, 2.0, 1.0, 0.5, 0.0, 0.0]
    )
    root = replace(line, decay_shape="sqrt")
    assert [learning_rate(step, root) for step in (100, 101, 126, 165, 201)] == pytest.approx(
        [2.0, 2.0, 1.0, 0.4, 0.0]
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"decay_steps": 5}, "optimizer.schedule = constant never falls: .* --optimizer.schedule cosine or"),
        ({"decay_start": 5}, "optimizer.schedule = constant never falls"),
        (
            {"schedule": "trapezoid", "decay_start": 5},
            "optimizer.schedule = trapezoid falls over --optimizer.decay-steps, which is 0",
        ),
    ],
)
def test_a_schedule_without_its_steps_is_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_optimizer_settings(OptimizerConfig(**settings))


@pytest.mark.long
def test_a_decay_begins_at_any_checkpoint(tmp_path, autoencoder):
    optimizer = OptimizerConfig(learning_rate=1e-3, warmup_steps=2)
    config = replace(
        transformer_run(tmp_path / "run", autoencoder, save_every=1, steps=2), optimizer=optimizer
    )
    train(config)
    falling = replace(
        config,
        out=str(tmp_path / "falling"),
        from_run=f"{config.out}@2",
        train=replace(config.train, steps=6, save_every=3),
        optimizer=replace(optimizer, schedule="trapezoid", decay_start=2, decay_steps=4),
    )
    train(falling)
    shares = [0.0, 0.25, 0.5, 0.75]
    rates = [row["learning_rate"] for row in rows(falling.out) if "loss" in row]
    assert rates == pytest.approx([1e-3 * (1 - share**0.5) for share in shares])
