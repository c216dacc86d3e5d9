"""CLIP (Radford et al. 2021) through transformers: OpenAI's preprocessing, its tokens, and cosines."""

from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dit.text import clean
from eval.preprocess import covering
from vae.training.files import file_hash
from vae.training.weights import read_model, read_tensors, weights_files

SIDE = 224
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
LONGEST = 77
CERTIFIED = {  # model -> SHA-256 of pytorch_model.bin of openai/clip-vit-base-patch32, or -large-patch14
    "ViT-B/32": "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f",
    "ViT-L/14": "f1a17cdbe0f36fec524f5cafb1c261ea3bbbc13e346e0f74fc9eb0460dedd0d3",
}


def preprocess(frames_THWC: Tensor) -> Tensor:
    """Frames of bytes as CLIP's pictures T 3 224 224, as OpenAI's code makes them.

    Pillow's bicubic with antialiasing, the shorter side to 224, the fraction of the longer one cut off; the
    middle, whose odd pixel goes to the even side; then the mean and deviation of each colour.
    """
    import numpy
    from PIL import Image

    height, width = frames_THWC.shape[1:3]
    short = min(height, width)
    size = (width * SIDE // short, height * SIDE // short)
    left, top = (round((length - SIDE) / 2) for length in size)
    pictures = []
    for frame in frames_THWC.numpy():
        image = Image.fromarray(frame)
        if image.size != size:
            image = image.resize(size, Image.Resampling.BICUBIC)
        pictures.append(torch.from_numpy(numpy.array(image)[top : top + SIDE, left : left + SIDE]))
    pixels = rearrange(torch.stack(pictures), "t h w c -> t c h w").float() / 255
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def preprocess_unsmoothed(frames_THWC: Tensor) -> Tensor:
    """Frames of bytes as VBench's `clip_transform` makes them, T 3 224 224: bicubic without antialiasing.

    In floats, which are neither rounded nor cut; the same middle as `preprocess`.
    """
    frames = rearrange(frames_THWC, "t h w c -> t c h w").float()
    size = covering(*frames.shape[2:], SIDE, int)
    if size != tuple(frames.shape[2:]):
        frames = F.interpolate(frames, size, mode="bicubic", align_corners=False)
    top, left = (round((length - SIDE) / 2) for length in size)
    pixels = frames[:, :, top : top + SIDE, left : left + SIDE] / 255
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


class Clip(nn.Module):
    """A CLIP model with its tokenizer, fp32."""

    def __init__(self, model: nn.Module, tokenizer):
        super().__init__()
        self.model, self.tokenizer = model.float().eval().requires_grad_(False), tokenizer

    def tokens(self, prompts: list[str]) -> dict[str, Tensor]:
        """Token ids and mask, as OpenAI's tokenizer gives them: mended Unicode, no HTML, at most 77."""
        prompts = [clean(prompt).lower() for prompt in prompts]
        return self.tokenizer(prompts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")

    def count_cut(self, prompts: list[str]) -> int:
        """How many prompts have more tokens than CLIP takes, and are cut."""
        masks = self.tokenizer([clean(prompt).lower() for prompt in prompts], verbose=False)["attention_mask"]
        return sum(int(sum(mask)) > LONGEST for mask in masks)

    @torch.no_grad()
    def of_prompts(self, prompts: list[str]) -> Tensor:
        """Unit embeddings of prompts, N D."""
        device = next(self.model.parameters()).device
        tokens = {name: ids.to(device) for name, ids in self.tokens(prompts).items()}
        return unit(embedding(self.model.get_text_features(**tokens)))

    @torch.no_grad()
    def of_pictures(self, pictures_N3HW: Tensor) -> Tensor:
        """Unit embeddings of preprocessed pictures, N D."""
        device = next(self.model.parameters()).device
        return unit(embedding(self.model.get_image_features(pixel_values=pictures_N3HW.to(device))))

    def similarity(self, pictures_T3HW: Tensor, prompt: str) -> float:
        """CLIPSIM of one video: the mean over its frames of the cosine of frame and prompt (Wu et al. 2021).

        Not scaled, and not the cosine of averaged embeddings, which is larger.
        """
        return (self.of_pictures(pictures_T3HW) @ self.of_prompts([prompt])[0]).double().mean().item()


def embedding(output) -> Tensor:
    """Projected embeddings, which some versions of transformers wrap."""
    return output if isinstance(output, Tensor) else output.pooler_output


def unit(x_ND: Tensor) -> Tensor:
    """Rows of unit length."""
    return x_ND / x_ND.norm(dim=-1, keepdim=True)


def load_clip(folder: Path, certify: bool = True, model_name: str = "ViT-B/32") -> tuple[Clip, str]:
    """A CLIP model from a folder as transformers writes it, and the SHA-256 of its weights.

    Raises ValueError for a folder that holds none, and, unless told otherwise, for any but OpenAI's.
    """
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel

    folder = Path(folder)
    files = [*folder.glob("pytorch_model.bin")] or weights_files(folder, "model")  # the former is certified
    if not files or not (folder / "config.json").is_file():
        raise ValueError(f"{folder} holds no CLIP model: it needs config.json and pytorch_model.bin")
    weights = "+".join(map(file_hash, files))
    if certify and weights != (known := CERTIFIED[model_name]):
        raise ValueError(
            f"{files[0]} is not OpenAI's published {model_name}: its SHA-256 is {weights[:12]}…, not "
            f"{known[:12]}…"
        )
    try:
        model = CLIPModel(CLIPConfig.from_json_file(folder / "config.json"))
        tensors = read_model(folder, "model") if files[0].suffix != ".bin" else read_tensors(files[0])
        # Older files hold the numbers of the positions too, which are no weights.
        model.load_state_dict({k: v for k, v in tensors.items() if not k.endswith("position_ids")})
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"{folder} cannot be read as a CLIP model: {error}") from None
    return Clip(model, tokenizer), weights


class Bytes:
    """A stand-in for the tokenizer, without a vocabulary: a prompt's bytes and an end."""

    def __call__(self, prompts: list[str], max_length: int | None = None, **_) -> dict[str, Tensor]:
        rows = [[*prompt.encode()[: max_length and max_length - 1], 256] for prompt in prompts]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [256] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": mask}


def seeded_clip() -> Clip:
    """A small CLIP with seeded weights: what it measures is not CLIPSIM."""
    from transformers import CLIPConfig, CLIPModel

    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = small | {"vocab_size": 257, "eos_token_id": 256, "bos_token_id": 0, "pad_token_id": 256}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=small | {"patch_size": 32}))
    return Clip(model, Bytes())
