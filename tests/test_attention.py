"""Proves that packed attention is softmax within each sample and exactly zero between, on every backend."""

import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor

from dit import attention, attention_node
from dit.attention import BACKENDS, Lengths, choose_attention, make_lengths, sdpa, why_not, works

CPU = torch.device("cpu")
PACKS = {  # lengths of the queries and of the keys
    "self, unequal": ((5, 1, 9), (5, 1, 9)),
    "self, equal": ((6, 6), (6, 6)),
    "cross, unequal": ((7, 3, 4), (2, 8, 1)),
    "cross, equal queries, unequal keys": ((4, 4), (1, 9)),
    "cross, unequal queries, equal keys": ((2, 7), (3, 3)),
    "cross, equal": ((4, 4, 4), (3, 3, 3)),
    "one sample": ((11,), (4,)),
    "cross, samples without queries": ((0, 3, 0, 2), (2, 8, 1, 4)),
    "cross, as many queries of some, none of others": ((0, 3, 3), (2, 8, 1)),
    "cross, no queries at all": ((0, 0), (3, 5)),
}


def by_definition(q_LND: Tensor, k_SND: Tensor, v_SND: Tensor, queries: Lengths, keys: Lengths) -> Tensor:
    """Attention with a mask over all pairs of the pack, from its equation (Vaswani et al. 2017, eq. 1)."""
    sample_of_query = torch.repeat_interleave(torch.tensor(queries.each))
    sample_of_key = torch.repeat_interleave(torch.tensor(keys.each))
    scores = torch.einsum("lnd,snd->nls", q_LND, k_SND) / q_LND.shape[-1] ** 0.5
    scores = scores.masked_fill(sample_of_query[:, None] != sample_of_key[None, :], float("-inf"))
    return torch.einsum("nls,snd->lnd", scores.softmax(-1), v_SND)


def tensors(queries: tuple[int, ...], keys: tuple[int, ...], padded: bool = False, **kind) -> tuple:
    q = torch.randn(sum(queries), 2, 64, **kind)
    k, v = torch.randn(2, sum(keys), 2, 64, **kind)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    return *leaves, make_lengths(queries, q.device), make_lengths(keys, q.device, padded)


@pytest.mark.parametrize("padded", [False, True], ids=["plain", "padded"])
@pytest.mark.parametrize("pack", PACKS)
def test_attention_and_its_gradient_are_the_definition(pack: str, padded: bool):
    inputs = tensors(*PACKS[pack], padded, dtype=torch.float64)
    ours, wanted = sdpa(*inputs), by_definition(*inputs)
    assert torch.allclose(ours, wanted, rtol=0, atol=1e-12)
    probe = torch.randn_like(wanted)
    gradients = (torch.autograd.grad((y * probe).sum(), inputs[:3]) for y in (ours, wanted))
    assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(*gradients, strict=True))


def test_heads_that_lie_elsewhere_are_no_error():
    q, k, v, queries, keys = tensors((3, 2), (3, 2))
    output = sdpa(q[:, :0], k[:, :0], v[:, :0], queries, keys)
    assert output.shape == (5, 0, 64)
    assert not any(gradient.any() for gradient in torch.autograd.grad(output.sum(), (q, k, v)))


@pytest.mark.parametrize("pack", [name for name, (queries, _) in PACKS.items() if queries[0]])
def test_attention_between_samples_is_exactly_zero(pack: str):
    q, k, v, queries, keys = tensors(*PACKS[pack])
    output = sdpa(q, k, v, queries, keys)
    first = output[: queries.each[0]].sum()
    for gradient, lengths in zip(torch.autograd.grad(first, (q, k, v)), (queries, keys, keys), strict=True):
        assert not gradient[lengths.each[0] :].any()
    assert torch.autograd.grad(sdpa(q, k, v, queries, keys)[0].sum(), v)[0][: keys.each[0]].all()
    with torch.no_grad():
        k, v = k.clone(), v.clone()
        k[keys.each[0] :], v[keys.each[0] :] = float("nan"), float("inf")
        changed = sdpa(q, k, v, queries, keys)
    assert torch.equal(changed[: queries.each[0]], output[: queries.each[0]])
    assert changed[queries.each[0] :].isnan().all()


def test_a_node_without_heads_or_queries_gives_nothing_and_gradients_of_zero():
    """A process that shares packs may have no head: a kernel would divide by zero."""
    for heads, lengths in ((0, [0, 3, 8]), (2, [0, 0, 0])):
        q, k, v = (torch.ones(lengths[-1], heads, 4, requires_grad=True) for _ in range(3))
        places = torch.tensor(lengths, dtype=torch.int32)
        output, _ = attention_node.attention(q, k, v, places, places)
        output.sum().backward()
        assert output.shape == q.shape and not q.grad.any() and not v.grad.any()


