"""The discriminator of the second stage: patches of videos in three dimensions, with the hinge loss."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.train import DiscriminatorConfig
from vae.convolution import convolve

# Of channels that are normalised together; no statistics cross clips, so that batches do not matter.
GROUPS = 8
WIDEST = 8  # times the first width


class Discriminator(nn.Module):
    """PatchGAN (Isola et al. 2017, section 3.2.2) over space and time, of any number of frames, also one.

    Every logit judges a patch. `depth` convolutions halve height and width, all but the first the frames too.
    """

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        widths = [config.width * min(2**k, WIDEST) for k in range(config.depth + 1)]  # of each layer's output
        strided, plain = {"kernel_size": (3, 4, 4), "padding": 1}, {"kernel_size": 3, "padding": 1}
        layers = [nn.Conv3d(3, widths[0], stride=(1, 2, 2), **strided)]
        layers += [nn.Conv3d(a, b, stride=2, **strided) for a, b in pairwise(widths[:-1])]
        layers += [nn.Conv3d(*widths[-2:], **plain)]
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, layer.out_channels) for layer in layers[1:])
        self.judge = nn.Conv3d(widths[config.depth], 1, **plain)
        self.register_buffer("adaptive_weight", torch.zeros(()))
        for layer in (*self.layers, self.judge):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.to(memory_format=torch.channels_last_3d)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        """Logits B 1 T' H' W' of every patch being real."""
        x = F.leaky_relu(
            convolve(self.layers[0], video_BCTHW.contiguous(memory_format=torch.channels_last_3d)), 0.2
        )
        for layer, norm in zip(self.layers[1:], self.norms, strict=True):
            x = F.leaky_relu(norm(convolve(layer, x)), 0.2)
        return convolve(self.judge, x)


def hinge(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """The discriminator's loss (Lim & Ye 2017): 0 where every patch is told, 1 where it says nothing."""
    return 0.5 * (F.relu(1 - real_logits.float()).mean() + F.relu(1 + fake_logits.float()).mean())


def adaptive_weight(reconstruction_gradient: Tensor, adversarial_gradient: Tensor) -> Tensor:
    """How much the discriminator counts: the ratio of both losses' gradients at the decoder's last layer
    (Esser et al. 2021, equation 7), at most 10,000."""
    return (reconstruction_gradient.norm() / (adversarial_gradient.norm() + 1e-4)).clamp(0.0, 1e4)
