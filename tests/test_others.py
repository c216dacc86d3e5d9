"""Proves that autoencoders of diffusers give here what they give there, scaled as pipelines do."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.tiny import fresh_accelerator  # noqa: F401
from vae.diffusers_models import CLASSES
from vae.load import load_autoencoder, load_folder

FOUR = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [0.5, 1.5, 1.0, 2.0]}
WAN = dict(base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, **FOUR)
LTX = dict(
    latent_channels=4,
    block_out_channels=(8, 8, 8, 8),
    decoder_block_out_channels=(8, 8, 8, 8),
    layers_per_block=(1,) * 5,
    decoder_layers_per_block=(1,) * 5,
)
LTX_NEWER = dict(
    latent_channels=4,
    down_block_types=("LTXVideo095DownBlock3D",) * 4,
    block_out_channels=(8, 16, 16, 16, 16),
    decoder_block_out_channels=(8, 16, 32),
    layers_per_block=(1,) * 5,
    decoder_layers_per_block=(1,) * 4,
    spatio_temporal_scaling=(True,) * 4,
    decoder_spatio_temporal_scaling=(True,) * 3,
    decoder_inject_noise=(True,) * 4,
    downsample_type=("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
    upsample_residual=(True,) * 3,
    upsample_factor=(2,) * 3,
    timestep_conditioning=True,
    spatial_compression_ratio=32,
    temporal_compression_ratio=8,
)
EIGHT = dict(latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2)
FRAMES = dict(
    block_out_channels=(8, 8),
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    norm_num_groups=2,
)


@dataclass(frozen=True)
class Case:
    """A class with a tiny configuration, how pipelines scale its latents, and what it takes.

    `scaling` is mean, std and factor: a pipeline's latents are (z - mean) * factor / std.
    """

    name: str
    settings: dict
    scaling: tuple[list[float] | float, list[float] | float, float]
    frames: int
    side: int
    wrong: int
    nearest: int


CASES = {
    "Wan 2.2": Case(
        "AutoencoderKLWan",
        WAN | dict(is_residual=True, patch_size=2, in_channels=12, out_channels=12, scale_factor_spatial=8),
        (FOUR["latents_mean"], FOUR["latents_std"], 1.0),
        *(9, 16, 12, 13),
    ),
    "CogVideoX": Case("AutoencoderKLCogVideoX", EIGHT, (0.0, 1.0, 1.15258426), 17, 8, 13, 17),
    "CogVideoX 1.5": Case(
        "AutoencoderKLCogVideoX",
        EIGHT | dict(scaling_factor=0.7, invert_scale_latents=True),
        (0.0, 1.0, 0.7),
        *(9, 8, 6, 9),
    ),
    "HunyuanVideo": Case("AutoencoderKLHunyuanVideo", EIGHT, (0.0, 1.0, 0.476986), 21, 8, 20, 21),
    "HunyuanVideo 1.5": Case(
        "AutoencoderKLHunyuanVideo15",
        dict(latent_channels=4, block_out_channels=(8,) * 5, layers_per_block=1),
        (0.0, 1.0, 1.03682),
        *(9, 16, 6, 5),
    ),
    "LTX": Case(
        "AutoencoderKLLTXVideo",
        LTX | dict(scaling_factor=0.5),
        (FOUR["latents_mean"], FOUR["latents_std"], 0.5),
        *(17, 32, 12, 9),
    ),
    "LTX 0.9.5": Case(
        "AutoencoderKLLTXVideo", LTX_NEWER, (FOUR["latents_mean"], FOUR["latents_std"], 1.0), *(9, 32, 16, 17)
    ),
    "Mochi": Case(
        "AutoencoderKLMochi",
        dict(
            latent_channels=4,
            encoder_block_out_channels=(32,) * 4,
            decoder_block_out_channels=(32,) * 4,
            layers_per_block=(1,) * 5,
            **FOUR,
        ),
        (FOUR["latents_mean"], FOUR["latents_std"], 1.0),
        *(13, 8, 9, 7),
    ),
    "Magvit": Case("AutoencoderKLMagvit", EIGHT, (0.0, 1.0, 0.7125), 9, 8, 8, 9),
    "Qwen Image": Case(
        "AutoencoderKLQwenImage", WAN, (FOUR["latents_mean"], FOUR["latents_std"], 1.0), 9, 8, 7, 9
    ),
    "KL": Case("AutoencoderKL", FRAMES, (0.0, 1.0, 0.18215), 6, 2, 0, 1),
    "KL with a shift": Case(
        "AutoencoderKL",
        FRAMES | dict(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False),
        (0.1159, 1.0, 0.3611),
        *(2, 2, 0, 1),
    ),
    "KL by channel": Case(
        "AutoencoderKL", FRAMES | FOUR, (FOUR["latents_mean"], FOUR["latents_std"], 0.18215), 2, 2, 0, 1
    ),
    "Tiny": Case(
        "AutoencoderTiny",
        dict(
            encoder_block_out_channels=(8,) * 4,
            decoder_block_out_channels=(8,) * 4,
            num_encoder_blocks=(1,) * 4,
            num_decoder_blocks=(1,) * 4,
        ),
        (0.0, 1.0, 1.0),
        *(3, 8, 0, 1),
    ),
    "DC": Case(
        "AutoencoderDC",
        dict(
            latent_channels=4,
            attention_head_dim=8,
            encoder_block_out_channels=(8,) * 3,
            decoder_block_out_channels=(8,) * 3,
            encoder_layers_per_block=(1,) * 3,
            decoder_layers_per_block=(1,) * 3,
            encoder_qkv_multiscales=((), (), (5,)),
            decoder_qkv_multiscales=((), (), (5,)),
            scaling_factor=0.41407,
        ),
        (0.0, 1.0, 0.41407),
        *(3, 4, 0, 1),
    ),
}
EVERY = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def saved(folder: Path, case: Case, **save) -> nn.Module:
    """A model of diffusers' own with random weights, of which none is zero, also saved to a folder."""
    import diffusers

    model = getattr(diffusers, case.name)(**case.settings).eval().requires_grad_(False)
    for tensor in model.parameters():
        if not tensor.any():
            tensor.normal_(std=0.1)
    if case.name == "AutoencoderKLLTXVideo":
        model.latents_mean.copy_(torch.tensor(FOUR["latents_mean"]))
        model.latents_std.copy_(torch.tensor(FOUR["latents_std"]))
    model.save_pretrained(folder, **save)
    return model


