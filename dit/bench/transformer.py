"""`dit bench [CONFIG]`: time, memory and FLOPs of training and sampling, beside diffusers and padding."""

import copy
import gc
import importlib.util
import json
import math
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from configs.load import Positional, load_run, parse
from configs.model import TransformerConfig
from configs.ranges import Count
from configs.train import OptimizerConfig, TransformerRun
from dit.attention import BACKENDS, Lengths, choose_attention
from dit.bench.flops import step_flops, training_flops
from dit.model import Transformer
from dit.pack import Layout, make_layout, patchify, unpatchify
from vae.compression import PATCH
from vae.training.files import write_text


@dataclass(frozen=True)
class BenchSettings:
    """Time training and sampling, beside diffusers with the same weights and beside padding with a mask."""

    config: Positional[str] = ""
    """Config of a training run, a name or a file; empty is width 384, depth 12, 6 heads, 1,024 tokens."""
    batch: Count = 1
    """Clips in a call."""
    text_tokens: Count = 77
    """Text tokens of a clip."""
    repeats: Count = 7
    """Measurements of each side; the median is reported."""
    threads: Count = 1
    """Threads on a CPU; one is measured in CPU seconds, which a busy machine does not disturb."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to run; `auto` is the GPU where there is one."""
    precisions: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
    """Precisions to measure."""
    parts: tuple[Literal["model", "diffusers", "packs"], ...] = ("model", "diffusers", "packs")
    """What to measure: our training and sampling steps, the same work in diffusers, packs against padding."""
    json: str = ""
    """File for all figures; empty writes none."""


REFERENCE = TransformerConfig(width=384, depth=12, heads=6, mlp_width=1536)
REFERENCE_GRID = (4, 16, 16)
MIXED = {  # packs of samples that differ in size: patches along frames, height and width
    "one clip, eight images": [(4, 16, 16), *[(1, 8, 8)] * 8],
    "clips of four durations": [(1, 16, 16), (2, 16, 16), (3, 16, 16), (4, 16, 16)],
}
TIME, GUIDANCE = 0.7, 4.0
FORGET_PEAK = Path("/proc/self/clear_refs")  # Linux: a 5 written there forgets the peak of the memory so far
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

Clock = Callable[[], float]


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


@dataclass(frozen=True)
class Ratio:
    """Median seconds of two sides of the same work, and how far apart their outputs are, relatively."""

    what: str
    ours: float
    other: float
    apart: float

    @property
    def ratio(self) -> float:
        """Our median over the other's."""
        return self.ours / self.other


@dataclass(frozen=True)
class Pack:
    """Inputs of one packed call."""

    grids: list[tuple[int, int, int]]
    latents: list[Tensor]
    tokens: Tensor
    times: Tensor
    layout: Layout
    text: Tensor
    text_lengths: list[int]


def make_pack(
    config: TransformerConfig,
    grids: list[tuple[int, int, int]],
    text_tokens: Count,
    device: torch.device,
    copies: int = 1,
) -> Pack:
    """Random latents and text; `copies` repeats the samples, as guidance does for the null prompt."""
    random = torch.Generator().manual_seed(0)
    shapes = [(config.latent_channels, *(n * p for n, p in zip(grid, PATCH, strict=True))) for grid in grids]
    latents = [torch.randn(shape, generator=random).to(device) for shape in shapes] * copies
    grids = grids * copies
    text = torch.randn(len(grids) * text_tokens, config.text_width, generator=random).to(device)
    layout, times = make_layout(
        grids, [torch.tensor([TIME])] * len(grids), config.width // config.heads, device
    )
    tokens = torch.cat([patchify(x) for x in latents])
    return Pack(grids, latents, tokens, times, layout, text, [text_tokens] * len(grids))


@torch.no_grad()
def random_model(config: TransformerConfig, device: torch.device) -> Transformer:
    """A transformer none of whose weights is zero, so that all of them matter to the output."""
    torch.manual_seed(0)
    model = Transformer(config)
    for name, parameter in model.named_parameters():
        parameter.normal_(std=0.02)
        if "norm" in name and "bias" not in name:
            parameter.add_(1)
    return model.to(device)


def make_clock(device: torch.device, threads: int) -> tuple[Clock, str]:
    """Seconds on a clock that other programs do not disturb, and its name.

    One CPU thread is measured in CPU seconds; more wait for each other, which only the wall clock sees.
    """
    if device.type == "cuda":

        def clock() -> float:
            torch.cuda.synchronize(device)
            return time.perf_counter()

        return clock, "wall clock, the GPU waited for"
    return (time.process_time, "CPU seconds") if threads == 1 else (time.perf_counter, "wall clock")


