"""A pretended accelerator in pure Python: its tensors hold a CPU's, and where the host waits is counted.

A tensor of this device keeps an ordinary one `inside`, and every operation is the CPU's on what is inside:
the numbers are real. What a CPU alone forgives is found: tensors of two devices in one operation raise, and
where the host waits for the device is counted, by line. So are the bytes that tensors hold.

What waits is what PyTorch's CUDA device synchronises for: a number read (`item`), a size that depends on data
(`nonzero`, an index of bools), and every copy between device and host but those without blocking, from pinned
memory; a tensor made from Python numbers, or indexed by a tensor of the host, is such a copy.

A tensor that another stream made is to be waited for before it is read, and its memory to be held: else what
reads it raises.

`install` registers the device for the whole process and for good, and gives it to whoever asks at the door
(`vae.training.device`): call it before anything else is imported, in a process of its own.
"""

import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME, CPU = "pretended", torch.device("cpu")
HEADER = Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h"
ROOT = Path(__file__).parent.parent
aten = torch.ops.aten

waits: Counter[str] = Counter()  # of the loop, by what and where
aside: Counter[str] = Counter()  # of other threads of Python's, which keep nobody waiting
beside: Counter[str] = Counter()  # tensors made on another stream than the main one, by where

READ = {aten._local_scalar_dense, aten.equal, aten.is_nonzero}
SIZED = {  # by their data
    *(aten.nonzero, aten.masked_select, aten.bincount, aten._unique, aten._unique2, aten.unique_dim),
    *(aten.unique_consecutive, aten._linalg_eigh, aten._linalg_svd),
}
INDEXED = {aten.index, aten._unsafe_index, aten.index_put, aten.index_put_, aten._index_put_impl_}
PLAIN = {aten._conj: torch.conj_physical, aten._neg_view: torch.neg}  # a view's bit, which is not seen inside
CROSSING = {aten._to_copy, aten.copy_}
FACTORIES = (
    *("empty.memory_format", "empty_strided", "full", "ones", "zeros", "scalar_tensor"),
    *(
        "arange",
        "arange.start",
        "arange.start_step",
        "linspace",
        "eye",
        "eye.m",
        "tril_indices",
        "triu_indices",
    ),
    *("rand", "randn", "randint", "randint.low", "randperm"),
)


class _Held:
    """The bytes of storages that tensors of the device keep alive, and the most that they were."""

    def __init__(self):
        self.lock, self.tensors, self.now, self.peak = threading.RLock(), Counter(), 0, 0

    def take(self, tensor: torch.Tensor) -> int:
        """Counts a storage once, however many tensors look at it; returns by what it is given back."""
        storage = tensor.untyped_storage()
        with self.lock:
            self.tensors[storage.data_ptr()] += 1
            if self.tensors[storage.data_ptr()] == 1:
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
        return storage.data_ptr()

    def give_back(self, place: int, size: int) -> None:
        """Forgets a tensor, and its storage with the last one."""
        with self.lock:
            self.tensors[place] -= 1
            if not self.tensors[place]:
                del self.tensors[place]
                self.now -= size


held = _Held()
_pinned: dict[int, torch.Tensor] = {}  # kept for the life of the process, as are their addresses


class Pretended(torch.Tensor):
    """A tensor of the device, with the CPU's `inside`."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inside: torch.Tensor):
        """An empty shell of the same shape, strides and type."""
        about = {"strides": inside.stride(), "storage_offset": inside.storage_offset(), "dtype": inside.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, inside.size(), device=device(), **about)

    def __init__(self, inside: torch.Tensor):
        self._inside, self._place = inside, held.take(inside)
        self._held_for: set[_Stream] = set()
        _note_made(self)

    def __del__(self):
        held.give_back(self._place, self._inside.untyped_storage().nbytes())

    @property
    def inside(self) -> torch.Tensor:
        """The CPU's tensor."""
        return self._inside

    @property
    def data(self) -> torch.Tensor:
        """The same tensor without its history; assigned, its shell takes another's numbers and type."""
        return self.detach()

    @data.setter
    def data(self, other: torch.Tensor) -> None:
        torch.Tensor.data.__set__(self, other)
        held.give_back(self._place, self._inside.untyped_storage().nbytes())
        self._inside, self._place = other._inside, held.take(other._inside)
        self._made, self._held_for = other._made, other._held_for

    def __repr__(self) -> str:
        return f"{self.inside} on {device()}"

    def __format__(self, how: str) -> str:
        return format(self.item(), how) if self.ndim == 0 else repr(self)

    def tolist(self):
        """The numbers, which the host waits for."""
        return self.cpu().tolist()

    def __deepcopy__(self, memo: dict) -> "Pretended":
        copied = self.detach().clone().requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        return memo.setdefault(id(self), copied)

    def record_stream(self, stream: "_Stream") -> None:
        """Has its memory kept until what a stream was given so far is done."""
        self._held_for.add(stream)

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _run(operation, args, kwargs or {})


