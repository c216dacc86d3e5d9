"""Proves that a bar is one line for each job in a log, and moves on a terminal."""

import io

from vae.training.progress import progress, say


class Terminal(io.StringIO):
    """Standard error of a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_job_is_one_line_in_a_log(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr("sys.stderr", log)
    with progress(total=3, desc="sampling", unit="step", mininterval=0) as bar:
        for _ in range(3):
            bar.update()
        say("between")
        assert log.getvalue() == "between\n"  # the job's line comes when it ends
    for _ in progress(range(5), desc="index", mininterval=0):
        pass
    for _ in progress(range(5), desc="probing", leave=False, mininterval=0):
        pass
    for _ in progress(range(5), desc="quiet", disable=True):
        pass
    _, sampling, index = log.getvalue().splitlines()
    assert sampling.startswith("sampling: 100%") and "3/3" in sampling and "\r" not in log.getvalue()
    assert index.startswith("index: 100%") and "5/5" in index


def test_a_job_within_another_leaves_no_codes_in_a_log(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr("sys.stderr", log)
    for _ in progress(range(2), desc="sampling", mininterval=0):
        for _ in progress(range(3), desc="writing", leave=False, mininterval=0):
            pass
    assert len(log.getvalue().splitlines()) == 1 and "\x1b" not in log.getvalue()


def test_a_job_that_is_stopped_says_how_far_it_came(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr("sys.stderr", log)
    try:
        for k in progress(range(10), desc="encoding", mininterval=0):
            if k == 4:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    (line,) = log.getvalue().splitlines()
    assert line.startswith("encoding:  40%") and "4/10" in line


def test_a_terminal_sees_the_bar_move(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    for _ in progress(range(3), desc="index", mininterval=0):
        pass
    assert terminal.getvalue().count("\r") >= 3
