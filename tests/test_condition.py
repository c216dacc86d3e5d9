"""Proves that a condition is added in few places: brightness, which this test alone knows, is trained on.

A real one would touch five files: `dit/condition.py` (its field, null and draw), `dit/load.py` (what the
network reads of it), `vae/data/clips.py` (where training has it from), `configs/sampling.py` and
`dit/sample.py` (where one asks for it).
"""

import json
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

import dit.load
import dit.loss
import dit.sample
import dit.train
import vae.data.clips
from configs.sampling import SampleSettings
from configs.train import OptimizerConfig
from dit.byte_t5 import TextInputs
from dit.condition import Condition, draw_condition
from dit.load import Denoiser
from tests.test_train import autoencoder  # noqa: F401
from tests.tiny import fresh_accelerator, rows, transformer_run  # noqa: F401
from vae.data.clips import Clip


@dataclass(frozen=True)
class BrightClip(Clip):
    """A clip that says how bright it is."""

    brightness: float = 0.0


@dataclass(frozen=True)
class Bright(Condition):
    """A condition with a brightness; the null has none."""

    NULL: ClassVar[dict] = Condition.NULL | {"brightness": 0.0}

    brightness: float = 0.0


@dataclass(frozen=True)
class BrightInputs(TextInputs):
    """What is read of prompts, and the brightness of every token."""

    brightness_S: torch.Tensor


class BrightDenoiser(Denoiser):
    """Moves the embeddings of a prompt by its brightness."""

    def read(self, conditions):
        text = super().read(conditions)
        brightness = torch.tensor([condition.brightness for condition in conditions])
        return BrightInputs(
            text.tensors, text.lengths, brightness.repeat_interleave(torch.tensor(text.lengths))
        )

    def embed(self, conditions):
        inputs = self.read(conditions) if isinstance(conditions, list) else conditions
        embeddings, lengths = self.text(inputs)
        return self.transformer.embed_text(embeddings + inputs.brightness_S[:, None], lengths)


@pytest.fixture
def bright(monkeypatch):
    """The places that a new condition touches."""

    def clip(video, *rest, **more):
        return BrightClip(video, *rest, **more, brightness=video.mean().item())

    def drawn(clip, *rest):
        condition = draw_condition(clip, *rest)
        bright = Bright(condition.prompt, brightness=clip.brightness)
        return bright if condition.prompt else replace(bright, **bright.NULL)

    asked = SimpleNamespace(brightness=0.0)
    monkeypatch.setattr(vae.data.clips, "Clip", clip)
    monkeypatch.setattr(dit.loss, "draw_condition", drawn)
    monkeypatch.setattr(dit.loss, "Condition", Bright)
    monkeypatch.setattr(dit.train, "Condition", Bright)
    monkeypatch.setattr(dit.sample, "Condition", lambda **more: Bright(**more, brightness=asked.brightness))
    for module in (dit.train, dit.load):
        monkeypatch.setattr(module, "Denoiser", BrightDenoiser)
    return asked


def test_a_new_condition_is_trained_on_and_sampled_with_and_recorded(
    autoencoder,  # noqa: F811
    bright,
    tmp_path,
    monkeypatch,
):
    folders = [tmp_path / "plain", tmp_path / "bright"]
    quick = OptimizerConfig(learning_rate=0.05, warmup_steps=0, ema_decay=0.0)
    with monkeypatch.context() as undone:
        undone.setattr(dit.train, "Denoiser", Denoiser)
        dit.train.train(replace(transformer_run(folders[0], autoencoder, steps=6), optimizer=quick))
    dit.train.train(replace(transformer_run(folders[1], autoencoder, steps=6), optimizer=quick))
    losses = [[row["loss"] for row in rows(folder) if "loss" in row] for folder in folders]
    assert losses[0][0] == losses[1][0] and losses[0][1:] != losses[1][1:], "the output begins at zero"

    hashes = {}
    for brightness in (0.0, 0.5, -0.5):
        bright.brightness = brightness
        asked = SampleSettings(prompts=("a red circle",), model=str(tmp_path / "bright"), steps=2)
        (file,) = dit.sample.sample(replace(asked, out=str(tmp_path / f"{brightness}.mp4")))
        record = json.loads(file.with_suffix(".json").read_text())
        assert record["brightness"] == brightness and record["prompt"] == "a red circle"
        hashes[brightness] = record["frames_sha256"]
    assert len(set(hashes.values())) == 3
