"""LPIPS, version 0.1: how different two pictures look to a network (Zhang et al. 2018)."""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae.quality.networks import certify_hash, find_weights
from vae.training.weights import read_tensors

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
EPS = 1e-10
SMALLEST = 32  # a side below which a trunk runs out of pixels
FRAMES_AT_ONCE = 8


class Fire(nn.Module):
    """A block of SqueezeNet (Iandola et al. 2016)."""

    def __init__(self, width: int, squeezed: int, expanded: int):
        super().__init__()
        self.squeeze = nn.Conv2d(width, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], dim=1)


def alexnet() -> nn.Sequential:
    """The convolutions of AlexNet (Krizhevsky 2014) under torchvision's numbers."""
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    )


def vgg16() -> nn.Sequential:
    """The convolutions of VGG-16 (Simonyan & Zisserman 2015) under torchvision's numbers."""
    layers, width = [], 3
    for block in ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3):
        layers += [nn.MaxPool2d(2)] * bool(layers)
        for wider in block:
            layers += [nn.Conv2d(width, wider, 3, padding=1), nn.ReLU()]
            width = wider
    return nn.Sequential(*layers)


def _squeezenet() -> nn.Sequential:
    """SqueezeNet 1.1 under torchvision's numbers."""
    pool = nn.MaxPool2d(3, 2, ceil_mode=True)
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool, Fire(64, 16, 64), Fire(128, 16, 64), pool),
        *(Fire(128, 32, 128), Fire(256, 32, 128), pool),
        *(Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)),
    )


TRUNKS = {  # name -> network, after which of its layers features are taken, how many channels they have
    "alex": (alexnet, (1, 4, 7, 9, 11), (64, 192, 384, 256, 256)),
    "vgg": (vgg16, (3, 8, 15, 22, 29), (64, 128, 256, 512, 512)),
    "squeeze": (_squeezenet, (1, 4, 7, 9, 10, 11, 12), (64, 128, 256, 384, 384, 512, 512)),
}


class Lpips(nn.Module):
    """From two batches of pictures N 3 H W in [-1, 1] to N distances, fp32.

    `spatial` averages the maps of the layers, each first brought to the picture's size, as some codes do.
    """

    def __init__(self, trunk: Literal["alex", "vgg", "squeeze"], spatial: bool = False):
        super().__init__()
        make, self.taps, widths = TRUNKS[trunk]
        self.name, self.spatial = trunk, spatial
        self.features = make()
        self.heads = nn.ParameterList(nn.Parameter(torch.zeros(width)) for width in widths)
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None], persistent=False)

    def load_trunk(self, tensors: Mapping[str, Tensor]) -> None:
        """Weights under torchvision's names (`features.0.weight` …); raises ValueError for others."""
        own = {f"features.{name}": tensor for name, tensor in self.features.state_dict().items()}
        self.features.load_state_dict(
            {name.removeprefix("features."): fitting(tensors, name, own[name].shape) for name in own}
        )

    def load_heads(self, tensors: Mapping[str, Tensor]) -> None:
        """Weights of the layers as LPIPS publishes them (`lin0.model.1.weight` …); ValueError for others."""
        for number, head in enumerate(self.heads):
            shape = torch.Size((1, len(head), 1, 1))
            head.data = fitting(tensors, f"lin{number}.model.1.weight", shape).flatten().float()

    def taken(self, pictures_NCHW: Tensor) -> list[Tensor]:
        """Features of every tap, each pixel's of unit length."""
        x, features = (pictures_NCHW.float() - self.shift) / self.scale, []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in self.taps:
                y = x.float()
                features.append(y / (y.square().sum(dim=1, keepdim=True).sqrt() + EPS))
        return features

    def forward(self, one_NCHW: Tensor, other_NCHW: Tensor) -> Tensor:
        if one_NCHW.shape != other_NCHW.shape or one_NCHW.dim() != 4 or one_NCHW.shape[1] != 3:
            raise ValueError(
                f"LPIPS takes pictures of N 3 H W, not {tuple(one_NCHW.shape)} and {tuple(other_NCHW.shape)}"
            )
        if min(one_NCHW.shape[2:]) < SMALLEST:
            raise ValueError(f"LPIPS takes sides of at least {SMALLEST} pixels, not {one_NCHW.shape[2:]}")
        total = torch.zeros(len(one_NCHW), device=one_NCHW.device)
        for head, x, y in zip(self.heads, self.taken(one_NCHW), self.taken(other_NCHW), strict=True):
            distance = ((x - y).square() * head[:, None, None]).sum(dim=1, keepdim=True)
            if self.spatial:
                distance = F.interpolate(distance, one_NCHW.shape[2:], mode="bilinear", align_corners=False)
            total = total + distance.mean(dim=(1, 2, 3))
        return total


def fitting(tensors: Mapping[str, Tensor], name: str, shape: torch.Size) -> Tensor:
    """A tensor by its name; raises ValueError where it is missing or has another shape."""
    if name not in tensors:
        raise ValueError(f"the weights have no {name}")
    if tensors[name].shape != shape:
        raise ValueError(f"{name} is {tuple(tensors[name].shape)}, not {tuple(shape)}")
    return tensors[name]


def load_lpips(name: str, trunk: str = "", heads: str = "") -> tuple[Lpips | None, str]:
    """LPIPS of a trunk by its name with certified weights and their hashes; or nothing, and why.

    `trunk` and `heads` are files; empty ones are looked for in the usual places, and `none` is no LPIPS.
    Raises ValueError for weights that are given or found and are not the published ones.
    """
    if name == "none":
        return None, "left out"
    files = []
    for part, given in (("trunk", trunk), ("heads", heads)):
        try:
            files.append(find_weights(f"lpips-{name}-{part}", given))
        except ValueError as error:
            if given:
                raise
            return None, f"left out: {error}"
    hashes = [
        certify_hash(f"lpips-{name}-{part}", file)
        for part, file in zip(("trunk", "heads"), files, strict=True)
    ]
    model = Lpips(name).eval().requires_grad_(False)
    model.load_trunk(read_tensors(files[0]))
    model.load_heads(read_tensors(files[1]))
    return model, "+".join(hashes)


@torch.no_grad()
def lpips_of(model: Lpips, original_CTHW: Tensor, other_CTHW: Tensor) -> float:
    """The mean over frames."""
    sides = [video.movedim(0, 1).split(FRAMES_AT_ONCE) for video in (original_CTHW, other_CTHW)]
    return torch.cat([model(*frames) for frames in zip(*sides, strict=True)]).double().mean().item()
