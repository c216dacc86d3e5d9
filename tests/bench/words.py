"""How fast the byte-level encoder learns words: its own start, beside T5's random table of positions.

python -m tests.bench.words

Both read captions of the drawn world, and linear layers on attention-pooled embeddings tell shape, colour and
motion. Printed: the share answered right on 300 captions in words that training never used, 1.0 being all.
"""

import torch
import torch.nn.functional as F
from torch import nn

from configs.model import TextConfig
from dit.byte_t5 import ByteEncoder
from vae.data.drawn_captions import caption
from vae.data.drawn_world import COLOURS, MOTIONS, SHAPES, random_scene

STEPS, BATCH, EVERY = 200, 64, 50
ASKED = {"shape": list(SHAPES), "colour": list(COLOURS), "motion": list(MOTIONS)}


class Probe(nn.Module):
    """The encoder, and for each question a query that pools its embeddings and a linear layer."""

    def __init__(self, look_near: bool):
        super().__init__()
        self.encoder = ByteEncoder(TextConfig(width=128, depth=2, heads=4, mlp_width=256, max_tokens=96))
        if not look_near:
            attention = self.encoder.encoder.block[0].layer[0].SelfAttention
            nn.init.normal_(attention.relative_attention_bias.weight, std=0.05)
        self.queries = nn.Parameter(0.05 * torch.randn(len(ASKED), 128))
        self.answers = nn.ModuleList(nn.Linear(128, len(words)) for words in ASKED.values())

    def forward(self, captions: list[str]) -> list[torch.Tensor]:
        """Logits of every question, captions x words."""
        packed, lengths = self.encoder(captions)
        texts = packed.split(lengths)
        pooled = torch.stack([torch.softmax(text @ self.queries.T, 0).T @ text for text in texts], dim=1)
        return [answer(part) for answer, part in zip(self.answers, pooled, strict=True)]


def captions_and_answers(seed: int, first: int, count: int, phrasing: str):
    """Captions of scenes, and the right answer of every question as an index."""
    scenes = [random_scene(seed, k, "train") for k in range(first, first + count)]
    captions = [caption(scene, seed, first + k, phrasing) for k, scene in enumerate(scenes)]
    rows = [[words.index(getattr(scene, name)) for scene in scenes] for name, words in ASKED.items()]
    return captions, torch.tensor(rows)


def main() -> None:
    """Trains both and prints their shares side by side."""
    probes, optimizers = [], []
    for look_near in (False, True):
        torch.manual_seed(0)
        probes.append(Probe(look_near))
        optimizers.append(torch.optim.AdamW(probes[-1].parameters(), lr=1e-3))
    new_captions, new_answers = captions_and_answers(9, 0, 300, "test")
    for step in range(1, STEPS + 1):
        captions, answers = captions_and_answers(5, step * BATCH, BATCH, "train")
        for probe, optimizer in zip(probes, optimizers, strict=True):
            optimizer.zero_grad()
            losses = [F.cross_entropy(*pair) for pair in zip(probe(captions), answers, strict=True)]
            torch.stack(losses).sum().backward()
            optimizer.step()
        if step % EVERY == 0:
            with torch.no_grad():
                rights = [[logits.argmax(1) for logits in probe(new_captions)] for probe in probes]
            for name, right in zip(("random table", "neighbours first"), rights, strict=True):
                shares = (torch.stack(right) == new_answers).float().mean(1).tolist()
                row = "  ".join(f"{asked} {share:.2f}" for asked, share in zip(ASKED, shares, strict=True))
                print(f"step {step:3}  {name:16}  {row}")


if __name__ == "__main__":
    main()
