"""Wan's transformer and whole pipelines as diffusers' state dicts, settings and folders, both ways."""

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from configs.load import from_json
from configs.model import TransformerConfig
from dit.model import Transformer
from dit.text import write_encoder
from vae.compression import PATCH
from vae.diffusers_folder import check_settings, read_folder, write_folder, write_wan
from vae.model import Autoencoder
from vae.training.files import naming, read_json, write_json
from vae.training.weights import check_tensors

PIPELINE, TRANSFORMER = "WanPipeline", "WanTransformer3DModel"
READ = {"num_attention_heads", "attention_head_dim", "in_channels", "out_channels", "text_dim", "freq_dim"}
READ |= {"ffn_dim", "num_layers", "eps"}
READ |= {"rope_max_seq_len"}  # without effect: positions are computed, however many there are
ONLY = {
    "_class_name": [TRANSFORMER],
    "patch_size": [list(PATCH)],
    "cross_attn_norm": [True],
    "qk_norm": ["rms_norm_across_heads"],
}
FLOW = {"prediction_type": ["flow_prediction"], "use_flow_sigmas": [True]}
OTHERS = {  # pipelines of Wan's networks that take other inputs -> why they are none of ours
    "WanImageToVideoPipeline": "its network takes the image in added channels or by attention",
    "WanVACEPipeline": "its network takes a second video of what is to be followed",
    "WanVideoToVideoPipeline": "it is for videos: a folder of WanPipeline has the same networks",
    "WanAnimatePipeline": "its network takes poses and faces",
}
SCHEDULERS = {  # whose times are even before a shift -> what that is called, and what must be said
    "UniPCMultistepScheduler": ("flow_shift", FLOW),
    "DPMSolverMultistepScheduler": ("flow_shift", FLOW | {"algorithm_type": ["dpmsolver++", "dpmsolver"]}),
    "FlowMatchEulerDiscreteScheduler": ("shift", {}),
}
WITHOUT_EFFECT = {  # of a scheduler's settings: noise that is no flow's, the solver's own, shifts not in use
    *("beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr"),
    *("timestep_spacing", "steps_offset", "variance_type", "lambda_min_clipped"),
    *(
        "solver_order",
        "solver_type",
        "predict_x0",
        "lower_order_final",
        "euler_at_final",
        "disable_corrector",
    ),
    *("dynamic_thresholding_ratio", "sample_max_value"),
    *("time_shift_type", "base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len"),
}
TABLE = "scale_shift_table"  # has a dimension of one more there
NAMES = {  # ours -> diffusers', outside the blocks
    "patch_embedding": "patch_embedding",
    "time_in": "condition_embedder.time_embedder.linear_1",
    "time_out": "condition_embedder.time_embedder.linear_2",
    "time_proj": "condition_embedder.time_proj",
    "text_in": "condition_embedder.text_embedder.linear_1",
    "text_out": "condition_embedder.text_embedder.linear_2",
    "proj_out": "proj_out",
}
BLOCK_NAMES = {
    "attn1.to_out": "attn1.to_out.0",
    "attn2.to_q": "attn2.to_q",
    "attn2.to_out": "attn2.to_out.0",
    "norm2": "norm2",
    "ffn_in": "ffn.net.0.proj",
    "ffn_out": "ffn.net.2",
}


def names(config: TransformerConfig) -> Iterator[tuple[str, list[str]]]:
    """Every tensor of ours, with diffusers' names of the equal parts along its first dimension."""
    yield TABLE, [TABLE]
    for ours, theirs in NAMES.items():
        for part in ("weight", "bias"):
            yield f"{ours}.{part}", [f"{theirs}.{part}"]
    for block in (f"blocks.{number}." for number in range(config.depth)):
        yield f"{block}{TABLE}", [f"{block}{TABLE}"]
        for ours, theirs in BLOCK_NAMES.items():
            for part in ("weight", "bias"):
                yield f"{block}{ours}.{part}", [f"{block}{theirs}.{part}"]
        for attention, fused, letters in (("attn1", "to_qkv", "qkv"), ("attn2", "to_kv", "kv")):
            for norm in ("norm_q", "norm_k"):
                yield f"{block}{attention}.{norm}", [f"{block}{attention}.{norm}.weight"]
            for part in ("weight", "bias"):
                names_of_parts = [f"{block}{attention}.to_{letter}.{part}" for letter in letters]
                yield f"{block}{attention}.{fused}.{part}", names_of_parts


