"""Proves the recipe of an autoencoder's training: its terms, networks, mixed shapes and chunks."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from configs.train import AutoencoderRun, DiscriminatorConfig, PerceptualConfig
from dit.bench.measure import peak_allocated
from tests.test_autoencoder import SMALL, randomised
from tests.tiny import autoencoder_run, fresh_accelerator  # noqa: F401
from vae.compression import Compression
from vae.data.clips import Clip
from vae.discriminator import Discriminator, adaptive_weight, hinge
from vae.losses import Likelihood, Networks, accumulate_gradients, in_chunks
from vae.perceptual import EncoderDistance
from vae.train import group_with_noise

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
