"""Proves that several processes train adapters as one does in fp32, sharded and on shared packs."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import dit.train
from configs.train import LoraConfig, ParallelConfig
from tests.test_parallel import AGAIN, PACKS
from tests.tiny import assert_same_run, fresh_accelerator, launch  # noqa: F401
from tests.worlds import EQUAL, Case, again, differences, joined, make_home, run_case, settings

LORA = (("lora", LoraConfig(rank=2, alpha=3.0, layers="all")), ("new_latents", False))
STEPS = 6
CASES = {
    "data": Case(train=PACKS, run=LORA, steps=STEPS),
    "fsdp": Case(ParallelConfig("full"), run=LORA, steps=STEPS),
    "ulysses": Case(ParallelConfig(context=2), run=LORA, steps=STEPS),
    "fsdp-ulysses-packs": Case(ParallelConfig("full", context=2), PACKS, (AGAIN, *LORA), steps=STEPS),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """The runs of all cases, beside that of one process."""
    home = make_home(tmp_path_factory.mktemp("adapters"))
    run_case(home, "one", Case(run=LORA, steps=STEPS))
    again()
    done = launch("tests.test_lora_world", str(home), processes=2)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return home


@pytest.mark.long
def test_several_processes_train_adapters_as_one_and_go_on_to_the_bit(home):
    wrong = {}
    for name in CASES:
        found = differences(home, name, "one")
        if any(found[part] > EQUAL[part] for part in EQUAL):
            wrong[name] = found
    assert not wrong
    assert_same_run(home / "stopped", home / "whole")


def main(home: Path) -> None:
    """What each of two processes does: all cases, and a sharded run with and without a stop."""
    torch.set_num_threads(1)
    with joined():
        for name, case in CASES.items():
            again()
            run_case(home, name, case)
        for name, steps in (("whole", 4), ("stopped", 2), ("stopped", 4)):
            again()
            run = settings(home, name, CASES["fsdp"])
            dit.train.train(replace(run, train=replace(run.train, steps=steps, save_every=2, show_every=2)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
