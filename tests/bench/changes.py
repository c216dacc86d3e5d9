"""Changes of sound files for the fuzzer: by structure, of what holds JSON, tables or tensors, or by bytes.

Each edits a file in place and returns what it did: the part, what was done to it, and its new value if any.
"""

import copy
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

DEEP = "[" * 100_000 + "]" * 100_000
FOREIGN = "\x1b[31mred\u202e" + "n" * 5000
VALUES = [
    None,
    True,
    -1,
    0,
    3,
    10**9,
    10**20,
    -(10**20),
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    FOREIGN,
]
VALUES += ["../secret", "/dev/zero", "\ud800", [], [None], [[1, [2, [3]]]], {}, {"a": {"b": 1}}, [10**9] * 3]


class Change(NamedTuple):
    """What was done to a part: a dotted path in JSON, `tensor NAME`, `column NAME`, `cell NAME`, `bytes`."""

    part: str
    what: str
    value: object = None


def bytes_file(file: Path, draw: random.Random, needed: dict) -> Change:
    """Changes a file's bytes."""
    return mutate_bytes(file, draw)


def mutate_bytes(file: Path, draw: random.Random) -> Change:
    """Cuts, flips, zeroes, lengthens or empties a file."""
    data, how = (
        bytearray(file.read_bytes()),
        draw.choice(["cut", "flipped", "zeros", "empty", "longer", "text"]),
    )
    if how == "cut":
        data = data[: draw.randrange(max(1, len(data) * 9 // 10))]
    elif how == "flipped":
        for _ in range(draw.choice([1, 8, 200])):
            data[draw.randrange(min(len(data), draw.choice([64, 4096, len(data)])))] ^= 1 << draw.randrange(8)
    elif how == "zeros":
        first = draw.randrange(len(data)) if draw.random() < 0.5 else 0
        data[first:] = bytes(len(data) - first)
        how = how if first else "all zeros"
    elif how == "empty":
        data = b""
    elif how == "longer":
        data += data[: draw.randrange(1, 1 + len(data))]
    else:
        data = draw.choice(
            [b"version https://git-lfs.github.com/spec/v1\n", b"<html>404</html>", b"\xff\xfe\0\0"]
        )
    file.write_bytes(data)
    return Change("bytes", how)


def places(values, path: tuple = ()) -> Iterator[tuple]:
    """The paths of all values inside a JSON value."""
    if path:
        yield path
    for key, value in (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    ):
        yield from places(value, (*path, key))


def mutate_json(
    values, draw: random.Random, needed: dict | None = None, root: str = "all"
) -> tuple[str, Change]:
    """A JSON text with one part changed, and what was done; `root` begins the names of what is not a file.

    Sometimes its first part has brackets of 10^5 levels, or is a number of 10^5 digits.
    """
    values = copy.deepcopy(values)
    if not values or draw.random() < 0.05:
        whole = draw.choice([*VALUES, [values]])
        return json.dumps(whole), Change(root, "value", whole)
    if draw.random() < 0.04:
        odd = draw.choice([DEEP, "9" * 100_000])
        return json.dumps(values).replace(":", ":" + odd + ',"z":', 1), Change(root, "no JSON")

    def name_of(path: tuple) -> str:
        return ".".join(map(str, path if root == "all" else (root, *path)))

    known = list(places(values))
    if needed and draw.random() < 0.6:
        known = [path for path in known if name_of(path) in needed] or known
    path = draw.choice(known)
    home = values
    for key in path[:-1]:
        home = home[key]
    key, done = path[-1], Change(name_of(path), "missing")
    how = draw.choice(["value"] * 6 + ["missing", "renamed", "nested"])
    if how == "missing":
        del home[key]
    elif how == "renamed" and isinstance(home, dict):
        home[draw.choice([f"{key}x", FOREIGN, ""])] = home.pop(key)
    else:
        nested = [home[key]] if draw.random() < 0.5 else {"a": home[key]}
        home[key] = nested if how == "nested" else draw.choice(VALUES)
        done = done._replace(what="value", value=home[key])
    return json.dumps(values), done


def json_file(file: Path, draw: random.Random, needed: dict) -> Change:
    """Changes a JSON file by structure, else its bytes."""
    if draw.random() < 0.2:
        return mutate_bytes(file, draw)
    text, change = mutate_json(json.loads(file.read_text()), draw, needed)
    file.write_text(text, encoding="utf-8", errors="replace")
    return change


def log_file(file: Path, draw: random.Random, needed: dict) -> Change:
    """Changes a line of a log."""
    lines = file.read_text().splitlines()
    if draw.random() < 0.3:
        return mutate_bytes(file, draw)
    k = draw.randrange(len(lines))
    lines[k], change = mutate_json(json.loads(lines[k]), draw, needed)
    file.write_text("\n".join(lines) + "\n", errors="replace")
    return change


def weights_file(file: Path, draw: random.Random, needed: dict) -> Change:
    """Changes a safetensors file: its header's texts, its tensors, or its bytes."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    how = draw.choice(["bytes", "header", "header", "header", "tensors"])
    if how == "bytes":
        return mutate_bytes(file, draw)
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    with safe_open(file, "pt") as opened:
        header = dict(opened.metadata() or {})
    if how == "header" and header:
        part = draw.choice(list(header))
        if draw.random() < 0.15:
            header[part] = draw.choice(["", "x", "{", DEEP, "null", "[]", "9" * 100_000, FOREIGN])
            done = Change(part, "no JSON", header[part][:40])
        elif draw.random() < 0.1 or header[part][:1] != "{":
            done = Change(part, "missing", header.pop(part))
        else:
            header[part], done = mutate_json(json.loads(header[part]), draw, needed, part)
    else:
        name = draw.choice(list(tensors))
        tensor, what = (
            tensors[name],
            draw.choice(["missing", "renamed", "integers", "transposed", "empty", "wider"]),
        )
        del tensors[name]
        new = {
            "renamed": {name + "x": tensor},
            "integers": {name: tensor.to(torch.int64)},
            "transposed": {name: tensor.transpose(0, -1).contiguous() if tensor.ndim else tensor[None]},
            "empty": {name: tensor.new_zeros(0)},
            "wider": {name: torch.cat([tensor, tensor]) if tensor.ndim else tensor[None, None]},
        }
        tensors |= new.get(what, {})
        if name in tensors and what != "integers" and tensors[name].shape == tensor.shape:
            what = "of its own shape"
        done = Change(f"tensor {name}", what)
    save_file(tensors, file, {key: value.encode(errors="replace").decode() for key, value in header.items()})
    return done


def parquet_file(file: Path, draw: random.Random, needed: dict) -> Change:
    """Changes a parquet file: its metadata, a column, a cell, or its bytes."""
    import pyarrow
    import pyarrow.parquet

    how = draw.choice(["bytes", "about", "column", "cell", "cell", "cell"])
    if how == "bytes":
        return mutate_bytes(file, draw)
    table = pyarrow.parquet.read_table(file)
    about = dict(table.schema.metadata or {})
    name = draw.choice(table.column_names)
    k = table.column_names.index(name)
    if how == "about" and (marks := [key for key in about if about[key][:1] == b"{"]):
        text, done = mutate_json(json.loads(about[marks[0]]), draw, needed, "metadata")
        table = table.replace_schema_metadata(about | {marks[0]: text})
    elif how == "column":
        what = draw.choice(["missing", "renamed", "numbers", "texts", "twice"])
        if what == "missing":
            table = table.remove_column(k)
        elif what == "renamed":
            table = table.rename_columns([n + "x" if n == name else n for n in table.column_names])
        elif what == "twice":
            table = table.append_column(name, table[name])
        else:
            values = pyarrow.array([7.5 if what == "numbers" else "x"] * len(table))
            what = what if values.type == table[name].type else "of another type"
            table = table.set_column(k, name, values)
        done = Change(f"column {name}", what)
    else:
        values = table[name].to_pylist()
        others = [None, *CELLS.get(str(table[name].type), [[], [None], [["x"]], [-1], [10**12]])]
        row = draw.randrange(len(values))
        values[row] = value = draw.choice([other for other in others if other != values[row]])
        what = "null" if value in (None, [None]) else "outside" if value in OUTSIDE else "value"
        try:
            table = table.set_column(k, name, pyarrow.array(values, table[name].type))
        except (pyarrow.ArrowException, TypeError, OverflowError, UnicodeEncodeError):
            table, what = table.set_column(k, name, pyarrow.nulls(len(table), table[name].type)), "null"
        done = Change(f"cell {name}", what, value)
    pyarrow.parquet.write_table(table, file)
    return done


OUTSIDE = [
    "",
    "../secret",
    "/dev/zero",
    "/etc/passwd",
    "..",
    "a/../../b.mp4",
    "x\0y",
]  # no name of a file in it
CELLS = {
    "string": [*OUTSIDE, FOREIGN],
    "int64": [-1, 0, 10**12, 2**62],
    "double": [-1.0, 0.0, 1e308, float("nan"), float("inf")],
    "binary": [b"", b"abc", b"\0" * 1000],
}


def record_file(file: Path, draw: random.Random, needed: dict) -> Change:
    """Changes the record in an mp4 or mkv, else the file's bytes."""
    from vae.data.write import ffmpeg, read_metadata

    if draw.random() < 0.25:
        return mutate_bytes(file, draw)
    text, change = mutate_json(read_metadata(file), draw, needed)
    comment = re.sub(r"([=;#\\\n])", r"\\\1", text)
    tags, new = file.with_name("tags.txt"), file.with_name(f"new{file.suffix}")
    tags.write_text(f";FFMETADATA1\ncomment={comment}\n", errors="replace")
    arguments = ["-v", "error", "-y", "-i", str(file), "-f", "ffmetadata", "-i", str(tags), "-map", "0:v"]
    ffmpeg([*arguments, "-map_metadata", "1", "-c", "copy", str(new)])
    new.replace(file)
    tags.unlink()
    return change


def table_file(file: Path, draw: random.Random, needed: dict) -> Change:
    """Changes a table of captions, a list or a file of prompts by lines and cells, or its bytes."""
    if draw.random() < 0.4:
        return mutate_bytes(file, draw)
    lines = file.read_text().splitlines()
    k = draw.randrange(len(lines))
    line, how = lines[k], draw.choice(["quote", "cell", "control", "long", "null", "json"])
    lines[k] = {
        "quote": '"' + line,
        "cell": line + ',more,"and more"',
        "control": "\x1b[2J\u202e" + line,
        "long": line + "n" * 300_000,
        "null": line + "\0",
        "json": '{"path": null, "caption": [' + "[" * 5000,
    }[how]
    file.write_text("\n".join(lines) + "\n")
    return Change("line", how)


CONFIGS = [  # lines that end a config file
    "a = []; a.append(a)\nimport dataclasses\nconfig = dataclasses.replace(config, prompts=a)",
    "config = 3",
    "del config",
    "import sys; sys.exit(0)",
    "1 / 0",
    "raise SystemExit",
    "config.out = 1",
    "def f(): f()\nf()",
    "config = TransformerRun",
    "import nothing_of_that_name",
    "(" * 500,
    "import dataclasses\nconfig = dataclasses.replace(config, model=None)",
    "x = 9 ** 9 ** 2\nprint(x)",
]


def config_file(file: Path, draw: random.Random, needed: dict) -> Change:
    """Changes a setting of a config file, or replaces what it sets."""
    text = file.read_text()
    if draw.random() < 0.3:
        line = draw.choice(CONFIGS)
        file.write_text(f"{text}\n{line}\n")
        return Change("line", line)
    numbers = list(re.finditer(r"=(\d[\d.e-]*|'[^']*'|True|False)", text))
    spot = draw.choice(numbers)
    value = repr(draw.choice(VALUES)).replace("nan", "float('nan')").replace("inf", "float('inf')")
    file.write_text(text[: spot.start(1)] + value + text[spot.end(1) :], errors="replace")
    return Change(text[spot.start(1) - 20 : spot.start(1)], "value", value)


WORDS = [
    "",
    "-1",
    "0",
    "1e308",
    "nan",
    "inf",
    "1e9",
    "1" + "0" * 20,
    "x" * 5000,
    "../secret",
    "/dev/zero",
    "/",
    "\x1b[31m",
]
WORDS += ["--", "--nonsense", "-h", "None", "[]", "/dev/full", "/proc/self/mem", "a\0b"]
LINES = [
    "sample {} --model run --frames 5 --height 32 --width 32 --steps 1 --guidance 1 --fps 8 --out out",
    "sample p --model {} --out out",
    "sample p --model run --out {}",
    "sample --prompts-file {} --model run --out out",
    "sample p --model run --image {} --out out",
    "sample --again {} --model run --out out/x.mp4",
    "train small --out {}",
    "train {} --out out",
    "train {} --print",
    "vae train tiny_autoencoder --print --crop {}",
    "train small --print --model.depth {}",
    "train small --print --data.workers {}",
    "train small --print --data.fps {}",
    "train small --print --flow.shift {}",
    "train small --print --train.batch {}",
    "train small --print --data.size {}",
    "vae stats {} --data videos",
    "vae encode {} --out out",
    "vae compare vae.safetensors --data {}",
    "data index {}",
    "data index videos --out {}",
    "data ucf101 videos --lists {}",
    "data msrvtt {}",
    "data check {}",
    "eval compare score.json {}",
    "eval protocols {}",
    "eval clipsim --videos {} --smoke --allow-small --workers 0",
    "eval fvd --real {} --fake videos --protocol fvd-videogpt --smoke --allow-small --workers 0",
    "eval weights --i3d {}",
    "export {} --out out",
    "export run --out {}",
    "export run --out out --format {}",
    "bench --batch {}",
    "{} x",
    "sample p --model run --decode-memory {} --steps 1 --frames 5 --height 32 --width 32 --out out",
]


def command_line(words: list[str], draw: random.Random) -> list[str]:
    """A command line, one of whose words is odd."""
    bad = draw.choice(WORDS)
    if len(words) > 3 and words[0] == "sample" and "--fps" in words:
        options = [k + 1 for k, word in enumerate(words[:-2]) if word.startswith("--") and k > 3]
        k = draw.choice(options)
        return [bad if i == k else "p" if word == "{}" else word for i, word in enumerate(words)]
    return [bad if word == "{}" else word for word in words]
