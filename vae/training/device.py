"""The one door to the device: which one computes, what it can do, and how exact its fp32 products are.

fp32 products are exact in every verb, so that what one encodes, trains, samples and scores the others find
again to the bit; `train.tf32` alone has a training round them. Nobody else asks what kind of device there is.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

Device = torch.device | Tensor
Item = TypeVar("Item")


def own_device(tf32: bool = False) -> torch.device:
    """This process's GPU where there is one, else the CPU; sets how fp32 products are made.

    Several processes have a GPU each, by LOCAL_RANK among those that each of them sees.
    """
    set_products(tf32)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    torch.cuda.set_device(device)  # kernels of others ask for the current one
    return device


def set_products(tf32: bool) -> None:
    """Has GPUs compute matrix products and convolutions of fp32 exactly, or rounded to TF32's 10 bits.

    PyTorch keeps this twice, and refuses to tell where the two differ: first the older pair of flags, which
    compiled code reads, then what each library is told by name, which no default of all libraries overrides.
    """
    backends = torch.backends
    backends.cuda.matmul.allow_tf32 = backends.cudnn.allow_tf32 = tf32
    for library in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn):
        library.fp32_precision = "tf32" if tf32 else "ieee"


def products(device: Device) -> str:
    """How fp32 products are made there: `exact`, or `TF32`."""
    return "TF32" if not on_cpu(device) and torch.backends.cuda.matmul.allow_tf32 else "exact"


def device_kind(device: Device) -> str:
    """The word by which records name a device, such as `cuda`."""
    return (device.device if isinstance(device, Tensor) else device).type


def on_cpu(device: Device) -> bool:
    """Whether this is the CPU (or lies there), whose libraries, threads and memory have ways of their own."""
    return device_kind(device) == "cpu"


def multiplies_fp8(device: Device) -> bool:
    """Whether a device has matrix products in fp8, as GPUs have from compute capability 8.9 on."""
    return not on_cpu(device) and torch.cuda.get_device_capability(device) >= (8, 9)


def own_precision(device: Device) -> str:
    """The precision that suits a device where none is asked for: bf16 on a GPU, fp32 on a CPU."""
    return "fp32" if on_cpu(device) else "bf16"


def autocast(device: Device, enabled: bool = True) -> torch.autocast:
    """Within it matrix products and convolutions are of bf16, unless `enabled` is False."""
    return torch.autocast(device_kind(device), torch.bfloat16, enabled=enabled)


def number(value: float, device: torch.device) -> Tensor:
    """A number on a device, put there without a wait."""
    return torch.full((), value, device=device, dtype=torch.float64)


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor in memory of the host that a GPU copies from by itself; as it is for a CPU, or where it is not
    the host's."""
    return tensor if on_cpu(device) or not on_cpu(tensor) else tensor.pin_memory()


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device: from pinned memory, so that the host goes on while it is copied."""
    return pinned(tensor, device).to(device, non_blocking=not on_cpu(device))


def mark(device: torch.device) -> torch.Event | None:
    """A mark behind all that a GPU was given so far; None for a CPU, which is done when a call returns."""
    return None if on_cpu(device) else torch.get_device_module(device).current_stream(device).record_event()


@contextmanager
def beside(device: torch.device, computed: torch.Event | None) -> Iterator[None]:
    """Within it a thread copies from a GPU beside what that computes, from a mark on; then that is done.

    Copies go to pinned memory, and must not block.
    """
    if computed is None:
        yield
        return
    module = torch.get_device_module(device)
    stream = module.Stream(device)
    stream.wait_event(computed)
    with module.stream(stream):
        yield
    stream.synchronize()


def side_stream(device: torch.device) -> torch.Stream | None:
    """A stream of a GPU's on which copies to it go beside what it computes; None for a CPU."""
    return None if on_cpu(device) else torch.get_device_module(device).Stream(device)


def sent(item: Item, device: torch.device, stream: torch.Stream | None) -> tuple[Item, torch.Event | None]:
    """An item, its tensors sent by its `map` on a side stream, and a mark behind the copies; or itself."""
    if stream is None:
        return item, None
    with torch.get_device_module(device).stream(stream):
        return item.map(partial(send, device=device)), stream.record_event()


def arrived(item: Item, device: torch.device, copied: torch.Event | None) -> Item:
    """What was `sent`: all that a GPU is given from now on waits for its copies, the host for nothing."""
    if copied is not None:
        stream = torch.get_device_module(device).current_stream(device)
        stream.wait_event(copied)
        item.map(partial(_held_for, stream=stream))
    return item


def _held_for(tensor: Tensor, stream: torch.Stream) -> Tensor:
    """Has a tensor's memory given to no other before what a stream was given is done."""
    if not on_cpu(tensor):
        tensor.record_stream(stream)
    return tensor


def wait_for(device: torch.device) -> None:
    """Returns when all that a GPU was given is done; a CPU is done when a call returns."""
    if not on_cpu(device):
        torch.get_device_module(device).synchronize(device)


def forget_peak(device: torch.device) -> None:
    """Begins anew to look for a GPU's peak of memory."""
    if not on_cpu(device):
        torch.get_device_module(device).reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int | None:
    """Most bytes that tensors held on a GPU, since the start or `forget_peak`; None for a CPU."""
    return None if on_cpu(device) else torch.get_device_module(device).max_memory_allocated(device)


def memory(device: torch.device) -> int | None:
    """Bytes that tensors hold on a GPU now; None for a CPU."""
    return None if on_cpu(device) else torch.get_device_module(device).memory_allocated(device)


def forked_randomness(device: Device) -> torch.random.fork_rng:
    """Within it PyTorch's own generators, the CPU's and the device's, may be seeded: they are put back."""
    own = device.device if isinstance(device, Tensor) else device
    return torch.random.fork_rng([] if on_cpu(own) else [own], device_type=device_kind(own))


def gpu_name(device: torch.device) -> str:
    """A GPU's name, or nothing for a CPU."""
    return "" if on_cpu(device) else torch.get_device_module(device).get_device_name(device)


def gpu_libraries() -> dict[str, str]:
    """The versions of what computes on a GPU."""
    return {"CUDA": str(torch.version.cuda), "cuDNN": str(torch.backends.cudnn.version())}


def described() -> list[tuple[str, str, str]]:
    """Every device of this machine, in words: its name, what it is, and what it does with bf16."""
    threads, cores = torch.get_num_threads(), os.cpu_count()
    capability = torch.backends.cpu.get_cpu_capability()
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    avx = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    bf16 = "bf16 in AMX tiles" if amx else "bf16 in AVX512" if avx else "bf16 by conversion, slow"
    rows = [("cpu", f"{cores} cores, {threads} threads", f"{capability}, {bf16}")]
    for k in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(k)
        half = "bf16" if card.major >= 8 else "no bf16"
        size = f"{card.total_memory / 2**30:.0f} GiB"
        rows.append((f"cuda:{k}", card.name, f"{size}, compute {card.major}.{card.minor}, {half}"))
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        rows.append(("cuda", "-", f"PyTorch sees no GPU ({built})"))
    if torch.backends.mps.is_available():
        rows.append(("mps", "-", "Apple GPU: there, and not tested by this project"))
    return rows
