"""Rows of a manifest stay in its file: a row, a column and a choice are what reading all of it gives."""

import pickle
from array import array
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy
import pyarrow.parquet
import pytest
import torch

from configs.data import DataConfig
from vae.compression import Compression
from vae.data import rows
from vae.data.clips import VideoFiles, clip_size, files_hash
from vae.data.columns import Caption, Entry, cut_rows
from vae.data.drawn_world import draw, random_scene
from vae.data.manifest import load_manifest, rewrite, save_manifest
from vae.data.video import probe, read_frames, to_video
from vae.data.write import write_video

ABOUT = {"codec": "h264", "duration": 1.0, "reader": "decord", "stream": 0, "streams": 1}


def entries(folder: Path, count: int) -> list[Entry]:
    """Files of a few sizes, lengths and rates that nobody reads; of some each frame has its own time."""
    draw = numpy.random.default_rng(0)
    made = []
    for k in range(count):
        frames, height, width = (
            int(draw.integers(low, high)) for low, high in ((1, 90), (16, 300), (16, 300))
        )
        ticks = draw.integers(1, 9000, frames).cumsum().astype(numpy.uint32)
        times = (ticks - ticks[0]).astype("<u4").tobytes() if k % 3 == 0 else b""
        captions = tuple(f"caption {n} of {k}" for n in range(k % 3))
        facts = {"checksums": draw.bytes(4 * frames), "times": times, "path": folder / f"{k // 10}/{k}.mp4"}
        made.append(Entry(frames, 24.0, height, width, **ABOUT, bytes=k, captions=captions, **facts))
    return made


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(rows, "ROWS_AT_ONCE", 64)  # so that a column comes in parts
    monkeypatch.setattr("vae.data.manifest.GROUP_ROWS", 16)


def test_rows_are_those_that_were_written_in_any_order_and_thread_and_process(tmp_path):
    given = entries(tmp_path, 200)
    save_manifest(tmp_path / "m.parquet", given)
    manifest = load_manifest(tmp_path / "m.parquet")
    assert len(manifest) == 200 and list(manifest) == given and manifest[-1] == given[-1]
    places = numpy.random.default_rng(1).permutation(200).tolist()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(manifest.__getitem__, places)) == [given[k] for k in places]
    assert list(pickle.loads(pickle.dumps(manifest))) == given
    assert list(manifest.paths()) == [entry.path.as_posix() for entry in given]
    with pytest.raises(IndexError):
        manifest[200]


def test_a_choice_has_its_rows_columns_and_digest(tmp_path):
    given = entries(tmp_path, 150)
    save_manifest(tmp_path / "m.parquet", given)
    manifest = load_manifest(tmp_path / "m.parquet")
    places = numpy.flatnonzero(numpy.random.default_rng(2).random(150) < 0.3)
    chosen, wanted = manifest.choose(places)[3:][::2], [given[k] for k in places][3:][::2]
    assert list(chosen) == wanted
    assert chosen.numbers("frames").tolist() == [entry.frames for entry in wanted]
    assert list(chosen.values("captions")) == [entry.captions for entry in wanted]
    save_manifest(tmp_path / "n.parquet", wanted)
    assert chosen.digest(["key", "captions"]) == load_manifest(tmp_path / "n.parquet").digest(
        ["key", "captions"]
    )


def test_manifests_in_a_folder_are_one_and_its_hash_is_that_of_one_file(tmp_path):
    given = entries(tmp_path / "set", 90)
    (tmp_path / "set").mkdir()
    save_manifest(tmp_path / "set" / "manifest.parquet", given)
    whole = VideoFiles(DataConfig(), 0, load_manifest(tmp_path / "set"), Compression())
    (tmp_path / "set" / "manifest.parquet").unlink()
    for name, part in {"a": given[:7], "b": given[7:60], "c": given[60:]}.items():
        save_manifest(tmp_path / "set" / f"{name}.parquet", part)
    parts = VideoFiles(DataConfig(), 0, load_manifest(tmp_path / "set"), Compression())
    assert list(parts.entries) == given and files_hash(parts) == files_hash(whole)


