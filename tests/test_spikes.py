"""Proves that a wrong step makes no update, to the bit, and is named, kept, gone back from and resumed."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import dit.steps
import dit.train
import vae.train
from configs.load import to_json
from configs.train import DiscriminatorConfig, LoopConfig, ParallelConfig
from dit.cli import run
from dit.replay import replay
from dit.train import train
from tests.tiny import (
    MODEL,
    ROOT,
    assert_same_run,
    autoencoder_run,
    environment,
    fresh_accelerator,  # noqa: F401
    largest_difference,
    load_checkpoint,
    rows,
    state,
    transformer_run,
)
from vae.model import Autoencoder
from vae.training.files import read_json
from vae.training.optimizer import update_average
from vae.training.session import Session
from vae.training.spikes import Spikes, WentBack
from vae.training.weights import save_weights

WRONG = 4  # the step of draws 12 to 15
RARE = {
    "log_every": 6,
    "save_every": 6,
    "show_every": 6,
}  # nothing is read between the first step and the last


@pytest.fixture
def autoencoder(tmp_path):
    torch.manual_seed(0)
    model = Autoencoder(MODEL)
    file = tmp_path / "autoencoder.safetensors"
    save_weights(file, model.state_dict(), "autoencoder", {"model": to_json(MODEL)})
    return file


def poison(monkeypatch) -> None:
    """Makes the sample of draw 13 not finite."""
    draw_sample = dit.steps.draw_sample

    def broken(shape, clip, *rest):
        sample = draw_sample(shape, clip, *rest)
        return replace(sample, noise_CTHW=sample.noise_CTHW * (math.nan if clip.draw == 13 else 1.0))

    monkeypatch.setattr(dit.steps, "draw_sample", broken)


@pytest.fixture
def poisoned(monkeypatch):
    """A transformer's sample that is not finite."""
    poison(monkeypatch)


@pytest.fixture
def poisoned_crop(monkeypatch):
    """An autoencoder's."""
    crop = vae.train.crop

    def broken(video, config, draw):
        return crop(video, config, draw) * (math.nan if draw == 13 else 1.0)

    monkeypatch.setattr(vae.train, "crop", broken)


def states(out) -> dict[str, torch.Tensor]:
    """Weights, average and optimizer of a run's newest checkpoint."""
    return {name: tensor for name, tensor in state(out).items() if "/" in name}


def assert_same(one: dict, two: dict) -> None:
    """The same tensors, to the bit."""
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def pass_over_by_hand(monkeypatch, wrong: int) -> None:
    """Has the trainer's loop leave out the update of a step, whatever it thinks of its gradient."""
    good, number = torch.zeros((), dtype=torch.bool), iter(range(1, 100))

    def update(optimizer, bad):
        if next(number) != wrong:
            optimizer.found_inf = None
            optimizer.step()
        optimizer.zero_grad()

    def average(averages, model, step, decay, bad):
        if step != wrong:
            update_average(averages, model, step, decay, good)

    monkeypatch.setattr(dit.train, "update_weights", update)
    monkeypatch.setattr(dit.train, "update_average", average)


def test_skipped_and_gone_back_from_equal_a_run_that_leaves_the_update_out(
    tmp_path, monkeypatch, poisoned, autoencoder, capsys
):
    skipped, back, hand = tmp_path / "skip", tmp_path / "back", tmp_path / "hand"
    train(transformer_run(skipped, autoencoder, spike="skip", **RARE))
    train(transformer_run(back, autoencoder, spike="back", **RARE | {"save_every": 2}))
    said = capsys.readouterr().err
    assert said.count(f"gradient not finite at step {WRONG}, on scene 12 (draw 12, t 0.") == 3
    assert said.count("the run goes back to step 2, to pass it over") == 1
    for out, event in ((skipped, "skipped"), (back, "went back")):
        [row] = [row for row in rows(out) if "event" in row]
        assert (row["step"], row["event"], len(row["samples"])) == (WRONG, event, 4)
        assert row["samples"][1].startswith("scene 13 (draw 13, t 0.") and ", bin t0." in row["samples"][1]
    with monkeypatch.context() as patch:
        pass_over_by_hand(patch, WRONG)
        train(transformer_run(hand, autoencoder, spike="skip", **RARE))
    assert_same(states(skipped), states(hand))
    assert_same(states(back), states(hand))
    assert {x.item() for name, x in state(skipped).items() if name.endswith(".step")} == {WRONG + 1}


