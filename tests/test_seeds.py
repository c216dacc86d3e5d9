"""Proves that a draw is a function of its key alone: the same everywhere, and another for every other key."""

import subprocess
import sys

import pytest
import torch

from vae.training.seeds import generator, shuffled, uniform

KEYS = [
    (seed, what, index)
    for seed in (0, 1, 2**40)
    for what in ("noise", "noise ", "time", "1")
    for index in (*range(40), "0", "1")
]


def test_a_draw_depends_on_nothing_drawn_before():
    noise = torch.randn(5, generator=generator(0, "noise", 3))
    others = uniform(0, "time", 3), shuffled(9, 0, "order", 1)
    torch.manual_seed(5)
    torch.randn(100, generator=generator(0, "noise", 2))
    shuffled.cache_clear()
    assert torch.equal(torch.randn(5, generator=generator(0, "noise", 3)), noise)
    assert (uniform(0, "time", 3), shuffled(9, 0, "order", 1)) == others
    assert torch.initial_seed() == 5  # and leaves the global stream alone


def test_distinct_keys_have_distinct_uncorrelated_streams():
    """Also where keys join to the same text, and where a number and its text differ in type only."""
    draws = torch.stack([torch.randn(500, generator=generator(*key)) for key in KEYS])
    assert len({generator(*key).initial_seed() for key in KEYS}) == len(KEYS)
    correlation = torch.corrcoef(draws) - torch.eye(len(KEYS))
    assert correlation.abs().max() < 6 / 500**0.5
    assert correlation.square().mean().item() == pytest.approx(1 / 500, rel=0.05)
    assert generator("ab", "c").initial_seed() != generator("a", "bc").initial_seed()
    assert generator(12, 3).initial_seed() != generator(1, 23).initial_seed()


def test_uniform_is_uniform():
    values = torch.tensor([uniform(0, "dropout", k) for k in range(4000)]).sort().values
    steps = torch.arange(1, 4001) / 4000
    assert (values - steps).abs().max() < 1.95 / 4000**0.5  # Kolmogorov and Smirnov, one in a thousand
    assert values[0] >= 0 and values[-1] < 1


def test_orders_are_permutations_and_every_epoch_has_its_own():
    orders = [shuffled(50, 0, "order", epoch) for epoch in range(20)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len(set(orders)) == 20
    assert shuffled(50, 1, "order", 0) != orders[0]


def test_a_fresh_process_draws_the_same():
    """Python salts the hash of text anew in every process; the key must not go through it."""
    code = (
        "from vae.training.seeds import *; import torch; "
        "noise = torch.randn(3, generator=generator(7, 'noise', 1));"
        "print(noise.tolist(), uniform('x', 2), shuffled(6, 'o', 3))"
    )
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    here = torch.randn(3, generator=generator(7, "noise", 1)).tolist()
    assert fresh.strip() == f"{here} {uniform('x', 2)} {shuffled(6, 'o', 3)}"
