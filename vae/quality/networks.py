"""The networks that scores and losses need: where their weights are looked for, and how to get them."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from vae.training.files import file_hash
from vae.training.weights import check_pointer


@dataclass(frozen=True)
class Network:
    """A network that scores need: what for, the variable and usual names of its file, how to get it, hash."""

    purpose: str
    variable: str
    files: tuple[str, ...]
    how: str
    sha256: str = ""  # or its first digits, where that is all that is published
    also: str = ""  # another purpose


NETWORKS = {
    "i3d": Network(
        "FVD",
        "DIT_I3D",
        ("i3d_torchscript.pt", "i3d_pretrained_400.pt", "rgb_scratch.pt", "i3d.safetensors"),
        "the TF-Hub module i3d-kinetics-400/1, DeepMind's checkpoint data/checkpoints/rgb_scratch of "
        "github.com/google-deepmind/kinetics-i3d, or a port of either; any file with its tensors will do",
    ),
    "clip": Network(
        "CLIPSIM",
        "DIT_CLIP",
        ("clip-vit-base-patch32", "models--openai--clip-vit-base-patch32/snapshots/*"),
        "the folder openai/clip-vit-base-patch32 of the Hugging Face hub, with pytorch_model.bin",
        also="background consistency",
    ),
    "c3d": Network(
        "the Inception score",
        "DIT_C3D",
        ("conv3d_deepnetA_ucf.npz",),
        "conv3d_deepnetA_ucf.npz of TGANv2's release v1.0 (github.com/pfnet-research/tgan2)",
    ),
    "c3d-mean": Network(
        "the Inception score",
        "DIT_C3D_MEAN",
        ("mean2.npz",),
        "mean2.npz of TGANv2's release v1.0 (github.com/pfnet-research/tgan2)",
    ),
}
for name, title in (("videomae", "VideoMAE"), ("vjepa2", "V-JEPA 2"), ("clip-vision", "CLIP's frames")):
    NETWORKS[name] = Network(
        f"a distance on {title}",
        f"DIT_{name.upper().replace('-', '_')}",
        (name,),
        f"a folder as transformers writes it, with config.json and model.safetensors, of {title}",
    )
NETWORKS |= {
    "dino": Network(
        "subject consistency",
        "DIT_DINO",
        ("dino_vitbase16_pretrain.pth",),
        "dino_vitbase16_pretrain.pth of github.com/facebookresearch/dino",
    ),
    "clip-large": Network(
        "aesthetic quality",
        "DIT_CLIP_LARGE",
        ("clip-vit-large-patch14", "models--openai--clip-vit-large-patch14/snapshots/*"),
        "the folder openai/clip-vit-large-patch14 of the Hugging Face hub, with pytorch_model.bin",
    ),
    "aesthetic": Network(
        "aesthetic quality",
        "DIT_AESTHETIC",
        ("sa_0_4_vit_l_14_linear.pth",),
        "sa_0_4_vit_l_14_linear.pth of github.com/LAION-AI/aesthetic-predictor",
    ),
}
LPIPS = {  # trunk -> torchvision's file, which is named after its SHA-256, and that of the heads
    "alex": ("alexnet-owt-7be5be79.pth", "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"),
    "vgg": ("vgg16-397923af.pth", "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"),
    "squeeze": (
        "squeezenet1_1-b8a52dc0.pth",
        "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76",
    ),
}
for trunk, (file, heads) in LPIPS.items():
    variable, begins = f"DIT_LPIPS_{trunk.upper()}", file.removesuffix(".pth").split("-")[-1]
    NETWORKS[f"lpips-{trunk}-trunk"] = Network(
        "LPIPS", f"{variable}_TRUNK", (file,), f"torchvision's {file} (download.pytorch.org/models)", begins
    )
    NETWORKS[f"lpips-{trunk}-heads"] = Network(
        "LPIPS",
        f"{variable}_HEADS",
        (f"lpips-{trunk}.pth",),
        f"lpips/weights/v0.1/{trunk}.pth of github.com/richzhang/PerceptualSimilarity, or the lpips package",
        heads,
    )


def folders() -> list[Path]:
    """Where weights usually lie: this project's cache, PyTorch's and the Hugging Face hub's."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    hub = Path(os.environ.get("HF_HOME", cache / "huggingface")) / "hub"
    return [cache / "dit-lab", Path(torch.hub.get_dir()) / "checkpoints", hub]


def purposes(needed: Network) -> str:
    """What may need a network."""
    return " or ".join(filter(None, (needed.purpose, needed.also)))


def find_weights(network: str, given: str = "", asks: str = "") -> Path:
    """The file of a network: the one given, the variable's, or one of a usual name in a usual folder.

    Raises ValueError saying what `asks` for it, where it was looked for and how to get it.
    """
    needed = NETWORKS[network]
    for name in (given, os.environ.get(needed.variable, "")):
        if name:
            if not Path(name).exists():
                raise ValueError(f"{name}: no such file or folder; it should hold the weights of {network}")
            return Path(name)
    for folder in folders():
        for name in needed.files:
            matches = sorted(folder.glob(name))
            if len(matches) > 1 and (main := matches[0].parent.parent / "refs" / "main").is_file():
                matches = [match for match in matches if match.name == main.read_text().strip()]
            if len(matches) > 1:
                listed = ", ".join(map(str, matches))
                raise ValueError(f"{network} is there {len(matches)} times, {listed}: set {needed.variable}")
            if matches:
                return matches[0]
    smoke = "" if needed.purpose == "LPIPS" else ". --smoke runs with seeded weights, which give no score"
    raise ValueError(
        f"{asks or purposes(needed)} needs the weights of {network}, and there are none: name the file on "
        f"the command line, set {needed.variable}, or put {needed.files[0]} into {folders()[0]}. They are "
        f"{needed.how}{smoke}"
    )


def certify_hash(name: str, file: Path) -> str:
    """SHA-256 of a file whose published hash is known; raises ValueError where it is another."""
    check_pointer(file)
    digest = file_hash(file)
    if not digest.startswith(NETWORKS[name].sha256):
        raise ValueError(
            f"{file} is not {NETWORKS[name].how}: its SHA-256 is {digest[:12]}…, not "
            f"{NETWORKS[name].sha256[:12]}…"
        )
    return digest