def video_of(case: Case, frames: int, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, frames, case.side, 2 * case.side) * 2 - 1


def column(values: list[float] | float) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1, 1)


def by_hand(model: nn.Module, video: Tensor, call: Callable) -> Tensor:
    """A call of diffusers' own on each video, or frame by frame where the model is of images."""
    if type(model).__name__ not in ("AutoencoderKL", "AutoencoderTiny", "AutoencoderDC"):
        return torch.cat([call(clip) for clip in video.split(1)])  # HunyuanVideo 1.5 fails on more
    return torch.stack([call(frame) for frame in video.unbind(2)], dim=2)  # of all clips of the batch


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    assert ours.shape == theirs.shape and ours.dtype == torch.float32
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


def test_every_class_has_a_case():
    assert {case.name for case in CASES.values()} == set(CLASSES)


@EVERY
@pytest.mark.parametrize("clip", [False, True], ids=["image", "clip"])
@pytest.mark.filterwarnings("error::FutureWarning")  # which a user would read at every start
def test_latents_are_those_of_diffusers_scaled_as_its_pipelines_do(tmp_path: Path, case: Case, clip: bool):
    theirs = saved(tmp_path, case)
    ours = load_autoencoder(tmp_path)
    video = video_of(case, case.frames if clip else 1, batch=1 if clip and case.side > 8 else 2)
    if case.name == "AutoencoderKLHunyuanVideo":  # by itself it encodes long clips in pieces that it blends
        theirs.use_framewise_encoding = False
    drawn = case.name not in ("AutoencoderTiny", "AutoencoderDC")
    mean, std, factor = column(case.scaling[0]), column(case.scaling[1]), case.scaling[2]

    def encoded(x: Tensor) -> Tensor:
        found = theirs.encode(x, return_dict=False)[0]
        return found.mean if drawn else found

    latents = (by_hand(theirs, video, encoded) - mean) * factor / std
    assert_close(ours.encode(video), latents)
    assert_close(ours.posterior(video)[0], latents)
    assert ours.channels == latents.shape[1]
    assert ours.compression.latent_size(*video.shape[2:]) == latents.shape[2:]
    spread = ours.posterior(video)[1]
    if not drawn:
        assert (spread == -30).all()
        return
    wanted = by_hand(theirs, video, lambda x: theirs.encode(x, return_dict=False)[0].logvar)
    assert_close(spread, wanted + 2 * torch.log(factor / std))