def test_cumulative_lengths_are_where_samples_start():
    lengths = make_lengths((5, 1, 9), CPU)
    assert lengths.cumulative.tolist() == [0, 5, 6, 15]
    assert lengths.cumulative.dtype == torch.int32 and lengths.longest == 9 and not lengths.equal


def cases() -> list:
    """Every backend beside plain attention with every device and type it could run on."""
    devices = [CPU, *([torch.device("cuda")] if torch.cuda.is_available() else [])]
    others = [name for name in BACKENDS if name != "sdpa"]
    types = (torch.float32, torch.bfloat16)
    return [pytest.param(b, d, t, id=f"{b}-{d}-{t}") for b in others for d in devices for t in types]


@pytest.mark.parametrize("backend, device, dtype", cases())
def test_backends_agree(backend: str, device: torch.device, dtype: torch.dtype):
    if reason := why_not(backend, device, dtype, 64):
        pytest.skip(f"{backend} does not run here: {reason}")
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for pack in PACKS.values():
        inputs = tensors(*pack, device=device, dtype=dtype)
        q, k, v, queries, keys = inputs
        output = BACKENDS[backend](*inputs)
        wanted = sdpa(q.double(), k.double(), v.double(), queries, keys)
        assert torch.allclose(output.double(), wanted, rtol=tolerance, atol=tolerance)
        probe = torch.randn_like(output)
        ours, theirs = (
            torch.autograd.grad((y * probe.to(y.dtype)).sum(), (q, k, v)) for y in (output, wanted)
        )
        assert all(
            torch.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in zip(ours, theirs, strict=True)
        )
        first = torch.autograd.grad(BACKENDS[backend](*inputs)[: queries.each[0]].sum(), k)[0]
        assert not first[keys.each[0] :].any()


def test_a_backend_that_leaks_or_fails_is_found_out(monkeypatch):
    def leaks(q, k, v, queries, keys):
        return sdpa(q, k, v, make_lengths([len(q)], q.device), make_lengths([len(k)], k.device))

    def fails(*_):
        raise NotImplementedError("no kernel\nfor this device")

    monkeypatch.setitem(attention.BACKENDS, "leaks", leaks)
    monkeypatch.setitem(attention.BACKENDS, "fails", fails)
    assert not works("leaks", CPU, torch.float32, 64)
    assert "differs" in why_not("leaks", CPU, torch.float32, 64)
    assert why_not("fails", CPU, torch.float32, 64) == "NotImplementedError: no kernel"
    assert works("sdpa", CPU, torch.float32, 64) and works("sdpa", CPU, torch.bfloat16, 64)
    assert why_not("sdpa", torch.device("cuda:99"), torch.float32, 64)  # no such device: told, not raised


def test_a_backend_is_tried_on_what_the_model_gives_it(monkeypatch):
    def wants_whole_tensors(q, k, v, queries, keys):
        if not (q.is_contiguous() and v.is_contiguous()):
            raise RuntimeError("strides")
        return sdpa(q, k, v, queries, keys)

    def wants_multiples_of_8(q, k, v, queries, keys):
        if q.shape[-1] % 8:
            raise RuntimeError(f"head of {q.shape[-1]}")
        return sdpa(q, k, v, queries, keys)

    monkeypatch.setitem(attention.BACKENDS, "whole", wants_whole_tensors)
    monkeypatch.setitem(attention.BACKENDS, "eights", wants_multiples_of_8)
    assert why_not("whole", CPU, torch.float32, 64) == "RuntimeError: strides"
    assert why_not("eights", CPU, torch.float32, 12) == "RuntimeError: head of 12"
    assert works("eights", CPU, torch.float32, 24)


def test_a_mask_of_xformers_is_made_once_a_pack(monkeypatch):
    class BlockDiagonalMask:
        made = 0

        @classmethod
        def from_seqlens(cls, queries, keys, device):
            cls.made += 1
            return queries, keys

    for name in ("xformers", "xformers.ops", "xformers.ops.fmha", "xformers.ops.fmha.attn_bias"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["xformers.ops.fmha.attn_bias"].BlockDiagonalMask = BlockDiagonalMask
    masks = [attention.block_diagonal_mask(q, (3, 4), CPU) for q in ((1, 2), (1, 2), (2, 1), (1, 2))]
    attention.block_diagonal_mask.cache_clear()
    assert BlockDiagonalMask.made == 2 and masks[0] is masks[3] and masks[2] == ([2, 1], [3, 4])


def test_a_processor_takes_plain_attention():
    assert choose_attention(CPU, torch.bfloat16, 64) == choose_attention(CPU, torch.float32, 64) == "sdpa"
