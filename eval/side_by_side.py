"""Autoencoders side by side for a person: a table of all figures, and a picture of the same frames."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from eval.candidates import ORIGINAL
from eval.clips import passed_lines
from eval.networks.certify import SMOKE
from eval.scoring import aligned, is_seeded
from vae.data.sheets import contact_sheet, evenly
from vae.data.video import to_video

SHOWN, COLUMNS = 2, 5  # clips of the picture, and frames of each


@dataclass(frozen=True)
class Through:
    """One clip through one autoencoder: qualities, moments of its latents, the features of FVD with their
    frames' checksum, and frames for the picture."""

    values: dict[str, float]
    moments_3C: Tensor
    feature: tuple[Tensor, int] | None
    shown: Tensor | None


def columns(frames_THWC: Tensor) -> Tensor:
    """The frames of the picture, from first to last."""
    return frames_THWC[evenly(len(frames_THWC), COLUMNS)]


def draw_picture(file: str, rows: list[tuple[str, Tensor, dict[str, Through]]], amplify: float) -> None:
    """Writes a PNG: of every clip shown (its name, its frames, and what became of it by each autoencoder's
    name) the original, each reconstruction, and how far apart the two are, amplified, on black."""
    videos, captions = [], []
    for clip, original_THWC, parts in rows:
        original = columns(original_THWC)
        videos.append(to_video(original))
        captions.append(f"{ORIGINAL}: {clip}")
        for name, part in parts.items():
            videos += [to_video(part.shown), difference(original, part.shown, amplify)]
            captions.append(f"{name}: PSNR {part.values['psnr']:.2f} dB, SSIM {part.values['ssim']:.4f}")
            captions.append(f"{name}: difference to the original, {amplify:g} times, black is none")
    if videos:
        contact_sheet(videos, captions, file, COLUMNS)
    else:
        print(f"no picture: none of the first {SHOWN} clips can be compared", file=sys.stderr)


def difference(original_THWC: Tensor, other_THWC: Tensor, amplify: float) -> Tensor:
    """How far frames of bytes are apart, so many times, as a video in [-1, 1] whose black is equal."""
    return to_video((amplify * (other_THWC.float() - original_THWC.float()).abs()).round().clamp(max=255))


TITLES = {
    "psnr": "PSNR, mean of frames' (dB)",
    "pooled_psnr": "PSNR, of all frames (dB)",
    "ssim": "SSIM",
    "lpips": "LPIPS",
}


def table(result: dict) -> str:
    """All autoencoders side by side, and what was left out and why."""
    entries, clips = result["autoencoders"], result["clips"]
    rows = [("", [entry["name"] for entry in entries])]

    def row(title: str, cell: Callable[[dict], str]) -> None:
        rows.append((title, [cell(entry) for entry in entries]))

    for name in result["measures"]:
        row(TITLES[name], lambda e, name=name: f"{e['scores'][name]:.4f}")
    scores = [entry["fvd"] for entry in entries if entry["fvd"]]
    if scores:
        seeded = is_seeded(scores[0]["stamps"])
        name = scores[0]["protocol"]["name"]
        row(f"{SMOKE}, {name}" if seeded else f"rFVD, {name}", lambda e: f"{e['fvd']['value']:.2f}")
        if scores[0]["interval"]:
            row(
                "  95 % interval of the expected score",
                lambda e: "{low:.2f} to {high:.2f}".format(**e["fvd"]["interval"]),
            )
    row("compression", lambda e: "{temporal}x{spatial}x{spatial}".format(**e["compression"]))
    row("latent channels", lambda e: str(e["channels"]))
    row("numbers of pixels per latent number", lambda e: f"{e['numbers_per_latent']:g}")
    row("latents: mean of a channel, farthest", lambda e: f"{max(e['latents']['mean'], key=abs):+.3f}")
    row(
        "  std of a channel, from and to",
        lambda e: f"{min(e['latents']['std']):.3f} to {max(e['latents']['std']):.3f}",
    )
    row("  largest share of the variance", lambda e: f"{max(e['latents']['share']):.1%}")
    row("  noise in the noisiest channel", lambda e: f"{max(e['latents']['noise']):.1%}")
    row("parameters", lambda e: f"{e['parameters']:,}")
    cost = result["cost"]
    if cost:
        for way in ("encode", "decode"):
            row(f"{way}, s per second of video", lambda e, way=way: f"{e['cost'][f'{way}_seconds']:.3f}")
            row("  peak memory (MiB)", lambda e, way=way: f"{e['cost'][f'{way}_bytes'] / 2**20:.1f}")
    lines = [
        "{count} clips of {frames} frames, {height}x{width}, of {data}; ".format(**clips) + clips["rule"],
        *aligned([(title, *cells) for title, cells in rows], right=True),
    ]
    stamped = [stamp for stamp in (scores[0]["stamps"] if scores else []) if stamp != SMOKE]
    lines += [f"rFVD: {stamp}" for stamp in stamped]
    if "lpips" not in result["measures"]:
        why = result["lpips"]["weights"]
        small = "left out: it takes sides of at least 32 pixels"
        lines.append(f"LPIPS {why if why.startswith('left out') else small}")
    if result["fvd"]:
        lines.append(f"rFVD {result['fvd']}")
    if cost:
        lines.append(
            "time and memory: {frames} frames at {fps:g} a second, fp32 on {device}, {threads} thread(s), "
            "{clock}, median of {repeats} in turn; memory beyond weights and input".format(
                **cost, device=result["device"]
            )
        )
    else:
        lines.append("time and memory left out: --repeats 3 measures them")
    return "\n".join(lines + passed_lines(result["passed_over"]))
