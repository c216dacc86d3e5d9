"""Kills verbs at random moments, gives the same command again, and compares its end with one left alone.

python -m tests.bench.kills [VERB …] [--kills 100] [--seed 0]

VERBs are train, vae-train, encode, sample, eval-run and worlds, on the smallest configurations. Each runs in
a fork that has everything imported, and is sent SIGKILL, SIGTERM, SIGHUP and SIGINT in turn at a moment drawn
evenly over the time that the whole takes; then it is given again. Wrong is: another status than the signal's,
a traceback, an end that is not the undisturbed one's to the bit, a temporary file, a process that lives on.

worlds is `dit train` on 1 to 4 processes that have copies, shards or both, or slices of packs, in one pack or
in several, which are killed and given again in other worlds, or always in the same; every step saves. Wrong
is: losses or weights that are not those of one process left alone, to 1e-6 and to 1e-5 of a tensor's largest;
where the world stays, those of that world left alone to the bit.
"""

import argparse
import ctypes
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import accelerate  # noqa: F401
import filelock  # noqa: F401
import matplotlib.figure  # noqa: F401
import PIL.ImageFont  # noqa: F401
import pyarrow.parquet  # noqa: F401
import torch
import torch.distributed.fsdp
import tyro  # noqa: F401
from safetensors.torch import load

import dit.cli
import dit.encode
import dit.sample
import dit.train
import eval.benchmark  # noqa: F401
import vae.train
from configs.data import DataConfig
from tests.tiny import autoencoder_run, rows, transformer_run, write_config
from tests.tiny import state as newest_state
from vae.cache.index import load_cache
from vae.cache.shards import read_row
from vae.data.drawn_world import draw, random_scene
from vae.data.index import IndexSettings, index
from vae.data.write import write_video
from vae.load import WEIGHTS
from vae.training import sharded  # noqa: F401
from vae.training.checkpoints import checkpoints

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
SUBREAPER = (
    36  # prctl's PR_SET_CHILD_SUBREAPER: what a killed process leaves behind becomes a child of this one
)
ORPHANS = 15.0  # seconds that processes that read ahead may live on: they look for their parent every five


def of_folder(out: Path) -> dict:
    """The bytes of every file but older checkpoints', which a stop moves; the log is without its clock."""
    older = {path.name for path in checkpoints(out)[:-1]}
    files = (file for file in sorted(out.rglob("*")) if file.is_file())
    names = {file.relative_to(out): file for file in files}
    found = {str(name): file.read_bytes() for name, file in names.items() if name.parts[0] not in older}
    for name in [name for name in found if name.endswith(".safetensors")]:
        length = int.from_bytes(found[name][:8], "little")
        found[f"{name}: header"] = json.loads(found[name][8 : 8 + length])
        tensors = load(found.pop(name))
        found |= {f"{name}: {tensor}": value.numpy().tobytes() for tensor, value in tensors.items()}
    if "log.jsonl" in found:
        found |= {f"log.jsonl: row {k}": row for k, row in enumerate(rows(out))}
        del found["log.jsonl"]
    return found


def of_cache(out: Path) -> dict:
    """Every row of a cache by its key: which shard has it depends on where an encoding was stopped."""
    cache, found = load_cache(out), {}
    for file in cache.files:
        for key, place in zip(file.keys, file.clips, strict=True):
            found[f"{file.path.name} {key}"] = read_row(out, place, torch.float16).numpy().tobytes()
    return found


def prepare(home: Path) -> None:
    """Makes what the commands work on: an autoencoder, a transformer and videos."""
    vae.train.train(autoencoder_run(home / "vae", steps=2))
    dit.train.train(transformer_run(home / "model", home / "vae" / WEIGHTS, steps=2))
    for k in range(6):
        write_video(home / "videos" / f"{k}.mp4", draw(random_scene(0, k, "train"), 17, 32, 32), 8, {})
    index(IndexSettings(str(home / "videos")))


