"""Proves the auxiliary loss on hidden states: gradients by a second implementation, off, refused, resumed."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

from configs.train import ParallelConfig, RepaConfig
from dit.condition import Condition, Given
from dit.load import Denoiser
from dit.loss import draw_pack, draw_sample, flow_loss, make_batch
from dit.repa import FEATURES, add_projector, aligning, check_repa
from dit.runs.devices import PROCESSORS
from dit.runs.estimate import PlanSettings, plan_one
from dit.runs.work import open_source
from dit.train import train
from tests.test_optimizer import autoencoder  # noqa: F401
from tests.tiny import MODEL, assert_same_run, fresh_accelerator, rows, transformer_run  # noqa: F401
from tests.worlds import EQUAL, Case, again, differences, make_home, run_case, run_world
from vae.data.clips import Clip, DrawnWorld
from vae.model import Autoencoder

ALIGNED, KEPT = ("repa", RepaConfig(0.5, 1)), ("checkpoint_activations", "blocks")
PACKS = (("pack_tokens", 30), ("round_tokens", 16))
CASES = {
    "packs": (2, Case(train=PACKS, run=(ALIGNED, KEPT), steps=3)),
    "fsdp": (2, Case(ParallelConfig("full"), run=(ALIGNED,), steps=3)),
    "ulysses": (2, Case(ParallelConfig(context=2), run=(ALIGNED,), steps=3)),
}


@pytest.fixture
def setup(tmp_path):
    """A run of three blocks, its model with random weights in every layer, its autoencoder, and a pack."""
    config = transformer_run(tmp_path, tmp_path)
    config = replace(config, model=replace(config.model, depth=3), repa=RepaConfig(0.7, 2))
    torch.manual_seed(1)
    model, vae = Denoiser(config.model, config.text), Autoencoder(MODEL).requires_grad_(False)
    add_projector(model, config)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    clips = [DrawnWorld(config.data, 0)[k] for k in (3, 4)]
    latents = vae.latents(clips)
    drawn = [draw_sample(z.shape, c, config.flow, 0) for z, c in zip(latents, clips, strict=True)]
    first_frame = torch.zeros(2, 2, 2, dtype=torch.bool)
    first_frame[0] = True
    given = replace(drawn[0].condition, givens=(Given(None, mask_THW=first_frame),))
    drawn = [replace(drawn[0], condition=given), replace(drawn[1], condition=Condition("a red circle"))]
    pack = draw_pack(drawn, model.transformer.head_width, model.read)
    return SimpleNamespace(
        config=config,
        model=model,
        vae=vae,
        clips=clips,
        latents=latents,
        pack=pack,
        batch=make_batch(latents, pack),
    )


def gradients(model: Denoiser, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("which", FEATURES)
def test_gradients_are_those_of_a_second_implementation(setup, which):
    config, model = replace(setup.config, repa=RepaConfig(0.7, 2, which)), setup.model
    del model.projector
    torch.manual_seed(2)
    add_projector(model, config)
    alignment = aligning(model, config, setup.vae)
    flow = flow_loss(model, setup.batch)
    found = gradients(model, flow + alignment(setup.clips, setup.pack, setup.batch))

    # By hand: the first two blocks alone, and the cosine as sums.
    transformer, batch = model.transformer, setup.batch
    text, (_, modulation) = model.embed(batch.text), transformer.embed_time(batch.times)
    x = transformer.patch_embedding(batch.tokens)
    for block in transformer.blocks[:2]:
        attention = transformer.self_attention
        x = block.compute(x, modulation, text.embedding, text.lengths, batch.layout, attention, attention)
    for layer in model.projector:
        x = F.silu(x) if isinstance(layer, torch.nn.SiLU) else x @ layer.weight.T + layer.bias
    if which == "latents":
        cells = [z.unfold(2, 2, 2).unfold(3, 2, 2) for z in setup.latents]  # c t h w ph pw
        feature = torch.cat([cell.permute(1, 2, 3, 0, 4, 5).flatten(0, 2).flatten(1) for cell in cells])
    else:
        feature = FEATURES[which][0](setup.clips, batch.target, 0, setup.vae)
    cosine = (x * feature).sum(1) / (x.square().sum(1) * feature.square().sum(1)).sqrt().clamp(min=1e-8)
    in_loss = torch.ones(len(x))
    in_loss[: len(x) // 4] = (
        0  # of two clips of two latent frames each, the first frame of the first is given
    )
    expected = gradients(model, flow_loss(model, batch) + 0.7 * ((1 - cosine) * in_loss).sum())
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5, msg=name)
    assert any("projector" in name for name in found)
    alone = gradients(model, flow_loss(model, batch))
    changed = {
        name.split(".")[2] for name in alone if "blocks" in name and not torch.equal(alone[name], found[name])
    }
    assert changed == {"0", "1"}  # none after the block


def test_what_is_drawn_is_described(setup):
    video = torch.zeros(3, 5, 32, 64) - 1
    for frame in range(5):  # a red square, which goes right at the same height
        video[:, frame, 16:32, 12 * frame : 12 * frame + 16] = torch.tensor([1.0, -1, -1])[:, None, None]
    token = torch.zeros(16, 3)
    feature = FEATURES["drawn"][0]([Clip(video, "", "")], token, 0, setup.vae).view(2, 2, 4, 10)
    assert torch.equal(feature[0, :, :, 0], torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0]]))
    assert torch.equal(feature[0, 1, 0, 1:4], torch.tensor([1.0, -1, -1]))
    assert torch.allclose(feature[0, :, :, 4:7], torch.tensor([1.0, -1, 0.125**0.5]))
    assert (feature[..., 8] > 0.5).all()  # to the right
    assert torch.allclose(feature[..., [7, 9]], torch.zeros(()), atol=1e-6)  # neither down nor larger
    part = FEATURES["drawn"][0]([Clip(video, "", "")], token[:9], 5, setup.vae)
    assert torch.equal(part, feature.flatten(0, 2)[5:14])
    padded = FEATURES["drawn"][0]([Clip(video, "", "")], torch.zeros(8, 3), 12, setup.vae)
    assert torch.equal(padded[:4], feature.flatten(0, 2)[12:]) and not padded[4:].any()


@pytest.mark.parametrize(
    ("repa", "source", "cached", "sentence"),
    [
        (RepaConfig(1.0, 4), "shapes", False, "repa.block = 4, but there are 3, from 1 on"),
        (
            RepaConfig(1.0, 1, "drawn"),
            "shapes",
            True,
            "repa.features = drawn describes videos of the drawn world",
        ),
        (
            RepaConfig(1.0, 1, "drawn"),
            "videos",
            False,
            "repa.features = drawn describes videos of the drawn world",
        ),
    ],
)
def test_what_cannot_be_aligned_is_refused(setup, repa, source, cached, sentence):
    config = replace(setup.config, repa=repa, data=replace(setup.config.data, source=source))
    with pytest.raises(ValueError, match=sentence):
        check_repa(config, cached)
    check_repa(replace(config, repa=replace(repa, weight=0.0)), cached)


@pytest.mark.long
def test_a_run_goes_on_to_the_bit_and_exports_no_projector(tmp_path, autoencoder):  # noqa: F811
    def run(name: str, count: int, **repa):
        config = transformer_run(tmp_path / name, autoencoder, steps=count, show_every=2)
        return train(replace(config, repa=RepaConfig(block=1, **repa)))

    whole = run("whole", 4, weight=0.5)
    run("stopped", 2, weight=0.5)
    assert_same_run(run("stopped", 4, weight=0.5).parent, whole.parent)
    [checkpoint] = whole.parent.glob("step-00000004")
    assert (checkpoint / "projector.safetensors").is_file()
    for file in (whole, checkpoint / "average.safetensors", checkpoint / "model.safetensors"):
        with safe_open(file, "pt") as tensors:
            assert not [name for name in [*tensors.keys()] if "projector" in name]
    off, plain = run("off", 2), train(transformer_run(tmp_path / "plain", autoencoder, steps=2, show_every=2))
    assert_same_run(off.parent, plain.parent)
    first, alone = (next(row for row in rows(path.parent) if "loss" in row) for path in (whole, off))
    assert first["loss"] == alone["loss"]  # the log has the flow's alone
    assert first["gradient_norm"] != alone["gradient_norm"]


@pytest.mark.long
def test_its_projector_and_features_are_planned(tmp_path):
    config = replace(transformer_run(tmp_path, "builtin"), prompts=("a red circle moves left",))
    config = replace(config, model=replace(config.model, latent_channels=16))
    found = {}
    for repa in (RepaConfig(), RepaConfig(0.5, 1), RepaConfig(0.5, 1, "drawn")):
        run = replace(config, repa=repa)
        found[repa] = plan_one(open_source(run), run, PlanSettings(gpu="cpu"), PROCESSORS["h100"]).traced
    off, *on = found.values()
    for traced, width in zip(on, (16 * 4, 10), strict=True):
        projector = 2 * (32 * 32 + 32) + 32 * width + width
        assert traced.memory.weights - off.memory.weights == 4 * projector
        assert traced.memory.optimizer - off.memory.optimizer == 4 * (2 * projector + 6)
        assert traced.flops > off.flops


@pytest.mark.long
def test_several_processes_train_as_one(tmp_path):
    home = make_home(tmp_path)
    run_case(home, "one", Case(run=(ALIGNED,), steps=3))
    again()
    run_world(home, 2, "tests.test_repa")
    found = {name: differences(home, name, "one") for name in CASES}
    assert not {name: one for name, one in found.items() if any(one[part] > EQUAL[part] for part in EQUAL)}
