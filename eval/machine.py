"""What computes a score beside its protocol and weights: device, libraries, decoder, and our own code."""

import hashlib
import importlib.metadata
import platform
import sys
from itertools import chain
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from dit import __version__
from eval import clips, contents, cpu, features, preprocess
from vae.data import images, video, write
from vae.training.device import device_kind, gpu_libraries, gpu_name, on_cpu, products
from vae.training.files import file_hash

LIBRARIES = ("torch", "numpy", "Pillow")  # of every score; a metric names its further ones
OURS = ("eval", "vae", "tests")
READERS: tuple[ModuleType, ...] = (clips, contents, cpu, features, preprocess, images, video, write)


def made_with(device: torch.device, *libraries: str) -> dict[str, str]:
    """The device by name, and versions: what may move the last digits of a score, or more."""
    versions = {name: importlib.metadata.version(name) for name in (*LIBRARIES, *libraries)}
    if on_cpu(device):
        name = f"{device_kind(device)}, {platform.machine()} with {torch.backends.cpu.get_cpu_capability()}"
    else:
        versions |= gpu_libraries() | {"fp32 products": products(device)}
        name = gpu_name(device)
    return {"device": name, **versions, "decoder": write.decoder(), "dit": __version__}


def features_made_with(network: nn.Module, batch: int) -> dict[str, str]:
    """`made_with` of a network's features, with the hash of our code that makes them.

    On a GPU the clips of one call choose its kernels; a CPU computes every clip alone.
    """
    device = next(chain(network.buffers(), network.parameters())).device
    libraries = {_package(part) for part in network.modules()} & {"transformers"}
    batches = {} if on_cpu(device) else {"batch": str(batch)}
    return made_with(device, *sorted(libraries)) | batches | {"code": _code_hash(network)}


def _package(part: nn.Module) -> str:
    """The package that a module's class is of."""
    return type(part).__module__.split(".")[0]


def _code_hash(network: nn.Module) -> str:
    """SHA-256 of the source of all that makes features: what chooses and reads clips, and the network's."""
    own = {sys.modules[type(part).__module__] for part in network.modules() if _package(part) in OURS}
    modules = sorted(own | {*READERS}, key=lambda module: module.__name__)
    return hashlib.sha256("".join(file_hash(Path(m.__file__)) for m in modules).encode()).hexdigest()
