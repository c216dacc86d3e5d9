"""Proves that a cache holds what online encoding gives, under keys of all that made it."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dit.train
import vae.train
from configs.data import DataConfig
from configs.load import to_json
from configs.model import TextConfig
from dit.cli import run
from dit.encode import EncodeSettings, encode
from dit.text import text_provenance
from tests.test_others import CASES, saved
from tests.test_text import tiny_umt5
from tests.tiny import MODEL, autoencoder_run, fresh_accelerator, launch, rows, transformer_run  # noqa: F401
from vae.cache import encoding
from vae.cache.clips import CachedFiles, find_cache, find_caches, open_cached, open_clips
from vae.cache.index import Cache, CachedFile, is_cache, load_cache
from vae.cache.shards import find_rows, read_locations, read_row, shard_files, write_shard
from vae.compression import Compression
from vae.data.clips import Clip, DrawnWorld, VideoFiles, clip_of, files_hash, open_data, starts
from vae.data.drawn_world import random_scene
from vae.data.manifest import load_manifest
from vae.data.rows import RowList
from vae.data.video import Probe, to_video
from vae.data.write import write_video
from vae.interface import Statistics
from vae.load import autoencoder_hash, load_autoencoder
from vae.model import Autoencoder
from vae.training.seeds import normal
from vae.training.weights import load_weights, save_weights

DATA = DataConfig(frames=5, size=32, fps=8.0, clips_per_file=3)
CAPTIONS = {"long": ["a red circle", "a circle that moves", "one more"], "still": ["a still"], "wide": ["w"]}


def noise(frames: int, height: int, width: int, seed: int) -> torch.Tensor:
    """A video C T H W of coarse noise, which a codec keeps."""
    coarse = torch.rand(frames, 3, height // 8, width // 8, generator=torch.Generator().manual_seed(seed))
    return to_video(torch.nn.functional.interpolate(255 * coarse, size=(height, width)).byte().movedim(1, -1))


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory) -> Path:
    """Random weights of an autoencoder with statistics that do something, and a wide posterior."""
    torch.manual_seed(0)
    model = Autoencoder(MODEL)
    model.quant_conv.bias.data[4:] = -1.0
    model.set_statistics(Statistics((0.1, -0.2, 0.0, 0.3), (0.5, 0.6, 0.7, 0.8)))
    file = tmp_path_factory.mktemp("autoencoder") / "autoencoder.safetensors"
    save_weights(file, model.state_dict(), "autoencoder", {"model": to_json(MODEL)})
    return file


def make_folder(home: Path) -> Path:
    """Videos of several sizes, rates and lengths, two of one name, an image, and captions; indexed."""
    write_video(home / "long.mp4", noise(21, 32, 48, 1), 8, {})
    write_video(home / "deep" / "long.mp4", noise(13, 32, 32, 2), 8, {})
    write_video(home / "short.mp4", noise(6, 48, 32, 3), 25, {})
    write_video(home / "wide.mp4", noise(30, 32, 64, 4), 16, {})
    Image.fromarray(np.full((40, 32, 3), 120, dtype=np.uint8)).save(home / "still.png")
    for name, captions in CAPTIONS.items():
        (home / f"{name}.txt").write_text("\n".join(captions) + "\n")
    assert run(["data", "index", str(home)]) == 0
    return home


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Such a folder, which no test changes."""
    return make_folder(tmp_path_factory.mktemp("set") / "videos")


@pytest.fixture
def own_folder(tmp_path) -> Path:
    """Such a folder, for a test that changes it."""
    return make_folder(tmp_path / "videos")


def settings(folder: Path, out: Path, autoencoder: Path, **changes) -> EncodeSettings:
    """Exact encoding of a folder."""
    given = {"data": DATA, "dtype": "fp32"} | changes
    return EncodeSettings(str(folder), str(out), str(autoencoder), **given)


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory) -> Path:
    """A frozen text encoder."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("umt5")
    tiny_umt5(folder)
    return folder


@pytest.fixture(scope="module")
def made(folder, autoencoder, text_folder, tmp_path_factory) -> Path:
    """An exact cache of the folder, with embeddings."""
    out = tmp_path_factory.mktemp("cache") / "cache"
    return encode(settings(folder, out, autoencoder, text=TextConfig(folder=str(text_folder), max_tokens=32)))


def contents(out: Path) -> dict[str, bytes]:
    """Every row of a cache's shards by its key."""
    return {
        key: tensor.numpy().tobytes()
        for file in shard_files(out)
        for key, tensor in load_weights(file)[0].items()
    }


