"""Proves that the whole path holds on real files: index, both trainings, resuming, bad files, sampling."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import dit.steps
import dit.train
import vae.train
from configs.data import DataConfig
from configs.sampling import SampleSettings
from dit.cli import run
from dit.encode import EncodeSettings, encode
from dit.pack import patchify
from dit.sample import sample
from tests.tiny import (
    assert_same_run,
    autoencoder_run,
    fresh_accelerator,  # noqa: F401
    newest_step,
    transformer_run,
)
from vae.cache.clips import open_cached
from vae.cache.index import load_cache
from vae.compression import Compression
from vae.data.clips import VideoFiles, open_data
from vae.data.manifest import load_manifest
from vae.data.video import IMAGES, VIDEOS, read_frames
from vae.load import load_autoencoder

CLIPS = (  # that are trained on: the traps among the clips of the folder
    "v_ApplyEyeMakeup_g01_c01.avi",  # 320 x 240, one keyframe
    "torchcodec_h265_video.mp4",
    "torchcodec_nasa_13013_rotated.mp4",  # stands upright
    "torchcodec_test_non_zero_start.mp4",
    "decord_corrupted.mp4",
)


@pytest.fixture(scope="module")
def folder(real_clips, tmp_path_factory) -> Path:
    """A user's folder: videos of several sizes, one corrupt, an image, and captions."""
    folder = tmp_path_factory.mktemp("videos")
    for name in CLIPS:
        (folder / name).write_bytes((real_clips / name).read_bytes())
    pixels = torch.randint(256, (48, 80, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(folder / "still.png")
    (folder / "still.txt").write_text("noise\n")
    (folder / "captions.csv").write_text(
        "path,caption\n" + "".join(f"{name},a video of {name[:9]}\n" for name in CLIPS)
    )
    return folder


@pytest.fixture(scope="module")
def data(folder) -> DataConfig:
    """The folder, indexed by the command."""
    assert run(["data", "index", str(folder)]) == 0
    return DataConfig(source=str(folder), frames=5, size=32)


@pytest.fixture(scope="module")
def autoencoder(data, tmp_path_factory) -> Path:
    """An autoencoder trained for a moment on crops of them."""
    out = tmp_path_factory.mktemp("autoencoder") / "run"
    return vae.train.train(replace(autoencoder_run(out, steps=2, show_every=2), data=data))


def test_the_index_leaves_out_what_cannot_be_read(folder, data):
    entries = load_manifest(folder)
    assert {entry.path.name for entry in entries} == {*CLIPS, "still.png"} - {"decord_corrupted.mp4"}
    captions = {entry.path.name: entry.captions for entry in entries}
    assert captions["still.png"] == ("noise",) and captions[CLIPS[1]] == ("a video of torchcode",)


@torch.no_grad()
def test_a_cache_of_real_files_has_their_clips(folder, data, autoencoder, tmp_path):
    """Of files that seek wrongly, stand upright by their metadata, or start late; and of an image."""
    config = replace(data, source=str(folder), clips_per_file=2)
    given = {"data": replace(config, source="shapes"), "dtype": "fp32"}
    out = encode(EncodeSettings(str(folder), str(tmp_path / "cache"), str(autoencoder), **given))
    model, kept = load_autoencoder(autoencoder), load_cache(out)
    assert not [file.reason for file in kept.files if file.reason]
    online, _ = open_data(config, 5, 1, model.compression)
    offline, _ = open_cached(kept, replace(config, source=str(out)), 5, 1, model, sample=False)
    for draw in range(8):
        one, two = online[draw], offline[draw]
        assert one.caption == two.caption and Path(one.source).name == Path(two.source).name
        assert torch.equal(model.encode(one.video[None])[0], two.posterior[0])


def test_every_clip_of_the_folder_is_indexed_and_trained_on(real_clips, tmp_path):
    assert run(["data", "index", str(real_clips), "--out", str(tmp_path / "all.parquet")]) == 0
    entries = load_manifest(tmp_path / "all.parquet")
    found = {file.name for file in real_clips.iterdir() if file.suffix in IMAGES | VIDEOS}
    assert {*CLIPS} <= found and {entry.path.name for entry in entries} == found - {"decord_corrupted.mp4"}
    files = VideoFiles(DataConfig(source=str(tmp_path), frames=5, size=32), 0, entries, Compression())
    clips = [files[draw] for draw in range(len(entries))]
    assert {Path(clip.source).name for clip in clips} == {entry.path.name for entry in entries}
    assert all(clip.skipped == {} and clip.video.std() > 0.01 for clip in clips)


def test_mixed_sizes_share_a_pack_resume_to_the_bit_and_sample(data, autoencoder, tmp_path, monkeypatch):
    grids = []

    def note_grids(latents, *arguments):
        grids.append({patchify(x)[1] for x in latents})
        return make_batch(latents, *arguments)

    make_batch = dit.steps.make_batch
    monkeypatch.setattr(dit.steps, "make_batch", note_grids)
    config = replace(transformer_run(tmp_path / "whole", autoencoder, steps=4, show_every=4), data=data)
    dit.train.train(config)
    assert any(len(shapes) >= 3 for shapes in grids)
    assert {shape[0] for shapes in grids for shape in shapes} == {1, 2}  # an image and clips of five frames
    stopped = replace(config, out=str(tmp_path / "stopped"))
    dit.train.train(replace(stopped, train=replace(config.train, steps=2)))
    assert newest_step(stopped.out) == 2
    # Its pictures at step 2 are the only difference.
    log = Path(stopped.out) / "log.jsonl"
    log.write_text("".join(row for row in log.read_text().splitlines(True) if "validation" not in row))
    dit.train.train(stopped)
    assert_same_run(stopped.out, config.out)
    settings = SampleSettings(prompts=("a cat",), model=config.out, out=str(tmp_path / "cat.mp4"), steps=2)
    file = sample(settings)[0]
    assert read_frames(file, range(5)).shape == (5, 32, 32, 3)


def test_files_that_go_bad_later_are_skipped_with_a_count(folder, data, autoencoder, tmp_path, capsys):
    bad = folder / "torchcodec_test_non_zero_start.mp4"
    good = bad.read_bytes()
    bad.write_bytes(b"no video")
    try:
        config = transformer_run(tmp_path / "run", autoencoder, steps=3, batch=8, show_every=3)
        dit.train.train(replace(config, data=data, train=replace(config.train, seed=1)))
    finally:
        bad.write_bytes(good)
    printed = capsys.readouterr().err
    assert printed.count(f"skipped: {bad}") >= 1
    assert "1 files skipped" in printed


def test_a_folder_with_nothing_readable_is_an_error(folder, data, autoencoder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for entry in load_manifest(folder):
        (empty / entry.path.name).write_bytes(b"no video")
    (empty / "manifest.parquet").write_bytes((folder / "manifest.parquet").read_bytes())
    config = transformer_run(tmp_path / "run", autoencoder, steps=1)
    with pytest.raises(ValueError, match=r"none of the \d+ files of .* can be read"):
        dit.train.train(replace(config, data=replace(data, source=str(empty))))
