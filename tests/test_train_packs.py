"""Proves that a step's loss and gradients do not depend on how it is dealt to processes and cut in packs."""

import itertools
from dataclasses import replace

import numpy
import pytest
import torch

from configs.train import TaskWeights
from dit.bench.flops import sample_cost
from dit.loss import flow_loss
from dit.steps import draw_steps
from tests.test_train_loss import random_denoiser
from tests.tiny import MODEL, transformer_run
from vae.data.clips import Clip
from vae.data.plan import Plan
from vae.data.sizes import FileSizes
from vae.model import Autoencoder
from vae.training.seeds import normal

SHAPES = [(4, 1, 4, 4), (4, 1, 6, 4), (4, 3, 4, 8), (4, 2, 4, 6), (4, 5, 4, 4), (4, 1, 2, 2), (4, 2, 2, 8)]
PROMPTS = ["", "a", "a red circle moves left", "bb"]
STEP = 3


class Latents:
    """Clips of a cache of several shapes, whose number is a draw's."""

    def __init__(self):
        counts = [shape[1] * shape[2] * shape[3] // 4 for shape in SHAPES]
        self.sizes = FileSizes(numpy.array(counts), 0)
        self.shapes = {count: shape for count, shape in zip(counts, SHAPES, strict=True)}

    def __getitem__(self, draw: int) -> Clip:
        shape = self.shapes[int(self.sizes.tokens(range(draw, draw + 1))[0])]
        posterior = (normal(shape, "mean", draw), torch.full(shape, -2.0))
        return Clip(None, PROMPTS[draw % 4], "", posterior=posterior, draw=draw)


def gradients(denoiser, ranks: int = 1, pack: int = 0, multiple: int = 0) -> tuple[float, dict, list[int]]:
    """Loss and gradients of a step as so many processes add them up, and the tokens of each one's packs."""
    data = Latents()
    config = transformer_run("", "", round_tokens=multiple)
    config = replace(
        config,
        flow=replace(config.flow, tasks=TaskWeights(none=0.5, first=0.5), prompt_dropout=0.2),
        posterior="sample",
    )
    plan = Plan(data.sizes, 1, tokens=120, pack_tokens=pack, cost=sample_cost(config.model))
    steps = [(packs, [data[k] for draws in packs for k in draws]) for packs in plan.packs(STEP, ranks)]
    shares = list(draw_steps(steps, config, Autoencoder(MODEL), denoiser.read, torch.device("cpu")))
    counted, error, tokens = sum(share.counted for share in shares), 0.0, []
    denoiser.zero_grad()
    for share in shares:
        for part in share.packs:
            batch = part.batch(Autoencoder(MODEL), torch.device("cpu"))
            error_of_pack = flow_loss(denoiser, batch)
            (error_of_pack / counted).backward()
            error += error_of_pack.item()
            tokens.append(len(batch.tokens))
    found = {name: p.grad.clone() for name, p in denoiser.named_parameters()}
    return error / counted, found, tokens


CUTS = [(0, 16), (24, 0), (30, 8)]  # most tokens of a pack, and what it is rounded to


def whole_step() -> tuple:
    """A network, and the loss and gradients of a step in one pack."""
    denoiser = random_denoiser(transformer_run("", "")).to(torch.get_default_dtype())
    return denoiser, *gradients(denoiser)[:2]


@pytest.fixture
def fp64(monkeypatch):
    """All arithmetic in double precision, where rounding hides no error of a millionth."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_every_gradient_is_the_same_over_processes_and_packs(fp64):
    denoiser, loss, wanted = whole_step()
    assert all(gradient.dtype == torch.float64 and gradient.norm() > 0 for gradient in wanted.values())
    for ranks, (pack, multiple) in itertools.product([1, 2, 3, 8], CUTS):
        ours, found, tokens = gradients(denoiser, ranks, pack, multiple)
        assert len(tokens) % ranks == 0 and all(n % max(1, multiple) == 0 for n in tokens)
        assert ours == pytest.approx(loss, rel=1e-12)
        for name, gradient in wanted.items():
            assert (found[name] - gradient).norm() < 1e-10 * gradient.norm(), (name, ranks, pack)


def test_in_fp32_the_gradient_is_the_same_to_a_millionth():
    denoiser, loss, wanted = whole_step()
    one = torch.cat([gradient.flatten() for gradient in wanted.values()])
    for ranks, (pack, multiple) in [(2, (0, 16)), (3, (30, 8)), (8, (24, 0))]:
        ours, found, _ = gradients(denoiser, ranks, pack, multiple)
        other = torch.cat([gradient.flatten() for gradient in found.values()])
        assert ours == pytest.approx(loss, rel=1e-6) and (other - one).norm() < 1e-6 * one.norm()


def test_a_step_is_dealt_into_as_many_packs_as_are_meant_here():
    """More than processes, and packs of padding alone where there are fewer samples than processes."""
    denoiser = random_denoiser(transformer_run("", ""))
    assert len(gradients(denoiser, 1, 24)[2]) == 6
    tokens = gradients(denoiser, 16, 24, 8)[2]
    assert len(tokens) == 16 and 8 in tokens
