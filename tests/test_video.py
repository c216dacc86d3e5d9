"""Proves that frames read are those that PyAV decodes in sequence, byte for byte, and bad files are named."""

import os
import random
import sys
import zlib
from array import array
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, PngImagePlugin

from tests.conftest import DATA
from tests.tiny import seconds_of
from vae.data import video
from vae.data.video import Probe, UnreadableVideo, probe, read_frames, read_image, resize_and_crop
from vae.data.write import to_frames, write_video

CLIPS = {  # name -> how it must be read, None where either may be found
    "v_ApplyEyeMakeup_g01_c01.avi": None,  # decord's last frame is now this one, now another
    "cogvideo_horse.mp4": "decord",
    "decord_flipping_a_pancake.mkv": "decord",
    "fastvideo_crush_027.mp4": "decord",
    "torchcodec_testsrc2_mpeg4.avi": "decord",
    "torchcodec_testsrc2_vp9.webm": "decord",
    "torchcodec_nasa_13013.mp4": "sequential",  # decord takes the second stream
    "torchcodec_nasa_13013_rotated.mp4": "decord",
    "torchcodec_discard_first_keyframe.mp4": "sequential",  # decord shows what the edit list hides
    "torchcodec_h265_video.mp4": "sequential",  # decord's seeks are wrong
    "torchcodec_av1_video.mkv": "sequential",  # decord cannot open it
    "torchcodec_bt601_full_range.mp4": "decord",
    "torchcodec_test_non_zero_start.mp4": "decord",
}
GENERATED = {  # name -> arguments for the encoder
    "open_groups.mp4": ["-c:v", "libx264", "-g", "12", "-bf", "3", "-x264-params", "open-gop=1"],
    "no_keyframes.mp4": ["-c:v", "libx264", "-x264-params", "intra-refresh=1:keyint=20"],
    "later_start.mkv": ["-c:v", "libx264", "-g", "20", "-output_ts_offset", "5"],
    "uneven_times.mp4": ["-vf", "select='mod(n,3)'", "-fps_mode", "vfr", "-c:v", "libx264", "-g", "20"],
    "b_frames.avi": ["-c:v", "mpeg4", "-bf", "2", "-g", "15"],
}


def by_pyav(file: Path, wanted: set[int]) -> tuple[dict[int, np.ndarray], int]:
    """The wanted frames of the first video stream decoded in sequence, upright, and its frame count."""
    found, count = {}, 0
    with av.open(str(file)) as container:
        for count, frame in enumerate(container.decode(container.streams.video[0]), 1):
            if count - 1 in wanted:
                found[count - 1] = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    return found, count


