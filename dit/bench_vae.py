"""`dit bench vae`: encoding and decoding beside diffusers' `AutoencoderKLWan` with the same weights."""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from configs.autoencoder_sizes import SMALL, TINY, WAN
from configs.load import parse
from configs.settings import AutoencoderConfig, BenchVaeSettings
from dit.bench import DTYPES, instructions, make_clock, race
from vae.diffusers_folder import autoencoder_settings
from vae.model import Autoencoder, compression_of, time_chunks
from vae.weights import write_text

SHAPES = {"tiny": TINY, "small": SMALL, "wan": WAN}


@dataclass(frozen=True)
class Row:
    """One way of one autoencoder: seconds a frame and peak bytes beyond weights and input, of whole clips, of
    streams whose parts are dropped, and of diffusers; and how far apart the outputs are, relatively."""

    what: str
    ours: float
    stream: float
    other: float
    memory: int
    stream_memory: int
    other_memory: int
    apart: float


def twin_of(model: Autoencoder) -> nn.Module:
    """diffusers' autoencoder with the same weights."""
    from diffusers import AutoencoderKLWan

    settings = {k: v for k, v in autoencoder_settings(model.config).items() if not k.startswith("_")}
    twin = AutoencoderKLWan(**settings)
    twin.load_state_dict(model.state_dict())
    return twin.eval().requires_grad_(False)


@torch.no_grad()
def random_autoencoder(config: AutoencoderConfig) -> Autoencoder:
    """An autoencoder none of whose kernels is zero, whose videos stay within -1 and 1."""
    torch.manual_seed(0)
    model = Autoencoder(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and not name.endswith("gamma"):
            parameter.normal_(0.0, (1 / parameter[0].numel()) ** 0.5)
    model.decoder.conv_out.weight.mul_(0.1)
    return model.eval().requires_grad_(False)


def peak_allocated(call: Callable[[], object], device: torch.device) -> int:
    """Most bytes that PyTorch held during a call beyond what it held before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        call()
    events = [event for event in measured.profiler.kineto_results.events() if event.name() == "[memory]"]
    used = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        used += event.nbytes()
        peak = max(peak, used)
    return peak


def ways(model: Autoencoder, twin: nn.Module, video: Tensor) -> dict[str, dict[str, Callable[[], object]]]:
    """Both ways of both, and of ours as a stream of which nothing is kept."""
    dtype = model.quant_conv.weight.dtype
    latents = model.encode(video)
    raw = (latents * model.latent_std + model.latent_mean).to(dtype)
    given = video.to(dtype)

    def drop(parts) -> None:
        for _ in parts:
            pass

    return {
        "encode": {
            "ours": lambda: model.encode(video),
            "stream": lambda: drop(model.encode_stream(time_chunks(video))),
            "other": lambda: model.normalise(twin.encode(given).latent_dist.mean.float()),
        },
        "decode": {
            "ours": lambda: model.decode(latents),
            "stream": lambda: drop(model.decode_stream([latents])),
            "other": lambda: twin.decode(raw).sample.float(),
        },
    }


@torch.no_grad()
def measure(name: str, precision: str, settings: BenchVaeSettings, device: torch.device, clock) -> list[Row]:
    """Encoding and decoding of one shape in one number format."""
    model = random_autoencoder(SHAPES[name]).to(device)
    twin = twin_of(model).to(device)
    model, twin = model.to(DTYPES[precision]), twin.to(DTYPES[precision])
    random = torch.Generator().manual_seed(0)
    video = torch.rand(1, 3, settings.frames, settings.size, settings.size, generator=random) * 2 - 1
    rows = []
    for way, sides in ways(model, twin, video.to(device)).items():
        seconds = race(sides, settings.repeats, clock)
        memory = {side: peak_allocated(call, device) for side, call in sides.items()}
        ours, other = (sides[side]().float() for side in ("ours", "other"))
        row = Row(
            f"{name} {way}, {precision}",
            *(seconds[side] / settings.frames for side in ("ours", "stream", "other")),
            *(memory[side] for side in ("ours", "stream", "other")),
            apart=((ours - other).norm() / other.norm()).item(),
        )
        rows.append(row)
        print(line(row), flush=True)
    return rows


HEAD = (
    "same weights, ms a frame       ours  stream  diffusers   times as fast    memory of diffusers'"
    "      apart\n"
    "                                                        whole  stream        whole  stream"
)


def line(row: Row) -> str:
    """A row of the table."""
    times = [f"{1000 * s:8.1f}" for s in (row.ours, row.stream, row.other)]
    fast = [f"{row.other / s:7.2f}" for s in (row.ours, row.stream)]
    share = [f"{m / row.other_memory:7.0%}" for m in (row.memory, row.stream_memory)]
    return f"{row.what:24} {''.join(times)}  {''.join(fast)}      {''.join(share)}   {row.apart:9.0e}"


def bench_vae(settings: BenchVaeSettings) -> dict:
    """Measures and prints every shape and number format that is asked for."""
    for name in settings.shapes:
        compression_of(SHAPES[name]).check(settings.frames, settings.size, settings.size)
    if settings.repeats < 1 or settings.threads < 0:
        raise ValueError("--repeats must be at least 1, and --threads not negative")
    if importlib.util.find_spec("diffusers") is None:
        raise ValueError(
            "diffusers is not installed, so there is nothing to compare with: pip install diffusers"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    clock, clock_name = make_clock(device, torch.get_num_threads())
    print(
        f"{settings.frames} frames of {settings.size}x{settings.size}; torch {torch.__version__}, "
        f"{instructions(device)}, {torch.get_num_threads()} thread(s); {clock_name}, median of "
        f"{settings.repeats} in turn\n\n{HEAD}"
    )
    rows = [
        row
        for name in settings.shapes
        for precision in settings.precisions
        for row in measure(name, precision, settings, device, clock)
    ]
    print("\nMemory: what PyTorch holds beyond weights and input; a stream's parts are dropped as they come.")
    result = {"settings": asdict(settings), "torch": torch.__version__, "machine": instructions(device)}
    result["rows"] = [asdict(row) for row in rows]
    if settings.json:
        write_text(Path(settings.json), json.dumps(result, indent=1) + "\n")
    return result


def main(arguments: list[str]) -> None:
    """The verb `dit bench vae`."""
    bench_vae(parse(BenchVaeSettings, arguments, prog="dit bench vae"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("bench vae")
