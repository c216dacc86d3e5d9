"""Files of adapters from elsewhere beside diffusers' and peft's own readers of them, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dit.lora_files import PEFT_SETTINGS, Scaled, add_adapters
from dit.model import Transformer
from dit.wan import to_diffusers
from tests.test_model import TINY, random_transformer, reference

ATTENTION = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "o"}
BLOCK = {f"attn1.{theirs}": f"self_attn.{name}" for theirs, name in ATTENTION.items()}
BLOCK |= {f"attn2.{theirs}": f"cross_attn.{name}" for theirs, name in ATTENTION.items()}
BLOCK |= {"ffn.net.0.proj": "ffn.0", "ffn.net.2": "ffn.2"}
WITHIN = {f"blocks.{n}.{theirs}": f"blocks.{n}.{name}" for n in (0, 1) for theirs, name in BLOCK.items()}
AROUND = {"condition_embedder.time_proj": "time_projection.1", "proj_out": "head.head"}
for kind in ("time", "text"):
    AROUND[f"condition_embedder.{kind}_embedder.linear_1"] = f"{kind}_embedding.0"
    AROUND[f"condition_embedder.{kind}_embedder.linear_2"] = f"{kind}_embedding.2"


@pytest.fixture(scope="module")
def sizes() -> dict[str, torch.Size]:
    """The size of each of diffusers' parameters."""
    return {name: x.shape for name, x in to_diffusers(Transformer(TINY).state_dict(), TINY).items()}


def pairs(layers: dict[str, str], sizes: dict) -> dict[str, tuple[Tensor, Tensor]]:
    """Two random matrices for each layer, of ranks that differ from layer to layer."""
    random, result = torch.Generator().manual_seed(0), {}
    for k, layer in enumerate(layers):
        out, width = sizes[f"{layer}.weight"]
        rank = 1 + k % 4
        result[layer] = (torch.randn(rank, width, generator=random), torch.randn(out, rank, generator=random))
    return result


def musubi(sizes: dict) -> dict[str, Tensor]:
    """Kohya's names of Wan's layers, each with its alpha."""
    file = {}
    for k, (layer, (down, up)) in enumerate(pairs(WITHIN, sizes).items()):
        name = "lora_unet_" + WITHIN[layer].replace(".", "_")
        file |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        file[f"{name}.alpha"] = torch.tensor(0.5 + k % 3)
    return file


def comfy(sizes: dict) -> dict[str, Tensor]:
    """ComfyUI's, with alpha in some layers, and changes of biases."""
    file, layers = {}, WITHIN | AROUND
    for k, (layer, (down, up)) in enumerate(pairs(layers, sizes).items()):
        name = f"diffusion_model.{layers[layer]}"
        file |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        if layer in WITHIN and k % 2:
            file[f"{name}.alpha"] = torch.tensor(0.5 + k % 3)
        if k % 3 == 0:
            file[f"{name}.diff_b"] = torch.randn(len(up), generator=torch.Generator().manual_seed(k))
    return file


def original(sizes: dict) -> dict[str, Tensor]:
    """Wan's own names with peft's of the matrices, and no alpha."""
    file = {}
    for layer, (down, up) in pairs(WITHIN, sizes).items():
        name = f"diffusion_model.{WITHIN[layer]}"
        file |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    return file


def diffusers(sizes: dict) -> dict[str, Tensor]:
    """Diffusers' own."""
    file = {}
    for layer, (down, up) in pairs(WITHIN | AROUND, sizes).items():
        file |= {f"transformer.{layer}.lora_A.weight": down, f"transformer.{layer}.lora_B.weight": up}
    return file


def added(file, *others) -> dict[str, Tensor]:
    """What files add to weights of zero, by diffusers' names."""
    model = Transformer(TINY).requires_grad_(False)
    for parameter in model.parameters():
        parameter.zero_()
    add_adapters(model, [Scaled(file, 1.0), *others])
    return {name: x for name, x in to_diffusers(model.state_dict(), TINY).items() if x.any()}


@pytest.mark.parametrize("layout", [musubi, comfy, original, diffusers])
def test_a_file_adds_what_diffusers_converts_it_to(layout, sizes, tmp_path):
    from diffusers.loaders import lora_conversion_utils as theirs_of  # light beside a pipeline

    tensors, convert = layout(sizes), dict
    if layout is musubi:
        convert = theirs_of._convert_musubi_wan_lora_to_diffusers
    elif layout is not diffusers:
        convert = theirs_of._convert_non_diffusers_wan_lora_to_diffusers
    save_file(tensors, tmp_path / "file.safetensors")
    theirs = {
        key.removeprefix("transformer."): tensor.clone() for key, tensor in convert(dict(tensors)).items()
    }
    wanted = {}
    for key, tensor in theirs.items():
        if key.endswith(".lora_A.weight"):
            layer = key.removesuffix(".lora_A.weight")
            wanted[f"{layer}.weight"] = theirs[f"{layer}.lora_B.weight"] @ tensor
        elif key.endswith(".lora_B.bias"):
            wanted[key.replace(".lora_B.bias", ".bias")] = tensor
    found = added(tmp_path / "file.safetensors")
    assert found.keys() == wanted.keys() and len(wanted) >= 20
    for name, change in wanted.items():
        torch.testing.assert_close(found[name], change, rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.long  # peft takes seconds to import
@pytest.mark.parametrize(
    "settings",
    [
        {"r": 3, "lora_alpha": 5},
        {"r": 4, "lora_alpha": 5, "use_rslora": True, "rank_pattern": {"to_k": 2, "attn1.to_q": 3}},
        {"r": 4, "lora_alpha": 5, "alpha_pattern": {"attn1.to_q": 7, "to_q": 2, "^blocks.1.ffn.net.2": 9}},
        {"r": 2, "lora_alpha": 3, "lora_bias": True},
    ],
)
def test_a_folder_of_peft_s_adds_what_peft_merges(settings, tmp_path):
    import peft

    torch.manual_seed(0)
    base = random_transformer(TINY).requires_grad_(False)
    layers = ["to_q", "to_k", "ffn.net.2"]
    theirs = peft.get_peft_model(reference(base), peft.LoraConfig(target_modules=layers, **settings))
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    theirs.save_pretrained(tmp_path)
    wanted = theirs.merge_and_unload().state_dict()
    before = to_diffusers(base.state_dict(), TINY)
    add_adapters(base, [Scaled(tmp_path / "adapter_model.safetensors", 1.0)])
    found = to_diffusers(base.state_dict(), TINY)
    assert sum(not torch.equal(found[name], before[name]) for name in found) >= 10
    for name, weight in wanted.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-5, atol=1e-5, msg=name)


