"""A fuzzer of every reader of foreign files: no traceback, no hang, nothing left over, no nonsense taken.

    python -m tests.bench.fuzz --count 3000 --seed 0     # ends with 1 where a count is not 0
    python -m tests.bench.fuzz --only 1234               # one input again, with its traceback

Each number is an input: a sound small one, of which one part is changed by structure (another type, null,
nested, huge, missing, renamed, twice) or by bytes (cut, flipped, zeros, empty), and the verb that reads it.
"""

import argparse
import contextlib
import io
import itertools
import json
import math
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from PIL import Image

from tests.bench.changes import (
    LINES,
    Change,
    bytes_file,
    command_line,
    config_file,
    json_file,
    log_file,
    parquet_file,
    record_file,
    table_file,
    weights_file,
)

LIMIT = 60  # seconds for an input
MEMORY = 24 << 30  # bytes of address space: what allocates without bounds ends in a MemoryError
HALF_WRITTEN = re.compile(r"\..*\.tmp|.*\.part")


@dataclass(frozen=True)
class Target:
    """An input: its file below the sound folder, how it is changed, the verb, and what must be refused.

    `needed` has for patterns of a change's part the types that its value may have, where other values, and
    none, must be refused; or a set of the changes of it that must be. The first pattern that fits counts.
    """

    file: str
    change: Callable[[Path, random.Random, dict], Change]
    verb: tuple[str, ...]
    needed: dict[str, tuple[type, ...] | frozenset[str]]


class Hang(BaseException):
    """An input took longer than the limit."""


# What each reader reads, and what of it must be refused.

