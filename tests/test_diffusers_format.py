"""Proves that weights and pipelines go to diffusers and come back, and that both sample the same videos."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from configs.data import DataConfig
from configs.load import to_json
from configs.model import AutoencoderConfig, TextConfig
from configs.sampling import SamplerConfig
from configs.train import FlowConfig, TransformerRun
from dit.cli import run as run_command
from dit.condition import Condition, Given
from dit.export import FORMATS
from dit.generate import Request, generate, generate_videos
from dit.load import TRANSFORMER, Denoiser, load_model
from dit.wan import (
    check_pipeline,
    from_diffusers,
    load_transformer,
    to_diffusers,
    transformer_config,
    transformer_settings,
)
from tests.test_model import TINY, random_transformer, reference
from tests.test_text import random_encoder, tiny_umt5
from vae import diffusers_folder as vae_folder
from vae.data.write import read_metadata
from vae.diffusers_folder import autoencoder_settings, load_wan, write_folder
from vae.interface import Statistics
from vae.load import WEIGHTS as AUTOENCODER
from vae.model import Autoencoder
from vae.training.seeds import normal
from vae.training.weights import save_weights

CPU = torch.device("cpu")
AUTOENCODER_CONFIG = AutoencoderConfig(
    base_width=8, decoder_base_width=8, latent_channels=4, residual_blocks=1
)
MEASURED = Statistics(mean=(0.1, -0.2, 0.3, 0.0), std=(0.5, 1.5, 1.0, 2.0))
SHAPE = (4, 3, 4, 6)  # 9 frames of 32 x 48
SIZE = {"num_frames": 9, "height": 32, "width": 48}


def new_autoencoder() -> Autoencoder:
    """An autoencoder whose statistics do something."""
    model = Autoencoder(AUTOENCODER_CONFIG)
    model.set_statistics(MEASURED)
    return model


def write_run(folder: Path) -> None:
    """A run of ours with random weights, its text encoder the byte-level one."""
    text = TextConfig(width=20, depth=2, heads=2, mlp_width=24, max_tokens=40)
    config = TransformerRun(
        model=TINY,
        text=text,
        data=DataConfig(frames=9, size=32),
        flow=FlowConfig(shift=2.0, shift_tokens=16),
        sampler=SamplerConfig(steps=5, solver="euler", guidance=3.0),
    )
    denoiser = Denoiser(TINY, text)
    denoiser.transformer, denoiser.text = random_transformer(TINY), random_encoder(text)
    save_weights(folder / TRANSFORMER, denoiser.trained_state(), "transformer", to_json(config))
    settings = {"model": to_json(AUTOENCODER_CONFIG)}
    save_weights(folder / AUTOENCODER, new_autoencoder().state_dict(), "autoencoder", settings)


def write_wan(folder: Path, boundary: float | None = None, **autoencoder) -> None:
    """A pipeline of diffusers' own making, with random weights and a scheduler like the open Wan models'.

    With other settings of the autoencoder it is like Wan 2.2's for text and images, and with a boundary like
    its larger one, of two transformers.
    """
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline
    from transformers import AutoTokenizer, UMT5EncoderModel

    tiny_umt5(folder / "text")
    settings = {k: v for k, v in autoencoder_settings(new_autoencoder()).items() if not k.startswith("_")}
    second = {}
    if boundary is not None:
        second = {"transformer_2": reference(random_transformer(TINY)), "boundary_ratio": boundary}
    WanPipeline(
        tokenizer=AutoTokenizer.from_pretrained(folder / "text" / "tokenizer"),
        text_encoder=UMT5EncoderModel.from_pretrained(folder / "text" / "text_encoder"),
        vae=AutoencoderKLWan(**settings | autoencoder),
        expand_timesteps=bool(autoencoder),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=2.5
        ),
        transformer=reference(random_transformer(TINY)),
        **second,
    ).save_pretrained(folder / "wan")


def with_euler(pipeline) -> None:
    """Gives a pipeline Euler's solver on the even times 1, 1 - 1/n, … 1/n, with its own scheduler's shift."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=pipeline.scheduler.config.flow_shift)
    plain = scheduler.set_timesteps
    scheduler.set_timesteps = lambda steps, device: plain(
        sigmas=[1 - step / steps for step in range(steps)], device=device
    )
    pipeline.scheduler = scheduler
    pipeline.set_progress_bar_config(disable=True)


def noise_of(request: Request) -> Tensor:
    return normal(request.shape, request.seed, "sample noise")


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-4) -> None:
    assert (ours - theirs).abs().max() < tolerance * theirs.abs().max()


