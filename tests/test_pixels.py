"""Proves that pixels are as a player shows them, animations are videos, and that damage is seen."""

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import DATA
from tests.tiny import seconds_of
from vae.data import video
from vae.data.damage import damage_in_log
from vae.data.images import image_frames, is_animation
from vae.data.video import UnreadableVideo, probe, read_frames
from vae.data.write import ffmpeg, write_gif

MOVING = "testsrc2=size=96x64:rate=15:duration=2"


def encode(file: Path, *arguments: str, source: str = MOVING, raw: bytes | None = None) -> Path:
    """A file that ffmpeg makes of a synthetic source, or of raw frames, whose format begins the arguments."""
    given = [] if raw else ["-f", "lavfi", "-i", source]
    done = ffmpeg(["-v", "error", "-y", *given, *arguments, str(file)], raw)
    assert done.returncode == 0, done.stderr.decode()
    return file


def plain(file: Path, filters: str = "null") -> np.ndarray:
    """Every frame as PyAV decodes it and its libraries' filters make it, T H W C."""
    frames = []
    with av.open(str(file)) as container:
        graph = av.filter.Graph()
        source = graph.add_buffer(template=container.streams.video[0])
        for text in filters.split(","):
            name, _, options = text.partition("=")
            after = graph.add(name, options)
            source.link_to(after)
            source = after
        source.link_to(graph.add("buffersink"))
        graph.configure()
        for frame in [*container.decode(video=0), None]:
            graph.push(frame)
            while True:
                try:
                    frames.append(graph.pull().to_ndarray(format="rgb24"))
                except (av.error.BlockingIOError, av.error.EOFError):
                    break
    return np.stack(frames)


@pytest.mark.parametrize(
    ("name", "shape", "width", "height"),
    [
        ("a.mp4", "4/3", 128, 64),
        ("b.mkv", "9/16", 96, 114),
        ("c.mpg", "32/27", 114, 64),
        ("d.avi", "2", 192, 64),
    ],
)
def test_pixels_that_are_not_square_become_square(tmp_path, name, shape, width, height):
    codec = {"mpg": "mpeg2video", "avi": "mpeg4"}.get(name[2:], "libx264")
    encode(tmp_path / name, "-vf", f"setsar={shape}", "-c:v", codec, "-pix_fmt", "yuv420p")
    known = probe(tmp_path / name)
    assert (known.width, known.height, known.treatment) == (width, height, "square pixels")
    assert known.reader == "sequential", "decord gives the pixels as they are stored"
    got = read_frames(tmp_path / name, [20, 3, 20], known)
    expected = plain(tmp_path / name, f"scale={width}:{height}")[[20, 3, 20]]
    apart = [np.abs(got.numpy().astype(int) - np.roll(expected, by, (1, 2))).mean() for by in (0, 2, -2)]
    assert apart[0] < 5 < 2 * apart[0] < min(apart[1:])


def test_a_turned_file_of_oblong_pixels_is_upright_and_square(tmp_path):
    encode(tmp_path / "a.mp4", "-vf", "setsar=4/3", "-c:v", "libx264", "-pix_fmt", "yuv420p")
    turned = ["-v", "error", "-display_rotation", "90", "-i", str(tmp_path / "a.mp4"), "-c", "copy"]
    assert ffmpeg([*turned, str(tmp_path / "b.mp4")]).returncode == 0
    known = probe(tmp_path / "b.mp4")
    assert (known.width, known.height) == (64, 128)
    level, got = (read_frames(tmp_path / name, [7])[0].numpy().astype(int) for name in ("a.mp4", "b.mp4"))
    assert np.abs(got - np.rot90(level)).mean() < 8 < 40 < np.abs(got - np.rot90(level, -1)).mean()


@pytest.mark.parametrize(
    ("shape", "words"), [("1000/1001", None), ("20", r"pixels are said to be 20:1"), ("1/20", "1:20")]
)
def test_pixels_as_good_as_square_stay_and_absurd_ones_are_refused(tmp_path, shape, words):
    file = encode(tmp_path / "a.mp4", "-vf", f"setsar={shape}", "-c:v", "libx264", "-pix_fmt", "yuv420p")
    if words:
        with pytest.raises(UnreadableVideo, match=rf"a\.mp4 cannot be read: .*{words}"):
            probe(file)
    else:
        assert probe(file).treatment == "" and probe(file).width == 96


