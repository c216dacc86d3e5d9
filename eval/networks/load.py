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
    title, given = getattr(protocol, "title", ""), settings.weights
    if protocol.network == "i3d":
        if title and not settings.smoke:  # of a kernel's distance, which an error names
            given = str(find_weights("i3d", given, title))
        network, weights = load_i3d(protocol.eps, given, settings.smoke)
        return network.to(memory_format=torch.channels_last_3d), weights, []
    check_one(settings.smoke, given)
    if settings.smoke:
        return seeded_encoder(protocol), "seeded", []
    place = find_weights(protocol.network, given, title)
    return load_encoder(place, protocol, settings.uncertified)
