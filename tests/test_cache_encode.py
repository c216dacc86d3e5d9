"""Proves that only what changed is encoded again into a cache, and a kill loses only the work at hand."""

import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import dit.train
from dit.cli import run
from dit.encode import encode
from tests.test_cache import DATA, autoencoder, contents, encoded, folder, noise, own_folder, settings, words  # noqa: F401
from tests.test_cache_check import small  # noqa: F401
from tests.tiny import ROOT, command, environment, fresh_accelerator, transformer_run  # noqa: F401
from vae.cache.clips import find_cache, open_cached
from vae.cache.index import is_cache, load_cache
from vae.cache.shards import find_rows, shard_files
from vae.data.clips import open_data
from vae.data.manifest import load_manifest, save_manifest
from vae.data.write import write_video
from vae.load import load_autoencoder
from vae.model import Autoencoder


def test_a_second_run_encodes_nothing_and_a_changed_file_is_encoded_alone(
    own_folder,  # noqa: F811
    autoencoder,  # noqa: F811
    tmp_path,
    encoded,  # noqa: F811
    capsys,
):
    out = tmp_path / "cache"
    encode(settings(own_folder, out, autoencoder))
    assert sorted(encoded) == sorted(
        ["long.mp4"] * 6 + ["short.mp4"] * 3 + ["wide.mp4"] * 3 + ["still.png"]
    ), "clips that are the same are encoded once, files of one name each"
    before, times = contents(out), {file: file.stat().st_mtime_ns for file in shard_files(out)}
    encoded.clear()
    encode(settings(own_folder, out, autoencoder))
    assert encoded == [] and "(nothing to encode, all kept)" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in shard_files(out)} == times

    write_video(own_folder / "long.mp4", noise(21, 32, 48, 9), 8, {})
    assert run(["data", "index", str(own_folder)]) == 0
    encode(settings(own_folder, out, autoencoder))
    assert encoded == ["long.mp4"] * 3
    assert before.items() <= contents(out).items() and len(contents(out)) == len(before) + 3
    assert find_cache(str(out)).files != []

    encoded.clear()
    encode(settings(own_folder, out, autoencoder, data=replace(DATA, size=48)))
    assert len(encoded) == 13, "another size is another clip"
    encoded.clear()
    encode(settings(own_folder, out, autoencoder))
    assert encoded == [], "and the first ones are still there"
    assert "1 shards hold nothing that is used any more: --prune removes them" in capsys.readouterr().err
    encode(settings(own_folder, out, autoencoder, prune=True))
    assert run(["data", "check", str(out)]) == 0
    assert (
        run(["vae", "encode", str(own_folder), "--out", str(out), "--dtype", "fp32", *words(autoencoder)])
        == 0
    )


def test_files_of_one_name_do_not_meet_and_copies_share(own_folder, autoencoder, tmp_path, encoded):  # noqa: F811
    copy = own_folder / "copy.mp4"
    copy.write_bytes((own_folder / "long.mp4").read_bytes())
    assert run(["data", "index", str(own_folder)]) == 0
    out = encode(settings(own_folder, tmp_path / "cache", autoencoder))
    files = {str(file.path.relative_to(out)): file for file in load_cache(out).files}
    one, two, shared = (files[f"../videos/{name}"] for name in ("long.mp4", "deep/long.mp4", "copy.mp4"))
    assert not set(one.keys) & set(two.keys) and one.keys == shared.keys and one.clips == shared.clips
    assert len(encoded) == 13


def test_a_copy_of_what_cannot_be_encoded_is_tried_itself(own_folder, autoencoder, tmp_path, capsys):  # noqa: F811
    (own_folder / "copy.mp4").write_bytes((own_folder / "long.mp4").read_bytes())
    assert run(["data", "index", str(own_folder)]) == 0
    entries = load_manifest(own_folder)
    stale = [replace(e, checksums=bytes(len(e.checksums))) if e.path.stem == "copy" else e for e in entries]
    save_manifest(own_folder / "manifest.parquet", stale)
    encode(settings(own_folder, tmp_path / "cache", autoencoder))
    told = capsys.readouterr().err
    assert "copy.mp4 has changed since it was indexed" in told and "long.mp4" not in told
    files = {file.path.stem: file for file in load_cache(tmp_path / "cache").files}
    assert files["long"].keys and not files["copy"].keys


def test_another_command_into_a_cache_says_what_it_replaces(own_folder, small, autoencoder, capsys):  # noqa: F811
    encode(settings(own_folder, small, autoencoder, dtype="bf16"))
    said = capsys.readouterr().err
    assert f"note: {small} was a cache with dtype = fp32" in said and "until --prune" in said
    encode(settings(own_folder, small, autoencoder, dtype="bf16"))
    assert "was a cache with" not in capsys.readouterr().err


