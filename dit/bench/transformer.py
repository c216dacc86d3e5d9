"""`dit bench [CONFIG]`: time, memory and FLOPs of training and sampling, beside diffusers and padding."""

import copy
import gc
import importlib.util
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from configs.load import Positional, load_run, parse
from configs.model import TransformerConfig
from configs.ranges import Count, Threads
from configs.train import OptimizerConfig, TransformerRun
from dit.attention import Lengths
from dit.bench import measure
from dit.bench.flops import step_flops, training_flops
from dit.bench.passes import TIME, Pack, forward, make_pack, random_model, time_passes, without_gradient
from dit.blocks import check_compiler, compile_blocks
from dit.model import Transformer
from dit.pack import make_layout, unpatchify
from vae.compression import Compression
from vae.training.device import autocast, on_cpu, own_device
from vae.training.seeds import normal


@dataclass(frozen=True)
class BenchSettings:
    """Time training and sampling, beside diffusers with the same weights and beside padding with a mask."""

    config: Positional[str] = ""
    """Config of a training run, a name or a file; empty is width 384, depth 12, 6 heads, 1024 tokens."""
    batch: Count = 1
    """Clips in a call."""
    text_tokens: Count = 77
    """Text tokens of a clip."""
    repeats: Count = 7
    """Measurements of each side; the median is reported."""
    threads: Threads = 1
    """Threads on a CPU; one is measured in CPU seconds, which a busy machine does not disturb."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to run; `auto` is the GPU where there is one."""
    precisions: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
    """Precisions to measure."""
    compile: bool = False
    """Compile the blocks of the model whose training and sampling steps are measured."""
    parts: tuple[Literal["model", "diffusers", "packs", "compiled"], ...] = ("model", "diffusers", "packs")
    """What to measure: our steps, those of diffusers, packs beside padding, compiled blocks beside eager."""
    json: str = ""
    """File for all figures; empty writes none."""


REFERENCE = TransformerConfig(width=384, depth=12, heads=6, mlp_width=1536)
REFERENCE_GRID = (4, 16, 16)
MIXED = {  # packs of samples that differ in size: patches along frames, height and width
    "one clip, eight images": [(4, 16, 16), *[(1, 8, 8)] * 8],
    "clips of four durations": [(1, 16, 16), (2, 16, 16), (3, 16, 16), (4, 16, 16)],
}
GUIDANCE = 4.0
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Speed:
    """One measured call of ours: median seconds, tokens and FLOPs of its work, peak bytes."""

    what: str
    precision: str
    seconds: float
    tokens: int
    flops: int
    of_peak: float
    memory: int

    def cells(self) -> tuple[str, ...]:
        """Its line of the table."""
        rates = f"{self.tokens / self.seconds:,.0f}", f"{self.flops / self.seconds / 1e9:,.0f}"
        shares = f"{100 * self.of_peak:.0f} %", f"{self.memory / 2**20:,.0f} MiB"
        return f"{self.what}, {self.precision}", f"{1e3 * self.seconds:.1f}", *rates, *shares

    def as_json(self) -> dict:
        """All of it."""
        return asdict(self)


@dataclass(frozen=True)
class Ratio:
    """Median seconds of two sides of the same work, and how much their outputs differ at most, relatively."""

    what: str
    ours: float
    other: float
    difference: float

    @property
    def ratio(self) -> float:
        """Our median over the other's."""
        return self.ours / self.other

    def cells(self) -> tuple[str, ...]:
        """Its line of the table."""
        seconds = f"{1e3 * self.ours:.1f}", f"{1e3 * self.other:.1f}"
        return self.what, *seconds, f"{self.ratio:.3f}", f"{self.difference:.1e}"

    def as_json(self) -> dict:
        """All of it, the ratio too."""
        return asdict(self) | {"ratio": self.ratio}


