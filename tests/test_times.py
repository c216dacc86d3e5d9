"""Proves times by their densities, weightings by what they weigh, and that measured times are exact."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from configs.train import FlowConfig, TaskWeights
from dit.condition import Condition
from dit.loss import SampleDraw, draw_pack, draw_sample, flow_loss, make_batch
from dit.times import AHEAD, BINS, TIMES, VALIDATION_TIMES, WEIGHTINGS, Measured
from dit.train import train
from samplers.path import point_and_velocity
from tests.test_optimizer import autoencoder  # noqa: F401
from tests.tiny import assert_same_run, fresh_accelerator, rows, transformer_run  # noqa: F401
from vae.data.clips import Clip
from vae.training.seeds import normal

COUNT = 4000
LOSSES = (2.0, 0.6, 0.2, 0.4)


def times_of(flow: FlowConfig, shift: float = 1.0, losses=None) -> tuple[torch.Tensor, torch.Tensor]:
    """Many times, in order, and their weights."""
    drawn = [TIMES[flow.times](z, flow, shift, losses) for z in normal((COUNT,), 7).split(1)]
    times, weights = torch.cat([time for time, _ in drawn]).double(), torch.tensor([w for _, w in drawn])
    order = times.argsort()
    return times[order], weights[order].double()


def assert_distributed(times: torch.Tensor, distribution) -> None:
    """Kolmogorov and Smirnov's distance, which is above 1.95 / sqrt(n) once in a thousand times."""
    expected = torch.tensor([distribution(t) for t in times.tolist()])
    steps = torch.arange(COUNT, dtype=torch.float64) / COUNT
    assert (expected - steps).abs().max() < 1.95 / math.sqrt(COUNT)


def test_times_have_their_distributions():
    assert_distributed(times_of(FlowConfig(times="uniform"))[0], lambda t: t)
    assert_distributed(times_of(FlowConfig(times="uniform"), shift=3.0)[0], lambda t: t / (3 - 2 * t))
    inverse = lambda t: 2 / math.pi * math.atan2(t, 1 - t)  # noqa: E731  the integral of CosMap's density
    assert_distributed(times_of(FlowConfig(times="cosmap"))[0], inverse)
    for scale in (-1.0, 1.29):

        def mode(t: float, scale=scale) -> float:  # the inverse of a falling map, by bisection
            low, high = 0.0, 1.0
            for _ in range(25):
                u = (low + high) / 2
                above = 1 - u - scale * (math.cos(math.pi * u / 2) ** 2 - 1 + u) > t
                low, high = (u, high) if above else (low, u)
            return 1 - low

        assert_distributed(times_of(FlowConfig(times="mode", mode_scale=scale))[0], mode)


def test_measured_times_are_drawn_by_the_loss_and_weighted_back():
    flow = FlowConfig(times="measured", time_mean=0.3, time_std=1.2)
    plain, ones = times_of(flow, 2.0)
    usual, _ = times_of(replace(flow, times="logit_normal"), 2.0)
    assert torch.equal(plain, usual) and ones.eq(1).all()  # nothing is measured yet
    times, weights = times_of(flow, 2.0, LOSSES)
    logits = torch.tensor([0.25, 0.5, 0.75]).double().logit() - math.log(2.0)
    edges = torch.distributions.Normal(0.3, 1.2).cdf(logits)
    p = torch.diff(torch.tensor([0.0, *edges, 1.0]).double())
    q = p / 2 + p * torch.tensor(LOSSES).double() / (2 * (p * torch.tensor(LOSSES)).sum())
    for k in range(BINS):
        inside = (times >= k / BINS) & (times < (k + 1) / BINS)
        assert abs(inside.double().mean() - q[k]) < 4 * math.sqrt(0.25 / COUNT)
        torch.testing.assert_close(weights[inside], (p[k] / q[k]).expand(int(inside.sum())))
    for moment in (lambda t: t, lambda t: t**2, lambda t: torch.sin(9 * t)):  # of any loss
        assert abs((weights * moment(times)).mean() - moment(usual).mean()) < 0.02
        assert abs(moment(times).mean() - moment(usual).mean()) > 0.04
    same, alike = times_of(flow, 2.0, (0.4,) * BINS)
    torch.testing.assert_close(same, usual, rtol=0, atol=1e-6)
    torch.testing.assert_close(alike, ones.double())


