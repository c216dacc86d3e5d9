"""Proves that runs with the whole recipe go on, spread and export, and say a collapse or missing weights."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import vae.quality.networks
import vae.train
from configs.train import AutoencoderRun, OptimizerConfig, PerceptualConfig
from dit.cli import run as run_command
from tests.test_autoencoder import MEASURED, SMALL, randomised
from tests.test_recipe import DISCRIMINATOR
from tests.tiny import (
    assert_same_run,
    autoencoder_run,
    fresh_accelerator,  # noqa: F401
    largest_difference,
    launch,
    rows,
    write_config,
)
from vae.compression import Compression
from vae.diffusers_folder import write_wan
from vae.load import load_autoencoder
from vae.perceptual import FrameDistance, load_perceptual
from vae.quality.lpips import Lpips
from vae.train import train
from vae.training.collapse import STEPS, Watch


def full_run(out: Path, network: Path, **loop) -> AutoencoderRun:
    """A run with everything in it, whose discriminator starts at step 2."""
    config = autoencoder_run(out, show_every=1, **loop)
    return replace(
        config,
        image_share=0.5,
        chunk=1,
        learned_variance=True,
        checkpoint_activations=True,
        perceptual=PerceptualConfig(network=str(network), weight=0.1),
        discriminator=replace(DISCRIMINATOR, start=2),
    )


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    """A small autoencoder's weights."""
    return train(autoencoder_run(tmp_path_factory.mktemp("network") / "run", steps=2))


