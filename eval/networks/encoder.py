"""Models of transformers as feature networks, by their hash: VideoMAE, V-JEPA 2, and CLIP of frames."""

import hashlib
import json
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from configs.protocol import DistanceProtocol
from dit.text import first_line
from eval.networks.clip import MEAN, STD, embedding, unit
from vae.training.files import file_hash, naming, out_of_memory, read_json
from vae.training.weights import read_model, weights_files

COLOURS = {  # pixels of a protocol -> mean and deviation of each colour, of pixels from 0 to 1
    "symmetric": ((0.5,) * 3, (0.5,) * 3),
    "unit": ((0.0,) * 3, (1.0,) * 3),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": (MEAN, STD),
}
KINDS = {  # network of a protocol -> `model_type` of its configuration
    "videomae": "videomae",
    "vjepa2": "vjepa2",
    "clip-vision": "clip_vision_model",
}
UNREAD = {  # of a configuration, which move no feature
    *("_name_or_path", "architectures", "dtype", "id2label", "label2id", "torch_dtype"),
    *("transformers_version", "problem_type"),
}


def _videomae_mean(model: nn.Module, clips_BT3HW: Tensor) -> Tensor:
    """The mean of VideoMAE's tokens."""
    return model(pixel_values=clips_BT3HW).last_hidden_state.mean(1)


def _videomae_norm(model: nn.Module, clips_BT3HW: Tensor) -> Tensor:
    """The same through the classifier's layer norm, as VideoMAE's `forward_features`."""
    return model.fc_norm(_videomae_mean(model.videomae, clips_BT3HW))


def _vjepa2_mean(model: nn.Module, clips_BT3HW: Tensor) -> Tensor:
    """The mean of the tokens of V-JEPA 2's encoder."""
    return model.get_vision_features(clips_BT3HW).mean(1)


def _vjepa2_attentive(model: nn.Module, clips_BT3HW: Tensor) -> Tensor:
    """What the pooler of V-JEPA 2's classifier makes of its tokens."""
    return model.pooler(model.vjepa2.get_vision_features(clips_BT3HW))


def _clip_mean(model: nn.Module, clips_BT3HW: Tensor) -> Tensor:
    """The mean over frames of CLIP's unit embeddings."""
    frames = rearrange(clips_BT3HW, "b t c h w -> (b t) c h w")
    embeddings = unit(embedding(model(pixel_values=frames).image_embeds))
    return rearrange(embeddings, "(b t) d -> b t d", b=len(clips_BT3HW)).mean(1)


MODELS = {  # network and pooling of a protocol -> class of transformers, and features of it
    ("videomae", "mean"): ("VideoMAEModel", _videomae_mean),
    ("videomae", "mean-norm"): ("VideoMAEForVideoClassification", _videomae_norm),
    ("vjepa2", "mean"): ("VJEPA2Model", _vjepa2_mean),
    ("vjepa2", "attentive"): ("VJEPA2ForVideoClassification", _vjepa2_attentive),
    ("clip-vision", "mean"): ("CLIPVisionModelWithProjection", _clip_mean),
}


class Encoder(nn.Module):
    """A model of transformers that makes features of clips B 3 T S S in [-1, 1], fp32."""

    def __init__(self, model: nn.Module, protocol: DistanceProtocol):
        super().__init__()
        self.model = model.float().eval().requires_grad_(False)
        self.features = MODELS[protocol.network, protocol.pooling][1]
        mean, deviation = COLOURS[protocol.pixels]
        for name, colours in (("mean", mean), ("deviation", deviation)):
            self.register_buffer(name, torch.tensor(colours)[:, None, None], persistent=False)

    def forward(self, clips_B3THW: Tensor) -> Tensor:
        """Features B D."""
        clips = rearrange(clips_B3THW, "b c t h w -> b t c h w")
        return self.features(self.model, ((clips + 1) / 2 - self.mean) / self.deviation)


