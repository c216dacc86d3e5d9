"""Proves that a setting's name from elsewhere is answered by its meaning, and that help says ranges."""

import dataclasses
import re
import typing
from typing import Annotated

import pytest
from annotated_types import Ge, Len, MultipleOf

from configs.load import names, parse, range_in_words
from configs.ranges import Count, Decay, Positive, Seed, Share
from configs.sampling import SampleSettings
from configs.train import AutoencoderRun, TransformerRun
from configs.words import NONE, SAME, same_meaning, why_none
from dit.encode import EncodeSettings
from eval.fvd import FvdSettings
from tests.test_load import KINDS, documentation

VERBS = [kind for kind in KINDS if kind.__name__.endswith(("Run", "Settings"))]


def refused(kind, *words: str) -> str:
    """What is said of a command line."""
    with pytest.raises(ValueError) as caught:
        parse(kind, list(words), "dit verb")
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "name", "meant"),
    [
        (TransformerRun, "lr", "optimizer.learning-rate"),
        (TransformerRun, "learning-rate", "optimizer.learning-rate"),
        (TransformerRun, "learning_rate", "optimizer.learning-rate"),
        (TransformerRun, "train.lr", "optimizer.learning-rate"),
        (AutoencoderRun, "discriminator.lr", "discriminator.learning-rate"),
        (TransformerRun, "max_grad_norm", "optimizer.max-gradient-norm"),
        (TransformerRun, "bs", "train.batch"),
        (TransformerRun, "batch-size", "train.batch"),
        (TransformerRun, "data.batch-size", "train.batch"),
        (FvdSettings, "batch-size", "batch"),
        (TransformerRun, "accumulate", "train.pack-tokens"),
        (TransformerRun, "tokens-per-batch", "train.tokens"),
        (TransformerRun, "resolution", "data.size"),
        (SampleSettings, "resolution", "height and --width"),
        (TransformerRun, "num-frames", "data.frames"),
        (SampleSettings, "num-frames", "frames"),
        (TransformerRun, "cfg", "sampler.guidance"),
        (SampleSettings, "cfg", "guidance"),
        (SampleSettings, "guidance-scale", "guidance"),
        (SampleSettings, "num-inference-steps", "steps"),
        (TransformerRun, "num-inference-steps", "sampler.steps"),
        (SampleSettings, "num-videos", "number"),
        (SampleSettings, "ckpt", "model"),
        (TransformerRun, "ckpt", "init"),
        (TransformerRun, "output", "out"),
        (SampleSettings, "output-dir", "out"),
        (FvdSettings, "output", "json"),
        (FvdSettings, "gt", "real"),
        (TransformerRun, "gradient-checkpointing", "checkpoint-activations"),
        (TransformerRun, "num-layers", "model.depth"),
        (EncodeSettings, "fps", "data.fps"),
        (AutoencoderRun, "allow-tf32", "train.tf32"),
        (TransformerRun, "report-to", "train.tracker"),
        (TransformerRun, "MAX_STEPS", "train.steps"),
    ],
)
def test_a_name_from_elsewhere_is_answered_with_our_setting(kind, name, meant):
    for words in ([f"--{name}", "3"], [f"--{name}=3"]):
        assert refused(kind, *words).endswith(
            f"unknown setting --{name.replace('_', '-')}; did you mean --{meant}?"
        )


@pytest.mark.parametrize(
    ("kind", "name", "why", "meant"),
    [
        (TransformerRun, "wandb-project", "a run is its folder, --out, whose name a tracker has too", ""),
        (AutoencoderRun, "grad-accum", "there is no gradient accumulation.*--checkpoint-activations", ""),
        (TransformerRun, "epochs", "a run is counted in steps", "train.steps"),
        (TransformerRun, "fp16", "computation is in bf16 or fp32", "train.precision"),
        (SampleSettings, "fp16", "computation is in bf16 or fp32", "precision"),
        (TransformerRun, "ema", "the average of the weights is always kept", "optimizer.ema-decay"),
        (SampleSettings, "ema", "the average of the weights is always kept", ""),
        (TransformerRun, "resume", "to go on with what was stopped, give the same command", ""),
        (TransformerRun, "gpus", "the launcher says how many processes.*torchrun", ""),
        (SampleSettings, "gpus", "a GPU is taken where there is one", ""),
        (SampleSettings, "prompt", "prompts come first", ""),
        (EncodeSettings, "allow-tf32", "products of fp32 are exact in every verb", ""),
        (EncodeSettings, "data.source", "a cache is of the manifest that is given first", ""),
    ],
)
def test_what_has_no_setting_is_answered_with_what_to_do(kind, name, why, meant):
    ending = rf"; did you mean --{re.escape(meant)}\?$" if meant else r"[^?]*$"
    assert re.match(rf"unknown setting --{re.escape(name)}: {why}[^;]*{ending}", refused(kind, f"--{name}"))


def test_no_answer_is_spelled_like_a_name_and_means_another():
    assert refused(SampleSettings, "--lr", "3") == "unknown setting --lr; dit verb --help lists the settings"
    assert refused(TransformerRun, "-lr", "3").endswith("did you mean --optimizer.learning-rate?")
    assert refused(TransformerRun, "lr=3").endswith("did you mean --optimizer.learning-rate?")
    assert refused(TransformerRun, "out=here") == "out=here: a setting is given as --out VALUE"


def test_the_table_names_settings_that_are_there_and_each_has_one_meaning_a_verb():
    known = {kind: names(kind) for kind in VERBS}
    everything = {name for there in known.values() for name in there}
    assert set(SAME) <= everything and {n for scope, _ in NONE.values() for n in scope.split()} <= everything
    words = {word for others in (*SAME.values(), *NONE) for word in others.split()}
    for kind, there in known.items():
        for word in words - set(there):
            meant = same_meaning(word, there)
            assert len(meant) < 2 or meant in (["height", "width"], ["out", "json"]), (
                kind.__name__,
                word,
                meant,
            )
            assert not why_none(word, there).endswith(".")


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Count, "at least 1"),
        (Count | None, "at least 1"),
        (Positive, "above 0"),
        (Share, "at least 0 and at most 1"),
        (Decay, "at least 0 and below 1"),
        (Seed, "at least 0 and below 2^63"),
        (Annotated[int, Ge(8), MultipleOf(8)], "at least 8 and a multiple of 8"),
        (tuple[Count, ...], "each at least 1"),
        (Annotated[tuple[Count, ...], Len(4, 4)], "4 values and each at least 1"),
        (Annotated[tuple[bool, ...], Len(3, 3)], "3 values"),
        (int, ""),
        (typing.Literal["a", "b"], ""),
        (str | None, ""),
    ],
)
def test_a_range_is_said_in_the_words_of_its_error(hint, words):
    assert range_in_words(hint) == words


@pytest.mark.parametrize("kind", VERBS)
def test_help_shows_ranges_and_no_empty_default(kind, capsys):
    with pytest.raises(SystemExit):
        parse(kind, ["--help"], "dit verb")
    shown = "".join(capsys.readouterr().out.replace("│", "").split())
    assert not re.search(r"default:('')?\)|default:None", shown)

    def check(kind):
        hints, lines = typing.get_type_hints(kind, include_extras=True), documentation(kind)
        for field in dataclasses.fields(kind):
            value = getattr(kind(), field.name)
            if dataclasses.is_dataclass(value):
                check(type(value))
            elif words := range_in_words(hints[field.name]):
                assert "".join(f"{lines[field.name]}({words}".split()) in shown, field.name

    check(kind)
