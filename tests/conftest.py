"""What tests share: reference values, the folder of real clips, and quiet, equal conditions."""

import os
import zipfile
from pathlib import Path

import pytest

if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):  # they and their children share the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, os.cpu_count() // workers)))

import torch

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("DIT_TEST_DATA", ROOT.parent / "shared" / "data")).resolve()
REFERENCE = ROOT / "tests" / "reference"  # what other projects' code gave, as its README.md says
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that asks a model hub is a mistake, and fails at once


@pytest.fixture(scope="session")
def real_clips() -> Path:
    """The folder of real videos; without it the test is skipped."""
    if not (DATA / "clips").is_dir():
        pytest.skip(f"no real clips at {DATA} (set DIT_TEST_DATA)")
    return DATA / "clips"


@pytest.fixture(scope="session")
def ucf101_lists(tmp_path_factory) -> Path:
    """The folder of UCF-101's official lists."""
    folder = tmp_path_factory.mktemp("ucf101_lists")
    with zipfile.ZipFile(REFERENCE / "ucf101_lists.zip") as lists:
        lists.extractall(folder)
    return folder


@pytest.fixture(autouse=True)
def same_randomness():
    """Every test starts from the same seed, whatever ran before it."""
    torch.manual_seed(0)
