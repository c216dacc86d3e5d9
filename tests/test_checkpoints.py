"""Proves that checkpoints are whole, are written behind the loop, and go over to other processes and runs."""

import json
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor

import dit.train
import vae.training.sharded
from dit.load import AVERAGE, find_weights, load_model
from tests import tiny
from tests.test_train import autoencoder  # noqa: F401
from tests.tiny import fresh_accelerator, rows, save_checkpoint, state, transformer_run  # noqa: F401
from vae.training.branch import find_checkpoint
from vae.training.checkpoints import checkpoints, newest_sound
from vae.training.files import remove_stale, whole
from vae.training.saving import Saver
from vae.training.session import Session
from vae.training.sharded import read_states
from vae.training.weights import (
    Header,
    copy_weights,
    load_weights,
    read_tensors,
    save_weights,
    shard,
    shards,
    weights_hash,
)


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


HEADER = Header("transformer checkpoint", {}, {"step": 1, "smoothed": None})


def write_shards(path: Path, whole: dict[str, Tensor], count: int, header: Header = HEADER) -> None:
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
        file = shard(path, number + 1, count)
        save_weights(file, parts, header.kind, header.settings, header.facts, begins)


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


def test_a_model_in_shards_is_the_model(run, tmp_path):
    other = tmp_path / "run"
    shutil.copytree(run, other)
    (other / "transformer.safetensors").unlink()
    file = other / "step-00000003" / AVERAGE
    tensors, header = load_weights(file)
    models = [load_model(str(other), torch.device("cpu"), torch.float32)]
    file.unlink()
    write_shards(file, tensors, 3, header)
    assert len(shards(find_weights(other))) == 3
    models += [load_model(str(place), torch.device("cpu"), torch.float32) for place in (other, file.parent)]
    for model in models:
        assert_equal(model.denoiser.trained_state(), tensors)
    assert models[1].weights == models[2].weights != models[0].weights
    (tmp_path / "copy").mkdir()
    copy_weights(file, tmp_path / "copy" / "transformer.safetensors")
    assert_equal(load_weights(find_weights(tmp_path / "copy"))[0], tensors)


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
    "beside a whole one": (
        lambda s, w: save_weights(s(1).with_name("model.safetensors"), {}, "transformer checkpoint", {}, {}),
        "model-00001-of-00003.safetensors is left over, beside model.safetensors",
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


def test_a_run_that_another_began_meanwhile_is_not_begun_again(tmp_path):
    """Which of its settings are used was decided before it had the folder for itself."""
    config = transformer_run(tmp_path / "run", "")
    run = Session(config, "transformer", "transformer.safetensors")
    (tmp_path / "run" / "step-00000002").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"another run began \S+run meanwhile: give the same command"), run:
        run.open("")


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
    for count in (1, 2):
        write_shards(path, tensors(), count)
        found.add(weights_hash(path))
        path.unlink(missing_ok=True)
    save_weights(shard(path, 2, 2), {}, HEADER.kind, HEADER.settings, HEADER.facts, {})
    assert len(found | {weights_hash(path)}) == 3


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


def test_what_a_kill_left_half_removed_is_removed_by_the_next(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    killed: list[Path] = []

    def die(folder: Path, **more) -> None:
        """Is killed when the first file is gone; what follows in this process is not done."""
        if not killed:
            next(path for path in Path(folder).iterdir() if path.is_file()).unlink()
            killed.append(folder)
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed), whole(tmp_path / "run") as temporary:
        temporary.mkdir()
        (temporary / "model.safetensors").touch()
        patch.setattr("shutil.rmtree", die)
        raise ValueError
    assert killed and len(list(tmp_path.iterdir())) == 1
    remove_stale(tmp_path)
    assert not list(tmp_path.iterdir())


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


WORLDS = (4, 1, 3, 2, 4, 2)


def chain(rank: int, folder: Path) -> None:
    """What one of four processes does: in each world that it is in, reads the states, adds one, and saves."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    for step, ranks in enumerate(WORLDS, 1):
        if rank < ranks:
            dist.init_process_group("gloo", f"file://{folder}/meet-{step}", rank=rank, world_size=ranks)
            hybrid = ranks == 4 and step > 1
            mesh = init_device_mesh("cpu", (2, 2) if hybrid else (ranks,))
            places = [Replicate(), Shard(0)] if hybrid else [Shard(0)]
            states = {}
            for part, seed in (("model", 0), ("average", 1)):
                whole = {name: x if step == 1 else torch.zeros_like(x) for name, x in tensors(seed).items()}
                kept = {name for k, name in enumerate(whole) if not whole[name].ndim or (k + step) % 3 == 0}
                states[part] = {
                    name: x if name in kept else distribute_tensor(x, mesh, places)
                    for name, x in whole.items()
                }
            saver = Saver(torch.device("cpu"))
            if step > 1:
                newest = newest_sound(folder / "run", "transformer", states, False)
                for part, named in states.items():
                    saver.read(newest / f"{part}.safetensors", named)
            for named in states.values():
                for tensor in named.values():
                    tensor.add_(1)
            saver.save(folder / "run", "transformer", states, {}, {"step": step, "smoothed": None})
            saver.wait_copied()
            for named in states.values():
                for tensor in named.values():
                    tensor.zero_()
            saver.wait_written()
            dist.barrier()
            dist.destroy_process_group()
        while not (folder / "run" / f"step-{step:08d}").is_dir():
            time.sleep(0.01)


@pytest.mark.long
def test_states_go_over_to_any_number_of_processes_sharded_or_not(tmp_path):
    (tmp_path / "run").mkdir()
    torch.multiprocessing.spawn(chain, (tmp_path,), 4)
    last = tmp_path / "run" / f"step-{len(WORLDS):08d}"
    assert len(list(last.iterdir())) == 2 * WORLDS[-1]
    for part, seed in (("model", 0), ("average", 1)):
        expected = tensors(seed)
        for _ in WORLDS:
            expected = {name: tensor + 1 for name, tensor in expected.items()}
        assert_equal(load_weights(last / f"{part}.safetensors")[0], expected)


@pytest.mark.long
def test_a_full_disk_of_one_process_is_said_by_all(tmp_path):
    (tmp_path / "run").mkdir()
    torch.multiprocessing.spawn(fail, (tmp_path,), 2)
    assert not list((tmp_path / "run").iterdir())


def fail(rank: int, folder: Path) -> None:
    """What one of two processes does, of which the second finds its disk full."""
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    if rank:

        def full(*about, **more) -> None:
            raise OSError(28, "No space left on device")

        vae.training.sharded.save_weights = full
    saver = Saver(torch.device("cpu"))
    states = {"model": {name: torch.ones(3) for name in "abcd"}}
    saver.save(folder / "run", "transformer", states, {}, {"step": 1, "smoothed": None})
    with pytest.raises((OSError, ValueError), match="No space left on device"):
        saver.wait_written()
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.long
def test_killed_on_any_processes_a_training_ends_as_one_left_alone():
    words = [sys.executable, "-m", "tests.bench.kills", "worlds", "--kills", "8"]
    done = subprocess.run(words, cwd=tiny.ROOT, env=tiny.environment(), capture_output=True, text=True)
    assert done.returncode == 0 and ", 0 went wrong" in done.stdout, done.stdout + done.stderr[-2000:]
