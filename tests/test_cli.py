"""Proves that the command tells mistakes in one line with a failing status, and helps before it imports."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import dit
from dit.cli import VERBS, run
from tests.tiny import fresh_accelerator, launch, transformer_run, write_config  # noqa: F401
from vae.training.signals import raising

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "numpy", "tyro", "diffusers", "transformers", "accelerate", "safetensors", "configs", "PIL"}
HEAVY |= {"pydantic", "annotated_types", "rich"}


def test_help_names_every_verb_and_imports_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "dit.cli", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0
    assert all(f"dit {verb} " in done.stdout for verb in VERBS)
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "dit" in imported
    assert not imported & HEAVY


@pytest.fixture
def empty_config(tmp_path) -> str:
    file = tmp_path / "empty.py"
    file.write_text(
        "from configs.train import *\nconfig = TransformerRun(autoencoder='nowhere.safetensors')\n"
    )
    return str(file)


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["smaple"], 2, "dit: no verb 'smaple'; did you mean dit sample?"),
        (["generate", "a red circle"], 2, "dit: no verb 'generate'; did you mean dit sample?"),
        (["compare"], 2, "dit: no verb 'compare'; did you mean dit vae compare or dit eval compare?"),
        (["xyzzy"], 2, "dit: no verb 'xyzzy'; dit --help lists the verbs"),
        (["vae"], 2, "dit vae: which? dit vae train"),
        (["train"], 1, "dit train: which config? dit train CONFIG"),
        (["train", "shapez"], 1, "dit train: no config shapez"),
        (["train", "smal"], 1, "no config smal; did you mean small? There are ladder_100m, ladder_10m, "),
        (["train", "nowhere"], 1, "no config nowhere; there are ladder_100m, ladder_10m, "),
        (["vae", "train", "small"], 1, "small is a config of `dit train`, not of `dit vae train`; there are"),
        (
            ["bench", "tiny_autoencoder"],
            1,
            "tiny_autoencoder is a config of `dit vae train`, not of `dit train`",
        ),
        (
            ["train", "."],
            1,
            "dit train: . is a folder, and no config: a run resumes by the command that began it",
        ),
        (["train", "nowhere/mine.py"], 1, "dit train: no config nowhere/mine.py"),
        (["train", "shapes_autoencoder"], 1, "is a config of `dit vae train`, not of"),
        (["train", "CONFIG", "--train.stepz", "3"], 1, "setting --train.stepz; did you mean --train.steps?"),
        (["train", "CONFIG", "--train.steps", "many"], 1, "dit train: Error parsing --train.steps"),
        (["train", "CONFIG", "--train.batch", "0"], 1, "dit train: train.batch = 0: it must be at least 1"),
        (["train", "CONFIG"], 1, "dit train: nowhere.safetensors: no autoencoder there"),
        (["train", "shapes", "--autoencoder", "builtin", "--init", "nowhere"], 1, "nowhere: no such model"),
        (
            ["vae", "train", "shapes_autoencoder", "--crop", "65"],
            1,
            "dit vae train: crop_frames and crop: 65x65 does not divide",
        ),
        (["sample"], 1, "dit sample: no prompt"),
        (["sample", "a", "--model", "nowhere"], 1, "dit sample: nowhere: no such model folder"),
        (["sample", "--prompts-file", "nowhere.txt"], 1, "dit sample: nowhere.txt: no such prompts file"),
        (["sample", "a", "--frame", "5"], 1, "unknown setting --frame; did you mean --frames?"),
    ],
)
def test_a_mistake_is_one_line_and_a_failing_status(
    words, status, message, empty_config, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    words = [empty_config if word == "CONFIG" else word for word in words]
    assert run(words) == status
    printed = capsys.readouterr()
    assert printed.out == "" and message in printed.err
    assert printed.err.count("\n") == 1 and "Traceback" not in printed.err
    left = {file.name for file in tmp_path.iterdir()} - {"__pycache__"}
    assert left == {"empty.py"}  # nothing was written


def test_print_shows_a_run_and_touches_nothing(empty_config, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:  # its autoencoder is nowhere, and is not looked for
        run(["train", empty_config, "--print"])
    assert not stopped.value.code
    assert re.search(r"^autoencoder +nowhere.safetensors +empty.py", capsys.readouterr().out, re.MULTILINE)
    assert {file.name for file in tmp_path.iterdir()} - {"__pycache__"} == {"empty.py"}


def test_debug_shows_the_traceback(empty_config, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no autoencoder there"):
        run(["train", empty_config, "--debug"])


def test_errors_of_the_system_and_missing_packages_are_told_too(monkeypatch, capsys):
    module = type(sys)("fails")

    def fail_with(error):
        def main(arguments):
            raise error

        module.main = main

    monkeypatch.setitem(sys.modules, "fails", module)
    monkeypatch.setitem(VERBS, "fails", ("fails", ""))
    fail_with(PermissionError(13, "Permission denied", "clips/a.mp4"))
    assert run(["fails"]) == 1
    assert capsys.readouterr().err == "dit fails: clips/a.mp4: Permission denied\n"
    fail_with(ModuleNotFoundError("No module named 'xformers.ops'", name="xformers.ops"))
    assert run(["fails"]) == 1
    assert "needs the package xformers" in capsys.readouterr().err
    fail_with(ValueError("two\nlines"))
    assert run(["fails"]) == 1
    assert capsys.readouterr().err == "dit fails: two lines\n"
    fail_with(KeyboardInterrupt())
    assert run(["fails"]) == 130
    kept = OSError(28, "No space left on device", "out/a.mp4")
    kept.add_note("the others are kept")
    capsys.readouterr()
    for error, said in {
        kept: "out/a.mp4: No space left on device; the others are kept",
        MemoryError(): "too little memory (of this machine)",
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 1 byte\nmore"): (
            "too little memory (DefaultCPUAllocator: can't allocate memory: you tried 1 byte)"
        ),
    }.items():
        fail_with(error)
        assert run(["fails"]) == 1
        assert capsys.readouterr().err == f"dit fails: {said}\n"
    missing = ModuleNotFoundError("No module named 'dit.nothing'", name="dit.nothing")
    for ours in (missing, KeyError("bug"), RuntimeError("bug")):
        fail_with(ours)  # our own mistakes keep their traceback
        with pytest.raises(type(ours)):
            run(["fails"])


def test_a_reader_that_has_seen_enough_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "dit.cli", "train", "--help"], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert done.stderr == b"" and done.returncode == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_verb_with_its_status_and_clears_up(monkeypatch, capsys, number):
    module, cleared, before = type(sys)("waits"), [], signal.getsignal(number)

    def main(arguments):
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        finally:
            os.kill(os.getpid(), number)  # a launcher's, for the same key: clearing up goes on
            time.sleep(0.01)
            cleared.append(True)

    module.main = main
    monkeypatch.setitem(sys.modules, "waits", module)
    monkeypatch.setitem(VERBS, "waits", ("waits", ""))
    assert run(["waits"]) == 128 + number and cleared == [True]
    assert capsys.readouterr().err == "\ndit waits: stopped\n"
    assert signal.getsignal(number) is before


def test_a_signal_that_python_drops_comes_again(capsys):
    class Closed:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt) as stopped, raising():
        Closed()
        time.sleep(5)
    assert stopped.value.status == 143 and capsys.readouterr().err == ""


def test_a_hang_up_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with raising():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_file_does_not_take_a_closed_stream_s_place(tmp_path, closed):
    script = """