@pytest.mark.parametrize("heads, depth", [(1, 3), (3, 1)])
def test_state_dicts_go_to_diffusers_and_back(heads: int, depth: int):
    config = replace(TINY, heads=heads, depth=depth)
    state = random_transformer(config).state_dict()
    again = from_diffusers(to_diffusers(state, config), config)
    assert state.keys() == again.keys()
    assert all(torch.equal(state[name], again[name]) for name in state)
    assert transformer_config(transformer_settings(config)) == config


def test_folders_that_diffusers_saved_are_read(tmp_path: Path):
    theirs = reference(random_transformer(TINY))
    for name, size in {"whole": "1GB", "sharded": "20KB"}.items():
        theirs.save_pretrained(tmp_path / name, max_shard_size=size)
        ours = load_transformer(tmp_path / name)
        assert ours.config == TINY
        again, wanted = to_diffusers(ours.state_dict(), TINY), theirs.state_dict()
        assert again.keys() == wanted.keys()
        assert all(torch.equal(again[name], wanted[name]) for name in wanted)
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1


def test_tensors_without_a_place_are_named():
    state = to_diffusers(random_transformer(TINY).state_dict(), TINY)
    with pytest.raises(ValueError, match=r"blocks\.0\.attn2\.add_k_proj\.weight has no place"):
        from_diffusers(state | {"blocks.0.attn2.add_k_proj.weight": torch.zeros(1)}, TINY)
    with pytest.raises(
        ValueError, match=r"Wan transformer does not fit the model\'s settings: blocks\.1\.\S+ has no place"
    ):
        from_diffusers(state, replace(TINY, depth=1))
    del state["proj_out.bias"]
    with pytest.raises(ValueError, match=r"proj_out\.bias is missing"):
        from_diffusers(state, TINY)


