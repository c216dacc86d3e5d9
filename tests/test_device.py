"""Proves that the door to the device sets exact fp32 products everywhere, and knows a CPU from others."""

from types import SimpleNamespace

import pytest
import torch

from vae.training import device as door

LIBRARIES = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def exact_again():
    yield
    torch.backends.fp32_precision = "none"
    door.set_products(False)


@pytest.mark.parametrize("before", ["new", "none", "tf32", "legacy", "matmul"])
def test_products_are_exact_whatever_was_set_before(before):
    """By PyTorch's newer names and by its older flags, which raise where the two disagree."""
    if before in ("none", "tf32"):
        torch.backends.fp32_precision = before  # of all libraries that are not told by name
    elif before == "matmul":
        torch.set_float32_matmul_precision("high")
    elif before == "legacy":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    for tf32, wanted in ((False, "ieee"), (True, "tf32"), (False, "ieee")):
        door.own_device(tf32)
        assert {library.fp32_precision for library in LIBRARIES} == {wanted}
        assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == tf32
        assert door.products(GPU) == ("TF32" if tf32 else "exact")
        assert door.products(CPU) == "exact"


def test_each_process_has_a_gpu_of_those_that_it_sees(monkeypatch):
    chosen = []
    for name, value in {"is_available": lambda: True, "set_device": chosen.append}.items():
        monkeypatch.setattr(torch.cuda, name, value)
    for local, seen, wanted in (("", 1, 0), ("0", 8, 0), ("5", 8, 5), ("5", 1, 0), ("6", 4, 2)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda seen=seen: seen)
        monkeypatch.setenv("LOCAL_RANK", local) if local else monkeypatch.delenv("LOCAL_RANK", raising=False)
        assert door.own_device() == chosen[-1] == torch.device("cuda", wanted)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert door.own_device() == CPU


def test_a_gpu_is_asked_through_its_own_module(monkeypatch):
    """Memory, name and waiting are those of the device's module of PyTorch, whichever device it is."""
    calls = []
    module = SimpleNamespace(
        synchronize=lambda device: calls.append(("synchronize", device)),
        reset_peak_memory_stats=lambda device: calls.append(("reset", device)),
        max_memory_allocated=lambda device: 7,
        memory_allocated=lambda device: 5,
        get_device_name=lambda device: "H100",
    )
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    door.wait_for(GPU)
    door.forget_peak(GPU)
    assert calls == [("synchronize", GPU), ("reset", GPU)]
    assert (door.peak_memory(GPU), door.memory(GPU), door.gpu_name(GPU)) == (7, 5, "H100")
    door.wait_for(CPU)
    door.forget_peak(CPU)
    assert len(calls) == 2
    assert (door.peak_memory(CPU), door.memory(CPU), door.gpu_name(CPU)) == (None, None, "")
    assert [door.own_precision(device) for device in (CPU, GPU)] == ["fp32", "bf16"]


def test_autocast_is_bf16_where_it_is_on():
    x = torch.ones(2, 2)
    with door.autocast(x):
        assert (x @ x).dtype == torch.bfloat16
        with door.autocast(CPU, False):
            assert (x @ x).dtype == torch.float32
    with door.autocast(x, False):
        assert (x @ x).dtype == torch.float32


def test_forked_randomness_is_put_back():
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    with door.forked_randomness(wanted):
        torch.manual_seed(9)
        torch.rand(1)
    assert torch.equal(torch.rand(4), wanted)


def test_what_is_sent_arrives():
    x = torch.arange(3)
    assert door.send(x, CPU) is x
