"""Proves that folders of another kind than Wan's from text are refused by name, and TI2V has its own size."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dit.load import load_model
from dit.train import train
from dit.wan import check_pipeline, scheduler_shift, transformer_config, transformer_settings
from tests.test_diffusers_format import CPU, change, write_wan
from tests.test_model import TINY
from tests.tiny import fresh_accelerator, transformer_run  # noqa: F401

UNIPC = {  # as Wan's own folders have it
    "_class_name": "UniPCMultistepScheduler",
    "_diffusers_version": "0.33.0.dev0",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "disable_corrector": [],
    "dynamic_thresholding_ratio": 0.995,
    "final_sigmas_type": "zero",
    "flow_shift": 3.0,
    "lower_order_final": True,
    "num_train_timesteps": 1000,
    "predict_x0": True,
    "prediction_type": "flow_prediction",
    "rescale_betas_zero_snr": False,
    "sample_max_value": 1.0,
    "solver_order": 2,
    "solver_p": None,
    "solver_type": "bh2",
    "steps_offset": 0,
    "thresholding": False,
    "timestep_spacing": "linspace",
    "trained_betas": None,
    "use_beta_sigmas": False,
    "use_exponential_sigmas": False,
    "use_flow_sigmas": True,
    "use_karras_sigmas": False,
}
EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 5.0}


def shift_of(folder: Path, settings: dict) -> float:
    (folder / "scheduler_config.json").write_text(json.dumps(settings))
    return scheduler_shift(folder)


def test_the_shift_of_flows_is_read(tmp_path: Path):
    assert shift_of(tmp_path, UNIPC) == 3.0 and shift_of(tmp_path, EULER) == 5.0
    assert shift_of(tmp_path, {k: v for k, v in EULER.items() if k != "shift"}) == 1.0  # diffusers' default
    dpm = UNIPC | {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver++"}
    assert shift_of(tmp_path, dpm | {"lambda_min_clipped": -float("inf"), "variance_type": None}) == 3.0


def test_what_diffusers_itself_writes_is_read(tmp_path: Path):
    import diffusers

    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 4.0}
    for name, given in {
        "UniPCMultistepScheduler": flow,
        "DPMSolverMultistepScheduler": flow,
        "FlowMatchEulerDiscreteScheduler": {"shift": 4.0},
    }.items():
        getattr(diffusers, name)(**given).save_pretrained(tmp_path)
        assert scheduler_shift(tmp_path) == 4.0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (UNIPC | {"prediction_type": "epsilon"}, 'prediction_type = "epsilon" is not supported, only "flow'),
        (UNIPC | {"prediction_type": "v_prediction"}, "v_prediction"),
        ({k: v for k, v in UNIPC.items() if k != "prediction_type"}, "prediction_type is missing"),
        ({k: v for k, v in UNIPC.items() if k != "use_flow_sigmas"}, "use_flow_sigmas is missing"),
        (UNIPC | {"use_flow_sigmas": False}, "use_flow_sigmas = false is not supported, only true"),
        (UNIPC | {"flow_shift": None}, "flow_shift = None is no shift of the times: it must be a n"),
        (UNIPC | {"flow_shift": "3"}, "flow_shift = '3' is no shift"),
        (UNIPC | {"flow_shift": -1.0}, "flow_shift = -1.0 is no shift"),
        (UNIPC | {"flow_shift": float("nan")}, "flow_shift = nan is no shift"),
        (UNIPC | {"flow_shift": True}, "flow_shift = True is no shift"),
        (UNIPC | {"shift": 5.0}, "shift = 5.0 is not supported"),
        (UNIPC | {"shift_terminal": 0.1}, "shift_terminal = 0.1 is not supported"),
        (UNIPC | {"sigma_min": 0.02}, "sigma_min = 0.02 is not supported"),
        (UNIPC | {"sigma_max": 0.9}, "sigma_max"),
        (UNIPC | {"use_dynamic_shifting": True}, "use_dynamic_shifting = true is not supported"),
        (UNIPC | {"use_karras_sigmas": True}, "use_karras_sigmas"),
        (UNIPC | {"use_beta_sigmas": True}, "use_beta_sigmas"),
        (UNIPC | {"thresholding": True}, "thresholding"),
        (UNIPC | {"num_train_timesteps": 500}, "num_train_timesteps = 500 is not supported, only 1000"),
        (UNIPC | {"final_sigmas_type": "sigma_min"}, "final_sigmas_type"),
        (UNIPC | {"solver_p": "DPMSolver"}, "solver_p"),
        (UNIPC | {"a_setting_of_tomorrow": 3}, "a_setting_of_tomorrow = 3 is not supported"),
        (EULER | {"stochastic_sampling": True}, "stochastic_sampling"),
        (EULER | {"invert_sigmas": True}, "invert_sigmas"),
        (EULER | {"flow_shift": 3.0}, "flow_shift = 3.0 is not supported"),
        (
            UNIPC | {"_class_name": "DDIMScheduler"},
            "scheduler DDIMScheduler is not supported; what is: UniPC",
        ),
        (UNIPC | {"_class_name": "LCMScheduler"}, "LCMScheduler"),
        (UNIPC | {"_class_name": ["UniPCMultistepScheduler"]}, "is not supported; what is"),
        ({k: v for k, v in UNIPC.items() if k != "_class_name"}, "the scheduler None is not supported"),
        (
            UNIPC | {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"},
            'algorithm_type = "sde-dpmsolver\\+\\+" is not supported',
        ),
    ],
)
def test_schedulers_that_are_not_done_are_refused_by_name(tmp_path: Path, settings: dict, words: str):
    with pytest.raises(ValueError, match=rf"scheduler_config\.json: .*{words}"):
        shift_of(tmp_path, settings)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_class_name": "WanVACETransformer3DModel"}, '_class_name = "WanVACE.* not supported, only "Wan'),
        ({"_class_name": "SkyReelsV2Transformer3DModel"}, "SkyReelsV2"),
        ({"_class_name": None}, "_class_name = null"),
        ({"image_dim": 1280}, "image_dim = 1280 is not supported"),
        ({"added_kv_proj_dim": 5120}, "added_kv_proj_dim"),
        ({"pos_embed_seq_len": 514}, "pos_embed_seq_len"),
        ({"vace_layers": [0, 5]}, "vace_layers"),
        ({"inject_sample_info": True}, "inject_sample_info"),
        ({"patch_size": [1, 4, 4]}, "patch_size"),
        ({"qk_norm": None}, "qk_norm = null"),
        ({"cross_attn_norm": False}, "cross_attn_norm"),
        ({"in_channels": 36}, "other channels"),
        ({"num_layers": "two"}, "depth"),
    ],
)
def test_transformers_that_are_not_done_are_refused_by_name(change: dict, words: str):
    settings = transformer_settings(TINY)
    assert transformer_config(settings | {"pos_embed_seq_len": None}) == TINY
    with pytest.raises(ValueError, match=words):
        transformer_config(settings | change)


INDEX = {
    "_class_name": "WanPipeline",
    "boundary_ratio": None,
    "expand_timesteps": True,
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "transformer_2": [None, None],
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_class_name": "WanImageToVideoPipeline"}, "is a WanImageToVideoPipeline, .* in added channels"),
        (
            {"_class_name": "WanVACEPipeline"},
            "is a WanVACEPipeline, which is not supported, as its network takes",
        ),
        ({"_class_name": "SkyReelsV2Pipeline"}, "SkyReelsV2Pipeline"),
        ({"_class_name": ["my", "Pipeline"]}, "not supported"),
        ({"transformer_2": ["diffusers", "WanTransformer3DModel"]}, "holds two transformers"),
        ({"boundary_ratio": 0.875}, "holds two transformers"),
        ({"scheduler": ["diffusers", "DDIMScheduler"]}, "scheduler = .*DDIMScheduler.* is not supported"),
        ({"transformer": ["diffusers", "WanVACETransformer3DModel"]}, "transformer = .*VACE"),
        ({"transformer": [None, None]}, "transformer = .*None"),
    ],
)
def test_pipelines_that_are_not_done_are_refused_by_name(tmp_path: Path, change: dict, words: str):
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps(INDEX))
    check_pipeline(tmp_path)
    index.write_text(json.dumps(INDEX | change))
    with pytest.raises(ValueError, match=words):
        check_pipeline(tmp_path)


def test_two_transformers_are_not_trained_nor_sampled_without_a_boundary(tmp_path: Path):
    write_wan(tmp_path)
    folder = tmp_path / "wan"
    assert load_model(str(folder), CPU, torch.float32).size == (81, 480, 832)
    shutil.copytree(folder / "transformer", folder / "transformer_2")
    for _ in ("with", "without"):
        with pytest.raises(ValueError, match=r"transformer_2 = .None, None|boundary_ratio = None, "):
            load_model(str(folder), CPU, torch.float32)
        config = replace(transformer_run(tmp_path / "run", folder), init=str(folder), model=TINY)
        config = replace(config, text=replace(config.text, width=TINY.text_width))
        with pytest.raises(ValueError, match=r"holds two transformers \(Wan 2\.2 A14B\)"):
            train(config)
        (folder / "model_index.json").unlink(missing_ok=True)


@pytest.mark.parametrize("boundary", [0.0, 1.0, 2, "0.9", True])
def test_a_boundary_lies_between_the_ends(tmp_path: Path, boundary):
    second = {"transformer_2": ["diffusers", "WanTransformer3DModel"], "boundary_ratio": boundary}
    (tmp_path / "model_index.json").write_text(json.dumps(INDEX | second))
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        check_pipeline(tmp_path, two=True)
    (tmp_path / "model_index.json").write_text(json.dumps(INDEX | second | {"boundary_ratio": 0.875}))
    assert check_pipeline(tmp_path, two=True) == 0.875


def test_ti2v_has_its_own_size_and_rate(tmp_path: Path):
    residual = {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12}
    write_wan(tmp_path, **residual, scale_factor_spatial=16)
    model = load_model(str(tmp_path / "wan"), CPU, torch.float32)
    assert (model.size, model.fps) == ((121, 704, 1280), 24.0)
    assert model.autoencoder.latent_shape(*model.size) == (4, 31, 44, 80)


def test_an_autoencoder_s_class_is_read(tmp_path: Path):
    write_wan(tmp_path)
    file = tmp_path / "wan" / "vae" / "config.json"
    whole = json.loads(file.read_text())
    for settings, words in (
        ({"_class_name": None}, "holds None, which is not supported"),
        ({"attn_scales": [1.0]}, r"attn_scales = \[1\.0\] is not supported, only \[\]"),
        ({"mid_block_type": "other"}, "mid_block_type"),
    ):
        file.write_text(json.dumps(whole))
        change(file, **settings)
        with pytest.raises(ValueError, match=words):
            load_model(str(tmp_path / "wan"), CPU, torch.float32)
