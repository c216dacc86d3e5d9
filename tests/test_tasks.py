"""Proves tasks and what is given: shares, masks, a loss outside alone, kept latents, starting points."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from configs.sampling import SamplerConfig
from configs.train import FlowConfig, TaskWeights
from dit.condition import Condition, Given, draw_condition, lay
from dit.generate import Request, generate
from dit.loss import draw_pack, draw_sample, draw_validation, flow_loss, make_batch
from dit.pack import patchify, unpatchify
from dit.tasks import TASKS, check_tasks, draw_task, task_mask
from samplers.path import time_grid
from tests.test_train_loss import losses, random_denoiser
from tests.tiny import transformer_run
from vae.data.clips import Clip
from vae.training.seeds import generator, normal

GRID = (5, 4, 4)
ALL = TaskWeights(**{name: 1.0 for name in ("none", *TASKS)})
SHAPE = (4, 3, 4, 6)  # of latents: three frames of two by three tokens


def clip(draw: int, prompt: str = "x") -> Clip:
    return Clip(None, prompt, "", draw=draw)


def frames_of(mask_THW: torch.Tensor) -> list[int]:
    """The frames of a mask that are given whole; no other has a token."""
    flat = mask_THW.flatten(1)
    assert torch.equal(flat.any(1), flat.all(1))
    return flat.all(1).nonzero().flatten().tolist()


def is_box(mask_THW: torch.Tensor) -> bool:
    """Whether a mask is one box, by how many tokens lie between its ends."""
    spans = [mask_THW.movedim(axis, 0).flatten(1).any(1).nonzero().flatten() for axis in range(3)]
    volume = 1
    for span in spans:
        volume *= int(span[-1] - span[0] + 1)
    return int(mask_THW.sum()) == volume


def test_every_task_gives_what_it_says():
    masks = {name: [task_mask(name, GRID, 1, draw) for draw in range(60)] for name in TASKS}
    frames = {name: [frames_of(m) for m in masks[name]] for name in TASKS if "region" not in name}
    assert all(f == [0] for f in frames["first"]) and all(f == [4] for f in frames["last"])
    assert all(f == [0, 4] for f in frames["first_and_last"])
    assert {len(f) for f in frames["some_frames"]} == {1, 2, 3, 4}
    assert {f for some in frames["some_frames"] for f in some} == {0, 1, 2, 3, 4}
    assert {tuple(f) for f in frames["prefix"]} == {tuple(range(n)) for n in range(1, 5)}
    assert {tuple(f) for f in frames["suffix"]} == {tuple(range(n, 5)) for n in range(1, 5)}
    gaps = {tuple(sorted({0, 1, 2, 3, 4} - {*f})) for f in frames["middle_missing"]}
    assert gaps == {tuple(range(a, b)) for a in range(1, 4) for b in range(a + 1, 5)}
    assert {tuple(f) for f in frames["every_kth"]} == {(0, 2, 4), (0, 3), (0, 4)}
    assert all(is_box(m) for m in masks["region"]) and all(is_box(~m) for m in masks["all_but_region"])
    assert {int(m.flatten(1).any(1).sum()) for m in masks["region"]} == {*range(1, 6)}
    for name in TASKS:  # of an image nothing is given by frames, and a box of it by a region
        image = [task_mask(name, (1, 4, 4), 1, draw) for draw in range(9)]
        assert all((mask is not None) == ("region" in name) for mask in image)


def test_the_shares_of_tasks_are_their_weights():
    weights, count = replace(ALL, none=6.0, first=2.5, region=0.0), 4000
    of_each = dict.fromkeys(TASKS, 0) | {"none": 0}
    marks = {name: torch.full((1, 2, 2), k, dtype=torch.long) for k, name in enumerate(TASKS)}
    names = list(TASKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dit.tasks.task_mask", lambda name, *_: marks[name])
        for share in generator(3, "shares").random(count):
            mask = draw_task(share, weights, (1, 2, 2), 0, 0)
            of_each["none" if mask is None else names[mask[0, 0, 0]]] += 1
    total = 6 + 2.5 + 8
    for name, number in of_each.items():
        share = getattr(weights, name) / total
        assert abs(number / count - share) <= 4 * (share * (1 - share) / count) ** 0.5, name
    with pytest.raises(ValueError, match="weight of 0 for every task"):
        check_tasks(replace(weights, **dict.fromkeys(of_each, 0.0)))


def test_by_default_a_quarter_has_its_first_frame_given():
    """By the same draws as where that share was a setting of its own."""
    flow = FlowConfig()
    for draw in range(200):
        condition = draw_condition(clip(draw), (4, 5, 8, 8), flow, 7)
        shares = generator(7, "condition", draw).random(2)
        assert bool(condition.givens) == (shares[0] < 0.25)
        assert (condition.prompt == "") == (shares[1] < 0.1)
        if condition.givens:
            assert frames_of(lay(condition.givens, (4, 5, 8, 8))[1] == 0) == [0]


def test_givens_lie_at_their_places_and_later_ones_above():
    one, two = normal((4, 1, 4, 6), 1), normal((4, 2, 4, 6), 2)
    mask = torch.zeros(2, 2, 3, dtype=torch.bool)
    mask[1, 0, 2] = True
    latents, start = lay((Given(one, -1), Given(two, 1, mask, strength=0.25), Given(one)), SHAPE)
    assert torch.equal(latents[:, :1], one) and not latents[:, 1].any()
    expected = one.clone()
    expected[:, 0, :2, 4:] = two[:, 1, :2, 4:]
    assert torch.equal(latents[:, 2:], expected)
    assert not start[0].any() and (start[1] == 1).all()
    assert start[2].tolist() == [[0, 0, 0.75], [0, 0, 0]]
    for wrong in (Given(two, 2), Given(two, -1), Given(one, 3), Given(one, -4), Given(one[:, :, :2])):
        with pytest.raises(ValueError, match="do not lie within latents"):
            lay((wrong,), SHAPE)


def test_the_loss_is_of_what_is_not_given_and_mixed_batches_equal_single_ones():
    config = transformer_run("", "")
    flow = replace(config.flow, tasks=replace(ALL, none=1.0), given_noise=0.3)
    denoiser, count = random_denoiser(config), 24
    shapes = [(4, 5, 8, 8), (4, 1, 6, 8), (4, 3, 4, 4), (4, 4, 2, 6)]
    latents = [normal(shapes[k % 4], "latents", k) for k in range(count)]
    clips = [clip(k, "abc"[: k % 3]) for k in range(count)]
    samples = [draw_sample(z.shape, one, flow, 5) for z, one in zip(latents, clips, strict=True)]
    batch = make_batch(latents, draw_pack(samples, 16))
    alone = [
        losses(denoiser, make_batch([z], draw_pack([s], 16))) for z, s in zip(latents, samples, strict=True)
    ]
    total, counted = losses(denoiser, batch)
    torch.testing.assert_close(total, sum(t for t, _ in alone), rtol=1e-5, atol=0)
    assert counted == sum(c for _, c in alone)
    starts = [lay(s.condition.givens, tuple(z.shape))[1] for s, z in zip(samples, latents, strict=True)]
    given_L = torch.cat([start.flatten() for start in starts]) < 1
    assert torch.equal(batch.in_loss == 0, given_L) and 0.1 < given_L.float().mean() < 0.9
    noisy_LP, right = batch.tokens, lambda tokens, *_: batch.target
    spoiled = lambda tokens, *_: torch.where(given_L[:, None], torch.nan_to_num(noisy_LP * 9), batch.target)  # noqa: E731
    assert flow_loss(right, batch) == 0 == flow_loss(spoiled, batch)

    # What is given lies at its own time: x + t (noise - x), t between 0 and the setting.
    x_LP = torch.cat([patchify(z)[0] for z in latents])
    t_L1 = torch.cat([start.flatten() for start in starts])[:, None]
    torch.testing.assert_close(noisy_LP[given_L], (x_LP + t_L1 * batch.target)[given_L], rtol=0, atol=1e-5)
    times = {start[start < 1][0].item() for start in starts if (start < 1).any()}
    assert len(times) > 5 and min(times) > 0 and max(times) < 0.3


def requests_of_every_kind() -> list[Request]:
    """One request a task, of one size, with random latents given, and one of a starting point."""
    requests = [Request(Condition("a"), SHAPE, 0)]
    for seed, name in enumerate(TASKS, 1):
        mask = task_mask(name, (3, 2, 3), 0, seed)
        given = Given(normal(SHAPE, "given", seed), mask_THW=mask)
        requests.append(Request(Condition("abc"[: seed % 4], (given,)), SHAPE, seed))
    half = (Given(normal(SHAPE, "whole"), strength=0.4), Given(normal((4, 1, 4, 6), "over"), -1))
    return [*requests, Request(Condition("b", half), SHAPE, 99)]


@pytest.mark.parametrize("solver", ["euler", "heun", "multistep"])
def test_what_is_given_stays_to_the_bit_in_mixed_packs_and_alone(solver: str):
    denoiser = random_denoiser(transformer_run("", ""))
    requests, sampler = requests_of_every_kind(), SamplerConfig(steps=2, solver=solver, guidance=2.0)
    together = generate(denoiser, requests, FlowConfig(), sampler)
    for k, (request, made) in enumerate(zip(requests, together, strict=True)):
        given, start = lay(request.condition.givens, SHAPE)
        kept = (start == 0).repeat_interleave(2, 1).repeat_interleave(2, 2)
        assert torch.equal(made[:, kept], given[:, kept])
        if solver == "euler" and k % 4 == 0:
            alone = generate(denoiser, [request], FlowConfig(), sampler)[0]
            torch.testing.assert_close(made, alone, rtol=0, atol=1e-4)
    free = generate(denoiser, [replace(requests[1], condition=Condition("a"))], FlowConfig(), sampler)[0]
    assert not torch.allclose(free[:, 1:], together[1][:, 1:], atol=1e-2)  # what is given is seen


def test_a_starting_point_is_sdedit():
    """Meng et al. 2022: latents are noised to a time and solved from there; the network is told the times."""
    denoiser = random_denoiser(transformer_run("", ""))
    flow, sampler = (
        FlowConfig(shift=1.0, shift_tokens=0),
        SamplerConfig(steps=4, solver="euler", guidance=1.0),
    )
    data, noise = normal(SHAPE, "data"), normal(SHAPE, 3, "sample noise")
    condition, strength = Condition("a"), 0.25
    seen, plain = [], denoiser.transformer.embed_time
    denoiser.transformer.embed_time = lambda times: seen.append(times.clone()) or plain(times)
    request = Request(replace(condition, givens=(Given(data, strength=strength),)), SHAPE, 3)
    made = generate(denoiser, [request], flow, sampler)[0]
    times = [(1 - strength) * t for t in time_grid(4)]
    torch.testing.assert_close(torch.cat(seen), torch.tensor(times[:-1]))

    (x, grid), (n, _) = patchify(data), patchify(noise)
    x = (1 - times[0]) * x + times[0] * n
    for t, after in pairwise(times):
        pack = draw_pack([draw_validation(SHAPE, clip(0, "a"), t, 0)], 16)
        with torch.no_grad():
            x = x + (after - t) * denoiser(x, pack.times_M, pack.layout, [condition])
    torch.testing.assert_close(made, unpatchify(x, grid), rtol=1e-4, atol=1e-4)
