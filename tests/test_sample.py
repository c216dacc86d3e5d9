"""Proves `dit sample`: what is asked for is made, what is given is kept, mistakes are one line."""

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from configs.data import DataConfig
from configs.load import to_json
from configs.model import AutoencoderConfig, TextConfig, TransformerConfig
from configs.sampling import SamplerConfig, SampleSettings
from configs.train import TransformerRun
from dit.bench.measure import peak_allocated
from dit.cli import run
from dit.condition import Condition
from dit.export import FORMATS
from dit.generate import Request, generate, generate_videos
from dit.load import AVERAGE, BUILTIN, TRANSFORMER, Denoiser, find_weights, load_model
from dit.record import write
from dit.requests import Asked
from dit.sample import file_names, sample
from vae import tiles
from vae.data.sheets import contact_sheet, evenly
from vae.data.video import how_fitted, read_frames, resize_and_crop, to_video
from vae.data.write import read_metadata, to_frames
from vae.interface import Statistics
from vae.load import WEIGHTS as AUTOENCODER
from vae.load import load_autoencoder
from vae.model import Autoencoder
from vae.training.files import file_hash
from vae.training.weights import load_weights, save_weights

RUN = TransformerRun(
    data=DataConfig(frames=5, size=32),
    model=TransformerConfig(width=24, depth=2, heads=2, mlp_width=32, text_width=16, latent_channels=4),
    text=TextConfig(width=16, depth=1, heads=2, mlp_width=16),
    sampler=SamplerConfig(steps=3, guidance=2.0),
)
TINY = AutoencoderConfig(
    base_width=4, decoder_base_width=4, latent_channels=4, width_multipliers=(1, 1, 1, 1), residual_blocks=1
)
MEASURED = Statistics(mean=(0.1, 0.0, -0.2, 0.3), std=(1.0, 2.0, 0.5, 1.0))


def write_model(path: Path, seed: int) -> Path:
    """A model folder with random weights, in which every parameter matters."""
    torch.manual_seed(seed)
    denoiser, autoencoder = Denoiser(RUN.model, RUN.text), Autoencoder(TINY)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.normal_(std=0.3)
    autoencoder.set_statistics(MEASURED)
    save_weights(path / TRANSFORMER, denoiser.trained_state(), "transformer", to_json(RUN))
    save_weights(path / AUTOENCODER, autoencoder.state_dict(), "autoencoder", {"model": to_json(TINY)})
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), seed=0)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A PNG of another size than the videos."""
    pixels = torch.randint(256, (50, 70, 3), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def frames_hash(video_CTHW: torch.Tensor) -> str:
    """SHA-256 of a whole video's RGB bytes."""
    return hashlib.sha256(to_frames(video_CTHW).numpy().tobytes()).hexdigest()