def to_diffusers(state: dict[str, Tensor], config: TransformerConfig) -> dict[str, Tensor]:
    """Our transformer's state dict under the names and shapes of `WanTransformer3DModel`."""
    result = {}
    for ours, theirs in names(config):
        pieces = [piece.clone() for piece in state[ours].chunk(len(theirs))] if theirs[1:] else [state[ours]]
        result |= zip(theirs, pieces, strict=True)
    pt, ph, pw = PATCH
    kernel = "o (c pt ph pw) -> o c pt ph pw"
    weight = rearrange(result["patch_embedding.weight"], kernel, pt=pt, ph=ph, pw=pw)
    result["patch_embedding.weight"] = weight.contiguous()
    return {name: value[None] if name.endswith(TABLE) else value for name, value in result.items()}


def from_diffusers(
    state: dict[str, Tensor], config: TransformerConfig, take: bool = False
) -> dict[str, Tensor]:
    """The inverse of `to_diffusers`; raises ValueError naming tensors that are missing or do not fit.

    It may `take` them out of the state, so that no two copies of all of them are held.
    """
    with torch.device("meta"):
        known = to_diffusers(Transformer(config).state_dict(), config)
    check_tensors(state, known, "the state dict of a Wan transformer")
    result = {}
    for ours, theirs in names(config):
        pieces = [state.pop(name) if take else state[name] for name in theirs]
        result[ours] = torch.cat(pieces) if theirs[1:] else pieces[0]
    result["patch_embedding.weight"] = result["patch_embedding.weight"].flatten(1)
    return {name: value[0] if name.endswith(TABLE) else value for name, value in result.items()}


def transformer_settings(config: TransformerConfig) -> dict:
    """Our settings as the `config.json` of `WanTransformer3DModel`."""
    return {
        "_class_name": TRANSFORMER,
        "patch_size": list(PATCH),
        "num_attention_heads": config.heads,
        "attention_head_dim": config.width // config.heads,
        "in_channels": config.latent_channels,
        "out_channels": config.latent_channels,
        "text_dim": config.text_width,
        "freq_dim": config.time_frequencies,
        "ffn_dim": config.mlp_width,
        "num_layers": config.depth,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "eps": config.eps,
        "rope_max_seq_len": 1024,
    }


def transformer_config(settings: dict) -> TransformerConfig:
    """Our settings from a `config.json`; raises ValueError naming what this architecture does not have."""
    for key in ONLY:
        if key not in settings:
            raise ValueError(f"{key} is missing: only a {TRANSFORMER} is supported")
    check_settings(settings, READ, ONLY)
    if settings.get("out_channels") not in (None, settings["in_channels"]):
        raise ValueError("a transformer whose output has other channels than its input is not supported")
    shape = {
        "width": settings["num_attention_heads"] * settings["attention_head_dim"],
        "depth": settings["num_layers"],
        "heads": settings["num_attention_heads"],
        "mlp_width": settings["ffn_dim"],
        "text_width": settings["text_dim"],
        "latent_channels": settings["in_channels"],
        "time_frequencies": settings["freq_dim"],
        "eps": settings["eps"],
    }
    return from_json(TransformerConfig, shape)


def load_transformer(folder: Path) -> Transformer:
    """A transformer from a diffusers Wan pipeline's `transformer` folder; raises ValueError naming it."""
    settings, tensors = read_folder(folder)
    with naming(folder):
        config = transformer_config(settings)
        with torch.device("meta"):
            model = Transformer(config)
        model.load_state_dict(from_diffusers(tensors, config, take=True), assign=True)
    return model


def _scheduler_settings(shift: float) -> dict:
    """UniPC as in Wan's own folders: second order, on the path and the shifted even times of `samplers/`."""
    return {
        "_class_name": "UniPCMultistepScheduler",
        "num_train_timesteps": 1000,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": shift,
        "solver_order": 2,
        "final_sigmas_type": "zero",
    }


