"""Proves width transfer: activations move alike at every width, the base is as it was, and decay stays."""

import math
from dataclasses import replace

import numpy
import pytest
import torch

from configs.model import TextConfig, TransformerConfig
from configs.train import OptimizerConfig
from dit.condition import Condition
from dit.load import Denoiser
from dit.loss import SampleDraw, draw_pack
from dit.width import rate_scales, scale_start
from vae.training.optimizer import make_optimizer, set_learning_rate

HEAD, BASE, STEPS = 8, 16, 4
WIDTHS = (16, 32, 64, 128)
TEXT = TextConfig(width=16, depth=1, heads=2, mlp_width=16)
LAYERS = ("attn1.to_out", "attn2.to_out", "ffn_in", "ffn_out", "time_proj", "text_out", "proj_out")


def network(width: int, optimizer: OptimizerConfig) -> Denoiser:
    """A denoiser of two blocks, all of whose paths count from the first step on."""
    torch.manual_seed(0)
    config = TransformerConfig(
        width=width, depth=2, heads=width // HEAD, mlp_width=2 * width, text_width=16, latent_channels=4
    )
    model = Denoiser(config, TEXT)
    scale_start(model.transformer, optimizer)
    return model


def movements(width: int, optimizer: OptimizerConfig) -> dict[str, float]:
    """How far the outputs of layers move in a few steps on one batch, root mean square."""
    model, outputs = network(width, optimizer), {}

    def keep(name: str):
        return lambda module, inputs, output: outputs.setdefault(name, []).append(output.detach().clone())

    for name, module in model.transformer.named_modules():
        if name.endswith(LAYERS):
            module.register_forward_hook(keep(name))
    generator = torch.Generator().manual_seed(1)
    draws = [
        SampleDraw(torch.randn(4, 2, 8, 8, generator=generator), torch.tensor([t]), Condition("a red circle"))
        for t in (0.2, 0.5, 0.8)
    ]
    pack = draw_pack(draws, HEAD)
    target = pack.noise_LP.roll(1, 0)
    adamw = make_optimizer(model, optimizer, 0.9, rate_scales(model, optimizer))
    for step in range(1, STEPS + 1):
        prediction = model(pack.noise_LP, pack.times_M, pack.layout, pack.conditions)
        (prediction - target).square().mean().backward()
        set_learning_rate(adamw, step, optimizer)
        adamw.step()
        adamw.zero_grad()
    model(pack.noise_LP, pack.times_M, pack.layout, pack.conditions)
    return {name: (kept[-1] - kept[0]).square().mean().sqrt().item() for name, kept in outputs.items()}


def slopes(optimizer: OptimizerConfig) -> dict[str, float]:
    """By which power of the width the movements of each layer grow."""
    found = [movements(width, optimizer) for width in WIDTHS]
    logs = numpy.log(WIDTHS)
    return {name: numpy.polyfit(logs, [math.log(f[name]) for f in found], 1)[0].item() for name in found[0]}


def test_activations_move_alike_at_every_width_and_grow_without_it():
    rate = OptimizerConfig(learning_rate=2e-3, warmup_steps=0)
    with_it = slopes(replace(rate, base_width=BASE))
    assert all(abs(slope) < 0.25 for slope in with_it.values()), with_it
    without = slopes(rate)
    grown = {
        name: slope for name, slope in without.items() if name.endswith(("ffn_in", "ffn_out", "proj_out"))
    }
    assert min(grown.values()) > 0.4, without


def test_at_the_base_width_all_is_as_without_it():
    plain, based = (network(32, OptimizerConfig(base_width=base)) for base in (0, 32))
    for one, other in zip(plain.parameters(), based.parameters(), strict=True):
        assert torch.equal(one, other)
    assert rate_scales(based, OptimizerConfig(base_width=32)) == {}


def test_a_step_decays_weights_alike_at_every_width_and_only_sums_over_it_are_slower():
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=0, weight_decay=0.5, base_width=BASE)
    model = network(4 * BASE, config)
    adamw = make_optimizer(model, config, 0.9, rate_scales(model, config))
    assert set_learning_rate(adamw, 1, config) == 0.1
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    adamw.step()
    for name, parameter in model.named_parameters():
        slow = name.startswith("transformer.") and parameter.ndim == 2 and "table" not in name
        slow = slow and not any(layer in name for layer in ("patch_embedding", "time_in", "text_in"))
        decayed = before[name] * (1 - 0.1 * 0.5 * (parameter.ndim > 1))
        expected = decayed - 0.1 * (0.25 if slow else 1.0)  # AdamW's first step is the gradient's sign
        torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=1e-6)


def test_a_start_has_the_spread_of_the_base_where_no_sum_is_over_the_width():
    transformer = network(16 * BASE, OptimizerConfig(base_width=BASE)).transformer
    patch = transformer.patch_embedding.in_features
    expected = {
        transformer.patch_embedding.weight: math.sqrt(2 / (patch + BASE)),
        transformer.time_in.weight: 0.02,
        transformer.time_out.weight: 0.02 / 4,  # 16 times as many inputs as at the base, where it is 0.02
        transformer.text_out.weight: 0.02 / 4,
        transformer.scale_shift_table: BASE**-0.5,
        transformer.blocks[1].scale_shift_table: BASE**-0.5,
    }
    for weight, spread in expected.items():
        assert weight.std().item() == pytest.approx(spread, rel=0.06)
