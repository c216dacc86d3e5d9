"""Proves that what is made ahead comes in order, with its errors where they belong, and leaves no thread."""

import threading
import time

import pytest
import torch

from vae.training.ahead import made_ahead

CPU = torch.device("cpu")


def threads() -> int:
    return threading.active_count()


def test_items_come_in_order_and_each_is_made_while_the_one_before_is_worked_on():
    before, made = threads(), []

    def items():
        for k in range(4):
            made.append(k)
            yield k

    taken = []
    for item in made_ahead(items(), CPU):
        deadline = time.monotonic() + 5
        while len(made) < min(4, item + 2) and time.monotonic() < deadline:
            time.sleep(0.001)
        taken.append((item, len(made)))
    assert [item for item, _ in taken] == [0, 1, 2, 3]
    assert all(count >= min(4, item + 2) for item, count in taken), "the next was made meanwhile"
    assert all(count <= item + 3 for item, count in taken), "one waits, one is made, no more"
    assert threads() == before


def test_an_error_is_raised_where_its_item_is_asked_for():
    before = threads()

    def items():
        yield 1
        raise ValueError("the second cannot be read")

    ahead = made_ahead(items(), CPU)
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="the second cannot be read"):
        next(ahead)
    assert threads() == before


def test_it_ends_when_nobody_asks_for_more():
    before = threads()
    ahead = made_ahead(iter(int, 1), CPU)  # zeros without end
    assert next(ahead) == 0 and threads() == before + 1
    ahead.close()
    assert threads() == before


def test_the_thread_computes_alone_and_the_others_as_before():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        counts = made_ahead((torch.get_num_threads() for _ in range(3)), CPU)
        assert [(count, torch.get_num_threads()) for count in counts] == [(1, 3)] * 3
    finally:
        torch.set_num_threads(before)