def encoder_hash(folder: Path) -> str:
    """What a folder's model is: the SHA-256 of its weights' files and of its configuration, joined by +.

    The former is what a hub shows of a file; the latter is of the fields that move features, sorted. Raises
    ValueError for a folder that is none.
    """
    files = weights_files(folder, "model") if folder.is_dir() else []
    if not files or not (folder / "config.json").is_file():
        raise ValueError(f"{folder} holds no model of transformers: it needs config.json, model.safetensors")
    config = {name: value for name, value in read_json(folder / "config.json").items() if name not in UNREAD}
    canonical = json.dumps(config, sort_keys=True, separators=(",", ":"))
    return "+".join([*map(file_hash, files), hashlib.sha256(canonical.encode()).hexdigest()])


def certify_encoder(folder: Path) -> str:
    """Raises ValueError: which of its models is right, a protocol says or the user."""
    raise ValueError(f"no hash of it is named by a protocol; its SHA-256 is {encoder_hash(folder)}")


def load_encoder(
    folder: Path, protocol: DistanceProtocol, uncertified: bool
) -> tuple[Encoder, str, list[str]]:
    """The model of a folder as a protocol's network, its hash, and the stamp of one that nothing certifies.

    No code of the folder is run, and of weights safetensors alone are read. Raises ValueError for another
    model, and for another hash than the protocol's, unless it may be uncertified.
    """
    digest = encoder_hash(folder)
    if protocol.network_sha256 not in ("", digest):
        raise ValueError(
            f"{folder} is not the network of {protocol.name}: its SHA-256 is {digest}, not "
            f"{protocol.network_sha256}"
        )
    if not protocol.network_sha256 and not uncertified:
        raise ValueError(
            f"{protocol.name} names no hash of its network: --encoder-sha256 {digest} names yours as it is, "
            "and becomes part of the protocol; or --uncertified stamps the score"
        )
    stamps = [] if protocol.network_sha256 else [f"{protocol.network} is not certified: no hash was named"]
    return Encoder(_read_model(folder, protocol), protocol), digest, stamps


def _read_model(folder: Path, protocol: DistanceProtocol) -> nn.Module:
    """The model of a folder, of the class that the protocol takes; ValueError for another."""
    import transformers

    kind = str(read_json(folder / "config.json").get("model_type"))
    if kind != KINDS[protocol.network]:
        raise ValueError(
            f"{folder} holds a model of type {kind}; {protocol.name} takes one of type "
            f"{KINDS[protocol.network]}"
        )
    model_class = getattr(transformers, MODELS[protocol.network, protocol.pooling][0])
    tensors = read_model(folder, "model")
    try:
        with naming(folder / "config.json"):
            config = model_class.config_class.from_json_file(folder / "config.json")
        _check_shapes(config, protocol, folder)
        model, told = model_class.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            output_loading_info=True,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except ValueError:
        raise
    except Exception as error:  # whatever a foreign folder does wrong is the answer
        if out_of_memory(error):
            raise
        raise ValueError(f"{folder} holds no {model_class.__name__} ({first_line(error)})") from None
    unused = "predictor."  # of V-JEPA 2, which makes no features
    missing = sorted(name for name in told["missing_keys"] if unused not in name)
    if wrong := missing + sorted(map(str, told["mismatched_keys"])):
        raise ValueError(f"{folder} holds no {model_class.__name__}: {wrong[0]} is missing, or misshapen")
    return model


def _check_shapes(config, protocol: DistanceProtocol, folder: Path) -> None:
    """Raises ValueError for a model that takes other clips than the protocol's."""
    for name, wanted in (("image_size", protocol.size), ("num_frames", protocol.frames)):
        given = getattr(config, name, wanted)
        if given != wanted:
            raise ValueError(f"{folder} takes {name} {given}, and {protocol.name} gives it {wanted}")


def seeded_encoder(protocol: DistanceProtocol, whole: bool = False) -> Encoder:
    """A small model of the protocol's kind with seeded weights: what it measures is no score.

    `whole` makes one of the usual size, which costs what a trained one costs.
    """
    import transformers

    model_class = getattr(transformers, MODELS[protocol.network, protocol.pooling][0])
    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    small |= {"patch_size": protocol.size // 7, "image_size": protocol.size, "crop_size": protocol.size}
    small |= {"intermediate_size": 128, "projection_dim": 64, "num_frames": protocol.frames}
    small |= {"pred_hidden_size": 48, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
    known = {} if whole else model_class.config_class().to_dict()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(model_class.config_class(**{k: v for k, v in small.items() if k in known}))
    return Encoder(model, protocol)
