"""Proves that the transformer equals diffusers' Wan, forward and backward, and that packing is exact."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.model import TransformerConfig
from dit.blocks import checkpoint_blocks
from dit.model import Transformer
from dit.pack import make_layout, patchify, unpatchify
from dit.wan import to_diffusers, transformer_settings

TINY = TransformerConfig(
    width=24, depth=2, heads=2, mlp_width=40, text_width=20, latent_channels=4, time_frequencies=32
)
SHAPES = {  # configuration -> frames, height and width of the latents
    "one head, one block": (replace(TINY, depth=1, heads=1), (3, 4, 6)),
    "three blocks, head of 8, odd grid": (replace(TINY, depth=3, heads=3), (3, 6, 10)),
    "head of 16, one frame": (replace(TINY, width=32, heads=2, mlp_width=24), (1, 6, 2)),
    "head of 20, many frames": (replace(TINY, width=40, heads=2, latent_channels=6, eps=1e-5), (11, 2, 6)),
    "wide time embedding, two tokens": (replace(TINY, time_frequencies=256, text_width=7), (1, 2, 4)),
}


def random_transformer(config: TransformerConfig) -> Transformer:
    """A transformer in which every parameter matters: nothing is zero, no norm's weight is one."""
    model = Transformer(config)
    for parameter in model.parameters():
        scale = parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.3
        torch.nn.init.normal_(parameter, std=scale)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and not name.endswith("bias"):
                parameter.add_(1)
    return model


def reference(ours: Transformer):
    """The same weights in diffusers' model."""
    from diffusers import WanTransformer3DModel

    settings = transformer_settings(ours.config)
    model = WanTransformer3DModel(**{k: v for k, v in settings.items() if not k.startswith("_")})
    model.load_state_dict(to_diffusers(ours.state_dict(), ours.config))
    return model


def run(model: Transformer, latents: list[Tensor], times: list[Tensor], texts: list[Tensor]) -> list[Tensor]:
    """The model's velocities, C T H W each, of a pack."""
    patches, grids = zip(*map(patchify, latents), strict=True)
    layout, distinct = make_layout(grids, times, model.head_width, latents[0].device)
    text = model.embed_text(torch.cat(texts), [len(text) for text in texts])
    tokens = model(torch.cat(patches), distinct, text, layout)
    return [unpatchify(y, grid) for y, grid in zip(tokens.split(layout.tokens.each), grids, strict=True)]


def error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest number."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def assert_same_gradients(ours: Transformer, theirs, tolerance: float) -> None:
    """Every parameter has the same gradient, found by diffusers' names."""
    mine = to_diffusers({name: p.grad for name, p in ours.named_parameters()}, ours.config)
    wanted = {name: p.grad for name, p in theirs.named_parameters()}
    assert mine.keys() == wanted.keys()
    errors = {name: error(mine[name], wanted[name]) for name in wanted}
    worst = max(errors, key=errors.get)
    assert errors[worst] < tolerance, f"gradient of {worst} differs by {errors[worst]:.2g}"


