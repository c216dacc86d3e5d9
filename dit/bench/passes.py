"""What the transformer's benchmarks time: packs of random latents and text, forward and backward passes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from configs.model import TransformerConfig
from dit.bench.measure import Clock, medians_in_turn
from dit.model import Transformer
from dit.pack import Layout, make_layout, patchify
from vae.compression import PATCH
from vae.training.seeds import normal

TIME = 0.7


@dataclass(frozen=True)
class Pack:
    """Inputs of one packed call."""

    grids: list[tuple[int, int, int]]
    latents: list[Tensor]
    tokens: Tensor
    times: Tensor
    layout: Layout
    text: Tensor
    text_lengths: list[int]


def make_pack(
    config: TransformerConfig,
    grids: list[tuple[int, int, int]],
    text_tokens: int,
    device: torch.device,
    copies: int = 1,
) -> Pack:
    """Random latents and text; `copies` repeats the samples, as guidance does for the null prompt."""
    shapes = [(config.latent_channels, *(n * p for n, p in zip(grid, PATCH, strict=True))) for grid in grids]
    latents = [normal(shape, "latents", k).to(device) for k, shape in enumerate(shapes)] * copies
    grids = grids * copies
    text = normal((len(grids) * text_tokens, config.text_width), "text").to(device)
    layout, times = make_layout(
        grids, [torch.tensor([TIME])] * len(grids), config.width // config.heads, device
    )
    tokens = torch.cat([patchify(x)[0] for x in latents])
    return Pack(grids, latents, tokens, times, layout, text, [text_tokens] * len(grids))


@torch.no_grad()
def random_model(config: TransformerConfig, device: torch.device) -> Transformer:
    """A transformer none of whose weights is zero, so that all of them matter to the output."""
    torch.manual_seed(0)
    model = Transformer(config)
    for name, parameter in model.named_parameters():
        parameter.normal_(std=0.02)
        if "norm" in name and "bias" not in name:
            parameter.add_(1)
    return model.to(device)


def forward(model: Transformer, pack: Pack, dtype: torch.dtype) -> Tensor:
    """Velocity of a pack, its text embedded too."""
    return model(
        pack.tokens.to(dtype),
        pack.times,
        model.embed_text(pack.text.to(dtype), pack.text_lengths),
        pack.layout,
    )


def without_gradient(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The forward pass alone."""

    def run() -> Tensor:
        with torch.no_grad():
            return call()

    return run


def _with_gradient(call: Callable[[], Tensor], module: nn.Module) -> Callable[[], None]:
    """Forward and backward pass."""

    def run() -> None:
        module.zero_grad(set_to_none=True)
        call().float().square().mean().backward()

    return run


def time_passes(
    ours: tuple[Callable[[], Tensor], nn.Module],
    other: tuple[Callable[[], Tensor], nn.Module],
    repeats: int,
    clock: Clock,
) -> Iterator[tuple[str, tuple[float, float]]]:
    """Median seconds of both sides, each a call and its module: forward, then forward and backward."""
    sides = {"ours": ours, "other": other}
    passes = {
        "forward": {name: without_gradient(call) for name, (call, _) in sides.items()},
        "forward + backward": {name: _with_gradient(*side) for name, side in sides.items()},
    }
    for what, calls in passes.items():
        seconds = medians_in_turn(calls, repeats, clock)
        yield what, (seconds["ours"], seconds["other"])
