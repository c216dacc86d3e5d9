"""What a step works on, made in a thread while the step before it computes."""

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

import torch

from vae.training.device import arrived, sent, side_stream

Item = TypeVar("Item")
WAKE = 0.1  # seconds between two looks of a thread with a full queue at whether it is to end


def made_ahead(items: Iterator[Item], device: torch.device, count: int = 1) -> Iterator[Item]:
    """The items, of which as many as `count` are made in a thread before they are asked for.

    To a GPU they are copied meanwhile, on a stream beside the computation, as far as their `map` goes.
    What making one raises is raised where it is asked for. The thread computes by itself alone: a second team
    of threads on the same cores would wait more than it works. It ends with the iterator.
    """
    made: queue.Queue = queue.Queue(count)
    ended, stream = threading.Event(), side_stream(device)

    def put(entry: tuple) -> None:
        while not ended.is_set():
            try:
                return made.put(entry, timeout=WAKE)
            except queue.Full:
                continue

    def make() -> None:
        torch.set_num_threads(1)
        try:
            for item in items:
                put((sent(item, device, stream), None))
                if ended.is_set():
                    return
            put((None, StopIteration()))
        except BaseException as error:
            put((None, error))

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            pair, error = made.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            item, copied = pair
            yield arrived(item, device, copied)
    finally:
        ended.set()
        thread.join()
