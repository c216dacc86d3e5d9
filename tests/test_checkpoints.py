"""Proves that checkpoints are whole, are written behind the loop, and go over to other processes and runs."""

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import dit.train
import vae.training.saving
import vae.training.sharded
from tests.test_train import autoencoder  # noqa: F401
from tests.tiny import fresh_accelerator, rows, save_checkpoint, state, transformer_run  # noqa: F401
from vae.training.branch import find_checkpoint
from vae.training.checkpoints import checkpoints
from vae.training.saving import Saver
from vae.training.sharded import read_states
from vae.training.weights import load_weights, read_tensors, save_weights, shard, shards, weights_hash


def tensors(seed: int = 0) -> dict[str, Tensor]:
    """Tensors of many shapes and types, among them scalars and empty ones."""
    random = torch.Generator().manual_seed(seed)
    named = {
        f"a.{k}.b": torch.randn(shape, generator=random) for k, shape in enumerate([(7, 5), (3,), (4, 2, 3)])
    }
    return named | {
        "scalar": torch.tensor(3.0),
        "none": torch.zeros(0, 4),
        "half": torch.randn(2, 3, generator=random).bfloat16(),
        "numbers": torch.arange(5),
    }


def write_shards(path: Path, whole: dict[str, Tensor], count: int, step: int = 1) -> None:
    """Writes weights in shards as so many processes would, the axes of every tensor cut in turn."""
    for number in range(count):
        parts, begins = {}, {}
        for k, (name, tensor) in enumerate(whole.items()):
            axis = k % max(1, tensor.ndim)
            if not tensor.ndim:
                if number == k % count:
                    parts[name], begins[name] = tensor, []
                continue
            size = -(-tensor.shape[axis] // count)
            begin = min(number * size, tensor.shape[axis])
            parts[name] = tensor.narrow(axis, begin, min(size, tensor.shape[axis] - begin))
            begins[name] = [begin if a == axis else 0 for a in range(tensor.ndim)]
        facts = {"step": step, "smoothed": None}
        save_weights(shard(path, number + 1, count), parts, "transformer checkpoint", {}, facts, begins)


def assert_equal(found: dict[str, Tensor], whole: dict[str, Tensor]) -> None:
    assert found.keys() == whole.keys()
    for name, tensor in whole.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shards_are_read_as_the_whole_by_two_readers(tmp_path, count):
    path, whole = tmp_path / "model.safetensors", tensors()
    write_shards(path, whole, count)
    assert len(shards(path)) == count
    assert_equal(load_weights(path, "transformer checkpoint")[0], whole)
    live = {name: torch.full_like(tensor, 9) for name, tensor in whole.items()}
    read_states(path, live, None)
    assert_equal(live, whole)


def flip(file: Path, before: bytes, after: bytes) -> None:
    content = file.read_bytes()
    assert before in content and len(before) == len(after)
    file.write_bytes(content.replace(before, after, 1))


HARM = {
    "gone": (lambda s, w: s(2).unlink(), r"model-00002-of-00003.safetensors is missing, one of 3 shards"),
    "left over": (
        lambda s, w: write_shards(s(1).with_name("model.safetensors"), w, 2),
        r"model-0000\d-of-00002.safetensors is left over",
    ),
    "of another step": (
        lambda s, w: save_weights(s(2), {}, "transformer checkpoint", {}, {"step": 2, "smoothed": None}, {}),
        "model-00002-of-00003.safetensors is a shard of other weights than model-00001",
    ),
    "put elsewhere": (
        lambda s, w: flip(s(2), b'a.0.b\\": {\\"saved_offsets\\": [3', b'a.0.b\\": {\\"saved_offsets\\": [0'),
        "model-00002-of-00003.safetensors is damaged",
    ),
    "without one": (
        lambda s, w: save_weights(s(2), {}, "transformer checkpoint", {}, {"step": 1, "smoothed": None}, {}),
        "is not whole in its shards",
    ),
}


@pytest.mark.parametrize(("harm", "words"), HARM.values(), ids=HARM)
def test_a_shard_that_is_not_there_or_another_is_named(tmp_path, harm, words):
    path, whole = tmp_path / "model.safetensors", tensors()
    write_shards(path, whole, 3)
    load_weights(path)
    harm(lambda number: shard(path, number, 3), whole)
    with pytest.raises(ValueError, match=words):
        load_weights(path)
    if words.startswith("is not whole"):
        with pytest.raises(ValueError, match=words):
            read_states(path, whole, None)


def test_the_hash_of_weights_is_of_all_their_shards(tmp_path):
    path, found = tmp_path / "model.safetensors", set()
    for count, seed in ((1, 0), (2, 0), (2, 1)):
        for file in shards(path):
            file.unlink()
        write_shards(path, tensors(seed), count)
        found.add(weights_hash(path))
    assert len(found) == 3


@pytest.mark.parametrize(("kept", "there"), [(0, [6, 7]), (3, [3, 6, 7]), (1, range(1, 8))])
def test_every_nth_checkpoint_is_kept_for_good(tmp_path, kept, there):
    for step in range(1, 8):
        states = {"model": {"x": torch.tensor([float(step)])}}
        save_checkpoint(tmp_path, "transformer", states, {}, {"step": step, "smoothed": None}, kept)
    assert [int(path.name[5:]) for path in checkpoints(tmp_path)] == list(there)


def test_the_loop_waits_for_the_copy_and_not_for_the_disk(tmp_path, monkeypatch):
    copy, write = threading.Event(), threading.Event()
    copy_of, written = Saver._copy, vae.training.sharded.write_states
    monkeypatch.setattr(Saver, "_copy", lambda *about: copy.wait(30) and copy_of(*about))
    monkeypatch.setattr(
        vae.training.sharded, "write_states", lambda *about: write.wait(30) and written(*about)
    )
    saver, x = Saver(torch.device("cpu")), torch.ones(3)
    saver.save(tmp_path, "transformer", {"model": {"x": x}}, {}, {"step": 1, "smoothed": None})
    waiting = threading.Thread(target=saver.wait_copied, daemon=True)
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive(), "nothing is copied yet"
    copy.set()
    waiting.join(30)
    assert not waiting.is_alive() and not checkpoints(tmp_path), "copied, and not written"
    x.zero_()
    write.set()
    saver.wait_written()
    assert read_tensors(tmp_path / "step-00000001" / "model.safetensors")["x"].tolist() == [1, 1, 1]


def test_what_kept_a_checkpoint_from_being_written_is_said_once_and_by_the_next(tmp_path, monkeypatch):
    def full(place: Path, *about) -> None:
        raise OSError(28, "No space left on device", str(place / "model.safetensors"))

    saver = Saver(torch.device("cpu"))
    states, facts = {"model": {"x": torch.ones(1)}}, {"step": 1, "smoothed": None}
    with monkeypatch.context() as patch:
        patch.setattr(vae.training.sharded, "write_states", full)
        saver.save(tmp_path, "transformer", states, {}, facts)
        with pytest.raises(OSError, match="No space left") as raised:
            saver.save(tmp_path, "transformer", states, {}, facts)
    assert raised.value.filename == str(tmp_path / "step-00000001") and not list(tmp_path.iterdir())
    saver.save(tmp_path, "transformer", states, {}, facts)
    saver.wait_written()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, autoencoder) -> Path:  # noqa: F811
    """A run of three steps, with all its checkpoints; copying the states takes longer than a step."""
    out = tmp_path_factory.mktemp("run") / "run"
    copy = Saver._copy
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Saver, "_copy", lambda *about: time.sleep(0.3) or copy(*about))
        dit.train.train(config_of(out, autoencoder))
    return out


