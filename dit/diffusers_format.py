"""The door to diffusers: state dicts, settings and folders of Wan, both ways."""

import json
from pathlib import Path

import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor

from configs.settings import AutoencoderConfig, TransformerConfig
from dit.model import PATCH, Transformer
from vae.model import Autoencoder

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


def to_diffusers(state: dict[str, Tensor], config: TransformerConfig) -> dict[str, Tensor]:
    """Our transformer's state dict under the names and shapes of `WanTransformer3DModel`."""
    result = {"scale_shift_table": state["scale_shift_table"][None]}
    for ours, theirs in NAMES.items():
        for part in ("weight", "bias"):
            result[f"{theirs}.{part}"] = state[f"{ours}.{part}"]
    pt, ph, pw = PATCH
    kernel = "o (c pt ph pw) -> o c pt ph pw"
    weight = rearrange(state["patch_embedding.weight"], kernel, pt=pt, ph=ph, pw=pw)
    result["patch_embedding.weight"] = weight.contiguous()
    for block in range(config.depth):
        ours, theirs = f"blocks.{block}.", f"blocks.{block}."
        result[f"{theirs}scale_shift_table"] = state[f"{ours}scale_shift_table"][None]
        for name, other in BLOCK_NAMES.items():
            for part in ("weight", "bias"):
                result[f"{theirs}{other}.{part}"] = state[f"{ours}{name}.{part}"]
        for attention, fused, parts in (("attn1", "to_qkv", "qkv"), ("attn2", "to_kv", "kv")):
            for norm in ("norm_q", "norm_k"):
                result[f"{theirs}{attention}.{norm}.weight"] = state[f"{ours}{attention}.{norm}"]
            for part in ("weight", "bias"):
                pieces = state[f"{ours}{attention}.{fused}.{part}"].chunk(len(parts))
                for letter, piece in zip(parts, pieces, strict=True):
                    result[f"{theirs}{attention}.to_{letter}.{part}"] = piece.clone()
    return result


def from_diffusers(state: dict[str, Tensor], config: TransformerConfig) -> dict[str, Tensor]:
    """The inverse of `to_diffusers`; raises ValueError naming tensors that this architecture does not have."""
    left = dict(state)
    result = {"scale_shift_table": left.pop("scale_shift_table")[0]}
    for ours, theirs in NAMES.items():
        for part in ("weight", "bias"):
            result[f"{ours}.{part}"] = left.pop(f"{theirs}.{part}")
    result["patch_embedding.weight"] = result["patch_embedding.weight"].flatten(1)
    for block in range(config.depth):
        prefix = f"blocks.{block}."
        result[f"{prefix}scale_shift_table"] = left.pop(f"{prefix}scale_shift_table")[0]
        for name, other in BLOCK_NAMES.items():
            for part in ("weight", "bias"):
                result[f"{prefix}{name}.{part}"] = left.pop(f"{prefix}{other}.{part}")
        for attention, fused, parts in (("attn1", "to_qkv", "qkv"), ("attn2", "to_kv", "kv")):
            for norm in ("norm_q", "norm_k"):
                result[f"{prefix}{attention}.{norm}"] = left.pop(f"{prefix}{attention}.{norm}.weight")
            for part in ("weight", "bias"):
                pieces = [left.pop(f"{prefix}{attention}.to_{letter}.{part}") for letter in parts]
                result[f"{prefix}{attention}.{fused}.{part}"] = torch.cat(pieces)
    if left:
        raise ValueError(f"not a text-to-video Wan transformer: no place for {', '.join(sorted(left)[:3])}")
    return result


def transformer_settings(config: TransformerConfig) -> dict:
    """Our settings as the `config.json` of `WanTransformer3DModel`."""
    return {
        "_class_name": "WanTransformer3DModel",
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
    wanted = {"patch_size": list(PATCH), "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads"}
    wanted |= {"image_dim": None, "added_kv_proj_dim": None}
    for key, value in wanted.items():
        found = settings.get(key, value)
        if (list(found) if isinstance(found, tuple) else found) != value:
            raise ValueError(f"a Wan transformer with {key} = {found!r} is not supported, only {value!r}")
    if settings.get("out_channels") not in (None, settings["in_channels"]):
        raise ValueError("a transformer whose output has other channels than its input is not supported")
    return TransformerConfig(
        width=settings["num_attention_heads"] * settings["attention_head_dim"],
        depth=settings["num_layers"],
        heads=settings["num_attention_heads"],
        mlp_width=settings["ffn_dim"],
        text_width=settings["text_dim"],
        latent_channels=settings["in_channels"],
        time_frequencies=settings["freq_dim"],
        eps=settings["eps"],
    )


def autoencoder_settings(config: AutoencoderConfig) -> dict:
    """Our settings as the `config.json` of `AutoencoderKLWan`."""
    return {
        "_class_name": "AutoencoderKLWan",
        "base_dim": config.base_width,
        "decoder_base_dim": config.decoder_base_width,
        "z_dim": config.latent_channels,
        "dim_mult": list(config.width_multipliers),
        "num_res_blocks": config.residual_blocks,
        "attn_scales": [],
        "temperal_downsample": list(config.time_downsample),
        "dropout": 0.0,
        "latents_mean": list(config.latent_mean),
        "latents_std": list(config.latent_std),
    }


def autoencoder_config(settings: dict) -> AutoencoderConfig:
    """Our settings from a `config.json`; raises ValueError naming what this architecture does not have."""
    if settings.get("is_residual") or settings.get("patch_size"):
        raise ValueError("the Wan 2.2 TI2V autoencoder (residual, patched) is not supported, only Wan 2.1's")
    return AutoencoderConfig(
        base_width=settings["base_dim"],
        decoder_base_width=settings.get("decoder_base_dim") or settings["base_dim"],
        latent_channels=settings["z_dim"],
        width_multipliers=tuple(settings["dim_mult"]),
        residual_blocks=settings["num_res_blocks"],
        time_downsample=tuple(settings["temperal_downsample"]),
        latent_mean=tuple(settings["latents_mean"]),
        latent_std=tuple(settings["latents_std"]),
    )


def read_folder(folder: Path) -> tuple[dict, dict[str, Tensor]]:
    """`config.json` and all tensors of one model folder, sharded or not; raises ValueError for what is missing."""
    settings = folder / "config.json"
    files = sorted(folder.glob("*.safetensors"))
    if not settings.is_file() or not files:
        raise ValueError(f"{folder} is not a diffusers model folder: it needs config.json and *.safetensors")
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= load_file(file)
    return json.loads(settings.read_text()), tensors


def load_transformer(folder: Path) -> Transformer:
    """A transformer from the `transformer` folder of a diffusers Wan pipeline."""
    settings, tensors = read_folder(folder)
    config = transformer_config(settings)
    with torch.device("meta"):
        model = Transformer(config)
    model.load_state_dict(from_diffusers(tensors, config), assign=True)
    return model


def load_autoencoder(folder: Path) -> Autoencoder:
    """An autoencoder from the `vae` folder of a diffusers Wan pipeline."""
    settings, tensors = read_folder(folder)
    model = Autoencoder(autoencoder_config(settings))
    model.load_state_dict(tensors)
    return model