@pytest.mark.long
def test_a_run_that_is_killed_as_it_goes_back_is_the_run_that_was_not(
    tmp_path, monkeypatch, poisoned, autoencoder
):
    """Killed before it begins again, and then once more past the step, before anything of that is saved."""
    config = {
        out: transformer_run(tmp_path / out, autoencoder, spike="back", **RARE | {"save_every": 2})
        for out in "ab"
    }
    train(config["a"])
    with pytest.raises(WentBack):
        train.__wrapped__(config["b"])
    end_step = Session.end_step

    def killed(session, step, *rest, **terms):
        if step == WRONG + 1:
            raise KeyboardInterrupt
        return end_step(session, step, *rest, **terms)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Session, "end_step", killed)
        train(config["b"])
    train(config["b"])
    assert_same(states(tmp_path / "b"), states(tmp_path / "a"))
    assert read_json(tmp_path / "b" / "passed.json")["steps"] == [WRONG]


@pytest.mark.long
def test_a_run_that_skips_is_resumed_to_the_bit(tmp_path, poisoned, autoencoder):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(transformer_run(whole, autoencoder, spike="skip", show_every=1))
    for steps in (3, 5, 6):
        train(transformer_run(parts, autoencoder, spike="skip", show_every=1, steps=steps))
    assert_same_run(whole, parts)


@pytest.mark.long
def test_a_run_stops_with_the_states_before_the_step_and_goes_on_without_it(tmp_path, poisoned, autoencoder):
    out, before, skipped = tmp_path / "run", tmp_path / "before", tmp_path / "skip"
    with pytest.raises(ValueError, match=rf"not finite at step {WRONG}, on scene 12 .*--replay {WRONG}"):
        train(transformer_run(out, autoencoder, **RARE))
    kept = out / f"spike-{WRONG:08d}"
    facts, found = load_checkpoint(kept / f"step-{WRONG - 1:08d}", "transformer")
    assert facts["step"] == WRONG - 1 and facts["passed"] == []
    train(transformer_run(before, autoencoder, **RARE | {"steps": WRONG - 1}))
    tensors = {f"{part}/{name}": x for part, values in found.items() for name, x in values.items()}
    assert_same(tensors, states(before))
    assert json.loads((kept / "spike.json").read_text())["step"] == WRONG
    train(transformer_run(out, autoencoder, spike="skip", **RARE))
    train(transformer_run(skipped, autoencoder, spike="skip", **RARE))
    assert_same_run(out, skipped)


@pytest.mark.long
def test_a_replayed_step_has_the_loss_and_norm_that_it_had(tmp_path, poisoned, autoencoder, capsys):
    out = tmp_path / "run"
    train(transformer_run(out, autoencoder, spike="skip", **RARE | {"log_every": 1}))
    assert run(["train", str(out), "--replay", "3"]) == 0
    said, [row] = read_json(out / "replay-00000003.json"), [row for row in rows(out) if row["step"] == 3]
    assert (said["loss"], said["gradient_norm"]) == (row["loss"], row["gradient_norm"])
    mean = sum(sample["loss"] for sample in said["samples"]) / len(said["samples"])
    assert mean == pytest.approx(row["loss"], rel=0.2)  # a clip with a given frame counts half in the step's
    capsys.readouterr()
    assert run(["train", str(out), "--replay", str(WRONG)]) == 0
    finite = {
        sample["draw"]: sample["finite"] for sample in read_json(out / "replay-00000004.json")["samples"]
    }
    assert finite == {12: True, 13: False, 14: True, 15: True}
    assert "not finite     NO  scene 13: " in capsys.readouterr().out
    assert (out / "replay-00000004.png").is_file()
    with pytest.raises(ValueError, match="keeps nothing from before step 0"):
        replay(out, 0, train)