def commands(home: Path) -> dict[str, tuple[Callable[[Path], list], Callable[[Path], dict]]]:
    """By verb, the command that writes a folder, and what of that is compared."""
    autoencoder, model = home / "vae" / WEIGHTS, home / "model"

    def config(out: Path, run) -> str:
        return str(write_config(home / f"{out.name}.py", run))

    def train(out: Path) -> list[str]:
        return ["train", config(out, transformer_run(out, autoencoder))]

    def vae_train(out: Path) -> list[str]:
        run = autoencoder_run(out)
        data = DataConfig(source=str(home / "videos"), frames=5, size=32, workers=1)
        return ["vae", "train", config(out, replace(run, data=data))]

    def encode(out: Path) -> list[str]:
        words = ["vae", "encode", home / "videos", "--out", out, "--autoencoder", autoencoder]
        words += ["--shard-clips", 3, "--data.frames", 5, "--data.size", 32]
        return [*words, "--data.clips-per-file", 4]

    def sample(out: Path) -> list[str]:
        words = ["sample", "a red circle", "A blue square!", "--number", 2, "--model", model, "--out", out]
        return [*words, "--steps", 2]

    def eval_run(out: Path) -> list[str]:
        words = ["eval", "run", "ucf101-zeroshot", "--model", model, "--out", out, "--count", 5, "--steps", 2]
        return [*words, "--frames", 17, "--batch", 2, "--allow-small", "--sample-only", "--smoke"]

    return {
        "train": (train, of_folder),
        "vae-train": (vae_train, of_folder),
        "encode": (encode, of_cache),
        "sample": (sample, of_folder),
        "eval-run": (eval_run, of_folder),
    }


def work(words: list[str], said: Path) -> None:
    """What the fork does: the command, with its words in a file."""
    for stream in (1, 2):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    sys.exit(dit.cli.run(list(map(str, words))))


def run(words: list[str], said: Path, number: int = 0, after: float = 0.0) -> tuple[int, float]:
    """Runs a command, sends it a signal after some seconds, if one is given; its status and seconds."""
    process, began = (
        multiprocessing.get_context("fork").Process(target=work, args=(words, said)),
        time.monotonic(),
    )
    process.start()
    if number:
        process.join(after)
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)
    process.join(300)
    if process.is_alive():
        process.kill()
        return 999, 300.0
    return process.exitcode, time.monotonic() - began


SHARINGS = {  # by what the processes have: the settings, and how many processes they are for
    "copies": ("", (1, 2, 3, 4)),
    "shards": ("--parallel.shard full", (1, 2, 3, 4)),
    "copies of shards": ("--parallel.shard hybrid --parallel.shard-size 2", (2, 4)),
    "slices of packs": ("--parallel.context 2", (2, 4)),
    "thirds of packs": ("--parallel.context 3", (3,)),  # of two heads: one process has none
    "shards, slices of packs": ("--parallel.shard full --parallel.context 2", (2, 4)),
}
PACKS = {"one pack": "", "a pack a clip": "--train.pack-tokens 8"}
WORLDS = [
    (sharing, packs, ranks)
    for sharing, (_, counts) in SHARINGS.items()
    for packs in PACKS
    for ranks in counts
]


