"""Inflated Inception (I3D, Carreira & Zisserman 2017) as DeepMind's TensorFlow graph computes it, for FVD."""

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vae.convolution import conv3d

TABLE = Path(__file__).parent / "i3d_tensors.json"
SCOPE = "RGB/inception_i3d/"
TF_EPS = 1e-3  # the graph's batch norm; ports of VideoGPT, DIGAN, TATS and cd-fvd have 1e-5
STRIDES = {"Conv3d_1a_7x7": 2}
POOLS = {  # before this layer: kernel and stride
    "Conv3d_2b_1x1": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}
LAYERS = (
    *("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3", "Mixed_3b", "Mixed_3c"),
    *("Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f", "Mixed_5b", "Mixed_5c"),
)
LAST_POOL = (2, 7, 7)
SMALLEST = 9  # frames: fewer leave less than the two latent frames of the last pool


@lru_cache(maxsize=1)
def table() -> dict[str, dict]:
    """The network's 230 tensors by TensorFlow name: shape, CRC32C of their bytes, and pytorch-i3d's name."""
    return json.loads(TABLE.read_text())


def same_padding(sizes: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...]) -> list[int]:
    """TensorFlow's SAME padding as `F.pad` takes it, last axis first; the odd one goes behind."""
    padding = []
    for size, k, s in zip(reversed(sizes), reversed(kernel), reversed(stride), strict=True):
        total = max(k - (size % s or s), 0)
        padding += [total // 2, total - total // 2]
    return padding


def max_pool(x_BCTHW: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Max pooling with SAME padding; what is pooled is never negative, so zeros pad as minus infinity."""
    return F.max_pool3d(F.pad(x_BCTHW, same_padding(x_BCTHW.shape[2:], kernel, stride)), kernel, stride)


class Unit(nn.Module):
    """Convolution with SAME padding, batch norm folded into it, and ReLU."""

    def __init__(self, tensors: Mapping[str, Tensor], name: str, stride: int, eps: float):
        super().__init__()
        kernel = rearrange(tensors[f"{name}/conv_3d/w"].double(), "d h w i o -> o i d h w")
        scale = (tensors[f"{name}/batch_norm/moving_variance"].double() + eps).rsqrt()
        shift = tensors[f"{name}/batch_norm/beta"].double()
        shift = shift - tensors[f"{name}/batch_norm/moving_mean"].double() * scale
        self.register_buffer("weight", (kernel * scale[:, None, None, None, None]).float().contiguous())
        self.register_buffer("bias", shift.float())
        self.stride = (stride,) * 3

    def forward(self, x: Tensor) -> Tensor:
        padding = same_padding(x.shape[2:], self.weight.shape[2:], self.stride)
        if padding[::2] != padding[1::2]:
            x, padding = F.pad(x, padding), (0,) * 6
        return conv3d(x, self.weight, self.bias, self.stride, padding[::2][::-1]).relu_()


class Mixed(nn.Module):
    """An inception block: four branches side by side."""

    def __init__(self, tensors: Mapping[str, Tensor], name: str, eps: float):
        super().__init__()
        branches = [set() for _ in range(4)]
        for tensor in tensors:
            if tensor.startswith(f"{name}/Branch_"):
                branch, unit = tensor.removeprefix(f"{name}/Branch_").split("/")[:2]
                branches[int(branch)].add(unit)
        self.branches = nn.ModuleList(
            nn.Sequential(*(Unit(tensors, f"{name}/Branch_{k}/{unit}", 1, eps) for unit in sorted(units)))
            for k, units in enumerate(branches)
        )

    def forward(self, x: Tensor) -> Tensor:
        pooled = max_pool(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([b(pooled if k == 3 else x) for k, b in enumerate(self.branches)], dim=1)


class I3D(nn.Module):
    """From clips B 3 T H W in [-1, 1], 224 x 224 and at least 9 frames, to B x 400 logits averaged over time.

    `tensors` have TensorFlow's names and layouts, as `table()`; `eps` is the batch norm's.
    """

    def __init__(self, tensors: Mapping[str, Tensor], eps: float = TF_EPS):
        super().__init__()
        tensors = {name.removeprefix(SCOPE): tensor for name, tensor in tensors.items()}
        self.layers = nn.ModuleDict()
        for name in LAYERS:
            self.layers[name] = (
                Mixed(tensors, name, eps)
                if name.startswith("Mixed")
                else Unit(tensors, name, STRIDES.get(name, 1), eps)
            )
        head = "Logits/Conv3d_0c_1x1/conv_3d"
        self.register_buffer("weight", tensors[f"{head}/w"][0, 0, 0].T.contiguous().float())
        self.register_buffer("bias", tensors[f"{head}/b"].float())

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        if video_BCTHW.dim() != 5 or video_BCTHW.shape[1] != 3 or video_BCTHW.shape[3:] != (224, 224):
            raise ValueError(f"I3D takes clips of B 3 T 224 224, not {tuple(video_BCTHW.shape)}")
        if video_BCTHW.shape[2] < SMALLEST:
            raise ValueError(f"I3D takes at least {SMALLEST} frames, not {video_BCTHW.shape[2]}")
        x = video_BCTHW
        for name, layer in self.layers.items():
            if name in POOLS:
                x = max_pool(x, *POOLS[name])
            x = layer(x)
        x = F.avg_pool3d(x, LAST_POOL, 1).mean(
            dim=(2, 3, 4)
        )  # the head is linear: averaging first is the same
        return F.linear(x, self.weight, self.bias)


def seeded_tensors(seed: int = 0) -> dict[str, Tensor]:
    """Stand-in weights that any implementation can replay: one numpy RandomState over the sorted names.

    Kernels are normal with variance 2 / fan-in (1 / fan-in in the head), variances 0.5 + uniform, all else
    0.1 normal. They are no trained network: what they measure is not FVD.
    """
    random, tensors = numpy.random.RandomState(seed), {}
    for name in sorted(table()):
        shape = tuple(table()[name]["shape"])
        if name.endswith("/w"):
            gain = 1.0 if "Logits" in name else 2.0
            value = random.standard_normal(shape) * math.sqrt(gain / math.prod(shape[:-1]))
        elif name.endswith("moving_variance"):
            value = 0.5 + random.random_sample(shape)
        else:
            value = 0.1 * random.standard_normal(shape)
        tensors[name] = torch.from_numpy(value.astype(numpy.float32))
    return tensors
