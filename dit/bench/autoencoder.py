"""`dit bench vae`: the autoencoder beside diffusers' `AutoencoderKLWan`, over lengths, and in tiles."""

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from configs.load import parse
from configs.model import SMALL, TINY, WAN, AutoencoderConfig
from configs.ranges import Count, Frames, Side, Threads
from dit.bench import measure
from vae import tiles
from vae.data.manifest import NAME, find_files, load_manifest
from vae.data.video import UnreadableVideo, probe, read_frames, resize_and_crop, to_video
from vae.data.write import write_stream
from vae.diffusers_folder import autoencoder_settings
from vae.load import load_autoencoder
from vae.model import Autoencoder, compression_of, time_chunks
from vae.training.device import own_device
from vae.training.seeds import generator, normal


@dataclass(frozen=True)
class BenchVaeSettings:
    """Time and memory of encoding and decoding, beside diffusers' Wan autoencoder with the same weights."""

    parts: tuple[Literal["diffusers", "lengths", "seams"], ...] = ("diffusers",)
    """What to measure: beside diffusers; memory over lengths, streamed into an mp4; tiles on real clips."""
    shapes: tuple[Literal["tiny", "small", "wan"], ...] = ("tiny", "small")
    """Which autoencoders: the built-in one's shape, a third of Wan's width, Wan 2.1's."""
    precisions: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
    """Precisions of weights and computation; tiles are compared in fp32."""
    frames: Frames = 17
    """Frames of the clip beside diffusers, and of each real one; 1 + 4k."""
    size: Side = 192
    """Height and width in pixels of the clip beside diffusers."""
    lengths: tuple[Count, ...] = (17, 81, 321)
    """Frames of the videos of 256 x 256 whose memory is compared, each 1 + 4k."""
    clips: str = ""
    """Real clips for the tiles: a folder or a manifest, of which the first that are long enough are taken."""
    count: Count = 3
    """How many real clips the tiles are tried on."""
    model: str = "builtin"
    """Folder whose autoencoder the tiles are of, or `builtin`."""
    tile: Count = 16
    """Maximum side of a tile in latents."""
    repeats: Count = 3
    """Measurements of each side; the median is reported."""
    threads: Threads | None = None
    """Threads on a CPU; none: all, measured by the wall clock; one is measured in CPU seconds."""
    json: str = ""
    """File for all figures; empty writes none."""


SHAPES = {"tiny": TINY, "small": SMALL, "wan": WAN}
LENGTHS_SIZE = 256


@dataclass(frozen=True)
class Row:
    """One way of one autoencoder: seconds a frame and peak bytes beyond weights and input, of whole clips, of
    streams whose parts are dropped, and of diffusers; and how much the outputs differ, relatively."""

    what: str
    ours: float
    stream: float
    other: float
    memory: int
    stream_memory: int
    other_memory: int
    difference: float


def _twin_of(model: Autoencoder) -> nn.Module:
    """diffusers' autoencoder with the same weights."""
    from diffusers import AutoencoderKLWan

    settings = {k: v for k, v in autoencoder_settings(model).items() if not k.startswith("_")}
    twin = AutoencoderKLWan(**settings)
    twin.load_state_dict(model.weights())
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


