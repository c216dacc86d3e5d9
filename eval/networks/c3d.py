"""C3D (Tran et al. 2015) fine-tuned on UCF-101, as TGANv2's code runs it for the Inception score."""

import math
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae.convolution import conv3d
from vae.training.files import DAMAGE, check_unfolded
from vae.training.weights import check_finite, check_pointer

CLASSES = 101
FRAMES, SIZE = 16, 112
CONVOLUTIONS = {  # name -> channels in and out; all are 3x3x3 with padding 1
    "conv1a": (3, 64),
    "conv2a": (64, 128),
    "conv3a": (128, 256),
    "conv3b": (256, 256),
    "conv4a": (256, 512),
    "conv4b": (512, 512),
    "conv5a": (512, 512),
    "conv5b": (512, 512),
}
POOLS = {"conv1a": (1, 2, 2)} | dict.fromkeys(("conv2a", "conv3b", "conv4b", "conv5b"), (2, 2, 2))
LAYERS = {"fc6": (512 * 4 * 4, 4096), "fc7": (4096, 4096), "fc8": (4096, CLASSES)}
MEAN = (3, FRAMES, 128, 171)  # BGR
CORNER = 8  # where the crop of the mean begins, in both axes
SHAPES = {f"{name}/W": (wide, thin, 3, 3, 3) for name, (thin, wide) in CONVOLUTIONS.items()}
SHAPES |= {f"{name}/W": (wide, thin) for name, (thin, wide) in LAYERS.items()}
SHAPES |= {f"{name}/b": (wide,) for name, (_, wide) in (CONVOLUTIONS | LAYERS).items()}


class C3D(nn.Module):
    """From clips B 3 16 112 112 in [-1, 1] to B x 101 logits of UCF-101's classes.

    `tensors` have the names and layouts of `SHAPES`, which are Chainer's; `mean` is 3 16 128 171, in BGR.
    What is fed is 128 x + 128 less the mean, whose crop begins at 8 in height and width: not its middle.
    """

    def __init__(self, tensors: Mapping[str, Tensor], mean: Tensor):
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name.replace("/", "_"), tensor.float())
        crop = mean[:, :, CORNER : CORNER + SIZE, CORNER : CORNER + SIZE]
        self.register_buffer("shift", 128 - crop.float())

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        if video_BCTHW.shape[1:] != (3, FRAMES, SIZE, SIZE):
            raise ValueError(f"C3D takes clips of B 3 16 112 112, not {tuple(video_BCTHW.shape)}")
        x = video_BCTHW.flip(1) * 128 + self.shift
        for name in CONVOLUTIONS:
            x = conv3d(x, *self.of(name), (1, 1, 1), (1, 1, 1)).relu_()
            if name in POOLS:
                x = F.max_pool3d(x, POOLS[name], ceil_mode=True)
        x = x.flatten(1)
        for name in LAYERS:
            x = F.linear(x, *self.of(name))
            x = x if name == "fc8" else x.relu_()
        return x

    def of(self, name: str) -> tuple[Tensor, Tensor]:
        """Weight and bias of a layer."""
        return getattr(self, f"{name}_W"), getattr(self, f"{name}_b")


def read_c3d(weights: Path, mean: Path) -> tuple[dict[str, Tensor], Tensor]:
    """The network's tensors and the mean of two .npz files; raises ValueError naming what is not right."""
    tensors = _read_arrays(weights)
    for name, shape in SHAPES.items():
        if name not in tensors:
            raise ValueError(f"{weights} is not TGANv2's C3D: it has no {name}")
        if tuple(tensors[name].shape) != shape:
            raise ValueError(
                f"{weights} is not TGANv2's C3D: {name} is {tuple(tensors[name].shape)}, not {shape}"
            )
        if not tensors[name].is_floating_point():
            raise ValueError(f"{weights} is not TGANv2's C3D: {name} is of {tensors[name].dtype}")
    cubes = _read_arrays(mean)
    if "mean" not in cubes or cubes["mean"].numel() != math.prod(MEAN):
        raise ValueError(f"{mean} is not the mean of C3D: it has no `mean` of {MEAN}")
    return {name: tensors[name] for name in SHAPES}, cubes["mean"].reshape(MEAN)


def _read_arrays(file: Path) -> dict[str, Tensor]:
    """The arrays of an .npz file of numbers; raises ValueError for another file."""
    check_unfolded(file)
    try:
        check_pointer(file)
        with numpy.load(file, allow_pickle=False) as arrays:
            tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except (OSError, *DAMAGE, MemoryError, zlib.error) as error:
        raise ValueError(f"{file} is no .npz file of numbers: {error}") from None
    check_finite(tensors, file)
    return tensors


def seeded_c3d(seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Stand-in weights and mean that any implementation can replay: one numpy RandomState over `SHAPES`.

    Weights are normal with variance 2 / fan-in, and in the first layer divided by 128, biases 0.1 normal; the
    mean, drawn last, is uniform in 80 to 120. They are no trained network.
    """
    random, tensors = numpy.random.RandomState(seed), {}
    for name, shape in SHAPES.items():
        scale = math.sqrt(2 / math.prod(shape[1:])) if name.endswith("W") else 0.1
        scale = scale / 128 if name == "conv1a/W" else scale
        tensors[name] = torch.from_numpy((random.standard_normal(shape) * scale).astype(numpy.float32))
    return tensors, torch.from_numpy((80 + 40 * random.random_sample(MEAN)).astype(numpy.float32))