CLEAR = {  # name -> how it is encoded; the last is all but without loss
    "a.mov": ["-c:v", "qtrle", "-pix_fmt", "argb"],
    "b.mov": ["-c:v", "png", "-pix_fmt", "rgba"],
    "c.mov": ["-c:v", "prores_ks", "-profile:v", "4444", "-pix_fmt", "yuva444p10le"],
    "d.webm": ["-c:v", "libvpx", "-pix_fmt", "yuva420p", "-b:v", "2M", "-auto-alt-ref", "0"],
    "e.webm": ["-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p", "-lossless", "1"],
}


@pytest.mark.parametrize("name", CLEAR)
def test_what_is_transparent_in_a_video_is_white_as_in_a_still(tmp_path, name):
    alpha = np.repeat(np.linspace(0, 255, 8).round(), 8).astype(np.uint8)
    picture = np.broadcast_to(np.array([200, 40, 60, 0], dtype=np.uint8), (32, 64, 4)).copy()
    picture[..., 3] = alpha
    raw = ["-f", "rawvideo", "-pix_fmt", "rgba", "-s", "64x32", "-r", "8", "-i", "pipe:0"]
    encode(tmp_path / name, *raw, *CLEAR[name], raw=picture.tobytes() * 4)
    Image.fromarray(picture).save(tmp_path / "still.png")
    known, still = probe(tmp_path / name), read_frames(tmp_path / "still.png", [0])[0]
    share = alpha[:, None] / 255
    expected = picture[0, :, :3] * share + 255 * (1 - share)
    assert np.abs(still[9].numpy() - expected).max() <= 1
    assert known.treatment == probe(tmp_path / "still.png").treatment == "on white"
    away = 3 if name in ("a.mov", "b.mov") else 12  # of colours at half the resolution, and of limited range
    assert np.abs(read_frames(tmp_path / name, [3], known)[0, 9, 4::8].numpy() - expected[4::8]).max() <= away


def shown(codes: np.ndarray, curve: str) -> np.ndarray:
    """Light in 203 cd/m2 of 10-bit YCbCr in BT.2020, as BT.709 for a display of gamma 2.4, 0 to 255."""
    y, cb, cr = (codes[:, 0] - 64) / 876, (codes[:, 1] - 512) / 896, (codes[:, 2] - 512) / 896
    red, blue = 0.2627, 0.0593
    r, b = y + 2 * (1 - red) * cr, y + 2 * (1 - blue) * cb
    signal = np.clip(np.stack([r, (y - red * r - blue * b) / (1 - red - blue), b], 1), 0, 1)
    if curve == "smpte2084":
        power = signal ** (32 / 2523)
        light = 10_000 * (np.maximum(power - 3424 / 4096, 0) / (18.8515625 - 18.6875 * power)) ** (
            16384 / 2610
        )
    else:  # the gamma of 1.2 of a display of 1,000 cd/m2 by channel, as zimg has it
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
        light = 1000 * light**1.2
    to_709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
    return 255 * np.clip(light / 203 @ to_709.T, 0, 1) ** (1 / 2.4)


