"""Proves that a batch's loss is the token mean of its samples', each with its own noise, time and prompt."""

import math
from dataclasses import replace

import torch

from configs.train import FlowConfig, TaskWeights, TransformerRun
from dit.load import Denoiser
from dit.loss import draw_pack, draw_sample, flow_loss, make_batch
from dit.pack import patchify
from samplers.path import shift_times
from tests.tiny import fresh_accelerator, transformer_run  # noqa: F401
from vae.data.clips import Clip
from vae.training.seeds import normal


def mixed_latents() -> list[torch.Tensor]:
    """Latents of clips and an image of four sizes."""
    shapes = [(4, 2, 4, 4), (4, 1, 6, 4), (4, 3, 2, 8), (4, 2, 4, 6)]
    return [normal(shape, "latents", k) for k, shape in enumerate(shapes)]


def random_denoiser(config: TransformerRun) -> Denoiser:
    """A denoiser none of whose weights is zero, so that every path counts."""
    torch.manual_seed(1)
    denoiser = Denoiser(config.model, config.text)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return denoiser


def training_batch(latents: list[torch.Tensor], draws: range, flow: FlowConfig, prompts: list[str] = ()):
    """The batch of these draws, of heads of 16 channels."""
    prompts = prompts or [""] * len(latents)
    rows = zip(latents, prompts, draws, strict=True)
    samples = [draw_sample(x.shape, Clip(None, prompt, "", draw=draw), flow, 5) for x, prompt, draw in rows]
    return make_batch(latents, draw_pack(samples, 16))


def losses(denoiser: Denoiser, batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the tokens' losses, which is what its formula says, and how many tokens have one."""
    error = (
        (denoiser(batch.tokens, batch.times, batch.layout, batch.conditions) - batch.target).square().mean(-1)
    )
    total = flow_loss(denoiser, batch)
    torch.testing.assert_close(total, (error * batch.in_loss).sum())
    return total, batch.in_loss.sum()


def test_the_loss_of_a_batch_is_the_token_mean_of_its_parts():
    config = transformer_run("", "")
    flow = replace(config.flow, tasks=TaskWeights(none=0.5, first=0.5))
    denoiser, latents, prompts = random_denoiser(config), mixed_latents(), ["a", "bb", "", "a longer one"]

    def part(first: int, last: int):
        batch = training_batch(latents[first:last], range(first, last), flow, prompts[first:last])
        return batch, losses(denoiser, batch)

    batch, (total, count) = part(0, 4)
    parts = [part(k, k + 1) for k in range(4)]
    alone, counts = (torch.stack(values) for values in zip(*(sums for _, sums in parts), strict=True))
    assert count == counts.sum() and 0 < count < len(batch.tokens)  # the first frame of some is given
    means = alone / counts
    torch.testing.assert_close(total / count, (means * counts).sum() / counts.sum(), rtol=1e-5, atol=0)
    assert torch.equal(batch.tokens, torch.cat([one.tokens for one, _ in parts]))
    gradient = torch.autograd.grad(total / count, denoiser.transformer.patch_embedding.weight)[0]
    expected = torch.autograd.grad(alone.sum() / counts.sum(), denoiser.transformer.patch_embedding.weight)[0]
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_noise_and_times_belong_to_the_sample_and_are_the_path_s():
    flow = FlowConfig(tasks=TaskWeights(none=0.5, first=0.5), shift=2.0, shift_tokens=16)
    latents = mixed_latents()
    batch = training_batch(latents, range(4), flow)
    evens = training_batch(latents[::2], range(0, 4, 2), flow)
    lengths = batch.layout.tokens.each
    split = batch.tokens.split(lengths)
    assert torch.equal(evens.tokens, torch.cat([split[0], split[2]]))
    for draw, (x, tokens) in enumerate(zip(latents, split, strict=True)):
        x_LP, _ = patchify(x)
        target = batch.target.split(lengths)[draw]
        counted = batch.in_loss.split(lengths)[draw].bool()
        t = normal((1,), 5, "time", draw).sigmoid()
        t = shift_times(t, 2.0 * (len(x_LP) / 16) ** 0.5)
        torch.testing.assert_close(tokens[counted], (x_LP + t * target)[counted])  # x_t = x + t (noise - x)
        assert torch.equal(tokens[~counted], x_LP[~counted])  # what is given is clean
    other = training_batch(latents, range(4, 8), flow)
    assert (other.target - batch.target).abs().mean() > 0.5


def test_times_are_logit_normal_and_a_shift_moves_their_logits_by_its_logarithm():
    count, x = 4000, torch.zeros(1, 1, 2, 8)  # four tokens
    flow = FlowConfig(time_mean=0.4, time_std=1.3, shift=1.5, shift_tokens=16)
    mean, std = 0.4 + math.log(1.5 * math.sqrt(4 / 16)), 1.3
    samples = [draw_sample(x.shape, Clip(None, "", "", draw=draw), flow, 3) for draw in range(count)]
    times = torch.cat([sample.time for sample in samples]).double()
    logits = times.logit()
    assert abs(logits.mean() - mean) < 4 * std / math.sqrt(count)
    assert abs(logits.std() - std) < 4 * std / math.sqrt(2 * count)
    for quantile in (0.1, 0.5, 0.8):
        expected = torch.distributions.Normal(mean, std).cdf(torch.tensor(quantile).logit()).item()
        share = (times < quantile).double().mean().item()
        assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / count)


def test_prompt_dropout_is_a_function_of_seed_and_draw_and_new_in_every_epoch():
    flow, x = FlowConfig(prompt_dropout=0.1), torch.zeros(1, 1, 2, 2)

    def dropped(seed: int, draws: range) -> list[bool]:
        samples = [draw_sample(x.shape, Clip(None, "x", "", draw=draw), flow, seed) for draw in draws]
        return [condition.prompt == "" for condition in draw_pack(samples, 4).conditions]

    draws = dropped(3, range(2000))
    assert dropped(3, range(1990, 2000)) == draws[1990:] and dropped(4, range(99)) != draws[:99]
    assert 0.08 < sum(draws) / 2000 < 0.12
    first, second = draws[:1000], draws[1000:]  # two epochs of the same thousand clips
    both = sum(a and b for a, b in zip(first, second, strict=True))
    assert sum(first) > 70 and both < 30  # independent: 10 expected, all ~100 if it were for ever