CUT = {"bytes": frozenset({"cut", "empty", "all zeros", "text"})}
MEDIA = {"bytes": CUT["bytes"] - {"cut"}}  # what is read of it may lie before the cut
NOTHING = ()  # no other value is taken, whatever its type
RECORD = {name: (str,) for name in ("weights", "frames_sha256", "torch")}
RECORD |= CUT | {
    "all": NOTHING,
    "sample": (dict,),
    "sampler": (dict,),
    "model": (dict,),
    "sample.steps": (int,),
    "model.flow": (dict,),
}
SCORE = {"metric": (str,), "value": (int, float), "protocol": (dict,), "stamps": (list,), "weights": (str,)}
SCORE |= CUT | {"all": NOTHING}
SEVERAL = SCORE | {"value": NOTHING, "scores": (dict,), "intervals": (dict,), "scores.*": (int, float)}
PAIRED = CUT | {"all": NOTHING, "metric": (str,), "scores": (dict,), "each": (list,), "each.0.video": (str,)}
PAIRED |= {
    "fvd": (dict, type(None)),
    "real": (dict,),
    "made_with": (dict,),
    "scores.*": (int, float, type(None)),
}
VOTE = CUT | {name: NOTHING for name in ("all", "page", "pair", "left", "right", "choice")}
VOTE |= {"voter": (str,), "number": (int,), "again": (bool,), "reasons": (list,), "text": (str,)}
VOTE |= {"seconds": (int, float), "at": (str,)}
KEY = CUT | {"all": NOTHING, "page": NOTHING, "models": (list,), "models.*": (str,)}
KEY |= {name: NOTHING for name in ("protocol", "protocol.question", "protocol.reasons", "protocol_sha256")}
KEY |= {"videos.*.model": (int,), "videos.*.frames": (int,), "videos.*.fps": (int, float)}
KEY |= {"pairs.*.prompt": (str,), "pairs.*.videos": (list,), "videos": (dict,), "pairs": (dict,)}
ROW = {"bytes": CUT["bytes"] - {"cut", "empty"}, "all": NOTHING, "step": (int,), "weights": (str,)}
ROW |= {"numbers": (dict,), "numbers.*.value": (int, float), "stamps": (list,), "scored": (dict,)}
ROW |= {"asked": (dict,), "asked.count": NOTHING}
TRANSFORMER = {
    f: (int,)
    for f in ("num_attention_heads", "attention_head_dim", "in_channels", "num_layers", "ffn_dim", "text_dim")
}
TRANSFORMER |= CUT | {"all": NOTHING}
VAE = {f: (int,) for f in ("base_dim", "z_dim", "num_res_blocks")}
VAE |= {f: (list,) for f in ("dim_mult", "temperal_downsample", "latents_mean", "latents_std")}
VAE |= CUT | {"all": NOTHING}
OURS = {"text": (dict,), "flow": (dict,), "sampler": (dict,), "size": (list,), "fps": (int, float)}
OURS |= CUT | {"all": NOTHING}
SHAPES = {"tensor *": frozenset({"missing", "renamed", "transposed", "empty", "wider"})}
TENSORS = CUT | {"tensor *": SHAPES["tensor *"] | {"integers"}}
HEADER = {"kind": NOTHING, "settings": (dict,), "facts": (dict,)}
WEIGHTS = TENSORS | HEADER | {"settings.model": (dict,)}
MODEL = WEIGHTS | {f"settings.{part}": (dict,) for part in ("text", "sampler", "flow", "data")}
STATE = TENSORS | HEADER | {"facts.step": (int,), "facts.smoothed": (int, float, type(None))}
FEATURES = CUT | SHAPES | HEADER | {"settings.protocol": (dict,), "settings.weights": (str,)}
FEATURES |= {"facts.names": (list,), "facts.side": (dict,)}
ROWS = TENSORS | HEADER | {"settings.autoencoder": (str,), "settings.dtype": (str,), "facts.rows": (dict,)}
ROWS |= {"bytes": CUT["bytes"] | {"flipped"}, "settings.compression": (list,), "facts.sha256": (str,)}
ROWS |= {"facts.crc32": (dict,)}
TABLE = CUT | {"column *": frozenset({"missing", "renamed", "of another type", "twice"})}
MANIFEST = TABLE | {"cell path": frozenset({"null", "outside"}), "cell reader": NOTHING}
MANIFEST |= {f"cell {name}": NOTHING for name in ("frames", "fps", "height", "width", "checksums")}
MANIFEST |= {"cell *": frozenset({"null"})}
INDEXED = TABLE | {f"cell {part}_{what}": NOTHING for part in ("clip",) for what in ("shard", "offset")}
INDEXED |= {"cell clip_shape": NOTHING, "cell clip_crc32": NOTHING, "cell *": frozenset({"null"})}
INDEXED |= {"metadata": (), "metadata.format": NOTHING, "metadata.shards": (dict,)}
INDEXED |= {"metadata.provenance": (dict,), "metadata.provenance.data": (dict,)}
INDEXED |= {
    f"metadata.provenance.{name}": (str,) for name in ("autoencoder", "autoencoder_files", "name", "dtype")
}
INDEXED |= {f"metadata.provenance.data.{name}": (int,) for name in ("frames", "size", "clips_per_file")}
SIZE = ["--frames", "5", "--height", "32", "--width", "32", "--steps", "1", "--out"]
SAMPLE = ("sample", "p", *SIZE, "out", "--model")
PAIRS = ("eval", "reconstruction", "--real", "frames", "--fake", "frames", "--lpips", "none")
OUT = ("--out", "out/m.parquet")
INDEX, LONGER = ("data", "index", "videos", *OUT), ("train", "run.py", "--train.steps", "3")
AGAIN = ("sample", "--model", "run", "--again")
FVD = ("--workers", "0", "--protocol", "fvd-videogpt", "--smoke", "--allow-small", "--resamples", "0")
CLIPSIM = ("eval", "clipsim", "--videos", "videos", "--workers", "0", "--smoke", "--allow-small")
SIDES = ("eval", "fvd", "--real", "real.safetensors", "--fake", "real.safetensors", *FVD)
MMD = ("eval", "mmd", "--protocol", "kvd-tats", *FVD[:2], *FVD[4:])
KVD = (*MMD, "--real", "kernel.safetensors", "--fake", "kernel.safetensors")
PAGE = ("--out", "out/page.html")
ARENA = ("eval", "arena", "models/a", "models/b", *PAGE)
COUNT = ("eval", "arena", "--key", "page.key.json", "--resamples", "9", "--count")
CURVE = ("eval", "run", "ucf101-class", "--every", "run", "--no-wait", "--metrics", "dimensions", "--out")
CURVE = (*CURVE, "curve", "--count", "2", "--steps", "1", "--workers", "0")
SCORES = {"score": SCORE, "mmd": SCORE, "clipsim": SCORE, "dimensions": SEVERAL, "pairs": PAIRED}
TARGETS = [
    Target("run/run.json", json_file, ("train", "run.py"), {}),  # checkpoints have it too
    Target("run/log.jsonl", log_file, LONGER, {}),
    Target("run/step-00000002/model.safetensors", weights_file, LONGER, STATE),
    Target("run/step-00000002/optimizer.safetensors", weights_file, LONGER, STATE),
    Target("run/transformer.safetensors", weights_file, (*SAMPLE, "run"), MODEL),
    Target("run/autoencoder.safetensors", weights_file, (*SAMPLE, "run"), WEIGHTS),
    Target("vae.safetensors", weights_file, ("export", "vae.safetensors", "--out", "out"), WEIGHTS),
    Target("pipe/model_index.json", json_file, (*SAMPLE, "pipe"), CUT),
    Target("pipe/dit.json", json_file, (*SAMPLE, "pipe"), OURS),
    Target("pipe/transformer/config.json", json_file, (*SAMPLE, "pipe"), TRANSFORMER),
    Target("pipe/transformer/diffusion_pytorch_model.safetensors", weights_file, (*SAMPLE, "pipe"), TENSORS),
    Target("pipe/vae/diffusion_pytorch_model.safetensors", weights_file, (*SAMPLE, "pipe"), TENSORS),
    Target("pipe/vae/config.json", json_file, (*SAMPLE, "pipe"), VAE),
    Target("pipe/scheduler/scheduler_config.json", json_file, (*SAMPLE, "pipe"), CUT),
    Target("pipe/text_encoder/config.json", json_file, (*SAMPLE, "pipe"), CUT),
    Target("pipe/tokenizer/tokenizer_config.json", json_file, (*SAMPLE, "pipe"), {}),
    Target("cache/index.parquet", parquet_file, ("train", "cached.py"), INDEXED),
    Target("cache/index.parquet", parquet_file, ("data", "check", "cache"), INDEXED),
    Target("cache/latents-*.safetensors", weights_file, ("data", "check", "cache"), ROWS),
    Target("videos/manifest.parquet", parquet_file, ("train", "files.py"), MANIFEST),
    Target("videos/manifest.parquet", parquet_file, CLIPSIM, MANIFEST),
    Target("video.mp4", record_file, (*AGAIN, "video.mp4", "--out", "out/x.mp4"), RECORD | MEDIA),
    Target("made.json", json_file, (*AGAIN, "made.gif", "--out", "out/x.gif"), RECORD),
    Target("score.json", json_file, ("eval", "compare", "score.json", "other.json"), SCORE),
    Target("real.safetensors", weights_file, SIDES, FEATURES),
    Target("videos/captions.csv", table_file, INDEX, {}),
    Target("prompts.txt", table_file, ("sample", "--prompts-file", "prompts.txt", *SAMPLE[2:], "run"), {}),
    Target("msrvtt/test_videodatainfo.json", json_file, ("data", "msrvtt", "msrvtt", *OUT), CUT),
    Target("lists/trainlist01.txt", table_file, ("data", "ucf101", "ucf", "--lists", "lists", *OUT), {}),
    Target("videos/a.mp4", bytes_file, INDEX, {}),
    Target("videos/still.png", bytes_file, INDEX, {}),
    Target("first.png", bytes_file, (*SAMPLE, "run", "--image", "first.png"), MEDIA),
    Target("frames/one/0001.png", bytes_file, PAIRS, {}),
    Target("run.py", config_file, ("train", "run.py", "--print"), {}),
    Target("exact.mkv", record_file, (*AGAIN, "exact.mkv", "--out", "out/x.mkv"), RECORD | MEDIA),
    Target("models/a/0.mkv", record_file, ARENA, {}),
    Target("models/b/0.json", json_file, ARENA, {}),
    Target("vote.jsonl", log_file, (*COUNT, "vote.jsonl"), VOTE),
    Target("votes.jsonl", log_file, (*COUNT, "votes.jsonl"), {}),
    Target("page.key.json", json_file, (*COUNT, "votes.jsonl"), KEY),
    Target("kernel.safetensors", weights_file, KVD, FEATURES),
    Target("curve/every.jsonl", log_file, CURVE, ROW),
    *(
        Target(f"{name}.json", json_file, ("eval", verb, *files, *more), needed)
        for name, needed in SCORES.items()
        for verb, files, more in (
            ("compare", [f"{name}.json"] * 2, ["--published"]),
            ("report", [f"{name}.json", "score.json"], ["--videos", "videos", "videos", *PAGE]),
        )
    ),
]  # fmt: skip


