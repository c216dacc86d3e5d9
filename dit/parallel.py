"""Many processes on one model, from outside: data parallel, FSDP2, hybrid sharding, Ulysses over packs.

Whatever lies where, the gradient of a step is the sum over all processes and micro-packs: the loss is a sum
over tokens, divided by how many there are in the whole step.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from configs.train import ParallelConfig
from dit.attention import Attention, Lengths
from dit.byte_t5 import TextInputs
from dit.load import Denoiser
from dit.loss import PackDraw
from vae.training.device import device_kind

FINE = 100  # slices of a pack differ by at most a part in so many


def mesh_shape(config: ParallelConfig, ranks: int) -> tuple[int, int, int]:
    """How many copies of the weights there are, over how many data ranks each is sharded, and how many
    processes share a pack; their product is the number of processes.

    Raises ValueError where the processes do not divide so.
    """
    here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks))  # the processes of one machine
    context, shard_size = config.context, config.shard_size or here
    if config.shard_size and config.shard != "hybrid":
        raise ValueError(
            f"parallel.shard_size = {config.shard_size} has a meaning with --parallel.shard hybrid alone"
        )
    if ranks % context:
        raise ValueError(f"parallel.context = {context} does not divide the {ranks} processes")
    if config.shard == "none":
        return ranks // context, 1, context
    if config.shard == "full":
        return 1, ranks // context, context
    if ranks % shard_size:
        raise ValueError(f"parallel.shard_size = {shard_size} does not divide the {ranks} processes")
    if shard_size % context:
        raise ValueError(f"parallel.shard_size = {shard_size} is no multiple of parallel.context = {context}")
    return ranks // shard_size, shard_size // context, context


def make_mesh(shape: tuple[int, int, int], device: torch.device) -> DeviceMesh | None:
    """The mesh of all processes, none for one alone: neighbours share a pack, then weights. Every process."""
    if not dist.is_initialized():
        return None
    return init_device_mesh(device_kind(device), shape, mesh_dim_names=("replicate", "shard", "context"))


def parallelise(
    model: Denoiser, average: Denoiser, mesh: DeviceMesh | None, config: ParallelConfig, half: bool
) -> nn.Module:
    """Spreads a model and its average over the mesh, in place; returns what the loss is to call.

    The average takes whole packs, with the attention that it has. `half` says that the computation is bf16.
    """
    if mesh is None:
        return model
    if config.context > 1:
        transformer = model.transformer
        transformer.self_attention = ulysses(transformer.self_attention, mesh["context"].get_group())
    if config.shard == "none":
        network = DistributedDataParallel(model, gradient_as_bucket_view=True)
        network.register_comm_hook(None, _sum)
        _settle(network)
        return network
    weights = _mesh_of_weights(mesh)
    if model.text.config.folder and next(model.text.parameters(), None) is not None:
        text = model.text
        for block in text.model.encoder.block:
            fully_shard(block, mesh=weights)
        fully_shard(text, mesh=weights)
        for network in (model, average):
            del network.text
            network.text = Apart(text)
    for network in (model, average):
        _shard(network, weights, half, again=network is model)
    return model


class Apart:
    """A frozen text encoder that is sharded for itself, since two sharded networks call it: no part of
    either."""

    def __init__(self, encoder: nn.Module):
        self.encoder, self.config, self.read = encoder, encoder.config, encoder.read

    def __call__(self, prompts: list[str] | TextInputs) -> tuple[Tensor, list[int]]:
        return self.encoder(prompts)


def _sum(state: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """Adds up a bucket of gradients over all processes, in place of their mean."""
    return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda done: done.value()[0])


def _mesh_of_weights(mesh: DeviceMesh) -> DeviceMesh:
    """The mesh as weights see it: copies x shards, or shards alone; a pack's processes share them too."""
    shards = mesh["shard", "context"]._flatten("weights")
    if mesh["replicate"].size() == 1:
        return shards
    groups = [mesh["replicate"].get_group(), shards.get_group()]
    names = ("replicate", "weights")
    return DeviceMesh.from_group(groups, mesh.device_type, mesh.mesh.flatten(1), mesh_dim_names=names)


