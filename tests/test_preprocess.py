"""Proves the preprocessing of scores: every kernel against its definition, every order and rounding apart."""

import io
import math
from dataclasses import replace

import numpy
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from configs.protocol import load_protocol, load_protocols, protocol_names
from eval.preprocess import STORED_RESIZES, as_jpeg, bilinear, bilinear_tf1, covering, middle, prepare, stored

OF_FVD = [name for name in protocol_names() if "fvd" in load_protocols(name)]
FRAMES = torch.randint(256, (2, 37, 53, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def resized_by_definition(image: numpy.ndarray, size: tuple[int, int], half_pixel: bool) -> numpy.ndarray:
    """Bilinear resize of H W C, pixel by pixel."""
    result = numpy.zeros((*size, image.shape[2]))
    for y in range(size[0]):
        for x in range(size[1]):
            places = []
            for k, (place, have, want) in enumerate(zip((y, x), image.shape, size, strict=False)):
                at = (place + 0.5) * have / want - 0.5 if half_pixel else place * have / want
                places.append(min(max(at, 0.0), image.shape[k] - 1))
            top, left = (math.floor(at) for at in places)
            bottom, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
            down, over = places[0] - top, places[1] - left
            upper = image[top, left] * (1 - over) + image[top, right] * over
            lower = image[bottom, left] * (1 - over) + image[bottom, right] * over
            result[y, x] = upper * (1 - down) + lower * down
    return result


@pytest.mark.parametrize("size", [(12, 80), (37, 53), (61, 20)])
@pytest.mark.parametrize(("kernel", "half_pixel"), [(bilinear, True), (bilinear_tf1, False)])
def test_a_resize_is_its_definition(size, kernel, half_pixel):
    ours = kernel(FRAMES.permute(0, 3, 1, 2).float(), size)[0].permute(1, 2, 0).numpy()
    wanted = resized_by_definition(FRAMES[0].numpy().astype(float), size, half_pixel)
    assert numpy.abs(ours - wanted).max() < 1e-3


def test_every_protocol_gives_the_network_s_clip_and_no_two_the_same():
    made = {}
    for name in OF_FVD:
        protocol = load_protocol(name, "fvd")
        clip = prepare(FRAMES, protocol)
        assert clip.shape == (3, 2, 224, 224) and clip.abs().max() < 1 + 1e-6
        assert clip.min() < -0.5 and clip.max() > 0.5
        made[name] = clip
    alike = (  # they differ in the videos alone
        {name for name in OF_FVD if name.startswith("fvd-stylegan-v")},
        {name for name in OF_FVD if "latte" in name},
        {name for name in OF_FVD if name.startswith(("ucf101-zeroshot", "msrvtt", "pose"))},
        {"ucf101-class-magvit", "ucf101-class-walt"},
        # From its square of 128 VideoGPT cuts nothing out.
        {"fvd-videogpt", "ucf101-class-tats"},
        {"fvd-cdfvd", "fvd-videomae"},  # and in the network
    )
    for one in made:
        for other in made:
            equal = torch.equal(made[one], made[other])
            assert equal == (one == other or any({one, other} <= names for names in alike)), (one, other)


def test_a_frame_of_one_colour_keeps_it():
    for name in OF_FVD:
        for level in (0, 100, 255):
            grey = torch.full((1, 50, 40, 3), level, dtype=torch.uint8)
            protocol = load_protocol(name, "fvd")
            lost = protocol.stored_rounding != "round" and level == 100  # at most one level
            apart = prepare(grey, protocol) - (level / 127.5 - 1)
            assert -lost / 127.5 - 1e-5 < apart.min() and apart.max() < 1e-5


def test_the_middle_is_cut_out_and_the_shorter_side_covers():
    assert covering(240, 320, 224, math.ceil) == (224, 299)
    assert covering(320, 240, 224, math.floor) == (298, 224)
    assert covering(100, 100, 64, math.ceil) == (64, 64)
    columns = torch.arange(9.0).expand(1, 1, 4, 9)
    assert middle(columns, 4)[0, 0, 0].tolist() == [2, 3, 4, 5]


def test_stored_frames_are_pillow_s():
    protocol = replace(load_protocol("fvd-stylegan-v-2048", "fvd"), stored_size=16, stored_codec="none")
    image = Image.fromarray(FRAMES[0].numpy()).resize(
        (22, 16), Image.Resampling.LANCZOS
    )  # 53 * 16 / 37 = 22.9
    assert torch.equal(stored(FRAMES, protocol)[0], torch.from_numpy(numpy.array(image)[:, 3:19]))
    latte = replace(load_protocol("fvd-latte-2048-stride3", "fvd"), stored_size=16, stored_codec="none")
    image = Image.fromarray(FRAMES[1].numpy()).crop((8, 0, 45, 37)).resize((16, 16), Image.Resampling.LANCZOS)
    assert torch.equal(stored(FRAMES, latte)[1], torch.from_numpy(numpy.array(image)))


def test_fractions_of_bytes_are_cut_or_rounded():
    cut = replace(load_protocol("fvd-cdfvd", "fvd"), stored_size=16)
    exact = F.interpolate(
        FRAMES.permute(0, 3, 1, 2).float(), covering(37, 53, 16, math.ceil), mode="bilinear", antialias=True
    )
    exact = middle(exact, 16).permute(0, 2, 3, 1)
    for protocol, low, high in ((cut, -1, 1e-3), (replace(cut, stored_rounding="round"), -0.501, 0.501)):
        apart = stored(FRAMES, protocol).float() - exact
        assert low < apart.min() and apart.max() < high and apart.min() < low / 2


def test_a_loader_s_plain_resize_is_its_definition_cut_to_bytes():
    exact = numpy.stack(
        [resized_by_definition(frame.numpy().astype(float), (16, 23), True) for frame in FRAMES]
    )
    exact = exact[:, :, 3:19]  # 53 * 16 / 37 = 22.9, and the middle of 23 columns
    for name, rounding in (("ucf101-class-tats", "floor-halves"), ("ucf101-class-tats", "floor")):
        protocol = replace(load_protocol(name, "fvd"), stored_size=16, stored_rounding=rounding)
        made = stored(FRAMES, protocol).numpy().astype(float)
        unsure = numpy.abs(exact - exact.round()) < 1e-3
        assert (made == numpy.floor(exact))[~unsure].all() and unsure.mean() < 0.05
        assert numpy.abs(made - exact).max() <= 1.001
    antialiased = replace(load_protocol("fvd-cdfvd", "fvd"), stored_size=16)
    assert numpy.abs(stored(FRAMES, antialiased).numpy() - exact).max() > 10


def test_a_half_taken_and_given_back_costs_a_quarter_of_the_levels_one():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    made = STORED_RESIZES["bilinear-plain"](levels, (16, 16), "floor-halves").flatten().numpy()
    half = numpy.float32(0.5)
    wanted = ((numpy.arange(256, dtype=numpy.float32) / numpy.float32(255) - half) + half) * numpy.float32(
        255
    )
    assert (made == wanted.astype(numpy.uint8)).all() and (made != numpy.arange(256)).sum() == 63


def test_jpeg_is_pillow_s_of_that_quality():
    ours = as_jpeg(FRAMES, 75)
    sizes = []
    for quality in (75, 95):
        buffer = io.BytesIO()
        Image.fromarray(FRAMES[0].numpy()).save(buffer, format="JPEG", quality=quality)
        sizes.append(torch.from_numpy(numpy.array(Image.open(buffer, formats=["JPEG"]))))
    assert torch.equal(ours[0], sizes[0]) and not torch.equal(ours[0], sizes[1])