def mixed_pack(config: TransformerConfig) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Five samples unlike in duration, size, aspect ratio and text length; two have several times inside."""
    sizes = [(1, 4, 4), (3, 4, 2), (2, 6, 2), (1, 2, 8), (3, 4, 2)]
    latents = [torch.randn(config.latent_channels, *size) for size in sizes]
    tokens = [len(patchify(x)[0]) for x in latents]
    times = [torch.rand(1) for _ in sizes]
    times[1] = torch.where(torch.arange(tokens[1]) < 2, 0.0, times[1])  # its first frame is given
    times[2] = torch.tensor([0.2, 0.9]).repeat(tokens[2] // 2)  # times that alternate along the sequence
    texts = [torch.randn(length, config.text_width) for length in (5, 1, 9, 3, 5)]
    return latents, times, texts


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(
    "times", ["one for each sample", "zero in the first frame", "another for each token"]
)
def test_outputs_and_gradients_are_those_of_diffusers(name: str, times: str):
    config, size = SHAPES[name]
    ours = random_transformer(config)
    theirs = reference(ours)
    latents = torch.randn(2, config.latent_channels, *size)
    text, probe = torch.randn(2, 6, config.text_width), torch.randn(latents.shape)
    frames, height, width = patchify(latents[0])[1]
    frame, tokens = height * width, frames * height * width
    times = {
        "one for each sample": torch.rand(2, 1),
        "zero in the first frame": torch.rand(2, 1) * (torch.arange(tokens) >= frame),
        "another for each token": torch.rand(2, tokens),
    }[times]

    mine = torch.stack(run(ours, list(latents), list(times), list(text)))
    (mine * probe).sum().backward()
    wanted = theirs(latents, 1000 * (times if times.shape[1] > 1 else times[:, 0]), text, return_dict=False)[
        0
    ]
    (wanted * probe).sum().backward()
    assert error(mine, wanted) < 1e-5
    assert_same_gradients(ours, theirs, 1e-4)


def test_a_pack_of_five_is_diffusers_five_alone():
    ours = random_transformer(TINY)
    theirs = reference(ours)
    latents, times, texts = mixed_pack(TINY)
    probes = [torch.randn(x.shape) for x in latents]
    mine = run(ours, latents, times, texts)
    sum((y * probe).sum() for y, probe in zip(mine, probes, strict=True)).backward()
    for x, time, text, probe, y in zip(latents, times, texts, probes, mine, strict=True):
        steps = 1000 * (time[None] if len(time) > 1 else time)
        wanted = theirs(x[None], steps, text[None], return_dict=False)[0][0]
        (wanted * probe).sum().backward()
        assert error(y, wanted) < 1e-5
    assert_same_gradients(ours, theirs, 1e-4)


def test_a_pack_of_five_is_our_five_alone():
    model = random_transformer(TINY)
    pack = mixed_pack(TINY)
    together = run(model, *pack)
    probes = [torch.randn(y.shape) for y in together]
    sum((y * probe).sum() for y, probe in zip(together, probes, strict=True)).backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    for x, time, text, probe, y in zip(*pack, probes, together, strict=True):
        (alone,) = run(model, [x], [time], [text])
        assert error(y, alone) < 1e-5
        (alone * probe).sum().backward()
    assert max(error(g, p.grad) for g, p in zip(gradients, model.parameters(), strict=True)) < 1e-4


def test_no_sample_sees_another():
    model = random_transformer(TINY)
    latents, times, texts = mixed_pack(TINY)
    for leaf in (*latents, *texts):
        leaf.requires_grad_()
    outputs = run(model, latents, times, texts)
    for k, output in enumerate(outputs):
        gradients = torch.autograd.grad(output.sum(), [*latents, *texts], retain_graph=True)
        seen = [bool(gradient.abs().max() > 0) for gradient in gradients]
        assert seen == 2 * [j == k for j in range(5)], f"sample {k} depends on samples {seen}"
    with torch.no_grad():
        changed = run(
            model,
            [latents[0], -latents[1], *latents[2:]],
            [times[0], 1 - times[1], *times[2:]],
            [texts[0], texts[1] + 100, *texts[2:]],
        )
    same = [torch.equal(before, after) for before, after in zip(outputs, changed, strict=True)]
    assert same == [True, False, True, True, True]


def test_the_order_of_a_pack_does_not_matter():
    model = random_transformer(TINY)
    latents, times, texts = mixed_pack(TINY)
    forward, backward = run(model, latents, times, texts), run(model, latents[::-1], times[::-1], texts[::-1])
    assert max(error(a, b) for a, b in zip(forward, backward[::-1], strict=True)) < 1e-5


def test_modulation_is_computed_once_per_sample_and_time():
    model = random_transformer(TINY)
    latents, times, texts = mixed_pack(TINY)
    times[0] = times[4] = torch.tensor([0.5])  # equal times of two samples stay two rows
    rows = []
    model.time_proj.register_forward_hook(lambda module, inputs, output: rows.append(tuple(inputs[0].shape)))
    run(model, latents, times, texts)
    assert rows == [(1 + 2 + 2 + 1 + 1, TINY.width)]
    counts = [len(patchify(x)[0]) for x in latents]
    run(model, latents, [torch.rand(count) for count in counts], texts)
    assert rows[1] == (sum(counts), TINY.width)


def test_computing_activations_again_changes_nothing():
    model = random_transformer(TINY)
    pack = mixed_pack(TINY)
    results = []
    for kept in ("none", "blocks", "selective"):
        checkpoint_blocks(model, kept)
        model.zero_grad()
        outputs = run(model, *pack)
        sum(y.square().sum() for y in outputs).backward()
        results.append([*outputs, *(p.grad.clone() for p in model.parameters())])
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*results, strict=True))


def test_the_first_loss_is_one_plus_the_variance():
    model = Transformer(TINY)
    latents, noise = 3 * torch.randn(4, 2, 64, 64), torch.randn(4, 2, 64, 64)
    (output,) = run(model, [(latents + noise) / 2], [torch.tensor([0.5])], [torch.randn(3, TINY.text_width)])
    loss = (output - (noise - latents)).square().mean().item()
    assert loss == pytest.approx(1 + latents.var().item(), abs=0.4)  # five standard deviations of this mean
    output.backward(latents)  # and it learns from the first step on
    assert model.proj_out.weight.grad.abs().max() > 0


def as_diffusers_loads(model, dtype: torch.dtype):
    """Diffusers' model cast as its loader casts: what it keeps in fp32 stays so."""
    for name, parameter in model.named_parameters():
        if not set(name.split(".")) & set(model._keep_in_fp32_modules):
            parameter.data = parameter.data.to(dtype)
    return model