def _shard(network: Denoiser, mesh: DeviceMesh, half: bool, again: bool) -> None:
    """FSDP2, a group for each block and one for the rest, whose gradients add up.

    `again`: after a block's forward pass its weights are freed, and gathered anew for the backward pass.
    Where the computation is bf16, the matrices of a block are gathered in it, and its norms and tables in
    fp32; gradients are reduced in fp32 either way.
    """
    # A block gives a view of its result, which nobody changes in place.
    warnings.filterwarnings("ignore", ".*returned a view tensor", UserWarning)
    for block in network.transformer.blocks:
        if half:
            policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
            linears = [module for module in block.modules() if isinstance(module, nn.Linear)]
            fully_shard(linears, mesh=mesh, mp_policy=policy, reshard_after_forward=again)
            _gather_with(block, linears[0])
        fully_shard(block, mesh=mesh, reshard_after_forward=again)
    fully_shard(network, mesh=mesh, reshard_after_forward=None if again else False)
    for module in sharded(network):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)


def _gather_with(block: nn.Module, linear: FSDPModule) -> None:
    """Moves the hooks of a group of layers to the block that they lie in: no hook within a compiled block."""
    state = linear._get_fsdp_state()
    state._pre_forward_hook_handle.remove()
    block.register_forward_pre_hook(state._pre_forward, prepend=True, with_kwargs=True)
    block.register_forward_hook(state._post_forward)


def sharded(network: nn.Module) -> list[FSDPModule]:
    """The parts of a network that are sharded."""
    return [module for module in network.modules() if isinstance(module, FSDPModule)]


def _settle(network: DistributedDataParallel) -> None:
    """Has the gradients' final buckets made before the first step, by a backward pass of nothing.

    They would be made after it, and a resumed run's first step add up in another order than the same step of
    one that was never stopped.
    """
    network.reducer.prepare_for_backward([])
    sum((p * 0).sum() for p in network.parameters() if p.requires_grad).backward()
    network.zero_grad(set_to_none=True)


@contextmanager
def reducing(network: nn.Module, last: bool) -> Iterator[None]:
    """Within it the passes of a micro-pack; the `last` of a step adds up the gradients of all processes."""
    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(last)
        yield
    elif isinstance(network, DistributedDataParallel) and not last:
        with network.no_sync():
            yield
    else:
        yield


@contextmanager
def whole(network: Denoiser) -> Iterator[None]:
    """Within it every process holds all weights of a sharded network, and calls it as often as it likes.

    Every process. Memory: the matrices of the blocks in the precision of the computation, the rest in fp32.
    """
    parts = sharded(network)
    if isinstance(network.text, Apart):
        network.text.encoder.set_reshard_after_forward(False)
        parts += sharded(network.text.encoder)
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        if isinstance(network.text, Apart):
            network.text.encoder.set_reshard_after_forward(True)
        for part in parts:
            part.reshard()