def test_ctrl_c_keeps_what_is_encoded(own_folder, autoencoder, tmp_path, monkeypatch):  # noqa: F811
    out, posterior, seen = tmp_path / "cache", Autoencoder.posterior, []

    def interrupted(self, video):
        if len(seen) == 5:
            raise KeyboardInterrupt
        seen.append(1)
        return posterior(self, video)

    monkeypatch.setattr(Autoencoder, "posterior", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encode(settings(own_folder, out, autoencoder))
    assert len(find_rows(out, "latents")[0]) == 5
    monkeypatch.setattr(Autoencoder, "posterior", posterior)
    encode(settings(own_folder, out, autoencoder))
    assert len(find_rows(out, "latents")[0]) == 13


@torch.no_grad()
def test_files_that_cannot_be_read_are_named_and_replaced_as_online(
    own_folder,  # noqa: F811
    autoencoder,  # noqa: F811
    tmp_path,
    capsys,
):
    (own_folder / "wide.mp4").write_bytes(b"changed after it was indexed")
    (own_folder / "short.mp4").unlink()
    out = encode(settings(own_folder, tmp_path / "cache", autoencoder))
    told = capsys.readouterr()
    assert told.err.count("skipped: ") == 2 and "has changed since it was indexed" in told.err
    assert "short.mp4: no such file" in told.err and "2 files skipped" in told.out
    assert run(["data", "check", str(out)]) == 0
    model, config = load_autoencoder(autoencoder), replace(DATA, source=str(own_folder))
    online, _ = open_data(config, 3, 1, model.compression)
    offline, _ = open_cached(load_cache(out), replace(DATA, source=str(out)), 3, 1, model, sample=False)
    for draw in range(20):
        one, two = online[draw], offline[draw]
        assert (Path(one.source).name, one.caption) == (Path(two.source).name, two.caption)
        assert {Path(p).name for p in one.skipped} == {Path(p).name for p in two.skipped}
        assert torch.equal(model.encode(one.video[None])[0], two.posterior[0])
    for file in own_folder.rglob("*.*"):
        if file.suffix in (".mp4", ".png"):
            file.unlink()
    assert run(["vae", "encode", str(own_folder), "--out", str(tmp_path / "no"), *words(autoencoder)]) == 1
    assert "none of the 5 files can be encoded: " in capsys.readouterr().err


@pytest.mark.long
def test_a_kill_loses_the_shard_in_work_alone_and_the_same_command_goes_on(
    own_folder,  # noqa: F811
    autoencoder,  # noqa: F811
    tmp_path,
    encoded,  # noqa: F811
    capsys,
):
    for seed in range(30):
        write_video(own_folder / f"more-{seed}.mp4", noise(21, 32, 32, 100 + seed), 8, {})
    assert run(["data", "index", str(own_folder)]) == 0
    out = tmp_path / "cache"
    arguments = ["vae", "encode", own_folder, "--out", out, "--dtype", "fp32", "--shard-clips", "3"]
    process = subprocess.Popen(
        command("dit.cli", *arguments, *words(autoencoder)),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while len(shard_files(out)) < 4 and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    kept = contents(out)
    assert 4 <= len(shard_files(out)) < 30 and not (out / "index.parquet").exists()
    assert is_cache(out)
    config = replace(transformer_run(tmp_path / "run", autoencoder), data=replace(DATA, source=str(out)))
    with pytest.raises(ValueError, match="its encoding did not end: give its `dit vae encode` command again"):
        dit.train.train(config)
    for name in (".latents-0.safetensors.abcdefgh.tmp", ".index.parquet.abcdefgh.tmp", ".mine.tmp"):
        (out / name).mkdir()
    encode(settings(own_folder, out, autoencoder, shard_clips=3))
    assert len(encoded) == 103 - len(kept) and [file.name for file in out.glob(".*")] == [".mine.tmp"]
    assert kept.items() <= contents(out).items() and len(contents(out)) == 103
    assert run(["data", "check", str(out)]) == 0
    whole = encode(settings(own_folder, tmp_path / "whole", autoencoder))
    assert contents(whole) == contents(out)


def test_another_process_in_the_same_cache_is_refused(folder, autoencoder, tmp_path, monkeypatch):  # noqa: F811
    from filelock import FileLock

    monkeypatch.setattr("vae.training.folder.LOCK_PATIENCE", 0.1)
    (tmp_path / "cache").mkdir()
    with FileLock(tmp_path / "cache" / ".lock"), pytest.raises(ValueError, match="is in use by another run"):
        encode(settings(folder, tmp_path / "cache", autoencoder))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "give a manifest and a folder"),
        (["clips", "--out", "x", "--data.source", "other"], "a cache is of the manifest that is given first"),
        (["nowhere", "--out", "x"], "nowhere: no such manifest"),
        (
            ["nowhere", "--out", "x", "--data.clips-per-file", "0"],
            "data.clips_per_file = 0: a cache needs at least 1",
        ),
        (["nowhere", "--out", "x", "--shard-clips", "0"], "shard_clips = 0: it must be at least 1"),
        (["nowhere", "--out", "x", "--data.frames", "6"], "frames"),
    ],
)
def test_settings_that_make_no_cache_are_refused(words, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["vae", "encode", *words]) == 1
    assert told in capsys.readouterr().err and not list(tmp_path.iterdir())