def test_a_limited_ratio_weighs_the_error_of_the_data():
    flow, x, noise, guess = FlowConfig(weighting="min_snr"), *torch.randn(3, 64, dtype=torch.float64)
    for t in (0.05, 0.2, 0.31, 0.5, 0.9):
        point, velocity = point_and_velocity(x, noise, t)
        of_data = (point - t * guess - x).square().mean()  # what a velocity says of the data
        expected = min(((1 - t) / t) ** 2, flow.snr_limit) * of_data
        found = WEIGHTINGS["min_snr"](t, flow) * (guess - velocity).square().mean()
        torch.testing.assert_close(found, expected)


def test_weighting_even_times_by_a_density_is_drawing_times_of_it():
    even, drawn = torch.linspace(0, 1, 10_001), times_of(FlowConfig(times="cosmap"))[0]
    weights = torch.tensor([WEIGHTINGS["cosmap"](t, FlowConfig()) for t in even.tolist()])
    assert weights.mean().item() == pytest.approx(1, abs=1e-3)
    assert (weights * even.cos()).mean().item() == pytest.approx(drawn.cos().mean().item(), abs=0.02)


def test_a_sample_s_weight_is_in_the_loss_and_leaves_the_count_of_tokens():
    flow = FlowConfig(weighting="min_snr", tasks=TaskWeights(none=0.0), times="uniform")
    clips = [Clip(None, "x", "", draw=draw) for draw in range(4)]
    samples = [draw_sample((2, 3, 4, 4), clip, flow, 0) for clip in clips]
    plain = [replace(sample, weight=1.0) for sample in samples]
    packs = [draw_pack(group, 4) for group in (samples, plain)]
    assert packs[0].counted == packs[1].counted == 4 * 2 * 4
    assert packs[0].part(3, 40).counted == packs[1].part(3, 40).counted < packs[0].counted
    latents = [torch.randn(2, 3, 4, 4) for _ in samples]
    batches = [make_batch(latents, pack) for pack in packs]
    zero = lambda tokens, *_: torch.zeros_like(tokens)  # noqa: E731
    expected = sum(
        WEIGHTINGS["min_snr"](sample.time.item(), flow)
        * flow_loss(zero, make_batch([z], draw_pack([one], 4)))
        for sample, one, z in zip(samples, plain, latents, strict=True)
    )
    torch.testing.assert_close(flow_loss(zero, batches[0]), expected)
    assert not torch.isclose(flow_loss(zero, batches[1]), expected)
    nothing = draw_pack([SampleDraw(torch.zeros(2, 1, 2, 2), torch.ones(1), Condition(), weight=1e-9)], 4)
    assert nothing.counted == 1


def test_a_step_knows_the_same_losses_however_soon_it_is_drawn():
    def row(step: int) -> dict:
        return {f"validation_t{t}": step + t for t in VALIDATION_TIMES}

    for every in (1, 2, 5):
        known = {}
        for lead in range(
            1, AHEAD
        ):  # by a thread that is so many steps ahead, and by one that was just begun
            measured = Measured()
            for step in range(40):
                if step % every == 0:
                    measured.learn(step, row(step))
                known.setdefault(step + lead, set()).add(measured.before(step + lead))
        for step, losses in list(known.items())[AHEAD:-AHEAD]:
            newest = (step - AHEAD) // every * every
            assert losses == {tuple(newest + t for t in VALIDATION_TIMES)}
    assert Measured().before(100) is None


@pytest.mark.long
def test_measured_times_go_on_to_the_bit(tmp_path, autoencoder):  # noqa: F811
    def run(name: str, steps: int, **more) -> Path:
        config = transformer_run(tmp_path / name, autoencoder, steps=steps, show_every=2, save_every=3)
        config = replace(config, flow=FlowConfig(times="measured"), **more)
        return train(config).parent

    whole = run("whole", 9)
    run("stopped", 6)
    assert_same_run(run("stopped", 9), whole)
    went_on = run("from", 9, from_run=f"{whole}@6")
    assert [row for row in rows(went_on) if row["step"] > 6] == [
        row for row in rows(whole) if row["step"] > 6
    ]
    usual = train(
        transformer_run(tmp_path / "usual", autoencoder, steps=9, show_every=2, save_every=3)
    ).parent
    losses = [[row["loss"] for row in rows(out) if "loss" in row] for out in (whole, usual)]
    assert (
        losses[0][: AHEAD + 1] == losses[1][: AHEAD + 1] and losses[0][AHEAD + 1 :] != losses[1][AHEAD + 1 :]
    )
