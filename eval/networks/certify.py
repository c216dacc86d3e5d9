"""Weights of feature networks: read from any file, which is never run, and certified by their checksums."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy
import torch
from torch import Tensor

from eval.networks.c3d import read_c3d, seeded_c3d
from eval.networks.i3d import I3D, SCOPE, seeded_tensors, table
from vae.quality.networks import find_weights
from vae.training.files import check_unfolded, file_hash
from vae.training.weights import read_tensors as read_weights
from vae.training.weights import tensors_hash

SMOKE = "NOT FVD: seeded network"


def read_tensors(file: Path) -> dict[str, numpy.ndarray]:
    """Every tensor of a weights file; nothing in it is run, and no object of it is built.

    Takes safetensors, PyTorch's files (`weights_only`), TorchScript archives, of which only the bytes
    of storages are read (flat, numbers for names), and the data file of a TensorFlow checkpoint of I3D.
    """
    check_unfolded(file)
    try:
        if file.stat().st_size == sum(4 * numpy.prod(row["shape"]) for row in table().values()):
            return dict(slices(file))
        if zipfile.is_zipfile(file) and _is_torchscript(file):
            return dict(_storages(file))
    except Exception as error:  # whatever a foreign file does wrong is the answer
        raise ValueError(f"{file} cannot be read as weights: {type(error).__name__}: {error}") from None
    return dict(flat(read_weights(file)))


def _is_torchscript(file: Path) -> bool:
    """Whether an archive holds code."""
    with zipfile.ZipFile(file) as archive:
        return any("/code/" in name for name in archive.namelist())


def _storages(file: Path) -> Iterator[tuple[str, numpy.ndarray]]:
    """The storages of a TorchScript archive, each as a flat fp32 array."""
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            if name.split("/")[-2:-1] in (["data"], ["constants"]) and name.split("/")[-1].isdigit():
                data = archive.read(name)
                if len(data) % 4 == 0:
                    yield "/".join(name.split("/")[-2:]), numpy.frombuffer(data, "<f4")


def slices(file: Path) -> Iterator[tuple[str, numpy.ndarray]]:
    """The tensors of a TensorFlow checkpoint's data file, which lie in it by name."""
    data, first = numpy.fromfile(file, "<f4"), 0
    for name in sorted(table()):
        shape = table()[name]["shape"]
        count = int(numpy.prod(shape))
        yield name, data[first : first + count].reshape(shape)
        first += count


def flat(values, prefix: str = "") -> Iterator[tuple[str, numpy.ndarray]]:
    """The tensors in a nest of dicts, under dotted names."""
    if isinstance(values, Tensor):
        yield prefix, values.detach().numpy()
    elif isinstance(values, dict):
        for name, value in values.items():
            yield from flat(value, f"{prefix}.{name}" if prefix else str(name))


def crc32c(array: numpy.ndarray) -> int:
    """CRC32C of an array's bytes in its own order."""
    import google_crc32c

    return google_crc32c.value(numpy.ascontiguousarray(array, "<f4").tobytes())


def certified(tensors: dict[str, numpy.ndarray], source: str | Path) -> dict[str, Tensor]:
    """I3D's 230 tensors under TensorFlow's names, found in a file by what they are, whatever it calls them.

    Kernels may be in TensorFlow's layout or PyTorch's. Raises ValueError naming the first that is not there.
    """
    by_checksum = {(int(numpy.prod(row["shape"])), row["crc32c"]): name for name, row in table().items()}
    shapes: dict[int, set[tuple[int, ...]]] = {}
    for row in table().values():
        if len(row["shape"]) == 5:
            shapes.setdefault(int(numpy.prod(row["shape"])), set()).add(tuple(row["shape"]))
    ours: dict[str, Tensor] = {}
    for array in tensors.values():
        if array.dtype != numpy.float32:
            continue
        candidates = [array]
        for shape in shapes.get(array.size, ()):
            depth, height, width, inner, outer = shape
            as_torch = array.reshape(outer, inner, depth, height, width)
            candidates.append(as_torch.transpose(2, 3, 4, 1, 0))
        for candidate in candidates:
            name = by_checksum.get((array.size, crc32c(candidate)))
            if name:
                value = numpy.ascontiguousarray(candidate).reshape(table()[name]["shape"])
                ours[name] = torch.from_numpy(value.copy())
    for name, row in sorted(table().items()):
        if name in ours:
            continue
        names = (name, name.removeprefix(SCOPE), row["pytorch_i3d"])
        known = any(f".{other}".endswith(f".{known}") for other in tensors for known in names)
        raise ValueError(
            f"{source} is not the network of published FVD: {name} ({row['pytorch_i3d']}) "
            f"{'has other values' if known else 'is not in it'}; {len(ours)} of {len(table())} are right"
        )
    return ours


def check_one(smoke: bool, given: str) -> None:
    """Raises ValueError where both seeded weights and a file of weights are asked for."""
    if smoke and given:
        raise ValueError(f"--smoke takes seeded weights, and {given} are others: give one of the two")


def load_i3d(eps: float, given: str = "", smoke: bool = False) -> tuple[I3D, str]:
    """The network of FVD and its weights' hash; `smoke` takes seeded weights, whose hash says so.

    Raises ValueError where there are no weights, or others.
    """
    check_one(smoke, given)
    if smoke:
        return I3D(seeded_tensors(), eps).eval(), SMOKE
    file = find_weights("i3d", given)
    tensors = certified(read_tensors(file), file)
    return I3D(tensors, eps).eval(), tensors_hash(tensors)


def load_c3d(given: str, mean: str, smoke: bool, uncertified: bool) -> tuple[dict[str, Tensor], Tensor, str]:
    """C3D's tensors, its mean, and the hash of both; `smoke` takes seeded ones, whose hash says so.

    Raises ValueError where there are none, or where the user did not say that they may be uncertified.
    """
    check_one(smoke, given or mean)
    if smoke:
        return *seeded_c3d(), "seeded"
    tensors, cube = read_c3d(find_weights("c3d", given), find_weights("c3d-mean", mean))
    if not uncertified:
        raise ValueError(
            "no checksum of C3D's weights is published, so that yours cannot be certified: --uncertified "
            "scores with them, and stamps the score with that and their SHA-256"
        )
    return tensors, cube, tensors_hash(tensors | {"mean": cube})


def certify_c3d(file: Path) -> str:
    """Raises ValueError: there is nothing to certify C3D by."""
    raise ValueError(f"no checksum of it is published; its SHA-256 is {file_hash(file)}")


def certify_i3d(file: Path) -> str:
    """What was found to be right of I3D; raises ValueError where something is not."""
    certified(read_tensors(file), file)
    return f"all {len(table())} tensors by CRC32C"


def certify_clip(folder: Path, model_name: str = "ViT-B/32") -> str:
    """What was found to be right of CLIP; raises ValueError where it is another model."""
    from eval.networks.clip import load_clip

    return f"SHA-256 {load_clip(folder, model_name=model_name)[1]}"