def device() -> torch.device:
    """The device, once it is installed."""
    return torch.device(NAME, 0)


def _there(x) -> bool:
    return isinstance(x, Pretended)


def _run(operation, args, kwargs):
    """What an operation gives: the CPU's, of what is inside its tensors."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    packet = operation.overloadpacket
    _check_places(operation, packet, tensors)
    _check_order(operation, [x for x in tensors if _there(x)])
    if packet is aten._pin_memory:
        raise RuntimeError(f"{operation} at {_line()}: only dense CPU tensors can be pinned")
    leaves = kwargs.get("device") is not None and torch.device(kwargs["device"]) == CPU
    if _waits(packet, args, kwargs, tensors, leaves):
        _note(f"{packet}")

    def inside(x):
        if _there(x):
            return x.inside
        return CPU if isinstance(x, torch.device) and x.type == NAME else x

    given = {id(x.inside): x for x in tensors if _there(x)}
    args, kwargs = tree_map(inside, (args, kwargs))
    result = PLAIN.get(packet, operation)(*args, **kwargs)
    if leaves or packet in READ:
        return result

    def wrapped(x):
        if not isinstance(x, torch.Tensor):
            return x
        if (known := given.get(id(x))) is None:
            return x if packet is aten.copy_ else Pretended(x)  # into the CPU's memory
        assert known.shape == x.shape, f"{operation} gave a tensor of the device another shape in place"
        _note_made(known)
        return known

    return tree_map(wrapped, result)


def _check_places(operation, packet, tensors: list[torch.Tensor]) -> None:
    """Raises RuntimeError for tensors of two devices in an operation, as CUDA; a number may be anywhere."""
    strangers = [x for x in tensors if not _there(x) and x.ndim]
    if strangers and packet not in INDEXED | CROSSING:
        raise RuntimeError(f"{operation} at {_line()}: tensors on {device()} and on {strangers[0].device}")


def _waits(packet, args, kwargs, tensors, leaves: bool) -> bool:
    """Whether CUDA's device would have the host wait."""
    if packet in CROSSING:
        to, source = (args[0], args[1]) if packet is aten.copy_ else (None, args[0])
        crosses = leaves if to is None else _there(to) != _there(source)
        free = args[2:3] == (True,) or kwargs.get("non_blocking", False)
        ours = source if not _there(source) else to
        return crosses and not (free and (ours is None or ours.is_pinned()))
    if packet in INDEXED:
        indices = [x for x in args[1] if x is not None]
        return any(x.dtype in (torch.bool, torch.uint8) or not _there(x) for x in indices)
    if packet is aten.repeat_interleave:
        return kwargs.get("output_size") is None
    return packet in READ | SIZED


def _note(what: str) -> None:
    """Counts a wait at the line of ours that led to it."""
    thread = threading.current_thread()
    ours = thread is threading.main_thread() or isinstance(thread, threading._DummyThread)  # autograd's
    (waits if ours else aside)[f"{what} at {_line()}"] += 1


def _line() -> str:
    """The innermost line of the project's that is being run; autograd's threads have none."""
    frame = sys._getframe()
    while frame:
        file = Path(frame.f_code.co_filename)
        if file != Path(__file__) and ROOT in file.parents and "site-packages" not in file.parts:
            return f"{file.relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "the backward pass"


class _Stream:
    """An order of work: how much it was given, and of every stream how much is done before what comes next.

    All is done at once; but what a tensor was made by must come before what reads it.
    """

    def __init__(self, device=None):
        self.given, self.after = 0, Counter()

    def record_event(self) -> "_Event":
        return _Event(self.after | Counter({self: self.given}))

    def wait_event(self, event: "_Event") -> None:
        self.after |= event.done

    def synchronize(self) -> None:
        _note("synchronize")
        finished.update(self.record_event().done | finished)


class _Event:
    """A mark in a stream: how much of each stream is done when it is reached."""

    def __init__(self, done: Counter):
        self.done = done


main = _Stream()  # where all goes that nobody puts elsewhere
finished: Counter[_Stream] = Counter()  # what the host has waited for
_current = threading.local()


def _stream() -> _Stream:
    """The stream that this thread's work goes to."""
    return getattr(_current, "stream", main)


def _note_made(tensor: Pretended) -> None:
    """Notes by what a tensor has its newest numbers."""
    stream = _stream()
    stream.given += 1
    tensor._made = stream, stream.given
    if stream is not main:
        beside[_line()] += 1