def _ways(model: Autoencoder, twin: nn.Module, video: Tensor) -> dict[str, dict[str, Callable[[], object]]]:
    """Both ways of both, and of ours as a stream of which nothing is kept."""
    dtype = model.quant_conv.weight.dtype
    latents = model.encode(video)
    raw = model.denormalise(latents).to(dtype)
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
def _measure_shape(
    name: str, precision: str, settings: BenchVaeSettings, device: torch.device, clock
) -> list[Row]:
    """Encoding and decoding of one shape in one precision."""
    model = random_autoencoder(SHAPES[name]).to(device)
    twin = _twin_of(model).to(device)
    model, twin = model.to(measure.DTYPES[precision]), twin.to(measure.DTYPES[precision])
    numbers = generator("bench").random((1, 3, settings.frames, settings.size, settings.size), "float32")
    video = torch.from_numpy(numbers) * 2 - 1
    rows = []
    for way, sides in _ways(model, twin, video.to(device)).items():
        seconds = measure.medians_in_turn(sides, settings.repeats, clock)
        memory = {side: measure.peak_allocated(call, device) for side, call in sides.items()}
        ours, other = (sides[side]().float() for side in ("ours", "other"))
        row = Row(
            f"{name} {way}, {precision}",
            *(seconds[side] / settings.frames for side in ("ours", "stream", "other")),
            *(memory[side] for side in ("ours", "stream", "other")),
            difference=((ours - other).norm() / other.norm()).item(),
        )
        rows.append(row)
        times = [f"{1000 * s:8.1f}" for s in (row.ours, row.stream, row.other)]
        fast = [f"{row.other / s:7.2f}" for s in (row.ours, row.stream)]
        share = [f"{m / row.other_memory:7.0%}" for m in (row.memory, row.stream_memory)]
        cells = f"{''.join(times)}  {''.join(fast)}      {''.join(share)}   {row.difference:9.0e}"
        print(f"{row.what:24} {cells}", flush=True)
    return rows


HEAD = (
    "same weights, ms a frame       ours  stream  diffusers   times as fast    memory of diffusers'"
    "  difference\n"
    "                                                        whole  stream        whole  stream"
)


@torch.no_grad()
def _memory_of_length(name: str, precision: str, frames: int, threads: int | None) -> tuple[int, int]:
    """Peak bytes of this process while it decodes so many frames of 256 x 256 as a stream into an mp4.

    The second number is what it held before.
    """
    if threads:
        torch.set_num_threads(threads)
    device = own_device()
    model = random_autoencoder(SHAPES[name]).to(device, measure.DTYPES[precision])
    count, *sides = model.compression.latent_size(frames, LENGTHS_SIZE, LENGTHS_SIZE)
    latents = (normal((1, model.channels, 1, *sides), "bench", k) for k in range(count))

    def write() -> None:
        with tempfile.TemporaryDirectory() as folder:
            parts = model.decode_stream(z.to(device) for z in latents)
            write_stream(Path(folder) / "video.mp4", (part[0].cpu() for part in parts), 16.0, dict)

    before = measure.peak_memory(lambda: None, device)
    return measure.peak_memory(write, device), before


def _bench_lengths(settings: BenchVaeSettings) -> list[dict]:
    """Peak memory of decoding videos of several lengths, each in a new process."""
    print(f"decoding {LENGTHS_SIZE}x{LENGTHS_SIZE} as a stream into an mp4, peak memory in MiB\n")
    rows = []
    for name in settings.shapes:
        for precision in settings.precisions:
            peaks = {}
            for frames in settings.lengths:
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as new:
                    job = new.submit(_memory_of_length, name, precision, frames, settings.threads)
                    peaks[frames] = job.result()
            rows.append({"what": f"{name}, {precision}", "peaks": peaks})
            whole, own = ([get(p) for p in peaks.values()] for get in (lambda p: p[0], lambda p: p[0] - p[1]))
            sizes = ", ".join(f"{n} frames {p / 2**20:.0f}" for n, p in zip(peaks, whole, strict=True))
            print(
                f"{name}, {precision}: {sizes}: {max(whole) / min(whole) - 1:.1%} more of the process, "
                f"{max(own) / min(own) - 1:.1%} of what decoding adds",
                flush=True,
            )
    return rows


def _real_clips(settings: BenchVaeSettings, side: int) -> Iterator[tuple[str, Tensor]]:
    """Names and videos 1 C T H W of the first clips that are long enough, sides cut to multiples."""
    where, count = Path(settings.clips), 0
    manifest = where.is_file() or (where / NAME).is_file()
    files = [entry.path for entry in load_manifest(where)] if manifest else find_files(where)
    for file in files:
        if count == settings.count:
            return
        try:
            known = probe(file)
            if known.frames < settings.frames:
                continue
            frames = read_frames(file, range(settings.frames), known)
        except UnreadableVideo as error:
            print(f"passed over: {error}")
            continue
        count += 1
        height, width = (length - length % side for length in frames.shape[1:3])
        yield file.name, to_video(resize_and_crop(frames, height, width))[None]
    if not count:
        raise ValueError(f"--clips {settings.clips}: no clip in it has {settings.frames} frames")


