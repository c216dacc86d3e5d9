"""Proves the recipe of an autoencoder's training: terms, networks, mixed shapes, chunks, collapse."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vae.quality.networks
import vae.train
from configs.train import AutoencoderRun, DiscriminatorConfig, OptimizerConfig, PerceptualConfig
from dit.bench.measure import peak_allocated
from dit.cli import run as run_command
from tests.test_autoencoder import MEASURED, SMALL, randomised
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
from vae.data.clips import Clip
from vae.diffusers_folder import write_wan
from vae.discriminator import Discriminator, adaptive_weight, hinge
from vae.load import load_autoencoder
from vae.losses import Likelihood, Networks, accumulate_gradients, in_chunks
from vae.perceptual import EncoderDistance, FrameDistance, load_perceptual
from vae.quality.lpips import Lpips
from vae.train import group_with_noise, train
from vae.training.collapse import STEPS, collapse

CPU = torch.device("cpu")
DISCRIMINATOR = DiscriminatorConfig(weight=0.5, width=8, depth=2)


def networks(learned: bool = True, perceptual: bool = True) -> Networks:
    """Random networks of a step; the discriminator counts with a weight of 3."""
    torch.manual_seed(0)
    discriminator = Discriminator(DISCRIMINATOR)
    for parameter in discriminator.parameters():
        nn.init.normal_(parameter, std=0.2)
    discriminator.adaptive_weight.fill_(3.0)
    frozen = EncoderDistance(randomised(replace(SMALL, base_width=4)).requires_grad_(False))
    return Networks(
        randomised(SMALL), Likelihood("l1", learned), frozen if perceptual else None, discriminator
    )


def batch(frames: int, count: int = 2, side: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(frames)
    video = torch.rand(count, 3, frames, side, side, generator=random) * 2 - 1
    return video, torch.randn(count, 4, *Compression().latent_size(frames, side, side), generator=random)


def gradients(module: nn.Module) -> dict[str, torch.Tensor]:
    """Gradients by name, which are then forgotten."""
    found = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad(set_to_none=True)
    return found


def assert_same_gradients(ours: dict, theirs: dict, tolerance: float = 1e-5) -> None:
    assert ours.keys() == theirs.keys() and theirs
    for name, gradient in theirs.items():
        worst = (ours[name] - gradient).abs().max() / gradient.abs().max().clamp(min=1e-8)
        assert worst < tolerance, f"{name}: {worst:.1e}"


CONFIG = AutoencoderRun(
    kl_weight=0.01,
    learned_variance=True,
    perceptual=PerceptualConfig(weight=0.3),
    discriminator=DISCRIMINATOR,
    model=SMALL,
)


@pytest.mark.parametrize("error", ["l1", "l2"])
def test_all_networks_have_the_gradients_of_their_losses_as_papers_write_them(error):
    """Esser et al. 2021, equations 4 to 7, with LDM's learned variance, by one plain backward pass."""
    one, config = networks(), replace(CONFIG, error=error)
    one.likelihood.error = error
    video, noise = batch(5)
    nn.init.constant_(one.likelihood.log_scale, -0.7)
    terms = accumulate_gradients(one, video, noise, 0.25, config, True, nullcontext)
    ours = [gradients(part) for part in (one.autoencoder, one.likelihood, one.discriminator)]

    model = one.autoencoder
    mean, log_variance = model.encode_moments(video)
    made = model.decode_raw(mean + (0.5 * log_variance).exp() * noise)
    difference = made - video
    wrong = (difference.abs() if error == "l1" else difference**2).mean() + 0.3 * one.perceptual(made, video)
    s = one.likelihood.log_scale
    likelihood = wrong / s.exp() + s if error == "l1" else 0.5 * (wrong / s.exp() + s)
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
    adversarial = -one.discriminator(made).mean()
    last = model.decoder.conv_out.weight
    ways = [torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (likelihood, adversarial)]
    loss = likelihood + 0.01 * kl + 0.5 * 3.0 * adversarial
    (0.25 * loss).backward()
    reference = [gradients(model), gradients(one.likelihood)]
    one.discriminator.zero_grad()
    fake, real = one.discriminator(made.detach()), one.discriminator(video)
    (0.25 * 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())).backward()
    reference.append(gradients(one.discriminator))

    for found, expected in zip(ours, reference, strict=True):
        assert_same_gradients(found, expected)
    assert terms["loss"].item() == pytest.approx(0.25 * loss.item(), rel=1e-5)
    assert adaptive_weight(terms["error_gradient"], terms["adversarial_gradient"]).item() == pytest.approx(
        (ways[0].norm() / ways[1].norm()).item(),
        rel=1e-2,  # the 1e-4 beside the small one
    )


