"""Files that appear whole or not at all, JSON, and their hashes."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` on a temporary neighbour of `path` and renames it: no half file has the final name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # safetensors would let nobody else read the file
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(text))


def write_json(path: Path, values: dict) -> None:
    """Writes a JSON file whole or not at all; the same values give the same bytes, whatever their order."""
    write_text(path, json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(file: Path) -> dict:
    """The object in a JSON file; raises ValueError naming the file where there is none."""
    try:
        values = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds {values!r}, which is no set of settings")
    return values


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turns what a damaged file or folder raises into a ValueError that names it."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{path}: {error} is missing") from None
    except (ValueError, TypeError, SafetensorError) as error:
        raise ValueError(f"{path}: {error}") from None


def check_writable(file: Path) -> None:
    """Raises ValueError or OSError where a file cannot be written, before what it is for is measured."""
    if file.is_dir():
        raise ValueError(f"{file} is a folder: give a file in it")
    write_text(file.with_name(f"{file.name}.part"), "")
    file.with_name(f"{file.name}.part").unlink()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, the name of a set of weights."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
