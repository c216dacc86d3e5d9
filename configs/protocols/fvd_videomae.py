"""FVD on VideoMAE's features as the cd-fvd package computes it (Ge et al. 2024), less biased to content.

The loader is that of `fvd-cdfvd`; frames from 0 to 1, squashed to 224; features are the mean of the tokens
through the classifier's layer norm. Known to differ: cd-fvd takes VideoMAE v2 (ViT-g/14, fine-tuned on
Something-Something v2), which transformers reads only from a folder that was converted, and its layer norm
has an eps of 1e-6, here 1e-5. No hash of such a folder is known here: `--encoder-sha256` names yours.
"""

from dataclasses import replace

from configs.protocols.fvd_cdfvd import protocol as with_i3d

protocol = replace(
    with_i3d, name="fvd-videomae", network="videomae", pixels="unit", pooling="mean-norm", eps=1e-3
)
