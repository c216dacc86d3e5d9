"""`dit doctor`: what is installed, what works on this machine when tried, and what is missing."""

import importlib.metadata
import importlib.util
import platform
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

PROJECT = "dit-lab"


def requirements() -> dict[str, str]:
    """Every distribution that this project asks pip for, and how to get it; read from its own record.

    Raises importlib.metadata.PackageNotFoundError where the project itself is not installed.
    """
    remedies = {}
    for line in importlib.metadata.requires(PROJECT) or []:
        name = re.match(r"[\w.-]+", line)[0]
        extra = re.search(r"""extra == ['"]([\w-]+)['"]""", line)
        remedies.setdefault(
            name, f"optional: pip install -e '.[{extra[1]}]'" if extra else "pip install -e ."
        )
    return remedies


def version(distribution: str) -> str:
    """Installed version, or nothing; asks the package's record and imports nothing."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _first_line(error: BaseException) -> str:
    """What an error says, short."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:110]}" if words else type(error).__name__


def tried(probe: Callable[[], str]) -> str:
    """What a probe answers, or why it failed: a doctor reports what others raise."""
    try:
        return probe()
    except Exception as error:
        return f"fails: {_first_line(error)}"


def _tried_rows(probe: Callable[[], list[tuple[str, str, str]]]) -> list[tuple[str, str, str]]:
    """The rows of a probe, or one that says why it failed."""
    try:
        return probe()
    except Exception as error:
        return [("-", "fails", _first_line(error))]


def packages() -> list[tuple[str, str, str]]:
    """Every package that is asked for with its version, or how to get it."""
    versions = [(name, version(name), remedy) for name, remedy in requirements().items()]
    return [(name, number or "-", "" if number else remedy) for name, number, remedy in versions]


def _ffmpeg_version() -> str:
    """Version of the ffmpeg that imageio brings."""
    from vae.data.video import ffmpeg

    return ffmpeg(["-version"]).stdout.decode().split(" Copyright")[0].removeprefix("ffmpeg version ")


def video_round_trip() -> str:
    """Writes a small video and reads a frame in its middle back."""
    import torch

    from vae.data.video import probe, read_frames
    from vae.data.write import write_video

    ramp = torch.linspace(-1, 1, 5)[None, :, None, None].expand(3, 5, 64, 64)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ramp.mp4"
        write_video(file, ramp, 8.0, {})
        known = probe(file)
        middle = read_frames(file, [2], known).float().mean().item()
    if known.frames != 5 or abs(middle - 127.5) > 8:
        return (
            f"fails: wrote 5 frames, read {known.frames}, the middle one {middle:.0f} where 127 was written"
        )
    how = {
        "decord": "decord seeks",
        "sequential": "decord is absent or wrong, frames are read from the start",
    }
    return f"works: an mp4 written and read back; {how[known.reader]}"


def devices() -> list[tuple[str, str, str]]:
    """CPU and GPUs, and what they do with bf16."""
    from vae.training.device import described

    return described()


def attention() -> list[tuple[str, str, str]]:
    """Every attention backend, run forward and backward on every device in both precisions."""
    import torch

    from dit.attention import BACKENDS, choose_attention, why_not
    from vae.training.device import device_kind, own_device

    rows, head_width = [], 64
    for device in dict.fromkeys([torch.device("cpu"), own_device()]):
        for label, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            best = choose_attention(device, dtype, head_width)
            for name in BACKENDS:
                reason = why_not(name, device, dtype, head_width)
                verdict = f"no: {reason}" if reason else "works, and is chosen" if name == best else "works"
                rows.append((name, f"{device_kind(device)} {label}", verdict))
    return rows