@pytest.mark.parametrize(("curve", "white"), [("smpte2084", 573), ("arib-std-b67", 721)])
@pytest.mark.parametrize("named", [True, False])
def test_reference_white_of_hdr_is_white_and_the_rest_follows_its_curve(tmp_path, curve, white, named):
    """ITU-R BT.2100 and BT.2408: 203 cd/m2 is code 573 in PQ, and 721 in HLG."""
    codes = [(white, 512, 512), (64, 512, 512), (940, 512, 512), (400, 512, 512), (500, 512, 512)]
    codes = np.array([*codes, (300, 560, 470), (350, 560, 470), (400, 490, 540)])
    raw = b"".join(np.tile(codes[:, k].repeat(8), 16).astype("<u2").tobytes() for k in range(3))
    source = ["-f", "rawvideo", "-pix_fmt", "yuv444p10le", "-s", f"{8 * len(codes)}x16", "-r", "5"]
    tags = ":color_primaries=bt2020:colorspace=bt2020nc" if named else ""
    tags = ["-vf", f"setparams=range=tv:color_trc={curve}{tags}", "-c:v", "ffv1"]
    file = encode(tmp_path / "a.mkv", *source, "-i", "pipe:0", *tags, raw=raw * 2)
    known = probe(file)
    got = read_frames(file, [1], known)[0, 8, 4::8].numpy()
    assert known.treatment == ("" if named else "BT.2020 assumed, ") + "203 cd/m2 to white"
    assert (got[0] == 255).all() and (got[1] == 0).all()
    assert np.abs(got - shown(codes, curve)).max() < 1.6


@pytest.mark.parametrize("name", ["a.mp4", "b.mpg", "late.mpg"])
def test_interlaced_frames_are_deinterlaced_each_to_one(tmp_path, name):
    source = "testsrc2=size=96x64:rate=50:duration=1"
    woven = ["-vf", "tinterlace=interleave_top", "-flags", "+ildct+ilme", "-pix_fmt", "yuv420p", "-g", "5"]
    codec = "mpeg2video" if name == "b.mpg" else "libx264"
    if name == "late.mpg":  # the first frames say that all are whole
        encode(tmp_path / "0.h264", "-c:v", codec, "-pix_fmt", "yuv420p", source=source)
        encode(tmp_path / "1.h264", *woven, "-c:v", codec, source=source)
        parts = [(tmp_path / part).read_bytes() for part in ("0.h264", "1.h264")]
        (tmp_path / name).write_bytes(b"".join(parts))
    else:
        encode(tmp_path / name, *woven, "-c:v", codec, source=source)
    known, raw = probe(tmp_path / name), plain(tmp_path / name)
    assert known.treatment == "deinterlaced" and known.frames == len(raw)
    fields = plain(encode(tmp_path / "whole.mkv", "-c:v", "ffv1", source=source))[::2]
    first = len(raw) - 25
    got = read_frames(tmp_path / name, range(first, known.frames), known).numpy()
    apart = [np.abs(frames.astype(int) - fields).mean() for frames in (got, raw[first:])]
    assert apart[0] < 0.75 * apart[1]
    again = read_frames(tmp_path / name, [known.frames - 1, first + 3], known).numpy()
    assert np.array_equal(again, got[[-1, 3]]), "a frame has its neighbours whichever are asked for"
    right = plain(tmp_path / name, "bwdif=mode=send_frame:deint=interlaced")
    assert np.abs(got.astype(int) - right[first:]).mean() < 0.5