def scheduler_shift(folder: Path) -> float:
    """The shift of the times that a pipeline's scheduler has; raises ValueError for what is no such flow."""
    file = folder / "scheduler_config.json"
    if not file.is_file():
        raise ValueError(f"{folder} holds no scheduler: a Wan pipeline's has scheduler_config.json")
    settings = read_json(file)
    with naming(file):
        if (name := settings.get("_class_name")) not in [*SCHEDULERS]:
            raise ValueError(f"the scheduler {name} is not supported; what is: {', '.join(SCHEDULERS)}")
        key, needed = SCHEDULERS[name]
        for other in needed.keys() - settings.keys():
            if other != "algorithm_type":  # diffusers' default of the others is no flow
                raise ValueError(
                    f"{other} is missing, so that it is no flow: only {needed[other][0]} is supported"
                )
        only = needed | {"num_train_timesteps": [1000], "final_sigmas_type": ["zero"]}
        check_settings(settings, WITHOUT_EFFECT | {key}, only)
        shift = settings.get(key, 1.0)
        if type(shift) not in (int, float) or not 0 < shift < math.inf:
            raise ValueError(f"{key} = {shift!r} is no shift of the times: it must be a number above 0")
    return float(shift)


def check_pipeline(folder: Path, two: bool = False) -> float:
    """The time below which a Wan pipeline's second transformer denoises (Wan 2.2 A14B); of one transformer 0.

    Raises ValueError where a folder is of another pipeline than Wan's from text, and for two transformers
    unless they are allowed.
    """
    file = folder / "model_index.json"
    index = read_json(file) if file.is_file() else {}
    name = index.get("_class_name", PIPELINE)
    if name != PIPELINE:
        why = f", as {OTHERS[name]}" if name in [*OTHERS] else ""
        raise ValueError(f"{folder} is a {name}, which is not supported{why}; what is: {PIPELINE}")
    boundary = index.get("boundary_ratio")
    second = index.get("transformer_2") not in (None, [None, None]) or (folder / "transformer_2").exists()
    if (second or boundary is not None) and not two:
        raise ValueError(
            f"{folder} holds two transformers (Wan 2.2 A14B), which are only sampled; "
            f"here pipelines of one are supported"
        )
    known_parts = {"transformer": [TRANSFORMER], "scheduler": SCHEDULERS}
    for part, known in (known_parts | ({"transformer_2": [TRANSFORMER]} if second else {})).items():
        if part in index and index[part] not in [["diffusers", name] for name in known]:
            raise ValueError(f"{file}: {part} = {index[part]} is not supported; what is: {', '.join(known)}")
    if second == (boundary is None) or (second and not (type(boundary) is float and 0 < boundary < 1)):
        raise ValueError(
            f"{file}: boundary_ratio = {boundary!r}, the time from which the first of two transformers "
            f"denoises, must lie between 0 and 1 where there are two, and be null where there are not"
        )
    return boundary if second else 0.0


def write_pipeline(
    folder: Path, transformer: Transformer, autoencoder: Autoencoder, encoder: nn.Module, shift: float
) -> None:
    """Writes the whole folder of a pipeline, which diffusers' `WanPipeline.from_pretrained(folder)` loads.

    That pipeline pads the text it encodes with zeros and attends to the padding, as the open Wan weights were
    trained. Text that was trained unpadded has to be given to it as `prompt_embeds`, one prompt a call.
    Its UniPC takes our times, cut to thousandths. `FlowMatchEulerDiscreteScheduler` spaces them differently,
    unless `set_timesteps` is given the even times before the shift as `sigmas`.
    """
    tensors = to_diffusers(transformer.state_dict(), transformer.config)
    write_folder(folder / "transformer", transformer_settings(transformer.config), tensors)
    write_wan(folder / "vae", autoencoder)
    write_json(folder / "scheduler" / "scheduler_config.json", _scheduler_settings(shift))
    text = {part: ["transformers", name] for part, name in write_encoder(encoder, folder).items()}
    index = {
        "_class_name": PIPELINE,
        "transformer": ["diffusers", TRANSFORMER],
        "transformer_2": [None, None],
        "vae": ["diffusers", "AutoencoderKLWan"],
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "boundary_ratio": None,
        "expand_timesteps": False,
    }
    write_json(folder / "model_index.json", index | text)
