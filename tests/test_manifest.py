"""A folder becomes a manifest that says what its files hold, and training reads the right frames by it."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from configs.data import DataConfig
from dit import cli
from tests.tiny import autoencoder_run, seconds_of
from vae.compression import Compression
from vae.data.clips import VideoFiles, batches, clip_of, files_hash, open_data, shares_of
from vae.data.manifest import find_files, load_manifest, save_manifest
from vae.data.rows import RowList
from vae.data.video import Probe, UnreadableVideo, decoder, ffmpeg, probe, to_video
from vae.data.write import to_frames, write_video
from vae.training.log import live_line
from vae.training.session import Session


def ramp(frames: int, height: int = 32, width: int = 48) -> torch.Tensor:
    """A video whose frame k is evenly grey at level 20 + 10 k, so that a frame names itself."""
    levels = (20 + 10 * torch.arange(frames)).byte()
    return to_video(levels[:, None, None, None].expand(-1, height, width, 3))


def write_at(file: Path, times: list[float]) -> None:
    """A video whose frame k is shown from the k-th time on, evenly grey at level 20 + 5 k."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for k, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 20 + 5 * k, dtype=np.uint8))
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture
def folder(tmp_path):
    """Two videos of different length, size and rate, an image, and two files that are neither."""
    home = tmp_path / "set"
    write_video(home / "long.mp4", ramp(21), 8, {})
    write_video(home / "deep" / "short.mp4", ramp(6, 48, 32), 25, {})
    Image.fromarray(np.full((40, 30, 3), 120, dtype=np.uint8)).save(home / "still.png")
    (home / "broken.mp4").write_bytes((home / "long.mp4").read_bytes()[:900])
    (home / "text.webm").write_text("not a video")
    (home / ".hidden.mp4").write_text("a half-written neighbour")
    return home


def run(*words: str) -> int:
    """The command `dit data index` with these words; gives its exit status."""
    return cli.run(["data", "index", *map(str, words)])


