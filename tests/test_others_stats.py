"""Proves that latents leave with mean 0 and variance 1 once measured, and that a model is trained on them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from configs.data import DataConfig
from configs.load import from_json, to_json
from dit.cli import run
from dit.condition import Condition
from dit.generate import Request, generate_videos
from dit.load import load_model
from dit.train import train
from tests.test_others import CASES, EVERY, FOUR, FRAMES, Case, assert_close, saved
from tests.tiny import MODEL, fresh_accelerator, launch, state, transformer_run  # noqa: F401
from vae.data.clips import DrawnWorld
from vae.diffusers_folder import write_wan
from vae.load import load_autoencoder, note_unmeasured, stored_hash
from vae.model import Autoencoder
from vae.statistics import FILE
from vae.stats import StatsSettings, stats
from vae.tiles import tile_for
from vae.training.weights import read_header, save_weights


def measured_clips(case: Case, seed: int, count: int) -> list[Tensor]:
    """The clips of the drawn world that `dit vae stats` takes with these settings."""
    config = settings_of("", case, seed=seed, count=count)
    world = DrawnWorld(DataConfig(config.frames, config.size, config.fps), seed)
    return [world[draw].video for draw in range(count)]


def settings_of(folder: str | Path, case: Case, **others) -> StatsSettings:
    """Two small clips of more than one latent frame."""
    frames = {"AutoencoderKLLTXVideo": 9, "AutoencoderKLCogVideoX": 9, "AutoencoderKLMochi": 7}
    size = max(16, 2 * case.side)
    settings = StatsSettings(str(folder), "shapes", 2, frames.get(case.name, 5), size, replace=True)
    return replace(settings, **others)


@EVERY
def test_latents_leave_with_zero_mean_and_unit_variance_after_they_are_measured(tmp_path: Path, case: Case):
    saved(tmp_path, case)
    stats(settings_of(tmp_path, case, seed=3))
    model = load_autoencoder(tmp_path)
    sampled = []
    for video in measured_clips(case, 3, 2):
        mean, log_variance = model.posterior(video[None])
        sampled.append(torch.stack([mean, mean**2 + log_variance.exp()]).flatten(3))
    first, second = torch.cat(sampled, dim=3).double().mean(dim=(1, 3))
    assert first.abs().max() < 1e-4
    assert (second - first**2 - 1).abs().max() < 1e-3
    video = measured_clips(case, 3, 1)[0][None]
    assert_close(
        model.decode(model.encode(video)),
        load_autoencoder(tmp_path, as_shipped=True).decode(
            load_autoencoder(tmp_path, as_shipped=True).encode(video)
        ),
        1e-3,
    )


def test_the_measure_is_that_of_all_latents_drawn(tmp_path: Path):
    case = CASES["KL"]
    theirs = saved(tmp_path, case)
    found = stats(settings_of(tmp_path, case, count=3))
    frames = torch.cat([video.movedim(1, 0) for video in measured_clips(case, 0, 3)])
    posterior = theirs.encode(frames).latent_dist
    drawn = torch.stack([posterior.sample() for _ in range(400)]).double().movedim(2, 0).flatten(1)
    assert torch.tensor(found.mean).allclose(drawn.mean(1).float(), atol=1e-2)
    assert torch.tensor(found.std).allclose(drawn.std(1).float(), rtol=1e-2)


def test_measured_statistics_hold_where_none_ship_by_channel_or_when_asked_for(tmp_path: Path, capsys):
    note_unmeasured.cache_clear()
    plain, by_channel = CASES["KL"], CASES["KL by channel"]
    saved(tmp_path / "plain", plain)
    saved(tmp_path / "own", by_channel)
    for _ in range(2):
        load_autoencoder(tmp_path / "plain"), load_autoencoder(tmp_path / "own")
    assert capsys.readouterr().err.count("dit vae stats") == 1
    arguments = ["--data", "shapes", "--count", "2", "--frames", "3", "--size", "16"]
    assert run(["vae", "stats", str(tmp_path / "plain"), *arguments]) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 5 and f"written: {tmp_path / 'plain' / FILE}" in said.err
    record = json.loads((tmp_path / "plain" / FILE).read_text())
    assert record["count"] == 2 and record["data"]["frames"] == 3 and len(record["files"]) == 64
    model = load_autoencoder(tmp_path / "plain")
    assert model.latent_std.flatten().tolist() == torch.tensor(record["std"]).tolist()
    assert "dit vae stats" not in capsys.readouterr().err

    again = [*arguments[:3], "3", *arguments[4:]]
    assert (
        run(["vae", "stats", str(tmp_path / "plain"), *again]) == 0
    )  # what was made with them would not fit
    assert "not written" in capsys.readouterr().err
    assert json.loads((tmp_path / "plain" / FILE).read_text()) == record

    assert run(["vae", "stats", str(tmp_path / "own"), *arguments]) == 0
    assert "not written" in capsys.readouterr().err and not (tmp_path / "own" / FILE).exists()
    assert run(["vae", "stats", str(tmp_path / "own"), *arguments, "--replace"]) == 0
    record = json.loads((tmp_path / "own" / FILE).read_text())
    assert load_autoencoder(tmp_path / "own").latent_mean.flatten().tolist() == pytest.approx(record["mean"])
    assert load_autoencoder(
        tmp_path / "own", as_shipped=True
    ).latent_mean.flatten().tolist() == pytest.approx(FOUR["latents_mean"])


def test_statistics_of_other_weights_or_damaged_ones_are_refused_and_can_be_measured_again(tmp_path: Path):
    case = CASES["Tiny"]
    saved(tmp_path, case)
    stats(settings_of(tmp_path, case))
    before = (tmp_path / FILE).read_text()
    saved(tmp_path, case)  # other random weights
    with pytest.raises(ValueError, match=f"{FILE} was measured of other weights .*dit vae stats"):
        load_autoencoder(tmp_path)
    stats(settings_of(tmp_path, case))
    assert (tmp_path / FILE).read_text() != before
    load_autoencoder(tmp_path)
    good = json.loads((tmp_path / FILE).read_text())
    for change in ({"mean": [0.0]}, {"std": "1"}, {"std": [1.0, 0.0, 1.0, 1.0]}, {"version": 2}):
        (tmp_path / FILE).write_text(json.dumps(good | change))
        with pytest.raises(ValueError, match=FILE):
            load_autoencoder(tmp_path)


def test_a_channel_that_does_not_vary_is_named_and_not_written(tmp_path: Path):
    case = CASES["Tiny"]
    model = saved(tmp_path, case)
    model.encoder.layers[-1].weight[2] = 0
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"latent channel 2 has the mean .* and the std .*: not usable"):
        stats(settings_of(tmp_path, case))
    assert not (tmp_path / FILE).exists()


@pytest.mark.long
def test_two_processes_measure_what_one_does_on_files_too(tmp_path: Path, real_clips: Path, capsys):
    (tmp_path / "clips").mkdir()
    for name in ("cogvideo_horse.mp4", "cogvideo_kitten.mp4"):
        shutil.copy(real_clips / name, tmp_path / "clips" / name)
    assert run(["data", "index", str(tmp_path / "clips")]) == 0
    arguments = ["--data", str(tmp_path / "clips"), "--count", "5", "--frames", "5", "--size", "32"]
    saved(tmp_path / "one", CASES["KL"])
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert run(["vae", "stats", str(tmp_path / "one"), *arguments]) == 0
    result = launch("vae.stats", str(tmp_path / "two"), *arguments, processes=2)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-5:] == capsys.readouterr().out.splitlines()[-5:]
    assert (tmp_path / "one" / FILE).read_bytes() == (tmp_path / "two" / FILE).read_bytes()
    more = [str(tmp_path / "two"), *arguments, "--workers", "1", "--replace"]
    assert run(["vae", "stats", *more]) == 0  # who reads the files is nothing that is measured
    assert (tmp_path / "one" / FILE).read_bytes() == (tmp_path / "two" / FILE).read_bytes()


def test_our_own_weights_carry_theirs_and_change_only_when_asked(tmp_path: Path, capsys):
    file = tmp_path / "a.safetensors"
    save_weights(file, Autoencoder(MODEL).state_dict(), "autoencoder", {"model": to_json(MODEL)}, {"step": 1})
    before = file.read_bytes()
    settings = StatsSettings(str(file), "shapes", count=2, frames=5, size=32)
    found = stats(settings)
    assert file.read_bytes() == before and "weights file are kept" in capsys.readouterr().err
    stats(replace(settings, replace=True))
    assert read_header(file).facts["statistics"]["count"] == 2
    assert read_header(file).facts["step"] == 1
    again = stats(settings)
    assert again.std == pytest.approx(found.std, rel=1e-5)
    assert load_autoencoder(file).latent_mean.flatten().tolist() == pytest.approx(found.mean, abs=1e-6)
    with pytest.raises(ValueError, match="a model's own copy"):
        stats(StatsSettings("builtin", "shapes", replace=True))

    write_wan(tmp_path / "wan", Autoencoder(MODEL))
    found = stats(replace(settings, autoencoder=str(tmp_path / "wan"), replace=True))
    assert load_autoencoder(tmp_path / "wan").statistics.std == pytest.approx(found.std)
    assert not load_autoencoder(tmp_path / "wan", as_shipped=True).measured


@pytest.mark.parametrize(
    "words, change",
    [
        ("which autoencoder", {"autoencoder": ""}),
        ("--data is empty", {"data": ""}),
        ("count = 0", {"count": 0}),
        ("seed = -1", {"seed": -1}),
        (r"12 frames do not fit 1 \+ 4k: use 13", {"frames": 12}),
        ("no autoencoder there", {"autoencoder": "nowhere"}),
    ],
)
def test_what_makes_no_measurement_is_told(tmp_path: Path, words: str, change: dict):
    saved(tmp_path, CASES["HunyuanVideo 1.5"])
    with pytest.raises(ValueError, match=words):
        given = settings_of(tmp_path, CASES["HunyuanVideo 1.5"], **change)
        stats(from_json(StatsSettings, to_json(given)))


def test_a_model_is_trained_on_their_latents_and_carries_its_own_copy(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr("dit.train.HELD_OUT", 2)
    monkeypatch.setattr("dit.train.SHOWN", 1)
    case = replace(
        CASES["KL"],
        settings=FRAMES
        | dict(
            block_out_channels=(8,) * 4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        ),
    )
    saved(tmp_path / "kl", case)
    stats(settings_of(tmp_path / "kl", case, frames=3, size=32))
    train(transformer_run(tmp_path / "run", tmp_path / "kl", steps=2, show_every=9))
    kept = tmp_path / "run" / "vae"
    weights = "diffusion_pytorch_model.safetensors"
    assert sorted(file.name for file in kept.iterdir()) == ["config.json", weights, FILE]
    train(transformer_run(tmp_path / "other", tmp_path / "kl", steps=4, show_every=9))
    shutil.rmtree(tmp_path / "kl")
    train(transformer_run(tmp_path / "run", tmp_path / "kl", steps=4, show_every=9))
    one, two = state(tmp_path / "run"), state(tmp_path / "other")
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)

    model = load_model(str(tmp_path / "run"), torch.device("cpu"), torch.float32)
    assert stored_hash(tmp_path / "run") in model.weights
    shape = model.autoencoder.latent_shape(5, 32, 32)
    assert shape == (4, 5, 4, 4)
    (video,) = generate_videos(model, [Request(Condition("a red circle"), shape, 0)], model.sampler)
    assert video.shape == (3, 5, 32, 32) and video.abs().max() <= 1
    with pytest.raises(ValueError, match="another takes no limit of memory"):
        tile_for(model.autoencoder, *shape[2:], budget=1000)
    before = stored_hash(tmp_path / "run")
    with pytest.raises(ValueError, match="a model's own copy"):
        stats(settings_of(tmp_path / "run", case))
    (kept / FILE).unlink()
    assert stored_hash(tmp_path / "run") != before
    capsys.readouterr()
    assert run(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 1
    assert "autoencoder is Wan 2.1's or ours" in capsys.readouterr().err