def measure_model(
    run: TransformerRun, grid: tuple[int, int, int], settings: BenchSettings, device, clock
) -> Iterator[Speed]:
    """Training step and guided sampling step of ours."""
    config = run.model
    peaks = {name: measure.matmul_peak(measure.DTYPES[name], device, clock) for name in settings.precisions}
    for name in settings.precisions:
        for what in ("training step", "sampling step"):
            copies = 2 if what == "sampling step" else 1
            model = random_model(config, device)
            model.use_attention(device, measure.DTYPES[name])
            if settings.compile:
                compile_blocks(model)
            pack = make_pack(config, [grid] * settings.batch, settings.text_tokens, device, copies)
            tokens, text, pairs = list(pack.layout.tokens.each), pack.text_lengths, pack.layout.pairs
            if what == "training step":
                call = training_step(model, pack, run.optimizer, name)
                flops = training_flops(config, tokens, text, pairs)
            else:
                call = sampling_step(model.cast(measure.DTYPES[name]), pack)
                flops = step_flops(config, tokens, text, pairs)
            seconds = measure.medians_in_turn({what: call}, settings.repeats, clock)[what]
            fraction, memory = flops / seconds / peaks[name], measure.peak_memory(call, device)
            yield Speed(what, name, seconds, sum(tokens) // copies, flops, fraction, memory)
            del model, pack, call  # the next row's memory is its own
            gc.collect()


def training_step(
    model: Transformer, pack: Pack, optimizer: OptimizerConfig, precision: str
) -> Callable[[], None]:
    """What `dit train` does with a batch whose latents and text are there."""
    from vae.training.optimizer import make_optimizer, update_average, update_weights

    adam, average = make_optimizer(model, optimizer), copy.deepcopy(model).requires_grad_(False)
    target = normal(pack.tokens.shape, "target").to(pack.tokens)
    bad = torch.zeros((), dtype=torch.bool, device=pack.tokens.device)

    def step() -> None:
        with autocast(pack.tokens, precision == "bf16"):
            prediction = forward(model, pack, torch.float32)
        (prediction.float() - target).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), optimizer.max_gradient_norm)
        update_weights(adam, bad)
        update_average(average, model, 1, optimizer.ema_decay, bad)

    return step


def sampling_step(model: Transformer, pack: Pack) -> Callable[[], Tensor]:
    """A solver step with guidance: prompt and null prompt in one packed call, the text embedded before."""
    from samplers.guidance import guide

    dtype = model.proj_out.weight.dtype
    with torch.no_grad():
        text = model.remember(model.embed_text(pack.text.to(dtype), pack.text_lengths))

    def step() -> Tensor:
        with torch.no_grad():
            velocity = model(pack.tokens.to(dtype), pack.times, text, pack.layout).float()
            x = pack.tokens.chunk(2)[0]
            return x - 0.05 * guide(velocity, GUIDANCE)

    return step


def diffusers_model(model: Transformer, dtype: torch.dtype, cast_all: bool) -> nn.Module:
    """`WanTransformer3DModel` with the same weights, cast whole, or but for what its loader keeps in fp32."""
    from diffusers import WanTransformer3DModel

    from dit.wan import to_diffusers, transformer_settings

    settings = transformer_settings(model.config)
    settings.pop("_class_name")
    other = WanTransformer3DModel(**settings).to(model.proj_out.weight.device)
    other.load_state_dict(to_diffusers(model.state_dict(), model.config))
    kept = () if cast_all else WanTransformer3DModel._keep_in_fp32_modules
    for name, parameter in other.named_parameters():
        if not set(kept) & set(name.split(".")):
            parameter.data = parameter.data.to(dtype)
    return other


