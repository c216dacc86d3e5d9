"""What tests share: the folder of real clips and reference values, and quiet, equal conditions."""

import os
from pathlib import Path

import pytest

if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):  # they and their children share the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, os.cpu_count() // workers)))

import torch

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("DIT_TEST_DATA", ROOT.parent / "shared" / "data")).resolve()
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that asks a model hub is a mistake, and fails at once


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real clips and reference values; without it the test is skipped."""
    if not DATA.is_dir():
        pytest.skip(f"no test data at {DATA} (set DIT_TEST_DATA)")
    return DATA


@pytest.fixture(scope="session")
def real_clips(real_data: Path) -> Path:
    """The folder of real videos."""
    return real_data / "clips"


@pytest.fixture(autouse=True)
def same_randomness():
    """Every test starts from the same seed, whatever ran before it."""
    torch.manual_seed(0)
