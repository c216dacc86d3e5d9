"""Files that appear whole or not at all, foreign files that are not trusted, JSON, and hashes."""

import hashlib
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TypeVar

from safetensors import SafetensorError

from configs.load import from_json, parse_json

Kind = TypeVar("Kind")
MOST_TEXT = 1 << 28  # bytes of a text: all are held in memory, and the longest of use has a tenth of that
MOST_WEIGHTS = 1 << 31  # bytes of a feature network's weights: CLIP, the largest, has 0.6 GB
DAMAGE = (  # what reading a file raises whose parts are of other types or ranges than they should be
    *(ValueError, TypeError, AttributeError, IndexError, ArithmeticError, RuntimeError, NotImplementedError),
    *(SafetensorError, zipfile.BadZipFile),
)


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


def read_json(file: Path, kind: type[Kind] = dict) -> Kind:
    """The object in a JSON file, of a dataclass or TypedDict as `from_json` checks it.

    Raises ValueError naming the file, and the field in it, where it holds another or is none.
    """
    return from_json(kind, parse_json(read_text(file), file), file)


def read_text(file: Path, most: int = MOST_TEXT) -> str:
    """The text of a file; raises ValueError for one that is no regular file, has no end, or is not UTF-8."""
    size = check_regular(file).stat().st_size
    if size > most:
        raise ValueError(f"{file} has {size:,} bytes, and at most {most:,} are read as text")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error.reason} at byte {error.start})") from None


def check_unfolded(file: Path) -> None:
    """Raises ValueError for an archive that unfolds to more bytes than weights that are read have."""
    if zipfile.is_zipfile(check_regular(file)):
        with naming(file), zipfile.ZipFile(file) as archive:
            size = sum(part.file_size for part in archive.infolist())
        if size > MOST_WEIGHTS:
            raise ValueError(f"{file} unfolds to {size:,} bytes, and at most {MOST_WEIGHTS:,} are read")


def check_regular(file: Path) -> Path:
    """The same path; raises ValueError where it is no regular file: a device or a pipe may have no end."""
    if not file.exists():
        raise ValueError(f"{file}: no such file")
    if not file.is_file():
        raise ValueError(f"{file} is no regular file")
    return file


def below(home: Path, name: str, pattern: str = "") -> Path:
    """The path of a name that a file in `home` gives.

    It must be relative and not lead out of `home`, and match the pattern, if there is one; else ValueError. A
    link in `home` that leads elsewhere is its owner's choice and is followed.
    """
    parts = PurePosixPath(name).parts
    leads_out = name.startswith("/") or "\\" in name or "\0" in name or ".." in parts or not parts
    if leads_out or (pattern and not re.fullmatch(pattern, name)):
        raise ValueError(f"{home} lists {name!r}, which is no name of a file in it")
    return home / name


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turns what a damaged file or folder raises into a ValueError that names it."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{path}: {error} is missing") from None
    except OSError:
        raise
    except DAMAGE as error:
        raise ValueError(f"{path}: {str(error) or type(error).__name__}") from None


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