@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "cast"])
def test_half_precision_is_as_close_as_diffusers(autocast: bool):
    config = replace(TINY, width=64, heads=2, mlp_width=128)
    ours = random_transformer(config)
    theirs = reference(ours)
    latents, text, times = torch.randn(2, 4, 3, 4, 6), torch.randn(2, 6, config.text_width), torch.rand(2, 1)
    with torch.no_grad():
        exact = torch.stack(run(ours, list(latents), list(times), list(text)))
        dtype = torch.float32 if autocast else torch.bfloat16
        ours, theirs = ours.cast(dtype), as_diffusers_loads(theirs, dtype)
        latents, text = latents.to(dtype), text.to(dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            mine = torch.stack(run(ours, list(latents), list(times), list(text)))
            wanted = theirs(latents, 1000 * times[:, 0], text, return_dict=False)[0]
    assert (mine - exact).norm() < 1.5 * (wanted.float() - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "cast"])
def test_times_are_embedded_in_fp32(autocast: bool):
    model, times = random_transformer(TINY), torch.rand(3)
    exact = model.embed_time(times)
    model.cast(torch.float32 if autocast else torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert all(map(torch.equal, model.embed_time(times), exact))


def test_a_cast_keeps_in_fp32_what_diffusers_keeps_and_all_norms_and_times():
    from diffusers import WanTransformer3DModel

    state = to_diffusers(random_transformer(TINY).cast(torch.bfloat16).state_dict(), TINY)
    kept = {name for name, tensor in state.items() if tensor.dtype == torch.float32}
    theirs = {
        name for name in state if set(name.split(".")) & set(WanTransformer3DModel._keep_in_fp32_modules)
    }
    assert theirs and theirs <= kept
    assert all("time_proj" in name or "norm_" in name for name in kept - theirs)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32, torch.bfloat16}


def test_patches_come_back():
    latents = torch.randn(4, 3, 6, 10)
    tokens, grid = patchify(latents)
    assert grid == (3, 3, 5) and torch.equal(unpatchify(tokens, grid), latents)
    assert torch.equal(
        tokens[1 * 15 + 2 * 5 + 3].view(4, 1, 2, 2), latents[:, 1:2, 4:6, 6:8]
    )  # t, h, w = 1, 2, 3
