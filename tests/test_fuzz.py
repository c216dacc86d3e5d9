"""Proves that a share of the fuzzer's inputs is answered as it must be, and that it finds what is not."""

import math
import random
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench import fuzz
from tests.bench.changes import Change
from tests.tiny import fresh_accelerator  # noqa: F401
from vae.training import weights


@pytest.mark.parametrize(
    ("needed", "change", "refused"),
    [
        (fuzz.MODEL, Change("tensor a", "missing"), True),
        (fuzz.MODEL, Change("tensor a", "of its own shape"), False),
        (fuzz.MODEL, Change("kind", "missing"), True),
        (fuzz.MODEL, Change("settings", "no JSON"), True),
        (fuzz.MODEL, Change("settings.model", "value", [1]), True),
        (fuzz.MODEL, Change("settings.model.depth", "missing"), False),
        (fuzz.STATE, Change("facts.step", "missing"), True),
        (fuzz.STATE, Change("facts.step", "value", True), True),
        (fuzz.STATE, Change("facts.smoothed", "value", math.nan), True),
        (fuzz.STATE, Change("facts.smoothed", "value", None), False),
        (fuzz.FEATURES, Change("tensor features", "integers"), False),
        (fuzz.MANIFEST, Change("cell path", "outside", "../secret"), True),
        (fuzz.MANIFEST, Change("cell frames", "value", 0), True),
        (fuzz.MANIFEST, Change("cell sound", "value", 0), False),
        (fuzz.MANIFEST, Change("column path", "missing"), True),
        (fuzz.INDEXED, Change("metadata.provenance.dtype", "missing"), True),
        (fuzz.ROWS, Change("bytes", "flipped"), True),
        (fuzz.RECORD, Change("bytes", "flipped"), False),
        (fuzz.RECORD, Change("sample.steps", "value", 0.5), True),
        (fuzz.KEY, Change("videos.0a1b.model", "value", "x"), True),
        (fuzz.KEY, Change("protocol.question", "value", "x"), True),
        (fuzz.KEY, Change("protocol.seed", "value", 0), False),
        (fuzz.VOTE, Change("seconds", "value", math.nan), True),
        (fuzz.VOTE, Change("text", "value", "x"), False),
        (fuzz.ROW, Change("numbers.speed.value", "missing"), True),
        (fuzz.ROW, Change("bytes", "empty"), False),
        (fuzz.PAIRED, Change("scores.lpips", "value", None), False),
        ({}, Change("all", "value", None), False),
    ],
)
def test_the_fuzzer_knows_what_must_be_refused(needed, change, refused):
    assert fuzz.must_refuse(needed, change) is refused


@pytest.mark.long
def test_a_share_of_the_fuzzers_inputs_is_answered_in_a_sentence(tmp_path, monkeypatch):
    sound = tmp_path / "sound"
    sound.mkdir()
    fuzz.make_sound(sound)
    answers = {number: fuzz.try_one(number, sound) for number in range(40)}
    assert [(number, *answer) for number, answer in answers.items() if answer[1]] == []

    # Of every kind of part there are changes that must be refused, and a reader that takes one is found.
    for target in fuzz.TARGETS:
        file, found = next(sound.glob(target.file)), set()
        if target.change in (fuzz.weights_file, fuzz.parquet_file):
            for number in range(240):
                copy = shutil.copy(file, tmp_path / f"copy{file.suffix}")
                change = target.change(Path(copy), random.Random(number), target.needed)
                found |= (
                    {re.split("[ .]", change.part)[0]} if fuzz.must_refuse(target.needed, change) else set()
                )
            parts = {"column", "cell"} if target.change is fuzz.parquet_file else {"tensor"}
            headers = {"kind", "settings", "facts"} & set(target.needed)
            assert found >= {"bytes"} | parts | headers, target
    monkeypatch.setattr(weights, "check_tensors", lambda *_: None)
    monkeypatch.setattr("torch.nn.Module.load_state_dict", lambda *_: None)
    given = Change("tensor decoder.conv_in.bias", "missing")
    target = next(target for target in fuzz.TARGETS if target.file == "vae.safetensors")
    broken = replace(target, change=lambda file, *_: drop(file, given.part.split()[1]) or given)
    monkeypatch.setattr(fuzz, "TARGETS", [broken])
    number = next(n for n in range(9) if random.Random(n).choice([broken, None]))
    assert fuzz.try_one(number, sound)[1] == "nonsense accepted"


def drop(file: Path, name: str) -> None:
    """Takes a tensor out of a weights file."""
    tensors, header = weights.load_weights(file)
    del tensors[name]
    weights.save_weights(file, tensors, header.kind, header.settings, header.facts)