def test_what_a_run_depends_on_is_in_its_hash(tmp_path):
    given, hashes = entries(tmp_path, 20), []
    last = given[-1]
    changes = [{}, {"frames": 3, "checksums": b"x" * 12, "times": b""}, {"captions": ("a", "bc")}]
    changes += [{"captions": ("ab", "c")}, {"captions": ("abc",)}, {"height": 17}]
    changes += [{"treatment": "tone-mapped"}, {"checksums": b"y" * len(last.checksums)}]
    for k, change in enumerate([*changes, {"path": tmp_path / "elsewhere.mp4", "codec": "vp9"}]):
        save_manifest(tmp_path / f"{k}.parquet", [*given[:-1], replace(last, **change)])
        manifest = load_manifest(tmp_path / f"{k}.parquet")
        hashes.append(files_hash(VideoFiles(DataConfig(), 0, manifest, Compression())))
    assert len(set(hashes)) == len(changes) and hashes[-1] == hashes[0], "but not where a file lies"
    for k, texts in enumerate([(("a",), ("b", "c")), (("a", "b"), ("c",))]):
        pairs = zip(given, texts, strict=False)
        save_manifest(tmp_path / f"of {k}.parquet", [replace(entry, captions=its) for entry, its in pairs])
    whose = [load_manifest(tmp_path / f"of {k}.parquet").digest(["captions"]) for k in range(2)]
    assert whose[0] != whose[1], "whose caption is whose counts"