@EVERY
@pytest.mark.parametrize("clip", [False, True], ids=["image", "clip"])
def test_videos_are_those_that_diffusers_decodes(tmp_path: Path, case: Case, clip: bool):
    theirs = saved(tmp_path, case)
    ours = load_autoencoder(tmp_path)
    video = video_of(case, case.frames if clip else 1, batch=1 if clip and case.side > 8 else 2)
    latents = torch.randn_like(ours.encode(video))
    if case.name == "AutoencoderKLHunyuanVideo":
        theirs.use_framewise_decoding = False
    time = (torch.zeros(1),) if case.settings.get("timestep_conditioning") else ()
    raw = latents * column(case.scaling[1]) / case.scaling[2] + column(case.scaling[0])

    def decoded_by_hand(z: Tensor) -> Tensor:
        torch.manual_seed(0)  # LTX 0.9.5 adds noise to its layers
        return theirs.decode(z, *time, return_dict=False)[0].clamp(-1, 1)

    wanted = by_hand(theirs, raw, decoded_by_hand)
    state = torch.get_rng_state()
    decoded = ours.decode(latents)
    assert decoded.shape == video.shape
    assert_close(decoded, wanted)
    assert torch.equal(ours.decode(latents), decoded)
    assert torch.equal(torch.get_rng_state(), state)


@EVERY
def test_frames_and_sides_that_do_not_fit_are_named_with_the_nearest(tmp_path: Path, case: Case):
    saved(tmp_path, case)
    model = load_autoencoder(tmp_path)
    assert model.compression.spatial == case.side
    with pytest.raises(ValueError, match=rf"{case.wrong} frames do not fit .*: use {case.nearest}$"):
        model.encode(video_of(case, case.wrong))
    nearest = f"{case.side * round((case.side + 1) / case.side)}x{2 * case.side}"
    with pytest.raises(ValueError, match=f"does not divide by {case.side}: use {nearest}$"):
        model.encode(torch.zeros(1, 3, case.nearest, case.side + 1, 2 * case.side))
    with pytest.raises(ValueError, match=f"{case.wrong} frames do not fit"):
        model.latent_shape(case.wrong, 64, 64)


def test_cogvideox_makes_no_clip_of_an_even_number_of_latent_frames(tmp_path: Path):
    theirs = saved(tmp_path, CASES["CogVideoX"])
    latents = torch.randn(1, 4, 4, 2, 2)
    assert theirs.decode(latents).sample.shape[2] == 16  # which is not 1 + 4 * 3
    with pytest.raises(ValueError, match=r"4 latent frames do not fit 1 \+ 2k: use 5"):
        load_autoencoder(tmp_path).decode(latents)


@pytest.mark.parametrize("name", ["KL", "CogVideoX"])
def test_streams_give_what_the_whole_clip_does(tmp_path: Path, monkeypatch, name: str):
    monkeypatch.setattr("vae.diffusers_models.FRAME_PIXELS", 3 * 2 * 4)
    saved(tmp_path, CASES[name])
    model = load_autoencoder(tmp_path)
    video = video_of(CASES[name], 9)
    latents = model.encode(video)
    parts = list(model.encode_stream(video.split(5, dim=2)))
    assert [part.shape[2] for part in parts] == ([3, 2, 3, 1] if name == "KL" else [3])
    assert_close(torch.cat(parts, dim=2), latents)
    parts = list(model.decode_stream(latents.split(4, dim=2)))
    assert [part.shape[2] for part in parts] == ([3, 1, 3, 1, 1] if name == "KL" else [9])
    assert_close(torch.cat(parts, dim=2), model.decode(latents))


