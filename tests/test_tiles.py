"""Proves that tiles are the whole frame, where they have all around them that convolutions see."""

from dataclasses import replace

import pytest
import torch

from dit.bench.measure import peak_allocated
from tests.test_autoencoder import CONFIGS, SMALL, randomised
from vae.data.video import read_frames, to_video
from vae.tiles import cut, decode, decode_bytes, decoder_halo, encode, encode_bytes, posterior, tile_for

CPU = torch.device("cpu")


def seam(whole: torch.Tensor, tiled: torch.Tensor) -> float:
    """The largest difference of a tiled result from the untiled one."""
    return (whole - tiled).abs().max().item()


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_tiles_are_the_whole_frame(name):
    """With all that its convolutions see, in time and space, at every place of a frame of several tiles."""
    model = randomised(CONFIGS[name])
    latents = torch.randn(1, model.config.latent_channels, 3, 7, 30)
    whole = model.decode(latents)
    assert whole.abs().max() < 1, "a clamped video hides differences"
    assert seam(whole, decode(model, latents, 4)) < 1e-5 * whole.abs().max()
    pixels = model.compression.spatial
    video = torch.rand(1, 3, 9, 7 * pixels, 30 * pixels) * 2 - 1
    encoded = model.encode(video)
    tiled = encode(model, video, 4)
    assert seam(encoded, tiled) < 1e-5 * encoded.abs().max()


@torch.no_grad()
def test_the_halo_is_what_convolutions_see():
    """A row of features changes pixels up to the halo away, and some farther than a latent less."""
    model = randomised(replace(SMALL, residual_blocks=2))
    halo, width = decoder_halo(model), 2
    place = halo + 3
    x = torch.randn(1, 24, 1, 2 * place + 1, width)
    bent = x.clone()
    bent[..., place, :] += 1.0
    layers = [layer for block in model.decoder.up_blocks for layer in block.layers()]
    results = []
    for y in (x, bent):
        for layer in layers:
            y = layer(y)
        results.append(model.decoder.conv_out(y))
    rows = (results[0] - results[1]).abs().amax(dim=(0, 1, 2, 4)).nonzero().flatten()
    assert 8 * (halo - 1) < 8 * place - rows.min() <= 8 * halo


@torch.no_grad()
def test_seams_of_a_real_clip_are_measured(real_clips):
    frames = read_frames(real_clips / "v_ApplyEyeMakeup_g01_c01.avi", range(5))
    video = to_video(frames)[None]
    model = randomised(SMALL)
    whole = model.encode(video)
    tiled = encode(model, video, 12)
    assert seam(whole, tiled) < 1e-5 * whole.abs().max()
    decoded = model.decode(whole)
    assert seam(decoded, decode(model, whole, 12)) < 1e-5


def test_tiles_cover_every_latent_once():
    for height, width, tile in ((7, 30, 4), (5, 5, 8), (1, 9, 2)):
        count = torch.zeros(height, width)
        for part in cut(height, width, tile, 3):
            count[part.top : part.bottom, part.left : part.right] += 1
            assert part.bottom - part.top <= tile and part.right - part.left <= tile
            assert part.outer[0] == max(0, part.top - 3) and part.outer[3] == min(width, part.right + 3)
        assert (count == 1).all()


@torch.no_grad()
@pytest.mark.long
def test_a_budget_chooses_the_tile_and_is_kept():
    model = randomised(SMALL)
    height = width = 48
    latents = torch.randn(1, 4, 2, height, width)
    untiled = peak_allocated(lambda: model.decode(latents), CPU)
    assert tile_for(model, height, width, 1 << 40) == 0
    budget = decode_bytes(model, height, width) // 2
    tile = tile_for(model, height, width, budget)
    assert 0 < tile < width
    output = 4 * 3 * 5 * (8 * height) * (8 * width)
    assert peak_allocated(lambda: decode(model, latents, tile), CPU) < min(
        1.2 * budget + output, 0.7 * untiled
    )
    video = torch.rand(1, 3, 5, 8 * height, 8 * width) * 2 - 1
    whole = model.posterior(video)
    budget = encode_bytes(model, height, width) // 3
    tile = tile_for(model, height, width, budget, "encode")
    assert 0 < tile < width
    assert peak_allocated(lambda: posterior(model, video, tile), CPU) < 1.1 * budget
    for one, other in zip(whole, posterior(model, video, tile), strict=True):
        assert seam(one, other) < 1e-5 * one.abs().max()
    with pytest.raises(ValueError, match="a budget of 0 MiB holds no tile: the smallest takes"):
        tile_for(model, height, width, 1000)
    with pytest.raises(ValueError, match="tile 0: it must be at least 1 latent"):
        decode(model, latents, 0)
    with pytest.raises(ValueError, match=r"4 frames do not fit 1 \+ 4k"):
        encode(model, torch.zeros(1, 3, 4, 16, 16), 1)
