"""Proves that steps of images and clips load processes alike with little padding, other ways do not."""

from dataclasses import replace

import numpy
import pytest

from tests.bench import packing
from tests.bench.packing import MIXES, RANKS, Load, fit, sizes_of
from vae.data.plan import Cost


@pytest.fixture(autouse=True)
def few_files(monkeypatch):
    """Manifests that are made quickly."""
    monkeypatch.setattr(packing, "FILES", 2000)


@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: mix.name)
def test_processes_are_loaded_alike_and_hardly_padded(mix):
    """The goals: a cost spread of at most 1 % in every step, and at most 0.5 % of padding."""
    loads = list(packing.by_cost(mix, 8))
    assert max(load.spread for load in loads) < 0.01 and max(load.waited for load in loads) < 0.01
    assert sum(load.padding for load in loads) / sum(load.tokens + load.padding for load in loads) < 0.005
    tokens = [load.tokens for load in loads]
    assert sum(tokens) == pytest.approx(8 * RANKS * mix.step_tokens, abs=sizes_of(mix).largest)
    assert numpy.mean([load.spread for load in packing.by_tokens(mix, 8)]) > 0.02


def test_a_step_of_four_times_the_largest_sample_a_process_is_even_enough():
    mix = MIXES[0]
    few = replace(mix, step_tokens=4 * sizes_of(mix).largest, pack_tokens=0)
    assert max(load.spread for load in packing.by_cost(few, 30)) < 0.01
    assert numpy.mean([load.spread for load in packing.by_buckets(mix, 8)]) > 0.02


def test_spread_and_waiting_are_what_they_say():
    """Two processes of two packs: 10 and 8 in all, and at most 7 and 5 after each other."""
    load = Load(numpy.array([[7.0, 3.0], [3.0, 5.0]]), 1, 0)
    assert load.spread == pytest.approx(10 / 9 - 1) and load.waited == pytest.approx(12 / 9 - 1)


def test_the_fit_finds_a_cost_that_is_there():
    cost = Cost(3e-9, 2e-5)
    random = numpy.random.default_rng(0)
    counts = (100, 500, 2000, 5000, 9000, 20_000, 30_000)
    seconds = {n: (0.004 + float(cost.of(numpy.array(n)))) * random.normal(1, 0.003) for n in counts}
    found, call = fit(seconds)
    assert call == pytest.approx(0.004, rel=0.05)
    assert found.pairs == pytest.approx(3e-9, rel=0.05) and found.tokens == pytest.approx(2e-5, rel=0.05)
