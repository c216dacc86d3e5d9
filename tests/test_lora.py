"""Adapters beside diffusers' and peft's: the same outputs of the same files; what fits nothing is refused."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from configs.train import LoraConfig
from dit.lora import adapt, adapters
from dit.lora_files import LORA, Scaled, about_adapters, add_adapters, in_diffusers
from dit.model import Transformer
from tests.test_model import TINY, error, mixed_pack, random_transformer, reference, run
from vae.training.weights import save_weights

RUN = LoraConfig(rank=3, alpha=4.5, layers="all")


def copied(model: Transformer) -> Transformer:
    """The same transformer again."""
    copy = Transformer(model.config).requires_grad_(False)
    copy.load_state_dict(model.state_dict())
    return copy


def outputs(model: Transformer) -> torch.Tensor:
    """What a transformer of ours predicts of a pack of five."""
    torch.manual_seed(1)
    with torch.no_grad():
        return torch.cat([y.flatten() for y in run(model, *mixed_pack(model.config))])


def outputs_of_theirs(model) -> torch.Tensor:
    """What diffusers' transformer predicts of the same samples, one by one."""
    torch.manual_seed(1)
    with torch.no_grad():
        parts = []
        for x, time, text in zip(*mixed_pack(TINY), strict=True):
            steps = 1000 * (time[None] if len(time) > 1 else time)
            parts.append(model(x[None], steps, text[None], return_dict=False)[0].flatten())
    return torch.cat(parts)


@pytest.fixture(scope="module")
def base() -> Transformer:
    """A random transformer."""
    torch.manual_seed(0)
    return random_transformer(TINY).requires_grad_(False)


@pytest.fixture(scope="module")
def trained(base) -> Transformer:
    """The same with adapters in all layers, whose products are far from zero."""
    model = copied(base)
    adapt(model, model, RUN, torch.float32)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture(scope="module")
def file(trained, tmp_path_factory):
    """The file of those adapters."""
    named = {f"transformer.{name}": tensor for name, tensor in adapters(trained).items()}
    tensors = in_diffusers(named, TINY, RUN)
    path = tmp_path_factory.mktemp("lora") / LORA
    save_weights(path, tensors, "lora", {}, {"step": 1}, others=about_adapters(tensors, RUN))
    return path


def added(base: Transformer, *files: Scaled) -> torch.Tensor:
    """Outputs of the transformer with files of adapters added to its weights."""
    model = copied(base)
    add_adapters(model, files)
    return outputs(model)


def pipeline(base: Transformer):
    """Diffusers' pipeline of the same transformer, and nothing else."""
    from diffusers import WanPipeline

    return WanPipeline(None, None, None, None, transformer=reference(base))


def test_new_adapters_change_nothing_and_trained_ones_a_lot(base, trained):
    new = copied(base)
    adapt(new, new, RUN, torch.float32)
    assert torch.equal(outputs(new), outputs(base))
    assert error(outputs(trained), outputs(base)) > 0.1
    names = {name for name, p in trained.named_parameters() if p.requires_grad}
    assert names == adapters(trained).keys()


def test_merged_is_unmerged(base, trained, file):
    assert error(added(base, Scaled(file, 1.0)), outputs(trained)) < 1e-5


def test_diffusers_loads_our_file_and_predicts_the_same(base, trained, file):
    pipe = pipeline(base)
    pipe.load_lora_weights(file.parent)
    assert error(outputs_of_theirs(pipe.transformer), outputs(trained)) < 1e-5
    pipe.set_adapters("default_0", 0.3)
    assert error(outputs_of_theirs(pipe.transformer), added(base, Scaled(file, 0.3))) < 1e-5
    with safe_open(file, framework="pt") as opened:  # alpha is written, and readers of none are right too
        about = json.loads(opened.metadata()["lora_adapter_metadata"])
    assert about["transformer.lora_alpha"] == about["transformer.r"] == 3
    bare = pipeline(base)
    bare.load_lora_weights(load_file(file))
    assert error(outputs_of_theirs(bare.transformer), outputs(trained)) < 1e-5
