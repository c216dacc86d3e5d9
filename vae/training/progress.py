"""Progress bars: drawn on a terminal, and elsewhere, as in a log, one line for each job when it ends."""

import sys

from tqdm import tqdm


class _LastLine:
    """A file for the states of a bar that nobody watches: the last one is written, when its line ends."""

    def __init__(self):
        self.line = ""

    def write(self, text: str) -> None:
        self.line = (self.line + text).rpartition("\r")[2]
        if self.line.endswith("\n"):
            sys.stderr.write(self.line if self.line.strip() else "")
            self.line = ""

    def flush(self) -> None:
        sys.stderr.flush()


def progress(*values, **settings) -> tqdm:
    """A bar of tqdm on standard error; one that is not to be left there (`leave=False`) needs a terminal."""
    if sys.stderr.isatty():
        return tqdm(*values, file=sys.stderr, **settings)
    passing = not settings.get("leave", True)
    return tqdm(*values, file=_LastLine(), **settings | ({"disable": True} if passing else {}))


def say(line: str) -> None:
    """Prints a line on standard error, above the bars that are drawn there."""
    tqdm.write(line, file=sys.stderr)