def _compare_diffusers(
    config: TransformerConfig, grid, settings: BenchSettings, device, clock
) -> Iterator[Ratio]:
    """Ours and diffusers', same weights and inputs: in fp32, cast to bf16, and under bf16 autocast."""
    model = random_model(config, device)
    pack = make_pack(config, [grid] * settings.batch, settings.text_tokens, device)
    forms = [("fp32", "fp32", torch.float32, True, False)]
    forms += [
        ("bf16", "bf16, both cast whole", torch.bfloat16, True, False),
        ("bf16", "bf16, both as their loaders cast", torch.bfloat16, False, False),
        ("bf16", "bf16 autocast, both", torch.float32, True, True),
    ]
    for precision, label, dtype, cast_all, cast in forms:
        if precision not in settings.precisions:
            continue
        ours = copy.deepcopy(model)
        ours = ours.to(dtype) if cast_all else ours.cast(dtype)
        ours.use_attention(device, measure.DTYPES[precision])
        other = diffusers_model(model, dtype, cast_all)
        latents = torch.stack(pack.latents).to(dtype)
        text = rearrange(pack.text, "(b s) d -> b s d", b=len(pack.grids)).to(dtype)
        times = torch.full((len(pack.grids),), TIME, device=device) * 1000

        def our_call(ours=ours, dtype=dtype, cast=cast) -> Tensor:
            with autocast(device, cast):
                return forward(ours, pack, dtype)

        def other_call(other=other, latents=latents, text=text, times=times, cast=cast) -> Tensor:
            with autocast(device, cast):
                return other(latents, times, text, return_dict=False)[0]

        reference = without_gradient(other_call)().float()
        velocity = without_gradient(our_call)().float().split(pack.layout.tokens.each)
        difference = measure.largest_difference(
            torch.stack([unpatchify(v, grid) for v in velocity]), reference
        )
        for what, seconds in time_passes((our_call, ours), (other_call, other), settings.repeats, clock):
            yield Ratio(f"{what}, {label}", *seconds, difference)