def test_a_step_of_mixed_shapes_is_the_mean_of_its_clips():
    one, config = networks(), CONFIG
    parts = [batch(1, 1), batch(5, 1), batch(5, 1, side=24), batch(9, 1)]
    expected = None
    for video, noise in parts:
        accumulate_gradients(one, video, noise, 1.0, config, True, nullcontext)
        alone = gradients(one.autoencoder) | gradients(one.discriminator)
        expected = expected or {name: torch.zeros_like(g) for name, g in alone.items()}
        for name, gradient in alone.items():
            expected[name] = expected.get(name, 0.0) + gradient / len(parts)
    videos = [video[0] for video, _ in parts]
    groups = group_with_noise([*videos, videos[1]], range(5), config)
    assert [len(video) for video, _ in groups] == [1, 2, 1, 1]  # those of one shape pass together
    for video, noise in parts:
        accumulate_gradients(one, video, noise, 1 / len(parts), config, True, nullcontext)
    assert_same_gradients(gradients(one.autoencoder) | gradients(one.discriminator), expected, 1e-4)


@torch.no_grad()
def test_chunks_are_the_clip():
    video, noise = batch(25)
    parts = in_chunks(video, noise, 2, 4)
    assert [part.shape[2] for part, _ in parts] == [5, 8, 8, 4]
    assert all(
        torch.equal(torch.cat(whole, 2), other)
        for whole, other in zip(zip(*parts, strict=True), (video, noise), strict=True)
    )


@pytest.mark.parametrize("checkpointing", [False, True])
def test_chunks_have_the_whole_clip_s_loss_and_within_each_its_gradient(checkpointing):
    """Terms are the whole clip's; the newest chunk's own pixels pull on the weights as they would there."""
    one, config = networks(perceptual=False), replace(CONFIG, discriminator=DiscriminatorConfig())
    one.autoencoder.checkpoint_activations(checkpointing)
    video, noise = batch(25)
    whole = accumulate_gradients(one, video, noise, 1.0, config, False, nullcontext)
    gradient = gradients(one.autoencoder)
    for chunk in (1, 2, 3):
        cut = accumulate_gradients(one, video, noise, 1.0, replace(config, chunk=chunk), False, nullcontext)
        for name in ("error", "kl", "loss"):
            assert cut[name].item() == pytest.approx(whole[name].item(), rel=1e-5), name
        found = gradients(one.autoencoder)
        # The last layer's pull on its own bias crosses no border; others lose what comes through the past.
        assert torch.allclose(
            found["decoder.conv_out.bias"], gradient["decoder.conv_out.bias"], rtol=1e-4, atol=1e-7
        )
    longest = accumulate_gradients(one, video, noise, 1.0, replace(config, chunk=7), False, nullcontext)
    assert_same_gradients(gradients(one.autoencoder), gradient, 1e-4)
    assert longest["loss"].item() == pytest.approx(whole["loss"].item(), rel=1e-5)


def test_the_discriminator_judges_each_chunk_by_itself():
    one, config = networks(perceptual=False), replace(CONFIG, chunk=1)
    video, noise = batch(9)
    found = accumulate_gradients(one, video, noise, 1.0, config, True, nullcontext)
    with torch.no_grad():
        mean, log_variance = one.autoencoder.encode_moments(video)
        made = one.autoencoder.decode_raw(mean + (0.5 * log_variance).exp() * noise)
        pairs = list(zip(made.split((1, 4, 4), 2), video.split((1, 4, 4), 2), strict=True))
        shares = (1 / 9, 4 / 9, 4 / 9)
        judged = [one.discriminator(part).mean() for part, _ in pairs]
        losses = [hinge(one.discriminator(real), one.discriminator(fake)) for fake, real in pairs]
    for name, parts, sign in (("adversarial", judged, -1), ("discriminator", losses, 1)):
        expected = sign * sum(share * part.item() for share, part in zip(shares, parts, strict=True))
        assert found[name].item() == pytest.approx(expected, rel=1e-4), name


def test_checkpointing_within_chunks_changes_nothing():
    one, config = networks(perceptual=False), replace(CONFIG, chunk=1, discriminator=DiscriminatorConfig())
    video, noise = batch(17)
    found = []
    for on in (False, True):
        one.autoencoder.checkpoint_activations(on)
        accumulate_gradients(one, video, noise, 1.0, config, False, nullcontext)
        found.append(gradients(one.autoencoder))
    assert_same_gradients(*found, 1e-6)