def run_world(words: list[str], said: Path, ranks: int, number: int = 0, after: float = 0.0) -> list[int]:
    """Runs a command on so many processes as a launcher does: when one ends wrong, the others are killed.

    A signal goes to all of them after some seconds, SIGKILL to the last one alone. Their statuses.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def start(rank: int) -> None:
        if ranks > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        work(words, said)

    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=start, args=(rank,)) for rank in range(ranks)]
    for process in processes:
        process.start()
    began = time.monotonic()
    while any(process.is_alive() for process in processes):
        passed = time.monotonic() - began
        if number and passed > after:
            for process in processes[-1:] if number == signal.SIGKILL else processes:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, number)
            number = 0
        if passed > 300 or any(process.exitcode not in (None, 0, 143) for process in processes):
            for process in processes:
                process.kill()
        time.sleep(0.01)
    return [process.exitcode for process in processes]


def ends(out: Path) -> dict:
    """The losses and the last states of a run."""
    losses = {row["step"]: row["loss"] for row in rows(out) if "loss" in row}
    return {"losses": losses, "states": newest_state(out)}


def distance(one: dict, two: dict) -> tuple[float, float]:
    """The largest differences of two ends: of a loss, and of a weight relative to its tensor's largest."""
    if one["losses"].keys() != two["losses"].keys() or one["states"].keys() != two["states"].keys():
        return float("inf"), float("inf")
    losses = [abs(loss / two["losses"][step] - 1) for step, loss in one["losses"].items()]
    names = [name for name in one["states"] if name.startswith(("model/", "average/"))]
    pairs = [(one["states"][name], two["states"][name]) for name in names]
    weights = [((x - y).abs().max() / y.abs().max().clamp(min=1e-3)).item() for x, y in pairs]
    return max(losses), max(weights)


def worlds(home: Path, kills: int, seed: int) -> int:
    """Kills a training in drawn worlds, and prints a line; returns how many ends are wrong."""
    autoencoder, drawn = home / "vae" / WEIGHTS, random.Random(f"worlds {seed}")
    out, said = home / "out" / "worlds", home / "out" / "worlds.txt"
    config = write_config(
        home / "worlds.py", transformer_run(out, autoencoder, steps=8, save_every=1, show_every=8)
    )

    def words(world: tuple[str, str, int]) -> list[str]:
        sharing, packs, _ = world
        return ["train", str(config), *SHARINGS[sharing][0].split(), *PACKS[packs].split()]

    # Each world is left alone once: of few kills it is one process, and as many others as there are kills.
    some = WORLDS if kills >= len(WORLDS) else [WORLDS[0], *drawn.sample(WORLDS[1:], kills)]
    whole, seconds = {}, {}
    for world in some:
        shutil.rmtree(out, ignore_errors=True)
        began = time.monotonic()
        statuses = run_world(words(world), said, world[-1])
        assert not any(statuses), f"{statuses} in {world}: {said.read_text()[-3000:]}"
        whole[world], seconds[world] = ends(out), time.monotonic() - began
    first = whole[WORLDS[0]]
    undisturbed = [distance(end, first) for end in whole.values()]
    least = f"undisturbed by {max(a for a, _ in undisturbed):.1e} and {max(b for _, b in undisturbed):.1e}"
    print(f"worlds     {len(some)} of them, {least}", flush=True)
    done, runs, failed, furthest = 0, 0, 0, [0.0, 0.0]
    while done < kills:
        shutil.rmtree(out, ignore_errors=True)
        said.unlink(missing_ok=True)
        stays = drawn.choice(some) if drawn.random() < 0.3 else None
        history = []
        for left in range(drawn.randint(1, 4), -1, -1):
            world = stays or drawn.choice(some)
            number = drawn.choice((signal.SIGKILL, signal.SIGTERM)) if left else 0
            after = drawn.uniform(0, seconds[world])
            statuses = run_world(words(world), said, world[-1], number, after)
            history.append(str(world) + (f", {number.name} at {after:.2f} s" if number else ""))
            done += any(statuses)
            if not any(statuses):
                break
        found = ends(out) if not any(statuses) else {"losses": {}, "states": {}}
        apart = distance(found, first)
        wrong = apart[0] > 1e-6 or apart[1] > 1e-5 or bool([*out.rglob(".*")])
        if stays:
            same = whole[stays]
            wrong |= found["losses"] != same["losses"] or distance(found, same)[1] > 0
        furthest = [max(pair) for pair in zip(furthest, apart, strict=True)]
        runs, failed = runs + 1, failed + wrong
        if wrong:
            print(f"worlds, {'; '.join(history)}: {statuses}, apart by {apart}", flush=True)
            print(said.read_text()[-3000:], file=sys.stderr)
        print(f"{done} kills in {runs} runs, {failed} went wrong", file=sys.stderr, flush=True)
    apart = f"losses apart by {furthest[0]:.1e}, weights by {furthest[1]:.1e}"
    print(f"worlds     {done} kills in {runs} runs, {failed} went wrong, {apart}", flush=True)
    return failed