def test_planned_sizes_are_those_of_each_file(tmp_path):
    given = entries(tmp_path, 120)
    save_manifest(tmp_path / "m.parquet", given)
    config = DataConfig(frames=33, size=64, fps=8.0)
    data = VideoFiles(config, 0, load_manifest(tmp_path / "m.parquet"), Compression())
    planned = data.sizes(Compression()).files_N
    for tokens, entry in zip(planned.tolist(), given, strict=True):
        frames, height, width = clip_size(entry, config, Compression())
        assert tokens == (1 + (frames - 1) // 4) * (height // 16) * (width // 16)


def test_a_row_whose_facts_were_changed_is_refused_when_it_is_read(tmp_path, monkeypatch):
    """Also in a manifest that is too large to be read whole first."""
    monkeypatch.setattr("vae.data.manifest.CHECKED_AT_ONCE", 10)
    save_manifest(tmp_path / "m.parquet", entries(tmp_path, 50))
    table = pyarrow.parquet.read_table(tmp_path / "m.parquet")
    cells = table["checksums"].to_pylist()
    cells[33] = bytes(len(cells[33]))
    place = table.column_names.index("checksums")
    changed = table.set_column(place, "checksums", pyarrow.array(cells, table["checksums"].type))
    pyarrow.parquet.write_table(changed, tmp_path / "m.parquet")
    manifest = load_manifest(tmp_path / "m.parquet")
    assert manifest[32] and manifest[34]
    with pytest.raises(ValueError, match=r"33\.mp4 has facts that do not belong to its key: make it again"):
        manifest[33]


def test_a_manifest_that_others_wrote_in_large_groups_is_slow_and_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("vae.data.manifest.LARGE_GROUP", 30)
    save_manifest(tmp_path / "m.parquet", entries(tmp_path, 50))
    load_manifest(tmp_path / "m.parquet")
    assert "slow" not in capsys.readouterr().err
    table = pyarrow.parquet.read_table(tmp_path / "m.parquet")
    pyarrow.parquet.write_table(table.append_column("mine", pyarrow.array(range(50))), tmp_path / "m.parquet")
    manifest = load_manifest(tmp_path / "m.parquet")
    assert "as 50 rows are read for each" in capsys.readouterr().err
    assert list(manifest) == entries(tmp_path, 50), "a column of one's own is no fault"


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A file, and its frames 7 to 16 cut without loss into a file of their own: the entries of both."""
    folder = tmp_path_factory.mktemp("film")
    video = draw(random_scene(3, 0, "train"), 25, 48, 64)
    write_video(folder / "whole.mp4", video, 8, {})
    frames = read_frames(folder / "whole.mp4", range(25))[7:16]
    write_video(folder / "cut.mkv", to_video(frames), 8, {})
    files = [folder / "whole.mp4", folder / "cut.mkv"]
    return [Entry(**asdict(probe(file)), path=file, captions=("a film",)) for file in files]


@pytest.mark.parametrize("reader", ["decord", "sequential"])
def test_a_span_is_what_its_frames_are_in_a_file_of_their_own(film, reader):
    """Its key, its clips and every frame of them, bit for bit."""
    whole, cut = (replace(entry, reader=reader) for entry in film)
    span = whole.span(7, 16)
    assert span.key == cut.key != whole.key and (span.frames, span.fps) == (cut.frames, cut.fps)
    assert span.span(9, 12).key == cut.span(2, 5).key, "a span of a span counts in its file's frames"
    config = DataConfig(frames=5, size=32, fps=6.0)
    both = [VideoFiles(config, 5, [entry], Compression()) for entry in (span, cut)]
    for number in range(6):
        ours, others = (data[number] for data in both)
        assert not ours.skipped and torch.equal(ours.video, others.video), number
    with pytest.raises(ValueError, match="frames 6 to 9 are no part of frames 7 to 16"):
        span.span(6, 9)
    with pytest.raises(ValueError, match="has frames 0 to 8, not 9"):
        read_frames(span.path, [9], span)


def test_spans_of_variable_rate_have_their_own_times():
    ticks = [0, 1000, 2000, 5000, 5500, 9000]
    about = {"reader": "sequential", "stream": 0, "streams": 1, "times": array("I", ticks).tobytes()}
    facts = 6, 6.25, 48, 64, "vp9", 1.0, 9, *(about.pop(name) for name in ("reader", "stream", "streams"))
    entry = Entry(*facts, array("I", range(6)).tobytes(), path=Path("a.mkv"), captions=(), **about)
    part = entry.span(2, 6)
    assert array("I", part.times).tolist() == [0, 3000, 3500, 7000] and part.last_tick == 7000
    even = entry.span(0, 3)
    assert (even.times, even.fps, even.last_tick) == (b"", 10.0, 0), "what is even has a rate"


def test_a_manifest_is_rewritten_with_other_rows_and_more_columns(film, tmp_path):
    """Spans cut in a table are those of entries; columns of ours and of one's own go with them."""
    whole = replace(film[0], captions=(Caption("a film", "human", "en"),), licence="cc-by", tags=("blue",))
    save_manifest(tmp_path / "m.parquet", [whole, film[1]])

    def scored(table):
        return table.append_column("motion", pyarrow.array([0.5, None]))

    def halved(table):
        cut = cut_rows(table, [0, 0, 1], [0, 12, 0], [12, 25, 9])
        reasons = pyarrow.array([[], ["filter: static"], []], pyarrow.list_(pyarrow.string()))
        return cut.set_column(cut.column_names.index("rejected"), "rejected", reasons)

    (tmp_path / "deep").mkdir()
    rewrite(tmp_path / "m.parquet", tmp_path / "scored.parquet", scored)
    rewrite(tmp_path / "scored.parquet", tmp_path / "deep" / "cut.parquet", halved)
    found = load_manifest(tmp_path / "deep" / "cut.parquet")
    expected = [whole.span(0, 12), replace(whole.span(12, 25), rejected=("filter: static",)), film[1]]
    assert [replace(e, path=e.path.resolve()) for e in found] == expected
    caption = found[0].captions[0]
    assert (caption, caption.origin, caption.language, caption.prompt) == ("a film", "human", "en", "")
    assert list(found.values("motion")) == [0.5, 0.5, None]
    assert [e.start for e in found.kept()] == [0, 0] and len(found) == 3
    rewrite(tmp_path / "deep" / "cut.parquet", tmp_path / "back.parquet", lambda table: table)
    again = [replace(e, path=e.path.resolve()) for e in load_manifest(tmp_path / "back.parquet")]
    assert again == expected, "also where it lies where its paths are from"
    with pytest.raises(ValueError, match=r"no row is left of"):
        rewrite(tmp_path / "m.parquet", tmp_path / "none.parquet", lambda table: table.slice(0, 0))
    with pytest.raises(ValueError, match="has no column tags"):
        rewrite(tmp_path / "m.parquet", tmp_path / "bad.parquet", lambda table: table.drop(["tags"]))
    assert not (tmp_path / "none.parquet").exists() and not (tmp_path / "bad.parquet").exists()