def message(capsys, *words: str) -> str:
    """The one line that a failing command prints."""
    capsys.readouterr()
    assert run(["sample", *map(str, words)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    return captured.err


def test_an_autoencoder_is_no_model(folder, tmp_path, capsys):
    save_weights(
        tmp_path / "step-00000003" / "average.safetensors", {}, "autoencoder checkpoint", {}, {"step": 3}
    )
    assert "is of kind autoencoder checkpoint, where transformer is needed: `dit train` makes one" in message(
        capsys, "a", "--model", tmp_path
    )


@pytest.mark.parametrize(
    ("model", "message"), [(None, "'model' is missing"), ({"depth": -1}, "depth = -1: it must be")]
)
def test_wrong_settings_in_a_weights_file_are_told_with_its_name(folder, tmp_path, capsys, model, message):
    shutil.copytree(folder, tmp_path / "run")
    tensors, header = load_weights(folder / TRANSFORMER)
    settings = {k: v for k, v in header.settings.items() if k != "model"} | (
        {"model": model} if model else {}
    )
    save_weights(tmp_path / "run" / TRANSFORMER, tensors, "transformer", settings, header.facts)
    assert run(["sample", "a", "--model", str(tmp_path / "run"), "--out", str(tmp_path / "a.mp4")]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert str(tmp_path / "run" / TRANSFORMER) in line and message in line


def test_decoding_in_tiles_gives_the_same_video(folder, tmp_path, monkeypatch, capsys):
    words = ["sample", "a cat", "--model", str(folder), "--height", "208", "--width", "224", "--frames", "5"]
    assert run([*words, "--out", str(tmp_path / "whole.png")]) == 0
    calls, plain = [], tiles.decode
    monkeypatch.setattr(tiles, "decode", lambda *a: calls.append(a[2]) or plain(*a))
    tiled = ["--decode-memory", "0.02", "--out", str(tmp_path / "tiled.png")]
    assert run([*words, *tiled]) == 0
    assert calls and 0 < calls[0] < 26
    one, other = (
        torch.cat([read_frames(file, [0]) for file in sorted((tmp_path / name).glob("*.png"))]).int()
        for name in ("whole", "tiled")
    )
    assert len(one) == len(other) == 5 and (one - other).abs().max() <= 1
    assert run(["sample", "--again", str(tmp_path / "tiled"), "--model", str(folder)]) == 0
    assert run([*words, "--decode-memory", "0.0001"]) == 1
    assert "holds no tile: the smallest takes" in capsys.readouterr().err
    assert run([*words, "--decode-memory=-1"]) == 1
    assert "decode_memory = -1.0: it must be above 0" in capsys.readouterr().err


def test_a_suggested_side_is_right_and_near():
    autoencoder = Autoencoder(TINY)
    for side in range(-16, 65):
        try:
            autoencoder.latent_shape(1, side, 32)
            assert side > 0 and side % 16 == 0
        except ValueError as error:
            use = int(re.search(r"use (\d+)$", str(error))[1])
            assert autoencoder.latent_shape(1, use, 32) == (4, 1, use // 8, 4)
            assert abs(use - side) <= 8 or use == 16


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("a red circle moves left", "a-red-circle-moves-left"),
        ('A "red"_circle!', "a-red-circle-[0-9a-f]{8}"),  # the words are not all of it
        ("a red circle!", "a-red-circle-[0-9a-f]{8}"),
        ("赤い円", "赤い円"),
        ("größe", "größe"),
        ("!?", "untitled-[0-9a-f]{8}"),
        ("a" * 61, "a{60}-[0-9a-f]{8}"),
        ("𠀀" * 60, "𠀀{30}-[0-9a-f]{8}"),  # four bytes each: a file's name may have 255
    ],
)
def test_a_file_is_named_by_its_prompt(prompt, name):
    (file,) = file_names(SampleSettings(out="videos"), [Asked(prompt, seed=7)], 1)
    assert file.parent == Path("videos") and re.fullmatch(f"{name}-7.mp4", file.name)


def test_prompts_that_share_their_words_do_not_share_a_file():
    prompts = ("!", "?", "", "a" * 60 + "b", "a" * 60 + "c", "a b", "a-b", "A b")
    asked = [Asked(prompt) for prompt in prompts]
    asked += [replace(asked[5], **own) for own in ({"height": 64}, {"negative": "c"}, {"image": "c.png"})]
    names = [file.name for file in file_names(SampleSettings(), asked, len(asked))]
    assert len(set(names)) == len(asked) and names[5] == "a-b-0.mp4"
    alone = [file_names(SampleSettings(), [one], 1)[0].name for one in asked]
    assert names == alone, "a name does not depend on the others of its call"
    (same,) = file_names(SampleSettings(height=64), [replace(asked[5], height=64)], 1)
    assert same.name == "a-b-0.mp4", "what the call asks of all is no request's own"


def test_a_run_made_longer_gives_its_newest_weights_and_a_checkpoint_its_own(folder, tmp_path, capsys):
    run_folder = tmp_path / "run"
    shutil.copytree(folder, run_folder)
    tensors, header = load_weights(folder / TRANSFORMER)
    for step in (2, 3):
        file, facts = run_folder / f"step-{step:08d}" / AVERAGE, {"step": step, "smoothed": 1.0}
        save_weights(file, tensors, "transformer checkpoint", header.settings, facts)
    old, newest = run_folder / "step-00000002", run_folder / "step-00000003"
    for step, found in ((2, newest / AVERAGE), (3, run_folder / TRANSFORMER)):
        save_weights(run_folder / TRANSFORMER, tensors, "transformer", header.settings, {"step": step})
        assert find_weights(run_folder) == found
    out = tmp_path / "one.mp4"
    assert run(["sample", "a", "--model", str(old), "--out", str(out)]) == 0
    assert f"{old} at step 2" in capsys.readouterr().err
    assert read_metadata(out)["weights"] == f"{file_hash(old / AVERAGE)}+{file_hash(folder / AUTOENCODER)}"


def test_a_model_of_any_area_has_a_size_to_sample(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    tensors, _ = load_weights(folder / TRANSFORMER)
    settings = to_json(replace(RUN, data=replace(RUN.data, size=44)))
    save_weights(tmp_path / "model" / TRANSFORMER, tensors, "transformer", settings)
    assert load_model(str(tmp_path / "model"), torch.device("cpu"), torch.float32).size == (5, 48, 48)


def test_a_contact_sheet_needs_only_the_frames_it_shows(tmp_path):
    video = torch.rand(3, 9, 32, 48) * 2 - 1
    contact_sheet([video], ["a"], tmp_path / "whole.png")
    contact_sheet([video[:, evenly(9, 5)]], ["a"], tmp_path / "shown.png")
    assert (tmp_path / "whole.png").read_bytes() == (tmp_path / "shown.png").read_bytes()


def test_a_long_video_is_written_in_the_memory_of_a_short_one(tmp_path):
    whole = torch.rand(3, 48, 32, 48) * 2 - 1
    peaks = []
    for count in (12, 48):
        file = tmp_path / f"{count}.mp4"
        parts = (whole[:, k : k + 4].clone() for k in range(0, count, 4))
        record = {"sample": {"frames": count}}
        peaks.append(
            peak_allocated(lambda f=file, p=parts, r=record: write(f, p, r, 8.0), torch.device("cpu"))
        )
        assert read_metadata(file)["frames_sha256"] == frames_hash(whole[:, :count])
    assert 0 < peaks[1] <= 1.05 * peaks[0]


def test_an_export_that_fails_leaves_nothing(folder, tmp_path, monkeypatch):
    def fail(path, model):
        (path / "half").touch()
        raise ValueError("disk full")

    monkeypatch.setitem(FORMATS, "half", fail)
    assert run(["export", str(folder), "--out", str(tmp_path / "out"), "--format", "half"]) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_seed_and_the_prompt_each_change_the_video(folder):
    model = load_model(str(folder), torch.device("cpu"), torch.float32)
    shape = (4, 2, 4, 4)
    asked = [("a", 0), ("a", 1), ("b", 0), ("a", 0)]
    made = [
        generate(model.denoiser, [Request(Condition(prompt), shape, seed)], model.flow, model.sampler)[0]
        for prompt, seed in asked
    ]
    assert torch.equal(made[0], made[3])
    assert not torch.allclose(made[0], made[1], atol=1e-2)
    assert not torch.allclose(made[0], made[2], atol=1e-4)


def test_videos_of_one_call_equal_those_of_calls_of_their_own(folder):
    model = load_model(str(folder), torch.device("cpu"), torch.float32)
    requests = [
        Request(Condition(prompt), (4, 2, 4, 4), seed) for prompt, seed in [("a", 0), ("bb", 1), ("", 2)]
    ]
    together = generate_videos(model, requests, model.sampler)
    for request, video in zip(requests, together, strict=True):
        alone = generate_videos(model, [request], model.sampler)[0]
        torch.testing.assert_close(video, alone, atol=1e-4, rtol=0)


def test_the_given_image_is_the_first_frame(folder, picture, tmp_path, monkeypatch):
    """Its latents are kept to the bit; the rest of the video depends on them."""
    requests, plain = [], generate
    monkeypatch.setattr("dit.sample.generate", lambda *a: requests.extend(a[1]) or plain(*a))
    size = {"frames": 5, "height": 32, "width": 48}
    model = load_model(str(folder), torch.device("cpu"), torch.float32)
    out = str(tmp_path / "one.mp4")
    sample(SampleSettings(prompts=("a",), image=str(picture), model=str(folder), out=out, **size))
    (request,) = requests
    made = generate(model.denoiser, [request], model.flow, model.sampler)[0]
    frame = to_video(resize_and_crop(read_frames(picture, [0]), 32, 48))
    encoded = model.autoencoder.encode(frame[None])[0]
    assert torch.equal(made[:, :1], encoded)
    free = Request(Condition("a"), request.shape, request.seed)
    other = generate(model.denoiser, [free], model.flow, model.sampler)[0]
    assert not torch.allclose(made[:, 1:], other[:, 1:], atol=1e-3)


def test_many_prompts_many_files_and_a_contact_sheet(folder, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a red circle\n\na blue square\n")
    out = tmp_path / "videos"
    words = ["--prompts-file", str(tmp_path / "prompts.txt"), "--number", "2", "--batch", "3"]
    assert run(["sample", "a red circle", *words, "--out", str(out), "--model", str(folder)]) == 0
    printed = [Path(line) for line in capsys.readouterr().out.split()]
    assert len(printed) == 5 and printed[-1].name.startswith("contact-sheet-")
    assert all(file.is_file() for file in printed)
    asked = [(record["prompt"], record["seed"]) for record in map(read_metadata, printed[:-1])]
    circle, square = ("a red circle", "a blue square")
    assert asked == [(circle, 0), (circle, 1), (square, 0), (square, 1)]  # what is asked for twice is one


@pytest.mark.parametrize("suffix", ["gif", "png", "GIF", "PNG", "MP4"])
def test_every_format_shows_the_frames_that_were_made(folder, tmp_path, suffix):
    out = tmp_path / f"one.{suffix}"
    written = sample(SampleSettings(prompts=("a",), model=str(folder), out=str(out)))
    record = json.loads(out.with_suffix(".json").read_text())
    assert written == [out.with_suffix("") if suffix.lower() == "png" else out]
    if suffix == "MP4":
        assert read_metadata(out)["frames_sha256"] == record["frames_sha256"]
        assert len(read_frames(out, range(5))) == 5
    elif suffix.lower() == "png":
        frames = torch.cat([read_frames(file, [0]) for file in sorted((tmp_path / "one").glob("*.png"))])
        assert frames_hash(to_video(frames)) == record["frames_sha256"]
    else:
        with Image.open(out, formats=["GIF", "PNG"]) as image:
            assert image.n_frames == 5


def test_one_frame_as_png_is_an_image_that_can_be_made_again(folder, tmp_path):
    out, again = tmp_path / "one.png", tmp_path / "one-again.png"
    settings = SampleSettings(prompts=("a",), frames=1, model=str(folder), out=str(out))
    assert sample(settings) == [out] and out.is_file()
    record = json.loads((tmp_path / "one.json").read_text())
    with Image.open(out, formats=["PNG"]) as image:
        assert image.format == "PNG" and image.size == (record["sample"]["width"], record["sample"]["height"])
    assert frames_hash(to_video(read_frames(out, [0]))) == record["frames_sha256"]
    assert run(["sample", "--again", str(out), "--model", str(folder)]) == 0
    assert again.read_bytes() == out.read_bytes()


def test_lines_say_how_an_image_was_fitted_and_how_well_it_was_kept(folder, tmp_path, capsys, monkeypatch):
    Image.new("RGB", (100, 40), "red").save(tmp_path / "wide.png")
    words = ["--image", str(tmp_path / "wide.png"), "--out", str(tmp_path / "a.mp4"), "--model", str(folder)]

    red = torch.tensor([1.0, -1.0, -1.0])[:, None, None, None].expand(3, 1, 32, 32)
    monkeypatch.setattr("dit.sample.decode", lambda *_: iter([0.98 * red, torch.ones(3, 4, 32, 32)]))
    assert run(["sample", "a", *words]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"{tmp_path}/wide.png: 100x40, scaled to 80x32, cut about its centre to 32x32"
    assert "a.mp4: its first frame has a PSNR of 40.0 dB to the image" in lines  # 10 log10(4 / 0.02^2)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((32, 32, 32, 32), "32x32, as it is"),
        ((64, 64, 32, 32), "64x64, scaled to 32x32"),
        ((32, 48, 32, 32), "48x32, cut about its centre to 32x32"),
        ((480, 640, 64, 64), "640x480, scaled to 85x64, cut about its centre to 64x64"),
        ((16, 16, 32, 48), "16x16, scaled to 48x48, cut about its centre to 48x32"),
    ],
)
def test_how_a_picture_is_fitted_is_what_is_done(sizes, words):
    have, want = sizes[:2], sizes[2:]
    assert how_fitted(*sizes) == words
    assert resize_and_crop(torch.zeros(1, *have, 3, dtype=torch.uint8), *want).shape == (1, *want, 3)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "no prompt"),
        (("a", "--frames", "16"), "use 17"),
        (("a", "--frames", "-3"), "at least 1"),
        (("a", "--height", "50"), "height 50 is no positive multiple of 16: use 48"),
        (("a", "--width", "-16"), "width = -16: it must be at least 1"),
        (("a", "--steps", "-2"), "at least 1"),
        (("a", "--guidance", "nan"), "guidance = nan: it must be a finite number"),
        (("a", "--fps", "nan"), "fps = nan: it must be a finite number"),
        (("a", "--fps", "inf"), "fps = inf: it must be a finite number"),
        (("a", "--image", "missing.png"), "missing.png"),
        (("a", "--prompts-file", "missing.txt"), "missing.txt"),
        (("a", "--out", "a.avi"), ".mp4"),
        (("a", "--out", "a.jpg"), "--out a.jpg: .jpg is none of .mp4, .mkv, .gif, .png"),
        (("a", "b", "--out", "a.mp4"), "give a folder"),
        (("--again", "missing.mp4"), "missing.mp4"),
        (("a", "--model", "missing"), "no such model folder"),
        (("a", "--model", __file__), "--model takes a folder, not a file in it"),
        (("a", "--seed", str(2**63 - 1), "--number", "2"), "with 2 videos it reaches 2^63"),
    ],
)
def test_mistakes_are_told_in_one_line(folder, tmp_path, monkeypatch, capsys, words, expected):
    monkeypatch.chdir(tmp_path)
    model = () if "--model" in words else ("--model", folder)
    assert expected in message(capsys, *words, *model)
    assert list(tmp_path.iterdir()) == []


