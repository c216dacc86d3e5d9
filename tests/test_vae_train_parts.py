"""Proves the parts of an autoencoder's training: optimizer and average by closed forms, crops, scores."""

import itertools
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import vae.train
import vae.training.checkpoints
import vae.training.log
import vae.training.session
from configs.train import OptimizerConfig
from tests.tiny import autoencoder_run, fresh_accelerator, session  # noqa: F401
from vae.compression import Compression
from vae.data.clips import Clip
from vae.quality.psnr_ssim import psnr
from vae.training.optimizer import make_optimizer, update_average
from vae.training.signals import Noted


def test_only_a_later_ctrl_c_interrupts(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Noted() as noted:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # the terminal's and the launcher's, for one key
        now[0] = 5.0
        os.kill(os.getpid(), signal.SIGTERM)
        assert noted.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)


def test_the_time_left_counts_the_steps_of_this_process(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    log = vae.training.log.Log(tmp_path, 7, 100_008)
    for now, step in ((2.0, 8), (31.9, 9), (32.0, 10)):
        monkeypatch.setattr(time, "monotonic", lambda now=now: now)
        log.show(step, "loss 1")
    assert capsys.readouterr().err.splitlines() == [
        "step 8/100008, loss 1, 55:33:20 left",  # and no line within 30 seconds of another
        "step 10/100008, loss 1, 296:17:25 left",
    ]


def test_the_first_step_of_the_optimizer_is_adamw_s_closed_form():
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.5)
    optimizer = make_optimizer(model, config)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    model(torch.randn(8, 4)).square().sum().backward()
    optimizer.step()
    # Loshchilov & Hutter 2019, algorithm 2, at step 1: both bias-corrected moments leave the gradient's sign.
    expected = weight * (1 - 0.1 * 0.5) - 0.1 * model.weight.grad.sign()
    torch.testing.assert_close(model.weight.detach(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(model.bias.detach(), bias - 0.1 * model.bias.grad.sign(), rtol=0, atol=1e-6)


def test_restored_moments_belong_to_their_weights_whatever_the_memory_layout():
    def steps(count: int, restore_at: int) -> torch.Tensor:
        torch.manual_seed(0)
        layer = torch.nn.Conv3d(3, 5, 2).to(memory_format=torch.channels_last_3d)
        optimizer = make_optimizer(layer, OptimizerConfig(learning_rate=0.1))
        for step in range(count):
            if step == restore_at:
                state = vae.training.checkpoints.optimizer_tensors(optimizer)
                moments = {("weight", "exp_avg"), ("weight", "exp_avg_sq"), ("bias", "exp_avg")}
                assert {tuple(name.rsplit(".", 1)) for name in state} > moments, "named by parameters"
                saved = {k: v.contiguous().clone() for k, v in state.items()}  # as in a file: no layout
                optimizer = make_optimizer(layer, OptimizerConfig(learning_rate=0.1))
                for name, value in vae.training.checkpoints.optimizer_tensors(optimizer).items():
                    value.copy_(saved[name])
                vae.training.checkpoints.check_optimizer(optimizer, step)
            optimizer.zero_grad()
            layer(torch.randn(2, 3, 3, 3, 3)).square().mean().backward()
            optimizer.step()
        return layer.weight.detach()

    assert torch.equal(steps(4, restore_at=2), steps(4, restore_at=-1))


def test_the_average_follows_its_formula():
    model, average = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    expected = average.weight.item()
    for step in range(1, 60):
        model.weight.data.fill_(float(step))
        update_average(average, model, step, 0.7, torch.tensor(False))
        decay = min(0.7, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert average.weight.item() == pytest.approx(expected, rel=1e-5)


def test_held_out_scores_and_crops_are_what_they_say(tmp_path):
    config = autoencoder_run(tmp_path)
    video = torch.arange(3 * 9 * 24 * 24, dtype=torch.float32).view(3, 9, 24, 24)
    cut = vae.train.crop(video, config, 7)
    assert torch.equal(cut, vae.train.crop(video, config, 7))
    assert not torch.equal(cut, vae.train.crop(video, config, 8))
    t, y, x = (int(v) for v in torch.unravel_index(cut[0, 0, 0, 0].long(), (9, 24, 24)))
    assert torch.equal(cut, video[:, t : t + 5, y : y + 16, x : x + 16])
    assert vae.train.crop(video[:, :1, :8], config, 7).shape == (3, 1, 8, 16)  # smaller stays, unpadded
    images = [
        vae.train.crop(video, replace(config, image_share=0.5), draw).shape[1] == 1 for draw in range(400)
    ]
    assert 150 < sum(images) < 250
    assert psnr(video / 1e6, video / 1e6 + 0.02) == pytest.approx(40.0, abs=1e-3)


class Brighter(torch.nn.Module):
    """An autoencoder whose raw latents are the video, and whose reconstructions are a constant brighter."""

    channels, latent_mean, latent_std = 3, torch.full((3, 1, 1, 1), 0.3), torch.full((3, 1, 1, 1), 0.5)

    def posterior(self, video):
        return (video - self.latent_mean) / self.latent_std, torch.full_like(video, 0.04 / 0.5**2).log()

    def decode(self, latents):
        return latents * self.latent_std + self.latent_mean + 0.02


def test_evaluation_measures_a_known_error_and_shows_it_amplified(tmp_path):
    levels = (-0.8, 0.4)  # grey, so that a row names its clip
    clips = [Clip(torch.full((3, 5, 192, 200), level), "", f"/films/{level}.mp4") for level in levels]
    scores = vae.train.evaluate(Brighter(), None, clips, session(tmp_path), 3)
    assert scores["psnr"] == pytest.approx(40.0, abs=1e-3)  # 10 log10(4 / 0.02^2)
    assert scores["latent_mean_most"] == pytest.approx(0.2)  # the mean of both levels
    for which in ("least", "most"):  # 0.6^2 between the clips, 0.04 of noise
        assert scores[f"latent_std_{which}"] == pytest.approx(0.4**0.5)
    assert scores["latent_signal"] == pytest.approx(0.9) and "lpips" not in scores
    picture = np.array(Image.open(tmp_path / "reconstructions-000003.png", formats=["PNG"])).astype(int)
    shown = [round((v + 1) * 127.5) for level in levels for v in (level, level + 0.02, 0.08)]
    column = picture[:, 100, 0]
    blocks = [int(value) for value, count in runs_of(column) if count >= 192]
    assert blocks == shown


def runs_of(values) -> list[tuple[int, int]]:
    """Every value with how often it follows itself."""
    return [(value, len(list(group))) for value, group in itertools.groupby(values.tolist())]


def test_statistics_are_measured_in_chunks_as_of_the_whole_clip(tmp_path, monkeypatch):
    config, measured = autoencoder_run(tmp_path), []
    data, _ = vae.train.open_data(replace(config.data, frames=17), 0, 1, Compression())
    model = vae.train.Autoencoder(config.model)
    for pixels in (1 << 18, 1):
        monkeypatch.setattr(vae.model, "CHUNK_PIXELS", pixels)
        measured.append(vae.train.measure(model, data, clips=2))
    for part in ("mean", "std"):
        assert getattr(measured[0], part) == pytest.approx(getattr(measured[1], part), rel=0, abs=1e-5)
    assert max(measured[0].std) > 0.1