def bounds(count: int, parts: int) -> list[int]:
    """Where contiguous parts of a sequence begin, and its end.

    They are as even as `FINE` says, at multiples of a power of two: a run of tokens with one modulation is
    seldom cut so that it lies in single ones.
    """
    unit = 1 << (max(1, count // (FINE * parts)).bit_length() - 1)
    return [count * part // parts // unit * unit for part in range(parts)] + [count]


def slice_of(pack: PackDraw, rank: int, ranks: int) -> PackDraw:
    """A process's slice of a pack that `ranks` of them share, on the host."""
    if ranks == 1:
        return pack
    cuts = bounds(len(pack.noise_LP), ranks)
    return pack.part(*cuts[rank : rank + 2])


def ulysses(attention: Attention, group: dist.ProcessGroup) -> Attention:
    """Attention over a pack of which each process of a group has a slice (DeepSpeed Ulysses, arXiv
    2309.14509): an all-to-all gives each process all tokens of some heads, another one gives them back.

    Heads and tokens need not divide: a process may have no head, or no token.
    """
    name, rank, ranks = group.group_name, dist.get_rank(group), dist.get_world_size(group)

    def over_slices(q_LND: Tensor, k_LND: Tensor, v_LND: Tensor, queries: Lengths, keys: Lengths) -> Tensor:
        mine = _sizes(q_LND.shape[1], ranks)[rank]
        q, k, v = _to_heads(torch.stack([q_LND, k_LND, v_LND], dim=1), keys.total, mine, name).unbind(1)
        y = attention(q, k, v, keys, keys)
        return _to_tokens(y[:, None], len(q_LND), q_LND.shape[1], name).squeeze(1)

    return over_slices


@torch.library.custom_op("dit::to_heads", mutates_args=())
def _to_heads(x_LKND: Tensor, tokens: int, mine: int, group: str) -> Tensor:
    """All the pack's `tokens` of this process's heads, so many are `mine`, from its tokens of all heads.

    How many are said by the caller: processes share a cache of graphs, and must not take each other's.
    """
    (here, kinds, heads, width), ranks = x_LKND.shape, dist.get_world_size(_group(group))
    heads_of, tokens_of = _sizes(heads, ranks), _sizes(tokens, ranks)
    sent = torch.cat([part.flatten() for part in x_LKND.split(heads_of, dim=2)])
    received = x_LKND.new_empty(tokens, kinds, mine, width)
    sizes = [kinds * n * mine * width for n in tokens_of], [here * kinds * n * width for n in heads_of]
    dist.all_to_all_single(received.flatten(), sent, *sizes, group=_group(group))
    return received


@torch.library.custom_op("dit::to_tokens", mutates_args=())
def _to_tokens(x_LKND: Tensor, here: int, heads: int, group: str) -> Tensor:
    """The way back: this process's tokens `here` of all `heads`, from all tokens of its heads."""
    (tokens, kinds, mine, width), ranks = x_LKND.shape, dist.get_world_size(_group(group))
    heads_of, tokens_of = _sizes(heads, ranks), _sizes(tokens, ranks)
    received = x_LKND.new_empty(here * kinds * heads * width)
    sizes = [here * kinds * n * width for n in heads_of], [kinds * n * mine * width for n in tokens_of]
    dist.all_to_all_single(received, x_LKND.flatten(), *sizes, group=_group(group))
    parts = zip(received.split(sizes[0]), heads_of, strict=True)
    return torch.cat([part.view(here, kinds, n, width) for part, n in parts], dim=2)


def _group(name: str) -> dist.ProcessGroup:
    """The group of a name, by which a node of a compiled graph knows it."""
    return dist.distributed_c10d._resolve_process_group(name)


@_to_heads.register_fake
def _(x_LKND, tokens, mine, group):
    return x_LKND.new_empty(tokens, x_LKND.shape[1], mine, x_LKND.shape[3])


@_to_tokens.register_fake
def _(x_LKND, here, heads, group):
    return x_LKND.new_empty(here, x_LKND.shape[1], heads, x_LKND.shape[3])


def _keep_sizes(ctx, inputs, output) -> None:
    ctx.tokens, ctx.heads, ctx.group = inputs[0].shape[0], inputs[0].shape[2], inputs[-1]


# Each is the other's gradient: numbers are carried over, and none is added to another.
_to_heads.register_autograd(
    lambda ctx, g: (_to_tokens(g, ctx.tokens, ctx.heads, ctx.group), None, None, None),
    setup_context=_keep_sizes,
)
_to_tokens.register_autograd(
    lambda ctx, g: (_to_heads(g, ctx.tokens, ctx.heads, ctx.group), None, None, None),
    setup_context=_keep_sizes,
)


def _sizes(count: int, parts: int) -> list[int]:
    """How long the contiguous parts of a sequence are."""
    cuts = bounds(count, parts)
    return [last - first for first, last in pairwise(cuts)]