def test_a_pattern_of_names_that_is_no_name_is_refused(tmp_path, sizes):
    file = tmp_path / "adapter_model.safetensors"
    layer = "base_model.model.blocks.0.attn1.to_q"
    down, up = pairs({"blocks.0.attn1.to_q": ""}, sizes)["blocks.0.attn1.to_q"]
    save_file({f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}, file)
    about = {"r": 1, "lora_alpha": 1, "alpha_pattern": {r"attn\d\.to_q": 4}}
    (tmp_path / PEFT_SETTINGS).write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"alpha_pattern has .*, which is no name"):
        added(file)


def test_changes_without_matrices_are_added_as_they_are(sizes, tmp_path):
    """Of weights, norms, biases and tables: what diffusers leaves out, and ComfyUI adds."""
    random = torch.Generator().manual_seed(0)
    places = {
        "blocks.0.self_attn.norm_q.diff": "blocks.0.attn1.norm_q.weight",
        "blocks.1.norm3.diff": "blocks.1.norm2.weight",
        "blocks.1.norm3.diff_b": "blocks.1.norm2.bias",
        "blocks.0.modulation.diff": "blocks.0.scale_shift_table",
        "head.modulation.diff": "scale_shift_table",
        "head.head.diff": "proj_out.weight",
        "patch_embedding.diff": "patch_embedding.weight",
        "text_embedding.2.diff_b": "condition_embedder.text_embedder.linear_2.bias",
    }
    tensors = {key: torch.randn(sizes[name], generator=random) for key, name in places.items()}
    save_file({f"diffusion_model.{key}": x for key, x in tensors.items()}, tmp_path / "file.safetensors")
    found = added(tmp_path / "file.safetensors")
    assert found.keys() == {*places.values()}
    assert all(torch.equal(found[places[key]], tensor) for key, tensor in tensors.items())


def test_several_files_add_up_each_with_its_scale(sizes, tmp_path):
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    save_file(comfy(sizes), one)
    save_file(original(sizes), two)
    both, first, second = added(one, Scaled(two, -0.5)), added(one), added(two)
    for name, change in both.items():
        wanted = first.get(name, torch.zeros(())) - 0.5 * second.get(name, torch.zeros(()))
        torch.testing.assert_close(change, wanted, rtol=1e-6, atol=1e-6, msg=name)


Q = "diffusion_model.blocks.0.self_attn.q"
REFUSED = {  # what is in a file beside the layers of `original` -> what is said, the key first
    f"{Q}.dora_scale": (torch.ones(24, 1), "is no part of a LoRA"),
    f"{Q}.hada_w1_a": (torch.ones(24, 2), "is no part of a LoRA"),
    "diffusion_model.blocks.0.cross_attn.k_img.lora_A.weight": (torch.ones(2, 24), "names no layer"),
    "diffusion_model.img_emb.proj.1.lora_A.weight": (torch.ones(2, 24), "names no layer"),
    "diffusion_model.blocks.2.self_attn.q.lora_A.weight": (torch.ones(2, 24), "names no layer"),
    "transformer_2.blocks.0.attn1.to_q.lora_A.weight": (torch.ones(2, 24), "names no layer"),
    "lora_te1_text_model_encoder.lora_down.weight": (torch.ones(2, 24), "names no layer"),
    "transformer.blocks.0.attn1.to_q.lora_A.weight": (torch.ones(1, 24), "are of the same layer"),
    "diffusion_model.head.head.lora_A.weight": (torch.ones(2, 24), "stands alone"),
    "diffusion_model.head.head.alpha": (torch.tensor(2.0), "stands alone"),
    f"{Q}.alpha": (torch.tensor(float("nan")), "holds NaN or infinity"),
    f"{Q}.diff_b": (torch.ones(25), r"is \(25,\), where this transformer takes \(24,\)"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_a_key_that_is_no_part_of_it_is_refused_by_name(key, sizes, tmp_path):
    file, (tensor, said) = tmp_path / "file.safetensors", REFUSED[key]
    save_file(original(sizes) | {key: tensor}, file)
    with pytest.raises(ValueError, match=said) as caught:
        added(file)
    layer = key.removesuffix(".alpha")
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)
    assert key in str(caught.value) or ("self_attn.q" in layer and "attn1.to_q" in str(caught.value))


def test_adapters_of_a_wider_model_are_refused_by_the_first_key_and_both_sizes(sizes, tmp_path):
    file = tmp_path / "file.safetensors"
    wide = {key: torch.cat([x, x], dim=int("_A" in key)) for key, x in original(sizes).items()}
    save_file(wide, file)
    with pytest.raises(ValueError, match=r"lora_A\.weight is \(\d, 48\), where .* takes \(\d, 24\)"):
        added(file)
