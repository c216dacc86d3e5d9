"""What must hold on a GPU: the CPU's numbers on every way through the networks, and runs that go on."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from configs.data import DataConfig
from configs.model import TextConfig, TransformerConfig
from configs.sampling import SamplerConfig
from configs.train import AutoencoderRun, LoopConfig, TransformerLoop, TransformerRun
from dit.attention import BACKENDS, why_not
from dit.bench.measure import DTYPES, largest_difference
from dit.bench.passes import Pack, forward, make_pack, random_model
from dit.model import Transformer
from tests.gpu.rows import Report
from vae.training import device as door

CPU = torch.device("cpu")
EXACT, ROUNDED = 1e-5, 0.03  # of the largest value: fp32 in another order, and bf16
MIXED = [(4, 8, 8), (1, 8, 8), (3, 4, 8), (1, 4, 4), (2, 8, 4)]  # patches of samples in a ragged pack


def machine(report: Report) -> None:
    """What is there, and which attention works on it."""
    device = door.own_device()
    report.add("PyTorch", torch.__version__)
    report.add("device", door.gpu_name(device) or "a CPU")
    for name, version in door.gpu_libraries().items():
        report.add(name, version)
    for precision, dtype in DTYPES.items():
        for name in BACKENDS:
            reason = why_not(name, device, dtype, 128)
            report.add(f"attention by {name}, {precision}", "no" if reason else "works", goal=reason[:60])
    report.add("fp32 products", door.products(device), goal="exact", good=door.products(device) == "exact")


def networks(report: Report) -> None:
    """The transformer's velocity and gradients on every way, beside the CPU's in fp32."""
    config = TransformerConfig(width=512, depth=4, heads=4, mlp_width=1024, text_width=64)
    if report.dry:
        config = replace(config, width=32, depth=2, heads=2, mlp_width=64, text_width=16)
    device, reference = door.own_device(), _passes(random_model(config, CPU), _pack(config, CPU))

    def check(what: str, model: Transformer, rounded: bool = False, against=reference) -> list[Tensor]:
        found = _passes(model, _pack(config, device), rounded)
        for name, one, other in zip(("velocity", "gradients"), found, against, strict=True):
            report.check(
                f"{what}: {name}", largest_difference(one.cpu(), other.cpu()), ROUNDED if rounded else EXACT
            )
        return found

    plain = check("fp32", random_model(config, device))
    for name in BACKENDS:
        for precision, dtype in DTYPES.items():
            if (name, precision) != ("sdpa", "fp32") and not why_not(
                name, device, dtype, config.width // config.heads
            ):
                model = random_model(config, device)
                model.self_attention = model.cross_attention = BACKENDS[name]
                check(f"{precision} by {name}", model, precision == "bf16")
    again = _passes(random_model(config, device), _pack(config, device))
    equal = all(map(torch.equal, plain, again))
    report.add("fp32, the same call twice", "equal" if equal else "differs", goal="equal", good=equal)
    _blocks(report, config, device, check, plain)
    door.own_device(tf32=True)
    one = _passes(random_model(config, device), _pack(config, device))
    report.add(
        "with TF32: velocity's difference, of which exact products are free",
        largest_difference(one[0], plain[0]),
    )
    door.own_device()


def _blocks(
    report: Report, config: TransformerConfig, device: torch.device, check: Callable, plain: list[Tensor]
) -> None:
    """Activations computed again, and compiled blocks, beside the plain ones on the same device."""
    from dit.blocks import checkpoint_blocks, compile_blocks, why_not_compiled

    for kept in ("blocks", "selective"):
        model = random_model(config, device)
        checkpoint_blocks(model, kept)
        check(f"fp32, activations of {kept} computed again", model, against=plain)
    if reason := "a dry run" if report.dry else why_not_compiled(device):
        report.add("compiled blocks", "no", goal=reason[:60])
        return
    for rounded in (False, True):
        model = random_model(config, device)
        model.use_attention(device, torch.bfloat16 if rounded else torch.float32)
        compile_blocks(model)
        check(f"{'bf16' if rounded else 'fp32'}, compiled", model, rounded)


def _pack(config: TransformerConfig, device: torch.device) -> Pack:
    """A ragged pack of samples."""
    return make_pack(config, MIXED, 7, device)


def _passes(model: Transformer, pack: Pack, rounded: bool = False) -> list[Tensor]:
    """Velocity, and all gradients of its mean square in one tensor."""
    with door.autocast(pack.tokens) if rounded else nullcontext():
        velocity = forward(model, pack, torch.float32)
    velocity.float().square().mean().backward()
    return [velocity.detach().float(), torch.cat([p.grad.flatten() for p in model.parameters()])]


def samples(report: Report) -> None:
    """Videos of the built-in model beside the CPU's."""
    from dit.condition import Condition
    from dit.generate import Request, generate_videos
    from dit.load import load_model

    sides, device = {}, door.own_device()
    sampler = SamplerConfig(steps=2 if report.dry else 25)
    for name, where, dtype in (
        ("the CPU's", CPU, "fp32"),
        ("fp32", device, "fp32"),
        ("bf16", device, "bf16"),
    ):
        model = load_model("builtin", where, DTYPES[dtype])
        shape = model.autoencoder.latent_shape(5 if report.dry else 17, 64, 64)
        prompts = ("a red circle moves left", "a blue square rises")
        requests = [Request(Condition(prompt), shape, seed) for seed, prompt in enumerate(prompts)]
        sides[name] = torch.stack(generate_videos(model, requests, sampler))
    for name, least in (("fp32", 40.0), ("bf16", 20.0)):
        error = (sides[name] - sides["the CPU's"]).square().mean()
        psnr = min(99.0, (10 * torch.log10(4 / error)).item()) if error else 99.0
        report.add(
            f"built-in samples, {name} beside the CPU's",
            psnr,
            "dB PSNR",
            f"at least {least:g}",
            psnr >= least,
        )