def race(sides: dict[str, Callable[[], object]], repeats: int, clock: Clock) -> dict[str, float]:
    """Median seconds of every side, measured in turn, so that the machine's moods meet all alike."""
    for call in sides.values():
        call()
    seconds = {name: [] for name in sides}
    for _ in range(repeats):
        for name, call in sides.items():
            start = clock()
            call()
            seconds[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def matmul_peak(dtype: torch.dtype, device: torch.device, clock: Clock) -> float:
    """FLOP/s of the best of a few large matrix products."""
    sizes = [(8192, 8192, 8192)] if device.type == "cuda" else [(2048, 2048, 2048), (1024, 384, 1536)]
    best = 0.0
    for n, k, m in sizes:
        a, b = torch.randn(n, k, device=device, dtype=dtype), torch.randn(m, k, device=device, dtype=dtype)
        times = race({"product": lambda a=a, b=b: F.linear(a, b)}, 5, clock)
        best = max(best, 2 * n * k * m / times["product"])
    return best


def peak_memory(call: Callable[[], object], device: torch.device) -> int:
    """Most bytes held during a call, weights included: the GPU's, or those of the whole process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device)
    try:
        FORGET_PEAK.write_text("5")
    except OSError:  # another system, or a container that does not let it: the peak since the start
        forgotten = False
    else:
        forgotten = True
    call()
    if forgotten:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if "VmHWM" in line).split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forward(model: Transformer, pack: Pack, dtype: torch.dtype) -> Tensor:
    """Velocity of a pack, its text embedded too."""
    return model(
        pack.tokens.to(dtype),
        pack.times,
        model.embed_text(pack.text.to(dtype), pack.text_lengths),
        pack.layout,
    )


def without_gradient(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The forward pass alone."""

    def run() -> Tensor:
        with torch.no_grad():
            return call()

    return run


def with_gradient(call: Callable[[], Tensor], module: nn.Module) -> Callable[[], None]:
    """Forward and backward pass."""

    def run() -> None:
        module.zero_grad(set_to_none=True)
        call().float().square().mean().backward()

    return run


def measure_model(
    run: TransformerRun, grid: tuple[int, int, int], settings: BenchSettings, device, clock
) -> Iterator[Speed]:
    """Training step and guided sampling step of ours."""
    config = run.model
    peaks = {name: matmul_peak(DTYPES[name], device, clock) for name in settings.precisions}
    for name in settings.precisions:
        for what in ("training step", "sampling step"):
            copies = 2 if what == "sampling step" else 1
            model = random_model(config, device)
            model.attention = BACKENDS[choose_attention(device, DTYPES[name], model.head_width)]
            pack = make_pack(config, [grid] * settings.batch, settings.text_tokens, device, copies)
            tokens, text, pairs = list(pack.layout.tokens.each), pack.text_lengths, pack.layout.pairs
            if what == "training step":
                call = training_step(model, pack, run.optimizer, name)
                flops = training_flops(config, tokens, text, pairs)
            else:
                call = sampling_step(model.cast(DTYPES[name]), pack)
                flops = step_flops(config, tokens, text, pairs)
            seconds = race({what: call}, settings.repeats, clock)[what]
            fraction, memory = flops / seconds / peaks[name], peak_memory(call, device)
            yield Speed(what, name, seconds, sum(tokens) // copies, flops, fraction, memory)
            del model, pack, call  # the next row's memory is its own
            gc.collect()


def training_step(
    model: Transformer, pack: Pack, optimizer: OptimizerConfig, precision: str
) -> Callable[[], None]:
    """What `dit train` does with a batch whose latents and text are there."""
    from vae.training.optimizer import make_optimizer, update_average

    adam, average = make_optimizer(model, optimizer), copy.deepcopy(model).requires_grad_(False)
    target = torch.randn_like(pack.tokens)

    def step() -> None:
        with torch.autocast(pack.tokens.device.type, torch.bfloat16, enabled=precision == "bf16"):
            prediction = forward(model, pack, torch.float32)
        (prediction.float() - target).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), optimizer.max_gradient_norm)
        adam.step()
        adam.zero_grad(set_to_none=True)
        update_average(average, model, 1, optimizer.ema_decay)

    return step


def sampling_step(model: Transformer, pack: Pack) -> Callable[[], Tensor]:
    """A solver step with guidance: prompt and null prompt in one packed call, the text embedded before."""
    from samplers.guidance import guide

    dtype = model.proj_out.weight.dtype
    with torch.no_grad():
        text = model.embed_text(pack.text.to(dtype), pack.text_lengths)

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


