"""What every score carries beside its value, and where it goes."""

import dataclasses
import json
from pathlib import Path

import torch

from configs.protocol import Protocol
from dit import __version__
from vae.training.files import write_text
from vae.training.processes import processes


def scored(
    protocol: Protocol, value: float, stamps: list[str], weights: str, device: torch.device, parts: dict
) -> dict:
    """A score with its whole protocol, the weights' hash and what made it; `parts` are its metric's own."""
    return {
        "metric": protocol.metric,
        "value": value,
        "stamps": stamps,
        "protocol": dataclasses.asdict(protocol),
        "protocol_sha256": protocol.hash(),
        "weights": weights,
        **parts,
        "torch": torch.__version__,
        "device": device.type,
        "version": __version__,
    }


def publish(result: dict, file: str, text: str) -> None:
    """Writes a score as JSON, where a file is asked for, and prints it; the first process alone does."""
    if processes()[0] > 0:
        return
    if file:
        write_text(Path(file), json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    print(text)