@pytest.fixture(scope="module")
def whole(network, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    train(full_run(out, network))
    return out


@pytest.mark.long
def test_a_run_with_everything_goes_on_to_the_bit(network, whole, tmp_path):
    out = tmp_path / "run"
    for steps in (1, 3, 6):  # before, at and after the discriminator's start
        train(full_run(out, network, steps=steps))
    assert_same_run(out, whole)
    last = rows(out)[-2]
    assert {"perceptual", "adversarial", "discriminator", "adaptive_weight", "log_scale"} <= last.keys()
    assert last["adaptive_weight"] > 0 and last["discriminator_gradient_norm"] > 0
    first = rows(out)[0]
    assert "discriminator" not in first and "perceptual" in first


@pytest.mark.long
def test_two_processes_with_everything_equal_one(network, whole, tmp_path):
    out = tmp_path / "run"
    done = launch("vae.train", write_config(tmp_path / "two.py", full_run(out, network)), processes=2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert largest_difference(out, whole) < 1e-4
    for one, two in zip(rows(out), rows(whole), strict=True):
        assert one == pytest.approx(two, rel=1e-3, abs=1e-6)


def test_another_network_of_the_perceptual_loss_is_refused(network, whole, tmp_path, monkeypatch):
    other = train(replace(autoencoder_run(tmp_path / "other", steps=1)))
    kept = network.read_bytes()
    network.write_bytes(other.read_bytes())
    try:
        with pytest.raises(ValueError, match="began with other perceptual weights"):
            train(full_run(whole, network, steps=8))
    finally:
        network.write_bytes(kept)


def seeded_lpips(folder: Path, monkeypatch) -> None:
    """Files of random weights in the usual place, taken as the published ones."""
    torch.manual_seed(0)
    lpips = Lpips("alex")
    trunk = {f"features.{name}": tensor for name, tensor in lpips.features.state_dict().items()}
    torch.save(trunk, folder / "alexnet-owt-7be5be79.pth")
    heads = {f"lin{k}.model.1.weight": torch.rand(1, len(h), 1, 1) for k, h in enumerate(lpips.heads)}
    torch.save(heads, folder / "lpips-alex.pth")
    monkeypatch.setattr(vae.quality.networks, "folders", lambda: [folder])
    for part in ("trunk", "heads"):
        name = f"lpips-alex-{part}"
        free = replace(vae.quality.networks.NETWORKS[name], sha256="")
        monkeypatch.setitem(vae.quality.networks.NETWORKS, name, free)


def test_lpips_is_trained_on_and_held_out_clips_are_judged_by_it(tmp_path, monkeypatch):
    seeded_lpips(tmp_path, monkeypatch)
    config = replace(autoencoder_run(tmp_path / "run", steps=3), perceptual=PerceptualConfig("alex"), crop=32)
    train(config)
    log = rows(config.out)
    assert log[0]["loss"] == pytest.approx(
        log[0]["error"] + log[0]["perceptual"] + 1e-6 * log[0]["kl"], rel=1e-5
    )
    assert log[0]["perceptual"] > 0 and log[-1]["lpips"] > 0
    network, hashes, _ = load_perceptual(config.perceptual)
    video = torch.rand(2, 3, 5, 32, 32)
    by_hand = network.lpips(
        video.transpose(1, 2).flatten(0, 1), 1 - video.transpose(1, 2).flatten(0, 1)
    ).mean()
    assert network(video, 1 - video).item() == pytest.approx(by_hand.item()) and "+" in hashes
    assert torch.isfinite(network(video[..., :8, :8], video[..., 8:16, :8]))  # smaller than its trunk takes


def test_without_weights_it_says_so_and_trains_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(vae.quality.networks, "folders", lambda: [tmp_path])
    config = replace(autoencoder_run(tmp_path / "run", steps=1), perceptual=PerceptualConfig("vgg"))
    train(config)
    said = capsys.readouterr().err
    assert "the perceptual loss is left out" in said and "vgg16-397923af.pth" in said
    assert "perceptual" not in rows(config.out)[0]


def test_a_trunk_that_the_user_names_counts_all_features_alike(tmp_path):
    torch.manual_seed(0)
    lpips = Lpips("squeeze")
    torch.save({f"features.{k}": v for k, v in lpips.features.state_dict().items()}, tmp_path / "mine.pth")
    network, _, said = load_perceptual(PerceptualConfig(str(tmp_path / "mine.pth")))
    assert isinstance(network, FrameDistance) and "squeeze" in said
    pictures = torch.rand(2, 3, 1, 40, 40)
    one, other = (lpips.taken(pictures[k : k + 1, :, 0]) for k in (0, 1))
    expected = sum(
        (2 - 2 * (x * y).sum(1)).mean() for x, y in zip(one, other, strict=True)
    )  # of unit vectors
    assert network(pictures[:1], pictures[1:]).item() == pytest.approx(expected.item(), rel=1e-3)
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth holds no network of torchvision's that is known"):
        load_perceptual(PerceptualConfig(str(tmp_path / "other.pth")))
    (tmp_path / "other.pth").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"other\.pth cannot be read as weights"):
        load_perceptual(PerceptualConfig(str(tmp_path / "other.pth")))


def collapse(rows: list[dict]) -> str:
    """What is said at the newest of some rows."""
    watch = Watch()
    return [watch.sign(row) for row in rows][-1]


def test_a_collapse_is_said_once():
    def won(loss: float, steps: range) -> list[dict]:
        return [{"step": step, "discriminator": loss} for step in steps]

    healthy = won(0.8, range(0, 500, 10))
    assert collapse(healthy) == ""
    lost = healthy + won(0.001, range(500, 500 + STEPS, 10))
    assert collapse(lost) == ""
    lost += won(0.0, range(500 + STEPS, 510 + STEPS, 10))
    assert "since step 500" in collapse(lost)
    assert collapse(lost + won(0.0, range(510 + STEPS, 520 + STEPS))) == ""
    assert "since step 0" in collapse(won(0.0, range(0, STEPS + 10, 10)))
    scores = [{"step": step, "psnr": psnr} for step, psnr in ((10, 20.0), (20, 25.0), (30, 23.0))]
    assert collapse(scores) == "" and collapse([*scores, {"step": 40, "psnr": 21.9}]).startswith(
        "held-out PSNR is 21.90"
    )
    assert collapse([*scores, {"step": 40, "psnr": 21.9}, {"step": 41, "loss": 1.0}]) == ""
    assert collapse([*scores, {"step": 40, "psnr": 21.9}, {"step": 50, "psnr": 20.0}]) == ""


def test_a_collapse_names_the_files_of_the_batch(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("vae.training.collapse.STEPS", 2)
    monkeypatch.setattr("vae.training.collapse.WON", 10.0)
    train(replace(autoencoder_run(tmp_path / "run", steps=4), discriminator=DISCRIMINATOR))
    said = capsys.readouterr().err
    assert (
        said.count("WARNING: the discriminator's loss has been below") == 1
        and "The batch: scene 8, scene 9" in said
    )


def test_what_is_not_finite_ends_the_run_and_names_the_batch(tmp_path, monkeypatch):
    crop = vae.train.crop

    def broken(video, config, draw):
        return crop(video, config, draw) * (float("nan") if draw == 13 else 1.0)

    monkeypatch.setattr(vae.train, "crop", broken)
    with pytest.raises(ValueError, match="not finite at step 4, on scene 12, scene 13, scene 14, scene 15"):
        train(autoencoder_run(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])["step"] == 3


@pytest.mark.parametrize("train_encoder", [True, False])
def test_fine_tuning_starts_from_a_folder_of_diffusers(tmp_path, train_encoder):
    model = randomised(SMALL)
    folder = tmp_path / "wan" / "vae"
    write_wan(folder, model)
    config = autoencoder_run(tmp_path / "run", steps=2)
    config = replace(config, init=str(tmp_path / "wan"), model=SMALL, train_encoder=train_encoder)
    tuned = load_autoencoder(train(config))
    video = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    assert torch.equal(tuned.encode(video), model.encode(video)) != train_encoder
    assert (
        tuned.statistics == MEASURED
    ) != train_encoder  # statistics are measured anew where latents change
    latents = torch.randn(1, 4, 2, 2, 2)
    assert not torch.equal(tuned.decode(latents), model.decode(latents))
    other = replace(SMALL, base_width=4, width_multipliers=(1, 1, 1, 1))
    with pytest.raises(ValueError, match=r"give --model.base-width 8 --model.width-multipliers 1 2 2 3$"):
        train(replace(config, out=str(tmp_path / "x"), model=other))


@pytest.mark.long
def test_patches_train_to_sixteen_times_smaller_latents(tmp_path):
    config = autoencoder_run(tmp_path / "run", steps=40, show_every=40)
    faster = OptimizerConfig(learning_rate=1e-2, warmup_steps=5, ema_decay=0.9)
    config = replace(config, model=replace(config.model, patch=2), optimizer=faster)
    model = load_autoencoder(train(config))
    assert model.compression == Compression(4, 16)
    assert model.encode(torch.zeros(1, 3, 5, 32, 48)).shape == (1, 4, 2, 2, 3)
    log = rows(config.out)
    assert log[-2]["error"] < 0.75 * log[0]["error"]


def test_a_trained_autoencoder_becomes_a_folder_that_diffusers_loads(network, tmp_path):
    from diffusers import AutoencoderKLWan

    assert run_command(["export", str(network.parent), "--out", str(tmp_path / "vae")]) == 0  # the run
    assert run_command(["export", str(network), "--out", str(tmp_path / "again")]) == 0  # its weights file
    assert (tmp_path / "again" / "config.json").read_bytes() == (
        tmp_path / "vae" / "config.json"
    ).read_bytes()
    ours, theirs = load_autoencoder(network), AutoencoderKLWan.from_pretrained(tmp_path / "vae")
    video = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    mean, std = (
        torch.tensor(getattr(theirs.config, f"latents_{part}")).view(1, -1, 1, 1, 1)
        for part in ("mean", "std")
    )
    expected = (theirs.encode(video).latent_dist.mean - mean) / std
    assert torch.allclose(ours.encode(video), expected, atol=1e-5)


@pytest.mark.long
def test_bf16_trains_near_fp32(network, whole, tmp_path):
    config = full_run(tmp_path / "run", network, steps=3, precision="bf16")
    train(config)
    for half, full in zip(rows(config.out)[:3], rows(whole)[:3], strict=True):
        for name in half.keys() & {"loss", "error", "perceptual", "discriminator"}:
            assert half[name] == pytest.approx(full[name], rel=0.05), name
