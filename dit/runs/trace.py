"""A training step on fake tensors: its peak of memory by part, and its FLOPs, without weights or data.

The step's own code runs, on tensors of PyTorch's FakeTensorMode, which have shapes and no numbers; many
processes are those of its fake process group. Blocks are alike, so that all is affine in their number.
"""

import copy
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, register_flop_formula, sdpa_flop_count

from configs.train import TransformerRun
from dit.attention import Lengths
from dit.blocks import checkpoint_blocks
from dit.load import Denoiser
from dit.lora import adapt
from dit.loss import PackDraw, draw_pack, draw_sample, flow_loss, make_batch, padding_sample
from dit.parallel import make_mesh, parallelise, reducing, slice_of
from dit.repa import add_projector, aligning
from dit.steps import tokens_in
from dit.width import matrix_parts
from vae.data.clips import Clip
from vae.data.plan import padding
from vae.interface import VideoAutoencoder
from vae.training.device import autocast
from vae.training.optimizer import check_optimizer_settings, clip_gradients, make_optimizer, update_average

CPU = torch.device("cpu")
COMPUTE = {"bf16": torch.bfloat16, "fp32": torch.float32}
FEW, MORE = 4, 5  # blocks of the two networks that are traced in place of a deeper one
DEVICE_OF = torch.ops.prim.device.default  # asked of a fake tensor more often than all else


@dataclass(frozen=True)
class Sample:
    """A sample of a pack: its latents C T H W, its video's frames, height and width, its prompt, its draw."""

    latents: tuple[int, int, int, int]
    video: tuple[int, int, int]
    prompt: str
    draw: int


@dataclass(frozen=True)
class Work:
    """What one process computes in a step: packs of samples, which come from a cache or are encoded."""

    packs: list[list[Sample]]
    cached: bool


@dataclass(frozen=True)
class Memory:
    """Bytes that one process holds at the peak of a step, by part."""

    weights: float
    gradients: float
    optimizer: float
    average: float
    activations: float
    autoencoder: float
    text_encoder: float

    @property
    def peak(self) -> float:
        """All of it."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class Parts:
    """The networks of a run, on fake tensors: what `make` gives."""

    model: Denoiser
    autoencoder: VideoAutoencoder


@dataclass(frozen=True)
class Traced:
    """What a step takes of one process: memory at its peak, FLOPs as executed, those of them that encode
    clips, which is done in fp32, operations, parameters."""

    memory: Memory
    flops: float
    encoding: float
    operations: float
    parameters: dict[str, int]


class _Tracker(TorchDispatchMode):
    """Counts the bytes of live storages, the operations and their FLOPs, by PyTorch's own formulas.

    The peak is kept for each segment of a step: `mark` begins one.
    """

    def __init__(self, parameters: list[nn.Parameter]):
        super().__init__()
        self.parameters, self.alive = parameters, {}
        self.now = self.peak = self.flops = self.operations = 0
        self.segments: list[tuple[int, int]] = []  # its peak, and the gradients' bytes at its end

    def add(self, tensor: Tensor) -> None:
        """Counts a tensor's storage until it is freed."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive:
            return
        self.alive[key] = weakref.ref(storage, lambda _: self._free(key, size))
        self.now += size
        self.peak = max(self.peak, self.now)

    def _free(self, key: int, size: int) -> None:
        self.now -= size
        del self.alive[key]

    def mark(self, *_) -> None:
        """Ends a segment."""
        gradients = sum(_bytes([p.grad]) for p in self.parameters if p.grad is not None)
        self.segments.append((self.peak, gradients))
        self.peak = self.now

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is DEVICE_OF:
            return args[0].fake_device
        if func is torch.ops.aten.mkldnn_convolution.default:  # has no fake form: it is a convolution
            x, weight, bias, padding_, *strides, groups = args
            args = x, weight, bias, *_convolution(padding_, *strides), groups
            func = torch.ops.aten.convolution.default
        result = func(*args, **(kwargs or {}))
        self.operations += 1
        if formula := flop_registry.get(func._overloadpacket):
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.add(value)
        return result


