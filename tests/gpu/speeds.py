"""How fast a GPU is, and how fast we are on it: roofline, training, sampling, attention, autoencoder."""

import copy
import gc
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from configs.model import WAN, TransformerConfig
from configs.train import OptimizerConfig
from dit.attention import BACKENDS, Lengths, make_lengths, why_not
from dit.bench import measure
from dit.bench.flops import step_flops, training_flops
from dit.bench.passes import make_pack, without_gradient
from dit.bench.transformer import sampling_step, training_step
from dit.model import Transformer
from tests.gpu.rows import Report
from vae.training import device as door
from vae.training.optimizer import make_optimizer
from vae.training.seeds import normal

NOMINAL = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bf16 FLOP/s, by a word of the card's name
XL = TransformerConfig(
    width=1152, depth=28, heads=9, mlp_width=5632, text_width=512
)  # as wide and deep as DiT-XL
GRIDS = {
    "uniform": [(4, 16, 16)] * 4,
    "ragged": [(6, 16, 16), (4, 16, 16), (3, 16, 16), (1, 16, 32), (1, 16, 16)],
}
TEXT, REPEATS = 77, 5
BF16 = torch.bfloat16


def peak(device: torch.device, report: Report) -> float:
    """The card's nominal FLOP/s in bf16, or of another what matrix products reach."""
    if report.dry:
        return 1e12
    known = [flops for word, flops in NOMINAL.items() if word in door.gpu_name(device)]
    return known[0] if known else measure.matmul_peak(BF16, device, _clock(device))


def _clock(device: torch.device) -> Callable[[], float]:
    return measure.make_clock(device, 1)[0]


def _seconds(calls: dict[str, Callable], device: torch.device, report: Report) -> dict[str, float]:
    """Median seconds of calls that take turns."""
    return measure.medians_in_turn(calls, 1 if report.dry else REPEATS, _clock(device))


