"""Proves AdamW with moments of eight bits: torchao's to the bit, sharded too, resumed, planned, refused."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import nn

from configs.train import OptimizerConfig, TransformerRun
from dit.train import train
from tests.test_muon import steps
from tests.test_optimizer import autoencoder  # noqa: F401
from tests.tiny import assert_same_run, fresh_accelerator, launch, rows, transformer_run  # noqa: F401
from vae.training.checkpoints import check_optimizer, local_part, optimizer_tensors
from vae.training.optimizer import check_optimizer_settings, make_optimizer

EIGHT = OptimizerConfig(learning_rate=0.02, warmup_steps=0, weight_decay=0.1, kind="adamw8bit")


def layers() -> nn.Module:
    """Layers with codes: of rows of whole blocks, and of others; and one too small for them."""
    torch.manual_seed(3)
    return nn.ModuleDict(
        {
            "rows": nn.Linear(512, 9),
            "blocks": nn.Linear(96, 64),
            "kernel": nn.Conv2d(32, 32, 2),
            "small": nn.Linear(8, 6),
        }
    )


def test_it_is_torchao_s_to_the_bit():
    pytest.importorskip("torchao")
    from torchao.optim import AdamW8bit

    model, expected = layers(), layers()
    matrices, vectors = (
        [p for p in expected.parameters() if (p.ndim > 1) is is_matrix] for is_matrix in (True, False)
    )
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    theirs = AdamW8bit(groups, lr=0.02, betas=(0.9, EIGHT.beta2))
    with torch.compiler.set_stance("force_eager"):
        steps(expected, theirs)
    optimizer = make_optimizer(model, EIGHT)
    check_optimizer(optimizer, 0)
    steps(model, optimizer)
    check_optimizer(optimizer, 3)
    states = optimizer_tensors(optimizer)
    for name, parameter in expected.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter), name
        for moment, value in theirs.state[parameter].items():
            if parameter.numel() >= 4096 and moment != "step":
                assert states[f"{name}.{moment}_codes"].dtype == value.codes.dtype == torch.uint8
                assert torch.equal(states[f"{name}.{moment}_codes"], value.codes)
                assert torch.equal(states[f"{name}.{moment}_scale"].flatten(), value.scale)
            else:
                assert torch.equal(states[f"{name}.{moment}"], value)
    coded = [p for p in expected.parameters() if p.numel() >= 4096]
    size = sum(x.nbytes for name, x in states.items() if name.endswith(("_codes", "_scale")))
    assert size == sum(2 * p.numel() + 2 * 4 * p.numel() // 256 for p in coded)


def test_without_torchao_it_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"kind = adamw8bit takes torchao, .*: pip install -e '.\[torchao\]'"
    ):
        check_optimizer_settings(EIGHT)


@pytest.mark.long
def test_its_bytes_are_planned():
    from dit.runs.devices import PROCESSORS
    from dit.runs.estimate import PlanSettings, plan_one
    from dit.runs.work import open_source

    pytest.importorskip("torchao")
    run = TransformerRun(prompts=("a red circle moves left",))
    run = replace(
        run, model=replace(run.model, width=256, depth=1, heads=4, mlp_width=512, text_width=run.text.width)
    )
    found = {}
    for kind in ("adamw", "adamw8bit"):
        config = replace(run, optimizer=replace(EIGHT, kind=kind))
        memory = plan_one(
            open_source(config), config, PlanSettings(gpu="cpu"), PROCESSORS["h100"]
        ).traced.memory
        found[kind] = memory.optimizer
    from dit.load import Denoiser

    model = Denoiser(run.model, run.text)
    states = optimizer_tensors(make_optimizer(model, EIGHT)).values()
    assert found["adamw8bit"] == sum(x.nbytes for x in states)
    assert found["adamw8bit"] < 0.3 * found["adamw"]


def sharded() -> None:
    """In each of two processes: the steps of one process where rows are whole blocks, else fp32 AdamW's."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo")
    alone, exact, model = layers(), layers(), layers()
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.values():
        fully_shard(layer, mesh=mesh)
    optimizers = [
        make_optimizer(m, replace(EIGHT, kind=k)) for m, k in ((alone, "adamw8bit"), (exact, "adamw"))
    ]
    optimizer = make_optimizer(model, EIGHT)
    for one, its_optimizer in ((alone, optimizers[0]), (exact, optimizers[1]), (model, optimizer)):
        steps(one, its_optimizer)
    for name, parameter in model.named_parameters():
        whole = parameter.full_tensor()
        if name == "rows.weight":
            assert torch.equal(whole, alone.get_parameter(name))
        torch.testing.assert_close(
            whole,
            alone.get_parameter(name) if name == "rows.weight" else exact.get_parameter(name),
            rtol=0,
            atol=1e-6,
        )
    states, expected = optimizer_tensors(optimizer), optimizer_tensors(optimizers[0])
    for key in ("rows.weight.exp_avg_codes", "rows.weight.exp_avg_sq_scale"):
        assert len(local_part(states[key])) in (4, 5)
        assert torch.equal(states[key].full_tensor(), expected[key])
    assert "blocks.weight.exp_avg" in states
    dist.destroy_process_group()


@pytest.mark.long
def test_two_processes_step_as_one():
    pytest.importorskip("torchao")
    done = launch("tests.test_eight_bit", processes=2)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.long
def test_a_run_goes_on_to_the_bit_and_learns_as_in_fp32(tmp_path, autoencoder):  # noqa: F811
    pytest.importorskip("torchao")

    def run(name: str, count: int, kind: str = "adamw8bit"):
        config = transformer_run(tmp_path / name, autoencoder, steps=count, show_every=2)
        config = replace(config, model=replace(config.model, width=64, mlp_width=128))
        return train(replace(config, optimizer=OptimizerConfig(1e-3, kind=kind))).parent

    whole = run("whole", 4)
    run("stopped", 2)
    assert_same_run(run("stopped", 4), whole)
    fp32 = [row["loss"] for row in rows(run("fp32", 4, "adamw")) if "loss" in row]
    assert [row["loss"] for row in rows(whole) if "loss" in row] == pytest.approx(fp32, rel=2e-3)


if __name__ == "__main__":
    sharded()
