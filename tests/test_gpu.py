"""Proves that the script for a GPU is sound: all parts run on a pretended one, and none stops the others."""

import json
import subprocess
import sys

import pytest

from tests.gpu import run
from tests.tiny import ROOT, environment

OFTEN = ("% MFU", "times", "%")  # units of speeds, whose goals no dry run reaches


def script(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tests.gpu.run", *words]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=1800)


def test_the_parts_fit_into_eight_minutes():
    assert sum(limit for _, limit in run.PARTS.values()) <= 480


@pytest.mark.long
def test_all_parts_run_and_their_checks_hold_on_a_pretended_device(tmp_path):
    done = script("--dry", "pretended", "--out", str(tmp_path))
    found = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert {name: part["ended"] for name, part in found.items()} == dict.fromkeys(run.PARTS, "")
    rows = [(name, row) for name, part in found.items() for row in part["rows"]]
    assert [row for _, row in rows if row["good"] is False and row["unit"] not in OFTEN] == []
    assert {name for name, _ in rows} == {*run.PARTS}
    assert len([row for _, row in rows if row["good"]]) > 30
    assert all(row["what"] in done.stdout for _, row in rows) and done.returncode == 0


@pytest.mark.long
def test_a_part_without_time_or_that_fails_stops_no_other(tmp_path):
    """The first gets no time at all, the second cannot write into its folder, the third runs."""
    (tmp_path / "networks").write_text("no folder")
    code = "from tests.gpu import run; run.PARTS['samples'] = ('checks', -1.0); run.main()"
    words = ["--dry", "cpu", "--out", str(tmp_path), "--parts", "samples", "networks", "machine"]
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600)
    found = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert found["samples"]["ended"] == "no time left after 0 s" and found["networks"]["ended"] == "status 1"
    assert found["machine"]["ended"] == "" and len(found["machine"]["rows"]) > 8
    assert done.returncode == 1 and "2 parts not ended" in done.stdout