def transformer_run(out: Path, precision: str, steps: int, dry: bool) -> TransformerRun:
    """A small training of a transformer on the drawn world, with its text encoder."""
    width = 32 if dry else 256
    model = TransformerConfig(width=width, depth=2, heads=2, mlp_width=2 * width, text_width=32)
    return TransformerRun(
        out=str(out),
        data=DataConfig(frames=5, size=32 if dry else 64, workers=0),
        model=replace(model, latent_channels=_latent_channels()),
        text=TextConfig(width=32, depth=1, heads=2, mlp_width=32),
        sampler=SamplerConfig(steps=2),
        train=_loop(precision, steps, dry, TransformerLoop),
    )


def autoencoder_run(out: Path, precision: str, steps: int, dry: bool) -> AutoencoderRun:
    """A small training of an autoencoder on the drawn world."""
    from configs.model import TINY

    model = replace(TINY, base_width=4, decoder_base_width=4, latent_channels=4) if dry else TINY
    data = DataConfig(frames=5, size=32 if dry else 64, workers=0)
    return AutoencoderRun(
        str(out),
        data=data,
        model=model,
        crop=16 if dry else 64,
        crop_frames=5,
        train=_loop(precision, steps, dry),
    )


def _loop(precision: str, steps: int, dry: bool, kind: type[LoopConfig] = LoopConfig) -> LoopConfig:
    every = {"log_every": 1, "save_every": 2 if dry else 10, "show_every": 10**6}
    return kind(steps=steps, batch=2 if dry else 8, precision=precision, **every)


def _latent_channels() -> int:
    """Of the built-in autoencoder."""
    from vae.load import load_autoencoder

    return load_autoencoder("builtin").channels


def train_here(kind: str, out: str, precision: str, steps: str, dry: str) -> None:
    """Trains so many steps on this process's device, or goes on."""
    if kind == "transformer":
        from dit.train import train
    else:
        from vae.train import train
    make = transformer_run if kind == "transformer" else autoencoder_run
    train(make(Path(out), precision, int(steps), bool(dry)))


def trainings(report: Report) -> None:
    """Both trainers: twice, stopped and given again, and on the CPU; what the losses are."""
    steps = 4 if report.dry else 20
    for kind in ("transformer", "autoencoder"):
        for precision in ("fp32", "bf16"):
            losses = {}
            for name, stops in (("whole", (steps,)), ("again", (steps,)), ("resumed", (steps // 2, steps))):
                out = report.folder / f"{kind}-{precision}-{name}"
                for stop in stops:
                    train_here(kind, str(out), precision, str(stop), "dry" * report.dry)
                    _forget_precision()
                losses[name] = _losses(out)
            for name in ("again", "resumed"):
                equal = losses[name] == losses["whole"]
                report.add(
                    f"{kind} {precision}, {name}: losses to the bit",
                    "equal" if equal else "differ",
                    goal="equal",
                    good=equal,
                )
            if precision == "fp32":
                cpu = report.folder / f"{kind}-cpu"
                code = "import sys; from tests.gpu.checks import train_here; train_here(*sys.argv[1:])"
                words = [
                    sys.executable,
                    "-c",
                    code,
                    kind,
                    str(cpu),
                    precision,
                    str(steps),
                    "dry" * report.dry,
                ]
                inherited = {
                    name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE")
                }
                subprocess.run(words, env=inherited | {"CUDA_VISIBLE_DEVICES": ""}, check=True)
                pairs = zip(losses["whole"], _losses(cpu), strict=True)
                report.check(
                    f"{kind} {precision}: losses beside the CPU's",
                    max(abs(a - b) / b for a, b in pairs),
                    1e-3,
                )


def _forget_precision() -> None:
    """The next run of this process may have another."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


def _losses(out: Path) -> list[float]:
    """Of every step, in order."""
    rows = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return [loss for _, loss in sorted({row["step"]: row["loss"] for row in rows if "loss" in row}.items())]


PARTS = {"machine": machine, "networks": networks, "samples": samples, "trainings": trainings}
