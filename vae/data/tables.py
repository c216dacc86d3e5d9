"""Tables that others wrote, CSV, TSV, JSON and JSON lines: rows with named cells, and files that they name.

What is unambiguous is taken: separators, encodings that their first bytes tell, the usual names of columns, a
table of two columns without a header. All else is refused with file, line, what was found and what is wanted.
"""

import ast
import codecs
import csv
import io
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vae.data.images import IMAGES
from vae.data.video import VIDEOS
from vae.training.files import MOST_TEXT, check_regular

SEPARATED, OF_JSON = (".csv", ".tsv"), (".jsonl", ".ndjson", ".json")
TABLES = SEPARATED + OF_JSON
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
NEVER = "\x1f"  # separates nothing: a table of one column has no separator
BYTE_ORDER_MARKS = {  # the longer first: UTF-32's begins as UTF-16's
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Names of columns, spelled as `_plain` has them. The first that a table has are taken, and must be one.
FILES = (
    {"path"},
    {"file", "file_name", "filename", "file_path", "filepath", "video", "video_path", "video_file"}
    | {"video_name", "media", "media_path", "clip", "clip_path"},
    {"image", "image_path", "image_file", "video_id", "videoid", "id"},
)
CAPTIONS = (
    {"caption"},
    {"captions", "text", "texts", "prompt", "prompts", "description", "descriptions", "sentence", "cap"},
)
PROMPTS = ({"prompt"}, {"prompts", "text", "texts", "caption", "captions", "description", "sentence"})
NO_TEXT = {"", "null", "none", "nan", "n/a", "<na>", r"\n"}  # how programs write that there is nothing

Wanted = Mapping[str, tuple[set[str], ...]]


class OtherColumns(ValueError):
    """A table without the columns that are wanted."""


@dataclass(frozen=True)
class Row:
    """A row's place in its file, such as `line 3`; its cells by the names that are wanted, or their own."""

    place: str
    cells: dict[str, object]


def read_text(file: Path) -> str:
    """A text file in UTF-8, or in UTF-16 or UTF-32 with a byte-order mark; raises ValueError for any other.

    Which of the many other encodings it is, its bytes do not tell.
    """
    if (size := check_regular(file).stat().st_size) > MOST_TEXT:
        raise ValueError(f"{file} has {size:,} bytes, and at most {MOST_TEXT:,} are read as text")
    data = file.read_bytes()
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{file}, line {line}, is not {encoding.removesuffix('-sig').upper()} ({error.reason}): "
            f"save the file as UTF-8"
        ) from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ValueError(f"{file}, line {line}, holds a zero byte: save the file as UTF-8 text")
    return text


def lines_of(text: str) -> list[str]:
    """A text's lines as editors count them; other marks that Unicode calls line separators are spaces."""
    return re.split(r"\r\n|\r|\n", text)


def read_table(file: Path, wanted: Wanted) -> list[Row]:
    """The rows of a table, each with the cells that are wanted, under those names, and all others.

    Raises OtherColumns where it has not all of these columns, and ValueError for a row that is broken.
    """
    text = read_text(file)
    if file.suffix.lower() in OF_JSON:
        return _named(file, _json_rows(file, text), wanted)
    return _separated_rows(file, text, wanted)


def texts(value: object) -> tuple[str, ...]:
    """The texts in a cell, each in single spaces: several of a list, none of null or of what is no text."""
    if isinstance(value, str) and re.fullmatch(r"\[.*\]", value.strip(), re.DOTALL):
        for parse in (json.loads, ast.literal_eval):  # a list that pandas or json wrote into a cell
            with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                items = parse(value)
                if isinstance(items, list) and all(isinstance(item, str | None) for item in items):
                    return texts(items)
    if isinstance(value, list):
        return tuple(text for item in value if not isinstance(item, list) for text in texts(item))
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ()
    text = " ".join(str(value).split())
    whole = not any("\ud800" <= letter <= "\udfff" for letter in text)  # half a character is none
    return (text,) if whole and text.lower() not in NO_TEXT else ()


def finder(files: Iterable[Path], home: Path, any_ending: bool = False) -> Callable[[str], Path | None]:
    """A function from a name in a table to the one of these files that it means, or None.

    Names are from the folder `home`, or whole paths, with slashes of either kind, in any composition of
    Unicode; a missing ending or another case is no matter where one file is meant, and with `any_ending`
    another ending neither. The function raises ValueError for a name of several files.
    """
    here, real = os.path.abspath(home), os.path.realpath(home)
    spellings = (
        os.path.normpath,
        lambda name: _without_ending(unicodedata.normalize("NFC", os.path.normpath(name))),
        lambda name: _without_ending(unicodedata.normalize("NFC", os.path.normpath(name))).casefold(),
    )
    known: list[dict[str, list[Path]]] = [{} for _ in spellings]
    for file in files:
        name = os.path.relpath(os.path.abspath(file), here)
        for spell, table in zip(spellings, known, strict=True):
            table.setdefault(spell(name), []).append(file)

    def find(name: str) -> Path | None:
        for spelled in dict.fromkeys((name.strip(), name.strip().replace("\\", "/"))):
            whole = os.path.isabs(spelled)
            for path in (
                (os.path.relpath(spelled, here), os.path.relpath(os.path.realpath(spelled), real))
                if whole
                else (spelled,)
            ):
                for spell, table in zip(spellings, known, strict=True):
                    found = [f for f in table.get(spell(path), ()) if any_ending or _same_ending(path, f)]
                    if len(found) > 1:
                        raise ValueError(f"{name[:80]} may be {found[0].name} or {found[1].name}")
                    if found:
                        return found[0]
        return None

    return find


