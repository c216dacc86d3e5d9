"""Proves that an autoencoder's training depends on its settings alone, however stopped, killed or spread."""

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

import vae.train
import vae.training.checkpoints
import vae.training.folder
import vae.training.processes
import vae.training.session
import vae.training.sharded
from configs.data import DataConfig
from configs.load import from_json, to_json
from configs.train import AutoencoderRun, OptimizerConfig
from dit.cli import sentence
from tests.tiny import (
    ROOT,
    assert_same_run,
    autoencoder_run,
    command,
    environment,
    fresh_accelerator,  # noqa: F401
    largest_difference,
    launch,
    newest_step,
    rows,
    state,
    write_config,
)
from vae.compression import Compression
from vae.data.columns import Entry
from vae.data.drawn_world import draw, random_scene
from vae.data.manifest import save_manifest
from vae.data.video import probe
from vae.data.write import write_video
from vae.load import load_autoencoder
from vae.training.optimizer import update_average
from vae.training.session import Session
from vae.training.signals import Stopped
from vae.training.weights import AUTOENCODERS, load_weights, read_header, save_weights

train = vae.train.train


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run of six steps that nothing stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(autoencoder_run(out))
    return out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_by_a_signal_and_resumed_equals_never_stopped(whole, tmp_path, monkeypatch, capsys, number):
    out, steps = tmp_path / "run", []

    def update_and_signal(average, model, step, *rest):
        steps.append(step)
        if len(steps) == 3:
            os.kill(os.getpid(), number)
        update_average(average, model, step, *rest)

    monkeypatch.setattr(vae.train, "update_average", update_and_signal)
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as stopped:
        train(autoencoder_run(out))
    assert stopped.value.status == 128 + number
    assert signal.getsignal(number) is before
    assert newest_step(out) == 3 and not (out / vae.train.WEIGHTS).exists()
    assert "stopped at step 3" in capsys.readouterr().err
    train(autoencoder_run(out))
    assert steps == [1, 2, 3, 4, 5, 6]
    assert_same_run(out, whole)


@pytest.fixture
def videos(tmp_path) -> str:
    """A folder of five videos that are read from their start, in processes of their own."""
    folder = tmp_path / "videos"
    files = [folder / f"{k}.mp4" for k in range(5)]
    for k, file in enumerate(files):
        write_video(file, draw(random_scene(0, k, "train"), 9, 32, 32), 8, {})
    held = [asdict(probe(file)) | {"reader": "sequential", "path": file, "captions": ()} for file in files]
    save_manifest(folder / "manifest.parquet", [Entry(**one) for one in held])
    return str(folder)