def orphans() -> list[str]:
    """The processes that a run left and that do not end by themselves."""
    end = time.monotonic() + ORPHANS
    while time.monotonic() < end:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        if not children:
            return []
        time.sleep(0.05)
    return children


def kill(words: list, out: Path, state: Callable, whole: dict, number: int, after: float) -> list[str]:
    """What was wrong with one kill and the same command given again, in words."""
    temporary, said, wrong = Path(tempfile.gettempdir()), out.with_suffix(".txt"), []
    for old in (out, temporary):
        shutil.rmtree(old, ignore_errors=True)
    temporary.mkdir()
    said.unlink(missing_ok=True)
    status, _ = run(words, said, number, after)
    if status not in (0, -number if number == signal.SIGKILL else 128 + number):
        wrong.append(f"status {status}")
    wrong += [f"process {number} lives on" for number in orphans()]
    left = [path.name for path in temporary.iterdir() if not path.name.startswith("torchinductor_")]
    wrong += [f"left in /tmp: {name}" for name in left if number != signal.SIGKILL]
    if number == signal.SIGKILL:
        said.unlink()  # processes that read ahead say there that theirs is gone
    again, _ = run(words, said)
    if again:
        return [*wrong, f"status {again} when given again"]
    now = state(out)
    other = sorted(name for name in now.keys() | whole.keys() if now.get(name) != whole.get(name))
    wrong += [f"{len(other)} other: {', '.join(other[:6])}"] if other else []
    wrong += [f"left over: {path.relative_to(out)}" for path in out.rglob(".*")]
    return wrong + (["a traceback"] if "Traceback" in said.read_text() else [])


def report(name: str, out: Path, words: list, state: Callable, kills: int, seed: int) -> int:
    """Kills one verb so many times and prints a line; returns how many went wrong."""
    said = out.with_suffix(".txt")
    _, first = run(words, said)
    whole = state(out)
    shutil.rmtree(out)
    status, seconds = run(words, said)
    assert status == 0 and state(out) == whole, f"{name} is not repeatable: {said.read_text()[-3000:]}"
    seconds, failed, drawn = max(first, seconds), 0, random.Random(f"{name} {seed}")
    for k in range(kills):
        number, after = SIGNALS[k % len(SIGNALS)], drawn.uniform(0, seconds)
        if wrong := kill(words, out, state, whole, number, after):
            failed += 1
            what = f"{name}, kill {k}, {signal.Signals(number).name} after {after:.3f} s"
            print(f"{what}: {'; '.join(wrong[:4])}", flush=True)
            print(said.read_text()[-2000:], file=sys.stderr)
    count = f"{kills} kills within {seconds:.1f} s, {failed} went wrong, {len(whole)} things compared"
    print(f"{name:10} {count}", flush=True)
    return failed


def main() -> None:
    """Kills and prints a line for each verb."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("verbs", nargs="*")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        # In a fork: threads that computing starts would be missing in later ones, so this process never does.
        made = multiprocessing.get_context("fork").Process(target=prepare, args=(home,))
        made.start()
        made.join()
        tempfile.tempdir = str(home / "tmp")
        (home / "tmp").mkdir()
        failed = 0
        (home / "out").mkdir()
        if not given.verbs or "worlds" in given.verbs:
            failed += worlds(home, given.kills, given.seed)
        for name, (make, state) in commands(home).items():
            if not given.verbs or name in given.verbs:
                out = home / "out" / name
                failed += report(name, out, make(out), state, given.kills, given.seed)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
