"""Proves that a video that is written comes back, appears whole or not at all, and is shown as it is."""

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests.test_video import by_pyav, noise
from vae.data import video
from vae.data.sheets import contact_sheet
from vae.data.video import probe, read_frames, to_video
from vae.data.write import read_metadata, to_frames, write_gif, write_png_frames, write_stream, write_video


def own_part(record: dict) -> dict:
    """A record without the label that every file has."""
    return {name: value for name, value in record.items() if name not in ("label", "AIGC")}


def halve_chroma(frames_THWC: torch.Tensor) -> torch.Tensor:
    """Frames with the chroma of BT.709 averaged over 2 x 2 pixels, which is all that yuv420p can hold."""
    red, green, blue = frames_THWC.float().unbind(-1)
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    kept = []
    for chroma in (blue - luma, red - luma):
        mean = torch.nn.functional.avg_pool2d(chroma, 2, ceil_mode=True)
        mean = mean.repeat_interleave(2, 1).repeat_interleave(2, 2)
        kept.append(luma + mean[:, : luma.shape[1], : luma.shape[2]])
    blue, red = kept
    green = (luma - 0.2126 * red - 0.0722 * blue) / 0.7152
    return torch.stack([red, green, blue], -1).clamp(0, 255)


@pytest.mark.parametrize(("height", "width"), [(48, 64), (47, 61)])
def test_a_written_video_comes_back_with_its_record(tmp_path, height, width):
    record = {"prompt": 'ü 日本 "quoted" = ; # \\ \n new line', "image_png": "QUJD" * 50_000, "seed": 7}
    clip, file = noise()[:, :, :height, :width], tmp_path / "folder" / "clip.mp4"
    write_video(file, clip, 12.5, record)
    size = {"frames": 9, "height": height, "width": width, "fps": 12.5}
    assert own_part(read_metadata(file)) == record | {"video": size}
    known = probe(file)
    assert (known.frames, known.fps) == (9, 12.5)
    assert (known.height, known.width) == (height + height % 2, width + width % 2)
    back = read_frames(file, range(9))[:, :height, :width]
    error = (back.float() - to_frames(clip).float()).abs().mean()
    halved = (halve_chroma(to_frames(clip)) - to_frames(clip).float()).abs().mean()
    assert error < halved + 1, "yuv420p alone costs as much"
    with av.open(str(file)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
    data = file.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "a browser needs the index before the frames"
    assert [p.name for p in file.parent.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize(("fps", "height", "width"), [(8.0, 47, 61), (30000 / 1001, 48, 64)])
def test_a_lossless_video_comes_back_to_the_bit_by_every_reader(tmp_path, monkeypatch, fps, height, width):
    record = {"prompt": 'ü 日本 "quoted" = ; # \\ \n new line', "image_png": "QUJD" * 50_000, "seed": 7}
    frames = torch.randint(256, (9, height, width, 3), dtype=torch.uint8)
    file = tmp_path / "clip.mkv"
    write_video(file, to_video(frames), fps, record)
    size = {"frames": 9, "height": height, "width": width, "fps": fps}
    assert own_part(read_metadata(file)) == record | {"video": size}
    known, some = probe(file), [7, 0, 3]
    assert (known.frames, known.height, known.width, known.treatment) == (9, height, width, "")
    assert known.fps == pytest.approx(fps, rel=1e-9)
    by_another, count = by_pyav(file, set(range(9)))
    assert count == 9 and all((by_another[k] == frames[k].numpy()).all() for k in range(9))
    for reader in ("decord", "sequential"):
        monkeypatch.setattr(video, "SEEKABLE", {"ffv1"} if reader == "decord" else set())
        video.probe_once.cache_clear()
        own = probe(file)
        assert own.reader == reader
        assert torch.equal(read_frames(file, range(9), own), frames)
        assert torch.equal(read_frames(file, some, own), frames[some])
    before = file.read_bytes()
    write_video(file, to_video(frames), fps, record)
    assert file.read_bytes() == before, "equal frames and records are equal bytes"
    damaged = bytearray(before)
    damaged[len(before) - len(before) // 3] ^= 1  # in a late frame, after the record
    file.write_bytes(damaged)
    with pytest.raises(video.UnreadableVideo, match=r"clip\.mkv"):
        read_frames(file, range(9))


def test_a_name_may_hold_a_colon(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video("take:2.mp4", noise(1), 8, {"seed": 7})
    assert read_metadata("take:2.mp4")["seed"] == 7


def test_flat_colours_survive_writing(tmp_path):
    colours = torch.tensor(
        [(215, 20, 30), (30, 70, 235), (255, 235, 40), (255, 255, 255), (0, 0, 0)], dtype=torch.uint8
    )
    frames = colours[:, None, None].expand(-1, 32, 32, -1)
    write_video(tmp_path / "flat.mp4", to_video(frames), 8, {})
    back = read_frames(tmp_path / "flat.mp4", range(5))
    assert (back.int() - frames.int()).abs().max() <= 4


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    file = tmp_path / "clip.mp4"
    write_video(file, noise(), 8, {"which": "old"})

    broken = tmp_path / "bin" / "ffmpeg"
    broken.parent.mkdir()
    for script, words in (
        (
            "head -c 100 > /dev/null; echo half > ${!##file:}; echo 'No space left' >&2; exit 1",
            "No space left$",
        ),
        ("exec true", "ffmpeg ended with status 0"),
        ("kill -9 $$", "ffmpeg ended with status -9"),
        ('[[ "$*" == *faststart* ]] || { cat > /dev/null; exit 0; }; echo Error: full >&2; exit 1', "full$"),
    ):
        broken.write_text(f"#!/bin/bash\n{script}\n")
        broken.chmod(0o755)
        with monkeypatch.context() as patch:
            patch.setattr("imageio_ffmpeg.get_ffmpeg_exe", lambda: str(broken))
            with pytest.raises(ValueError, match=f"clip.mp4 cannot be written: .*{words}"):
                write_video(file, noise(400), 8, {"which": "new"})
    broken.unlink()
    broken.parent.rmdir()
    assert read_metadata(file)["which"] == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_stream_is_the_whole_video(tmp_path):
    """Parts of any length give the same file but for what is only known at the end."""
    clip, came = noise(11, 47, 61), []

    def parts():
        for part in clip.split((1, 4, 4, 2), dim=1):
            came.append(part.shape[1])
            yield part

    write_video(tmp_path / "whole.mp4", clip, 12.5, {"parts": [1, 4, 4, 2]})
    write_stream(tmp_path / "stream.mp4", parts(), 12.5, lambda: {"parts": came})
    files = [tmp_path / name for name in ("whole.mp4", "stream.mp4")]
    assert files[0].read_bytes() == files[1].read_bytes()
    size = {"frames": 11, "height": 47, "width": 61, "fps": 12.5}
    assert own_part(read_metadata(files[1])) == {"parts": came, "video": size}
    assert by_pyav(files[1], set())[1] == 11


def test_a_stream_that_breaks_off_leaves_nothing(tmp_path):
    def breaks():
        yield noise(5)
        raise KeyError("the decoder")

    with pytest.raises(KeyError, match="the decoder"):
        write_stream(tmp_path / "clip.mp4", breaks(), 8, dict)
    with pytest.raises(ValueError, match=r"clip\.mp4 cannot be written: the video has no frame"):
        write_stream(tmp_path / "clip.mp4", iter([]), 8, dict)
    assert list(tmp_path.iterdir()) == []


def test_a_video_without_a_record_says_so(tmp_path):
    arguments = [
        "-v",
        "error",
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=32x32:duration=0.2",
        str(tmp_path / "other.mp4"),
    ]
    assert video.ffmpeg(arguments).returncode == 0
    with pytest.raises(ValueError, match="carries no record"):
        read_metadata(tmp_path / "other.mp4")


def test_bytes_and_floats_convert_both_ways_without_loss():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(2, -1, -1, 3)
    floats = to_video(levels)
    assert torch.equal(to_frames(floats), levels)
    assert (floats.min(), floats.max()) == (-1, 1)
    assert torch.equal(
        to_frames(torch.tensor([-7.0, 7.0]).view(1, 1, 1, 2)).flatten(), torch.tensor([0, 255])
    )


def test_gif_and_png_frames_hold_the_video(tmp_path):
    clip = noise(4)
    write_png_frames(tmp_path / "frames", noise(6))
    (tmp_path / "frames" / "notes.png").touch()
    with pytest.raises(ValueError, match=r"holds notes\.png: give the frames a folder of their own"):
        write_png_frames(tmp_path / "frames", clip)
    (tmp_path / "frames" / "notes.png").unlink()
    write_png_frames(tmp_path / "frames", clip)
    files = sorted((tmp_path / "frames").iterdir())
    assert len(files) == 4, "the longer video's are gone"
    assert torch.equal(torch.cat([read_frames(file, [0]) for file in files]), to_frames(clip))
    write_gif(tmp_path / "clip.gif", clip, 8)
    with Image.open(tmp_path / "clip.gif", formats=["GIF"]) as gif:
        assert (gif.n_frames, gif.info["loop"]) == (4, 0)
        for index, frame in enumerate(to_frames(clip)):
            gif.seek(index)
            assert gif.info["duration"] == pytest.approx(125, abs=10)
            assert np.abs(np.array(gif.convert("RGB")).astype(int) - frame.numpy()).mean() < 12


@pytest.fixture(scope="module")
def square_font(tmp_path_factory) -> str:
    """A font in which the letters 日, 本 and a are black squares."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    for corner, draw in zip(
        [(0, 0), (0, 900), (900, 900), (900, 0)], [pen.moveTo, *[pen.lineTo] * 3], strict=True
    ):
        draw(corner)
    pen.closePath()
    square, builder = pen.glyph(), FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(letter): "square" for letter in "日本a"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": square})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Square", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    file = tmp_path_factory.mktemp("fonts") / "square.ttf"
    builder.save(file)
    return str(file)


def test_a_caption_is_drawn_in_a_font_that_has_its_letters_or_a_line_says_which_package_does(
    square_font, tmp_path, monkeypatch, capsys
):
    clip, fonts = torch.zeros(3, 1, 64, 64), []
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: fonts)
    contact_sheet([clip], ["日本"], tmp_path / "boxes.png")
    said = capsys.readouterr().err
    assert "'日本'" in said and "fonts-noto-cjk" in said and said.count("\n") == 1
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    fonts += [str(tmp_path / "broken.ttf"), square_font]
    contact_sheet([clip], ["日本"], tmp_path / "squares.png")
    assert capsys.readouterr().err == ""
    above = np.array(Image.open(tmp_path / "squares.png", formats=["PNG"]).convert("L"))[:30]
    assert (above < 60).sum() == pytest.approx(2 * (0.9 * 18) ** 2, rel=0.15)  # two black squares
    contact_sheet([clip], ["a ü"], tmp_path / "latin.png")  # which matplotlib's own font has
    assert capsys.readouterr().err == ""


def test_a_caption_without_spaces_breaks_where_the_sheet_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", list)
    heights = []
    for caption in ("日" * 10, "日" * 100):
        contact_sheet([torch.zeros(3, 1, 64, 64)], [caption], tmp_path / "sheet.png")
        heights.append(Image.open(tmp_path / "sheet.png", formats=["PNG"]).size)
    assert heights[0][0] == heights[1][0] and heights[1][1] >= heights[0][1] + 2 * 24


def test_a_contact_sheet_shows_every_frame_enlarged_and_the_caption(tmp_path):
    colours = torch.tensor([(200, 10, 20), (10, 200, 20), (10, 20, 200), (200, 200, 20), (200, 20, 200)])
    clip = to_video(colours.byte()[:, None, None].expand(-1, 64, 64, -1))
    contact_sheet([clip, clip], ["a caption", "ü und 日本"], tmp_path / "sheet.png")
    contact_sheet([clip, clip], ["", ""], tmp_path / "silent.png")
    sheet, silent = (
        np.array(Image.open(tmp_path / name, formats=["PNG"])).astype(int)
        for name in ("sheet.png", "silent.png")
    )
    places = []
    for colour in colours.numpy():
        rows, columns = np.nonzero((sheet == colour).all(-1))
        assert len(rows) == 2 * 192 * 192, "two videos of 64 pixels, three times as large"
        places.append(columns.min())
    assert places == sorted(places), "frames run from left to right"
    assert (sheet.sum(-1) < 100).sum() > 200 > (silent.sum(-1) < 100).sum() == 0


def test_a_caption_without_end_takes_no_more_than_a_few_lines(tmp_path):
    contact_sheet([noise(2)], ["n" * 300_000 + " (seed 0)"], tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png", formats=["PNG"]) as sheet:
        assert sheet.height < 1000