@pytest.fixture
def encoded(monkeypatch) -> list[str]:
    """The names of the files whose clips are encoded."""
    names, real = [], encoding.write_shard

    def note(folder, kind, rows, about):
        names.extend(what.get("name", "") for _, what in rows.values())
        return real(folder, kind, rows, about)

    monkeypatch.setattr(encoding, "write_shard", note)
    return names


def test_places_are_even_and_without_them_a_clip_starts_anywhere():
    assert starts(1) == [0.5] and starts(3) == [0.0, 0.5, 1.0]
    config = DataConfig(frames=5, fps=8.0)
    long = Probe(21, 8.0, 32, 48, "h264", 2.6, 1, "decord", 0, 1, b"")
    assert [clip_of(long, s, config, Compression())[0][0] for s in starts(5)] == [0, 4, 8, 12, 16]
    short = replace(long, frames=3)
    assert clip_of(short, 1.0, config, Compression())[0] == [2], "too short for 5 frames, it has one"


@torch.no_grad()
def test_a_cache_has_the_clips_of_its_files_draw_by_draw(folder, autoencoder, made):
    """Sources, captions, held-out files and posteriors, to the bit, of many draws of two seeds."""
    model = load_autoencoder(autoencoder)
    found = load_cache(made / "index.parquet")
    assert is_cache(made) and find_cache(str(made)) == found
    seen = set()
    for seed in (0, 7):
        config = replace(DATA, source=str(folder))
        online = open_data(config, seed, 1, model.compression)
        offline = open_cached(found, replace(DATA, source=str(made)), seed, 1, model, sample=True)
        for one, two in zip(online, offline, strict=True):
            assert len(one) == len(two)
            for draw in range(25):
                clip, kept = one[draw], two[draw]
                wanted = model.posterior(clip.video[None])
                assert Path(clip.source).resolve() == Path(kept.source).resolve()
                assert (clip.caption, kept.video) == (kept.caption, None)
                for part, kept_part in zip(wanted, kept.posterior, strict=True):
                    assert torch.equal(part[0], kept_part)
                assert torch.equal(model.encode(clip.video[None])[0], kept.posterior[0])
                seen.add((Path(kept.source).name, kept.caption, kept.posterior[0].sum().item()))
    assert len({name for name, _, _ in seen}) == 4 and len({caption for _, caption, _ in seen}) == 6
    assert len({value for _, _, value in seen}) > 8, "several places of a file are drawn"


