"""`dit eval weights`: whether the networks that scores need are there, and are the right ones."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from configs.load import parse
from eval.networks.certify import certify_c3d, certify_clip, certify_i3d
from eval.networks.encoder import KINDS, certify_encoder, encoder_hash
from vae.quality.networks import NETWORKS, certify_hash, find_weights, folders, purposes


@dataclass(frozen=True)
class WeightsSettings:
    """Which networks scores need, where their weights are looked for, and whether they are certified."""

    i3d: str = ""
    """File with the weights of I3D, in place of the usual ones."""
    clip: str = ""
    """Folder with CLIP ViT-B/32, in place of the usual ones."""
    c3d: str = ""
    """File with C3D's weights, in place of the usual ones."""
    encoder: str = ""
    """Folder with a model of transformers, whose SHA-256 is said for --encoder-sha256."""


CERTIFY = {"i3d": certify_i3d, "clip": certify_clip, "c3d": certify_c3d, "c3d-mean": certify_c3d}
CERTIFY |= dict.fromkeys(KINDS, certify_encoder)
CERTIFY["clip-large"] = partial(certify_clip, model_name="ViT-L/14")
CERTIFY |= dict.fromkeys(("dino", "aesthetic"), certify_c3d)  # nothing is published of them either


def report(settings: WeightsSettings) -> str:
    """Each network: what needs it, where it is or is looked for, whether it is certified, how to get it."""
    lines = []
    for name, needed in NETWORKS.items():
        lines.append(f"{name}, for {purposes(needed)}")
        given = getattr(settings, name, "")
        try:
            file = find_weights(name, given)
        except ValueError:
            if given:
                raise
            lines.append(f"  not found: set {needed.variable}, or put {needed.files[0]} into {folders()[0]}")
            lines.append(f"  it is {needed.how}")
            continue
        lines.append(f"  found: {file}")
        try:
            right = CERTIFY[name](file) if name in CERTIFY else f"SHA-256 {certify_hash(name, file)}"
            lines.append(f"  certified: {right}")
        except ValueError as error:
            lines.append(f"  NOT certified: {error}")
    if settings.encoder:
        lines += [f"{settings.encoder}:", f"  {encoder_hash(Path(settings.encoder))}"]
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """The verb `dit eval weights`."""
    print(report(parse(WeightsSettings, arguments, prog="dit eval weights")))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("eval weights")
