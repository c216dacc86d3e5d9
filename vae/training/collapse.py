"""Whether a training has collapsed: read from the rows of its log, so that it is seen after a restart too."""

from itertools import pairwise

WON = 0.01  # a hinge loss at which the discriminator tells every patch
STEPS = 200  # for so many steps in a row
FALL = 3.0  # decibels of held-out PSNR below the best


def collapse(rows: list[dict]) -> str:
    """What has gone wrong by the newest row of a log, in a sentence; empty where nothing has, or had before.

    Two signs: a discriminator whose loss has been zero for long, whose gradients then teach nothing, and
    a held-out PSNR that fell.
    """
    return _discriminator_won(rows) or _psnr_fell(rows)


def _discriminator_won(rows: list[dict]) -> str:
    """Says that the discriminator has won, at the first row at which that has been so for long enough."""
    losses = [(row["step"], row["discriminator"]) for row in rows if "discriminator" in row]
    if "discriminator" not in rows[-1] or losses[-1][1] >= WON:
        return ""
    since = losses[0][0]
    for (_, loss), (later, _) in pairwise(losses):
        since = later if loss >= WON else since
    if not losses[-1][0] - since >= STEPS > losses[-2][0] - since:
        return ""
    return (
        f"the discriminator's loss has been below {WON} since step {since}: it tells every patch and teaches "
        f"nothing. Lower discriminator.learning-rate or discriminator.weight, or start it later"
    )


def _psnr_fell(rows: list[dict]) -> str:
    """Says that the newest row's held-out PSNR is far below the best, and the one before was not."""
    scores = [(row["psnr"], row["step"]) for row in rows if "psnr" in row]
    if "psnr" not in rows[-1] or scores[-1][0] > max(scores)[0] - FALL:
        return ""
    if scores[-2][0] <= max(scores[:-1])[0] - FALL:
        return ""
    (now, step), (best, then) = scores[-1], max(scores)
    return f"held-out PSNR is {now:.2f} dB at step {step}, and was {best:.2f} dB at step {then}"
