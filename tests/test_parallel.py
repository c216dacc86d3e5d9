"""Proves that several processes train as one does, however weights and packs are spread over them."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from configs.train import ParallelConfig
from dit.blocks import why_not_compiled
from dit.parallel import FINE, bounds, mesh_shape
from tests.tiny import fresh_accelerator  # noqa: F401
from tests.worlds import EQUAL, Case, again, differences, make_home, run_case, run_world

PACKS = (("pack_tokens", 30), ("round_tokens", 16))
HALF = (("precision", "bf16"),)
AGAIN, KEPT, COMPILED = (
    ("checkpoint_activations", "blocks"),
    ("checkpoint_activations", "selective"),
    ("compile", True),
)
CASES = {
    "data-2": (2, Case()),
    "fsdp-2": (2, Case(ParallelConfig("full"))),
    "ulysses-2": (2, Case(ParallelConfig(context=2))),
    "fsdp-ulysses-2": (2, Case(ParallelConfig("full", context=2))),
    "data-packs-2": (2, Case(train=PACKS, run=(AGAIN,))),
    "fsdp-packs-2": (2, Case(ParallelConfig("full"), PACKS, (KEPT,))),
    "fsdp-text-2": (2, Case(ParallelConfig("full"), frozen_text=True)),
    "fsdp-compiled-2": (2, Case(ParallelConfig("full"), PACKS, (AGAIN, COMPILED))),
    "fsdp-ulysses-compiled-2": (2, Case(ParallelConfig("full", context=2), PACKS, (COMPILED,))),
    "half-2": (2, Case(train=HALF)),
    "fsdp-half-2": (2, Case(ParallelConfig("full"), HALF)),
    "data-4": (4, Case()),
    "fsdp-4": (4, Case(ParallelConfig("full"))),
    "hybrid-4": (4, Case(ParallelConfig("hybrid", 2))),
    "ulysses-4": (4, Case(ParallelConfig(context=4))),
    "fsdp-ulysses-4": (4, Case(ParallelConfig("full", context=2))),
    "hybrid-ulysses-4": (4, Case(ParallelConfig("hybrid", 2, context=2))),
    "fsdp-ulysses-packs-4": (4, Case(ParallelConfig("full", context=2), PACKS, (AGAIN,))),
    "hybrid-ulysses-text-4": (4, Case(ParallelConfig("hybrid", 2, context=2), frozen_text=True)),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """The runs of all cases, beside that of one process."""
    home = make_home(tmp_path_factory.mktemp("worlds"))
    run_case(home, "one", Case())
    again()
    run_case(home, "one-text", Case(frozen_text=True))
    for processes in (2, 4):
        run_world(home, processes, "tests.test_parallel")
    return home


@pytest.mark.long
def test_several_processes_train_as_one(home):
    """All cases in one test: their runs take minutes, and every worker that has one of several makes them."""
    compiles, wrong = not why_not_compiled(torch.device("cpu")), {}
    for name, (_, case) in CASES.items():
        if COMPILED not in case.run or compiles:
            # In bf16 one process, of other packs, rounds otherwise: sharded weights are beside copies.
            reference = "half-2" if case.train == HALF else "one-text" if case.frozen_text else "one"
            found = differences(home, name, reference)
            if any(found[part] > EQUAL[part] for part in EQUAL):
                wrong[name] = found
    assert not wrong


@pytest.mark.parametrize(
    ("config", "ranks", "shape"),
    [
        (ParallelConfig(), 1, (1, 1, 1)),
        (ParallelConfig(), 8, (8, 1, 1)),
        (ParallelConfig(context=4), 8, (2, 1, 4)),
        (ParallelConfig("full", context=2), 8, (1, 4, 2)),
        (ParallelConfig("hybrid", 4, context=2), 8, (2, 2, 2)),
        (ParallelConfig("hybrid"), 16, (2, 8, 1)),  # machines of eight
    ],
)
def test_a_mesh_has_every_process_once(monkeypatch, config, ranks, shape):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert mesh_shape(config, ranks) == shape


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (ParallelConfig(context=4), "parallel.context = 4 does not divide the 6 processes"),
        (ParallelConfig("hybrid", 4), "parallel.shard_size = 4 does not divide the 6 processes"),
        (ParallelConfig("hybrid", 3, 2), "parallel.shard_size = 3 is no multiple of parallel.context = 2"),
        (
            ParallelConfig("full", 2),
            "parallel.shard_size = 2 has a meaning with --parallel.shard hybrid alone",
        ),
    ],
)
def test_a_world_that_does_not_fit_is_refused(config, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        mesh_shape(config, 6)


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7, 8])
def test_parts_of_a_sequence_are_even_and_cut_runs_seldom(parts):
    for count in [*range(20), 399, 400, 4096, 32760, 75600]:
        cuts = bounds(count, parts)
        lengths = [last - first for first, last in pairwise(cuts)]
        assert len(lengths) == parts and sum(lengths) == count and min(lengths) >= 0
        assert max(lengths) - min(lengths) <= 1 + 2 * count / parts / FINE
    assert all(cut % 32 == 0 for cut in bounds(32760, 8)[:-1])