def roofline(report: Report) -> None:
    """Matrix products of the transformers' shapes, attention alone, and a copy within the device's memory."""
    device, small = door.own_device(), 64 if report.dry else 1
    for rows, inputs, outputs in (
        (8192, 8192, 8192),
        (65536, 1152, 3456),
        (65536, 1152, 5632),
        (4096, 1152, 5632),
        (32768, 1536, 8960),
    ):
        m, k, n = (size // small for size in (rows, inputs, outputs))
        x, y = normal((m, k), "x").to(device, BF16), normal((n, k), "y").to(device, BF16)
        seconds = _seconds({"": lambda x=x, y=y: F.linear(x, y)}, device, report)[""]
        report.add(f"product {m} x {k} x {n}, bf16", 2e-12 * m * k * n / seconds, "TFLOP/s")
    x = torch.empty(2**31 // small**2, dtype=torch.uint8, device=device)
    seconds = _seconds({"": lambda: x.clone()}, device, report)[""]
    report.add("copy, bytes read and written", 2e-12 * x.numel() / seconds, "TB/s")
    for batch, heads, tokens in ((4, 9, 1024), (1, 9, 4096), (1, 12, 32760)):
        tokens //= small
        q = normal((batch, heads, tokens, 128), "q").to(device, BF16)
        seconds = _seconds({"": lambda q=q: F.scaled_dot_product_attention(q, q, q)}, device, report)[""]
        report.add(
            f"attention {batch} x {heads} x {tokens} x 128, bf16",
            4e-12 * batch * heads * tokens**2 * 128 / seconds,
            "TFLOP/s",
        )
    report.add("what a share is of, below", peak(device, report) / 1e12, "TFLOP/s")


def attention(report: Report) -> None:
    """Every backend on uniform and ragged packs of as many tokens: forward, and forward and backward."""
    device = door.own_device()
    heads, total = (2, 256) if report.dry else (9, 16384)
    packs = {
        "uniform": (total // 16,) * 16,
        "ragged": tuple(total * part // 64 for part in (16, 12, 9, 8, 6, 5, 4, 2, 1, 1)),
    }
    q, k, v = normal((total, 3, heads, 128), "qkv").to(device, BF16).requires_grad_().unbind(1)
    speeds: dict[tuple[str, ...], float] = {}
    for name, backend in BACKENDS.items():
        if reason := why_not(name, device, BF16, 128):
            report.add(f"attention by {name}", "no", goal=reason[:60])
            continue
        for pack, each in packs.items():
            lengths = make_lengths(each, device)

            def both(backend=backend, lengths: Lengths = lengths) -> None:
                backend(q, k, v, lengths, lengths).sum().backward(retain_graph=True)

            forward = without_gradient(lambda b=backend, n=lengths: b(q, k, v, n, n))
            for what, call, count in (("forward", forward, 4), ("forward + backward", both, 14)):
                seconds = _seconds({"": call}, device, report)[""]
                speeds[name, pack, what] = speed = (
                    1e-12 * count * heads * 128 * sum(n * n for n in each) / seconds
                )
                report.add(f"{name}, {pack} pack, {what}", speed, "TFLOP/s")
    for what in ("forward", "forward + backward"):
        for pack, most in (("uniform", 1.05), ("ragged", 1.05)):
            if ("varlen", pack, what) in speeds:
                ratio = speeds["sdpa", "uniform", what] / speeds["varlen", pack, what]
                report.add(
                    f"varlen on a {pack} pack beside SDPA on a uniform one, {what}",
                    ratio,
                    "times",
                    f"at most {most}",
                    ratio <= most,
                )


def _model(config: TransformerConfig, device: torch.device) -> Transformer:
    """A transformer made where it computes."""
    with device:
        model = Transformer(config)
    model.use_attention(device, BF16)
    return model


def _sizes(config: TransformerConfig, report: Report) -> tuple[TransformerConfig, dict[str, list]]:
    """The shape and the packs, tiny in a dry run."""
    if not report.dry:
        return config, GRIDS
    small = replace(config, width=32, depth=2, heads=2, mlp_width=64, text_width=16)
    return small, {name: [(t, 2, 4) for t, _, _ in grids] for name, grids in GRIDS.items()}


def _free() -> None:
    """What the last measurement held goes before the next one."""
    gc.collect()


def _speed(
    report: Report, config: TransformerConfig, name: str, goals: tuple[float, float], ways: tuple[str, ...]
) -> None:
    """Training and forward pass of a shape: model FLOPs used, and the most memory held."""
    from dit.blocks import checkpoint_blocks, compile_blocks, why_not_compiled

    device, (config, grids) = door.own_device(), _sizes(config, report)
    whole, reason = peak(device, report), "a dry run" if report.dry else why_not_compiled(device)
    for way in ways:
        if way == "compiled" and reason:
            report.add(f"{name}, compiled", "no", goal=reason[:60])
            continue
        model = _model(config, device)
        if way == "compiled":
            compile_blocks(model)
        elif way != "eager":
            checkpoint_blocks(model, way)
        if way == ways[0]:
            report.add(f"{name}: weights", sum(p.numel() for p in model.parameters()) / 1e6, "million")
        for pack_name, samples in grids.items():
            pack = make_pack(config, samples, TEXT, device)
            each, texts = list(pack.layout.tokens.each), pack.text_lengths
            counts = each, texts, pack.layout.pairs
            step = training_step(model, pack, OptimizerConfig(), "bf16")
            seconds = _seconds({"": step}, device, report)[""]
            used = training_flops(config, *counts) / seconds / whole
            what = f"{name} trains, {way}, {pack_name} pack of {sum(each):,}"
            goal = (f"goal {goals[0]:.0%}", used >= goals[0]) if way == "compiled" else ("", None)
            report.add(what, 100 * used, "% MFU", *goal)
            report.add(f"{what}: a step", 1e3 * seconds, "ms")
            report.add(f"{what}: most memory", measure.peak_memory(step, device) / 2**30, "GiB")
            del step
            _free()
        del model
        _free()
    _forward(report, config, name, grids["uniform"], goals[1], whole, reason)


def _forward(
    report: Report, config, name: str, samples: list, goal: float, whole: float, reason: str
) -> None:
    """A solver's step with guidance: two passes of each sample in one call."""
    from dit.blocks import compile_blocks

    device = door.own_device()
    for way in ("eager", "compiled")[: 1 if reason else 2]:
        model = _model(config, device).cast(BF16)
        if way == "compiled":
            compile_blocks(model)
        pack = make_pack(config, samples, TEXT, device, copies=2)
        step = sampling_step(model, pack)
        seconds = _seconds({"": step}, device, report)[""]
        flops = step_flops(config, list(pack.layout.tokens.each), pack.text_lengths, pack.layout.pairs)
        used = flops / seconds / whole
        report.add(f"{name} samples, {way}, guided", 100 * used, "% MFU", f"goal {goal:.0%}", used >= goal)
        del model, step
        _free()


def training(report: Report) -> None:
    """The shape of DiT-XL at 4,096 tokens; and what of its memory is whose."""
    _memory(report, XL)
    _speed(report, XL, "XL", (0.46, 0.55), ("compiled", "eager", "selective", "blocks"))


def wan(report: Report) -> None:
    """The shape of Wan 1.3B."""
    _speed(report, TransformerConfig(), "Wan 1.3B", (0.46, 0.55), ("compiled", "eager"))


def _memory(report: Report, config: TransformerConfig) -> None:
    """What weights, their average, gradients, the optimizer and activations of a training step take."""
    device, (config, grids) = door.own_device(), _sizes(config, report)
    if door.memory(device) is None:
        return
    held = [door.memory(device)]

    def took(what: str) -> None:
        held.append(door.memory(device))
        report.add(f"memory of {what}", (held[-1] - held[-2]) / 2**20, "MiB")

    model = _model(config, device)
    took("weights")
    average = copy.deepcopy(model)
    took("their average")
    pack = make_pack(config, grids["uniform"], TEXT, device)
    took("a batch")
    optimizer, run = make_optimizer(model, OptimizerConfig()), training_pass(model, pack)
    run()
    took("gradients")
    optimizer.step()
    took("the optimizer's states")
    optimizer.zero_grad()
    before = door.memory(device)
    report.add(
        "memory of activations and gradients at most",
        (measure.peak_memory(run, device) - before) / 2**20,
        "MiB",
    )
    del model, average, optimizer, pack, run
    _free()


def training_pass(model: Transformer, pack) -> Callable[[], None]:
    """Forward and backward in bf16."""
    from dit.bench.passes import forward

    def run() -> None:
        with door.autocast(pack.tokens):
            loss = forward(model, pack, torch.float32).float().square().mean()
        loss.backward()

    return run


@torch.no_grad()
def autoencoder(report: Report) -> None:
    """The built-in autoencoder beside the CPU's, and what encoding and decoding of Wan's shape take."""
    from dit.bench.autoencoder import random_autoencoder
    from vae.load import load_autoencoder

    device, cpu = door.own_device(), torch.device("cpu")
    video = normal((1, 3, 9, 64, 64), "video").clamp(-1, 1)
    sides = [load_autoencoder("builtin", where).eval() for where in (cpu, device)]
    latents = [model.encode(video.to(where)) for model, where in zip(sides, (cpu, device), strict=True)]
    report.check(
        "built-in encoder, fp32, beside the CPU's",
        measure.largest_difference(latents[1].cpu(), latents[0]),
        1e-4,
    )
    decoded = [model.decode(latents[0].to(where)) for model, where in zip(sides, (cpu, device), strict=True)]
    report.check(
        "built-in decoder, fp32, beside the CPU's",
        measure.largest_difference(decoded[1].cpu(), decoded[0]),
        1e-4,
    )
    stream = torch.cat([*sides[1].decode_stream([latents[0].to(device)])], 2)
    report.check(
        "built-in decoder, as a stream beside whole", measure.largest_difference(stream, decoded[1]), 1e-4
    )

    frames, height, width = (5, 32, 48) if report.dry else (33, 480, 832)
    model = random_autoencoder(replace(WAN, base_width=8, decoder_base_width=8) if report.dry else WAN).to(
        device, BF16
    )
    z = normal(model.latent_shape(frames, height, width), "latents")[None].to(device)
    clip = normal((1, 3, frames, height, width), "clip").clamp(-1, 1).to(device)
    whole = 1e12 if report.dry else measure.matmul_peak(BF16, device, _clock(device))
    ways = {
        "decodes": lambda: [None for _ in model.decode_stream([z])],
        "encodes": lambda: model.encode(clip),
    }
    for way, call in ways.items():
        with FlopCounterMode(display=False) as counted:
            call()
        seconds, flops = _seconds({"": call}, device, report)[""], counted.get_total_flops()
        what, goal = (
            f"Wan's autoencoder {way} {frames} x {height} x {width}, bf16",
            "goal 40 %" if way == "decodes" else "",
        )
        report.add(what, 1e3 * seconds / frames, "ms/frame")
        report.add(
            f"{what}: of the matrix products' peak",
            100 * flops / seconds / whole,
            "%",
            goal,
            flops / seconds / whole >= 0.4 if goal else None,
        )
        report.add(f"{what}: memory beyond weights", measure.peak_allocated(call, device) / 2**30, "GiB")


def diffusers(report: Report) -> None:
    """The same weights in diffusers, where it is installed: transformer and autoencoder."""
    import importlib.util

    from dit.bench.autoencoder import BenchVaeSettings, bench_vae
    from dit.bench.transformer import BenchSettings, bench

    if importlib.util.find_spec("diffusers") is None:
        report.add("diffusers", "no", goal="it is not installed")
        return
    config, repeats = _sizes(XL, report)[0], 1 if report.dry else 3
    file = report.folder / "xl.py"
    file.write_text(f"from configs.train import *\n\nconfig = TransformerRun(model={config!r})\n")
    asked = BenchSettings(
        str(file), batch=1 if report.dry else 4, repeats=repeats, precisions=("bf16",), parts=("diffusers",)
    )
    for row in bench(asked)["diffusers"]:
        report.add(
            f"XL, {row['what']}: our time by diffusers'",
            row["ratio"],
            "times",
            "at most 1",
            row["ratio"] <= 1,
        )
        report.check(f"XL, {row['what']}: difference", row["difference"], 0.05)
    size = (5, 32) if report.dry else (17, 256)
    shapes = ("tiny",) if report.dry else ("small", "wan")
    vae = BenchVaeSettings(shapes=shapes, precisions=("bf16",), frames=size[0], size=size[1], repeats=repeats)
    for row in bench_vae(vae)["rows"]:
        ratio = row["ours"] / row["other"]
        report.add(f"{row['what']}: our time by diffusers'", ratio, "times", "at most 1", ratio <= 1)


PARTS = {
    "roofline": roofline,
    "attention": attention,
    "training": training,
    "wan": wan,
    "autoencoder": autoencoder,
    "diffusers": diffusers,
}