def test_an_image_leaves_something_to_make(folder, picture, capsys):
    line = message(capsys, "a", "--image", picture, "--frames", "1", "--model", folder)
    assert "nothing to sample" in line


def test_half_precision_keeps_the_video(folder, tmp_path):
    assert run(["export", str(folder), "--out", str(tmp_path / "half"), "--format", "half"]) == 0
    sizes = [
        sum(file.stat().st_size for file in path.glob("*.safetensors"))
        for path in (tmp_path / "half", folder)
    ]
    assert sizes[0] < 0.6 * sizes[1]
    videos = []
    for path in (folder, tmp_path / "half"):
        model = load_model(str(path), torch.device("cpu"), torch.float32)
        videos += generate_videos(model, [Request(Condition("a"), (4, 2, 4, 4), 0)], model.sampler)
    torch.testing.assert_close(*videos, atol=0.05, rtol=0)


def test_an_export_takes_a_decoder_of_the_same_latents_only(folder, tmp_path, capsys):
    autoencoder = load_autoencoder(folder)
    with torch.no_grad():
        autoencoder.decoder.conv_out.bias += 0.1
    settings = {"model": to_json(TINY)}
    save_weights(tmp_path / "decoder" / AUTOENCODER, autoencoder.state_dict(), "autoencoder", settings)
    command = ["export", str(folder), "--format", "half", "--autoencoder"]
    assert run([*command, str(tmp_path / "decoder"), "--out", str(tmp_path / "out")]) == 0
    torch.testing.assert_close(
        load_autoencoder(tmp_path / "out").decoder.conv_out.bias.detach(),
        autoencoder.decoder.conv_out.bias.detach().half().float(),
    )
    with torch.no_grad():
        autoencoder.encoder.conv_in.bias += 0.1
    save_weights(tmp_path / "encoder" / AUTOENCODER, autoencoder.state_dict(), "autoencoder", settings)
    capsys.readouterr()
    assert run([*command, str(tmp_path / "encoder"), "--out", str(tmp_path / "other")]) == 1
    assert "other latents" in capsys.readouterr().err and not (tmp_path / "other").exists()


@pytest.mark.skipif(not (BUILTIN / TRANSFORMER).is_file(), reason="the built-in model is not there")
def test_the_built_in_model_is_small_and_needs_no_folder():
    assert sum(file.stat().st_size for file in BUILTIN.glob("*.safetensors")) <= 16_000_000
    model = load_model("builtin", torch.device("cpu"), torch.float32)
    request = Request(Condition("a red circle moves left"), (16, 5, 8, 8), seed=0)
    video = generate_videos(model, [request], model.sampler)[0]
    assert video.shape == (3, 17, 64, 64)
    assert video.std() > 0.05