def make_sound(folder: Path) -> None:
    """Makes the sound inputs: two models, videos, a manifest, a cache, a record, scores and features."""
    from contextlib import chdir

    from configs.load import to_json
    from tests.tiny import autoencoder_run, transformer_run, write_config
    from vae.data.write import write_video
    from vae.model import Autoencoder
    from vae.training.weights import save_weights

    torch.manual_seed(0)
    with chdir(folder):
        config = autoencoder_run(Path("vae")).model
        autoencoder = Autoencoder(config)
        save_weights(
            Path("vae.safetensors"), autoencoder.state_dict(), "autoencoder", {"model": to_json(config)}
        )
        Path("videos").mkdir()
        Path("ucf").mkdir()
        Path("lists").mkdir()
        Path("msrvtt").mkdir()
        Path("frames/one").mkdir(parents=True)
        for name in ("videos/a", "videos/b", "msrvtt/video7010", "ucf/v_Archery_g01_c01"):
            end = ".avi" if name.startswith("ucf") else ".mp4"
            write_video(f"{name}.mp4", torch.rand(3, 17, 32, 32) * 2 - 1, 8.0, {"prompt": "p"})
            Path(f"{name}.mp4").rename(f"{name}{end}")
        for file in ("videos/still.png", "first.png", *(f"frames/one/{k:04d}.png" for k in range(3))):
            Image.new("RGB", (32, 32), (9, 99, 199)).save(file)
        Path("videos/captions.csv").write_text('path,caption\na.mp4,"a cat, sitting"\nb.mp4,a dog\n')
        Path("prompts.txt").write_text("a cat\na dog\n")
        Path("lists/classInd.txt").write_text("1 Archery\n")
        Path("lists/trainlist01.txt").write_text("Archery/v_Archery_g01_c01.avi 1\n")
        Path("lists/testlist01.txt").write_text("Archery/v_Archery_g02_c01.avi\n")
        about = {"video_id": "video7010", "split": "test"}
        rows = [{"video_id": "video7010", "sen_id": k, "caption": "a cat"} for k in range(20)]
        Path("msrvtt/test_videodatainfo.json").write_text(json.dumps({"videos": [about], "sentences": rows}))
        run = transformer_run(Path("run"), "vae.safetensors", steps=2, show_every=100, save_every=2)
        write_config(Path("run.py"), run)
        small = (
            "--data.frames",
            "5",
            "--data.size",
            "32",
            "--data.clips-per-file",
            "1",
            "--data.workers",
            "0",
        )
        write_config(
            Path("files.py"), transformer_run(Path("out"), "vae.safetensors", "videos", steps=1, batch=1)
        )
        write_config(
            Path("cached.py"), transformer_run(Path("out"), "vae.safetensors", "cache", steps=1, batch=1)
        )
        for name, k in itertools.product("ab", range(2)):
            record = {"prompt": f"p{k}", "seed": k}
            write_video(f"models/{name}/{k}.mkv", torch.rand(3, 2, 16, 16) * 2 - 1, 8.0, record)
        Path("models/b/0.json").write_text(json.dumps({"prompt": "p0", "seed": 0}))
        again = ("--model", "run", *SIZE)
        kept = ("--json", "score.json", "--save-real", "real.safetensors")
        kernel, pairs = ("--save-real", "kernel.safetensors"), ("--workers", "0", "--json", "pairs.json")
        for words in (
            ("train", "run.py"),
            ("data", "index", "videos"),
            ("vae", "encode", "videos", "--out", "cache", "--autoencoder", "vae.safetensors", *small),
            ("export", "run", "--out", "pipe"),
            ("sample", "p", *again, "video.mp4"),
            ("sample", "p", *again, "made.gif"),
            ("sample", "p", *again, "exact.mkv"),
            ("eval", "fvd", "--real", "videos", "--fake", "videos", *FVD, *kept),
            (*MMD, "--real", "videos", "--fake", "videos", "--json", "mmd.json", *kernel),
            (*CLIPSIM, "--prompts", "videos/captions.csv", "--json", "clipsim.json", *FVD[-2:]),
            ("eval", "dimensions", "--videos", "videos", *FVD[:2], *FVD[4:], "--json", "dimensions.json"),
            ("eval", "reconstruction", "--real", "videos", "--fake", "videos", *PAIRS[-2:], *pairs),
            (*ARENA[:-1], "page.html"),
            CURVE,
        ):
            status, text = call(list(words), 600)
            assert status == 0, f"{' '.join(words)}\n{text}"
        shutil.copy("score.json", "other.json")
        votes = list(map(json.dumps, votes_of(json.loads(Path("page.key.json").read_text()))))
        Path("votes.jsonl").write_text("\n".join(votes) + "\n")
        Path("vote.jsonl").write_text(votes[0] + "\n")


