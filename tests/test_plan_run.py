"""A planned step takes what a real one takes, and what is planned to fit does."""

import json
from dataclasses import replace

import pytest
import torch

from configs.model import TextConfig
from configs.train import TransformerRun
from dit import cli
from dit.load import Denoiser
from dit.runs.devices import PROCESSORS, USABLE
from dit.runs.estimate import Planned, PlanSettings, find, plan, plan_one
from dit.runs.networks import plan_denoiser
from dit.runs.trace import Parts, Work, trace
from dit.runs.work import load_of, open_source
from tests.bench.plan import BASE, RUNS, measure, with_loop, with_model
from tests.tiny import write_config
from vae.data.write import write_video

H100 = PROCESSORS["h100"]
WIDE = with_loop(with_model(BASE, width=512, depth=4, heads=8, mlp_width=1536), batch=32)


def planned(run: TransformerRun, **settings) -> Planned:
    """The plan of a run as it is given."""
    return plan_one(open_source(run), run, PlanSettings(**settings), H100)


@pytest.mark.long
@pytest.mark.parametrize("name", RUNS)
def test_the_planned_peak_is_the_measured_one(name):
    """Of PyTorch's allocator, over a real step on this CPU."""
    peak, (most, _) = planned(RUNS[name], gpu="cpu").peak, measure(RUNS[name], False)
    if (
        most < peak / 2
    ):  # on a busy machine the profiler's clock may slip, so that the step lies beside its marks
        most, _ = measure(RUNS[name], False)
    assert peak == pytest.approx(most, rel=0.05)


@pytest.mark.long
def test_the_flops_of_a_step_are_those_that_pytorch_counts_in_it():
    """To the last one: of the second step, as it is measured, and of its very clips and prompts."""
    run = with_model(BASE, depth=3)
    source = open_source(run)
    samples = load_of(source, run, 1).steps[1]
    make, _ = plan_denoiser(run, source.cached, {"", *(sample.prompt for sample in samples)})
    found = trace(run, Work([samples], False), lambda run: Parts(make(run), source.make_autoencoder()))
    assert found.flops == measure(run, True)[1]
    assert 0 < found.encoding < found.flops


@pytest.mark.long
def test_a_frozen_text_encoder_and_mixed_lengths_are_planned(tmp_path):
    """Videos of three shapes and images, read from files, and captions through a T5 of a folder."""
    from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

    sizes = {"d_model": 128, "d_kv": 32, "d_ff": 512, "num_layers": 4, "num_heads": 4}
    T5EncoderModel(T5Config(vocab_size=384, **sizes)).save_pretrained(tmp_path / "t5")
    ByT5Tokenizer().save_pretrained(tmp_path / "t5")
    home = tmp_path / "videos"
    for k, (frames, height, width) in enumerate(4 * [(17, 64, 64), (9, 48, 96), (17, 96, 48), (1, 64, 64)]):
        write_video(home / f"{k:02}.mp4", torch.rand(3, frames, height, width) * 2 - 1, 8.0, {})
        (home / f"{k:02}.txt").write_text("a red circle moves left " * (1 + k % 3))
    assert cli.run(["data", "index", str(home)]) == 0
    text = TextConfig(folder=str(tmp_path / "t5"), max_tokens=64)
    run = replace(with_loop(BASE, batch=8), data=replace(BASE.data, source=str(home)), text=text)
    most, _ = measure(run, False)
    found = planned(run, gpu="cpu")
    assert found.peak == pytest.approx(most, rel=0.05)
    assert found.traced.memory.text_encoder == 4 * found.traced.parameters["text encoder"]


def test_parts_of_the_memory_are_those_of_the_parameters():
    """A step's state is 4 bytes each for weight and average of a parameter, and 8 for its moments."""
    found = planned(WIDE)
    with torch.device("meta"):
        count = sum(p.numel() for p in Denoiser(WIDE.model, WIDE.text).parameters())
    memory = found.traced.memory
    assert memory.weights == memory.average == 4 * count
    assert memory.optimizer == pytest.approx(8 * count, rel=1e-3)


