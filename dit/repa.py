"""An auxiliary loss, from outside: hidden states of a block aligned with features of the clips (REPA).

Yu et al. 2024 (arXiv 2410.06940): a small network projects the hidden states of one block, and the loss is
less the more they point where features of the clean clips do. `FEATURES` are functions from clips to these.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from configs.data import DRAWN
from configs.train import TransformerRun
from dit.load import Denoiser
from dit.loss import Batch, PackDraw
from dit.model import Transformer
from vae.compression import PATCH
from vae.data.clips import Clip
from vae.data.mixture import source_weights
from vae.interface import VideoAutoencoder

APART = 0.1  # from the background, of pixels of an object, in [-1, 1]


def _latents(clips: list[Clip], clean_LP: Tensor, first: int, autoencoder: VideoAutoencoder) -> Tensor:
    """What the autoencoder's frozen encoder says of a token's place: the token's clean latents, L x P."""
    return clean_LP


def _drawn(clips: list[Clip], clean_LP: Tensor, first: int, autoencoder: VideoAutoencoder) -> Tensor:
    """An exact description of the drawn world, of every token's place L x 10: what of it the object covers,
    in which colour, and where the object is, how large, and how these three change over the clip."""
    features = [clean_LP.new_zeros(0, 10)]
    for clip in clips:
        shape = autoencoder.latent_shape(*clip.video.shape[1:])[1:]
        t, h, w = (n // side for n, side in zip(shape, PATCH, strict=True))
        video = clip.video.to(clean_LP, non_blocking=True)
        seen_THW = ((video - video[:, :1, :1, :1]).abs().amax(0) > APART).to(clean_LP)
        maps = torch.cat([seen_THW[None], video * seen_THW])
        local = F.adaptive_avg_pool3d(maps[:, :1], (1, h, w))
        if t > 1:
            local = torch.cat([local, F.adaptive_avg_pool3d(maps[:, 1:], (t - 1, h, w))], 1)
        cover = local[0]
        area_T = cover.mean((1, 2)).clamp(min=1e-4)
        y, x = (torch.linspace(-1, 1, n, device=cover.device) for n in (h, w))
        centre_y, centre_x = (cover * y[:, None]).mean((1, 2)) / area_T, (cover * x).mean((1, 2)) / area_T
        where_KT = torch.stack([centre_y, centre_x, area_T.sqrt()])
        change_KT = (where_KT[:, -1:] - where_KT[:, :1]).expand_as(where_KT)
        whole = torch.cat([where_KT, change_KT])[:, :, None, None].expand(-1, t, h, w)
        features.append(rearrange(torch.cat([local, whole]), "f t h w -> (t h w) f"))
    of_all = torch.cat(features)
    missing = max(0, first + len(clean_LP) - len(of_all))  # where the pack is padded
    return F.pad(of_all, (0, 0, 0, missing))[first : first + len(clean_LP)]


# From a pack's clips, and its clean tokens L x P that lie here, from the `first` one on, to these tokens'
# features L x F; and how many those are.
FEATURES: dict[str, tuple[Callable, Callable[[Transformer], int]]] = {
    "latents": (_latents, lambda transformer: transformer.proj_out.out_features),
    "drawn": (_drawn, lambda transformer: 10),
}


def check_repa(config: TransformerRun, cached: bool) -> None:
    """Raises ValueError where features cannot be had, or there is no such block."""
    repa = config.repa
    if repa.weight and repa.block > config.model.depth:
        raise ValueError(f"repa.block = {repa.block}, but there are {config.model.depth}, from 1 on")
    if (
        repa.weight
        and repa.features == "drawn"
        and (cached or source_weights(config.data).keys() - DRAWN.keys())
    ):
        raise ValueError(
            "repa.features = drawn describes videos of the drawn world alone, not files or a cache"
        )


def add_projector(model: Denoiser, config: TransformerRun) -> None:
    """Adds the network that projects hidden states to a model that is to be aligned, as `projector`."""
    if config.repa.weight:
        width, features = config.model.width, FEATURES[config.repa.features][1](model.transformer)
        layers = (
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, features),
        )
        model.projector = nn.Sequential(*layers)


def projector_state(model: Denoiser) -> dict[str, dict[str, Tensor]]:
    """The part of a checkpoint that the projector is; exported weights have none."""
    return {"projector": model.projector.state_dict()} if hasattr(model, "projector") else {}


def aligning(
    model: Denoiser, config: TransformerRun, autoencoder: VideoAutoencoder
) -> Callable[[list[Clip], PackDraw, Batch], Tensor | float]:
    """The auxiliary loss of the pack of the newest forward pass, a sum over tokens as `flow_loss` is: the
    weight times 1 - the cosine between a token's projected hidden state and its feature. 0 where it is off.

    It watches the block of this very model; what is copied before has no part in it.
    """
    repa = config.repa
    if not repa.weight:
        return lambda clips, draw, batch: 0.0
    hidden: dict[str, Tensor] = {}
    block = model.transformer.blocks[min(repa.block, len(model.transformer.blocks)) - 1]
    block.register_forward_hook(lambda block, inputs, output: hidden.update(states=output))
    describe = FEATURES[repa.features][0]

    def alignment(clips: list[Clip], draw: PackDraw, batch: Batch) -> Tensor:
        states_LD = hidden.pop("states")
        clean_LP = draw.noise_LP.to(batch.target.device, non_blocking=True) - batch.target
        features_LF = describe(clips, clean_LP, draw.first, autoencoder)
        cosine_L = F.cosine_similarity(model.projector(states_LD).float(), features_LF.float(), dim=-1)
        return repa.weight * ((1 - cosine_L) * batch.in_loss).sum()

    return alignment
