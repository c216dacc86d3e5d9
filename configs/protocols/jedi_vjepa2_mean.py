"""JEDi's distance (Luo et al. 2024) on V-JEPA 2 as it was trained without labels: the mean of its tokens.

As the videojedi package takes features with `finetuned=False`. All else is as in `jedi-vjepa2`.
"""

from dataclasses import replace

from configs.protocols.jedi_vjepa2 import protocol as finetuned

protocol = replace(finetuned, name="jedi-vjepa2-mean", pooling="mean")
