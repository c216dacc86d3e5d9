"""Whether a training has collapsed: read from the rows of its log, so that it is seen after a restart too."""

WON = 0.01  # a hinge loss at which the discriminator tells every patch
STEPS = 200  # for so many steps in a row
FALL = 3.0  # decibels of held-out PSNR below the best


class Watch:
    """Reads the rows of a log one by one, and keeps of them what the next one is judged by.

    Two signs: a discriminator whose loss has been zero for long, whose gradients then teach nothing, and
    a held-out PSNR that fell.
    """

    def __init__(self):
        self._since = self._last = 0  # the step since which the discriminator has won; its newest
        self._losing = True  # whether it had not won at that one
        self._best: tuple[float, int] | None = None  # held-out PSNR and its step
        self._fell = False

    def sign(self, row: dict) -> str:
        """What has gone wrong by the newest row, in a sentence; empty where nothing has, or had before."""
        won = self._discriminator_won(row) if "discriminator" in row else ""
        fell = self._psnr_fell(row) if "psnr" in row else ""
        return won or fell

    def _discriminator_won(self, row: dict) -> str:
        """Says that the discriminator has won, at the first row at which that has been so for long enough."""
        step, before = row["step"], self._last
        if self._losing:
            self._since = before = step
        self._last, self._losing = step, row["discriminator"] >= WON
        if self._losing or not step - self._since >= STEPS > before - self._since:
            return ""
        return (
            f"the discriminator's loss has been below {WON} since step {self._since}: it tells every patch, "
            "which teaches nothing. Lower discriminator.learning-rate or discriminator.weight, or start it "
            "later"
        )

    def _psnr_fell(self, row: dict) -> str:
        """Says that the newest row's held-out PSNR is far below the best, and the one before was not."""
        score, before = (row["psnr"], row["step"]), self._fell
        self._best = max(self._best or score, score)
        best, then = self._best
        self._fell = score[0] <= best - FALL
        if before or not self._fell:
            return ""
        return f"held-out PSNR is {score[0]:.2f} dB at step {score[1]}, and was {best:.2f} dB at step {then}"