def test_frames_are_taken_few_at_a_time(tmp_path: Path, monkeypatch):
    saved(tmp_path, CASES["KL"])
    model = load_autoencoder(tmp_path)
    video = video_of(CASES["KL"], 5, batch=2)
    whole, seen = model.encode(video), []
    monkeypatch.setattr("vae.diffusers_models.FRAME_PIXELS", 3 * 2 * 4)
    encode = model.model.encode
    monkeypatch.setattr(model.model, "encode", lambda x, **kw: seen.append(len(x)) or encode(x, **kw))
    assert_close(model.encode(video), whole)
    assert seen == [3, 3, 3, 1]


def test_folders_are_found_in_pipelines_and_in_shards_and_with_older_names(tmp_path: Path):
    case = CASES["KL"]
    torch.manual_seed(1)
    theirs = saved(tmp_path / "pipeline" / "vae", case, max_shard_size="20KB")
    assert len(list((tmp_path / "pipeline" / "vae").glob("*.safetensors"))) > 1
    video = video_of(case, 2)
    wanted = load_autoencoder(tmp_path / "pipeline").encode(video)
    theirs.save_pretrained(tmp_path / "whole")
    assert torch.equal(load_autoencoder(tmp_path / "whole").encode(video), wanted)
    file = tmp_path / "whole" / "diffusion_pytorch_model.safetensors"
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(file)
    for new, old in older.items():
        tensors = {
            name.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): t for name, t in tensors.items()
        }
    assert any(".query." in name for name in tensors)
    save_file(tensors, file)
    assert torch.equal(load_autoencoder(tmp_path / "whole").encode(video), wanted)
    save_file({name: tensor.half() for name, tensor in tensors.items()}, file)
    half = load_autoencoder(tmp_path / "whole")
    assert half.model.dtype == torch.float32
    assert_close(half.encode(video), wanted, 1e-2)


def test_damaged_and_unknown_folders_are_told_in_one_sentence(tmp_path: Path):
    case = CASES["KL"]
    saved(tmp_path, case)
    config, weights = tmp_path / "config.json", tmp_path / "diffusion_pytorch_model.safetensors"
    good, tensors = json.loads(config.read_text()), load_file(weights)

    def refused(words: str, **change) -> None:
        config.write_text(json.dumps(good | change))
        with pytest.raises(ValueError, match=words) as error:
            load_folder(tmp_path)
        assert str(tmp_path) in str(error.value)

    refused(
        "holds AutoencoderOobleck, which is not supported; what is: AutoencoderKLWan, .*AutoencoderDC",
        _class_name="AutoencoderOobleck",
    )
    refused("which is not supported", _class_name={"a": "AutoencoderKL"})
    refused("does not fit the model's settings: .* is missing", layers_per_block=2)
    refused(r"does not fit the model's settings: .* is \(8,.*\), not \(16,", block_out_channels=[16, 16])
    refused("config.json", block_out_channels=[])
    refused("config.json", down_block_types=["Nothing"] * 2)
    refused("latents_mean and latents_std must have 4 numbers", latents_mean=[1.0], latents_std=[1.0])
    refused("latent channel 1 has the mean 0 and the std 0", latents_mean=[0.0] * 4, latents_std=[1, 0, 1, 1])
    save_file(tensors | {"more": torch.zeros(1)}, weights)
    refused("more has no place")
    weights.write_bytes(weights.read_bytes()[:-8])
    refused("diffusion_pytorch_model")
    weights.rename(tmp_path / "diffusion_pytorch_model.bin")  # pickles are not read
    refused(r"needs config\.json and \*\.safetensors")
    for name, change in {
        "Qwen Image": {"temperal_downsample": [True] * 3},
        "CogVideoX": {"temporal_compression_ratio": 2},
    }.items():
        saved(tmp_path / name, replace(CASES[name], settings=CASES[name].settings | change))
        with pytest.raises(ValueError, match=rf"{name}.config\.json: temp[eo]r"):
            load_folder(tmp_path / name)
