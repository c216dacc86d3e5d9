"""`dit eval protocols`: what every score's protocol says."""

import dataclasses
from dataclasses import dataclass

from configs.load import Positional, parse
from configs.protocol import load_protocols, protocol_module, protocol_names
from eval.scoring import aligned


@dataclass(frozen=True)
class ProtocolsSettings:
    """The protocols of scores: what each follows, all its fields, and its hash."""

    name: Positional[str] = ""
    """A protocol to show whole; empty lists them."""


def card(name: str) -> str:
    """A protocol whole: what it follows, every field, its hash."""
    lines = [protocol_module(name).__doc__.strip()]
    for protocol in load_protocols(name).values():
        fields = dataclasses.asdict(protocol)
        width = max(map(len, fields))
        lines += ["", *(f"  {key.ljust(width)}  {value}" for key, value in fields.items())]
        lines += ["", f"SHA-256 {protocol.hash()}"]
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """The verb `dit eval protocols`."""
    name = parse(ProtocolsSettings, arguments, prog="dit eval protocols").name
    rows = [(name, protocol_module(name).__doc__.strip().splitlines()[0]) for name in protocol_names()]
    print(card(name) if name else "\n".join(aligned(rows)))


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("eval protocols")
