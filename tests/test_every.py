"""Proves that the checkpoints of a run are scored as they come: each once, by its average, into one curve."""

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from configs.load import to_json
from configs.train import LoopConfig
from dit.cli import run as run_command
from eval.benchmark import RunEvalSettings, run
from eval.every import CURVE, MODEL, ROWS, follow, rows_of
from tests.test_diffusers_format import write_run
from tests.tiny import (
    autoencoder_run,
    command,
    environment,
    launch,
    save_checkpoint,
    transformer_run,
    write_config,
)
from vae.training.checkpoints import checkpoints
from vae.training.files import file_hash, write_json
from vae.training.signals import Stopped
from vae.training.weights import load_weights, save_weights


class Trainer:
    """Writes what `dit train` writes into a run's folder, without training."""

    def __init__(self, folder: Path, save_every: int = 2, steps: int = 6):
        write_run(folder)
        self.folder, final = folder, folder / "transformer.safetensors"
        self.tensors, header = load_weights(final, "transformer")
        self.settings = header.settings
        final.unlink()
        loop = to_json(LoopConfig(steps=steps, save_every=save_every))
        record = {"kind": "transformer", "settings": self.settings | {"train": loop}, "facts": {"data": ""}}
        write_json(folder / "run.json", record)

    def average(self, step: int) -> dict[str, torch.Tensor]:
        """The averaged weights at a step."""
        return {name: tensor * (1 + step / 8) for name, tensor in self.tensors.items()}

    def save(self, step: int) -> None:
        """A checkpoint, whose weights are not their average; the oldest is dropped."""
        parts = {"model": self.tensors, "average": self.average(step)}
        facts = {"step": step, "smoothed": 1.0}
        save_checkpoint(self.folder, "transformer", parts, self.settings, facts)

    def finish(self, step: int) -> None:
        """The end of the run."""
        file = self.folder / "transformer.safetensors"
        save_weights(file, self.average(step), "transformer", self.settings, {"step": step})


@pytest.fixture
def trainer(tmp_path) -> Trainer:
    (tmp_path / "run").mkdir()
    return Trainer(tmp_path / "run")


def settings(trainer: Trainer, **changes) -> RunEvalSettings:
    plain = RunEvalSettings(
        job="ucf101-class",
        every=str(trainer.folder),
        out=str(trainer.folder.parent / "curve"),
        metrics=("dimensions",),
        count=2,
        steps=1,
        workers=0,
        poll=0.01,
        wait=False,
    )
    return replace(plain, **changes)


def test_each_checkpoint_is_scored_once_by_its_average(trainer, tmp_path, capsys):
    for step in (2, 4, 6):
        trainer.save(step)
    rows = follow(settings(trainer), run)
    assert [row["step"] for row in rows] == [4, 6]  # the trainer keeps two
    assert capsys.readouterr().err.count("missed: step 2: ") == 1
    for row in rows:
        alone = tmp_path / "alone"
        (alone / "run").mkdir(parents=True)
        save_weights(
            alone / "run" / "transformer.safetensors",
            trainer.average(row["step"]),
            "transformer",
            trainer.settings,
        )
        shutil.copy(trainer.folder / "autoencoder.safetensors", alone / "run")
        one = settings(trainer, every="", model=str(alone / "run"), out=str(alone / "out"))
        known = run(one)["dimensions"]
        assert {n: number["value"] for n, number in row["numbers"].items()} == known["scores"]
        assert {n: number["interval"] for n, number in row["numbers"].items()} == json.loads(
            json.dumps(known["intervals"])
        )
        average = trainer.folder / f"step-{row['step']:08d}" / "average.safetensors"
        assert row["weights"] == file_hash(average)
        shutil.rmtree(alone)
    out = tmp_path / "curve"
    assert rows[0]["numbers"] != rows[1]["numbers"] and list(rows_of(out)) == rows
    assert (out / CURVE).read_bytes()[:4] == b"\x89PNG"
    assert not list(out.glob(f"*/{MODEL}")) and (out / "step-00000004" / "dimensions.json").is_file()

    def never(asked) -> dict:
        raise AssertionError("scored again")

    before = (out / ROWS).read_bytes()
    assert follow(settings(trainer), never) == rows and (out / ROWS).read_bytes() == before
    trainer.save(8)
    assert [row["step"] for row in follow(settings(trainer), run)] == [4, 6, 8]
    with pytest.raises(ValueError, match=r"every\.jsonl has step 4 with count = 2, not 3: give that, or"):
        follow(settings(trainer, count=3), never)
    file = trainer.folder / "step-00000008" / "average.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(ValueError, match=r"has step 8 of other weights than .*: the run began anew"):
        follow(settings(trainer), never)


@pytest.mark.long
def test_it_waits_for_checkpoints_and_ends_with_the_run(trainer, capsys):
    trainer.save(2)
    half = trainer.folder / ".step-00000004.abcdefgh.tmp" / "step-00000004"
    half.mkdir(parents=True)  # what a trainer is writing
    (half / "average.safetensors").write_bytes(b"half")
    scored = []

    def meanwhile(asked) -> dict:
        """Scores while the trainer goes on; it is done as the first score is."""
        scored.append(int(Path(asked.out).name.removeprefix("step-")))
        if len(scored) == 1:
            for step in (4, 6):
                trainer.save(step)
            trainer.finish(6)
        return run(asked)

    rows = follow(settings(trainer, wait=True), meanwhile)
    assert scored == [row["step"] for row in rows] == [2, 4, 6]
    assert "missed" not in capsys.readouterr().err
    shutil.rmtree(trainer.folder / "step-00000006")  # its end alone is a model too
    other = settings(trainer, out=str(trainer.folder.parent / "other"), until=6, wait=True)
    assert [row["step"] for row in follow(other, run)] == [4, 6]