def few(names: list[str]) -> str:
    """The first three names, long ones up to their 80th letter, and that there are more."""
    return ", ".join(name if len(name) <= 80 else f"{name[:80]}…" for name in names[:3]) + ", …" * (
        len(names) > 3
    )


def _same_ending(name: str, file: Path) -> bool:
    """Whether a name has a file's ending, or none of a video or image."""
    ending = Path(name).suffix.lower()
    return ending not in VIDEOS | IMAGES or ending == file.suffix.lower()


def _without_ending(name: str) -> str:
    """A name without the ending of a video or image."""
    return name[: -len(Path(name).suffix)] if is_media(name) else name


def is_media(cell: object) -> bool:
    """Whether a cell is the name of a video or image."""
    return isinstance(cell, str) and Path(cell.strip()).suffix.lower() in VIDEOS | IMAGES


def _plain(name: object) -> str:
    """A column's name in lower case, with underscores between its words: ` File-Name` is file_name."""
    return "_".join(re.split(r"[\s_-]+", str(name).strip().casefold()))


def _columns(file: Path, names: list[str], wanted: Wanted) -> dict[str, int]:
    """Which of a table's columns is each that is wanted; raises OtherColumns, or ValueError for several."""
    found = _there(str(file), names, wanted)
    if missing := [role for role in wanted if role not in found]:
        shown = ", ".join(repr(str(name)[:40]) for name in names[:8]) + ", …" * (len(names) > 8)
        usual = " and ".join(f"{role} ({', '.join(_usual(wanted[role]))}, …)" for role in missing)
        raise OtherColumns(f"{file} has the columns {shown or '(none)'}; wanted is a column for {usual}")
    return found


def _there(where: str, names: list[str], wanted: Wanted) -> dict[str, int]:
    """Of what is wanted, which of these names each is; raises ValueError where it may be several."""
    plain, found = [_plain(name) for name in names], {}
    for role, ranks in wanted.items():
        places = next(filter(None, ([k for k, n in enumerate(plain) if n in rank] for rank in ranks)), [])
        if len(places) > 1:
            both = " and ".join(repr(names[k]) for k in places[:2])
            raise ValueError(f"{where}: the columns {both} may both be the {role}: leave one")
        if places:
            found[role] = places[0]
    return found


def _usual(ranks: tuple[set[str], ...]) -> list[str]:
    """The name of a column that is asked for, and three others that do."""
    return [*ranks[0], *sorted(ranks[1])[:3]]


def _without_header(cells: list, wanted: Wanted) -> dict[str, int] | None:
    """The columns of a table of files and one text each whose first row is no header, as one cell tells."""
    named = [k for k, cell in enumerate(cells) if is_media(cell)]
    if set(wanted) != {"file", "caption"} or len(cells) != 2 or len(named) != 1:
        return None
    return {"file": named[0], "caption": 1 - named[0]}


def _separated_rows(file: Path, text: str, wanted: Wanted) -> list[Row]:
    """The rows of a CSV or TSV file, each of as many cells as its first."""
    separator, first, columns, headed = _separator(file, text, wanted)
    names, rows = [_plain(name) if headed else "" for name in first], []
    for place, cells in _split(file, text, separator):
        if len(cells) != len(first):
            shown = ", ".join(first)[:200] if headed else f"as in line 1: {' | '.join(first)[:80]}"
            hint = f": a text with a {SEPARATORS[separator]} in it goes in double quotes"
            raise ValueError(
                f"{file}, {place}, has {len(cells)} cell{'s' * (len(cells) != 1)}; wanted are {len(first)} "
                f"({shown}){hint * (len(cells) > len(first))}"
            )
        if "file" in wanted:
            _check_swallowed(file, place, cells, separator)
        rows.append(Row(place, _cells(names, cells, columns)))
    return rows[1:] if headed else rows


def _cells(names: list[str], cells: list, roles: dict[str, int]) -> dict[str, object]:
    """A row's cells by the names of their columns, or where these are wanted by what they are."""
    others = {name: cells[k] for k, name in enumerate(names) if k not in roles.values() and name not in roles}
    return others | {role: cells[k] for role, k in roles.items()}