def test_memory_of_chunks_does_not_grow_with_the_clip():
    one, config = networks(perceptual=False), replace(CONFIG, chunk=1, discriminator=DiscriminatorConfig())
    accumulate_gradients(
        one, *batch(5, 1, 32), 1.0, config, False, nullcontext
    )  # gradients are there from now on
    peaks = {}
    for frames in (17, 65):
        given = batch(frames, 1, 32)
        whole = replace(config, chunk=0)
        peaks[frames] = [
            peak_allocated(
                lambda c=c, g=given: accumulate_gradients(one, *g, 1.0, c, False, nullcontext), CPU
            )
            for c in (config, whole)
        ]
    print({frames: [f"{peak / 2**20:.1f} MiB" for peak in pair] for frames, pair in peaks.items()})
    assert peaks[65][0] < 1.05 * peaks[17][0] and peaks[65][1] > 3 * peaks[17][1]


def test_a_learned_variance_comes_to_the_error_s_logarithm():
    for error in ("l1", "l2"):
        likelihood = Likelihood(error, True)
        optimizer = torch.optim.Adam(likelihood.parameters(), lr=0.05)
        for _ in range(300):
            optimizer.zero_grad()
            likelihood(torch.tensor(0.03)).backward()
            optimizer.step()
        assert likelihood.log_scale.exp().item() == pytest.approx(0.03, rel=1e-2)
    plain = torch.tensor(0.03)
    assert Likelihood("l1", False)(plain) is plain


def test_hinge_and_adaptive_weight_are_their_formulas():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0])
    assert hinge(real, fake).item() == pytest.approx(0.5 * ((0 + 0.5 + 2) / 3 + (0 + 1) / 2))
    assert adaptive_weight(torch.tensor([3.0, 4.0]), torch.tensor([0.5])).item() == pytest.approx(
        10, rel=1e-3
    )
    assert adaptive_weight(torch.ones(1), torch.zeros(1)).item() == 1e4


def test_the_discriminator_judges_clips_of_any_length_alone_and_learns():
    torch.manual_seed(0)
    rival = Discriminator(replace(DISCRIMINATOR, width=16))
    clips = torch.rand(3, 3, 9, 32, 40) * 2 - 1
    with torch.no_grad():
        together = rival(clips)
        assert torch.allclose(together[1:2], rival(clips[1:2]), rtol=1e-4, atol=1e-6)
        assert rival(clips[:, :, :1]).shape == (3, 1, 1, 8, 10) and together.shape[2] == 5
    smooth = F.avg_pool3d(clips, (1, 3, 3), 1, (0, 1, 1))
    optimizer, losses = torch.optim.Adam(rival.parameters(), lr=1e-3), []
    for _ in range(40):
        losses.append(hinge(rival(clips), rival(smooth)))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[0] > 0.9 and losses[-1] < 0.2


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
        with pytest.raises(ValueError, match="whose perceptual loss had another network"):
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


def test_patches_train_to_sixteen_times_smaller_latents(tmp_path):
    config = autoencoder_run(tmp_path / "run", steps=40, show_every=40)
    faster = OptimizerConfig(learning_rate=1e-2, warmup_steps=5, ema_decay=0.9)
    config = replace(config, model=replace(config.model, patch=2), optimizer=faster)
    model = load_autoencoder(train(config))
    assert model.compression == Compression(4, 16)
    assert model.encode(torch.zeros(1, 3, 5, 32, 48)).shape == (1, 4, 2, 2, 3)
    log = rows(config.out)
    assert log[-2]["error"] < 0.75 * log[0]["error"]


def test_every_clip_of_a_batch_counts_alike(tmp_path):
    """Images beside clips: the logged error is the mean over clips, not over pixels."""
    config = autoencoder_run(tmp_path)
    clips = [Clip(torch.zeros(3, 5, 16, 16), "", ""), Clip(torch.full((3, 1, 16, 16), 0.5), "", "")]
    groups = group_with_noise([clip.video for clip in clips], range(2), config)
    model = randomised(config.model)
    one = Networks(model, Likelihood("l1", False), None, None)
    each = [accumulate_gradients(one, *group, 0.5, config, False, nullcontext)["error"] for group in groups]
    alone = [accumulate_gradients(one, *group, 1.0, config, False, nullcontext)["error"] for group in groups]
    assert sum(each).item() == pytest.approx((sum(alone) / 2).item())


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


def test_bf16_trains_near_fp32(network, whole, tmp_path):
    config = full_run(tmp_path / "run", network, steps=3, precision="bf16")
    train(config)
    for half, full in zip(rows(config.out)[:3], rows(whole)[:3], strict=True):
        for name in half.keys() & {"loss", "error", "perceptual", "discriminator"}:
            assert half[name] == pytest.approx(full[name], rel=0.05), name
