"""The door to torch.distributed.checkpoint: states shared by processes, to safetensors and back, by name."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint import (
    DefaultLoadPlanner,
    DefaultSavePlanner,
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
    load,
    save,
)
from torch.distributed.checkpoint.api import CheckpointException

from vae.training.files import naming
from vae.training.weights import check_filled, check_tensors, save_weights, shard, shards

# Of what is meant here: without a group there is one process.
warnings.filterwarnings("ignore", "torch.distributed is disabled")
AS_NAMED = {"flatten_state_dict": False, "flatten_sharded_tensors": False}  # dicts are flat


class _Planner(DefaultSavePlanner):
    """Plans by the live tensors who writes what, and gives the copies of this process's parts of them."""

    def __init__(self, copies: Mapping[str, Tensor]):
        super().__init__(**AS_NAMED)
        self.copies = copies

    def lookup_object(self, index) -> Tensor:
        return self.copies[index.fqn]


class _Writer(HuggingFaceStorageWriter):
    """Writes tensors named `PART/NAME` into files of their parts, which are those of `save_weights`.

    PyTorch's own serializes in memory, and holds Python's lock meanwhile: the loop would stand still.
    """

    def __init__(self, place: Path, about: dict):
        super().__init__(str(place), save_distributed=True)
        self.about = about

    def prepare_global_plan(self, plans):
        parts = [sorted({_part(item) for item in plan.items}) for plan in plans]
        files: list[dict[str, str]] = [{} for _ in plans]
        for part in sorted(set().union(*parts)):
            having = [rank for rank, names in enumerate(parts) if part in names]
            for number, rank in enumerate(having, 1):
                files[rank][part] = shard(Path(f"{part}.safetensors"), number, len(having)).name
        return [replace(plan, storage_data=of) for plan, of in zip(plans, files, strict=True)]

    def write_data(self, plan, planner):
        for part, name in plan.storage_data.items():
            items = {item.index.fqn[len(part) + 1 :]: item for item in plan.items if _part(item) == part}
            tensors = {key: planner.resolve_data(item) for key, item in items.items()}
            begins = {key: list(item.tensor_data.chunk.offsets) for key, item in items.items()}
            whole = name == f"{part}.safetensors"
            save_weights(Path(self.path) / name, tensors, **self.about, offsets=None if whole else begins)
        done = torch.futures.Future()
        done.set_result([])
        return done


def _part(item) -> str:
    """The part that an item of a plan belongs to."""
    return item.index.fqn.split("/")[0]


def write_states(
    place: Path,
    states: Mapping[str, Tensor],
    copies: Mapping[str, Tensor],
    about: dict,
    group: ProcessGroup | None,
) -> None:
    """Writes states named `PART/NAME` into a folder, each part as weights, whose headers say what is `about`.

    Every process of the group calls it, with copies of what it has. What one of them raises, all raise.
    """
    try:
        writer, planner = _Writer(place, about), _Planner(copies)
        save(dict(states), storage_writer=writer, planner=planner, process_group=group, no_dist=not group)
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from None


def read_states(path: Path, states: Mapping[str, Tensor], group: ProcessGroup | None) -> None:
    """Reads weights into named tensors in place, however many shards they have and processes share those.

    Every process of the group calls it, and reads its own part of each. Raises ValueError as `check_tensors`
    does, before anything is read.
    """

    class Files:  # of these weights, and no others in the folder
        def ls(self, folder: str) -> list[str]:
            return list(map(str, shards(path)))

    reader = HuggingFaceStorageReader(str(path.parent))
    reader.fs = Files()
    with naming(path):
        found = {}
        for name, about in reader.read_metadata().state_dict_metadata.items():
            check_filled(name, about.size, [chunk.sizes for chunk in about.chunks])
            found[name] = torch.empty(about.size, dtype=about.properties.dtype, device="meta")
    check_tensors(found, states, path)
    planner = DefaultLoadPlanner(**AS_NAMED)
    load(dict(states), storage_reader=reader, planner=planner, process_group=group, no_dist=not group)