def compare_diffusers(
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
    for precision, label, dtype, cast_all, autocast in forms:
        if precision not in settings.precisions:
            continue
        ours = copy.deepcopy(model)
        ours = ours.to(dtype) if cast_all else ours.cast(dtype)
        ours.attention = BACKENDS[choose_attention(device, DTYPES[precision], ours.head_width)]
        other = diffusers_model(model, dtype, cast_all)
        latents = torch.stack(pack.latents).to(dtype)
        text = rearrange(pack.text, "(b s) d -> b s d", b=len(pack.grids)).to(dtype)
        times = torch.full((len(pack.grids),), TIME, device=device) * 1000

        def our_call(ours=ours, dtype=dtype, autocast=autocast) -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                return forward(ours, pack, dtype)

        def other_call(other=other, latents=latents, text=text, times=times, autocast=autocast) -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                return other(latents, times, text, return_dict=False)[0]

        reference = without_gradient(other_call)().float()
        velocity = without_gradient(our_call)().float().split(pack.layout.tokens.each)
        apart = largest_difference(torch.stack([unpatchify(v, grid) for v in velocity]), reference)
        passes = {
            "forward": (without_gradient(our_call), without_gradient(other_call)),
            "forward + backward": (with_gradient(our_call, ours), with_gradient(other_call, other)),
        }
        for what, (mine, theirs) in passes.items():
            seconds = race({"ours": mine, "other": theirs}, settings.repeats, clock)
            yield Ratio(f"{what}, {label}", seconds["ours"], seconds["other"], apart)


def largest_difference(x: Tensor, reference: Tensor) -> float:
    """Largest difference over the largest value."""
    return ((x.float() - reference.float()).abs().max() / reference.float().abs().max()).item()


def padded(pack: Pack) -> tuple[Pack, Callable, Tensor]:
    """The samples as a batch padded to the longest: pack, masked attention, and which tokens are real."""
    lengths, longest = pack.layout.tokens.each, pack.layout.tokens.longest
    device, samples = pack.tokens.device, len(lengths)

    def pad(rows: Tensor) -> Tensor:
        parts = rows.split(lengths)
        return torch.cat([torch.cat([x, x.new_zeros(longest - len(x), *x.shape[1:])]) for x in parts])

    real = torch.arange(longest, device=device) < torch.tensor(lengths, device=device)[:, None]
    mask = rearrange(real, "b s -> b 1 1 s")
    layout, times = make_layout(
        [(1, 1, longest)] * samples,
        [torch.tensor([TIME])] * samples,
        2 * pack.layout.rotary[0].shape[-1],
        device,
    )
    layout = replace(layout, rotary=tuple(pad(part) for part in pack.layout.rotary))

    def attention(q: Tensor, k: Tensor, v: Tensor, queries: Lengths, keys: Lengths) -> Tensor:
        q, k, v = (rearrange(x, "(b s) n d -> b n s d", b=samples) for x in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask if keys is layout.tokens else None)
        return rearrange(y, "b n s d -> (b s) n d")

    return replace(pack, tokens=pad(pack.tokens), times=times, layout=layout), attention, real.flatten()


def compare_padding(config: TransformerConfig, settings: BenchSettings, device, clock) -> Iterator[Ratio]:
    """Packs of mixed sizes against the same model on the batch padded to the longest sample, with a mask."""
    for precision in settings.precisions:
        dtype = DTYPES[precision]
        packed_model = random_model(config, device).cast(dtype)
        padded_model = copy.deepcopy(packed_model)
        packed_model.attention = BACKENDS[choose_attention(device, dtype, packed_model.head_width)]
        for name, grids in MIXED.items():
            pack = make_pack(config, grids, settings.text_tokens, device)
            padded_pack, padded_model.attention, real = padded(pack)

            def packed_call(model=packed_model, pack=pack, dtype=dtype) -> Tensor:
                return forward(model, pack, dtype)

            def padded_call(model=padded_model, pack=padded_pack, dtype=dtype, real=real) -> Tensor:
                return forward(model, pack, dtype)[real]

            apart = largest_difference(without_gradient(packed_call)(), without_gradient(padded_call)())
            passes = {
                "forward": (without_gradient(packed_call), without_gradient(padded_call)),
                "forward + backward": (
                    with_gradient(packed_call, packed_model),
                    with_gradient(padded_call, padded_model),
                ),
            }
            for what, (packed, with_mask) in passes.items():
                seconds = race({"ours": packed, "other": with_mask}, settings.repeats, clock)
                yield Ratio(f"{name}, {what}, {precision}", seconds["ours"], seconds["other"], apart)


def say(cells: tuple[str, ...]) -> None:
    """One line of a table, at once: a long measurement shows how far it is."""
    print(f"{cells[0]:62}" + "".join(f"{cell:>15}" for cell in cells[1:]), flush=True)


def say_speed(row: Speed) -> None:
    """A line of ours."""
    rates = (
        f"{row.tokens / row.seconds:,.0f}",
        f"{row.flops / row.seconds / 1e9:,.0f}",
        f"{100 * row.of_peak:.0f} %",
    )
    say(
        (f"{row.what}, {row.precision}", f"{1e3 * row.seconds:.1f}", *rates, f"{row.memory / 2**20:,.0f} MiB")
    )


def say_ratio(row: Ratio, faster: bool) -> None:
    """A line of two sides: our time over the other's, or how many times faster ours is."""
    ratio = f"{1 / row.ratio:.2f} x" if faster else f"{row.ratio:.3f}"
    say((row.what, f"{1e3 * row.ours:.1f}", f"{1e3 * row.other:.1f}", ratio, f"{row.apart:.1e}"))


def instructions(device: torch.device) -> str:
    """What the device multiplies bf16 matrices with."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if torch.cpu._is_amx_tile_supported():
        return f"{platform.machine()} with AMX bf16"
    return f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, no AMX"


def grid_of_run(run: TransformerRun) -> tuple[int, int, int]:
    """Patches of a run's longest clip."""
    return 1 + (run.data.frames - 1) // 4, run.data.size // 16, run.data.size // 16


def bench(settings: BenchSettings) -> dict:
    """Measures what the settings ask for, prints it part by part, and returns it all."""
    device = torch.device(
        settings.device if settings.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    )
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch sees no GPU here; leave --device out, or see dit doctor")
    torch.set_num_threads(settings.threads)
    run = load_run(TransformerRun, settings.config) if settings.config else TransformerRun(model=REFERENCE)
    grid = grid_of_run(run) if settings.config else REFERENCE_GRID
    clock, clock_name = make_clock(device, settings.threads)
    config = run.model
    print(
        f"width {config.width}, depth {config.depth}, {config.heads} heads; {settings.batch} x "
        f"{math.prod(grid):,} tokens (grid {'x'.join(map(str, grid))}), {settings.text_tokens} text tokens\n"
        f"torch {torch.__version__}, {instructions(device)}, {settings.threads} thread(s); {clock_name}, "
        f"median of {settings.repeats} in turn\n"
    )
    result = {
        "settings": asdict(settings),
        "torch": torch.__version__,
        "machine": instructions(device),
        "clock": clock_name,
    }
    if "model" in settings.parts:
        say(("ours", "ms", "tokens/s", "GFLOP/s", "of matmul peak", "peak memory"))
        result["model"] = []
        for row in measure_model(run, grid, settings, device, clock):
            say_speed(row)
            result["model"].append(asdict(row))
        print(
            "A training step has its optimizer and average, not the encoders; bf16 is autocast over fp32\n"
            "weights. A sampling step is guided (two passes in one call) and counts its tokens once.\n"
        )
    if "diffusers" in settings.parts:
        if importlib.util.find_spec("diffusers") is None:
            print("diffusers is not installed, so there is nothing to compare with: pip install diffusers\n")
        else:
            say(("beside diffusers, same weights", "ours ms", "diffusers ms", "ratio", "apart"))
            result["diffusers"] = []
            for row in compare_diffusers(config, grid, settings, device, clock):
                say_ratio(row, faster=False)
                result["diffusers"].append(asdict(row) | {"ratio": row.ratio})
            print(
                "The loaders' cast, which samples, keeps norms and times in fp32; the other keeps nothing.\n"
            )
    if "packs" in settings.parts:
        say(("mixed packs, same weights", "packed ms", "padded ms", "faster", "apart"))
        result["packs"] = []
        for row in compare_padding(config, settings, device, clock):
            say_ratio(row, faster=True)
            result["packs"].append(asdict(row) | {"ratio": row.ratio})
        print("Padded: the same model on the batch padded to its longest sample, with a mask.\n")
    if settings.json:
        write_text(Path(settings.json), json.dumps(result, indent=1) + "\n")
    return result


def main(arguments: list[str]) -> None:
    """The verb `dit bench`."""
    bench(parse(BenchSettings, arguments, prog="dit bench"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("bench")