@pytest.mark.long
def test_sharding_divides_the_state_and_copies_keep_the_gradients():
    whole = planned(WIDE).traced.memory
    sharded = replace(WIDE, parallel=replace(WIDE.parallel, shard="full"))
    half, copies = planned(sharded, gpus=2).traced.memory, planned(WIDE, gpus=2).traced.memory
    for part in ("weights", "optimizer", "average"):
        assert getattr(half, part) == pytest.approx(getattr(whole, part) / 2, rel=0.01)
        assert getattr(copies, part) == getattr(whole, part)
    assert copies.gradients == copies.weights, "data parallelism's buckets stay"


@pytest.mark.long
def test_a_deep_network_is_planned_from_two_shallow_ones():
    """Depth 7 by what depths 4 and 5 take is what depth 7 takes."""
    from dit.runs import trace

    deep = with_model(WIDE, depth=7)
    found, kept = planned(deep), trace.MORE
    trace.MORE = 9
    try:
        whole = planned(deep)
    finally:
        trace.MORE = kept
    assert found.peak == pytest.approx(whole.peak, rel=0.01)
    assert found.traced.flops == pytest.approx(whole.traced.flops, rel=0.01)
    assert found.traced.parameters == whole.traced.parameters


@pytest.mark.long
@pytest.mark.parametrize(("gpus", "memory"), [(1, 0.8), (1, 0.5), (2, 0.3), (4, 0.22)])
def test_what_is_planned_to_fit_does(gpus, memory):
    """However little memory there is: the settings that are found are planned once more, by themselves."""
    settings = PlanSettings(gpus=gpus, memory=memory)
    source, limit = open_source(WIDE), memory * 2**30 * USABLE
    found = find(source, WIDE, settings, H100, limit)
    assert plan_one(source, WIDE, settings, H100).peak > limit, "it does not fit as it is given"
    if found:
        assert plan_one(source, found.config, settings, H100).peak <= limit
        same = {"train": WIDE.train, "parallel": WIDE.parallel, "checkpoint_activations": "none"}
        assert replace(found.config, **same) == WIDE, "and nothing else is changed"
    else:  # then not even the least of it does
        least = replace(WIDE, checkpoint_activations="blocks", train=replace(WIDE.train, pack_tokens=80))
        assert plan_one(source, least, settings, H100).peak > limit


@pytest.mark.long
def test_the_command_prints_a_plan_and_writes_its_figures(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = with_model(with_loop(BASE, batch=2), width=128, depth=1, heads=2, mlp_width=128)
    write_config(tmp_path / "run.py", run)
    words = ["train", "run.py", "--plan", "--price", "3", "--hours", "1", "--json", "plan.json"]
    assert cli.run(words) == 0
    said = capsys.readouterr().out
    assert "planned, nothing of it is measured" in said and "verdict" in said and "cost" in said
    given = json.loads((tmp_path / "plan.json").read_text())["given"]
    assert given["gpu_hours"] == pytest.approx(given["hours"])
    assert given["cost"] == pytest.approx(3 * given["gpu_hours"])
    assert given["kwh"] == pytest.approx(given["gpu_hours"] * H100.watts / 1000)
    assert given["steps_within"] == int(3600 / given["seconds"])
    assert not (tmp_path / "runs").exists(), "a plan begins no run"
    assert cli.run([*words[:-2], "--memory", "0.001"]) == 1
    assert "in no way that is tried" in capsys.readouterr().err


def test_sizes_that_run_slowly_are_named():
    run = with_model(with_loop(BASE, batch=1), width=216, depth=1, heads=3, mlp_width=700)
    notes = plan("x", run, PlanSettings()).notes
    for words in ("heads of 72", "model.width = 216", "model.mlp_width = 700"):
        assert any(words in note for note in notes)
    good = with_model(run, width=128, heads=1, mlp_width=512)
    assert not any("heads" in note or "model." in note for note in plan("x", good, PlanSettings()).notes)