def test_a_manifest_says_what_the_files_hold_and_names_the_bad_ones(folder, capsys):
    (folder / "long.txt").write_text("A grey wall.\n\n  It   brightens: ü.\n")
    (folder / "table.csv").write_text(
        'path,caption\ndeep/short.mp4,"short, and grey"\nlong.mp4,A grey wall.\n'
    )
    rows = [{"path": "still.png", "caption": "a still"}, {"path": "gone.mp4", "caption": "nothing"}]
    (folder / "more.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (folder / "other.csv").write_text("name,score\na,1\n")
    for name in ("moving.ogv", "deep/alone.txt", "deep/a.csv", "deep/b.flv"):
        (folder / name).write_text("neither a video or image nor captions of one")
    assert run(folder) == 0
    said = capsys.readouterr()
    assert "note: captions of 1 files that are not here: gone.mp4\n" in said.err
    assert f"note: {folder / 'other.csv'} has the columns 'name', 'score'" in said.err
    assert "note: 4 files are no video or image: deep/a.csv, deep/alone.txt, deep/b.flv, …\n" in said.err
    bad = [line for line in said.err.splitlines() if "bad:" in line]
    assert len(bad) == 2 and "broken.mp4 cannot be read" in bad[0] and "text.webm cannot be read" in bad[1]
    assert "2 videos (27 frames" in said.out and "1 images" in said.out and "2 bad files" in said.out
    entries = {str(entry.path.relative_to(folder)): entry for entry in load_manifest(folder)}
    held = {name: (e.frames, e.fps, e.height, e.width, e.codec) for name, e in entries.items()}
    assert held == {
        "long.mp4": (21, 8.0, 32, 48, "h264"),
        "deep/short.mp4": (6, 25.0, 48, 32, "h264"),
        "still.png": (1, 0.0, 40, 30, "png"),
    }
    assert entries["long.mp4"].captions == ("A grey wall.", "It brightens: ü.")
    assert entries["deep/short.mp4"].captions == ("short, and grey",)
    assert entries["still.png"].captions == ("a still",)
    assert entries["long.mp4"].bytes == (folder / "long.mp4").stat().st_size
    assert entries["long.mp4"].duration == pytest.approx(21 / 8, abs=0.02)


def test_a_manifest_moves_with_its_folder_or_stands_elsewhere(folder, tmp_path):
    elsewhere = tmp_path / "lists" / "all.parquet"
    assert run(folder, "--out", elsewhere) == 0
    assert sorted(entry.path.resolve() for entry in load_manifest(elsewhere)) == sorted(
        folder.resolve() / name for name in ("deep/short.mp4", "long.mp4", "still.png")
    )
    assert run(folder) == 0
    before = (folder / "manifest.parquet").read_bytes()
    assert run(folder) == 0
    assert (folder / "manifest.parquet").read_bytes() == before, "indexing again changes nothing"
    folder.rename(tmp_path / "moved")
    assert all(entry.path.is_file() for entry in load_manifest(tmp_path / "moved"))


def test_what_is_wrong_is_said_in_one_sentence(folder, tmp_path, capsys):
    def sentence(*words):
        assert run(*words) == 1
        return capsys.readouterr().err.splitlines()[-1]

    assert "nowhere: give a folder" in sentence(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "holds no video or image" in sentence(tmp_path / "empty")
    (tmp_path / "empty" / "bad.mp4").write_text("no video")
    assert "none of the 1 files" in sentence(tmp_path / "empty")
    (folder / "table.csv").write_text("path,caption\nset/long.mp4,x\n")
    assert "no file set/long.mp4" in sentence(folder)
    (folder / "table.csv").unlink()
    (folder / "table.jsonl").write_text('{"path": "long.mp4", "caption": "x"}\n{"path": \n')
    assert "table.jsonl, line 2, is not JSON" in sentence(folder)
    with pytest.raises(ValueError, match="dit data index"):
        load_manifest(folder)
    with pytest.raises(ValueError, match="no such manifest"):
        load_manifest(tmp_path / "nowhere.parquet")
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(ValueError, match="is no parquet file"):
        load_manifest(tmp_path / "text.parquet")


def still(file: Path, level: int = 90) -> None:
    """A small grey image."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (16, 12), level).save(file)


def test_links_to_folders_are_followed_each_folder_once_and_broken_ones_are_named(tmp_path, capsys):
    home = tmp_path / "set"
    still(home / "own" / "a.png")
    still(tmp_path / "far" / "deep" / "b.png")
    (home / "another").symlink_to("own")  # comes first, and yet the folder keeps its own name
    (home / "far").symlink_to(tmp_path / "far")
    (home / "twice").symlink_to(tmp_path / "far" / "deep")
    (home / "own" / "up").symlink_to(home)
    (home / "own" / "self").symlink_to("self")
    (home / "file.png").symlink_to(tmp_path / "far" / "deep" / "b.png")
    (home / "gone.png").symlink_to("nowhere.png")
    assert run(home) == 0
    said = capsys.readouterr()
    assert "note: 2 links or folders cannot be followed: gone.png, own/self" in said.err
    assert "3 images" in said.out
    paths = {entry.path.relative_to(home).as_posix() for entry in load_manifest(home)}
    assert paths == {"own/a.png", "far/deep/b.png", "file.png"}, "paths go through the links, not around them"
    assert capsys.readouterr().err == "", "nothing is new"
    two = tmp_path / "two"
    two.mkdir()
    (two / "first").symlink_to(tmp_path / "far")
    (two / "second").symlink_to(tmp_path / "far")
    assert [path.relative_to(two).as_posix() for path in find_files(two)] == ["first/deep/b.png"]


def test_a_name_that_is_not_utf_8_is_named_and_left_out_before_it_is_decoded(tmp_path, capsys):
    still(tmp_path / "good.png")
    odd = os.fsencode(tmp_path) + b"/caf\xe9.png"
    try:
        shutil.copy(os.fsencode(tmp_path / "good.png"), odd)
    except OSError:
        pytest.skip("this file system takes no such name")
    assert run(tmp_path) == 0
    said = capsys.readouterr()
    assert r"caf\udce9.png': its name is not UTF-8: rename it" in said.err and "1 bad files" in said.out
    assert [entry.path.name for entry in load_manifest(tmp_path)] == ["good.png"]
    assert capsys.readouterr().err == "", "what was left out is not new"


def test_half_a_character_in_a_caption_does_not_end_an_index(tmp_path, capsys):
    for name in ("a.png", "b.png"):
        still(tmp_path / name)
    rows = [("a.png", "a cat \ud83d runs"), ("b.png", "a dog \U0001f600")]
    lines = [json.dumps({"path": name, "caption": caption}) for name, caption in rows]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    assert run(tmp_path) == 0
    assert "c.jsonl: 1 of 2 rows are left out: line 1" in capsys.readouterr().err
    entries = load_manifest(tmp_path)
    assert [entry.captions for entry in entries] == [(), ("a dog \U0001f600",)]
    file = tmp_path / "manifest.parquet"  # annotations of data sets come another way
    save_manifest(file, [replace(entries[0], captions=(rows[0][1],)), entries[1]])
    assert "half a character in the captions of" in capsys.readouterr().err
    assert load_manifest(file)[0].captions == ("a cat \ufffd runs",)


def test_a_manifest_says_which_files_came_after_it(folder, tmp_path, capsys):
    run(folder)
    load_manifest(folder)
    assert "older" not in capsys.readouterr().err, "the bad files of this folder are known"
    for name in ("new.png", "deep/newer.png"):
        still(folder / name)
    os.utime(folder / "new.png", (0, 0))  # copied with its old time
    load_manifest(folder)
    told = capsys.readouterr().err
    assert "manifest.parquet is older than" in told and "newer.png and 1 more: run `dit data index`" in told
    run(folder)
    capsys.readouterr()
    shutil.move(folder, tmp_path / "moved")
    assert len(load_manifest(tmp_path / "moved")) == 5 and capsys.readouterr().err == ""


def test_one_odd_file_does_not_end_an_index_and_what_was_done_to_pixels_is_counted(tmp_path, capsys):
    source = ["-v", "error", "-f", "lavfi", "-i", "testsrc2=size=96x64:rate=1/10000:duration=40000"]
    ffmpeg([*source, "-c:v", "mpeg4", str(tmp_path / "slow.mp4")])
    ffmpeg([*source, "-vf", "setsar=4/3", "-c:v", "mpeg4", str(tmp_path / "oblong.mp4")])
    Image.new("RGBA", (8, 8), (255, 0, 0, 9)).save(tmp_path / "clear.png")
    grey = [Image.new("L", (8, 8), level) for level in (10, 200)]
    grey[0].save(tmp_path / "moves.webp", save_all=True, append_images=grey[1:], duration=100)
    (tmp_path / "locked.png").mkdir()
    (tmp_path / "empty.gif").write_bytes(b"")
    assert run(tmp_path) == 0
    said = capsys.readouterr().out
    assert "3 videos (10 frames" in said and "1 images" in said and "1 bad files left out" in said
    assert "; 1 on white; 1 square pixels; 1 animations" in said
    held = {entry.path.name: (entry.treatment, entry.width) for entry in load_manifest(tmp_path)}
    assert held == {
        "clear.png": ("on white", 8),
        "moves.webp": ("", 8),
        "oblong.mp4": ("square pixels", 128),
        "slow.mp4": ("", 96),
    }


def test_a_manifest_without_a_column_is_refused(folder):
    import pyarrow.parquet

    run(folder)
    entries, file = load_manifest(folder), folder / "manifest.parquet"
    assert {entry.decoder for entry in entries if entry.reader != "image"} == {decoder()}
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(file).drop_columns(["treatment"]), file)
    with pytest.raises(ValueError, match="has no column treatment: make it again with `dit data index"):
        load_manifest(folder)


def test_training_clips_are_the_right_frames_at_the_wanted_rate(folder):
    run(folder)
    config = DataConfig(source=str(folder), frames=5, size=32, fps=4.0)
    data = VideoFiles(config, 0, load_manifest(folder), Compression())
    seen = set()
    for draw in range(12):
        clip = data[draw]
        name = clip.source.rsplit("/", 1)[-1]
        seen.add(name)
        levels = to_frames(clip.video)[:, 8, 8].float().mean(-1)
        steps = levels.diff() / 10
        if name == "long.mp4":  # 8 frames a second at 4: every second frame
            assert clip.video.shape == (3, 5, 32, 32) or clip.video.shape == (3, 5, 32, 48)
            assert torch.allclose(steps, torch.full((4,), 2.0), atol=0.3)
            assert abs((levels[0] - 20) / 10 - round(((levels[0] - 20) / 10).item())) < 0.3
        else:  # six frames at 25 a second last too short for five at 4 a second; an image is one frame
            assert clip.video.shape[1] == 1
    assert seen == {"long.mp4", "short.mp4", "still.png"}
    again = VideoFiles(config, 0, load_manifest(folder), Compression())
    assert torch.equal(data[5].video, again[5].video) and data[5].source == again[5].source


def harmed(folder) -> VideoFiles:
    """Three files, of which one changed after it was indexed."""
    run(folder)
    (folder / "long.mp4").write_bytes(b"changed after it was indexed")
    config = DataConfig(source=str(folder), frames=5, size=32, fps=8.0)
    return VideoFiles(config, 0, load_manifest(folder), Compression())


class Sometimes(VideoFiles):
    """Files of which one can be read only near its start, as on a disk that fails now and then."""

    def content(self, entry, start):
        if entry.path.name == "long.mp4" and start > 0.5:
            raise UnreadableVideo("not now")
        return torch.zeros(3, 1, 16, 16), ()


def test_which_clip_a_draw_has_does_not_depend_on_what_was_read_before(folder):
    run(folder)
    given = (
        DataConfig(source=str(folder), frames=5, size=32, fps=8.0),
        0,
        load_manifest(folder),
        Compression(),
    )
    long_lived = Sometimes(*given)
    sources = [long_lived[draw].source for draw in range(40)]
    assert sources == [Sometimes(*given)[draw].source for draw in range(40)]


@pytest.mark.parametrize("workers", [0, 2])
def test_training_names_and_counts_files_that_cannot_be_read(folder, tmp_path, capsys, workers):
    """Also those that it met in steps of which no line is written."""
    data, sources = harmed(folder), set()
    config = autoencoder_run(tmp_path / "run", steps=6, batch=2, log_every=100)
    capsys.readouterr()
    with Session(config, "autoencoder", "autoencoder.safetensors") as run:
        run.begin(torch.nn.Linear(1, 1), data, data, dict)
        for step, clips in run.steps(batches(data, shares_of(2, 0, 6, 0, 1), workers)):
            sources |= {clip.source for clip in clips}
            run.check_step(step, torch.tensor(1.0), torch.tensor(1.0))
            run.end_step(step, {"samples": 2}, gradient_norm=1.0)
    assert not any("long.mp4" in source for source in sources) and len(sources) == 2
    assert capsys.readouterr().err.count("skipped: ") == 1, "named once"
    assert list(run.skipped) == [str(folder / "long.mp4")]
    row = {"loss": 1.0, "smoothed": 1.0, "gradient_norm": 1.0, "samples_per_second": 1.0, "waited": 0.0}
    assert live_line(row, run.skipped).endswith("1 files skipped")


@pytest.mark.parametrize("workers", [0, 1])
def test_with_nothing_readable_one_sentence_says_why(folder, workers):
    data = harmed(folder)
    for entry in data.entries:
        entry.path.unlink()
    with pytest.raises(ValueError, match=r"^none of the 3 files of \S+ can be read: \S+: no such file$"):
        next(batches(data, [[0]], workers))


def test_held_out_files_that_go_bad_do_not_stop_training(folder, capsys):
    run(folder)
    data, held_out = open_data(DataConfig(source=str(folder), frames=5, size=32), 0, 4, Compression())
    assert len(held_out) == 1
    held_out.entries[0].path.unlink()
    sources = {held_out[draw].source for draw in range(3)}
    assert sources <= {str(entry.path) for entry in data.entries}
    said = capsys.readouterr().err
    assert said.count("skipped: ") == 1 and said.count("no held-out file can be read") == 1


@pytest.mark.parametrize(
    ("frames", "fps", "wanted", "times"),
    [(9, 4.0, 8.0, [k / 8 for k in range(17)]), (21, 10.0, 4.0, [k / 4 for k in range(9)])],
)
def test_a_clip_runs_at_its_file_s_own_speed(frames, fps, wanted, times):
    config = DataConfig(frames=17, fps=wanted)
    entry = Probe(frames, fps, 32, 48, "h264", frames / fps, 1, "decord", 0, 1, b"")
    indices, *_ = clip_of(entry, 0.4, config, Compression())
    assert len(indices) == len(times)
    for index, time in zip(indices, times, strict=True):
        assert abs((index - indices[0]) / fps - time) <= 1 / fps
    assert indices == sorted(indices) and indices[-1] - indices[0] == pytest.approx(times[-1] * fps, abs=1)


UNEVEN = [
    *(k / 24 for k in range(24)),
    *(1 + k / 5 for k in range(8)),
    3.1,
    *(3.2 + k / 12 for k in range(8)),
]


def plays_true(shown: list[int], times: list[float], fps: float) -> bool:
    """Whether there is a start from which a player shows these frames at even times, to a millisecond."""
    ends = [*times[1:], float("inf")]
    first = max(times[index] - k / fps for k, index in enumerate(shown))
    return first < min(ends[index] - k / fps for k, index in enumerate(shown)) + 1e-3


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("fps", [4.0, 7.0, 24.0])
def test_a_clip_of_a_file_of_variable_rate_plays_at_true_speed(tmp_path, suffix, fps):
    write_at(tmp_path / f"uneven.{suffix}", UNEVEN)
    assert run(tmp_path) == 0
    (entry,) = load_manifest(tmp_path)
    assert seconds_of(entry) == pytest.approx(UNEVEN, abs=1e-3)
    config = DataConfig(source=str(tmp_path), frames=17, size=32, fps=fps)
    data, starts = VideoFiles(config, 0, [entry], Compression()), set()
    for draw in range(12):
        levels = to_frames(data[draw].video)[:, 8, 8].float().mean(-1)
        shown = ((levels - 20) / 5).round().int().tolist()
        assert len(shown) == min(17, 1 + 4 * int(UNEVEN[-1] * fps / 4)) and plays_true(shown, UNEVEN, fps)
        starts.add(shown[0])
    assert len(starts) > 2
    by_rate, *_ = clip_of(replace(entry, times=b""), 0.4, config, Compression())
    assert not plays_true(by_rate, UNEVEN, fps), "what a constant rate would show"


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
@pytest.mark.parametrize("fps", [3.0, 12.5, 24000 / 1001, 30.0, 59.94])
def test_a_file_of_constant_rate_has_no_times_whatever_its_clock(tmp_path, suffix, fps):
    write_video(tmp_path / "even.mp4", ramp(21), fps, {})
    file = tmp_path / f"copy.{suffix}"
    ffmpeg(["-v", "error", "-i", str(tmp_path / "even.mp4"), "-c:v", "mpeg4", str(file)])
    assert probe(file).frames == 21 and seconds_of(probe(file)) == []


def test_a_run_depends_on_what_files_hold_and_not_on_where_they_lie_or_who_reads_them(folder, tmp_path):
    run(folder)
    entries = load_manifest(folder)
    assert [bool(entry.checksums) for entry in entries].count(False) == 1, "the image"

    def hashed(entries: Sequence) -> str:
        return files_hash(VideoFiles(DataConfig(), 0, RowList(entries), Compression()))

    def changed(**values) -> str:
        return hashed([replace(entries[0], **values), *entries[1:]])

    before, first = hashed(entries), entries[0]
    shutil.copytree(folder, tmp_path / "moved")
    assert hashed(load_manifest(tmp_path / "moved")) == before
    apart = {"path": Path("elsewhere.mp4"), "reader": "sequential", "decoder": "another", "codec": "another"}
    assert all(changed(**{name: value}) == before for name, value in apart.items())
    flipped = bytes([first.checksums[0] ^ 1]) + first.checksums[1:]
    held = {
        "captions": ("another",),
        "checksums": flipped,
        "times": b"1234",
        "fps": 3.0,
        "treatment": "square pixels",
        "height": 8,
        "frames": 9,
    }
    image = [replace(e, bytes=e.bytes + 1) if not e.checksums else e for e in entries]
    different = {changed(**{name: value}) for name, value in held.items()} | {
        hashed(entries[::-1]),
        hashed(image),
        before,
    }
    assert len(different) == len(held) + 3
    held_out = VideoFiles(DataConfig(), 0, entries[:1], Compression())
    assert files_hash(held_out, held_out) != files_hash(held_out)


def test_real_clips_make_a_manifest(real_clips, tmp_path, capsys):
    few = tmp_path / "few"
    few.mkdir()
    for name in (
        "torchcodec_nasa_13013_rotated.mp4",
        "torchcodec_discard_first_keyframe.mp4",
        "decord_corrupted.mp4",
    ):
        (few / name).symlink_to(real_clips / name)
    (few / "two_streams.mp4").symlink_to(real_clips / "torchcodec_nasa_13013.mp4")
    assert run(few) == 0
    said = capsys.readouterr()
    assert "bad: " in said.err and "decord_corrupted.mp4" in said.err
    assert "2 video streams; stream 0, the first, is read" in said.err
    held = {e.path.name: (e.frames, e.height, e.width, round(e.fps, 2)) for e in load_manifest(few)}
    assert held == {
        "torchcodec_nasa_13013_rotated.mp4": (17, 480, 270, 29.97),
        "torchcodec_discard_first_keyframe.mp4": (25, 64, 64, 25.0),
        "two_streams.mp4": (325, 180, 320, 25.0),
    }


@pytest.mark.parametrize("name", ["a.mp4", "c.csv", "table.parquet", "new.txt"])
def test_a_manifest_replaces_nothing_else(folder, capsys, name):
    import pyarrow
    import pyarrow.parquet

    out = folder / name
    if name == "table.parquet":
        pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), out)
    elif name != "new.txt" and not out.exists():
        out.write_text("path,caption\nlong.mp4,a cat\n")
    before = out.read_bytes() if out.exists() else None
    assert run(folder, "--out", str(out)) == 1
    assert "give another name" in (said := capsys.readouterr().err) or "ends in .parquet" in said
    assert (out.read_bytes() if out.exists() else None) == before