def padded(pack: Pack) -> tuple[Pack, Callable, Tensor]:
    """The samples as a batch padded to the longest: pack, masked self-attention, which tokens are real."""
    lengths, longest = pack.layout.tokens.each, pack.layout.tokens.longest
    device, samples = pack.tokens.device, len(lengths)

    def pad(rows: Tensor) -> Tensor:
        parts = rows.split(lengths)
        return torch.cat([torch.cat([x, x.new_zeros(longest - len(x), *x.shape[1:])]) for x in parts])

    real = torch.arange(longest, device=device) < torch.tensor(lengths, device=device)[:, None]
    mask = rearrange(real, "b s -> b 1 1 s")
    layout, times = make_layout(
        [(1, 1, longest)] * samples, [torch.tensor([TIME])] * samples, 2 * pack.layout.rotary.shape[1], device
    )
    layout = replace(layout, rotary=pad(pack.layout.rotary))

    def attention(q: Tensor, k: Tensor, v: Tensor, queries: Lengths, keys: Lengths) -> Tensor:
        q, k, v = (rearrange(x, "(b s) n d -> b n s d", b=samples) for x in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return rearrange(y, "b n s d -> (b s) n d")

    return replace(pack, tokens=pad(pack.tokens), times=times, layout=layout), attention, real.flatten()


def _compare_padding(config: TransformerConfig, settings: BenchSettings, device, clock) -> Iterator[Ratio]:
    """Packs of mixed sizes against the same model on the batch padded to the longest sample, with a mask."""
    for precision in settings.precisions:
        dtype = measure.DTYPES[precision]
        packed_model = random_model(config, device).cast(dtype)
        padded_model = copy.deepcopy(packed_model)
        packed_model.use_attention(device, dtype)
        for name, grids in MIXED.items():
            pack = make_pack(config, grids, settings.text_tokens, device)
            padded_pack, padded_model.self_attention, real = padded(pack)

            def packed_call(model=packed_model, pack=pack, dtype=dtype) -> Tensor:
                return forward(model, pack, dtype)

            def padded_call(model=padded_model, pack=padded_pack, dtype=dtype, real=real) -> Tensor:
                return forward(model, pack, dtype)[real]

            difference = measure.largest_difference(
                without_gradient(packed_call)(), without_gradient(padded_call)()
            )
            sides = (packed_call, packed_model), (padded_call, padded_model)
            for what, seconds in time_passes(*sides, settings.repeats, clock):
                yield Ratio(f"{name}, {what}, {precision}", *seconds, difference)


def _compare_compiled(
    config: TransformerConfig, grid, settings: BenchSettings, device, clock
) -> Iterator[Ratio]:
    """Compiled blocks beside eager ones, as a training runs them, on a batch and on packs of mixed sizes."""
    for precision in settings.precisions:
        eager = random_model(config, device)
        eager.use_attention(device, measure.DTYPES[precision])
        compiled = copy.deepcopy(eager)
        compile_blocks(compiled)
        for name, grids in {"one size": [grid] * settings.batch, **MIXED}.items():
            pack, half = make_pack(config, grids, settings.text_tokens, device), precision == "bf16"

            def call(model: Transformer, pack=pack, half=half) -> Tensor:
                with autocast(device, half):
                    return forward(model, pack, torch.float32)

            sides = [(partial(call, model), model) for model in (compiled, eager)]
            difference = measure.largest_difference(*(without_gradient(run)() for run, _ in sides))
            for what, seconds in time_passes(*sides, settings.repeats, clock):
                yield Ratio(f"{name}, {what}, {precision}", *seconds, difference)


def _print_row(cells: tuple[str, ...]) -> None:
    """One line of a table, at once: a long measurement shows how far it is."""
    print(f"{cells[0]:62}" + "".join(f"{cell:>15}" for cell in cells[1:]), flush=True)


def bench(settings: BenchSettings) -> dict:
    """Measures what the settings ask for, prints it part by part, and returns it all."""
    device = CPU if settings.device == "cpu" else own_device()
    if settings.device == "cuda" and on_cpu(device):
        raise ValueError("--device cuda: PyTorch sees no GPU here; leave --device out, or see dit doctor")
    torch.set_num_threads(settings.threads)
    if settings.compile or "compiled" in settings.parts:
        check_compiler(device)
    run = load_run(TransformerRun, settings.config) if settings.config else TransformerRun(model=REFERENCE)
    grid = REFERENCE_GRID
    if settings.config:  # tokens of the run's longest clip along frames, height and width, latents of 4x8x8
        side, temporal = run.data.size // Compression().token_side, Compression().temporal
        grid = 1 + (run.data.frames - 1) // temporal, side, side
    clock, clock_name = measure.make_clock(device, settings.threads)
    config = run.model
    print(
        f"width {config.width}, depth {config.depth}, {config.heads} heads; {settings.batch} x "
        f"{math.prod(grid):,} tokens (grid {'x'.join(map(str, grid))}), {settings.text_tokens} text tokens"
    )
    result = measure.conditions(settings, device, clock_name)
    if "diffusers" in settings.parts and importlib.util.find_spec("diffusers") is None:
        print("diffusers is not installed, so there is nothing to compare with: pip install diffusers\n")
        settings = replace(settings, parts=tuple(part for part in settings.parts if part != "diffusers"))
    tables = {
        "model": (
            ("ours", "ms", "tokens/s", "GFLOP/s", "of matmul peak", "peak memory"),
            measure_model(run, grid, settings, device, clock),
            "A training step has its optimizer and average, not the encoders; bf16 is autocast over fp32\n"
            "weights. A sampling step is guided (two passes in one call) and counts its tokens once.\n",
        ),
        "diffusers": (
            ("beside diffusers, same weights", "ours ms", "diffusers ms", "ratio", "difference"),
            _compare_diffusers(config, grid, settings, device, clock),
            "The loaders' cast, which samples, keeps norms and times in fp32; the other keeps nothing.\n",
        ),
        "packs": (
            ("mixed packs, same weights", "packed ms", "padded ms", "ratio", "difference"),
            _compare_padding(config, settings, device, clock),
            "Padded: the same model on the batch padded to its longest sample, with a mask.\n",
        ),
        "compiled": (
            ("blocks, same weights", "compiled ms", "eager ms", "ratio", "difference"),
            _compare_compiled(config, grid, settings, device, clock),
            "One graph for all sizes, compiled before it is timed; bf16 is autocast over fp32 weights.\n",
        ),
    }
    for part in settings.parts:
        head, rows, note = tables[part]
        _print_row(head)
        result[part] = []
        for row in rows:
            _print_row(row.cells())
            result[part].append(row.as_json())
        print(note)
    measure.write_figures(settings.json, result)
    return result


def main(arguments: list[str]) -> None:
    """The verb `dit bench`."""
    bench(parse(BenchSettings, arguments, prog="dit bench"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("bench")