def check_against_pyav(file: Path, reads: int) -> Probe:
    """Reads of a few frames, in any order and with repeats, give what PyAV decodes; counts agree."""
    known = probe(file)
    draw = random.Random(0)
    asked = [[known.frames - 1, 0, known.frames // 2, 0]]
    asked += [[draw.randrange(known.frames)] for _ in range(reads)]
    truth, count = by_pyav(file, {index for indices in asked for index in indices})
    assert count == known.frames
    for indices in asked:
        for index, frame in zip(indices, read_frames(file, indices, known), strict=True):
            assert np.array_equal(frame.numpy(), truth[index]), f"frame {index} of {indices}"
    return known


def clip_names() -> list[str]:
    """Those above, and what else lies in the folder of real clips but for the one that no reader reads."""
    there = {file.name for file in (DATA / "clips").glob("*")} - {"decord_corrupted.mp4"}
    return sorted({*CLIPS, *there})


@pytest.mark.parametrize("name", clip_names())
def test_real_clips_give_the_frames_of_sequential_decoding(real_clips, name):
    known = check_against_pyav(real_clips / name, reads=2)
    assert CLIPS.get(name) in (known.reader, None)
    assert known.times == b"", "these are all of constant rate"
    with av.open(str(real_clips / name)) as container:
        stream = container.streams.video[0]
        assert known.fps == pytest.approx(float(stream.average_rate), rel=1e-3)
        assert (known.stream, known.streams) == (stream.index, len(container.streams.video))
        assert known.codec == stream.codec.canonical_name


def test_a_wrong_frame_from_decord_is_noticed_and_read_in_another_way(tmp_path, monkeypatch):
    decord = pytest.importorskip("decord", reason="decord is not installed")
    source = ["-f", "lavfi", "-i", "testsrc2=size=82x46:rate=25:duration=1", "-pix_fmt", "yuv420p"]
    video.ffmpeg(["-v", "error", *source, "-c:v", "libx264", str(tmp_path / "a.mp4")])
    known = probe(tmp_path / "a.mp4")
    assert known.reader == "decord"
    right = read_frames(tmp_path / "a.mp4", [3, 20], known)

    class Wrong(decord.VideoReader):
        def get_batch(self, indices):
            return super().get_batch([index - 1 for index in indices])

    monkeypatch.setattr(decord, "VideoReader", Wrong)
    assert torch.equal(read_frames(tmp_path / "a.mp4", [3, 20], known), right)


def test_a_file_is_read_in_sequence_where_decord_is_not_installed_or_takes_its_name_for_a_protocol(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    name = Path("2026-01-01T12:30.mp4")
    write_video(name, noise(), 8, {})
    known = probe(name)
    right = read_frames(name, [3, 7], known)
    with monkeypatch.context() as patch:
        patch.setitem(video.__dict__, "decord_agrees", lambda *_: True)
        video.probe_once.cache_clear()
        known = probe(name)
        assert known.reader == "decord"
        patch.setitem(sys.modules, "decord", None)
        assert torch.equal(read_frames(name, [3, 7], known), right)


@pytest.mark.parametrize("error", [RuntimeError, AssertionError])
def test_whatever_decord_raises_the_file_is_read_in_sequence(tmp_path, monkeypatch, error):
    decord = pytest.importorskip("decord", reason="decord is not installed")
    write_video(tmp_path / "a.mp4", noise(), 8, {})
    known = probe(tmp_path / "a.mp4")
    right = read_frames(tmp_path / "a.mp4", [3, 7], known)

    def fails(*_, **__):
        raise error("Check failed")

    monkeypatch.setattr(decord, "VideoReader", fails)
    assert torch.equal(read_frames(tmp_path / "a.mp4", [3, 7], replace(known, reader="decord")), right)
    video.probe_once.cache_clear()
    assert probe(tmp_path / "a.mp4").reader == "sequential"


def test_ffmpeg_is_out_of_reach_of_a_terminal_s_ctrl_c(tmp_path, monkeypatch):
    import imageio_ffmpeg

    tell = tmp_path / "tell"
    tell.write_text("#!/bin/sh\ncut -d' ' -f5 /proc/$$/stat\n")
    tell.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(tell))
    assert int(video.ffmpeg([]).stdout) != os.getpgid(0)


@pytest.mark.parametrize(
    ("decoder", "words"),
    [
        (
            "ffmpeg 0.1 on a Commodore",
            "was indexed by ffmpeg 0.1 on a Commodore, and ffmpeg .* to other bytes",
        ),
        (video.decoder(), "has changed since it was indexed"),
        ("", "has changed since it was indexed"),
    ],
)
def test_other_bytes_are_refused_with_the_reason(tmp_path, decoder, words):
    write_video(tmp_path / "a.mp4", noise(), 8, {})
    known = probe(tmp_path / "a.mp4")
    assert known.decoder == video.decoder()
    other = array("I", [zlib.crc32(b"other")] * known.frames).tobytes()
    with pytest.raises(UnreadableVideo, match=rf"a\.mp4 {words}: run `dit data index` again"):
        read_frames(tmp_path / "a.mp4", [0], replace(known, checksums=other, decoder=decoder))


@pytest.mark.parametrize("name", GENERATED)
def test_hard_structures_give_the_frames_of_sequential_decoding(tmp_path, name):
    source = ["-f", "lavfi", "-i", "testsrc2=size=82x46:rate=25:duration=2", "-pix_fmt", "yuv420p"]
    assert video.ffmpeg(["-v", "error", *source, *GENERATED[name], str(tmp_path / name)]).returncode == 0
    known = check_against_pyav(tmp_path / name, reads=12)
    with av.open(str(tmp_path / name)) as container:
        times = [frame.time for frame in container.decode(container.streams.video[0])]
    uneven = [time - times[0] for time in times] if name == "uneven_times.mp4" else []
    assert seconds_of(known) == pytest.approx(uneven, abs=1e-4)


def test_a_cut_without_encoding_shows_only_what_its_edit_list_shows(tmp_path):
    source = ["-v", "error", "-f", "lavfi", "-i", "testsrc2=size=82x46:rate=25:duration=2"]
    video.ffmpeg([*source, "-c:v", "libx264", "-pix_fmt", "yuv420p", str(tmp_path / "whole.mp4")])
    video.ffmpeg(
        [
            "-v",
            "error",
            "-ss",
            "0.8",
            "-i",
            str(tmp_path / "whole.mp4"),
            "-c",
            "copy",
            str(tmp_path / "cut.mp4"),
        ]
    )
    assert check_against_pyav(tmp_path / "cut.mp4", reads=3).frames < probe(tmp_path / "whole.mp4").frames


def test_a_corrupt_clip_is_refused_by_name(real_clips):
    with pytest.raises(UnreadableVideo, match=r"decord_corrupted\.mp4 cannot be read: Invalid NAL unit size"):
        read_frames(real_clips / "decord_corrupted.mp4", [0])


def noise(frames: int = 9, height: int = 48, width: int = 64) -> torch.Tensor:
    """Smooth random video that has something to code in every frame."""
    coarse = torch.rand(1, 3, frames, height // 8, width // 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (frames, height, width), mode="trilinear")[0] * 2 - 1


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "text"])
def test_damage_in_the_middle_is_found(tmp_path, harm):
    file = tmp_path / "clip.mp4"
    write_video(file, noise(), 8, {})
    assert probe(file).frames == 9
    data = bytearray(file.read_bytes())
    start = data.index(b"mdat") + 4
    middle = (start + len(data)) // 2
    if harm == "flip":
        third = (len(data) - start) // 3  # more than a frame, so that the length of one is hit
        data[middle : middle + third] = bytes(255 - byte for byte in data[middle : middle + third])
    harmed = {"flip": data, "cut": data[:middle], "empty": b"", "text": b"no video at all\n" * 50}[harm]
    file.write_bytes(harmed)
    with pytest.raises(UnreadableVideo, match=r"clip\.mp4"):
        read_frames(file, [0])


def test_a_file_that_changed_since_it_was_probed_is_refused(tmp_path):
    file = tmp_path / "clip.mp4"
    write_video(file, noise(), 8, {})
    known = probe(file)
    write_video(file, noise(5), 8, {})
    with pytest.raises(UnreadableVideo, match="changed since"):
        read_frames(file, [0], known)
    with pytest.raises(ValueError, match="frames 0 to 4, not 7"):
        read_frames(file, [0, 7])


@pytest.mark.parametrize(("matrix", "red", "blue"), [(1, 0.2126, 0.0722), (6, 0.299, 0.114)])
@pytest.mark.parametrize("full", [0, 1])
def test_colours_follow_the_matrix_and_range_that_a_file_names(tmp_path, matrix, red, blue, full):
    """The closed form: BT.709 (H.273 code 1) and BT.601 (code 6) from luma weights, both ranges."""
    levels = [(90, 110, 150), (150, 90, 120), (128, 128, 128), (60, 140, 100)]
    planes = [np.repeat([[level[k] for level in levels]], 4, axis=1).repeat(16, axis=0) for k in range(3)]
    luma = planes[0].repeat(2, axis=1)[:, :32]
    raw = b"".join(p.astype(np.uint8).tobytes() for p in (luma.repeat(2, 0)[:32], planes[1], planes[2]))
    tags = f"h264_metadata=matrix_coefficients={matrix}:video_full_range_flag={full}"
    source = ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", "32x32", "-r", "8", "-i", "pipe:0"]
    arguments = [*source, "-c:v", "libx264", "-qp", "0", "-bsf:v", tags, str(tmp_path / "flat.mp4")]
    assert video.ffmpeg(["-v", "error", *arguments], raw).returncode == 0
    frame = read_frames(tmp_path / "flat.mp4", [0])[0].double()
    for column, (y, u, v) in enumerate(levels):
        y, u, v = (
            (y, u - 128, v - 128)
            if full
            else ((y - 16) * 255 / 219, (u - 128) * 255 / 224, (v - 128) * 255 / 224)
        )
        r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
        g = (y - red * r - blue * b) / (1 - red - blue)
        got = frame[4:28, 8 * column + 3 : 8 * column + 5].mean((0, 1))
        assert torch.allclose(got, torch.tensor([r, g, b], dtype=torch.float64), atol=2.0), (got, (r, g, b))


def test_images_are_videos_of_one_frame_turned_as_they_say(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (10, 14, 3), dtype=np.uint8)
    image, turned = Image.fromarray(pixels), Image.Exif()
    turned[0x0112] = 6  # the camera was held so that the picture must turn by 90 degrees clockwise
    image.save(tmp_path / "turned.png", exif=turned)
    image.save(tmp_path / "plain.webp", lossless=True)
    assert np.array_equal(read_frames(tmp_path / "turned.png", [0])[0].numpy(), np.rot90(pixels, -1))
    assert np.array_equal(read_frames(tmp_path / "plain.webp", [0])[0].numpy(), pixels)
    known = probe(tmp_path / "turned.png")
    assert (known.frames, known.height, known.width, known.reader) == (1, 14, 10, "image")
    (tmp_path / "cut.png").write_bytes((tmp_path / "turned.png").read_bytes()[:200])
    with pytest.raises(UnreadableVideo, match=r"cut\.png"):
        probe(tmp_path / "cut.png")


def huge_text(file: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "a" * (1 << 21), zip=True)
    Image.new("RGB", (4, 4)).save(file, pnginfo=text)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda file: Image.new("RGB", (200, 200)).save(file), "decompression bomb"),
        (huge_text, "Decompressed data too large"),
        (lambda file: Image.new("F", (4, 4)).save(file, format="TIFF"), "cannot identify image file"),
        (lambda file: Image.new("L", (4, 4)).save(file, format="EPS"), "cannot identify image file"),
    ],
    ids=["bomb", "text", "floats", "postscript"],
)
def test_an_image_that_cannot_be_had_is_refused_by_name(tmp_path, monkeypatch, write, words):
    write(tmp_path / "bad.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(UnreadableVideo, match=rf"bad\.png cannot be read: .*{words}"):
        read_image(tmp_path / "bad.png")


def test_sixteen_bits_are_scaled_and_what_is_transparent_is_white(tmp_path):
    levels = np.array([[0, 257, 1000, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    expected = torch.tensor([0, 1, 4, 128, 255], dtype=torch.uint8)
    assert torch.equal(read_image(tmp_path / "deep.png")[0, 0], expected[:, None].expand(-1, 3))
    pixels = np.array([[[200, 0, 40, 255], [200, 0, 40, 0], [200, 0, 40, 51]]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    mixed = torch.tensor([[200, 0, 40], [255, 255, 255], [244, 204, 212]])  # a fifth of the colour
    assert (read_image(tmp_path / "clear.png")[0, 0].int() - mixed).abs().max() <= 1
    Image.new("P", (2, 1)).save(tmp_path / "palette.png", transparency=0)
    assert (read_image(tmp_path / "palette.png") == 255).all()


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 60), (96, 40)])
def test_resizing_covers_keeps_the_centre_and_agrees_with_pillow(height, width):
    picture = Image.fromarray(to_frames(noise(1, 64, 96))[0].numpy()).filter(ImageFilter.GaussianBlur(1))
    frame = torch.from_numpy(np.array(picture))[None]
    assert torch.equal(resize_and_crop(frame, 64, 96), frame)
    assert torch.equal(resize_and_crop(frame, 64, 32), frame[:, :, 32:64])
    scale = max(height / 64, width / 96)
    size = max(width, round(96 * scale)), max(height, round(64 * scale))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    same = picture.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + width, top + height))
    ours = resize_and_crop(frame, height, width)[0].numpy()
    assert np.abs(ours.astype(int) - np.array(same)).max() <= 3
