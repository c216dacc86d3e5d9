"""Proves that trackers have the rows of the log, also of a run that was killed, and never stop a training."""

import json
import os
import signal
import sqlite3
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest

from tests.tiny import ROOT, autoencoder_run, environment, fresh_accelerator  # noqa: F401
from vae.train import train
from vae.training import tracking
from vae.training.files import read_json
from vae.training.log import Log, read_log
from vae.training.session import Session
from vae.training.tracking import Trackers, check_trackers, grouped

Points = dict[str, list[tuple[int, float]]]  # a figure's steps and values, in the order of the steps
KILLED = {"steps": 6, "save_every": 4, "show_every": 3}


class Told:
    """A tracker in the memory, which may fail at a step."""

    def __init__(self, fails_at: float = numpy.inf):
        self.rows, self.fails_at = [], fails_at

    def start(self) -> None:
        if self.fails_at == 0:
            raise OSError("nobody is\nlogged in")

    def log(self, values: dict, step: int) -> None:
        if step >= self.fails_at:
            raise OSError("the network is gone")
        self.rows.append((step, values))

    def finish(self) -> None:
        pass


def told(monkeypatch, fails_at: float = numpy.inf) -> list[Told]:
    """Trackers in the memory in trackio's place; returns those that are made."""
    made = []
    monkeypatch.setitem(tracking.TRACKERS, "trackio", lambda *_: made.append(Told(fails_at)) or made[-1])
    monkeypatch.setitem(tracking.DESCRIBED, "trackio", lambda *_: None)
    return made


def rows_of(steps: range) -> list[dict]:
    return [{"step": step, "loss": 1 / step, "waited": 0.0, "time": "now"} for step in steps]


def logged(folder: Path, step: int, steps: range, said: list[str]) -> Trackers:
    """A log and its tracker after a checkpoint, told the rows of some steps."""
    trackers = Trackers(("trackio",), folder, {}, step, said.append)
    log = Log(folder, step, 9, trackers.add)
    for row in rows_of(steps):
        log.add(row)
    return trackers


def test_a_row_s_figures_have_groups_and_what_is_no_number_is_left_out():
    row = {"step": 3, "loss": 0.5, "tokens_per_second": 7.0, "mfu": 0.1, "time": "now", "kl": float("nan")}
    assert grouped(row) == {"train/loss": 0.5, "speed/tokens_per_second": 7.0, "speed/mfu": 0.1}
    assert grouped({"step": 3, "validation": 1, "psnr": True}) == {"validation/validation": 1}
    event = {"step": 3, "event": "skipped", "samples": ["a", "b"], "gradient_norm": 9.0}
    words = {"event/event": "skipped", "event/samples": "a, b", "event/gradient_norm": 9.0}
    assert grouped(event) == words


def test_a_tracker_is_told_nothing_twice_and_one_that_is_new_all_so_far(tmp_path, monkeypatch):
    made, said = told(monkeypatch), []
    logged(tmp_path, 0, range(1, 7), said)
    name = read_json(tmp_path / tracking.KNOWN)
    logged(tmp_path, 4, range(5, 8), said)
    assert read_json(tmp_path / tracking.KNOWN) == name
    assert [step for one in made for step, _ in one.rows] == [1, 2, 3, 4, 5, 6, 7]
    (tmp_path / tracking.KNOWN).unlink()
    logged(tmp_path, 7, range(8, 9), said)
    assert [step for step, _ in made[-1].rows] == [1, 2, 3, 4, 5, 6, 7, 8]
    logged(tmp_path, 0, range(1, 2), said)
    assert read_json(tmp_path / tracking.KNOWN) != name, "a run that begins anew is another"
    assert said == []


def test_one_that_cannot_begin_is_refused_and_one_that_fails_later_is_said_once(tmp_path, monkeypatch):
    said = []
    told(monkeypatch, fails_at=0)
    with pytest.raises(ValueError, match=r"^--train.tracker trackio cannot begin: nobody is logged in$"):
        logged(tmp_path, 0, range(0), said)
    logged(tmp_path, 3, range(4, 6), said)
    assert (
        said.pop() == "--train.tracker trackio cannot begin: nobody is logged in; the run goes on without it"
    )
    made = told(monkeypatch, fails_at=3)
    logged(tmp_path, 0, range(1, 6), said).close()
    assert said == ["trackio fails, the run goes on without it: the network is gone"]
    assert [step for step, _ in made[0].rows] == [1, 2]
    assert [row["step"] for row in read_log(tmp_path / "log.jsonl")] == [1, 2, 3, 4, 5]
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package trackio: pip install -e '.\[trackio\]'"):
        check_trackers(["trackio"])


