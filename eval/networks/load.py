"""The feature network of a protocol: I3D, or a model of transformers from a folder."""

import torch
from torch import nn

from configs.protocol import DistanceProtocol
from configs.scoring import DistanceSettings
from eval.networks.certify import check_one, load_i3d
from eval.networks.encoder import load_encoder, seeded_encoder
from vae.quality.networks import find_weights


def load_network(protocol: DistanceProtocol, settings: DistanceSettings) -> tuple[nn.Module, str, list[str]]:
    """The network of a protocol, its weights' hash, and the stamp of one that nothing certifies.

    Raises ValueError where there is none, or another than the protocol names.
    """
    if protocol.network == "i3d":
        network, weights = load_i3d(protocol.eps, settings.weights, settings.smoke)
        return network.to(memory_format=torch.channels_last_3d), weights, []
    check_one(settings.smoke, settings.weights)
    if settings.smoke:
        return seeded_encoder(protocol), "seeded", []
    return load_encoder(find_weights(protocol.network, settings.weights), protocol, settings.uncertified)
