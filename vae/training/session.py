"""What both trainers stand on."""

import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from pathlib import Path

import torch

from configs.train import LoopConfig, OptimizerConfig
from vae.training.log import Log


class StopSignal:
    """Within it, Ctrl-C and SIGTERM are noted, so that the loop can end after the step at hand.

    A launcher may pass on a Ctrl-C that the terminal already sent; only one that comes later interrupts.
    """

    def __enter__(self) -> "StopSignal":
        self.asked, self.since = False, 0.0
        self.before = {s: signal.signal(s, self.note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, frame) -> None:
        """Handles a signal."""
        if self.asked and number == signal.SIGINT and time.monotonic() - self.since > 1:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self.since = True, time.monotonic()


def check_loop(loop: LoopConfig, optimizer: OptimizerConfig, ranks: int) -> None:
    """Raises ValueError for numbers that make no loop, or no step of AdamW."""
    for name in ("steps", "batch", "log_every", "save_every", "show_every"):
        if getattr(loop, name) < 1:
            raise ValueError(f"train.{name} = {getattr(loop, name)}: it must be at least 1")
    if loop.batch % ranks:
        raise ValueError(f"train.batch = {loop.batch} does not divide by the {ranks} processes")
    if not 0 <= loop.seed < 2**63:
        raise ValueError(f"train.seed = {loop.seed}: it must be from 0 to 2^63 - 1")
    if optimizer.max_gradient_norm <= 0:
        raise ValueError(f"optimizer.max_gradient_norm = {optimizer.max_gradient_norm}: it must be above 0")
    for name in ("learning_rate", "warmup_steps", "decay_steps", "weight_decay"):
        if getattr(optimizer, name) < 0:
            raise ValueError(f"optimizer.{name} = {getattr(optimizer, name)}: it must be at least 0")
    for name in ("beta2", "ema_decay"):
        if not 0 <= getattr(optimizer, name) < 1:
            raise ValueError(f"optimizer.{name} = {getattr(optimizer, name)}: it must be from 0 to below 1")


def holding(train: Callable) -> Callable:
    """Gives a trainer a stack beside its settings, for what it holds until it ends, in whatever way."""

    @wraps(train)
    def trainer(config) -> Path:
        with ExitStack() as held:
            return train(config, held)

    return trainer


def name_skipped(found: dict[str, str], named: dict[str, str], log: Log | None) -> None:
    """Moves the unreadable files that any process `found` to `named`, with a line for each new one.

    Every process must call it.
    """
    everyone = [found]
    if torch.distributed.is_initialized():
        everyone = [{} for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather_object(everyone, found)
    for path, reason in {path: reason for one in everyone for path, reason in one.items()}.items():
        if log and path not in named:
            log.say(f"skipped: {reason}")
        named[path] = reason
    found.clear()