PICTURES = np.random.default_rng(0).integers(0, 256, (6, 20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["a.png", "b.webp", "c.apng", "d.gif"])
def test_an_animation_is_a_video_of_its_frames_and_times(tmp_path, name):
    pictures = PICTURES // 128 * 255 if name == "d.gif" else PICTURES  # eight colours fit a palette
    first, *rest = map(Image.fromarray, pictures)
    more = {"lossless": True} if name == "b.webp" else {"format": "PNG"} if name == "c.apng" else {}
    uneven = [100, 100, 300, 100, 100, 200]
    for label, times in (("even", 125 if name != "d.gif" else 120), ("uneven", uneven)):
        file = tmp_path / label / name
        file.parent.mkdir()
        first.save(file, save_all=True, append_images=rest, duration=times, **more)
        known = probe(file)
        assert is_animation(file) and (known.frames, known.reader, known.streams) == (6, "animation", 1)
        assert np.array_equal(read_frames(file, [4, 0, 4], known).numpy(), pictures[[4, 0, 4]])
        assert known.decoder.startswith("Pillow ")
        if label == "even":
            assert known.fps == pytest.approx(1000 / times) and seconds_of(known) == []
        else:
            assert seconds_of(known) == pytest.approx([0.0, 0.1, 0.2, 0.5, 0.6, 0.7])
    with pytest.raises(UnreadableVideo, match="has changed since it was indexed"):
        read_frames(file, [2], replace(known, checksums=known.checksums[::-1]))


def test_a_gif_of_ours_is_read_and_what_is_transparent_in_one_is_white(tmp_path):
    grey = torch.linspace(-1, 1, 8)[None, :, None, None].expand(3, 8, 16, 24)
    write_gif(tmp_path / "a.gif", grey, 10)
    known = probe(tmp_path / "a.gif")
    assert (known.frames, known.fps, known.treatment) == (8, 10.0, "")
    levels = read_frames(tmp_path / "a.gif", range(8), known).float().mean((1, 2, 3))
    assert (levels - torch.linspace(0, 255, 8)).abs().max() <= 1
    clear = np.zeros((4, 8, 8, 4), dtype=np.uint8)
    for k in range(4):
        clear[k, :, 2 * k : 2 * k + 2] = 255, 0, 0, 255
    first, *rest = map(Image.fromarray, clear)
    first.save(tmp_path / "b.gif", save_all=True, append_images=rest, disposal=2, duration=50)
    for k, (frame, seconds, treatment) in enumerate(image_frames(tmp_path / "b.gif")):
        expected = np.where(clear[k, ..., 3:] > 0, [255, 0, 0], 255)
        assert np.array_equal(frame.numpy(), expected) and (seconds, treatment) == (0.05, "on white")
    assert probe(tmp_path / "b.gif").treatment == "on white"


def test_a_picture_before_an_animation_is_no_frame_of_it_and_a_still_is_an_image(tmp_path):
    first, *rest = map(Image.fromarray, PICTURES)
    first.save(tmp_path / "a.png", save_all=True, append_images=rest, default_image=True, duration=40)
    assert np.array_equal(read_frames(tmp_path / "a.png", range(5)).numpy(), PICTURES[1:])
    for name in ("b.png", "b.gif", "b.webp", "b.jpg"):
        first.save(tmp_path / name)
        assert probe(tmp_path / name).reader == "image" and not is_animation(tmp_path / name)


@pytest.mark.parametrize("name", ["a.gif", "b.png", "c.webp"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_cut_animation_is_refused(tmp_path, name, kept):
    first, *rest = map(Image.fromarray, PICTURES)
    first.save(tmp_path / name, save_all=True, append_images=rest, duration=40)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(kept * len(data))])
    with pytest.raises(UnreadableVideo, match=rf"{name} cannot be read"):
        probe(tmp_path / name)


def test_a_rule_that_is_not_ours_is_refused(tmp_path):
    file = encode(tmp_path / "a.mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p")
    with pytest.raises(UnreadableVideo, match="by another rule, sharpened: run `dit data index` again"):
        read_frames(file, [0], replace(probe(file), treatment="sharpened"))


def test_a_list_of_other_files_is_no_video(tmp_path):
    encode(tmp_path / "secret.mkv", "-c:v", "ffv1")
    for name, text in (
        ("a.mp4", "ffconcat version 1.0\nfile secret.mkv\n"),
        ("b.mp4", "#EXTM3U\nsecret.mkv\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(UnreadableVideo, match=rf"{name} cannot be read"):
            probe(tmp_path / name)


HARMED = {
    "a.mkv": ["-c:v", "libx264", "-g", "10"],
    "b.webm": ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8"],
    "c.webm": ["-c:v", "libvpx", "-deadline", "realtime"],
    "d.avi": ["-c:v", "mjpeg"],
    "e.mkv": ["-c:v", "mjpeg"],
    "f.mov": ["-c:v", "mjpeg"],
    "g.mkv": ["-c:v", "ffv1"],
    "h.mkv": ["-c:v", "libvpx", "-deadline", "realtime"],  # the container has checksums
}


@pytest.mark.parametrize("name", HARMED)
def test_a_file_cut_or_with_bytes_turned_is_refused_and_the_whole_one_is_not(tmp_path, name):
    file = encode(tmp_path / name, *HARMED[name], "-pix_fmt", "yuv420p")
    assert probe(file).frames == 30
    data = file.read_bytes()
    middle = len(data) // 2
    turned = bytes(255 - byte for byte in data[middle : middle + 200])
    harmed = {"cut": data[: int(0.6 * len(data))], "turned": data[:middle] + turned + data[middle + 200 :]}
    if name == "c.webm":
        del harmed["turned"]  # any bits are a picture to VP8
    for how, bytes_ in harmed.items():
        (tmp_path / f"{how}-{name}").write_bytes(bytes_)
        with pytest.raises(UnreadableVideo, match=rf"{how}-{name} (cannot be read|is cut)"):
            probe(tmp_path / f"{how}-{name}")


@pytest.mark.parametrize("sound", [False, True])
def test_frames_are_held_against_the_file_s_duration_and_sound_may_be_longer(tmp_path, sound):
    """Of a Matroska file of unknown size, as live ones are, cut between two clusters no decoder complains."""
    tone = ["-f", "lavfi", "-i", "sine=d=4", "-c:a", "pcm_s16le"] if sound else []
    encoded = [*tone, "-pix_fmt", "yuv420p", "-c:v", "mjpeg", "-cluster_time_limit", "200"]
    whole = encode(tmp_path / "whole.mkv", *encoded)
    assert (probe(whole).frames, round(probe(whole).duration)) == (30, 4 if sound else 2)
    data, segment, cluster = whole.read_bytes(), b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"
    size = data.index(segment) + 4
    clusters = (data[:size] + b"\x01" + b"\xff" * 7 + data[size + 8 :]).split(cluster)
    (tmp_path / "cut.mkv").write_bytes(cluster.join(clusters[:5]))
    with pytest.raises(UnreadableVideo, match=r"cut\.mkv is cut: \d\.\d\d s of its [24]\.00 s are missing"):
        probe(tmp_path / "cut.mkv")


@pytest.mark.parametrize("kept", [0.5, 0.7, 0.8, 0.9, 0.99])
def test_a_cut_avi_is_refused_wherever_it_is_cut(tmp_path, kept):
    """ffmpeg takes the length of a cut AVI from the bytes that are there."""
    sound = ["-f", "lavfi", "-i", "sine=d=2", "-pix_fmt", "yuv420p", "-c:v", "mjpeg", "-c:a", "pcm_s16le"]
    whole = encode(tmp_path / "whole.avi", *sound)
    assert probe(whole).frames == 30
    (tmp_path / "cut.avi").write_bytes(whole.read_bytes()[: int(kept * whole.stat().st_size)])
    with pytest.raises(
        UnreadableVideo, match=r"cut\.avi cannot be read: it is cut: of \d+ bytes \d+ are there"
    ):
        probe(tmp_path / "cut.avi")


def test_a_decoder_s_words_about_sound_and_about_frames_before_the_start_are_no_damage_in_log():
    log = "[info] Input #0\n[aac @ 0x1] [error] Input buffer exhausted"
    log += "\n[h264 @ 0x2] [error] co located POCs unavailable"
    assert damage_in_log(f"{log}\n[swscaler @ 0x3] [warning] deprecated pixel format used") == ""
    assert (
        damage_in_log(f"{log}\n[matroska,webm @ 0x4] [error] File ended prematurely")
        == "File ended prematurely"
    )
    assert damage_in_log("[mjpeg @ 0x4] [warning] EOI missing, emulating") == "EOI missing, emulating"


FAULTS = {  # file -> frames, size, corner, treatment
    "video_sar/hdv.mp4": (10, (108, 192), None, "square pixels"),
    "video_sar/dvd.mpg": (10, (56, 100), None, "square pixels"),
    "video_sar/all3.mp4": (10, (96, 128), None, "square pixels"),
    "video_alpha/vp8a.webm": (8, (64, 64), 255, "on white"),
    "video_alpha/vp9a.webm": (8, (64, 64), 255, "on white"),
    "video_hdr/pq_refwhite.mp4": (10, (64, 96), 250, "203 cd/m2 to white"),  # code 568: 193 cd/m2
    "video_hdr/hlg_refwhite.mp4": (10, (64, 96), 251, "203 cd/m2 to white"),
    "video_interlaced/dv.mpg": (25, (64, 96), None, "deinterlaced"),
    "video_interlaced/h264i.mp4": (25, (64, 96), None, "deinterlaced"),
    "image_animated/a.webp": (10, (48, 64), None, ""),
    "image_animated/b.png": (10, (48, 64), None, ""),
    "video_rotated_45/r45.mp4": (20, (64, 96), 0, "turned by an odd angle"),
    "video_avi_without_pts/bframes.avi": (60, (64, 96), None, ""),
}


@pytest.mark.parametrize("name", FAULTS)
def test_files_that_were_misread_once(name):
    file = DATA / "faults" / name
    if not file.is_file():
        pytest.skip("the files that were misread once are not here")
    frames, size, corner, treatment = FAULTS[name]
    known = probe(file)
    assert (known.frames, (known.height, known.width), known.treatment) == (frames, size, treatment)
    assert known.fps == (25 if "interlaced" in name else known.fps if "alpha" in name else 10)
    if corner is not None:
        assert read_frames(file, [0], known)[0, 0, 0].tolist() == [corner] * 3


@pytest.mark.parametrize(("name", "words"), [("audio", "no video stream"), ("cover", "no video stream")])
def test_a_file_of_sound_says_that_it_has_no_video(name, words):
    file = DATA / "faults" / "video_no_stream" / f"{name}.mp4"
    if not file.is_file():
        pytest.skip("the files that were misread once are not here")
    with pytest.raises(UnreadableVideo, match=words):
        probe(file)


@pytest.mark.parametrize("name", ["slow.mp4", "slow.mkv", "slow.avi", "one.mp4"])
def test_a_rate_of_one_frame_in_ten_thousand_seconds_is_one(tmp_path, name):
    codec = ["-c:v", "mpeg4"] if name.endswith("avi") else ["-c:v", "libx264", "-pix_fmt", "yuv420p"]
    count = ["-frames:v", "1" if name == "one.mp4" else "4"]
    file = encode(tmp_path / name, *codec, *count, source="testsrc2=size=96x64:rate=1/10000:duration=40000")
    assert probe(file).fps == pytest.approx(1e-4, rel=1e-2)


def test_the_filters_of_every_treatment_are_there():
    """A treatment that this ffmpeg lacks would leave out every file that needs it."""
    have = ffmpeg(["-filters"]).stdout.decode()
    names = {
        part.split("=")[0].split("]")[-1] for graph in video.FILTERS.values() for part in graph.split(",")
    }
    assert all(f" {name} " in have for name in names if name.isalpha())


def test_a_file_with_a_timecode_is_a_video(tmp_path):
    file = tmp_path / "timecode.mov"
    made = ["-f", "lavfi", "-i", "testsrc=s=96x64:r=25:d=1", "-timecode", "01:00:00:00", "-c:v", "libx264"]
    assert ffmpeg(["-v", "error", *made, f"file:{file}"]).returncode == 0
    assert probe(file).frames == 25


@pytest.mark.parametrize("share", [0.4, 0.6, 0.999])
def test_a_cut_file_in_fragments_is_damaged(tmp_path, share):
    file = tmp_path / "fragments.mp4"
    made = ["-f", "lavfi", "-i", "testsrc=s=96x64:r=25:d=2", "-f", "lavfi", "-i", "sine=d=2", "-g", "10"]
    made += ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "aac"]
    made += ["-movflags", "frag_keyframe+empty_moov+default_base_moof"]
    assert ffmpeg(["-v", "error", *made, f"file:{file}"]).returncode == 0
    assert probe(file).frames == 50
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(UnreadableVideo):
        probe(cut)


def test_a_gif_with_a_newline_at_its_end_is_whole(tmp_path):
    gif, source = tmp_path / "a.gif", ["-f", "lavfi", "-i", "testsrc=s=96x64:r=25:d=1"]
    assert ffmpeg(["-v", "error", *source, f"file:{gif}"]).returncode == 0
    gif.write_bytes(gif.read_bytes() + b"\n")
    assert probe(gif).frames == 25
