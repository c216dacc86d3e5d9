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


def listing() -> str:
    """All protocols in groups of what they compute and of which real videos, each with its first sentence."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for name in protocol_names():
        by_metric = load_protocols(name)
        data = {getattr(protocol, "data", "any") for protocol in by_metric.values()} - {"any"}
        title = f"{', '.join(sorted(by_metric))}{' of ' if data else ''}{', '.join(sorted(data))}"
        sentence = " ".join(protocol_module(name).__doc__.strip().split("\n\n")[0].split())
        groups.setdefault(title, []).append((f"  {name}", sentence))
    lines = iter(aligned([row for title in sorted(groups) for row in groups[title]]))
    return "\n".join(
        line for title in sorted(groups) for line in [title, *(next(lines) for _ in groups[title])]
    )


def main(arguments: list[str]) -> None:
    """The verb `dit eval protocols`."""
    name = parse(ProtocolsSettings, arguments, prog="dit eval protocols").name
    print(card(name) if name else listing())


if __name__ == "__main__":
    from dit.cli import run_module

    run_module("eval protocols")