def test_sources_of_a_mixture_are_opened_each_as_what_it_is(folder, autoencoder, made):
    """Files, their cache and the drawn world; planned sizes are those of all of them."""
    model = load_autoencoder(autoencoder)
    config = replace(DATA, sources=(f"{folder}=1", f"{made}=1", "shapes=1"))
    caches = find_caches(config)
    data, held_out = open_clips(config, 0, 3, model, True, caches)
    assert list(caches) == [str(made)] and [type(p) for p in data.parts] == [
        VideoFiles,
        CachedFiles,
        DrawnWorld,
    ]
    clips = [data[draw] for draw in range(30)]
    assert {data.shares.place(clip.draw)[0] for clip in clips if clip.posterior} == {1}
    counts = [model.latents([clip])[0][0].numel() // 4 for clip in clips]
    assert data.sizes(model.compression).tokens(range(30)).tolist() == counts and len(set(counts)) > 1
    assert [bool(held_out[draw].posterior) for draw in range(len(held_out))].count(True) == 1
    online = open_data(replace(DATA, source=str(folder)), 0, 1, model.compression)[0]
    offline = open_cached(caches[str(made)], replace(DATA, source=str(made)), 0, 1, model, False)[0]
    ours, cached = (part.sizes(model.compression).files_N.tolist() for part in (online, offline))
    assert ours == cached
    with pytest.raises(ValueError, match=r"holds latents and no video"):
        vae.train.train(replace(autoencoder_run(made.parent / "run"), data=config))


@pytest.mark.parametrize("name", ["CogVideoX", "HunyuanVideo", "KL", "Tiny"])
@torch.no_grad()
def test_autoencoders_of_diffusers_are_cached_as_ours_are(folder, tmp_path, name):
    """Causal and by the frame, with a posterior and without."""
    saved(tmp_path / "vae", CASES[name])
    model = load_autoencoder(tmp_path / "vae")
    config = replace(DATA, source=str(folder), frames=CASES[name].frames)
    given = EncodeSettings(str(folder), str(tmp_path / "cache"), str(tmp_path / "vae"), config, dtype="fp32")
    out = encode(given)
    assert run(["data", "check", str(out)]) == 0
    online, _ = open_data(config, 0, 1, model.compression)
    offline, _ = open_cached(load_cache(out), replace(config, source=str(out)), 0, 1, model, sample=True)
    for draw in range(6):
        wanted = model.posterior(online[draw].video[None])
        for part, kept in zip(wanted, offline[draw].posterior, strict=True):
            assert torch.equal(part[0], kept)


def test_draws_of_a_posterior_have_its_mean_and_variance_and_are_their_noise_s():
    shape = 4, 1, 8, 8
    clip = Clip(None, "", "", posterior=(torch.full(shape, 2.0), torch.full(shape, 0.25).log()))
    model = Autoencoder(MODEL)
    noises = [normal(shape, "noise", k) for k in range(200)]
    drawn = model.latents([clip] * 200, noises)
    everything = torch.stack(drawn)
    assert everything.mean().item() == pytest.approx(2, abs=0.01)
    assert everything.std().item() == pytest.approx(0.5, abs=0.01)
    assert torch.equal(drawn[3], model.latents([clip], noises[3:4])[0])
    assert not torch.equal(drawn[3], drawn[4])
    assert torch.equal(model.latents([clip])[0], clip.posterior[0])


def words(autoencoder: Path) -> list[str]:
    """The settings of these tests as words of the command line."""
    sizes = ["--data.frames", "5", "--data.size", "32", "--data.clips-per-file", "3"]
    return ["--autoencoder", str(autoencoder), *sizes]


def test_statistics_and_weights_and_formats_change_every_key(folder, autoencoder, made, tmp_path, encoded):
    """Statistics lie in no weight."""
    tensors, header = load_weights(autoencoder)
    other = tmp_path / "other.safetensors"
    tensors["latent_std"][0, 0] = 1.0
    save_weights(other, tensors, "autoencoder", header.settings)
    assert autoencoder_hash(load_autoencoder(other)) != autoencoder_hash(load_autoencoder(autoencoder))
    keys = {key for file in load_cache(made).files for key in file.keys}
    for which, dtype in ((other, "fp32"), (autoencoder, "fp16")):
        out = encode(settings(folder, tmp_path / "cache", which, dtype=dtype))
        assert not keys & {key for file in load_cache(out).files for key in file.keys}
    assert len(encoded) == 26


def test_a_limit_of_memory_encodes_in_tiles_to_the_same_latents(
    folder, autoencoder, made, tmp_path, monkeypatch
):
    tiled, posterior = [], encoding.tiles.posterior

    def note(*arguments):
        tiled.append(arguments[2])
        return posterior(*arguments)

    monkeypatch.setattr(encoding.tiles, "posterior", note)
    monkeypatch.setitem(encoding.tiles.WAYS, "encode", (lambda _, h, w: h * w, lambda _: 0))
    out = encode(settings(folder, tmp_path / "cache", autoencoder, encode_memory=4 / 2**30))
    assert tiled and set(tiled) == {2}
    exact, found = load_cache(made), load_cache(out)
    for one, two in zip(exact.files, found.files, strict=True):
        assert one.keys == two.keys
        for a, b in zip(one.clips, two.clips, strict=True):
            whole, parts = (read_row(*at, torch.float32) for at in ((made, a), (out, b)))
            assert (whole - parts).abs().max() < 1e-4 * whole.abs().max()


def test_captions_that_are_cut_are_counted(folder, autoencoder, text_folder, tmp_path, capsys):
    text = TextConfig(folder=str(text_folder), max_tokens=16)
    encode(settings(folder, tmp_path / "cache", autoencoder, text=text))
    assert "note: 1 of 6 captions have more than text.max_tokens = 16: cut there\n" in capsys.readouterr().err


def test_settings_that_are_no_weight_change_keys(tmp_path, text_folder):
    """Other people's autoencoders and text encoders of the same weights, with another setting."""
    case = CASES["KL"]
    saved(tmp_path / "one", case)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    shutil.copytree(text_folder, tmp_path / "text")
    for file, change in (
        (tmp_path / "two" / "config.json", {"norm_num_groups": 4}),
        (tmp_path / "text" / "text_encoder" / "config.json", {"layer_norm_epsilon": 0.1}),
    ):
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
    one, two = (load_autoencoder(tmp_path / name) for name in ("one", "two"))
    frames = torch.rand(1, 3, 1, 16, 16)
    assert not torch.allclose(one.encode(frames), two.encode(frames), atol=1e-3)
    assert autoencoder_hash(one) != autoencoder_hash(two)
    made = [
        text_provenance(TextConfig(folder=str(folder))) | {"dtype": "fp32"}
        for folder in (text_folder, tmp_path / "text")
    ]
    assert encoding.text_key("a", made[0]) != encoding.text_key("a", made[1])


@pytest.mark.parametrize(("dtype", "error"), [("fp16", 2**-11), ("bf16", 2**-8)])
def test_smaller_formats_are_as_exact_as_they_say(folder, autoencoder, made, tmp_path, dtype, error):
    out = encode(settings(folder, tmp_path / "cache", autoencoder, dtype=dtype))
    exact, kept = load_cache(made), load_cache(out)
    for one, two in zip(exact.files, kept.files, strict=True):
        for a, b in zip(one.clips, two.clips, strict=True):
            whole = read_row(made, a, torch.float32)
            rounded = read_row(out, b, {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype])
            assert ((whole - rounded).abs() <= error * whole.abs() + 1e-7).all()
            assert not torch.equal(whole, rounded)


@pytest.mark.long
def test_two_processes_write_what_one_writes(folder, autoencoder, made, text_folder, tmp_path):
    arguments = [str(folder), "--out", str(tmp_path / "two"), "--dtype", "fp32", *words(autoencoder)]
    arguments += ["--text.folder", str(text_folder), "--text.max-tokens", "32", "--shard-clips", "3"]
    done = launch("dit.encode", *arguments, processes=2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("13 clips of 5 files (13 encoded, 0 kept)") == 1
    one, two = contents(made), contents(tmp_path / "two")
    assert one.keys() == two.keys() and len(shard_files(tmp_path / "two", "latents")) > 3
    different = {key for key in one if one[key] != two[key]}
    assert all(len(one[key]) % 80 == 0 for key in different), "only captions, by a batch's padding"
    for key in different:
        a, b = (torch.frombuffer(bytearray(rows[key]), dtype=torch.float32) for rows in (one, two))
        assert (a - b).abs().max() < 1e-5 * a.abs().max()
    files = load_cache(made).files, load_cache(tmp_path / "two").files
    assert [file.key for file in files[0]] == [file.key for file in files[1]]


@torch.no_grad()
def test_a_cache_of_the_drawn_world_has_its_scenes_and_trains(autoencoder, tmp_path, capsys):
    """Latents equal those encoded online to the stored precision; captions are the grammar's."""
    out, config = tmp_path / "cache", replace(DATA, source="shapes", clips_per_file=1)
    words = ["vae", "encode", "shapes", "--out", str(out), "--scenes", "12", "--seed", "3"]
    words += ["--autoencoder", str(autoencoder), "--data.frames", "5", "--data.size", "32"]
    assert run(words) == 0 and "12 clips of 12 files (12 encoded, 0 kept)" in capsys.readouterr().out
    before = contents(out)
    assert (
        run([*words, "--shard-clips", "5"]) == 0 and "nothing to encode, all kept" in capsys.readouterr().out
    )
    assert run(["data", "check", str(out)]) == 0 and contents(out) == before
    model, cache, world = load_autoencoder(autoencoder), load_cache(out), DrawnWorld(config, 3)
    assert len(cache.files) == 12 and len({file.keys for file in cache.files}) == 12
    for k, file in enumerate(cache.files):
        assert file.path.name == f"scene {k}" and 4 < len(file.captions) <= 8
        scene = random_scene(3, k, "train")
        assert all(scene.colour in text.lower() and scene.shape in text.lower() for text in file.captions)
        wanted = torch.stack(model.posterior(world[k].video[None]))[:, 0]
        assert torch.equal(read_row(out, file.clips[0], torch.float16), wanted.half().float())
    cached = replace(config, source=str(out))
    data, held_out = open_cached(cache, cached, 0, 3, model, sample=False)
    assert (
        len(data) == 9
        and len(held_out) == 3
        and data[0].caption in sum((f.captions for f in cache.files), ())
    )
    with pytest.raises(ValueError, match=r"clips_per_file = 0, but .* with 1: give --data.clips-per-file 1"):
        open_cached(cache, replace(cached, clips_per_file=0), 0, 3, model, sample=False)
    with torch.enable_grad():
        dit.train.train(transformer_run(tmp_path / "run", autoencoder, str(out), steps=2, show_every=2))
    assert rows(tmp_path / "run")[0]["step"] == 1


def test_a_cache_of_scenes_is_stale_where_only_the_latents_deviations_differ(autoencoder, tmp_path, capsys):
    tensors, header = load_weights(autoencoder)
    other, out = tmp_path / "other.safetensors", tmp_path / "cache"
    tensors["latent_std"] = 2 * tensors["latent_std"]
    save_weights(other, tensors, header.kind, header.settings, header.facts)
    words = ["vae", "encode", "shapes", "--out", str(out), "--scenes", "4", "--dtype", "fp32"]
    words += ["--data.frames", "5", "--data.size", "32", "--autoencoder"]
    assert run([*words, str(autoencoder)]) == 0
    before = [read_row(out, f.clips[0], torch.float32) for f in load_cache(out).files]
    config = replace(DATA, source=str(out), clips_per_file=1)
    with pytest.raises(ValueError, match="was made by another autoencoder"):
        open_cached(load_cache(out), config, 0, 1, load_autoencoder(other), sample=False)
    capsys.readouterr()
    assert run([*words, str(other)]) == 0 and "(4 encoded, 0 kept)" in capsys.readouterr().out
    after = [read_row(out, f.clips[0], torch.float32) for f in load_cache(out).files]
    for (mean, log_variance), (new_mean, new_log_variance) in zip(before, after, strict=True):
        torch.testing.assert_close(new_mean, mean / 2)
        torch.testing.assert_close(new_log_variance, log_variance - 2 * math.log(2))


def test_scenes_have_the_key_of_their_content(autoencoder, tmp_path):
    hashes = []
    for seed in (0, 0, 1):
        files = encoding.drawn_files(tmp_path / str(len(hashes)), DATA, seed, 5)
        hashes.append([sha256 for _, sha256, _ in encoding.file_hashes(files, 0, 1, 1)])
    assert hashes[0] == hashes[1] and len({*hashes[0], *hashes[2]}) == 10


def test_a_cache_s_files_are_what_they_hold_wherever_it_lies(made, tmp_path):
    shutil.copytree(made, tmp_path / "moved")
    data = [
        CachedFiles(load_cache(at), DATA, 0, RowList(load_cache(at).files), Compression(), False)
        for at in (made, tmp_path / "moved")
    ]
    before = files_hash(data[0])
    assert files_hash(data[1]) == before
    first, *rest = data[0].entries
    for changed in (
        [replace(first, keys=first.keys[::-1]), *rest],
        [replace(first, captions=("b",)), *rest],
        [*rest, first],
    ):
        data[0].entries = RowList(changed)
        assert files_hash(data[0]) != before
    data[0].entries = RowList([replace(first, path=Path("x"), sha256="", clips=()), *rest])
    assert files_hash(data[0]) == before


def test_shards_say_themselves_what_they_hold(folder, autoencoder, made):
    known = {entry.path.name for entry in load_manifest(folder)}
    rows = {}
    for file in shard_files(made, "latents"):
        locations, header = read_locations(file)
        assert locations.keys() == header.facts["rows"].keys()
        assert header.settings["autoencoder"] == autoencoder_hash(load_autoencoder(autoencoder))
        rows |= header.facts["rows"]
    assert {what["name"] for what in rows.values()} == known
    assert all(set(what) == {"file", "frames", "size", "name"} for what in rows.values())
    texts = [read_locations(file)[1].facts["rows"] for file in shard_files(made, "texts")]
    wanted = {"", *(caption for captions in CAPTIONS.values() for caption in captions)}
    assert {what["text"] for rows in texts for what in rows.values()} == wanted


def anonymous() -> int:
    """Bytes of this process's own memory, without files' pages."""
    status = Path("/") / "proc" / "self" / "status"
    if not status.is_file():
        pytest.skip("no /proc/self/status here")
    return 1024 * next(
        int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("RssAnon")
    )


def test_memory_is_flat_over_twenty_thousand_reads(tmp_path):
    """As training reads; what they read is a hundred times what memory may grow by."""
    row, count, keys = torch.randn(2, 4, 5, 16, 16), 1500, []
    for first in range(0, count, 250):
        rows = {f"{k:064x}": (row + k, {}) for k in range(first, first + 250)}
        write_shard(tmp_path, "latents", rows, {"dtype": "fp32"})
        keys += rows
    places = find_rows(tmp_path, "latents")[0]
    files = []
    for k in range(0, count, 3):
        mine = tuple(keys[k : k + 3])
        clips = tuple(places[key] for key in mine)
        files.append(CachedFile(("a", "b"), mine, Path(f"{k}.mp4"), "", "", clips, ()))
    made = {"dtype": "fp32"}
    data = CachedFiles(Cache(tmp_path, files, made, None), DATA, 0, files, Compression(), sample=True)

    def read(draws: range) -> float:
        return sum(clip.posterior[1][0, 0, 0, 0].item() for clip in map(data.__getitem__, draws))

    read(range(1000))
    before = anonymous()
    assert read(range(1000, 21_000)) > 0
    assert anonymous() - before < 8 << 20
