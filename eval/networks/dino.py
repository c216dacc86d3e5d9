"""DINO (Caron et al. 2021): the vision transformer ViT-B/16 as Facebook's code runs it."""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from eval.preprocess import covering
from vae.training.files import file_hash
from vae.training.weights import check_fit, load_strictly, read_tensors

PATCH, SIDE = 16, 224
WIDTH, DEPTH, HEADS = 768, 12, 12
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def preprocess(frames_THWC: Tensor) -> Tensor:
    """Frames of bytes as VBench's `dino_transform` makes them, T 3 H W: the shorter side to 224."""
    frames = rearrange(frames_THWC, "t h w c -> t c h w").float()
    size = covering(*frames.shape[2:], SIDE, int)
    if size != tuple(frames.shape[2:]):
        frames = F.interpolate(frames, size, mode="bilinear", align_corners=False)
    return (frames / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


class Block(nn.Module):
    """Attention and two layers, each on the normalised stream and added to it; names are Facebook's."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(
            self.attn["qkv"](self.norm1(x)), "b n (three h d) -> three b h n d", three=3, h=self.heads
        )
        attended = rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)")
        x = x + self.attn["proj"](attended)
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class Dino(nn.Module):
    """The transformer; of pictures B 3 H W it gives the class token's features B D."""

    def __init__(self, width: int = WIDTH, depth: int = DEPTH, heads: int = HEADS):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (SIDE // PATCH) ** 2, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, PATCH, PATCH)})
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Positions of a grid of patches; another than the trained one is a bicubic resize of that.

        A tenth of a patch more keeps rounding from taking one away, and moves all places a little, as there.
        """
        side = math.isqrt(self.pos_embed.shape[1] - 1)
        if (rows, columns) == (side, side):
            return self.pos_embed
        grid = rearrange(self.pos_embed[:, 1:], "b (h w) d -> b d h w", h=side)
        factors = ((rows + 0.1) / side, (columns + 0.1) / side)
        grid = F.interpolate(grid, scale_factor=factors, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], rearrange(grid, "b d h w -> b (h w) d")], 1)

    def forward(self, pictures_B3HW: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](pictures_B3HW)
        rows, columns = patches.shape[2:]
        x = rearrange(patches, "b d h w -> b (h w) d")
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self._positions(rows, columns)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 0])


def load_dino(file: Path) -> tuple[Dino, str]:
    """The network of a file with Facebook's tensors, and the file's SHA-256; ValueError for another."""
    tensors = read_tensors(file)
    check_fit(Dino, tensors, file)
    network = Dino()
    load_strictly(network, tensors, file)
    return network.eval().requires_grad_(False), file_hash(file)


def seeded_dino() -> Dino:
    """A small transformer with seeded weights: what it measures is no score."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Dino(64, 2, 2)
        for position in (network.cls_token, network.pos_embed):
            nn.init.normal_(position, std=0.02)
    return network.eval().requires_grad_(False)
