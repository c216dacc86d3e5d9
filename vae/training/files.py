"""Files that appear whole or not at all, JSON, and their hashes."""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

TEMPORARY = re.compile(
    r"\.(?P<name>.+)\.\w{8}\.tmp"
)  # what `tempfile.mkdtemp` makes of our prefix and suffix
LOCK = ".lock"


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Gives a place for a new file or folder, and moves it to `path` at the end: nothing half has that name.

    The place is in a folder beside `path` that has a random name and is this process's alone while it is
    locked. A link is followed; a device or pipe is written to. Raises OSError naming `path`.
    """
    special = _is_special(path)
    target = path.resolve() if path.is_symlink() and not special else path
    with _naming_output(path), _temporary(None if special else target.parent, target.name) as folder:
        place = folder / target.name
        yield place
        if special:
            with open(place, "rb") as file, open(path, "ab") as device:
                shutil.copyfileobj(file, device)
            return
        for each in [*place.rglob("*"), place]:
            _sync(each)
        os.replace(place, target)
        _sync(target.parent)


def _is_special(path: Path) -> bool:
    """Whether a path is a device or a pipe, or stands for one, as /dev/stdout does whatever that is."""
    if path.parts[:2] in (("/", "dev"), ("/", "proc")) and path.parts[2:3] != ("shm",):
        return True
    return path.exists() and not path.is_file() and not path.is_dir()


@contextmanager
def _naming_output(path: Path) -> Iterator[None]:
    """Turns what failing to write raises, a full disk's SafetensorError too, into an OSError of `path`."""
    try:
        yield
    except SafetensorError as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        number = int(found[1]) if found else errno.EIO
        reason = os.strerror(number) if found else str(error)
    except OSError as error:
        temporary = any(TEMPORARY.fullmatch(part) for part in Path(error.filename or "").parts)
        if error.filename and not temporary and Path(error.filename) not in (path, *path.parents):
            raise  # of another file, which is read while this one is written
        number, reason = error.errno or errno.EIO, error.strerror or str(error)
        if number == errno.EEXIST:  # a file, where a folder is to be made
            number, reason = errno.ENOTDIR, os.strerror(errno.ENOTDIR)
    else:
        return
    raised = OSError(number, reason, str(path))
    raised.add_note("nothing half-written is left")
    raise raised from None


@contextmanager
def _temporary(home: Path | None, name: str) -> Iterator[Path]:
    """A new folder in `home` (or the system's folder for these) that is locked, and removed at the end."""
    from filelock import FileLock, Timeout

    if home:
        home.mkdir(parents=True, exist_ok=True)
        remove_stale(home, name)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".tmp", dir=home))
        with suppress(Timeout, FileNotFoundError):  # another removed it as stale before it was locked
            lock = FileLock(folder / LOCK, timeout=0).acquire()
            break
    try:
        with lock:
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # Windows removes no open file, and the lock is one


def remove_stale(home: Path, name: str = "") -> None:
    """Removes what kills left half-written in a folder, of one name or of all; a live writer's is locked."""
    from filelock import FileLock, Timeout

    for entry in os.scandir(home) if home.is_dir() else ():
        found = TEMPORARY.fullmatch(entry.name)
        if not found or (name and found["name"] != name) or not entry.is_dir(follow_symlinks=False):
            continue
        with suppress(Timeout, OSError):
            if (content := os.listdir(entry.path)) and LOCK not in content:
                continue  # a user's own
            with FileLock(Path(entry.path) / LOCK, timeout=0):
                shutil.rmtree(entry.path, ignore_errors=True)


def _sync(path: Path) -> None:
    """Has a file's bytes, or a folder's names, on the disk; on Windows folders need none."""
    if os.name == "nt" and path.is_dir():
        return
    number = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` on an empty file that then becomes `path`, whole or not at all."""
    with whole(path) as place:
        place.touch()
        mode = place.stat().st_mode
        write(place)
        place.chmod(mode)  # safetensors would let nobody else read the file


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
    """Raises ValueError or OSError where a file cannot be written, before what it is for is computed."""
    if file.is_dir():
        raise ValueError(f"{file} is a folder: give a file in it")
    if _is_special(file):
        if not os.access(file, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return
    home = (file.resolve() if file.is_symlink() else file).parent
    while not home.exists():  # made when it is written
        home = home.parent
    with _naming_output(file), _temporary(home, file.name):
        pass


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, the name of a set of weights."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
