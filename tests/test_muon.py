"""Proves Muon: its polynomial of singular values, torch's own, heads apart, shards, going on to the bit."""

import math
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import nn

import vae.training.checkpoints
from configs.train import OptimizerConfig
from dit.train import train
from tests.test_optimizer import autoencoder  # noqa: F401
from tests.tiny import assert_same_run, fresh_accelerator, launch, transformer_run  # noqa: F401
from vae.training.muon import COEFFICIENTS, ITERATIONS, orthogonalised
from vae.training.optimizer import make_optimizer, update_weights

MUON = OptimizerConfig(learning_rate=0.02, warmup_steps=0, weight_decay=0.1, kind="muon")


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int = 3) -> None:
    """Updates by gradients that are given."""
    generator = torch.Generator().manual_seed(5)
    for _ in range(count):
        for parameter in model.parameters():
            gradient = torch.randn(parameter.shape, generator=generator)
            if hasattr(parameter, "device_mesh"):
                from torch.distributed.tensor import distribute_tensor

                gradient = distribute_tensor(gradient, parameter.device_mesh, parameter.placements)
            parameter.grad = gradient
        optimizer.step()


def layers() -> tuple[nn.Module, dict[str, int]]:
    """Layers of which two are Muon's, one of them six matrices."""
    torch.manual_seed(3)
    model = nn.ModuleDict({"fused": nn.Linear(16, 24), "tall": nn.Linear(10, 21), "other": nn.Linear(8, 6)})
    return model, {"fused.weight": 6, "tall.weight": 1}


@pytest.mark.parametrize("shape", [(4, 6, 9), (2, 12, 5)])
def test_singular_values_go_through_the_polynomial(shape):
    x = torch.randn(shape)
    u, s, v = torch.linalg.svd(x.double(), full_matrices=False)
    s, (a, b, c) = s / s.norm(dim=-1, keepdim=True), COEFFICIENTS
    for _ in range(ITERATIONS):
        s = a * s + b * s**3 + c * s**5
    torch.testing.assert_close(orthogonalised(x).double(), u * s[:, None] @ v, rtol=0, atol=1e-5)


def test_it_is_torch_s_on_every_part_alone_and_adamw_on_the_rest():
    model, parts = layers()
    expected, _ = layers()
    pieces = [
        nn.Parameter(x.clone())
        for x in (*expected["fused"].weight.detach().chunk(6), expected["tall"].weight)
    ]
    settings = {"lr": 0.02, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    theirs = torch.optim.Muon(pieces, **settings)
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        gradients = [torch.randn(p.shape, generator=generator) for p in model.parameters()]
        for piece, gradient in zip(pieces, (*gradients[0].chunk(6), gradients[2]), strict=True):
            piece.grad = gradient
        theirs.step()
    optimizer = make_optimizer(model, MUON, parts=parts)
    steps(model, optimizer)
    adamw = make_optimizer(expected, replace(MUON, kind="adamw"))
    steps(expected, adamw)
    ours = [*model["fused"].weight.chunk(6), model["tall"].weight]
    for one, other in zip(ours, pieces, strict=True):  # theirs is in bf16
        torch.testing.assert_close(one.detach(), other.detach(), rtol=0, atol=2e-3)
    for name in ("fused", "tall", "other"):
        assert torch.equal(model[name].bias, expected[name].bias)
    assert torch.equal(model["other"].weight, expected["other"].weight)
    names = set(vae.training.checkpoints.optimizer_tensors(optimizer))
    assert {n for n in names if n.startswith("fused.weight")} == {"fused.weight.momentum_buffer"}


def test_a_bad_step_keeps_every_bit_of_weights_and_momentum():
    (model, parts), bad = layers(), torch.tensor(True)
    optimizer = make_optimizer(model, MUON, parts=parts)
    for count in (0, 2):
        steps(model, optimizer, count)
        before = {name: x.clone() for name, x in model.named_parameters()}
        moments = {n: x.clone() for n, x in vae.training.checkpoints.optimizer_tensors(optimizer).items()}
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, math.nan)
        update_weights(optimizer, bad)
        assert all(torch.equal(x, before[name]) for name, x in model.named_parameters())
        now = vae.training.checkpoints.optimizer_tensors(optimizer)
        assert now.keys() == moments.keys() and all(torch.equal(x, moments[n]) for n, x in now.items())
        optimizer.found_inf = None


def sharded() -> None:
    """In each of two processes: the steps of one process."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo")
    alone, parts = layers()
    steps(alone, make_optimizer(alone, MUON, parts=parts))
    model, _ = layers()
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.values():
        fully_shard(layer, mesh=mesh)
    steps(model, make_optimizer(model, MUON, parts=parts))
    for one, other in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one.full_tensor(), other, rtol=0, atol=1e-6)
    dist.destroy_process_group()


@pytest.mark.long
def test_two_processes_step_as_one():
    done = launch("tests.test_muon", processes=2)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.long
def test_a_run_goes_on_to_the_bit_and_another_kind_is_refused(tmp_path, autoencoder):  # noqa: F811
    def run(name: str, count: int, **more):
        config = transformer_run(tmp_path / name, autoencoder, steps=count, show_every=2)
        return train(replace(config, optimizer=replace(MUON, learning_rate=1e-3), **more)).parent

    whole = run("whole", 6)
    run("stopped", 4)
    assert_same_run(run("stopped", 6), whole)
    config = transformer_run(tmp_path / "other", autoencoder, steps=8)
    with pytest.raises(ValueError, match="has the state of muon, not adamw: --no-from-optimizer begins anew"):
        train(replace(config, from_run=str(whole)))


if __name__ == "__main__":
    sharded()