import os, sys, types
from dit import cli
def work(arguments):
    with open(arguments[0], "w") as file:
        print("words", file=sys.stderr)
        print("words")
        os.write(1, b"words of a library")
        file.write("whole")
sys.modules["works"] = types.SimpleNamespace(main=work)
cli.VERBS["works"] = ("works", "")
cli.main()
"""
    command = ["sh", "-c", f'"$0" -c "$1" works "$2" {closed}', sys.executable, script, tmp_path / "file"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True)
    assert (tmp_path / "file").read_text() == "whole"
    assert done.returncode == 0 and b"Traceback" not in done.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    ("steps", "words"),
    [("0", "train.steps = 0: it must be at least 1"), ("1", "nowhere: no autoencoder there")],
    ids=["before the processes are joined", "after it"],
)
def test_what_all_processes_have_to_say_is_said_once(tmp_path, steps, words):
    config = write_config(tmp_path / "run.py", transformer_run(tmp_path / "run", "nowhere"))
    done = launch("dit.train", config, "--train.steps", steps, processes=3)
    assert done.returncode and done.stderr.count("dit train: ") == done.stderr.count(words) == 1, done.stderr


def test_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"dit {dit.__version__}\n"


def test_a_verb_of_any_length_is_not_echoed_whole(capsys):
    assert run(["x" * 5000, "y"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("dit: no verb 'xxx") and "(5,002 characters)" in said and len(said) < 1000