def votes_of(key: dict) -> Iterator[dict]:
    """Votes of two voters on every pair of a page."""
    for voter, (number, (pair, asked)) in itertools.product("uv", enumerate(key["pairs"].items())):
        said = {"left": asked["videos"][0], "right": asked["videos"][1], "choice": "left", "again": False}
        about = {"page": key["page"], "voter": voter, "number": number, "pair": pair, "reasons": ["motion"]}
        yield about | said | {"text": "<b>", "seconds": 2.5, "at": "2026-01-01T00:00:00.000Z"}


def call(words: list[str], limit: int) -> tuple[int, str]:
    """A verb's exit status and all that it printed; raises what it raises, and Hang."""
    from accelerate.state import AcceleratorState

    from dit.cli import run

    def stop(*_) -> None:
        raise Hang

    AcceleratorState._reset_state(reset_partial_state=True)
    printed = io.StringIO()
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(limit)
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            try:
                status = run(words)
            except SystemExit as exit:
                status = exit.code or 0
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return status, printed.getvalue()


def try_one(number: int, sound: Path, limit: int = LIMIT) -> tuple[str, str, str]:
    """What was tried, what is wrong with the answer (nothing where nothing is), and what it was."""
    draw = random.Random(number)
    target = draw.choice([*TARGETS, None])
    with tempfile.TemporaryDirectory(dir=sound.parent) as home, contextlib.chdir(home):
        shutil.copytree(sound, home, dirs_exist_ok=True)
        if target is None:
            words = command_line(draw.choice(LINES).split(" "), draw)
            change = Change("command line", "")
        else:
            file = next(Path().glob(target.file))
            change, words = target.change(file, draw, target.needed), list(target.verb)
        how = f"{change.part} {change.what} {change.value!r}"[:200]
        tried = f"{target.file if target else ''} [{how}] dit {' '.join(words)}"
        before = {path for path in Path().rglob("*") if path.is_file()}
        try:
            status, text = call(words, limit)
        except Hang:
            return tried, "hang", f"more than {limit} s"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            return tried, "traceback", "".join(traceback.format_exception(error))
        files = {path for path in Path().rglob("*") if path.is_file()}
        left = [path for path in files - before if HALF_WRITTEN.fullmatch(path.name)]
        if status and words[0] not in ("train", "vae") and "is written, but" not in text:
            left += [path for path in files - before if path.parts[0] == "out"]
        if left:
            return tried, "left over", ", ".join(map(str, left))
        if not status and target and must_refuse(target.needed, change):
            return tried, "nonsense accepted", text[-500:]
        lines = text.splitlines()
        if status and (not lines or len(lines[-1]) > 2000 or "\x1b[31m" in lines[-1]):
            return tried, "no sentence", text[-500:]
        return tried, "", text