@pytest.mark.parametrize(
    "part, setting",
    [
        ("transformer", {"image_dim": 1280}),
        ("transformer", {"in_channels": 36, "out_channels": 16}),
        ("transformer", {"qk_norm": None}),
        ("vae", {"_class_name": "AutoencoderKLAllegro"}),
        ("model_index", {"transformer_2": ["diffusers", "WanVACETransformer3DModel"]}),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_other_architectures_are_refused(tmp_path: Path, part: str, setting: dict):
    write_run(tmp_path / "run")
    assert run_command(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    names = {
        "transformer": "transformer/config.json",
        "vae": "vae/config.json",
        "model_index": "model_index.json",
    }
    file = tmp_path / "out" / names[part]
    file.write_text(json.dumps(json.loads(file.read_text()) | setting))
    with pytest.raises(ValueError, match="supported"):
        load_model(str(tmp_path / "out"), CPU, torch.float32)


@pytest.mark.parametrize("nothing", [None, [None, None]])
def test_a_second_transformer_that_is_none_is_none(tmp_path: Path, nothing):
    (tmp_path / "model_index.json").write_text(json.dumps({"transformer_2": nothing}))
    check_pipeline(tmp_path)


def test_an_unfinished_folder_is_told_in_one_sentence(tmp_path: Path, capsys):
    write_run(tmp_path / "run")
    assert run_command(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    for lost in ("vae/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"):
        (tmp_path / "out" / lost).unlink()
        with pytest.raises(ValueError, match=lost.split("/")[0]):
            load_model(str(tmp_path / "out"), CPU, torch.float32)
    capsys.readouterr()
    assert run_command(["export", str(tmp_path / "nothing"), "--out", str(tmp_path / "other")]) == 1
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "other").exists()


def test_an_exported_model_samples_the_same_in_diffusers(tmp_path: Path, capsys):
    from diffusers import WanPipeline

    write_run(tmp_path / "run")
    command = ["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    assert run_command(command) == 0
    assert run_command(command) == 1 and "already there" in capsys.readouterr().err
    model = load_model(str(tmp_path / "run"), CPU, torch.float32)
    again = load_model(str(tmp_path / "out"), CPU, torch.float32)
    request = Request(Condition("a red circle"), (4, 3, 4, 4), 7)
    latents = generate(model.denoiser, [request], model.flow, model.sampler)[0]
    assert (again.flow, again.sampler, again.size) == (model.flow, model.sampler, model.size)
    assert_close(generate(again.denoiser, [request], again.flow, again.sampler)[0], latents)

    pipeline = WanPipeline.from_pretrained(tmp_path / "out")
    assert pipeline.scheduler.config.flow_shift == pytest.approx(2 * (3 * 2 * 2 / 16) ** 0.5)
    ids = pipeline.tokenizer([request.condition.prompt, ""])["input_ids"]
    with torch.no_grad():
        prompt, null = (pipeline.text_encoder(torch.tensor([row])).last_hidden_state for row in ids)
    asked = {
        "prompt_embeds": prompt,
        "negative_prompt_embeds": null,
        "latents": noise_of(request)[None],
        "num_frames": 9,
        "height": 32,
        "width": 32,
        "guidance_scale": 3.0,
    }
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(**asked, num_inference_steps=100, output_type="latent").frames[0]
    fine = generate(
        model.denoiser, [request], model.flow, replace(model.sampler, solver="multistep", steps=100)
    )
    assert_close(fine[0], theirs, 2e-2)  # UniPC sees whole thousandths of time
    with_euler(pipeline)
    theirs = pipeline(**asked, num_inference_steps=5, output_type="latent").frames[0]
    assert_close(latents, theirs)
    (video,) = generate_videos(model, [request], model.sampler)
    frames = pipeline(**asked, num_inference_steps=5, output_type="pt").frames[0]
    assert_close((video / 2 + 0.5).transpose(0, 1), frames)
    assert frames.std() > 0.01


@pytest.mark.parametrize("version", ["2.1", "2.2"])
def test_a_wan_pipeline_samples_the_same_here(tmp_path: Path, version: str):
    from diffusers import WanPipeline

    residual = {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12}
    write_wan(tmp_path, **(residual | {"scale_factor_spatial": 16} if version == "2.2" else {}))
    side = 1 if version == "2.1" else 2
    size = SIZE | {name: side * SIZE[name] for name in ("height", "width")}
    pipeline = WanPipeline.from_pretrained(tmp_path / "wan")
    with_euler(pipeline)
    model = load_model(str(tmp_path / "wan"), CPU, torch.float32)
    assert (model.flow.shift, model.flow.shift_tokens) == (2.5, 0)
    requests = [
        Request(Condition("a red circle"), SHAPE, 1),
        Request(Condition("blue", negative="a dull square"), SHAPE, 2),
    ]
    ours = generate(
        model.denoiser, requests, model.flow, SamplerConfig(steps=5, solver="euler", guidance=5.0)
    )
    theirs = pipeline(
        [request.condition.prompt for request in requests],
        negative_prompt=[request.condition.negative for request in requests],
        latents=torch.stack([noise_of(request) for request in requests]),
        num_inference_steps=5,
        guidance_scale=5.0,
        output_type="latent",
        **size,
    ).frames
    assert_close(torch.stack(ours), theirs)
    video = torch.rand(1, 3, 9, size["height"], size["width"]) * 2 - 1
    mean, std = (torch.tensor(v).view(4, 1, 1, 1) for v in (MEASURED.mean, MEASURED.std))
    with torch.no_grad():
        wanted = (pipeline.vae.encode(video).latent_dist.mean - mean) / std
        assert_close(model.autoencoder.encode(video), wanted)
        wanted = pipeline.vae.decode(theirs * std + mean).sample
        assert_close(model.autoencoder.decode(theirs), wanted)


def test_a_pipeline_of_two_transformers_samples_the_same_here(tmp_path: Path):
    """Wan 2.2 A14B: the first for times from the boundary on, the second below it."""
    from diffusers import WanPipeline

    write_wan(tmp_path, boundary=0.8)
    pipeline = WanPipeline.from_pretrained(tmp_path / "wan")
    with_euler(pipeline)
    model = load_model(str(tmp_path / "wan"), CPU, torch.float32)
    request = Request(Condition("blue", negative="a dull square"), SHAPE, 2)
    sampler = SamplerConfig(steps=5, solver="euler", guidance=5.0)
    ours = generate(model.denoiser, [request], model.flow, sampler)[0]
    asked = {"num_inference_steps": 5, "guidance_scale": 5.0, "output_type": "latent", **SIZE}
    asked |= {"latents": noise_of(request)[None], "negative_prompt": request.condition.negative}
    theirs = pipeline(request.condition.prompt, **asked).frames[0]
    assert_close(ours, theirs, 1e-5)
    for boundary in (0.0, 1.0):  # neither transformer alone comes to that
        model.denoiser.boundary = boundary
        assert (generate(model.denoiser, [request], model.flow, sampler)[0] - theirs).abs().max() > 1e-3
    assert len(model.weights.split("+")) == 4  # two transformers, autoencoder and text encoder
    with pytest.raises(ValueError, match="only sampled, not exported"):
        FORMATS["diffusers"](tmp_path / "out", model)


def test_a_first_frame_is_given_as_diffusers_image_to_video_gives_it(tmp_path: Path):
    """Wan 2.2 TI2V: the frame's tokens at time 0, all others at the solver's (`expand_timesteps`)."""
    from diffusers import WanImageToVideoPipeline, WanPipeline

    residual = {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12}
    write_wan(tmp_path, **residual, scale_factor_spatial=16)
    text = WanPipeline.from_pretrained(tmp_path / "wan")
    with_euler(text)
    names = ("tokenizer", "text_encoder", "vae", "scheduler", "transformer")
    pipeline = WanImageToVideoPipeline(**{name: getattr(text, name) for name in names}, expand_timesteps=True)
    pipeline.set_progress_bar_config(disable=True)
    model = load_model(str(tmp_path / "wan"), CPU, torch.float32)
    size = SIZE | {name: 2 * SIZE[name] for name in ("height", "width")}
    frame = torch.rand(1, 3, size["height"], size["width"])
    given = Given(model.autoencoder.encode(2 * frame[:, :, None] - 1)[0])
    request = Request(Condition("blue", givens=(given,), negative="a dull square"), SHAPE, 2)
    ours = generate(
        model.denoiser, [request], model.flow, SamplerConfig(steps=5, solver="euler", guidance=5.0)
    )[0]
    theirs = pipeline(
        frame,
        request.condition.prompt,
        negative_prompt=request.condition.negative,
        latents=noise_of(request)[None],
        num_inference_steps=5,
        guidance_scale=5.0,
        output_type="latent",
        **size,
    ).frames[0]
    assert_close(ours, theirs, 1e-5)
    assert torch.equal(ours[:, :1], given.latents_CTHW)


def test_a_pipeline_s_autoencoder_has_the_channels_that_its_transformer_takes(tmp_path: Path):
    write_run(tmp_path / "run")
    assert run_command(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    five = replace(AUTOENCODER_CONFIG, latent_channels=5)
    vae_folder.write_wan(tmp_path / "out" / "vae", Autoencoder(five))
    with pytest.raises(ValueError, match="takes 4 latent channels, but the autoencoder has 5"):
        load_model(str(tmp_path / "out"), CPU, torch.float32)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-8])


def change(file: Path, **settings) -> None:
    """Changes settings of a JSON file; None takes one out."""
    values = json.loads(file.read_text()) | settings
    file.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda folder: cut(folder / "diffusion_pytorch_model.safetensors"), r"model\.safetensors cannot be"),
        (lambda folder: change(folder / "config.json", eps=None), "transformer: 'eps' is missing"),
        (lambda folder: change(folder / "config.json", num_layers="two"), "transformer: "),
        (
            lambda folder: change(folder / "config.json", ffn_dim=7),
            r"transformer: .* does not fit the model's settings: \S+ is \(.*, not \(7,",
        ),
        (lambda folder: cut(folder / "config.json"), r"transformer.config\.json is not JSON"),
        (
            lambda folder: (folder / "config.json").write_text("[1]"),
            r"transformer.config\.json: all of it = \[1\]",
        ),
    ],
)
def test_a_damaged_folder_is_named(tmp_path: Path, damage, words):
    folder = tmp_path / "transformer"
    write_folder(
        folder, transformer_settings(TINY), to_diffusers(random_transformer(TINY).state_dict(), TINY)
    )
    damage(folder)
    with pytest.raises(ValueError, match=words):
        load_transformer(folder)


