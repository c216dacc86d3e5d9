"""LAION's aesthetic predictor of 2022: a linear layer on the unit embeddings of CLIP ViT-L/14, 0 to 10."""

from pathlib import Path

import torch
from torch import nn

from vae.training.files import file_hash
from vae.training.weights import load_strictly, read_tensors

WIDTH = 768  # of the embeddings of CLIP ViT-L/14


def load_aesthetic(file: Path) -> tuple[nn.Linear, str]:
    """The layer of a file, and the file's SHA-256; ValueError for another."""
    head = nn.Linear(WIDTH, 1)
    load_strictly(head, read_tensors(file), file)
    return head.eval().requires_grad_(False), file_hash(file)


def seeded_aesthetic(width: int) -> nn.Linear:
    """A layer with seeded weights: what it measures is no score."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(width, 1).eval().requires_grad_(False)