def must_refuse(needed: dict, change: Change) -> bool:
    """Whether a change is one that no reader may take, by what a target needs."""
    rule = next((needed[pattern] for pattern in needed if fnmatchcase(change.part, pattern)), None)
    if rule is None:
        return False
    if isinstance(rule, frozenset):
        return change.what in rule
    finite = not isinstance(change.value, float) or math.isfinite(change.value)
    return change.what != "value" or type(change.value) not in rule or not finite


def main() -> None:
    """Tries so many inputs from a seed, or one, and prints what is wrong with each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=3000, help="inputs")
    parser.add_argument("--seed", type=int, default=0, help="number of the first input")
    parser.add_argument("--limit", type=int, default=LIMIT, help="seconds for an input")
    parser.add_argument("--only", type=int, help="one input again, by its number")
    settings = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    torch.set_num_threads(1)
    numbers = range(settings.seed, settings.seed + settings.count)
    numbers = [settings.only] if settings.only is not None else numbers
    counts, started = Counter(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "sound"
        sound.mkdir()
        make_sound(sound)
        for done, number in enumerate(numbers, 1):
            tried, wrong, text = try_one(number, sound, settings.limit)
            counts[wrong] += 1
            if wrong or settings.only is not None:
                print(f"{number}: {wrong or 'good'}: {tried[:300]!r}\n    {text.strip()[-3000:]}", flush=True)
            if done % 50 == 0:
                print(f"{done} inputs, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    kinds = ("traceback", "hang", "left over", "nonsense accepted", "no sentence")
    print(f"{len(numbers)} inputs: " + ", ".join(f"{counts[kind]} {kind}" for kind in kinds))
    sys.exit(any(counts[kind] for kind in kinds))


if __name__ == "__main__":
    main()