def _separator(file: Path, text: str, wanted: Wanted) -> tuple[str, list[str], dict[str, int], bool]:
    """The separator that gives a table's first row the columns wanted; that row, where these are in it, and
    whether it is a header."""
    heads, fits, wrong = {}, {}, OtherColumns(f"{file} is empty")
    for separator in "\t" if file.suffix.lower() == ".tsv" else SEPARATORS:
        try:
            heads[separator] = next(cells for _, cells in _split(file, text, separator))
        except ValueError as error:
            wrong = error
        except StopIteration:
            raise wrong from None
    for separator, head in heads.items():
        with suppress(OtherColumns):
            columns = _without_header(head, wanted)
            fits[separator] = (
                (head, columns, False) if columns else (head, _columns(file, head, wanted), True)
            )
    if not fits:
        if heads:
            _columns(file, max(heads.values(), key=len), wanted)  # says what it lacks
        raise wrong
    if all(len(head) == 1 for head, *_ in fits.values()):
        return NEVER, *next(iter(fits.values()))
    if len(fits) > 1:
        names = " or a ".join(SEPARATORS[separator] for separator in fits)
        raise ValueError(f"{file}, line 1: its cells may be separated by a {names}: give it a header")
    return next((separator, *fit) for separator, fit in fits.items())


def _split(file: Path, text: str, separator: str) -> Iterator[tuple[str, list[str]]]:
    """Place and cells of every row but blank ones; raises ValueError for quotes that do not close."""
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
    )
    line = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells) or len(cells) > 1:
                yield f"line {line}", [cell.strip() for cell in cells]
            line = reader.line_num + 1
    except csv.Error as error:
        whys = {
            "unexpected end of data": "a double quote is opened and not closed",
            f"'{separator}' expected after '\"'": "a double quote ends before its cell does",
        }
        why = whys.get(str(error), str(error))
        raise ValueError(f"{file}, line {line}: {why}") from None


def _check_swallowed(file: Path, place: str, cells: list[str], separator: str) -> None:
    """Raises ValueError where a quoted cell of several lines holds what looks like the rows below it."""
    for cell in cells:
        for line in lines_of(cell)[1:]:
            pieces = line.split(separator)
            if len(pieces) > 1 and any(map(is_media, pieces)):
                raise ValueError(
                    f"{file}, {place}: a double quote is closed only after the row {line[:60]!r}: close it"
                )


def _json_rows(file: Path, text: str) -> list[tuple[str, object]]:
    """The values of a JSON array, of JSON lines, or of an object from names of files to their values."""
    lines = [(f"line {k}", line) for k, line in enumerate(lines_of(text), 1) if line.strip()]
    if lines and (file.suffix.lower() == ".json" or lines[0][1].strip() == "["):
        try:
            values = _parse(file, text)
        except json.JSONDecodeError as error:
            if error.msg != "Extra data":  # else there are lines, each with a value
                kind = ValueError if text.lstrip().startswith("[") else OtherColumns
                raise kind(f"{file}, line {error.lineno}, is not JSON ({error.msg})") from None
        else:
            if isinstance(values, dict) and values and all(map(is_media, values)):
                values = [_of_file(name, value) for name, value in values.items()]
            values = values if isinstance(values, list) else [values]
            return [(f"record {k}", value) for k, value in enumerate(values, 1)]
    rows = []
    for place, line in lines:
        try:
            rows.append((place, _parse(file, line, place)))
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}, {place}, is not JSON ({error.msg})") from None
    return rows


def _of_file(name: str, value: object) -> dict:
    """The record of a file that an object has under its name: with a caption alone, or cells of its own."""
    return {"path": name} | value if isinstance(value, dict) else {"path": name, "caption": value}


def _parse(file: Path, text: str, place: str = "a record") -> object:
    """A JSON value, NaN as null; raises JSONDecodeError, or ValueError for a key that stands there twice."""

    def once(pairs: list[tuple[str, object]]) -> dict:
        if len(cells := dict(pairs)) < len(pairs):
            raise ValueError(f"{file}, {place}: a key stands there twice")
        return cells

    try:
        return json.loads(text, object_pairs_hook=once, parse_constant=lambda _: None)
    except RecursionError:
        raise ValueError(f"{file}, {place}: brackets are nested too deeply") from None


def _named(file: Path, rows: list[tuple[str, object]], wanted: Wanted) -> list[Row]:
    """Records under the names that are wanted; of lists of two cells and of texts where these can be told.

    A value that is no record keeps its place, without cells.
    """
    if not rows:
        raise OtherColumns(f"{file} is empty")
    found, whole = [], False
    for place, value in rows:
        cells = _bare(value, wanted) or {}
        if isinstance(value, dict):
            keys = list(value)
            roles = _there(f"{file}, {place}", keys, wanted)
            cells = _cells([_plain(key) for key in keys], list(value.values()), roles)
        whole |= wanted.keys() <= cells.keys()
        found.append(Row(place, cells))
    if not whole:
        keys = dict.fromkeys(key for _, value in rows if isinstance(value, dict) for key in value)
        _columns(file, list(keys), wanted)  # says what no record has
    return found


def _bare(value: object, wanted: Wanted) -> dict | None:
    """The cells of a record that is a list of two, or of a text where nothing but one is wanted."""
    if isinstance(value, str):
        return {role: value for role in wanted} if len(wanted) == 1 else None
    columns = _without_header(value, wanted) if isinstance(value, list) else None
    return columns and {role: value[k] for role, k in columns.items()}
