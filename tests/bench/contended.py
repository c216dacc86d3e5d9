"""How much slower a sample is where other work keeps every core busy.

python -m tests.bench.contended [SAMPLES]

The built-in model samples one video at a time in a new process: on the machine as it is, then beside one busy
process for each core; with threads that wait as the product has them, then with threads that spin. The busy
processes alone make it 2 times slower. Printed: medians in seconds, and their ratio.
"""

import os
import statistics
import subprocess
import sys
import time

SAMPLE = """
import sys, time
import dit
import torch
from dit.condition import Condition
from dit.generate import Request, generate_videos
from dit.load import load_model

model = load_model("builtin", torch.device("cpu"), torch.float32)
shape = model.autoencoder.channels, *model.autoencoder.compression.latent_size(17, 64, 64)
for seed in range(1 + int(sys.argv[1])):
    began = time.perf_counter()
    generate_videos(model, [Request(Condition("a red circle moves left"), shape, seed)], model.sampler)
    print(time.perf_counter() - began, flush=True)
"""
WAYS = {"as it is": {}, "threads that spin": {"OMP_WAIT_POLICY": "active"}}


def seconds(samples: int, environment: dict[str, str]) -> float:
    """The median of samples in a process of its own, without the first."""
    command = [sys.executable, "-c", SAMPLE, str(samples)]
    printed = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return statistics.median(map(float, printed.split()[1:]))


def main(samples: int = 5) -> None:
    """Prints the table."""
    cores = len(os.sched_getaffinity(0))
    free = {
        name: value
        for name, value in os.environ.items()
        if name not in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    }
    print(f"{cores} cores, {os.getloadavg()[0]:.1f} processes at work before", flush=True)
    for way, settings in WAYS.items():
        quiet = seconds(samples, free | settings)
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
        try:
            time.sleep(1)
            loaded = seconds(samples, free | settings)
        finally:
            for process in busy:
                process.kill()
                process.wait()
        print(
            f"{way:20} {quiet:6.2f} s quiet {loaded:8.2f} s beside busy cores {loaded / quiet:6.2f} times",
            flush=True,
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
