"""Autoencoders of diffusers give here what they give there, scaled as pipelines do or as measured."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from configs.data import DataConfig
from configs.load import from_json, to_json
from dit.cli import run
from dit.condition import Condition
from dit.generate import Request, generate_videos
from dit.load import load_model
from dit.train import train
from tests.tiny import (
    MODEL,
    fresh_accelerator,  # noqa: F401
    launch,
    state,
    transformer_run,
)
from vae.data.clips import DrawnWorld
from vae.diffusers_folder import write_wan
from vae.diffusers_models import CLASSES
from vae.load import load_autoencoder, load_folder, note_unmeasured, stored_hash
from vae.model import Autoencoder
from vae.statistics import FILE
from vae.stats import StatsSettings, stats
from vae.tiles import tile_for
from vae.training.weights import read_header, save_weights

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


def measured_clips(case: Case, seed: int, count: int) -> list[Tensor]:
    """The clips of the drawn world that `dit vae stats` takes with these settings."""
    config = settings_of("", case, seed=seed, count=count)
    world = DrawnWorld(DataConfig("shapes", config.frames, config.size, config.fps), seed)
    return [world[draw].video for draw in range(count)]


def settings_of(folder: str | Path, case: Case, **others) -> StatsSettings:
    """Two small clips of more than one latent frame."""
    frames = {"AutoencoderKLLTXVideo": 9, "AutoencoderKLCogVideoX": 9, "AutoencoderKLMochi": 7}
    size = max(16, 2 * case.side)
    settings = StatsSettings(str(folder), "shapes", 2, frames.get(case.name, 5), size, replace=True)
    return replace(settings, **others)


@EVERY
def test_latents_leave_with_zero_mean_and_unit_variance_after_they_are_measured(tmp_path: Path, case: Case):
    saved(tmp_path, case)
    stats(settings_of(tmp_path, case, seed=3))
    model = load_autoencoder(tmp_path)
    sampled = []
    for video in measured_clips(case, 3, 2):
        mean, log_variance = model.posterior(video[None])
        sampled.append(torch.stack([mean, mean**2 + log_variance.exp()]).flatten(3))
    first, second = torch.cat(sampled, dim=3).double().mean(dim=(1, 3))
    assert first.abs().max() < 1e-4
    assert (second - first**2 - 1).abs().max() < 1e-3
    video = measured_clips(case, 3, 1)[0][None]
    assert_close(
        model.decode(model.encode(video)),
        load_autoencoder(tmp_path, as_shipped=True).decode(
            load_autoencoder(tmp_path, as_shipped=True).encode(video)
        ),
        1e-3,
    )


def test_the_measure_is_that_of_all_latents_drawn(tmp_path: Path):
    case = CASES["KL"]
    theirs = saved(tmp_path, case)
    found = stats(settings_of(tmp_path, case, count=3))
    frames = torch.cat([video.movedim(1, 0) for video in measured_clips(case, 0, 3)])
    posterior = theirs.encode(frames).latent_dist
    drawn = torch.stack([posterior.sample() for _ in range(400)]).double().movedim(2, 0).flatten(1)
    assert torch.tensor(found.mean).allclose(drawn.mean(1).float(), atol=1e-2)
    assert torch.tensor(found.std).allclose(drawn.std(1).float(), rtol=1e-2)


def test_measured_statistics_hold_where_none_ship_by_channel_or_when_asked_for(tmp_path: Path, capsys):
    note_unmeasured.cache_clear()
    plain, by_channel = CASES["KL"], CASES["KL by channel"]
    saved(tmp_path / "plain", plain)
    saved(tmp_path / "own", by_channel)
    for _ in range(2):
        load_autoencoder(tmp_path / "plain"), load_autoencoder(tmp_path / "own")
    assert capsys.readouterr().err.count("dit vae stats") == 1
    arguments = ["--data", "shapes", "--count", "2", "--frames", "3", "--size", "16"]
    assert run(["vae", "stats", str(tmp_path / "plain"), *arguments]) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 5 and f"written: {tmp_path / 'plain' / FILE}" in said.err
    record = json.loads((tmp_path / "plain" / FILE).read_text())
    assert record["count"] == 2 and record["data"]["frames"] == 3 and len(record["files"]) == 64
    model = load_autoencoder(tmp_path / "plain")
    assert model.latent_std.flatten().tolist() == torch.tensor(record["std"]).tolist()
    assert "dit vae stats" not in capsys.readouterr().err

    again = [*arguments[:3], "3", *arguments[4:]]
    assert (
        run(["vae", "stats", str(tmp_path / "plain"), *again]) == 0
    )  # what was made with them would not fit
    assert "not written" in capsys.readouterr().err
    assert json.loads((tmp_path / "plain" / FILE).read_text()) == record

    assert run(["vae", "stats", str(tmp_path / "own"), *arguments]) == 0
    assert "not written" in capsys.readouterr().err and not (tmp_path / "own" / FILE).exists()
    assert run(["vae", "stats", str(tmp_path / "own"), *arguments, "--replace"]) == 0
    record = json.loads((tmp_path / "own" / FILE).read_text())
    assert load_autoencoder(tmp_path / "own").latent_mean.flatten().tolist() == pytest.approx(record["mean"])
    assert load_autoencoder(
        tmp_path / "own", as_shipped=True
    ).latent_mean.flatten().tolist() == pytest.approx(FOUR["latents_mean"])


def test_statistics_of_other_weights_or_damaged_ones_are_refused_and_can_be_measured_again(tmp_path: Path):
    case = CASES["Tiny"]
    saved(tmp_path, case)
    stats(settings_of(tmp_path, case))
    before = (tmp_path / FILE).read_text()
    saved(tmp_path, case)  # other random weights
    with pytest.raises(ValueError, match=f"{FILE} was measured of other weights .*dit vae stats"):
        load_autoencoder(tmp_path)
    stats(settings_of(tmp_path, case))
    assert (tmp_path / FILE).read_text() != before
    load_autoencoder(tmp_path)
    good = json.loads((tmp_path / FILE).read_text())
    for change in ({"mean": [0.0]}, {"std": "1"}, {"std": [1.0, 0.0, 1.0, 1.0]}, {"version": 2}):
        (tmp_path / FILE).write_text(json.dumps(good | change))
        with pytest.raises(ValueError, match=FILE):
            load_autoencoder(tmp_path)


def test_a_channel_that_does_not_vary_is_named_and_not_written(tmp_path: Path):
    case = CASES["Tiny"]
    model = saved(tmp_path, case)
    model.encoder.layers[-1].weight[2] = 0
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"latent channel 2 has the mean .* and the std .*: not usable"):
        stats(settings_of(tmp_path, case))
    assert not (tmp_path / FILE).exists()


def test_two_processes_measure_what_one_does_on_files_too(tmp_path: Path, real_clips: Path, capsys):
    (tmp_path / "clips").mkdir()
    for name in ("cogvideo_horse.mp4", "cogvideo_kitten.mp4"):
        shutil.copy(real_clips / name, tmp_path / "clips" / name)
    assert run(["data", "index", str(tmp_path / "clips")]) == 0
    arguments = ["--data", str(tmp_path / "clips"), "--count", "5", "--frames", "5", "--size", "32"]
    saved(tmp_path / "one", CASES["KL"])
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert run(["vae", "stats", str(tmp_path / "one"), *arguments]) == 0
    result = launch("vae.stats", str(tmp_path / "two"), *arguments, processes=2)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-5:] == capsys.readouterr().out.splitlines()[-5:]
    assert (tmp_path / "one" / FILE).read_bytes() == (tmp_path / "two" / FILE).read_bytes()
    more = [str(tmp_path / "two"), *arguments, "--workers", "1", "--replace"]
    assert run(["vae", "stats", *more]) == 0  # who reads the files is nothing that is measured
    assert (tmp_path / "one" / FILE).read_bytes() == (tmp_path / "two" / FILE).read_bytes()


def test_our_own_weights_carry_theirs_and_change_only_when_asked(tmp_path: Path, capsys):
    file = tmp_path / "a.safetensors"
    save_weights(file, Autoencoder(MODEL).state_dict(), "autoencoder", {"model": to_json(MODEL)}, {"step": 1})
    before = file.read_bytes()
    settings = StatsSettings(str(file), "shapes", count=2, frames=5, size=32)
    found = stats(settings)
    assert file.read_bytes() == before and "weights file are kept" in capsys.readouterr().err
    stats(replace(settings, replace=True))
    assert read_header(file).facts["statistics"]["count"] == 2
    assert read_header(file).facts["step"] == 1
    again = stats(settings)
    assert again.std == pytest.approx(found.std, rel=1e-5)
    assert load_autoencoder(file).latent_mean.flatten().tolist() == pytest.approx(found.mean, abs=1e-6)
    with pytest.raises(ValueError, match="a model's own copy"):
        stats(StatsSettings("builtin", "shapes", replace=True))

    write_wan(tmp_path / "wan", Autoencoder(MODEL))
    found = stats(replace(settings, autoencoder=str(tmp_path / "wan"), replace=True))
    assert load_autoencoder(tmp_path / "wan").statistics.std == pytest.approx(found.std)
    assert not load_autoencoder(tmp_path / "wan", as_shipped=True).measured


@pytest.mark.parametrize(
    "words, change",
    [
        ("which autoencoder", {"autoencoder": ""}),
        ("--data is empty", {"data": ""}),
        ("count = 0", {"count": 0}),
        ("seed = -1", {"seed": -1}),
        (r"12 frames do not fit 1 \+ 4k: use 13", {"frames": 12}),
        ("no autoencoder there", {"autoencoder": "nowhere"}),
    ],
)
def test_what_makes_no_measurement_is_told(tmp_path: Path, words: str, change: dict):
    saved(tmp_path, CASES["HunyuanVideo 1.5"])
    with pytest.raises(ValueError, match=words):
        given = settings_of(tmp_path, CASES["HunyuanVideo 1.5"], **change)
        stats(from_json(StatsSettings, to_json(given)))


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


def test_a_model_is_trained_on_their_latents_and_carries_its_own_copy(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr("dit.train.HELD_OUT", 2)
    monkeypatch.setattr("dit.train.SHOWN", 1)
    case = replace(
        CASES["KL"],
        settings=FRAMES
        | dict(
            block_out_channels=(8,) * 4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        ),
    )
    saved(tmp_path / "kl", case)
    stats(settings_of(tmp_path / "kl", case, frames=3, size=32))
    train(transformer_run(tmp_path / "run", tmp_path / "kl", steps=2, show_every=9))
    kept = tmp_path / "run" / "vae"
    weights = "diffusion_pytorch_model.safetensors"
    assert sorted(file.name for file in kept.iterdir()) == ["config.json", weights, FILE]
    train(transformer_run(tmp_path / "other", tmp_path / "kl", steps=4, show_every=9))
    shutil.rmtree(tmp_path / "kl")
    train(transformer_run(tmp_path / "run", tmp_path / "kl", steps=4, show_every=9))
    one, two = state(tmp_path / "run"), state(tmp_path / "other")
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)

    model = load_model(str(tmp_path / "run"), torch.device("cpu"), torch.float32)
    assert stored_hash(tmp_path / "run") in model.weights
    shape = model.autoencoder.latent_shape(5, 32, 32)
    assert shape == (4, 5, 4, 4)
    (video,) = generate_videos(model, [Request(Condition("a red circle"), shape, 0)], model.sampler)
    assert video.shape == (3, 5, 32, 32) and video.abs().max() <= 1
    with pytest.raises(ValueError, match="another takes no limit of memory"):
        tile_for(model.autoencoder, *shape[2:], budget=1000)
    before = stored_hash(tmp_path / "run")
    with pytest.raises(ValueError, match="a model's own copy"):
        stats(settings_of(tmp_path / "run", case))
    (kept / FILE).unlink()
    assert stored_hash(tmp_path / "run") != before
    capsys.readouterr()
    assert run(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 1
    assert "autoencoder is Wan 2.1's or ours" in capsys.readouterr().err