@torch.no_grad()
def _bench_seams(settings: BenchVaeSettings, device: torch.device, clock) -> list[dict]:
    """How far tiles of real clips are from the untiled result, both ways, and the time they take."""
    model = load_autoencoder(settings.model, device)
    if not isinstance(model, Autoencoder):
        raise ValueError(f"--model {settings.model}: tiles are of Wan 2.1's autoencoder and ours")
    print(
        f"tiles of at most {settings.tile} latents a side of {settings.model}'s autoencoder, fp32, beside "
        f"the whole\nframe, in latents (deviation 1) and pixels (255 levels); convolutions see "
        f"{tiles.encoder_halo(model)} latents beyond a tile encoding, {tiles.decoder_halo(model)} decoding\n"
        f"\n{'clip':34} way       largest       mean   times as long"
    )
    rows = []
    for name, video in _real_clips(settings, model.compression.spatial):
        video = video.to(device)
        latents = model.encode(video)
        for way, x, whole, tiled, unit in (
            ("encode", video, model.encode, tiles.encode, 1.0),
            ("decode", latents, model.decode, tiles.decode, 127.5),
        ):
            expected = whole(x)
            sides = {"whole": partial(whole, x), "tiled": partial(tiled, model, x, settings.tile)}
            difference = unit * (sides["tiled"]() - expected).abs()
            seconds = measure.medians_in_turn(sides, settings.repeats, clock)
            largest, mean = difference.max().item(), difference.mean().item()
            longer = seconds["tiled"] / seconds["whole"]
            row = {"clip": name, "way": way, "largest": largest, "mean": mean, "longer": longer}
            rows.append(row | {"size": list(video.shape[2:])})
            print(f"{name[:34]:34} {way} {largest:10.2g} {mean:10.2g} {longer:15.2f}", flush=True)
    return rows


def bench_vae(settings: BenchVaeSettings) -> dict:
    """Measures and prints the parts that are asked for."""
    for name in settings.shapes:
        compression_of(SHAPES[name]).check(settings.frames, settings.size, settings.size)
        for frames in settings.lengths:
            compression_of(SHAPES[name]).check(frames, LENGTHS_SIZE, LENGTHS_SIZE)
    if "seams" in settings.parts and not Path(settings.clips or "none given").exists():
        raise ValueError(
            f"--parts seams needs real clips: --clips {settings.clips!r} is no folder or manifest"
        )
    device = own_device()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    clock, clock_name = measure.make_clock(device, torch.get_num_threads())
    result = measure.conditions(settings, device, clock_name)
    if "diffusers" in settings.parts:
        result["rows"] = [asdict(row) for row in _bench_diffusers(settings, device, clock)]
    if "lengths" in settings.parts:
        result["lengths"] = _bench_lengths(settings)
    if "seams" in settings.parts:
        result["seams"] = _bench_seams(settings, device, clock)
    measure.write_figures(settings.json, result)
    return result


def _bench_diffusers(settings: BenchVaeSettings, device: torch.device, clock) -> list[Row]:
    """Every shape and precision that is asked for, beside diffusers."""
    if importlib.util.find_spec("diffusers") is None:
        raise ValueError(
            "diffusers is not installed, so there is nothing to compare with: pip install diffusers"
        )
    print(f"{settings.frames} frames of {settings.size}x{settings.size}\n\n{HEAD}")
    rows = [
        row
        for name in settings.shapes
        for precision in settings.precisions
        for row in _measure_shape(name, precision, settings, device, clock)
    ]
    print(
        "\nMemory: what PyTorch holds beyond weights and input; a stream's parts are dropped as they come.\n"
    )
    return rows


def main(arguments: list[str]) -> None:
    """The verb `dit bench vae`."""
    bench_vae(parse(BenchVaeSettings, arguments, prog="dit bench vae"))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("bench vae")
