"""Proves which files are held out: a few, a share or a list, and all files of a source on one side."""

from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from configs.data import DataConfig
from vae.compression import Compression
from vae.data.clips import held_out_split, open_data
from vae.training.seeds import shuffled

File = namedtuple("File", "path")
FILES = [
    File(Path(f"/set/{source}/v_{source}_g{g:02d}_c{c}.avi"))
    for source in "AB"
    for g in range(20)
    for c in range(5)
]
CONFIG = DataConfig(source="/set")


def sides(files: list[File], config: DataConfig, seed: int) -> tuple[list, list]:
    """The files of both sides."""
    places = held_out_split(len(files), lambda: (file.path.as_posix() for file in files), config, seed, 16)
    return tuple([files[k] for k in side] for side in places)


def split(seed: int = 0, files: list[File] = FILES, **settings) -> tuple[list, list]:
    """The files of both sides, of which none is on both and none on neither."""
    kept, held = sides(files, replace(CONFIG, **settings), seed)
    assert sorted(kept + held) == sorted(files) and kept and held
    assert kept == sorted(kept) and held == sorted(held)
    return kept, held


def test_a_few_are_held_out_by_default():
    held = split()[1]
    assert held == sorted(FILES[k] for k in shuffled(200, 0, "held out")[:16])
    assert split(1)[1] != held
    assert len(split(files=FILES[:12])[1]) == 3  # a quarter at most
    assert len(split(files=FILES[:2])[1]) == 1
    assert sides(FILES[:1], CONFIG, 0) == (FILES[:1], FILES[:1])


@pytest.mark.parametrize(
    ("share", "count"), [("0.05", 10), (".5", 100), ("0.001", 1), ("0.99", 198), ("1e-1", 20)]
)
def test_a_share_is_held_out(share, count):
    assert len(split(held_out=share)[1]) == count


@pytest.mark.parametrize(
    ("group", "part", "files"),  # which words of a name are the source, and how many files that has
    [(r"_g\d+_", (2,), 10), (r"v_(._g\d+)_c\d", (1, 2), 5), (r"/(\w)/v_\w_(g\d+)", (1,), 100)],
)
@pytest.mark.parametrize("held_out", ["", "0.1", "0.33"])
def test_a_source_is_on_one_side(group, part, files, held_out):
    for seed in range(5):
        kept, held = split(seed, held_out=held_out, group=group)
        sources = [{tuple(f.path.stem.split("_")[k] for k in part) for f in side} for side in (kept, held)]
        assert not sources[0] & sources[1]
        most = float(held_out or 0.08) * len(FILES)
        assert len(held) == max(files, most // files * files)  # where none fits, the smallest


def test_spans_of_a_file_are_on_one_side():
    spans = [File(Path(f"/set/{k // 8}.mp4")) for k in range(80)]
    kept, held = sides(spans, CONFIG, 0)
    assert held and kept and not {file.path for file in held} & {file.path for file in kept}


def test_a_file_without_a_source_is_its_own():
    kept, held = split(held_out="0.2", group="/A/")
    assert all("/B/" in file.path.as_posix() for file in held) and len(held) == 40
    assert sum("/A/" in file.path.as_posix() for file in kept) == 100


def test_a_list_is_held_out(tmp_path):
    file = tmp_path / "test.txt"
    file.write_text("\ufeffv_A_g00_c0.avi\r\n\n ./B/v_B_g03_c4.avi \n/set/B/v_B_g19_c0.avi", encoding="utf-8")
    assert [f.path.name for f in split(held_out=str(file))[1]] == [
        "v_A_g00_c0.avi",
        "v_B_g03_c4.avi",
        "v_B_g19_c0.avi",
    ]
    held = split(held_out=str(file), group="/v_._g..")[1]
    assert len(held) == 15  # whole sources of what is listed
    assert split(5, held_out=str(file))[1] == split(6, held_out=str(file))[1]


@pytest.mark.parametrize(
    ("settings", "text", "message"),
    [
        ({"held_out": "0"}, "", "data.held_out = 0: a share must be above 0 and below 1"),
        ({"held_out": "1"}, "", "data.held_out = 1: a share must be above 0"),
        ({"held_out": "-0.1"}, "", "data.held_out = -0.1: a share"),
        ({"held_out": "nan"}, "", "data.held_out = nan: a share"),
        (
            {"held_out": "5%"},
            "",
            "data.held_out = '5%' is neither a share, such as 0.05, nor a file of names",
        ),
        (
            {"held_out": "FILE"},
            "v_A_g00_c0.avi\n\nv_A_g00_c9.avi",
            "line 3: no file of the data is called v_A_g00_c9.avi",
        ),
        ({"held_out": "FILE"}, "\n\n", "names no file to hold out"),
        ({"held_out": "FILE"}, "g00_c0.avi", "line 1: no file"),  # a part of a name
        (
            {"held_out": "FILE"},
            "\n".join(f.path.name for f in FILES),
            "/set: all 200 files would be held out and none",
        ),
        ({"group": "("}, "", r"data.group = '\(' is no regular expression: missing \)"),
        ({"group": "group"}, "", "data.group = 'group' is found in no path, such as /set/A/"),
        (
            {"group": "/set/"},
            "",
            "all 200 files would be held out and none trained on, as '/set/' makes them one source",
        ),
    ],
)
def test_what_is_no_split_is_refused(tmp_path, settings, text, message):
    file = tmp_path / "list.txt"
    file.write_text(text)
    settings = {name: value.replace("FILE", str(file)) for name, value in settings.items()}
    with pytest.raises(ValueError, match=message):
        split(**settings)


def test_a_list_that_is_no_text_is_named(tmp_path):
    (tmp_path / "list.txt").write_bytes("ä.avi".encode("cp1252"))
    with pytest.raises(ValueError, match=r"list\.txt: 'utf-8' codec"):
        split(held_out=str(tmp_path / "list.txt"))


def test_the_drawn_world_has_no_files_to_hold_out():
    with pytest.raises(ValueError, match=r"data\.held_out and data\.group are of files"):
        open_data(DataConfig(held_out="0.1"), 0, 16, Compression())