def killed(out: str, name: str) -> None:
    """A run that is killed in step 6, when step 5 is logged and step 4 kept, or asked in step 5 to end."""
    end_step = Session.end_step

    def counted(self, step, *rest, **terms):
        if step == (6 if SIGNALS[name] == signal.SIGKILL else 5):
            self._saver.wait_written()
            os.kill(os.getpid(), SIGNALS[name])
        return end_step(self, step, *rest, **terms)

    Session.end_step = counted
    train(autoencoder_run(Path(out), **KILLED, tracker=(name,)))


def of_tensorboard(out: Path) -> Points:
    """TensorBoard's own reader; it keeps 10 000 points."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Images("reconstructions")] == [3, 6]
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def of_wandb(out: Path) -> Points:
    """The records of wandb's files, in LevelDB's format, which `wandb sync` sends."""
    from wandb.proto.wandb_internal_pb2 import Record

    points, files = {}, sorted((out / "wandb").glob("offline-run-*/*.wandb"))
    assert len({file.name for file in files}) == 1, "both have one id"
    for file in files:
        for data in records(file.read_bytes()):
            items = Record.FromString(data).history.item
            row = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
            for key in (key for key in row if isinstance(row[key], int | float) and key[0] != "_"):
                points.setdefault(key, []).append((row["_step"], row[key]))
    return points


def records(file: bytes) -> Iterator[bytes]:
    """Records of a file of blocks of 32 KiB: a checksum, length and kind (whole, first, middle, last)."""
    place, parts = 7, b""  # after the file's own header
    while place + 7 <= len(file):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack("<HB", file[place + 4 : place + 7])
        parts += file[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


def of_trackio(out: Path) -> Points:
    """The rows of trackio's database."""
    points = {}
    with sqlite3.connect(out.parent / "trackio" / "dit-lab.db") as database:
        for step, text in database.execute("select step, metrics from metrics order by id"):
            for key, value in json.loads(text).items():
                points.setdefault(key, []).append((step, value))
    return points


# wandb writes offline rows in blocks of 32 KiB: a kill costs it those of the last one.
SIGNALS = {"tensorboard": signal.SIGKILL, "wandb": signal.SIGTERM, "trackio": signal.SIGKILL}
READERS = {"tensorboard": of_tensorboard, "wandb": of_wandb, "trackio": of_trackio}


@pytest.mark.long
@pytest.mark.parametrize("name", READERS)
def test_a_killed_and_resumed_run_has_the_rows_of_its_log(tmp_path, monkeypatch, name):
    for variable, value in {"WANDB_MODE": "offline", "TRACKIO_DIR": str(tmp_path / "trackio")}.items():
        monkeypatch.setenv(variable, value)
    pytest.importorskip(name)
    out = tmp_path / "run"
    code = "import sys; from tests.test_tracking import killed; killed(*sys.argv[1:])"
    words = [sys.executable, "-c", code, str(out), name]
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(words, cwd=ROOT, env=environment() | path, capture_output=True, text=True)
    assert done.returncode == (1 if name == "wandb" else -signal.SIGKILL), done.stderr[-4000:]
    assert [row["step"] for row in read_log(out / "log.jsonl")] == [1, 2, 3, 3, 4, 5]
    train(autoencoder_run(out, **KILLED, tracker=(name,)))
    wanted: Points = {}
    for row in read_log(out / "log.jsonl"):
        for key, value in grouped(row).items():
            wanted.setdefault(key, []).append((row["step"], value))
    found = READERS[name](out)
    assert found.keys() == wanted.keys()
    for key, points in wanted.items():
        steps, values = zip(*points, strict=True)
        seen = dict(found[key])
        assert Counter(step for step, _ in found[key]) == Counter(steps), key
        if not key.startswith("speed/"):  # which a tracker that takes nothing back has of the killed steps
            assert numpy.allclose([seen[step] for step in steps], values, rtol=1e-6, atol=0), key
        elif name == "tensorboard":
            assert numpy.allclose([seen[step] for step in steps], values, rtol=1e-6), key
