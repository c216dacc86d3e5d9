"""How a transformer's blocks are run, set from outside: activations computed again, and compilation."""

from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from dit.attention import BACKENDS
from dit.model import Block, Transformer, run_plainly
from vae.training.device import on_cpu

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "linear", "mkldnn_linear_pointwise"}
COSTLY = ("attention", "attn", "flash", "to_heads", "to_tokens")  # parts of the names of other ones to keep


def _policy(_, op, *args, **kwargs) -> CheckpointPolicy:
    """Keeps what matrix products and attention give, which costs the most to compute again."""
    name = op.name().split("::")[1].split(".")[0]
    kept = name in PRODUCTS or any(word in name for word in COSTLY)
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


_again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)  # nothing in a block is random
CHECKPOINTS = {
    "none": run_plainly,
    "blocks": _again,
    "selective": partial(_again, context_fn=partial(create_selective_checkpoint_contexts, _policy)),
}


def checkpoint_blocks(transformer: Transformer, kept: str) -> None:
    """Which activations of a block the backward pass computes again: `none`, all of the `blocks`, or all but
    those of matrix products and attention, `selective`."""
    for block in transformer.blocks:
        block.run = CHECKPOINTS[kept]


@lru_cache
def why_not_compiled(device: torch.device) -> str:
    """The reason PyTorch cannot compile for a device here, or nothing where it can: tried on one product."""
    try:
        x = torch.ones(2, device=device)
        torch.compile(_double, fullgraph=True)(x)
    except Exception as error:  # a probe: whatever a compiler raises is the answer
        words = str(error).strip().splitlines()
        return f"{type(error).__name__}: {words[0][:120]}" if words else type(error).__name__
    return ""


def check_compiler(device: torch.device) -> None:
    """Raises ValueError where PyTorch cannot compile."""
    if reason := why_not_compiled(device):
        raise ValueError(f"--compile: PyTorch compiles nothing here ({reason}): leave it out, or mend that")


def check_compiled(transformer: Transformer, device: torch.device, kept: str, context: int) -> None:
    """Raises ValueError where blocks cannot be trained compiled, with these activations `kept`.

    Plain attention's gradient would store the scores on a GPU; and where all is computed again, a compiler is
    free to order a block's two exchanges between processes otherwise on each of them.
    """
    check_compiler(device)
    if not on_cpu(device) and transformer.self_attention is BACKENDS["sdpa"]:
        raise ValueError(
            "--compile: on a GPU it takes variable-length attention, in bf16 (dit doctor says what works)"
        )
    if context > 1 and kept == "blocks":
        raise ValueError(
            "--compile with --parallel.context recomputes no whole blocks: give --checkpoint-activations "
            "selective, or none"
        )


def _double(x: Tensor) -> Tensor:
    """Something to compile."""
    return 2 * x


def compile_blocks(transformer: Transformer) -> None:
    """Has PyTorch compile the blocks: one graph for all of them and for packs of any lengths.

    Hooks of a block, such as those that gather its weights, stay outside. What is deep-copied before is not
    compiled. A size of one is a constant to a compiler, and sizes that are equal in the first pack are one
    size, unless it is told.
    """
    torch.fx.experimental._config.use_duck_shape = False
    for block in transformer.blocks:
        block.forward = torch.compile(block.forward, fullgraph=True, dynamic=True)
    transformer.call_block = _with_spare_rows


def _with_spare_rows(block: Block, x: Tensor, modulation_M6D: Tensor, text, *inputs) -> Tensor:
    """A call of a compiled block, whose times and text have a row more, which belongs to no sample."""
    text = tuple(map(_spare, text)) if isinstance(text, tuple) else _spare(text)
    return block(x, _spare(modulation_M6D), text, *inputs)


def _spare(rows: Tensor) -> Tensor:
    """The same with a row more."""
    return F.pad(rows, (0, 0) * (rows.ndim - 1) + (0, 1))