def config_of(out: Path, autoencoder: Path, **loop):  # noqa: F811
    config = transformer_run(out, autoencoder, **{"steps": 3, "save_every": 1, "show_every": 9} | loop)
    return replace(config, train=replace(config.train, keep_every=1))


def test_a_branch_with_nothing_changed_is_the_run(run, autoencoder, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "branch"
    config = replace(config_of(out, autoencoder), from_run=f"{run}@1")
    dit.train.train(config)
    assert "steps count on from 1; changed: nothing" in capsys.readouterr().err
    assert_same_states(out, run)
    assert rows(out) == [row for row in rows(run) if row["step"] > 1]
    assert [path.name for path in checkpoints(out)] == [f"step-0000000{k}" for k in (1, 2, 3)]
    dit.train.train(replace(config, train=replace(config.train, steps=4)))  # without the other run
    assert json.loads((out / "run.json").read_text())["facts"]["from"]["step"] == 1


def assert_same_states(out: Path, other: Path) -> None:
    one, two = state(out), state(other)
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_branch_says_what_changed_and_may_begin_its_optimizer_anew(run, autoencoder, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "branch"
    config = replace(config_of(out, autoencoder), from_run=str(run / "step-00000002"), from_optimizer=False)
    config = replace(config, optimizer=replace(config.optimizer, learning_rate=0.5, warmup_steps=4))
    dit.train.train(config)
    said = capsys.readouterr().err
    assert "optimizer.learning_rate 0.001 -> 0.5, optimizer.warmup_steps 100 -> 4" in said
    assert "its optimizer begins anew" in said
    header = load_weights(out / "transformer.safetensors")[1]
    for facts in (json.loads((out / "run.json").read_text())["facts"], header.facts):
        assert facts["from"]["changed"] == {
            "optimizer.learning_rate": [0.001, 0.5],
            "optimizer.warmup_steps": [100, 4],
        }
    assert learning_rates(out) == [0.5 / 4], "its first update, of four of warm-up"
    first, other = (read_tensors(f / "step-00000002" / "average.safetensors") for f in (out, run))
    assert_equal(first, other)
    moments = read_tensors(out / "step-00000003" / "optimizer.safetensors")
    assert {value.item() for name, value in moments.items() if name.endswith(".step")} == {1}
    dit.train.train(replace(config, train=replace(config.train, steps=4)))
    assert learning_rates(out) == [0.5 / 4, 0.5 / 2]


def learning_rates(out: Path) -> list[float]:
    return [row["learning_rate"] for row in rows(out) if "loss" in row]


def test_what_no_branch_can_begin_from_is_said(run, autoencoder, tmp_path):  # noqa: F811
    config = config_of(tmp_path / "branch", autoencoder)
    for name, words in {
        f"{run}@7": "has no checkpoint of step 7, but of 1, 2, 3",
        str(tmp_path): "has no checkpoint; RUN or RUN@STEP names one",
        str(run): r"is of step 3, from which steps count on: --train.steps 3 ends before",
    }.items():
        with pytest.raises(ValueError, match=words):
            dit.train.train(replace(config, from_run=name))
    with pytest.raises(ValueError, match="--init and --from-run both say where a run begins"):
        dit.train.train(replace(config, from_run=str(run), init=str(run)))
    other = replace(config, from_run=f"{run}@1", model=replace(config.model, depth=2))
    with pytest.raises(
        ValueError, match=r"step-00000001/model.safetensors does not fit the model's settings"
    ):
        dit.train.train(other)
    assert not (tmp_path / "branch" / "step-00000001").exists()
    assert find_checkpoint(str(run)).name == "step-00000003"