def test_it_ends_after_the_step_that_is_asked_for(trainer):
    for step in (3, 6):
        trainer.save(step)
    assert [row["step"] for row in follow(settings(trainer, until=4, wait=True), run)] == [3]


def test_what_was_stopped_goes_on_from_its_copy(trainer, monkeypatch, capsys):
    trainer.save(2)

    def stopped(asked) -> dict:
        raise Stopped(signal.SIGTERM)

    with pytest.raises(Stopped):
        follow(settings(trainer), stopped)
    assert list(rows_of(Path(settings(trainer).out))) == []
    trainer.save(4)
    shutil.rmtree(trainer.folder / "step-00000002")
    assert [row["step"] for row in follow(settings(trainer), run)] == [2, 4]
    monkeypatch.setattr("eval.benchmark.run", stopped)
    trainer.save(6)
    words = ["--every", str(trainer.folder), "--out", settings(trainer).out, "--metrics", "dimensions"]
    words += ["--count", "2", "--steps", "1", "--workers", "0", "--no-wait"]
    assert run_command(["eval", "run", "ucf101-class", *words]) == 128 + signal.SIGTERM
    assert "the same command goes on" in capsys.readouterr().err


def test_a_copy_of_a_run_that_began_anew_is_not_scored(trainer):
    def stopped(asked) -> dict:
        raise Stopped(signal.SIGTERM)

    def never(asked) -> dict:
        raise AssertionError("scored")

    trainer.save(4)
    with pytest.raises(Stopped):
        follow(settings(trainer), stopped)
    shutil.rmtree(trainer.folder / "step-00000004")
    trainer.tensors = {name: tensor * 2 for name, tensor in trainer.tensors.items()}
    trainer.save(2)  # it has not come to the copied step
    with pytest.raises(
        ValueError, match=r"step-00000004/model is a copy of other weights than any of .*/run"
    ):
        follow(settings(trainer), never)
    trainer.save(4)
    with pytest.raises(
        ValueError, match=r"a copy of other weights than .*average\.safetensors: the run began"
    ):
        follow(settings(trainer), never)


def test_a_folder_of_another_name_is_no_step(trainer):
    trainer.save(2)
    for name in ("step-old", "step-1"):
        (trainer.folder.parent / "curve" / name / MODEL).mkdir(parents=True)
    assert [row["step"] for row in follow(settings(trainer), run)] == [2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"every": "nowhere"}, "nowhere is no run of `dit train`: it has no run.json"),
        ({"model": "other"}, "scores that run's models: leave --model out"),
        ({"sample_only": True}, "takes no --sample-only"),
    ],
)
def test_what_is_no_run_is_told(trainer, changes, message):
    with pytest.raises(ValueError, match=message):
        follow(settings(trainer, **changes), run)


def test_a_curve_is_of_one_kind_of_score(trainer):
    trainer.save(2)
    follow(settings(trainer), run)
    trainer.save(4)

    def otherwise(asked) -> dict:
        score = run(asked)["dimensions"]
        return {"dimensions": score | {"protocol_sha256": "0" * 64}}

    with pytest.raises(ValueError, match=r"every\.jsonl has step 2 scored otherwise: dimensions: "):
        follow(settings(trainer), otherwise)


@pytest.mark.long
def test_a_run_that_trains_meanwhile_is_scored_to_its_end(tmp_path):
    """Two processes: one trains, the other scores what it saves; a third waits, and ends by a signal."""
    config = write_config(tmp_path / "autoencoder.py", autoencoder_run(tmp_path / "autoencoder", steps=2))
    assert launch("vae.train", config).returncode == 0
    config = transformer_run(tmp_path / "run", tmp_path / "autoencoder", steps=40, save_every=10)
    trains = subprocess.Popen(
        command("dit.train", write_config(tmp_path / "run.py", config)), env=environment()
    )
    while not (tmp_path / "run" / "run.json").is_file():
        assert trains.poll() in (None, 0)
        time.sleep(0.2)
    words = [
        "ucf101-class",
        "--every",
        tmp_path / "run",
        "--metrics",
        "dimensions",
        "--count",
        2,
        "--steps",
        1,
    ]
    words += ["--workers", 0, "--poll", 0.2, "--out", tmp_path / "curve"]
    done = launch("eval.benchmark", *words)
    assert done.returncode == 0, done.stderr
    assert trains.wait(60) == 0
    steps = [row["step"] for row in rows_of(tmp_path / "curve")]
    assert steps[-1] == 40 and steps == sorted({*steps}) and {*steps} <= {10, 20, 30, 40}
    missed = [step for step in (10, 20, 30, 40) if step not in steps]
    assert all(str(step) in done.stderr for step in missed)
    assert len(checkpoints(tmp_path / "run")) == 2
    (tmp_path / "run" / "transformer.safetensors").unlink()  # now the run has no end
    waits = subprocess.Popen(command("eval.benchmark", *words), env=environment(), stderr=subprocess.PIPE)
    for line in waits.stderr:
        if b"waiting for a checkpoint" in line:
            break
    os.kill(waits.pid, signal.SIGTERM)
    assert waits.wait(60) == 128 + signal.SIGTERM
