"""Proves that compiled blocks, and those whose activations are computed again, are the blocks as they are."""

import copy
import math
import random
import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dit.attention import make_lengths, sdpa
from dit.attention_node import attention
from dit.blocks import CHECKPOINTS, checkpoint_blocks, compile_blocks, why_not_compiled
from dit.model import Transformer
from dit.pack import make_layout
from tests.test_attention import PACKS, tensors
from tests.test_model import TINY, mixed_pack, random_transformer, run

CPU = torch.device("cpu")


class Living(TorchDispatchMode):
    """Counts the bytes of the tensors that were made within it and are still held, weights left out."""

    def __init__(self, model: Transformer):
        super().__init__()
        self.bytes, self.known = 0, {p.untyped_storage()._cdata for p in model.parameters()}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage())._cdata not in self.known:
                self.known.add(storage._cdata)
                self.bytes += storage.nbytes()
                weakref.finalize(storage, self.forget, storage._cdata, storage.nbytes())
        return result

    def forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.bytes -= size


def held_for_backward(kept: str) -> int:
    """Bytes that a forward pass of twelve blocks leaves behind for the backward pass."""
    model = random_transformer(replace(TINY, depth=12))
    checkpoint_blocks(model, kept)
    with Living(model) as living:
        outputs = run(model, *mixed_pack(TINY))
    assert len(outputs) == 5
    return living.bytes


def test_what_is_computed_again_is_not_held():
    everything, selective, nothing = (held_for_backward(kept) for kept in ("none", "selective", "blocks"))
    assert nothing < 0.1 * everything
    assert 2 * nothing < selective < 0.5 * everything


def random_pack(generator: random.Random) -> tuple[list, list, list]:
    """Grids, times and text lengths: one to six samples, of one to many tokens, first frames given or not."""
    grids = [tuple(generator.randint(1, most) for most in (3, 4, 4)) for _ in range(generator.randint(1, 6))]
    times = []
    for frames, height, width in grids:
        time, tokens = torch.tensor([generator.random()]), torch.arange(frames * height * width)
        given = frames > 1 and generator.random() < 0.4
        times.append(torch.where(tokens < height * width, 0.0, time) if given else time)
    return grids, times, [generator.randint(1, 9) for _ in grids]


def outputs_and_gradients(model: Transformer, pack, precision: torch.dtype) -> dict[str, Tensor]:
    """The velocities of a pack, and every gradient of their sum with random signs."""
    grids, times, lengths = pack
    layout, times_M = make_layout(grids, times, model.head_width, CPU)
    torch.manual_seed(sum(lengths))
    tokens_LP, probe_LP = torch.randn(2, sum(layout.tokens.each), model.proj_out.out_features)
    text_SD = torch.randn(sum(lengths), model.config.text_width)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        output = model(tokens_LP, times_M, model.embed_text(text_SD, lengths), layout)
    (output * probe_LP).sum().backward()
    return {"output": output.detach()} | {name: p.grad.clone() for name, p in model.named_parameters()}


def largest_error(ours: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest norm of a difference, relative to the tensor's; where that is zero but for rounding, as the
    gradient of what asks for a single key, to the typical tensor's."""
    norms = {name: x.norm().item() for name, x in wanted.items()}
    typical = torch.tensor([*norms.values()]).median().item()
    scales = {name: norm if norm > 1e-4 * typical else typical for name, norm in norms.items()}
    errors = [(ours[name] - x).norm().item() / scales[name] for name, x in wanted.items()]
    assert all(map(math.isfinite, errors))
    return max(errors)


@pytest.mark.long
@pytest.mark.parametrize("kept", CHECKPOINTS)
def test_one_graph_for_all_blocks_and_packs_is_the_eager_model(kept: str):
    if reason := why_not_compiled(CPU):
        pytest.skip(f"nothing compiles here: {reason}")
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    eager = random_transformer(TINY)
    compiled = copy.deepcopy(eager)
    checkpoint_blocks(compiled, kept)
    compile_blocks(compiled)
    generator = random.Random(0)
    for k in range(50 if kept == "none" else 10):
        pack = random_pack(generator)
        pack = tuple(part[:1] for part in pack) if k % 5 == 4 else pack  # one sample alone
        with torch.compiler.set_stance("default" if k < 2 else "fail_on_recompile"):
            ours = outputs_and_gradients(compiled, pack, torch.float32)
        wanted = outputs_and_gradients(eager, pack, torch.float32)
        assert largest_error(ours, wanted) < 1e-5, pack
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]


@pytest.mark.long
def test_compiled_in_half_precision_it_is_as_close_as_eager():
    if reason := why_not_compiled(CPU):
        pytest.skip(f"nothing compiles here: {reason}")
    torch.manual_seed(0)
    eager = random_transformer(TINY)
    compiled = copy.deepcopy(eager)
    compile_blocks(compiled)
    pack = random_pack(random.Random(1))
    exact = outputs_and_gradients(eager, pack, torch.float32)
    errors = [
        largest_error(outputs_and_gradients(model, pack, torch.bfloat16), exact)
        for model in (compiled, eager)
    ]
    assert errors[0] < 1.5 * errors[1] < 0.2


@pytest.mark.parametrize("formula", [False, True], ids=["kernel", "formula"])
@pytest.mark.parametrize("pack", PACKS)
def test_the_node_of_a_graph_is_attention(pack: str, formula: bool, monkeypatch):
    if formula:
        monkeypatch.setattr("dit.attention_node.on_cpu", lambda tensor: False)
    q, k, v, queries, keys = tensors(*PACKS[pack], dtype=torch.float64)
    probe = torch.randn_like(q)
    results = []
    for y in (attention(q, k, v, queries.on_host, keys.on_host)[0], sdpa(q, k, v, queries, keys)):
        results.append([y, *torch.autograd.grad((y * probe).sum(), (q, k, v))])
    assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(*results, strict=True))


@pytest.mark.long
def test_pytorch_finds_no_fault_with_the_node():
    q, k, v = (torch.randn(7, 2, 8, requires_grad=True) for _ in range(3))
    on_host = make_lengths((4, 3), CPU).on_host
    checks = torch.library.opcheck(attention, (q, k, v, on_host, on_host))
    assert set(checks.values()) == {"SUCCESS"}