def sampling() -> str:
    """Samples one frame of the built-in model in one step."""
    import torch

    from configs.sampling import SamplerConfig
    from dit.condition import Condition
    from dit.generate import Request, generate_videos
    from dit.load import load_model
    from vae.training.device import own_device

    model = load_model("builtin", own_device(), torch.float32)
    request = Request(Condition("a red circle"), model.autoencoder.latent_shape(1, 64, 64), 0)
    (video,) = generate_videos(model, [request], SamplerConfig(steps=1))
    return "ready" if torch.isfinite(video).all() else "fails: the built-in model gives NaN"


def scores() -> list[tuple[str, str]]:
    """Every score that needs a network, and whether its weights are there."""
    from vae.quality.networks import NETWORKS, find_weights, folders

    rows = {}
    for name, needed in NETWORKS.items():
        if needed.purpose == "LPIPS" and "alex" not in name:
            continue  # another trunk is another choice, which nothing takes by itself
        try:
            find_weights(name)
        except ValueError:
            missing = f"missing: {name} (set {needed.variable}, or put {needed.files[0]} into {folders()[0]})"
            rows.setdefault(needed.purpose, []).append(missing)
        else:
            rows.setdefault(needed.purpose, [])
    found = "weights are there, and `dit eval weights` says whether they are the right ones"
    return [(purpose, "; ".join(missing) or found) for purpose, missing in rows.items()]


def features(
    package_rows: list[tuple[str, str, str]], attention_rows: list[tuple[str, str, str]], video: str
) -> list[tuple[str, str]]:
    """What can be done here, or what is missing for it; `ready` is only what was tried."""
    missing = [name for name, number, remedy in package_rows if number == "-" and "optional" not in remedy]
    verbs = f"missing: {', '.join(missing)} (pip install -e .)" if missing else "all are installed"
    if package_rows[0][0] == "-":
        verbs = "pip install -e . in the repository: this project is not installed"
    rows = [("packages", verbs), ("sampling", tried(sampling)), *scores()]
    rows.append(("video files", video.split(":")[0] if video.startswith("works") else video))
    fast = [
        name for name, where, verdict in attention_rows if where == "cuda bf16" and verdict.endswith("chosen")
    ]
    on_gpu = {"varlen": "ready, variable-length flash attention", "xformers": "ready, xformers"}
    slow = "needs a GPU; here every sample takes its own plain call, which suits a CPU"
    if fast:
        slow = (
            "plain calls a sample at a time: PyTorch has no variable-length attention here, nor has xformers"
        )
    rows.append(("fast attention over packs", on_gpu.get(fast[0], slow) if fast else slow))
    if importlib.util.find_spec("torchvision"):
        note = "is installed and not needed; one that does not fit PyTorch breaks the import of diffusers"
        rows.append(("torchvision", note))
    return rows


def table(rows: list[tuple[str, ...]]) -> str:
    """Aligned columns under a margin."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    cells = (zip(row, widths, strict=True) for row in rows)
    return "\n".join("  " + "  ".join(cell.ljust(width) for cell, width in row).rstrip() for row in cells)


def doctor() -> None:
    """Prints everything, each part as soon as it is known."""
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}\n\npackages")
    asked = _tried_rows(packages)
    use = "reading and writing videos (comes with imageio-ffmpeg)"
    print(table([*asked, ("ffmpeg", tried(_ffmpeg_version), use)]), flush=True)
    if not version("torch"):
        print("\nwithout PyTorch nothing else can be tried: pip install torch")
        return
    print(f"\ndevices\n{table(_tried_rows(devices))}", flush=True)
    rows = _tried_rows(attention)
    print(f"\nattention\n{table(rows)}", flush=True)
    video = tried(video_round_trip)
    print(f"\nvideo files\n  {video}\n\nready for\n{table(features(asked, rows, video))}")


def main(arguments: list[str]) -> None:
    """The verb `dit doctor`."""
    if {"-h", "--help"} & set(arguments):
        print(
            "dit doctor: prints what is installed, what works on this machine, and what is missing for what"
        )
        return
    if arguments:
        raise ValueError(f"dit doctor takes no settings, not {arguments[0]}")
    doctor()


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("doctor")
