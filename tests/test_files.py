"""Proves that files appear whole or not at all, whatever ends the work, and that nothing else is touched."""

import os
import resource
import signal
import stat
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import dit.export
from dit.cli import run
from dit.export import ExportSettings, export
from tests.test_sample import folder  # noqa: F401
from vae.training.files import TEMPORARY, check_writable, remove_stale, whole, write_text, write_whole
from vae.training.processes import end_with_launcher
from vae.training.weights import save_weights


def temporary(home: Path) -> list[Path]:
    """What is half-written in a folder."""
    return [path for path in home.iterdir() if TEMPORARY.fullmatch(path.name)]


def die_while_writing(file: Path) -> None:
    """Has a process killed that was writing a file, with what safetensors itself writes beside it."""
    if not (child := os.fork()):
        with whole(file) as place:
            place.write_text("half")
            place.with_name(".tmpAbCdEf").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def test_a_temporary_name_is_random_and_of_this_process_alone(tmp_path):
    victim, file, names = tmp_path / "victim", tmp_path / "a.txt", set()
    victim.write_text("kept")
    for name in (f".a.txt.{os.getpid()}.tmp", ".a.txt.tmp", ".a.txt.abcdefgh.tmp"):
        (tmp_path / name).symlink_to(victim)  # planted, where a name could be guessed
    for _ in range(3):
        with whole(file) as place:
            place.write_text("new")
            names.add(place.parent.name)
            assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    assert len(names) == 3 and all(TEMPORARY.fullmatch(name) for name in names)
    assert victim.read_text() == "kept" and file.read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 5


def test_what_a_kill_left_goes_with_the_next_of_that_name(tmp_path):
    for name in ("a.txt", "other.txt"):
        die_while_writing(tmp_path / name)
    assert len(temporary(tmp_path)) == 2
    write_text(tmp_path / "a.txt", "whole")
    assert [path.name.split(".")[1] for path in temporary(tmp_path)] == ["other"]
    remove_stale(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"]


def test_a_live_writer_keeps_its_own(tmp_path):
    file = tmp_path / "a.txt"
    to_child, from_child = os.pipe(), os.pipe()
    if not (child := os.fork()):
        with whole(file) as place:
            place.write_text("the child's")
            os.write(from_child[1], b"x")
            os.read(to_child[0], 1)
        os._exit(0)
    os.read(from_child[0], 1)
    write_text(file, "ours")
    remove_stale(tmp_path)
    assert len(temporary(tmp_path)) == 1 and file.read_text() == "ours"
    os.write(to_child[1], b"x")
    assert os.waitpid(child, 0)[1] == 0
    assert file.read_text() == "the child's" and temporary(tmp_path) == []


def test_a_user_s_folder_of_such_a_name_stays(tmp_path):
    (tmp_path / ".a.txt.abcdefgh.tmp" / "mine").mkdir(parents=True)
    (tmp_path / ".a.txt.short.tmp").mkdir()
    (tmp_path / ".a.txt.abcdefg1.tmp").write_text("a file")
    write_text(tmp_path / "a.txt", "")
    remove_stale(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_what_is_no_regular_file_is_written_to(tmp_path):
    pipe, read = tmp_path / "pipe.json", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    check_writable(pipe)
    write_text(pipe, "through")
    reader.join()
    assert read == ["through"] and stat.S_ISFIFO(pipe.stat().st_mode)
    write_text(Path("/dev/null"), "through")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    for name, target in {"link": tmp_path / "target", "dangling": tmp_path / "new"}.items():
        (tmp_path / name).symlink_to(target)
        write_text(tmp_path / name, name)
        assert (tmp_path / name).is_symlink() and target.read_text() == name and not target.is_symlink()


def test_a_full_disk_is_told_by_the_file_s_name_and_leaves_what_was_there(tmp_path):
    file, limits = tmp_path / "w.safetensors", resource.getrlimit(resource.RLIMIT_FSIZE)
    write_text(file, "before")
    tensors = {"x": torch.zeros(10_000)}
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # this many bytes are left
    try:
        for write in (
            lambda: save_weights(file, tensors, "transformer", {}),  # raises safetensors' own error
            lambda: write_text(file, "x" * 10_000),
            lambda: write_whole(file, lambda place: (place.parent / "part").write_bytes(bytes(10_000))),
        ):
            with pytest.raises(OSError) as error:
                write()
            assert (error.value.filename, error.value.strerror) == (str(file), "File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with pytest.raises(OSError, match="No space left on device"):
        write_text(Path("/dev/full"), "x")
    assert file.read_text() == "before" and list(tmp_path.iterdir()) == [file]


def test_what_fails_to_be_read_while_a_file_is_written_keeps_its_own_name(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        write_whole(tmp_path / "a", lambda place: place.write_bytes((tmp_path / "missing").read_bytes()))
    assert error.value.filename == str(tmp_path / "missing")


def test_an_output_is_tried_and_nothing_is_made(tmp_path):
    (tmp_path / "file").touch()
    for wrong in ("file/a.json", "n" * 250):
        with pytest.raises(OSError) as error:
            check_writable(tmp_path / wrong)
        assert error.value.filename == str(tmp_path / wrong)
    with pytest.raises(ValueError, match="is a folder: give a file in it"):
        check_writable(tmp_path)
    check_writable(tmp_path / "new" / "folder" / "a.json")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux'")
def test_a_process_ends_with_the_launcher_that_is_killed(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    reading, writing = os.pipe()
    if not (launcher := os.fork()):
        if not os.fork():
            end_with_launcher()
            os.write(writing, b"x")
            time.sleep(60)  # where it would wait for the others
            os._exit(0)
        time.sleep(60)
        os._exit(0)
    os.close(writing)
    assert os.read(reading, 1) == b"x"
    os.kill(launcher, signal.SIGKILL)
    os.waitpid(launcher, 0)
    began = time.monotonic()
    assert os.read(reading, 1) == b"" and time.monotonic() - began < 30  # its end of the pipe is closed


def test_two_exports_at_once_do_not_touch_each_other(folder, tmp_path, monkeypatch, capsys):  # noqa: F811
    out, plain = tmp_path / "out", dit.export.FORMATS["half"]
    settings = ExportSettings(str(folder), str(out), format="half")

    def another_first(place, model):
        monkeypatch.setitem(dit.export.FORMATS, "half", plain)
        export(settings)
        plain(place, model)

    monkeypatch.setitem(dit.export.FORMATS, "half", another_first)
    assert run(["export", str(folder), "--out", str(out), "--format", "half"]) == 1
    assert f"dit export: {out}: Directory not empty" in capsys.readouterr().err
    assert len(list(out.iterdir())) == 2 and list(tmp_path.iterdir()) == [out]
