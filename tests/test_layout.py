"""Proves that the layout of a slice of a pack's tokens is the whole pack's there, wherever the cuts lie."""

import itertools
from dataclasses import fields

import pytest
import torch

from dit.attention import Lengths, sdpa
from dit.pack import Layout, make_layout, patchify
from tests.test_model import TINY, mixed_pack, random_transformer

CPU = torch.device("cpu")
CUTS = {  # where the slices of 26 tokens begin, of samples of 4, 6, 6, 4 and 6
    "at the samples": [4, 10, 16, 20],
    "inside them": [1, 7, 13, 17, 22],
    "far apart": [25],
    "every token alone": range(1, 26),
    "some empty": [0, 5, 5, 5, 26],
}


@pytest.fixture
def pack():
    """A model in fp64, its pack's tokens, times, layout and text: of five samples two have several times."""
    torch.manual_seed(0)
    model = random_transformer(TINY).double()
    latents, times, texts = mixed_pack(TINY)
    patches, grids = zip(*map(patchify, latents), strict=True)
    layout, times_M = make_layout(list(grids), times, model.head_width, CPU)
    text = model.embed_text(torch.cat(texts).double(), [len(text) for text in texts])
    return model, torch.cat(patches).double(), times_M, layout, text


def slices(layout: Layout, cuts) -> list[tuple[int, int, Layout]]:
    """First and last token of every slice, and its layout."""
    edges = [0, *cuts, sum(layout.tokens.each)]
    return [(a, b, layout.part(a, b)) for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("cuts", CUTS)
def test_slices_say_what_the_whole_says(pack, cuts: str):
    layout, parts = pack[3], slices(pack[3], CUTS[cuts])
    sample = torch.arange(len(layout.tokens.each)).repeat_interleave(torch.tensor(layout.tokens.each))
    row = layout.rows.repeat_interleave(layout.run_length)
    for first, last, part in parts:
        assert part.tokens is layout.tokens and part.pairs == layout.pairs
        assert len(part.local.each) == len(layout.tokens.each) and sum(part.local.each) == last - first
        assert part.local.cumulative.tolist() == [0, *torch.tensor(part.local.each).cumsum(0).tolist()]
        mine = torch.arange(len(part.local.each)).repeat_interleave(torch.tensor(part.local.each))
        assert torch.equal(mine, sample[first:last])
        assert torch.equal(part.rows.repeat_interleave(part.run_length), row[first:last])
        assert torch.equal(part.rotary, layout.rotary[first:last])
    whole = layout.part(0, len(row))
    assert whole.run_length == layout.run_length and torch.equal(whole.rows, layout.rows)


def test_runs_are_as_long_as_a_slice_allows():
    grids, times = [(3, 4, 4), (1, 5, 7)], [torch.tensor([0.5])] * 2
    layout, _ = make_layout(grids, times, 24, CPU)
    assert layout.run_length == 1 and len(layout.rows) == 83
    lengths = {(0, 48): 48, (0, 13): 13, (48, 83): 35, (46, 50): 2, (6, 82): 2, (45, 83): 1, (9, 9): 1}
    assert {cut: layout.part(*cut).run_length for cut in lengths} == lengths


@pytest.mark.parametrize("cuts", CUTS)
def test_a_block_on_slices_is_the_block_on_the_whole(pack, cuts: str):
    """Self-attention sees the whole pack's keys and values, as context parallelism brings them together."""
    model, tokens, times, layout, text = pack
    seen = []

    def record(q, k, v, queries: Lengths, keys: Lengths):
        assert queries is keys is layout.tokens
        seen.append((k, v))
        return sdpa(q, k, v, queries, keys)

    model.self_attention = record
    with torch.no_grad():
        whole = model(tokens, times, text, layout)
        parts = []
        for first, last, part in slices(layout, CUTS[cuts]):
            whole_pack = iter(seen)

            def gathered(q, k, v, queries, keys, part=part, whole_pack=whole_pack, first=first, last=last):
                keys_LND, values_LND = next(whole_pack)
                assert torch.allclose(k, keys_LND[first:last], rtol=0, atol=1e-12)
                return sdpa(q, keys_LND, values_LND, part.local, keys)

            model.self_attention = gathered
            parts.append(model(tokens[first:last], times, text, part))
    assert torch.allclose(torch.cat(parts), whole, rtol=0, atol=1e-12)
    assert not torch.allclose(whole[:4], whole[4:8], rtol=0, atol=1e-2)


@pytest.mark.parametrize("cuts", CUTS)
def test_gradients_of_slices_add_up(pack, cuts: str):
    """With an attention of each token to itself no slice needs another's, so that gradients are sums."""
    model, tokens, times, layout, text = pack
    model.self_attention = lambda q, k, v, queries, keys: (q * k).sum(-1, keepdim=True).tanh() * v
    probe = torch.randn(len(tokens), model.proj_out.out_features).double()

    def gradients(parts) -> dict:
        model.zero_grad()
        for first, last, part in parts:
            output = model(tokens[first:last], times, text, part)
            (output * probe[first:last]).sum().backward(retain_graph=True)
            missing = [name for name, p in model.named_parameters() if p.grad is None]
            assert not missing  # every process has its share in every gradient, if it is zero
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    whole = gradients([(0, len(tokens), layout)])
    for name, gradient in gradients(slices(layout, CUTS[cuts])).items():
        assert (gradient - whole[name]).norm() < 2e-6 * whole[name].norm(), name  # norms compute in fp32


def test_a_moved_layout_is_the_same_one(pack):
    layout = pack[3]
    moved = layout.map(lambda x: x + 1)
    assert moved.local is moved.tokens and moved.tokens is not layout.tokens
    for field in fields(layout):
        before, after = getattr(layout, field.name), getattr(moved, field.name)
        if isinstance(before, torch.Tensor):
            assert torch.equal(after, before + 1), field.name
    assert torch.equal(moved.local.cumulative, layout.local.cumulative + 1)
    part = layout.part(0, 5).map(lambda x: x)
    assert part.local is not part.tokens and part.local.each == layout.part(0, 5).local.each
