"""Files that appear whole or not at all, foreign files that are not trusted, JSON, and hashes."""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TypeVar

from safetensors import SafetensorError

from configs.load import from_json, parse_json

Kind = TypeVar("Kind")
# What `tempfile.mkdtemp` makes of our prefix and suffix.
TEMPORARY = re.compile(r"\.(?P<name>.+)\.\w{8}\.tmp")
LARGE = 64 * 2**20  # bytes of a file whose hash is kept
LOCK = ".lock"
MOST_TEXT = 1 << 28  # bytes of a text: all are held in memory, and the longest of use has a tenth of that
MOST_WEIGHTS = 1 << 31  # bytes of a feature network's weights: CLIP, the largest, has 0.6 GB
DAMAGE = (  # what reading a file raises whose parts are of other types or ranges than they should be
    *(ValueError, TypeError, AttributeError, IndexError, ArithmeticError, RuntimeError, NotImplementedError),
    *(SafetensorError, zipfile.BadZipFile),
)


@contextmanager
def whole(path: Path, new: bool = False) -> Iterator[Path]:
    """Gives a place for a new file or folder, and moves it to `path` at the end: nothing half has that name.

    The place is in a folder beside `path` that has a random name and is this process's alone while it is
    locked. A link is followed; a device or pipe is written to. Raises OSError naming `path`, and ValueError
    where `new` is asked for and a file is there by then.
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
        (folder / ".mode").touch()
        mode = (folder / ".mode").stat().st_mode
        for each in [*place.rglob("*"), place]:
            if each.is_file():
                each.chmod(mode)  # safetensors would let nobody else read its files
            _sync(each)
        if new:
            _claim(target)
        os.replace(place, target)
        _sync(target.parent)


def _claim(path: Path) -> None:
    """Makes an empty file, of which two processes make but one; raises ValueError where it is there."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        raise ValueError(f"{path} is there by now, of another process: give another name") from None


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
    from filelock import Timeout

    if home:
        home.mkdir(parents=True, exist_ok=True)
        remove_stale(home, name)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".tmp", dir=home))
        with suppress(Timeout, FileNotFoundError):  # another removed it as stale before it was locked
            lock = acquired(folder / LOCK, 0)
            break
    try:
        with lock:
            try:
                yield folder
            finally:
                _remove_locked(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # Windows removes no open file, and the lock is one


def acquired(file: Path, timeout: float):
    """A lock that is held, where the file system has none by a file; raises filelock.Timeout."""
    from filelock import FileLock, SoftFileLock

    try:
        return FileLock(file, timeout=timeout).acquire()
    except OSError as error:
        if isinstance(error, TimeoutError) or error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        file.unlink(missing_ok=True)
        return SoftFileLock(file, timeout=timeout).acquire()


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
                _remove_locked(Path(entry.path))


def _remove_locked(folder: Path) -> None:
    """Removes a temporary folder, its lock at last: one without is a user's, if a kill comes in between."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK:
            path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    """Has a file's bytes, or a folder's names, on the disk; on Windows folders need none."""
    if os.name == "nt" and path.is_dir():
        return
    number = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_whole(path: Path, write: Callable[[Path], object], new: bool = False) -> None:
    """Calls `write` on an empty file that then becomes `path`, whole or not at all; `new` as in `whole`."""
    with whole(path, new) as place:
        place.touch()
        write(place)


def write_text(path: Path, text: str, new: bool = False) -> None:
    """Writes a text file whole or not at all; `new` as in `whole`."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), new)


def write_json(path: Path, values: dict, new: bool = False) -> None:
    """Writes a JSON file whole or not at all; the same values give the same bytes, whatever their order."""
    write_text(path, json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", new)


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
    leads_out = (
        name.startswith("/")
        or (os.name == "nt" and "\\" in name)
        or "\0" in name
        or ".." in parts
        or not parts
    )
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


def check_replaceable(file: Path, kind: str) -> None:
    """Raises ValueError for a file that is there and is none of this kind, an ending, that scoring writes."""
    begins = {".json": b"{", ".png": b"\x89PNG", ".html": b"<!", ".safetensors": b""}
    if not file.is_file() or not file.stat().st_size:
        return
    first = begins.get(kind)
    with open(file, "rb") as opened:
        ours = first is not None and opened.read(len(first)) == first
    if ours and first == b"{":
        with suppress(ValueError):
            parts = read_json(file).keys()
            ours = bool({"metric", "job"} & parts) or {"protocol", "scores"} <= parts  # a key has one alone
    if not ours:
        raise ValueError(f"{file} is there, and is not of the kind that is to be written: give another name")


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
    """SHA-256 of a file's bytes, the name of a set of weights.

    That of a large file is kept in the user's cache, under its place, size and times: whoever writes it, or
    moves another there, changes one of them.
    """
    about = os.stat(path)
    if about.st_size < LARGE:
        return _hash_of_bytes(path)
    key = f"{Path(path).resolve()} {about.st_size} {about.st_mtime_ns} {about.st_ctime_ns} {about.st_ino}"
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dit-lab" / "hashes"
    kept = home / hashlib.sha256(key.encode()).hexdigest()
    with suppress(OSError, UnicodeDecodeError):
        if re.fullmatch(r"[0-9a-f]{64}", text := kept.read_text()):
            return text
    found = _hash_of_bytes(path)
    with suppress(OSError):  # a home that cannot be written: it is computed again
        home.mkdir(parents=True, exist_ok=True)
        write_text(kept, found)
    return found


def _hash_of_bytes(path: Path) -> str:
    """SHA-256 of a file's bytes, all of them read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory is short: PyTorch's own, a GPU's, or that of processes that read."""
    signs = ("can't allocate memory", "out of memory", "bad_alloc", "is killed by signal: Killed")
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)