def test_a_spike_is_a_norm_or_a_loss_far_above_its_average():
    norms, factor = [1.0, 1.2, 0.9, 40.0, 1.1, math.inf, 9.0, 1.0, 1.0, 9.0], 5.0
    losses, averages, wrong = [2.0, 1.9, 2.1, 2.0, 30.0, math.nan, 2.0, -math.inf, 2.0, 11.0], None, {}
    found = Spikes(LoopConfig(spike="skip", spike_factor=factor), torch.device("cpu"), (None, None), set())
    for step, pair in enumerate(zip(losses, norms, strict=True), 1):
        far = [not math.isfinite(x) or (averages and x > factor * averages[k]) for k, x in enumerate(pair)]
        if any(far):
            wrong[step] = [
                name for name, is_far in zip(("loss", "gradient_norm"), far, strict=True) if is_far
            ]
        else:
            averages = [0.98 * a + 0.02 * x for a, x in zip(averages or pair, pair, strict=True)]
        bad = found.check(step, *(torch.tensor(x, dtype=torch.float64) for x in pair))
        assert bool(bad) == any(far)
    *read, what = found.read(found.to_read().tolist())
    assert read == pytest.approx(averages, rel=1e-12)
    assert {step: why.facts()["wrong"] for step, why in what.items()} == wrong
    both = ["loss", "gradient_norm"]
    assert wrong == {4: both[1:], 5: both[:1], 6: both, 7: both[1:], 8: both[:1], 10: both}
    assert str(what[5]) == "loss 30 is a spike" and str(what[6]) == "loss not finite, gradient not finite"
    assert what[4].facts() == {"wrong": ["gradient_norm"], "loss": 2.0, "gradient_norm": 40.0}


def test_a_loss_that_falls_below_0_is_no_spike():
    found = Spikes(LoopConfig(spike="skip", spike_factor=2.0), torch.device("cpu"), (None, None), set())
    for step, loss in enumerate((1.0, 0.5, 0.01, 0.3, -1.0, -2.0, -0.5), 1):
        assert not found.check(step, torch.tensor(loss), torch.tensor(1.0), signed=True)
    assert found.check(8, torch.tensor(-math.inf), torch.tensor(1.0), signed=True)
    assert found.check(9, torch.tensor(-1.0), torch.tensor(3.0), signed=True)


@pytest.mark.long
def test_an_autoencoder_s_wrong_step_is_skipped_and_gone_back_from(tmp_path, poisoned_crop, capsys):
    skipped, back = tmp_path / "skip", tmp_path / "back"
    for out, spike, every in ((skipped, "skip", 6), (back, "back", 2)):
        config = autoencoder_run(out, spike=spike, **RARE | {"save_every": every})
        vae.train.train(replace(config, discriminator=DiscriminatorConfig(weight=0.5, width=8, depth=2)))
    assert "step 4, on scene 12, scene 13, scene 14, scene 15: no update was made" in capsys.readouterr().err
    assert_same(states(skipped), states(back))
    assert {x.item() for name, x in state(back).items() if name.endswith(".step")} == {WRONG + 1}


def world(spike: str, shard: str, out: str, autoencoder: str) -> None:
    """A poisoned run in a process of several."""
    with pytest.MonkeyPatch.context() as patch:
        poison(patch)
        config = transformer_run(Path(out), Path(autoencoder), spike=spike, **RARE | {"save_every": 2})
        train(replace(config, parallel=ParallelConfig(shard=shard)))


@pytest.mark.long
@pytest.mark.parametrize(("spike", "shard"), [("skip", "none"), ("back", "full")])
def test_two_processes_pass_over_the_same_step(tmp_path, poisoned, autoencoder, spike, shard):
    out, alone = tmp_path / "two", tmp_path / "one"
    script = tmp_path / "world.py"
    script.write_text("import sys\n\nfrom tests.test_spikes import world\n\nworld(*sys.argv[1:])\n")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [*launcher, str(script), spike, shard, str(out), str(autoencoder)]
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    train(transformer_run(alone, autoencoder, spike="skip", **RARE))
    assert largest_difference(out, alone) < 1e-4
    [row] = [row for row in rows(out) if "event" in row]
    assert (row["step"], sorted(sample[:8] for sample in row["samples"])) == (
        WRONG,
        [f"scene {k}" for k in (12, 13, 14, 15)],
    )


@pytest.mark.long
def test_a_run_that_goes_back_from_every_step_stops_however_often_it_saves(
    tmp_path, monkeypatch, autoencoder
):
    draw_sample, out = dit.steps.draw_sample, tmp_path / "run"

    def broken(shape, clip, *rest):
        sample = draw_sample(shape, clip, *rest)
        return replace(sample, noise_CTHW=sample.noise_CTHW * (math.nan if clip.draw >= 8 else 1.0))

    monkeypatch.setattr(dit.steps, "draw_sample", broken)
    rare = {"steps": 20, "save_every": 1, "show_every": 20, "spike": "back"}
    with pytest.raises(ValueError, match=r"at step 13, .*, after 10 steps passed over of late: "):
        train(transformer_run(out, autoencoder, **rare))
    assert read_json(out / "passed.json")["steps"] == list(range(3, 13))
