"""How benchmarks measure: sides in turn, medians, a clock that other programs do not disturb, peak memory."""

import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from vae.training import device as door
from vae.training.files import write_text
from vae.training.seeds import normal

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
RESET_PEAK = Path("/proc/self/clear_refs")  # Linux: a 5 written there resets the process's peak memory

Clock = Callable[[], float]


def make_clock(device: torch.device, threads: int) -> tuple[Clock, str]:
    """Seconds on a clock that other programs do not disturb, and its name.

    One CPU thread is measured in CPU seconds; more wait for each other, which only the wall clock sees.
    """
    if not door.on_cpu(device):

        def clock() -> float:
            door.wait_for(device)
            return time.perf_counter()

        return clock, "wall clock, the GPU waited for"
    return (time.process_time, "CPU seconds") if threads == 1 else (time.perf_counter, "wall clock")


def medians_in_turn(sides: dict[str, Callable[[], object]], repeats: int, clock: Clock) -> dict[str, float]:
    """Median seconds of every side after a warm-up; the sides take turns, so that load meets all alike."""
    for call in sides.values():
        call()
    seconds = {name: [] for name in sides}
    for _ in range(repeats):
        for name, call in sides.items():
            start = clock()
            call()
            seconds[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def matmul_peak(dtype: torch.dtype, device: torch.device, clock: Clock) -> float:
    """FLOP/s of the best of a few large matrix products."""
    sizes = [(8192, 8192, 8192)] if not door.on_cpu(device) else [(2048, 2048, 2048), (1024, 384, 1536)]
    best = 0.0
    for n, k, m in sizes:
        a, b = normal((n, k), "a").to(device, dtype), normal((m, k), "b").to(device, dtype)
        seconds = medians_in_turn({"product": lambda a=a, b=b: F.linear(a, b)}, 5, clock)["product"]
        best = max(best, 2 * n * k * m / seconds)
    return best


def quick_matmul_peak(dtype: torch.dtype, device: torch.device, budget: float = 0.15) -> float:
    """FLOP/s of the best of square matrix products, the larger ones as far as about `budget` seconds allow.

    By the wall clock, as what trains beside other programs is measured.
    """
    began, best = time.perf_counter(), 0.0
    for n in (256, 512, 1024, 2048, 4096, 8192):
        a = torch.linspace(-1, 1, n * n, device=device).to(dtype).view(n, n)  # zeros would take less power
        F.linear(a, a)
        for _ in range(3):
            door.wait_for(device)
            start = time.perf_counter()
            F.linear(a, a)
            door.wait_for(device)
            seconds = time.perf_counter() - start
            best = max(best, 2 * n**3 / seconds)
        if time.perf_counter() - began + 4 * 8 * seconds > budget:
            break
    del a
    door.forget_peak(device)
    return best


def largest_difference(x: Tensor, reference: Tensor) -> float:
    """Largest difference over the largest value."""
    return ((x.float() - reference.float()).abs().max() / reference.float().abs().max()).item()


def peak_memory(call: Callable[[], object], device: torch.device) -> int:
    """Most bytes held during a call, weights included: the GPU's, or those of the whole process."""
    if not door.on_cpu(device):
        door.forget_peak(device)
        call()
        return door.peak_memory(device)
    try:
        RESET_PEAK.write_text("5")
    except OSError:  # another system, or a container that forbids it: the peak since the start
        call()
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call()
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if "VmHWM" in line).split()[1])


def peak_allocated(call: Callable[[], object], device: torch.device) -> int:
    """Most bytes that PyTorch held during a call beyond what it held before."""
    if not door.on_cpu(device):
        before = door.memory(device)
        return peak_memory(call, device) - before
    with _without_stderr(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        call()
    events = [event for event in measured.profiler.kineto_results.events() if event.name() == "[memory]"]
    used = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        used += event.nbytes()
        peak = max(peak, used)
    return peak


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Keeps what C++ writes off the terminal: the profiler says that it starts and stops."""
    sys.stderr.flush()
    terminal, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)


def processor(device: torch.device) -> str:
    """The GPU's name, or what the CPU multiplies bf16 matrices with."""
    if name := door.gpu_name(device):
        return name
    if torch.cpu._is_amx_tile_supported():
        return f"{platform.machine()} with AMX bf16"
    return f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, no AMX"


def conditions(settings, device: torch.device, clock_name: str) -> dict:
    """Prints what was measured with and returns it, the beginning of the figures in JSON."""
    machine, threads = processor(device), torch.get_num_threads()
    print(
        f"torch {torch.__version__}, {machine}, {threads} thread(s); {clock_name}, "
        f"median of {settings.repeats} in turn\n"
    )
    facts = {"settings": asdict(settings), "torch": torch.__version__, "machine": machine}
    return facts | {"cores": os.cpu_count(), "threads": threads, "clock": clock_name}


def write_figures(file: str, figures: dict) -> None:
    """Writes all figures as JSON where a file is asked for."""
    if file:
        write_text(Path(file), json.dumps(figures, indent=1) + "\n")
