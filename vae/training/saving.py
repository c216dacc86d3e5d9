"""Saving behind the loop: states are copied while the next step computes, then written by a thread."""

import shutil
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from vae.training.checkpoints import checkpoint_folder, is_sharded, local_part, prune
from vae.training.device import beside, mark, on_cpu, pinned
from vae.training.files import whole
from vae.training.processes import PATIENCE, gathered, on_main

States = Mapping[str, Mapping[str, Tensor]]  # by part and name: live tensors, whole or sharded


@dataclass
class Saver:
    """Writes checkpoints of a run's states; every process has one, and all call its methods alike.

    `save` begins one and returns at once; the states may change again after `wait_copied`; `wait_written`
    raises what writing raised, in every process the same. The memory of the copies is kept for the next ones.
    """

    device: torch.device
    group: dist.ProcessGroup | None = None
    copies: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self):
        if dist.is_initialized():  # of its own, as the loop communicates meanwhile
            self.group = dist.new_group(backend="gloo", timeout=PATIENCE)
        self.rank = dist.get_rank() if self.group else 0
        self.ranks = dist.get_world_size() if self.group else 1
        self._thread: threading.Thread | None = None
        self._copied = threading.Event()
        self._error: BaseException | None = None

    def save(
        self, folder: Path, kind: str, states: States, settings: dict, facts: dict, kept_for_good: int = 0
    ) -> None:
        """Begins a checkpoint of `folder` whole or not at all, after the one before is written."""
        self.wait_written()
        named = {f"{part}/{name}": t for part, tensors in states.items() for name, t in tensors.items()}
        mine = _share(named, self.rank, self.ranks)
        computed = mark(self.device)
        self._copied.clear()
        write = partial(self._write, folder, kind, mine, settings, facts, kept_for_good, computed)
        self._thread = threading.Thread(target=self._caught, args=(write,), name="checkpoint", daemon=True)
        self._thread.start()

    def read(self, path: Path, states: Mapping[str, Tensor]) -> None:
        """Reads weights into named states in place; raises ValueError as `check_tensors` does."""
        from vae.training.sharded import read_states

        read_states(path, states, self.group)

    def wait_copied(self) -> None:
        """Returns when the states of the newest checkpoint are copied, from where on they may change."""
        if self._thread:
            self._copied.wait()

    def wait_written(self) -> None:
        """Returns when the newest checkpoint is written; raises what kept it from that."""
        thread, self._thread = self._thread, None
        if thread:
            thread.join()
        error, self._error = self._error, None
        if error:
            raise error

    def _caught(self, write) -> None:
        """The thread's work: what it raises waits for `wait_written`."""
        try:
            write()
        except BaseException as error:
            self._error = error
        finally:
            self._copied.set()

    def _write(self, folder, kind, states, settings, facts, kept_for_good, computed) -> None:
        """Copies this process's share of the states, and writes it with the others' into one folder."""
        from vae.training.sharded import write_states

        torch.set_num_threads(1)  # this thread's: the loop needs the cores
        failure = None
        try:
            self._copy(states, computed)
        except BaseException as error:
            failure = error
        self._copied.set()
        if any(gathered([failure is not None], self.group)):
            raise failure or MemoryError("another process could not copy its states")
        main, group, stack = self.rank == 0, self.group, ExitStack()
        final = checkpoint_folder(folder, facts["step"])
        place = on_main(main, lambda: stack.enter_context(whole(final)), group)
        on_main(main, lambda: place.mkdir(exist_ok=True), group)
        try:
            about = {"kind": f"{kind} checkpoint", "settings": settings, "facts": facts}
            write_states(place, states, self.copies, about, group)
        except BaseException as error:  # of any process; the folder's owner ends it with that
            failure = error

        def finish() -> None:
            with stack:
                if failure:
                    raise failure
                shutil.rmtree(final, ignore_errors=True)
            prune(folder, kept_for_good)

        on_main(main, finish, group)

    def _copy(self, states: Mapping[str, Tensor], computed) -> None:
        """Copies states into memory of the host that is kept from one checkpoint to the next."""
        with beside(self.device, computed):
            for name, tensor in states.items():
                local = local_part(tensor)
                held = self.copies.get(name)
                if held is None or held.shape != local.shape or held.dtype != local.dtype:
                    held = pinned(torch.empty(local.shape, dtype=local.dtype), self.device)
                    self.copies[name] = held
                held.copy_(local.detach(), non_blocking=not on_cpu(self.device))


def _share(states: Mapping[str, Tensor], rank: int, ranks: int) -> dict[str, Tensor]:
    """The tensors of which a process writes something: all that are sharded, and its share of the others."""
    alike = [name for name, tensor in states.items() if not is_sharded(tensor)]
    alike.sort(key=lambda name: (-states[name].nbytes, name))
    others = {*alike} - {*alike[rank::ranks]}
    return {name: tensor for name, tensor in states.items() if name not in others}