def test_an_autoencoder_s_folder_of_other_sizes_is_named(tmp_path: Path):
    folder = tmp_path / "vae"
    vae_folder.write_wan(folder, new_autoencoder())
    change(folder / "config.json", base_dim=4)
    with pytest.raises(ValueError, match=r"vae does not fit the model's settings: \S+ is \(8,.*\), not \(4,"):
        load_wan(folder)


def test_a_video_of_a_pipeline_is_made_again_by_the_same_pipeline_only(tmp_path: Path, capsys):
    write_run(tmp_path / "run")
    folder, out = tmp_path / "out", tmp_path / "one.mp4"
    assert run_command(["export", str(tmp_path / "run"), "--out", str(folder)]) == 0
    size = ["--frames", "1", "--height", "16", "--width", "16", "--steps", "1"]
    assert run_command(["sample", "a", *size, "--model", str(folder), "--out", str(out)]) == 0
    record = read_metadata(out)
    assert record["model"]["flow"]["shift"] == 2.0 and record["model"]["model"] == to_json(TINY)
    assert run_command(["export", str(folder), "--out", str(tmp_path / "half"), "--format", "half"]) == 1
    again = ["sample", "--again", str(out), "--model", str(folder)]
    assert run_command(again) == 0
    capsys.readouterr()
    settings = json.loads((folder / "dit.json").read_text())
    change(folder / "dit.json", flow=settings["flow"] | {"shift": 4.0})
    assert run_command(again) == 1
    assert "made with flow.shift = 2.0, but" in capsys.readouterr().err
    change(folder / "dit.json", fps=None)
    assert run_command(again) == 1
    assert "dit.json: fps is missing" in capsys.readouterr().err
    change(folder / "dit.json", **settings)
    (weights,) = (folder / "text_encoder").glob("*.safetensors")
    tensors = load_file(weights)
    save_file({name: 2 * tensor for name, tensor in tensors.items()}, weights, {"format": "pt"})
    assert run_command(again) == 1
    assert "made with other weights" in capsys.readouterr().err
