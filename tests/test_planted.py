"""Proves that what silently goes wrong when several processes train is noticed: faults that are planted."""

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule

import dit.loss
import dit.parallel
import dit.steps
import dit.train
from configs.train import ParallelConfig
from dit.condition import Condition
from dit.loss import PackDraw
from dit.pack import Layout
from dit.parallel import sharded
from dit.steps import StepPacks
from tests.tiny import fresh_accelerator  # noqa: F401
from tests.worlds import EQUAL, Case, differences, make_home, run_case, run_world
from vae.training.device import number
from vae.training.session import Session


def planted(owner, name: str, broken: Callable) -> Callable:
    """A fault in place of `owner.name`: `broken` makes it of what is right."""
    return lambda: patch.object(owner, name, broken(getattr(owner, name)))


def on_rank_1(right: Callable, wrong: Callable) -> Callable:
    """What is wrong on the second process alone."""
    return lambda *given, **named: (wrong if dist.get_rank() == 1 else right)(*given, **named)


def stale_keys(ulysses):
    """Keys and values of the block before, where they have the shape."""

    def broken(attention, group):
        kept = {}

        def over_stale(q, k, v, *lengths):
            before = kept.get(k.shape, (k, v))
            kept[k.shape] = (k.detach(), v.detach())
            return attention(q, *before, *lengths)

        return ulysses(over_stale, group)

    return broken


def transposed(all_to_all):
    """What came from the last process is taken for the first one's."""

    def broken(received, sent, sizes, *others, group):
        all_to_all(received, sent, sizes, *others, group=group)
        received.copy_(torch.cat(received.split(sizes)[::-1]))

    return broken


def one_s_noise(draw_sample):
    """Every process draws from a generator that begins alike."""
    count = itertools.count()
    return lambda shape, clip, *given: draw_sample(shape, replace(clip, draw=next(count)), *given)


def a_pack_less(draw_steps):
    """The second process leaves out the first pack of each step."""

    def broken(*given):
        for share in draw_steps(*given):
            yield StepPacks(share.packs[1:]) if dist.get_rank() == 1 else share

    return broken


def mean_of_buckets(add_up):
    """Data parallelism's own mean in place of the sum."""
    return lambda state, bucket: add_up(state, bucket).then(lambda done: done.value() / dist.get_world_size())


def local_norm(clip_gradients):
    """Every process clips its shards by their own norm."""

    def broken(optimizer, config):
        shards = [p.grad.to_local() for group in optimizer.param_groups for p in group["params"]]
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(shard) for shard in shards]))
        for shard in shards:
            shard.mul_((config.max_gradient_norm / norm).clamp(max=1))
        return norm

    return broken


def other_start(start_from):
    """The second process begins with other weights."""

    def broken(model, folder):
        start_from(model, folder)
        for parameter in model.parameters():
            parameter.data += 1e-3

    return on_rank_1(start_from, broken)


class GatheredOnce:
    """Gathers weights as they are at first, and gives those again."""

    kept = None

    def allocate(self, size, *, dtype, device):
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(self, output_tensor, input_tensor, group, async_op=False):
        if self.kept is None:
            dist.all_gather_into_tensor(output_tensor, input_tensor, group)
            self.kept = output_tensor.clone()
        output_tensor.copy_(self.kept)


def gathered_once(which: int) -> Callable:
    """The model, or its average, is for ever what it was when it was gathered first."""

    def broken(parallelise):
        def wrong(*given):
            network = parallelise(*given)
            for module in sharded(given[which]):
                module.set_custom_all_gather(GatheredOnce())
            return network

        return wrong

    return planted(dit.train, "parallelise", broken)


