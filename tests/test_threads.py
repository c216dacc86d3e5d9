"""Proves how PyTorch's threads wait, and that a small model takes no more of them than help."""

import os
import subprocess
import sys

import pytest
import torch

from vae.training.processes import SHARE, helpful_threads

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def told(code: str, **settings: str) -> str:
    """What a process prints of OpenMP's own settings where it loads it."""
    free = {name: value for name, value in os.environ.items() if name not in WAITING}
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=free | settings | {"OMP_DISPLAY_ENV": "true"},
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stderr


@pytest.mark.skipif(not torch.backends.openmp.is_available(), reason="PyTorch has no OpenMP here")
def test_threads_sleep_while_they_wait():
    """OpenMP reads it once, when PyTorch is imported."""
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in told("import dit.attention")
    assert "OMP_WAIT_POLICY = 'ACTIVE'" in told("import dit.attention", OMP_WAIT_POLICY="active")


@pytest.mark.parametrize("package", ["vae", "dit", "eval", "dit.cli"])
def test_every_package_says_so_before_pytorch_is_there(package):
    code = f"import sys, os, {package}; assert 'torch' not in sys.modules; "
    code += "assert os.environ['OMP_WAIT_POLICY'] == 'passive'"
    told(code)
    for name in WAITING[1:]:
        told(f"import os, {package}; assert 'OMP_WAIT_POLICY' not in os.environ", **{name: "7"})


def test_a_thread_has_enough_to_do(monkeypatch):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        for numbers, threads in ((1, 1), (SHARE, 1), (2 * SHARE - 1, 1), (3 * SHARE, 3), (100 * SHARE, 4)):
            with pytest.raises(KeyError), helpful_threads(numbers):
                assert torch.get_num_threads() == threads
                raise KeyError
            assert torch.get_num_threads() == 4  # also after an error
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
        with helpful_threads(1):
            assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
