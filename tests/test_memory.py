"""Proves what lies on the device while a model samples, and that loading it makes nothing twice."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import dit.sample
from configs.sampling import SampleSettings
from dit.condition import Condition
from dit.load import load_model
from dit.memory import text_embedded
from dit.sample import sample
from samplers.guidance import guided_conditions
from tests.test_diffusers_format import CPU, write_wan
from tests.tiny import ROOT, environment
from vae.training import files

ASKED = SampleSettings(prompts=("a cat", "a dog's life", "a"), negative="fog", frames=5, height=32, width=32)
ASKED = replace(ASKED, steps=1, guidance=2.0, batch=2, precision="fp32")


@pytest.fixture(scope="module")
def wan(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("pipeline")
    write_wan(home)
    return home / "wan"


@pytest.mark.long
def test_text_that_was_embedded_before_is_the_encoder_s_to_the_bit(wan):
    denoiser = load_model(str(wan), CPU, torch.bfloat16).denoiser
    encoder = denoiser.text
    packs = [[Condition("a cat"), Condition("a longer one, by far")], [Condition("a cat", negative="fog")]]
    packs = [guided_conditions(pack, 3.0) for pack in packs]
    plain = [denoiser.remember(pack) for pack in packs]
    with text_embedded(denoiser, packs):
        assert denoiser.text is not encoder and not [*denoiser.text.parameters()]
        for pack, memory in zip(packs, plain, strict=True):
            other = denoiser.remember(pack)
            assert torch.equal(other.embedding, memory.embedding) and other.embedding.abs().max() > 0
            for one, two in zip(other.keys_values, memory.keys_values, strict=True):
                assert all(map(torch.equal, one, two))
    assert denoiser.text is encoder


def sample_on_the_device(wan: str, out: str) -> None:
    """In a process whose device is pretended: the encoder leaves it, and comes for the next prompts."""
    from tests import pretended

    places, whole, load = [], dit.sample.generate, dit.load.load_model
    encoders = []

    def loading(*arguments):
        model = load(*arguments)
        encoders.append(model.denoiser.text)
        return model

    def looking(denoiser, *rest):
        places.append({p.device.type for p in encoders[0].parameters()})
        places.append({p.device.type for p in denoiser.parameters()})
        return whole(denoiser, *rest)

    dit.sample.generate, dit.load.load_model, dit.sample.EMBEDDED = looking, loading, 1
    sample(replace(ASKED, model=wan, out=out))
    assert places == [{"cpu"}, {pretended.device().type}] * 2, places


@pytest.mark.long
def test_the_text_encoder_leaves_the_device(wan, tmp_path):
    code = (
        "import sys; from tests import pretended; pretended.install(); from tests import test_memory; "
        "test_memory.sample_on_the_device(*sys.argv[1:])"
    )
    words = [sys.executable, "-c", code, str(wan), str(tmp_path / "there")]
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((tmp_path / "there").glob("*.mp4"))) == 3


def test_a_diffusers_folder_is_loaded_without_a_random_number(wan, monkeypatch):
    def drawn(*_, **__):
        raise AssertionError("a weight was drawn that the folder then replaces")

    def on_meta_alone(tensor, *arguments, **more):
        return tensor if tensor.is_meta else drawn()

    for name in ("xavier_uniform_", "normal_", "uniform_"):
        monkeypatch.setattr(torch.nn.init, name, on_meta_alone)
    model = load_model(str(wan), CPU, torch.float32)
    assert not any(parameter.is_meta for parameter in model.denoiser.parameters())


def test_the_hash_of_a_large_file_is_kept_until_it_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "LARGE", 10)
    file, whole, read = tmp_path / "weights", files._hash_of_bytes, []
    monkeypatch.setattr(files, "_hash_of_bytes", lambda path: read.append(path) or whole(path))
    for content in (b"a" * 20, b"b" * 20, b"b" * 21):
        file.write_bytes(content)
        os.utime(file, ns=(0, 0))  # whoever sets the time back is found by the other one
        for _ in range(2):
            assert files.file_hash(file) == hashlib.sha256(content).hexdigest()
    assert len(read) == 3
    for kept in (tmp_path / "cache" / "dit-lab" / "hashes").iterdir():
        kept.write_text("damaged")
    assert files.file_hash(file) == hashlib.sha256(b"b" * 21).hexdigest() and len(read) == 4
    file.write_bytes(b"small")
    assert files.file_hash(file) == hashlib.sha256(b"small").hexdigest()
    assert len([*(tmp_path / "cache" / "dit-lab" / "hashes").iterdir()]) == 3