DATA, FULL, ULYSSES = ParallelConfig(), ParallelConfig("full"), ParallelConfig(context=2)
COPIES = ParallelConfig("hybrid", 1)  # of the weights, one on each of two processes
PACKS = (("pack_tokens", 30),)
# What is wrong, who notices, how the work is spread, and the fault.
FAULTS = {
    "gradients are not added up": (
        "gradient",
        DATA,
        planted(dit.train, "reducing", lambda right: lambda network, last: right(network, False)),
    ),
    "gradients are averaged": ("gradient", DATA, planted(dit.parallel, "_sum", mean_of_buckets)),
    "gradients of shards are averaged": (
        "gradient",
        FULL,
        planted(FSDPModule, "set_gradient_divide_factor", lambda right: lambda self, _: right(self, 2.0)),
    ),
    "copies of shards do not meet": (
        "gradient",
        COPIES,
        planted(dit.parallel, "_mesh_of_weights", lambda right: lambda mesh: right(mesh)["weights"]),
    ),
    "the loss is divided by a process's own count": (
        "gradient",
        DATA,
        planted(Session, "sum", lambda right: lambda run, value: number(value, run.device)),
    ),
    "tokens are counted by each process of a pack": (
        "loss",
        ULYSSES,
        planted(
            PackDraw,
            "part",
            lambda right: lambda self, *cut: replace(right(self, *cut), counted=self.counted),
        ),
    ),
    "padding is counted": (
        "loss",
        DATA,
        planted(
            dit.steps,
            "padding_sample",
            lambda right: lambda *given: replace(right(*given), condition=Condition()),
        ),
    ),
    "keys and values are stale": ("gradient", ULYSSES, planted(dit.parallel, "ulysses", stale_keys)),
    "the all-to-all is transposed": ("gradient", ULYSSES, planted(dist, "all_to_all_single", transposed)),
    "positions begin anew in every slice": (
        "gradient",
        ULYSSES,
        planted(
            Layout,
            "part",
            lambda right: (
                lambda self, first, last: replace(
                    right(self, first, last), rotary=self.rotary[: last - first]
                )
            ),
        ),
    ),
    "the processes of a pack order its clips differently": (
        "gradient",
        ULYSSES,
        planted(
            dit.steps,
            "_draw",
            lambda right: on_rank_1(right, lambda clips, **given: right(clips[::-1], **given)),
        ),
    ),
    "all processes have one's noise": ("gradient", DATA, planted(dit.steps, "draw_sample", one_s_noise)),
    "prompts are dropped by process": (
        "gradient",
        DATA,
        planted(
            dit.loss,
            "draw_condition",
            lambda right: on_rank_1(right, lambda *given: right(*given[:-1], given[-1] + 1)),
        ),
    ),
    "a pack is left out": ("gradient", DATA, planted(dit.train, "draw_steps", a_pack_less)),
    "processes begin with different weights": ("loss", FULL, planted(dit.train, "start_from", other_start)),
    "the average of a process stands still": (
        "validation",
        DATA,
        planted(dit.train, "update_average", lambda right: on_rank_1(right, lambda *_: None)),
    ),
    "a process validates its average in place of its weights": (
        "validation",
        FULL,
        planted(dit.train, "exchanged", lambda right: on_rank_1(right, lambda *_: nullcontext())),
    ),
    "weights that were gathered are stale": ("loss", FULL, gathered_once(0)),
    "the average that was gathered is stale": ("validation", FULL, gathered_once(1)),
    "gradients are clipped by a process's own norm": (
        "weights",
        FULL,
        planted(dit.train, "clip_gradients", local_norm),
    ),
}
TRAIN = (("show_every", 2), *PACKS)
CASES = {
    name: (
        2,
        Case(
            parallel,
            train=(*TRAIN, ("round_tokens", 32)) if "padding" in name else TRAIN,
            steps=4,
            fault=fault,
        ),
    )
    for name, (_, parallel, fault) in FAULTS.items()
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """The runs of all faults, beside that of one process."""
    home = make_home(tmp_path_factory.mktemp("planted"))
    run_case(home, "one", Case(train=(("show_every", 2),), steps=4))
    run_world(home, 2, "tests.test_planted")
    return home


@pytest.mark.long
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_noticed(home, name):
    found, noticed = differences(home, name, "one"), FAULTS[name][0]
    assert found[noticed] > 10 * EQUAL[noticed], found
