"""What is known of processors before anything runs on them: memory, peak rates and power, by their makers."""

import os
from dataclasses import dataclass

import torch

from dit.bench import measure

UTILISATION = {"gpu": 0.35, "cpu": 0.6}  # of the peak of matrix products, assumed where none is given
USABLE = 0.92  # of a GPU's memory: the rest is the libraries' workspaces, the driver's context, and gaps


@dataclass(frozen=True)
class Processor:
    """Memory in GiB, FLOP/s of dense products, of exact fp32 and of TF32, bytes/s of memory, and watts."""

    name: str
    memory: float
    bf16: float
    fp32: float
    tf32: float
    bandwidth: float
    watts: float


# Their makers' data sheets, without sparsity; memory as PyTorch reports it. Power is the board's limit.
PROCESSORS = {
    "h100": Processor("NVIDIA H100 SXM 80 GB", 79.2, 989e12, 67e12, 495e12, 3.35e12, 700),
    "h200": Processor("NVIDIA H200 SXM 141 GB", 139.8, 989e12, 67e12, 495e12, 4.8e12, 700),
    "b200": Processor("NVIDIA B200 180 GB", 178.0, 2250e12, 75e12, 1125e12, 8.0e12, 1000),
    "a100": Processor("NVIDIA A100 SXM 80 GB", 79.3, 312e12, 19.5e12, 156e12, 2.04e12, 400),
    "l40s": Processor("NVIDIA L40S 48 GB", 44.4, 362e12, 91.6e12, 183e12, 0.86e12, 350),
    "5090": Processor("NVIDIA RTX 5090 32 GB", 31.4, 209.5e12, 104.8e12, 104.8e12, 1.79e12, 575),
    "4090": Processor("NVIDIA RTX 4090 24 GB", 23.5, 165.2e12, 82.6e12, 82.6e12, 1.01e12, 450),
}


def this_cpu(precision: str) -> Processor:
    """This machine's processor: its memory, and the rate of its matrix products, which is measured."""
    cpu = torch.device("cpu")
    clock, _ = measure.make_clock(cpu, torch.get_num_threads())
    rate = measure.matmul_peak(measure.DTYPES[precision], cpu, clock)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Processor(f"this CPU, {torch.get_num_threads()} threads", memory, rate, rate, rate, 0.0, 0.0)
