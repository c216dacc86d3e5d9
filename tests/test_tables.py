"""Proves that tables of others are taken where they are unambiguous, and else refused with their line."""

import json
import unicodedata
from pathlib import Path

import pytest

from vae.data.captions import find_captions
from vae.data.msrvtt import find_videos as find_msrvtt
from vae.data.tables import CAPTIONS, FILES, PROMPTS, finder, lines_of, read_table, read_text, texts
from vae.data.ucf101 import find_videos as find_ucf101


def captions(folder: Path, name: str, content: str | bytes, *videos: str) -> tuple[dict, list[str]]:
    """What a table gives the videos of a folder, and what is said of it."""
    files = [folder / video for video in videos or ("a.mp4", "b.mp4")]
    for file in files:
        file.parent.mkdir(exist_ok=True, parents=True)
        file.touch()
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    found, notes = find_captions(folder, files)
    return {file.relative_to(folder).as_posix(): said for file, said in found.items() if said}, notes


BOTH = {"a.mp4": ("a cat, sitting",), "b.mp4": ("a dog",)}
TAKEN = {
    "comma": ("t.csv", 'path,caption\na.mp4,"a cat, sitting"\nb.mp4,a dog\n'),
    "semicolon": ("t.csv", "path;caption\na.mp4;a cat, sitting\nb.mp4;a dog\n"),
    "tab": ("t.tsv", "path\tcaption\na.mp4\ta cat, sitting\nb.mp4\ta dog"),
    "tab in a csv": ("t.csv", "path\tcaption\na.mp4\ta cat, sitting\nb.mp4\ta dog"),
    "bar": ("t.CSV", "file|text\na.mp4|a cat, sitting\nb.mp4|a dog\n"),
    "spaces and case": ("t.csv", 'Path, Caption\na.mp4, "a cat, sitting"\nb.mp4 , a dog\n'),
    "other names": ("t.csv", 'id,File Name,TEXT\n1,a.mp4,"a cat, sitting"\n2,b.mp4,a dog\n'),
    "pandas' index": ("t.csv", ',path,caption\n0,a.mp4,"a cat, sitting"\n1,b.mp4,a dog\n'),
    "the documented names first": (
        "t.csv",
        'video,path,file,text,caption\n1,a,b,x,"a cat, sitting"\n2,b,a,y,a dog\n',
    ),
    "no header": ("t.csv", '\na.mp4,"a cat, sitting"\nb.mp4,a dog\n'),
    "no header, files last": ("t.tsv", "a cat, sitting\ta.mp4\na dog\tb.mp4\n"),
    "carriage returns": ("t.csv", b'path,caption\ra.mp4,"a cat, sitting"\rb.mp4,a dog\r'),
    "windows": (
        "t.csv",
        b'\xef\xbb\xbf"path","caption"\r\n"a.mp4","a cat, sitting"\r\n\r\n"b.mp4","a dog"\r\n',
    ),
    "utf-16": ("t.csv", "path;caption\r\na.mp4;a cat, sitting\r\nb.mp4;a dog\r\n".encode("utf-16")),
    "utf-32": ("t.csv", "path;caption\na.mp4;a cat, sitting\nb.mp4;a dog\n".encode("utf-32")),
    "lines": ("t.jsonl", '{"path":"a.mp4","caption":"a cat, sitting"}\n\n{"path":"b.mp4","caption":"a dog"}'),
    "hugging face": (
        "t.ndjson",
        '{"file_name":"a.mp4","text":"a cat, sitting"}\n{"file_name":"b.mp4","text":"a dog"}',
    ),
    "array": (
        "t.json",
        '[{"video":"a.mp4","prompt":"a cat, sitting"},\n {"video":"b.mp4","prompt":["a dog"]}]',
    ),
    "records of several kinds": (
        "t.jsonl",
        '{"path":"a.mp4","caption":"a cat, sitting"}\n{"File":"b.mp4","prompt":"a dog"}',
    ),
    "array in jsonl": (
        "t.jsonl",
        '[\n {"path":"a.mp4","cap":"a cat, sitting"},\n {"path":"b.mp4","cap":"a dog"}\n]\n',
    ),
    "lines in json": (
        "t.json",
        '{"path":"a.mp4","caption":"a cat, sitting"}\n{"path":"b.mp4","caption":"a dog"}\n',
    ),
    "by file": ("t.json", '{"a.mp4": "a cat, sitting",\n "b.mp4": {"caption": "a dog"}}'),
    "arrays of two": ("t.jsonl", '["a.mp4","a cat, sitting"]\n["b.mp4","a dog"]\n'),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_unambiguous_is_taken(tmp_path, name):
    assert captions(tmp_path, *TAKEN[name]) == (BOTH, [])


REFUSED = {
    "commas": (
        "t.csv",
        "path,caption\na.mp4,a cat, sitting, here\n",
        r"t\.csv, line 2, has 4 cells; wanted are 2 \(path, caption\): a text with a comma",
    ),
    "fewer": (
        "t.csv",
        "path,x,caption\na.mp4,1,a\nb.mp4,c\n",
        r"line 3, has 2 cells; wanted are 3 \(path, x, caption\)$",
    ),
    "one cell": ("t.csv", "caption;path\nno path\n", r"t\.csv, line 2, has 1 cell; wanted are 2"),
    "no header": (
        "t.csv",
        "a.mp4,a cat\nb.mp4,a dog, asleep\n",
        r"line 2, has 3 cells; wanted are 2 \(as in line 1: a\.mp4",
    ),
    "open": (
        "t.csv",
        'path,caption\na.mp4,"a cat\nb.mp4,a dog\nc.mp4,a bird\n',
        r"t\.csv, line 2: a double quote is opened and not closed",
    ),
    "closed below": (
        "t.csv",
        'path,caption\na.mp4,x\nb.mp4,"a cat\nc.mp4,a dog"\n',
        r"line 3: a double quote is closed only after the row 'c\.mp4,a dog'",
    ),
    "opened below": (
        "t.csv",
        'path,caption\na.mp4,"a cat\nb.mp4,"a dog"\n',
        r"t\.csv, line 2: a double quote ends before its cell does",
    ),
    "escaped": ("t.csv", 'path,caption\na.mp4,"a \\"big\\" cat"\n', r"t\.csv, line 2: "),
    "two captions in a record": (
        "t.jsonl",
        '{"path": "a.mp4", "caption": "x"}\n{"path": "a.mp4", "text": "x", "prompt": "y"}',
        r"line 2: the columns 'text' and 'prompt' may both be the caption",
    ),
    "two captions": (
        "t.csv",
        "path,text,prompt\na.mp4,x,y\n",
        r"columns 'text' and 'prompt' may both be the caption: leave one",
    ),
    "twice": (
        "t.csv",
        "path,Caption,caption\na.mp4,x,y\n",
        r"columns 'Caption' and 'caption' may both be the caption",
    ),
    "any separator": (
        "t.csv",
        "a cat, asleep;a.mp4\n",
        "may be separated by a comma or a semicolon: give it a header",
    ),
    "several files": ("t.csv", "path,caption\nclip,x\n", r"line 2: clip may be clip\.mp4 or clip\.png"),
    "key twice": (
        "t.jsonl",
        '{"path":"a.mp4","caption":"x","caption":"y"}',
        r"line 1: a key stands there twice",
    ),
    "not json": (
        "t.jsonl",
        '{"path":"a.mp4","caption":"x"}\n{"path":\n',
        r"t\.jsonl, line 2, is not JSON \(",
    ),
    "cut array": ("t.json", '[{"path":"a.mp4","caption":"x"},\n{"pa', r"t\.json, line 2, is not JSON"),
    "nested": ("t.jsonl", "[" * 100_000, "nested too deeply"),
    "cp1252": (
        "t.csv",
        "path,caption\na.mp4,a café\n".encode("cp1252"),
        r"t\.csv, line 2, is not UTF-8 \(.*save the file as UTF-8",
    ),
    "utf-16 without its mark": (
        "t.csv",
        "path,caption\n".encode("utf-16-le"),
        r"t\.csv, line 1, holds a zero byte",
    ),
    "half a utf-16": ("t.csv", "path".encode("utf-16")[:-1], r"is not UTF-16"),
    "too long": ("t.csv", "path,caption\na.mp4," + "a" * 140_000, r"t\.csv, line 2: field larger than"),
    "text": ("a.txt", "grün".encode("latin-1"), r"a\.txt, line 1, is not UTF-8 \("),
    "elsewhere": ("t.csv", "path,caption\nset/a.mp4,x\n", r"t\.csv: no file set/a\.mp4 in "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_ambiguous_is_refused_with_its_line(tmp_path, name):
    *table, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        captions(tmp_path, *table, "a.mp4", "b.mp4", "c.mp4", "clip.mp4", "clip.png")


def test_rows_and_tables_that_give_nothing_are_said(tmp_path):
    rows = [
        {"path": "a.mp4", "caption": None},
        {"path": None, "caption": "x"},
        {"path": "b.mp4", "caption": ["x", None, " y  z "]},
        None,
        {"path": "b.mp4"},
        {"path": "a.mp4", "caption": 7},
        {"path": "a.mp4", "caption": True},
        {"path": "a.mp4", "caption": "half \ud83d"},
        {"path": "a.mp4", "caption": float("inf")},
        {"path": "gone.mp4", "caption": "x"},
    ]
    found, notes = captions(tmp_path, "t.jsonl", "\n".join(map(json.dumps, rows)))
    assert found == {"a.mp4": ("7",), "b.mp4": ("x", "y z")}
    assert notes == [
        f"{tmp_path / 't.jsonl'}: 8 of 10 rows are left out: line 1 has no caption, line 2 has no file, "
        "line 3 has 1 empty captions, …",
        "captions of 1 files that are not here: gone.mp4",
    ]
    (tmp_path / "t.jsonl").unlink()
    for name, content in {
        "u.csv": "name;score\na;1\n",
        "v.json": '{"x": {}}',
        "w.tsv": "",
        "x.csv": "path,text",
    }.items():
        _, (note,) = captions(tmp_path, name, content)
        wanted = {
            "u.csv": "has the columns 'name', 'score'; wanted is a column for file (path, ",
            "v.json": "has the columns 'x'; wanted is a column for file (path, ",
            "w.tsv": "is empty",
            "x.csv": "has no rows",
        }[name]
        assert str(tmp_path / name) in note and wanted in note
        (tmp_path / name).unlink()
    (tmp_path / "a.json").write_text('{"prompt": "a record of a.mp4"}')
    assert captions(tmp_path, "t.csv", "path,caption\na.mp4,None\nb.mp4,nan\n")[0] == {}


@pytest.mark.parametrize(
    ("written", "video"),
    [
        ("caf\u00e9.mp4", "cafe\u0301.mp4"),
        ("cafe\u0301.mp4", "caf\u00e9.mp4"),
        ("deep\\a.mp4", "deep/a.mp4"),
        (".\\deep\\a.mp4", "deep/a.mp4"),
        ("./deep//a.mp4", "deep/a.mp4"),
        ("{home}/deep/a.mp4", "deep/a.mp4"),
        ("{home}/link.mp4", "link.mp4"),
        ("clip.v1", "clip.v1.mp4"),
        ("clip.v1.mp4", "clip.v1.mp4"),
        ("CLIP.MP4", "clip.mp4"),
        ("'a b'.mp4", "'a b'.mp4"),
    ],
)
def test_a_name_means_the_file_that_is_there(tmp_path, written, video):
    others = ("clip.v2.mp4", "other/a.mp4", "cafe.mp4")
    table = f'path,caption\n"{written.format(home=tmp_path)}",x\n'
    assert captions(tmp_path, "t.csv", table, video, *others)[0] == {video: ("x",)}


def test_a_name_in_another_composition_is_not_taken_where_both_are_there(tmp_path):
    names = ["caf\u00e9.mp4", "cafe\u0301.mp4", "A.mp4", "a.mp4"]
    find = finder([tmp_path / name for name in names], tmp_path)
    assert [find(name).name for name in names] == names
    with pytest.raises(ValueError, match="may be"):
        find(unicodedata.normalize("NFC", names[1]).upper())
    assert find("b.mp4") is None and find("a.mov") is None and find("../a.mp4") is None and find("") is None
    assert finder([tmp_path / "a.mp4"], tmp_path, any_ending=True)("a.mov") == tmp_path / "a.mp4"


def test_a_folder_is_found_by_either_of_its_names(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "a.mp4").touch()
    find = finder([tmp_path / "link" / "a.mp4"], tmp_path / "link")
    assert find(str(tmp_path / "real" / "a.mp4")) == find(str(tmp_path / "link" / "a.mp4")) is not None


def test_texts_of_a_cell():
    assert texts(" a \u2028 b\t") == ("a b",) and texts(["a", "", None, 3, [1]]) == ("a", "3")
    assert texts("['a', \"b's\"]") == ("a", "b's") and texts('["a", null]') == ("a",)
    assert texts("[music] plays") == ("[music] plays",) and texts("[music]") == ("[music]",)
    assert texts("[1, 2]") == ("[1, 2]",) and texts(1.5) == ("1.5",)
    assert all(texts(value) == () for value in (None, "", "  ", "None", "NULL", "nan", True, {}, {"a": 1}))


def test_lines_end_where_editors_end_them():
    assert lines_of("a\u2028b\x85c\x0bd\x1ce\r\nf\rg\nh") == ["a\u2028b\x85c\x0bd\x1ce", "f", "g", "h"]


def test_prompts_alone_need_no_separator(tmp_path):
    file = tmp_path / "p.csv"
    for content, wanted in {
        "prompt\na cat, sitting\na dog; asleep\n": ["a cat, sitting", "a dog; asleep"],
        'Prompt\n"a cat, sitting"\n"two\nlines"\n': ["a cat, sitting", "two\nlines"],
    }.items():
        file.write_text(content)
        assert [row.cells["prompt"] for row in read_table(file, {"prompt": PROMPTS})] == wanted
    (tmp_path / "p.json").write_text('["a cat", "a dog"]')
    rows = read_table(tmp_path / "p.json", {"prompt": PROMPTS})
    assert [(row.place, row.cells) for row in rows] == [
        ("record 1", {"prompt": "a cat"}),
        ("record 2", {"prompt": "a dog"}),
    ]


def test_cells_of_other_columns_keep_their_names(tmp_path):
    (tmp_path / "t.csv").write_text("Frame Rate;Path;Text\n8;a.mp4;x\n")
    (row,) = read_table(tmp_path / "t.csv", {"file": FILES, "caption": CAPTIONS})
    assert row.cells == {"frame_rate": "8", "file": "a.mp4", "caption": "x"} and row.place == "line 2"


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "t.txt").write_bytes(b"a\nb\nc \xff\xd8\n")
    with pytest.raises(ValueError, match=r"t\.txt, line 3, is not UTF-8"):
        read_text(tmp_path / "t.txt")


def test_links_to_one_video_are_one_and_case_tells_no_video_apart(tmp_path):
    for folder in ("all", "test", "HandstandPushups"):
        (tmp_path / folder).mkdir()
    (tmp_path / "all" / "video7.mp4").write_text("x")
    (tmp_path / "test" / "video7.mp4").symlink_to("../all/video7.mp4")
    (tmp_path / "test" / "video8.mp4").symlink_to("nowhere.mp4")
    there = {"video7": tmp_path / "all" / "video7.mp4"}
    assert find_msrvtt(tmp_path, ["video7", "video8"]) == (there, ["video8"])
    (tmp_path / "video7.webm").write_text("x")
    with pytest.raises(ValueError, match="are one video: which is it"):
        find_msrvtt(tmp_path, ["video7"])
    file = tmp_path / "HandstandPushups" / "v_HandstandPushups_g01_c01.avi"
    file.touch()
    name = "HandstandPushups/v_HandStandPushups_g01_c01.avi"
    assert find_ucf101(tmp_path, [name]) == ({name: file}, [])