@register_flop_formula(torch.ops.aten._scaled_dot_product_flash_attention_for_cpu)
def _(q, k, v, *_, **__) -> int:
    return sdpa_flop_count(q, k, v)


@register_flop_formula(torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward)
def _(_, q, k, v, *__, **___) -> int:
    return sdpa_flop_count(q, k, v) * 5 // 2


@torch.library.custom_op("dit::planned_attention", mutates_args=())
def _planned(q: Tensor, k: Tensor, v: Tensor, pairs: int) -> tuple[Tensor, Tensor]:
    """What a GPU's variable-length attention allocates: the output, and the scores' logsumexp."""
    return torch.empty_like(q, memory_format=torch.contiguous_format), q.new_empty(
        q.shape[1], len(q), dtype=torch.float32
    )


@torch.library.custom_op("dit::planned_attention_backward", mutates_args=())
def _planned_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, output: Tensor, sums: Tensor, pairs: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three gradients, and the queries' in fp32, in which flash attention adds it up."""
    of = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v)]
    return *of, q.new_empty(q.shape, dtype=torch.float32)


_planned.register_fake(_planned._init_fn)
_planned_backward.register_fake(_planned_backward._init_fn)


def _convolution(padding: list, stride: list, dilation: list) -> tuple:
    """The arguments of a convolution between its bias and its groups, of oneDNN's."""
    return stride, padding, dilation, False, [0] * len(stride)


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.pairs = inputs
    ctx.save_for_backward(*tensors, *output)


_planned.register_autograd(
    lambda ctx, g, _: (*_planned_backward(g, *ctx.saved_tensors, ctx.pairs)[:3], None), setup_context=_keep
)


@register_flop_formula(torch.ops.dit.planned_attention)
def _(q, k, v, pairs, **_) -> int:
    return 4 * pairs * q[1] * q[2]


@register_flop_formula(torch.ops.dit.planned_attention_backward)
def _(_, q, k, v, output, sums, pairs, **__) -> int:
    return 10 * pairs * q[1] * q[2]


def _gpu_attention(q_LND: Tensor, k_SND: Tensor, v_SND: Tensor, queries: Lengths, keys: Lengths) -> Tensor:
    """Attention over packs as a GPU does it, on fake tensors."""
    pairs = sum(q * k for q, k in zip(queries.each, keys.each, strict=True))
    return _planned(q_LND, k_SND[: keys.total], v_SND[: keys.total], pairs)[0]


def trace(
    config: TransformerRun,
    work: Work,
    make: Callable[[TransformerRun], Parts],
    mesh_shape: tuple[int, int, int] = (1, 1, 1),
    gpu: bool = False,
) -> Traced:
    """What one process does and holds in a step with these packs, of a mesh copies x shards x slices.

    `make` builds the networks of a run, under fake tensors. Of a deep network two of few blocks are traced.
    """
    check_optimizer_settings(config.optimizer)
    with _processes(mesh_shape):
        depth = config.model.depth
        if depth <= MORE:
            return _result(*_trace_whole(config, work, make, mesh_shape, gpu))
        few, more = (
            _trace_whole(replace(config, model=replace(config.model, depth=d)), work, make, mesh_shape, gpu)
            for d in (FEW, MORE)
        )
    return _result(*_extrapolate(few, more, depth, len(work.packs)))


