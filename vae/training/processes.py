"""Processes that share work: which one this is, and what all of them found."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

Result = TypeVar("Result")
# How long a process waits for the others: encoding a shard or a picture takes a while.
PATIENCE = timedelta(hours=2)
SHARE = 2**18  # numbers of a layer's input that one more thread is worth
PR_SET_PDEATHSIG = 1  # of Linux' prctl
COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # of torchrun, MPI's kinds


def on_main(main: bool, work: Callable[[], Result], group: dist.ProcessGroup | None = None) -> Result:
    """What `work` gives on the main process, which alone runs it, and what it raises: for all of them.

    They tell each other in a `group` of all of them, or in the one that there is.
    """
    message, error = ["", None], None
    if main:
        try:
            message[1] = work()
        except Exception as caught:
            message, error = [str(caught) or repr(caught), None], caught
    if torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(message, group=group)
    if error or message[0]:
        raise error or ValueError(message[0])
    return message[1]


def end_with_launcher() -> None:
    """Has the system kill this process when `torchrun` is killed that started it, on Linux.

    It would go on by itself, or sleep for as long as `PATIENCE` where it waits for another.
    """
    if sys.platform == "linux" and "TORCHELASTIC_RUN_ID" in os.environ:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def check_launched() -> None:
    """Raises ValueError where `accelerate launch` was asked for several processes and has started one alone.

    Without --multi_gpu it does: of several it tells that one MASTER_ADDR, and neither their number nor its.
    """
    alone = "ACCELERATE_DYNAMO_MODE" in os.environ and not any(name in os.environ for name in COUNTS)
    if alone and "MASTER_ADDR" in os.environ:
        raise ValueError(
            "`accelerate launch` was asked for several processes and has started one: give it --multi_gpu, "
            "which starts them on CPUs too, or use torchrun --nproc-per-node N (for one, unset MASTER_ADDR)"
        )


def processes() -> tuple[int, int]:
    """Rank and number of the processes that share the work; joins them where a launcher started several."""
    check_launched()
    end_with_launcher()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("gloo", timeout=PATIENCE)  # one may wait for another's whole share
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def leave() -> None:
    """Ends the company of the processes that `processes` joined: one that ends in it may abort."""
    if dist.is_initialized():
        dist.destroy_process_group()


def first_to_say(text: str) -> bool:
    """Whether this process is the first of those that a launcher started to have this to say.

    They tell each other in the launcher's store, or in their own once they are joined; else each is.
    """
    try:
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            store = dist.TCPStore(*place, is_master=False, timeout=timedelta(seconds=5))
        elif dist.is_initialized():
            store = dist.distributed_c10d._get_default_store()
        else:
            return True
        start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return store.add(f"said in start {start}: {text}", 1) == 1
    except RuntimeError:  # the store's process ended first
        return True


@contextmanager
def helpful_threads(numbers: int) -> Iterator[None]:
    """Within it layers of so many numbers share no more threads than help: with little for each, they wait
    longer than they work. What OMP_NUM_THREADS says is kept."""
    before = torch.get_num_threads()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, min(before, numbers // SHARE)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def gathered(rows: list, group: dist.ProcessGroup | None = None) -> list:
    """The rows of all processes, or of those of a group."""
    if not dist.is_initialized():
        return rows
    parts: list = [None] * dist.get_world_size(group)
    dist.all_gather_object(parts, rows, group)
    return [row for part in parts for row in part]