@pytest.mark.long
def test_a_signal_to_the_whole_group_stops_only_the_loop(videos, tmp_path):
    run = autoencoder_run(tmp_path / "run", steps=4000, save_every=1, show_every=4000)
    run = replace(run, data=DataConfig(source=videos, frames=5, size=32, workers=1))
    words = command("vae.train", write_config(tmp_path / "mine.py", run))
    pipes = {"stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    process = subprocess.Popen(words, cwd=ROOT, env=environment(), **pipes)
    while newest_step(run.out) < 2 and process.poll() is None:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 143 and "stopped at step" in said, said[-2000:]
    assert "skipped" not in said and "Traceback" not in said
    again = replace(run, train=replace(run.train, steps=newest_step(run.out) + 2))
    train(again)
    train(replace(again, out=str(tmp_path / "other"), data=replace(run.data, workers=0)))
    assert_same_run(run.out, tmp_path / "other")


def test_three_steps_made_six_equal_six(whole, tmp_path):
    out = tmp_path / "run"
    short = train(autoencoder_run(out, steps=3))
    assert read_header(short).facts["step"] == 3
    train(autoencoder_run(out, steps=6))
    assert_same_run(out, whole)
    ours, others = load_weights(out / vae.train.WEIGHTS), load_weights(whole / vae.train.WEIGHTS)
    assert all(torch.equal(ours[0][name], tensor) for name, tensor in others[0].items())
    assert ours[1] == replace(others[1], settings=ours[1].settings)


def test_a_kill_while_saving_leaves_the_last_checkpoint(whole, tmp_path, monkeypatch):
    out = tmp_path / "run"
    save = vae.training.sharded.save_weights

    class Killed(BaseException):
        pass

    def die_in_the_second_part_of_step_4(path, *about, **more):
        if "step-00000004" in str(path) and "average" in path.name:
            path.with_name(".tmpAbCdEf").write_bytes(b"half")  # as safetensors names it
            shutil.copytree(path.parent.parent, out / ".step-00000004.abcdefgh.tmp")  # a kill removes nothing
            raise Killed
        save(path, *about, **more)

    monkeypatch.setattr(vae.training.sharded, "save_weights", die_in_the_second_part_of_step_4)
    with pytest.raises(Killed):
        train(autoencoder_run(out))
    monkeypatch.setattr(vae.training.sharded, "save_weights", save)
    assert (out / ".step-00000004.abcdefgh.tmp").is_dir() and newest_step(out) == 2
    with open(out / "log.jsonl", "a") as file:
        file.write('{"step": 5, "lo')  # a line that the kill cut short
    train(autoencoder_run(out))
    assert not list(out.rglob(".*"))
    assert_same_run(out, whole)


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (
            lambda step: (step / "optimizer.safetensors").unlink(),
            "step-00000006 has no optimizer.safetensors",
        ),
        (lambda step: [file.unlink() for file in step.iterdir()], "step-00000006 has no model.safetensors"),
        (lambda step: os.truncate(step / "average.safetensors", 1000), "is not a whole safetensors file"),
        (lambda step: shutil.copy(step.parent / "step-00000004/model.safetensors", step), "is of step 4"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_older_one_gone_on_from(whole, tmp_path, capsys, harm, what):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (out / vae.train.WEIGHTS).unlink()
    harm(out / "step-00000006")
    with pytest.raises(ValueError, match=f"{what}.*; --train.from-older goes on from step-00000004"):
        train(autoencoder_run(out))
    train(autoencoder_run(out, from_older=True))
    assert "step-00000006 is damaged: now damaged-step-00000006, going on from" in capsys.readouterr().err
    assert (out / "damaged-step-00000006").is_dir()
    assert_same_run(out, whole)


def test_where_no_checkpoint_is_sound_nothing_begins_anew(whole, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for file in out.glob("step-*/model.safetensors"):
        file.unlink()
    with pytest.raises(
        ValueError, match=r"00006 has no model\.safetensors; no other checkpoint is sound: give"
    ):
        train(autoencoder_run(out, steps=8, from_older=True))


@pytest.mark.parametrize("text", ["", None, "[]", "{"])
def test_a_damaged_run_json_is_made_again_from_a_checkpoint(whole, tmp_path, capsys, text):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    before = json.loads((out / "run.json").read_text())
    (out / "run.json").unlink()
    if text is not None:
        (out / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r"with kl_weight = 1e-06, not 0\.5"):
        train(replace(autoencoder_run(out), kl_weight=0.5))
    with pytest.raises(ValueError, match="holds a run on other data"):
        open_run(out, autoencoder_run(out), "other")
    train(autoencoder_run(out))
    assert "its settings are those of step-00000006" in capsys.readouterr().err
    after = json.loads((out / "run.json").read_text())
    assert after["facts"] == before["facts"] and after["kind"] == before["kind"]


def test_a_kill_before_the_curve_is_drawn_leaves_it_to_be_drawn(whole, tmp_path, monkeypatch):
    out, draw_curve = tmp_path / "run", vae.training.session.draw_curve

    class Killed(BaseException):
        pass

    def die(*about):
        raise Killed

    monkeypatch.setattr(vae.training.session, "draw_curve", die)
    with pytest.raises(Killed):
        train(autoencoder_run(out, save_every=3))
    monkeypatch.setattr(vae.training.session, "draw_curve", draw_curve)
    assert newest_step(out) == 3 and not (out / "curve.png").exists()
    train(autoencoder_run(out, steps=3, save_every=3))
    assert (out / "curve.png").exists()


def test_a_full_disk_says_which_step_is_kept(tmp_path, monkeypatch):
    save = vae.training.sharded.save_weights

    def fail_at_step_4(path, *about, **more):
        if "step-00000004" in str(path):
            raise OSError(28, "No space left on device", str(path))
        save(path, *about, **more)

    monkeypatch.setattr(vae.training.sharded, "save_weights", fail_at_step_4)
    with pytest.raises(OSError) as error:
        train(autoencoder_run(tmp_path / "run"))
    assert error.value.filename == str(tmp_path / "run" / "step-00000004")
    said = sentence(error.value)
    assert said.startswith(f"{error.value.filename}: No space left on device; nothing half-written is left")
    assert said.endswith("step-00000002 is kept, the same command goes on from it")


@pytest.mark.long
def test_two_processes_equal_one(whole, tmp_path):
    out = tmp_path / "run"
    config = write_config(tmp_path / "two.py", autoencoder_run(out))
    done = launch("vae.train", config, processes=2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert largest_difference(out, whole) < 1e-5
    for one, two in zip(rows(out), rows(whole), strict=True):
        assert one == pytest.approx(two, rel=1e-5)


def test_weights_of_a_checkpoint_are_no_autoencoder_yet(whole):
    step = max(whole.glob("step-*"))
    with pytest.raises(ValueError, match="statistics are measured when its run ends"):
        load_autoencoder(step / "average.safetensors")
    with pytest.raises(ValueError, match=r"optimizer\.safetensors"):
        load_autoencoder(step / "optimizer.safetensors")


def test_a_finished_run_does_nothing_and_says_so(whole, capsys):
    files = {file: file.stat().st_mtime_ns for file in whole.rglob("*") if file.name != "run.json"}
    train(autoencoder_run(whole))
    assert "finished at step 6: nothing to do" in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in whole.rglob("*") if file.name != "run.json"} == files


@pytest.mark.parametrize(
    "change",
    [
        lambda c: replace(c, kl_weight=0.5),
        lambda c: replace(c, train=replace(c.train, seed=1)),
        lambda c: replace(c, model=replace(c.model, residual_blocks=2)),
    ],
)
def test_changed_settings_are_refused_by_name(whole, change):
    changed = change(autoencoder_run(whole))
    flat, other = (vae.training.folder.flat(to_json(c)) for c in (autoencoder_run(whole), changed))
    name = next(key for key in flat if flat[key] != other[key])
    before = (whole / "run.json").read_text()
    with pytest.raises(ValueError, match=f"holds a run with {name} = "):
        train(changed)
    assert (whole / "run.json").read_text() == before


def open_run(folder: Path, config, data: str = "") -> None:
    with Session(replace(config, out=str(folder)), "autoencoder", vae.train.WEIGHTS) as run:
        run.open(data)


def test_settings_may_change_until_there_is_a_checkpoint(tmp_path):
    open_run(tmp_path, autoencoder_run(tmp_path))
    changed = replace(autoencoder_run(tmp_path), kl_weight=0.5)
    open_run(tmp_path, changed)
    assert '"kl_weight": 0.5' in (tmp_path / "run.json").read_text()


def test_a_run_goes_on_with_the_files_it_began_with_or_not_at_all(tmp_path):
    config = autoencoder_run(tmp_path)
    open_run(tmp_path, config, "one")
    open_run(tmp_path, config, "two")
    (tmp_path / "step-00000001").mkdir()
    open_run(tmp_path, config, "two")
    with pytest.raises(ValueError, match="on other data than shapes now has: bring back"):
        open_run(tmp_path, config, "one")
    (tmp_path / "run.json").write_text(json.dumps(to_json(config)))
    with pytest.raises(ValueError, match=r"run\.json: kind is missing"):
        open_run(tmp_path, config, "one")


def test_a_run_of_a_transformer_is_not_gone_on_with(tmp_path):
    tensors = {"a": torch.ones(1)}
    checkpoint = tmp_path / "step-00000001" / "model.safetensors"
    vae.training.folder.open_run(tmp_path, "transformer", autoencoder_run(tmp_path), "")
    save_weights(checkpoint, tensors, "transformer checkpoint", {}, {"step": 1})
    (tmp_path / "step-00000002").write_text("a file is no checkpoint")
    assert vae.training.checkpoints.checkpoints(tmp_path) == [tmp_path / "step-00000001"]
    with pytest.raises(ValueError, match="holds a run of kind transformer, not autoencoder: give another"):
        train(autoencoder_run(tmp_path))


def test_a_run_does_not_write_among_the_videos(videos):
    with pytest.raises(ValueError, match="holds a manifest: give the run a folder of its own with --out"):
        open_run(Path(videos), autoencoder_run(videos))


def test_two_runs_do_not_write_one_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(vae.training.folder, "LOCK_PATIENCE", 0)
    with Session(autoencoder_run(tmp_path), "autoencoder", vae.train.WEIGHTS) as run:
        run.open("")
        with pytest.raises(ValueError, match="is in use by another run: let it end"):
            open_run(tmp_path, autoencoder_run(tmp_path))
    open_run(tmp_path, autoencoder_run(tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_only_what_a_run_itself_left_half_written_is_removed(tmp_path):
    ours = (
        ".run.json.a_cdefgh.tmp/.lock",
        ".step-00000004.abcdefg1.tmp/.lock",
        ".curve.png.abcdefgh.tmp/.lock",
    )
    others = (
        ".git/.x.safetensors.abcdefgh.tmp/.lock",
        ".notes.tmp",
        ".notes.abcdefgh.tmp/x",  # holds no lock, and so is a user's
        ".notes.abcdefgh.tmp.old/.lock",
        "other/.run.json.abcdefgh.tmp/.lock",
    )
    for name in ours + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    open_run(tmp_path, autoencoder_run(tmp_path))
    assert [(tmp_path / name).exists() for name in ours + others] == [False] * 3 + [True] * 5


def test_whatever_the_main_process_raises_reaches_the_others(monkeypatch):
    sent = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "broadcast_object_list", lambda m, group: sent.extend(m))

    def fails():
        raise KeyError

    with pytest.raises(KeyError):
        vae.training.processes.on_main(True, fails)
    assert sent == ["KeyError()", None]
    monkeypatch.setattr(
        torch.distributed, "broadcast_object_list", lambda m, group: m.__setitem__(0, sent[0])
    )
    with pytest.raises(ValueError, match="KeyError"):
        vae.training.processes.on_main(False, fails)


def test_every_file_carries_the_complete_config_and_none_is_a_pickle(whole):
    weights = list(whole.rglob("*.safetensors"))
    assert len(weights) == 2 * 3 + 1  # two checkpoints of three parts, and the model
    for file in weights:
        config = from_json(AutoencoderRun, read_header(file, *AUTOENCODERS).settings)
        known = load_weights(file)[0].get("latent_std", torch.ones(1))
        assert (known != 1).any() == (file.name == vae.train.WEIGHTS)  # where the statistics are measured
        assert config == autoencoder_run(whole)
    suffixes = {file.suffix for file in whole.rglob("*") if file.is_file()}
    assert suffixes == {".safetensors", ".json", ".jsonl", ".png"}


def test_it_learns_and_the_statistics_normalise_its_latents(tmp_path):
    config = autoencoder_run(tmp_path / "run", steps=60, batch=4, log_every=20, save_every=60, show_every=60)
    optimizer = OptimizerConfig(learning_rate=1e-2, warmup_steps=5, ema_decay=0.9)
    weights = train(replace(config, optimizer=optimizer))
    log = rows(config.out)
    assert log[-2]["error"] < 0.6 * log[0]["error"]
    autoencoder = load_autoencoder(weights)
    data, _ = vae.train.open_data(config.data, config.train.seed, 1, Compression())
    videos = torch.stack([data[draw].video for draw in range(64)])
    mean, log_variance = autoencoder.encode_moments(videos)
    sample = mean + torch.exp(0.5 * log_variance) * torch.randn(mean.shape)
    latents = autoencoder.normalise(sample).transpose(0, 1).flatten(1)
    assert latents.mean(1).abs().max() < 0.05 and (latents.std(1) - 1).abs().max() < 0.05


def test_fine_tuning_starts_from_the_weights_of_init(whole, tmp_path):
    config = autoencoder_run(tmp_path / "run", steps=1)
    still = replace(config.optimizer, learning_rate=0.0)
    train(replace(config, init=str(whole / vae.train.WEIGHTS), optimizer=still))
    start, kept = load_weights(whole / vae.train.WEIGHTS)[0], state(config.out)
    known = {name: start.pop(name) for name in ("latent_mean", "latent_std")}
    assert all(torch.equal(kept[f"model/{name}"], tensor) for name, tensor in start.items())
    assert known["latent_std"].min() < 1 and (kept["model/latent_std"] == 1).all()  # until they are measured
    with pytest.raises(
        ValueError, match=r"has another shape than the config's model: give --model.base-width 4$"
    ):
        bigger = replace(config, model=replace(config.model, base_width=8), out=str(tmp_path / "bigger"))
        train(replace(bigger, init=str(whole / vae.train.WEIGHTS)))


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("train", {"log_every": 0}, r"train.log_every = 0: it must be at least 1"),
        ("train", {"steps": -1}, r"train.steps = -1"),
        ("data", {"frames": 16}, "16 frames do not fit 1 . 4k: use 17"),
        ("data", {"frames": -3}, "data.frames = -3: it must be at least 1"),
        ("data", {"size": 36}, "36x36 does not divide by 8: use 32x32"),
        ("data", {"fps": 0.0}, r"data.fps = 0.0: it must be above 0"),
        ("model", {"base_width": 0}, r"model.base_width = 0: it must be at least 1"),
        ("model", {"latent_channels": -1}, r"model.latent_channels = -1"),
        ("model", {"width_multipliers": (1, 1)}, r"model.width_multipliers = \[1, 1\]: .* at least 4 values"),
        ("model", {"time_downsample": (True,)}, r"model.time_downsample = \[True\]: .* at least 3 values"),
        ("model", {"time_downsample": (True, False, False)}, r"time_downsample = .*: of three levels two"),
        ("", {"crop": 4}, "4x4 does not divide by 8: use 8x8"),
        ("", {"crop_frames": -3}, "crop_frames = -3: it must be at least 1"),
        ("", {"init": "nowhere"}, "nowhere: no autoencoder there"),
        ("", {"chunk": -1}, "chunk = -1: it must be at least 0"),
        ("", {"image_share": 1.5}, r"image_share = 1.5: it must be at most 1"),
        ("discriminator", {"width": 12}, r"discriminator.width = 12: it must be a multiple of 8"),
        ("discriminator", {"weight": 1.0, "depth": 5}, r"discriminator.depth = 5: 2\^depth must be"),
        ("perceptual", {"network": "nothing"}, r"perceptual.network = nothing is none of alex, vgg, squeeze"),
    ],
)
def test_settings_that_make_no_run_are_refused_before_anything_is_written(tmp_path, part, change, words):
    config = autoencoder_run(tmp_path / "run")
    config = replace(config, **({part: replace(getattr(config, part), **change)} if part else change))
    with pytest.raises(ValueError, match=words):
        train(from_json(AutoencoderRun, to_json(config)))
    assert not (tmp_path / "run").exists()


def test_python_modules_named_like_a_verb_run_as_one(tmp_path):
    done = launch("vae.train", "no_such_config")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "dit vae train: no config no_such_config" in done.stderr


@pytest.mark.long
def test_a_kept_encoder_gives_the_same_latents_and_the_decoder_learns(tmp_path):
    first = train(autoencoder_run(tmp_path / "first"))
    run = replace(autoencoder_run(tmp_path / "second"), init=str(first), train_encoder=False)
    before = load_autoencoder(first)
    train(replace(run, train=replace(run.train, steps=3)))
    first.unlink()  # what the run needs of it, it has
    after = load_autoencoder(train(run))
    video = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    assert before.config == after.config
    assert torch.equal(before.encode(video), after.encode(video))
    latents = torch.randn(1, 4, 2, 2, 2)
    assert not torch.allclose(before.decode(latents), after.decode(latents), atol=1e-4)


def test_a_kept_encoder_of_a_checkpoint_has_no_statistics_and_is_refused(whole, tmp_path):
    step = max(whole.glob("step-*")) / "average.safetensors"
    run = replace(autoencoder_run(tmp_path / "run", steps=1), init=str(step))
    with pytest.raises(ValueError, match="statistics are measured when its run ends"):
        train(replace(run, train_encoder=False))
    train(run)  # an encoder that is trained needs none


def test_a_kept_encoder_must_come_from_somewhere(tmp_path):
    with pytest.raises(ValueError, match="needs --init"):
        train(replace(autoencoder_run(tmp_path / "run"), train_encoder=False))