@contextmanager
def _processes(mesh_shape: tuple[int, int, int]) -> Iterator[None]:
    """Within it this process is the first of as many as the mesh has, none of which is there."""
    ranks = mesh_shape[0] * mesh_shape[1] * mesh_shape[2]
    if ranks == 1:
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def _trace_whole(
    config: TransformerRun, work: Work, make: Callable, mesh_shape: tuple[int, int, int], gpu: bool
) -> tuple[dict[str, float], list[tuple[int, int]]]:
    """Figures of a step by name, and the peak of each of its segments with the gradients at its end."""
    half = config.train.precision == "bf16"
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    mesh = make_mesh(mesh_shape, CPU)
    with fake, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # to copy one does
        parts = _adapted(make, config) if config.lora.rank else make(config)
        model, autoencoder = parts.model, parts.autoencoder
        add_projector(model, config)
        checkpoint_blocks(model.transformer, config.checkpoint_activations)
        if gpu:
            model.transformer.self_attention = model.transformer.cross_attention = _gpu_attention
        frozen = [model.text] * bool(config.text.folder)
        frozen += [p for p in model.parameters() if not p.requires_grad]
        shared = {id(part): part for part in (fake, *frozen)}
        average = copy.deepcopy(model, shared).requires_grad_(False).eval()

    # What data parallelism holds beside the weights: the gradients' buckets, for good.
    buckets = mesh is not None and config.parallel.shard == "none"
    sharded = None if buckets else mesh
    if buckets and config.parallel.context > 1:
        from dit.parallel import ulysses

        group = mesh["context"].get_group()
        model.transformer.self_attention = ulysses(model.transformer.self_attention, group)
    alignment = aligning(model, config, autoencoder)
    network = parallelise(model, average, sharded, config.parallel, half)
    trained = [p for p in model.parameters() if p.requires_grad]
    text = model.text if config.text.folder else nn.Module()
    text = getattr(text, "encoder", text)
    weights = [p for p in model.parameters() if not _within(p, text)]
    elsewhere = _storages([*weights, *text.parameters()])  # what the average shares, as it is frozen
    held = {
        "weights": weights,
        "average": [p for p in average.parameters() if not _storages([p]).keys() & elsewhere.keys()],
        "autoencoder": [*autoencoder.parameters(), *autoencoder.buffers()],
        "text_encoder": [*text.parameters(), *text.buffers()] if isinstance(text, nn.Module) else [],
    }

    with fake, ExitStack() as stack:
        optimizer = make_optimizer(model, config.optimizer, parts=matrix_parts(model.transformer))
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        moments = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
        tracker = _Tracker(trained)
        for tensor in (*moments, *(x for tensors in held.values() for x in tensors)):
            tracker.add(_local(tensor))
        if buckets:
            spaces = {p: torch.zeros_like(p) for p in trained}
            for p in trained:
                tracker.add(spaces[p])
                p.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", spaces[p]))
        for block in model.transformer.blocks:
            block.register_forward_hook(_marking(tracker))
        draws = [_draw(samples, config, model) for samples in work.packs]
        stack.enter_context(tracker)
        encoding = 0
        for number, (samples, draw) in enumerate(zip(work.packs, draws, strict=True)):
            before = tracker.flops
            latents = _latents(samples, work.cached, autoencoder)
            encoding += tracker.flops - before
            batch = make_batch(latents, draw)
            del latents
            with reducing(network, number + 1 == len(draws)):
                with autocast(CPU, half):
                    error = flow_loss(network, batch)
                    error = error + alignment(_clips(samples), draw, batch)
                (error / 1000).backward()
            tracker.mark()
        clip_gradients(optimizer, config.optimizer)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        bad = torch.zeros((), dtype=torch.bool)
        update_average(average, model, 1, config.optimizer.ema_decay, bad)
        tracker.mark()
    figures = {name: _bytes(tensors) for name, tensors in held.items()}
    figures |= {"optimizer": _bytes(moments), "buckets": _bytes(trained) if buckets else 0}
    figures |= {"flops": tracker.flops, "encoding": encoding, "operations": tracker.operations}
    return figures | _counts(model, autoencoder), tracker.segments


def _adapted(make: Callable, config: TransformerRun) -> Parts:
    """The networks of a run with their adapters, which no module of fake tensors would take."""
    with torch.device("meta"):
        parts = make(config)
        adapt(parts.model, parts.model.transformer, config.lora, COMPUTE[config.train.precision])
    for module in (*parts.model.modules(), *parts.autoencoder.modules()):
        for tensors in (module._parameters, module._buffers):
            for name, x in tensors.items():
                if x is not None:
                    y = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
                    tensors[name] = nn.Parameter(y, x.requires_grad) if isinstance(x, nn.Parameter) else y
    return parts


