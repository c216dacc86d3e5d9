"""Proves products in fp8, emulated: those of inputs rounded by hand, which layers have them, refusals."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from configs.model import TransformerConfig
from configs.train import LoraConfig, TransformerLoop, TransformerRun
from dit.fp8 import check_fp8, in_fp8, use_fp8
from dit.model import Transformer

CONFIG = TransformerConfig(width=48, depth=2, heads=2, mlp_width=80, text_width=20, time_frequencies=32)


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor as it is after its numbers are scaled to the largest of a format, and rounded to it."""
    scale = torch.finfo(dtype).max / x.abs().max().double()
    return (x.double() * scale).to(torch.float32).to(dtype).double() / scale


@pytest.mark.long
def test_products_are_those_of_rounded_inputs():
    pytest.importorskip("torchao")
    torch.manual_seed(0)
    transformer, plain = Transformer(CONFIG), Transformer(CONFIG)
    names = [name for name, _ in transformer.named_parameters()]
    state = transformer.state_dict()
    use_fp8(transformer, emulate=True)
    assert [name for name, _ in transformer.named_parameters()] == names
    assert all(torch.equal(x, state[name]) for name, x in transformer.state_dict().items())
    pairs = zip(transformer.named_modules(), plain.modules(), strict=True)
    swapped = {name for (name, module), other in pairs if type(module) is not type(other)}
    linear = (name for name, module in plain.named_modules() if isinstance(module, nn.Linear))
    assert swapped == {name for name in linear if name.startswith("blocks.")}

    layer = transformer.blocks[0].ffn_in
    x = torch.randn(1, 37, 48, requires_grad=True)
    gradient = torch.randn(1, 37, 80) * torch.logspace(-4, 0, 37)[:, None]
    layer(x).backward(gradient)
    e4m3, e5m2 = torch.float8_e4m3fn, torch.float8_e5m2
    q, w, g = rounded(x.detach(), e4m3)[0], rounded(layer.weight.detach(), e4m3), rounded(gradient, e5m2)[0]
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(layer(x)[0].double(), q @ w.T + layer.bias.double(), **close)
    torch.testing.assert_close(x.grad[0].double(), g @ w, **close)
    torch.testing.assert_close(layer.weight.grad.double(), g.T @ q, **close)
    torch.testing.assert_close(layer.bias.grad, gradient.sum((0, 1)))
    exact = x @ layer.weight.T + layer.bias
    assert 1e-3 < (layer(x) - exact).norm() / exact.norm() < 0.05


def test_only_sizes_that_fp8_has_are_taken():
    sizes = [(32, 48), (32, 40), (8, 48)]
    assert [in_fp8(nn.Linear(*size), "") for size in sizes] == [True, False, False]


@pytest.mark.parametrize(
    ("settings", "capability", "sentence"),
    [
        ({"lora": LoraConfig(4)}, (9, 0), "--fp8 trains whole matrices, not adapters"),
        ({"train": TransformerLoop(precision="fp32")}, (9, 0), "--fp8 is beside bf16: give --train.prec"),
        ({}, (8, 0), "--fp8 takes a GPU that multiplies in fp8, such as an H100"),
        ({}, None, "--fp8 takes a GPU that multiplies in fp8, such as an H100"),
        ({}, (8, 9), r"--fp8 takes torchao, which is not installed: pip install -e '.\[torchao\]'"),
    ],
)
def test_where_it_cannot_run_it_is_refused(monkeypatch, settings, capability, sentence):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    device = torch.device("cpu" if capability is None else "cuda")
    config = replace(TransformerRun(fp8=True), **settings)
    with pytest.raises(ValueError, match=sentence):
        check_fp8(config, device)
    check_fp8(replace(config, fp8=False), device)