def _check_order(operation, tensors: list[Pretended]) -> None:
    """Raises RuntimeError for a tensor of another stream that is not waited for, or whose memory is free."""
    stream = _stream()
    for x in tensors:
        made, count = x._made
        if made is stream:
            continue
        if max(stream.after[made], finished[made]) < count:
            raise RuntimeError(
                f"{operation} at {_line()}: a tensor of another stream, which is not waited for"
            )
        if made is not main and stream not in x._held_for:
            raise RuntimeError(
                f"{operation} at {_line()}: a tensor of another stream, whose memory is not held"
            )


class _Module(_DummyBackendModule):
    """What PyTorch asks of `torch.pretended`."""

    Stream = _Stream

    def __init__(self):
        self.state = torch.zeros(1, dtype=torch.uint8)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def set_device(self, device) -> None:
        pass

    def synchronize(self, device=None) -> None:
        main.synchronize()

    def current_stream(self, device=None) -> _Stream:
        return _stream()

    @contextmanager
    def stream(self, stream: _Stream) -> Iterator[None]:
        before, _current.stream = _stream(), stream
        try:
            yield
        finally:
            _current.stream = before

    def get_device_name(self, device=None) -> str:
        return "a pretended device"

    def memory_allocated(self, device=None) -> int:
        return held.now

    def max_memory_allocated(self, device=None) -> int:
        return held.peak

    def reset_peak_memory_stats(self, device=None) -> None:
        held.peak = held.now

    def get_rng_state(self, device=None) -> torch.Tensor:
        return self.state.clone()

    def set_rng_state(self, state: torch.Tensor, device=None) -> None:
        self.state = state

    def manual_seed(self, seed: int) -> None:
        self.state = torch.tensor([seed % 251], dtype=torch.uint8)

    def manual_seed_all(self, seed: int) -> None:
        self.manual_seed(seed)


_kept = []  # PyTorch forgets the kernels of a library that nobody holds


def install() -> torch.device:
    """Registers the device, its kernels and its autocast, and has the door give it to all who ask."""
    from vae.training import device as door

    _setup_privateuseone_for_python_backend(NAME, _Module())
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) is made on the CPU, then copied
    torch.__future__.set_swap_module_params_on_conversion(
        True
    )  # module.to() keeps its parameters, as for CUDA
    others, library = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    _kept.extend((others, library))
    others.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")  # of what autocast leaves alone
    for name in FACTORIES:
        library.impl(name, _factory(name), "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    library.impl("is_pinned", lambda x, device=None: x.untyped_storage().data_ptr() in _pinned, "CPU")
    library.impl("_pin_memory", _pin, "CPU")
    for dtype, names in ((torch.bfloat16, _listed("LOWER_PRECISION_FP")), (torch.float32, _listed("FP32"))):
        for name in names:
            library.impl(name, _cast_before(name, dtype), "AutocastPrivateUse1")
    os.environ["ACCELERATE_TORCH_DEVICE"] = str(device())
    door.own_device = lambda tf32=False: device()
    return device()


def _overload(name: str):
    packet, _, overload = name.partition(".")
    return getattr(getattr(aten, packet), overload or "default")


def _factory(name: str):
    """A kernel that makes a new tensor of the device."""
    operation = _overload(name)

    def make(*args, device=None, pin_memory=None, **kwargs):
        return Pretended(operation(*args, **kwargs, device=CPU))

    return make


def _copy_from(source: torch.Tensor, to: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """A copy that PyTorch makes below Python, as of `torch.tensor(..., device=...)` in another thread."""
    return _run(aten.copy_.default, (to, source, non_blocking), {})


def _pin(x: torch.Tensor, device=None) -> torch.Tensor:
    """A copy in pinned memory."""
    copied = x.clone()
    _pinned[copied.untyped_storage().data_ptr()] = copied
    return copied


def _listed(which: str) -> list[str]:
    """The operations that CUDA's autocast computes in a precision, from PyTorch's own header."""
    text = HEADER.read_text().split(f"#define AT_FORALL_{which}(_)")[1].split("#define")[0]
    return [".".join(filter(None, names)) for names in re.findall(r"_\((\w+)(?:, (\w+))?\)", text)]


def _cast_before(name: str, dtype: torch.dtype):
    """An operation of autocast's: on this device's floats of another dtype brought to it, fp64 aside."""
    operation = _overload(name)
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def cast(x):
        floats = _there(x) and x.is_floating_point() and x.dtype != torch.float64
        return x.to(dtype) if floats else x

    def call(*args, **kwargs):
        with torch._C._ExcludeDispatchKeyGuard(key):
            return operation(*tree_map(cast, args), **tree_map(cast, kwargs))

    return call