def _counts(model: Denoiser, autoencoder: VideoAutoencoder) -> dict[str, int]:
    """Parameters by network."""
    networks = {"transformer": model.transformer, "text encoder": model.text, "autoencoder": autoencoder}
    networks = {name: getattr(part, "encoder", part) for name, part in networks.items() if name} | {
        "autoencoder": autoencoder,
        "transformer": model.transformer,
    }
    return {
        f"parameters of {name}": sum(p.numel() for p in part.parameters()) for name, part in networks.items()
    }


def _within(parameter: nn.Parameter, module: nn.Module) -> bool:
    """Whether a module has this very parameter."""
    return any(parameter is other for other in module.parameters())


def _local(tensor: Tensor) -> Tensor:
    """What of a tensor lies on this process."""
    return getattr(tensor, "_local_tensor", tensor)


def _bytes(tensors: list[Tensor]) -> int:
    """Bytes of the different storages of tensors."""
    return sum(_storages(tensors).values())


def _storages(tensors: list[Tensor]) -> dict[int, int]:
    """The different storages of tensors on this process, and their bytes."""
    return {(s := _local(x).untyped_storage())._cdata: s.nbytes() for x in tensors}


def _marking(tracker: _Tracker) -> Callable:
    """A forward hook of a block that ends a segment when the gradient of its output is known."""

    def hook(_, __, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(tracker.mark)

    return hook


def _draw(samples: list[Sample], config: TransformerRun, model: Denoiser) -> PackDraw:
    """What is drawn for a pack, made of real tensors, as its layout depends on numbers; then faked."""
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    seed, width = config.train.seed, config.model.width // config.model.heads
    with unset_fake_temporarily():
        clips = [Clip(None, sample.prompt, "", draw=sample.draw) for sample in samples]
        drawn = [draw_sample(s.latents, c, config.flow, seed) for s, c in zip(samples, clips, strict=True)]
        missing = padding(sum(tokens_in(s.latents) for s in samples), config.train.round_tokens)
        drawn += [padding_sample(config.model.latent_channels, missing)] if missing else []
        return slice_of(draw_pack(drawn, width, model.read), 0, config.parallel.context)


def _latents(samples: list[Sample], cached: bool, autoencoder: VideoAutoencoder) -> list[Tensor]:
    """Latents of samples, of a cache or encoded, in a CPU's way: no fake GPU convolves where none is."""
    if cached:
        return [torch.empty(sample.latents) for sample in samples]
    return autoencoder.latents(_clips(samples))


def _clips(samples: list[Sample]) -> list[Clip]:
    """The clips of samples."""
    return [Clip(torch.empty(3, *s.video), s.prompt, "", draw=s.draw) for s in samples]


def _extrapolate(few: tuple, more: tuple, depth: int, packs: int) -> tuple:
    """What is measured of two depths, of another: each figure is affine in the blocks.

    Of the segments of each pack's passes, the forward one, the first blocks of the backward pass, and its
    last one are kept; those between lie between.
    """

    def line(a: float, b: float) -> float:
        return a + (b - a) * (depth - FEW) / (MORE - FEW)

    (one, short), (other, long) = few, more
    figures = {name: line(one[name], other[name]) for name in one}
    kept = []
    for blocks, segments in ((FEW, short), (MORE, long)):
        each = [segments[k * (blocks + 1) : (k + 1) * (blocks + 1)] for k in range(packs)]
        kept.append([s for part in each for s in (*part[: FEW - 1], *part[-2:])] + segments[-1:])
    pairs = zip(*kept, strict=True)
    return figures, [(line(a[0], b[0]), line(a[1], b[1])) for a, b in pairs]


def _result(figures: dict[str, float], segments: list[tuple[float, float]]) -> Traced:
    """The parts at the peak of all segments."""
    peak, gradients = max(segments)
    parts = {n: figures[n] for n in ("weights", "average", "optimizer", "autoencoder", "text_encoder")}
    gradients = figures["buckets"] or gradients
    memory = Memory(**parts, gradients=gradients, activations=peak - gradients - sum(parts.values()))
    prefix = "parameters of "
    parameters = {n.removeprefix(prefix): int(v) for n, v in figures.items() if n.startswith(prefix)}
    return Traced(memory, figures["flops"], figures["encoding"], figures["operations"], parameters)
