"""Proves that autoencoders side by side are each measured as alone, on clips that all of them take."""

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import torch
from PIL import Image
from torch import nn

import eval.autoencoders
import eval.candidates
import eval.clips
import eval.reconstruction
import eval.rfvd
import vae.quality.networks
from configs.load import to_json
from dit.bench.autoencoder import random_autoencoder
from dit.cli import run
from eval.autoencoders import CompareVaeSettings, compare
from eval.candidates import fitting, short_names
from eval.fvd import FvdSettings, fvd
from eval.networks.certify import SMOKE
from eval.reconstruction import ReconstructionSettings, reconstruction
from eval.side_by_side import COLUMNS, SHOWN
from tests.test_fvd import Means, folders, launched, quick  # noqa: F401
from tests.tiny import MODEL, environment
from vae.compression import Compression
from vae.data.drawn_world import draw, random_scene
from vae.data.video import to_video
from vae.data.write import to_frames, write_video
from vae.load import autoencoder_hash, load_autoencoder
from vae.quality.lpips import Lpips
from vae.quality.psnr_ssim import psnr
from vae.training.weights import save_weights


class Identity(nn.Module):
    """An autoencoder whose latents are the video itself."""

    compression, channels, settings = Compression(temporal=1, spatial=1), 3, {}

    def __init__(self):
        super().__init__()
        self.register_buffer("latent_mean", torch.zeros(1, 3, 1, 1, 1))
        self.register_buffer("latent_std", torch.full((1, 3, 1, 1, 1), 2.0))

    def encode(self, video: torch.Tensor) -> torch.Tensor:
        return video / 2

    def posterior(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.encode(video), torch.full_like(video, -torch.inf)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents * 2


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for each other on a busy machine take longer than the work of these tests."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """The folder of an autoencoder of a few thousand random weights, beside one of half of them."""
    home = tmp_path_factory.mktemp("autoencoders")
    tensors = random_autoencoder(MODEL).state_dict()
    for name, factor in {"tiny": 1.0, "half": 0.5}.items():
        scaled = {key: factor * tensor for key, tensor in tensors.items()}
        save_weights(
            home / name / "autoencoder.safetensors", scaled, "autoencoder", {"model": to_json(MODEL)}
        )
    return home / "tiny"


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Four videos of soft moving noise, of several lengths and sizes, one too short."""
    home = tmp_path_factory.mktemp("videos")
    for k, (frames, height, width) in enumerate([(21, 40, 56), (25, 32, 48), (30, 64, 40), (6, 40, 40)]):
        coarse = torch.rand(1, 3, frames, 4, 5, generator=torch.Generator().manual_seed(k)) * 2 - 1
        fine = torch.nn.functional.interpolate(coarse, (frames, height, width), mode="trilinear")[0]
        write_video(home / f"class{k % 2}" / f"{k}.mp4", fine, 8.0, {})
    return home


@pytest.fixture
def known(monkeypatch):
    """Autoencoders of tests by their names, beside all others."""
    made = {"identity": Identity}
    monkeypatch.setattr(
        eval.candidates, "load_autoencoder", lambda name: made.get(name, lambda: load_autoencoder(name))()
    )
    return made


def settings(*autoencoders: str | Path, **changes) -> CompareVaeSettings:
    size = {"count": 2, "frames": 5, "height": 32, "width": 32}
    plain = {"data": "shapes", "lpips": "none", "repeats": 0, "workers": 0} | size
    return CompareVaeSettings(autoencoders=tuple(map(str, autoencoders)), **plain | changes)


def stem(files: tuple[Path, ...]) -> str:
    """A key for a video's file, and for the frames that are saved of it, which are other bytes."""
    return files[0].stem if len(files) == 1 else files[0].parent.name


def by_name(result: dict) -> dict[str, dict]:
    return {entry["name"]: entry for entry in result["autoencoders"]}


def test_scores_are_those_of_the_saved_frames(videos, tiny, known, quick, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setattr(eval.rfvd, "load_i3d", lambda eps, given, smoke: (Means(), SMOKE))
    lpips = Lpips("alex").eval().requires_grad_(False)
    for head in lpips.heads:
        head.data = torch.rand_like(head)
    for module in (eval.autoencoders, eval.reconstruction):
        monkeypatch.setattr(module, "load_lpips", lambda *given: (lpips, "random"))
    kept = tmp_path / "frames"
    monkeypatch.setattr(eval.clips, "content_hashes", lambda videos: list(map(stem, videos)))
    seeded = {"protocol": "fvd-google", "smoke": True, "allow_small": True, "resamples": 20}
    changes = {"data": str(videos), "count": None, "frames": 21, "lpips": "alex", "save": str(kept)}
    result = compare(settings("identity", tiny, **changes, **seeded))
    assert list(result["passed_over"]) == ["class1/3"] and result["clips"]["count"] == 3
    for name, entry in by_name(result).items():
        sides = {"real": str(kept / "original"), "fake": str(kept / name)}
        alone = reconstruction(ReconstructionSettings(**sides, workers=0))
        assert entry["scores"].items() <= alone["scores"].items()
        assert all(a.items() <= b.items() for a, b in zip(entry["each"], alone["each"], strict=True))
        assert set(entry["scores"]) == {"psnr", "pooled_psnr", "ssim", "lpips"}
        score = fvd(FvdSettings(**sides, **seeded, workers=0, cache=False, copies_of=sides["real"]))
        for same in ("value", "interval", "nearest", "classes", "protocol_sha256", "weights"):
            assert entry["fvd"][same] == score[same], same
        for side in ("real", "fake"):
            assert entry["fvd"][side]["rgb_sha256"] == score[side]["rgb_sha256"]
        assert entry["fvd"]["stamps"] == [
            SMOKE,
            "small: 3 of 2048 real clips",
            "small: 3 of 2048 generated clips",
        ]
    assert by_name(result)["tiny"]["fvd"]["value"] > 0.1


def test_the_identity_is_perfect_and_its_difference_black(tiny, known, tmp_path):
    picture, kept = tmp_path / "frames.png", tmp_path / "frames"
    result = compare(settings("identity", tiny, picture=str(picture), save=str(kept), count=3, frames=9))
    entry = by_name(result)["identity"]
    assert entry["scores"] == {"psnr": 100, "pooled_psnr": 100, "ssim": pytest.approx(1, abs=1e-12)}
    assert entry["compression"] == {"temporal": 1, "spatial": 1, "latent_group": 1}
    assert entry["numbers_per_latent"] == 1
    assert entry["latents"]["noise"] == [0, 0, 0]
    sheet = numpy.asarray(Image.open(picture, formats=["PNG"]).convert("RGB")).astype(int)
    gap, line, scale = 6, 24, 192 // 32
    side, top, rows = 32 * scale, 6, []
    for _ in range(SHOWN * (1 + 2 * 2)):
        first = top + line + gap
        columns = [gap + k * (side + gap) for k in range(COLUMNS)]
        rows.append([sheet[first : first + side : scale, left : left + side : scale] for left in columns])
        top += line + side + 3 * gap
    assert top + gap - 6 == len(sheet)
    for clip in range(SHOWN):
        original, same, none, other, apart = rows[clip * 5 : clip * 5 + 5]
        for column, frame in enumerate([0, 2, 4, 6, 8]):
            files = [
                kept / which / f"scene-{clip:05d}" / f"{frame:04d}.png" for which in ("original", "tiny")
            ]
            real, fake = (numpy.asarray(Image.open(file, formats=["PNG"])).astype(int) for file in files)
            assert (original[column] == real).all() and (same[column] == real).all()
            assert (other[column] == fake).all() and (none[column] == 0).all()
            assert (apart[column] == numpy.minimum(255, 8 * abs(fake - real))).all() and apart[column].any()


@pytest.mark.long
def test_order_workers_and_processes_do_not_move_a_value(videos, tiny, tmp_path, capfd):
    half = tiny.with_name("half")
    changes = {"data": str(videos), "count": None, "json": str(tmp_path / "one.json")}
    torch.set_num_threads(2)
    result = compare(settings(half, tiny, **changes))
    assert json.loads((tmp_path / "one.json").read_text()) == result
    other = compare(settings(tiny, half, **changes, workers=2))
    assert by_name(result) == by_name(other) and result["clips"] == other["clips"]
    assert [entry["name"] for entry in other["autoencoders"]] == ["tiny", "half"]
    words = [half, tiny, "--data", videos, "--frames", 5, "--height", 32, "--width", 32]
    words += ["--lpips", "none", "--repeats", 0, "--workers", 0, "--json", tmp_path / "two.json"]
    ended = launched(["-m", "eval.autoencoders", *words], 2, environment() | {"OMP_NUM_THREADS": "1"})
    assert [out.count("PSNR") for out, _ in ended] == [2, 0]
    shared = json.loads((tmp_path / "two.json").read_text())
    assert shared["autoencoders"] == result["autoencoders"] and shared["clips"] == result["clips"]


@torch.no_grad()
def test_latents_of_the_builtin_one_have_the_statistics_that_are_said():
    result = compare(settings("builtin", count=4, frames=5, height=64, width=64, seed=3))
    (entry,), model = result["autoencoders"], load_autoencoder("builtin")
    means, spreads, errors = [], [], []
    for k in range(4):
        video = to_video(to_frames(draw(random_scene(3, k, "any"), 5, 64, 64)))
        mean, log_variance = model.posterior(video[None])
        means.append(mean)
        spreads.append((log_variance / 2).exp())
        errors.append(psnr(video, to_video(to_frames(model.decode(model.encode(video[None]))[0]))))
    mean, spread = (torch.cat(part).movedim(1, 0).flatten(1).double() for part in (means, spreads))
    said = {name: torch.tensor(values, dtype=torch.float64) for name, values in entry["latents"].items()}
    torch.testing.assert_close(said["mean"], mean.mean(1), rtol=1e-6, atol=1e-7)
    variance = mean.var(1, correction=0) + spread.square().mean(1)
    torch.testing.assert_close(said["std"], variance.sqrt(), rtol=1e-6, atol=0)
    torch.testing.assert_close(said["noise"], spread.square().mean(1) / variance, rtol=1e-6, atol=0)
    drawn = torch.stack([mean + spread * torch.randn_like(mean) for _ in range(20)], dim=1).flatten(1)
    torch.testing.assert_close(said["std"], drawn.std(1), rtol=0.02, atol=0)
    raw = variance * model.latent_std.flatten().double().square()
    torch.testing.assert_close(said["share"], raw / raw.sum(), rtol=1e-6, atol=0)
    assert [row["psnr"] for row in entry["each"]] == pytest.approx(errors, abs=0.02)
    assert entry["weights"] == autoencoder_hash(model)
    assert entry["latent_std"] == model.latent_std.flatten().tolist()


def test_the_table_says_what_the_json_says(tiny, known, tmp_path, capsys):
    result = compare(settings("identity", tiny, "builtin", repeats=1, fps=2.0))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2 clips of 5 frames, 32x32, of shapes; all take 1 + 4k frames, sides in mult")
    assert lines[1].split() == ["identity", "tiny", "builtin"]
    assert result["cost"]["frames"] == 5  # and not 1, which is nearer to 2
    entries = result["autoencoders"]
    wanted = {
        "PSNR, mean of frames' (dB)": [e["scores"]["psnr"] for e in entries],
        "PSNR, of all frames (dB)": [e["scores"]["pooled_psnr"] for e in entries],
        "SSIM": [e["scores"]["ssim"] for e in entries],
        "latent channels": [3, 4, 16],
        "numbers of pixels per latent number": [1, 192, 48],
        "encode, s per second of video": [e["cost"]["encode_seconds"] for e in entries],
        "decode, s per second of video": [e["cost"]["decode_seconds"] for e in entries],
        "latents: mean of a channel, farthest": [max(e["latents"]["mean"], key=abs) for e in entries],
    }
    for title, values in wanted.items():
        (line,) = (line for line in lines if line.startswith(title + " "))
        assert [float(cell) for cell in line[len(title) :].split()] == pytest.approx(values, abs=6e-4), title
    peaks = [line.split()[3:] for line in lines if line.startswith("  peak memory (MiB)")]
    for way, cells in zip(("encode", "decode"), peaks, strict=True):
        wanted = [entry["cost"][f"{way}_bytes"] / 2**20 for entry in entries]
        assert [float(cell) for cell in cells] == pytest.approx(wanted, abs=0.06)
    assert any(line.startswith("LPIPS left out") for line in lines)
    assert "rFVD left out: --protocol ucf101-recon, or another, adds it" in lines
    assert len(json.dumps(result)) > 1000


def test_time_and_memory_are_of_a_second_of_video(known, monkeypatch):
    now = [0.0]

    class Slow(Identity):
        def encode(self, video):
            now[0] += 3.0
            return super().encode(video)

        def decode(self, latents):
            now[0] += 5.0
            torch.empty(1 << 20).add(1.0)
            return super().decode(latents)

    known["slow"] = Slow
    monkeypatch.setattr(eval.candidates, "make_clock", lambda *_: (lambda: now[0], "a clock of tests"))
    threads = torch.get_num_threads()
    result = compare(settings("slow", "identity", repeats=2, fps=24.4))
    slow, plain = (entry["cost"] for entry in result["autoencoders"])
    assert (slow["encode_seconds"], slow["decode_seconds"]) == pytest.approx(
        (3.0 * 24.4 / 24, 5.0 * 24.4 / 24)
    )
    assert plain["encode_seconds"] == plain["decode_seconds"] == 0
    output = 24 * 3 * 32 * 32 * 4
    assert output <= plain["decode_bytes"] < output + 4096
    assert 8 << 20 <= slow["decode_bytes"] < (8 << 20) + 2 * output
    assert result["cost"]["frames"] == 24 and result["cost"]["clock"] == "a clock of tests"
    assert torch.get_num_threads() == threads


def test_clips_fit_all(tiny, known):
    def of(*compressions: tuple[int, int]) -> list:
        return [SimpleNamespace(model=SimpleNamespace(compression=Compression(*c))) for c in compressions]

    class Pairs(Compression):
        def check(self, frames: int, height: int, width: int) -> None:
            super().check(frames, height, width)
            if (frames - 1) // self.temporal % 2:
                raise ValueError("latent frames come in pairs")

    asked = 20, 100, 33
    paired = [*of((4, 8), (6, 8)), SimpleNamespace(model=SimpleNamespace(compression=Pairs(4, 8)))]
    assert fitting(paired[1:], *asked)[:2] == (Compression(24, 8), 25)
    assert fitting(paired[::2], *asked)[:2] == (Compression(8, 8), 17)
    assert fitting(of((4, 8), (1, 16)), *asked) == (Compression(4, 16), 21, 96, 32)
    assert fitting(of((8, 32), (4, 8), (1, 24)), *asked) == (Compression(8, 96), 17, 96, 96)
    assert fitting(of((1, 1)), *asked) == (Compression(1, 1), 20, 100, 33)
    result = compare(settings(tiny, "identity", frames=7, height=37))
    facts = result["clips"]
    assert (facts["frames"], facts["height"], facts["width"]) == (9, 40, 32)
    assert facts["rule"].endswith("multiples of 8: the nearest to the 7 frames of 37x32 asked for")
    assert compare(settings("identity", frames=7, height=37))["clips"]["frames"] == 7
    assert fitting(of((1, 8)), 17, 11, 24)[2:] == (16, 24)  # SSIM takes no 8
    names = ("runs/a/autoencoder.safetensors", "runs/b/autoencoder.safetensors", "builtin")
    assert short_names(names) == ["a", "b", "builtin"]


def test_values_that_are_no_numbers_pass_a_clip_over_for_all(tiny, known, capsys):
    class Broken(Identity):
        def decode(self, latents):
            return torch.where(latents.mean() < 0, torch.nan, super().decode(latents))

    known["broken"] = Broken
    plain = by_name(compare(settings("identity", count=8)))["identity"]["each"]
    result = compare(settings("identity", "broken", count=8))
    dark = [f"scene-{k:05d}" for k in range(8) if draw(random_scene(0, k, "any"), 5, 32, 32).mean() < 0]
    assert 0 < len(dark) < 8 and sorted(result["passed_over"]) == dark
    assert all("broken gives NaN or infinite values" in why for why in result["passed_over"].values())
    for entry in result["autoencoders"]:
        assert entry["each"] == [row for row in plain if row["video"] not in dark]
    assert f"{len(dark)} passed over" in capsys.readouterr().out


def test_one_that_keeps_a_clip_in_itself_is_asked_by_one_thread_at_a_time(known):
    kept = []  # by both, as all share PyTorch's generator

    class Forgetful(Identity):
        def posterior(self, video):
            kept[:] = [video]
            time.sleep(0.01)
            return super().posterior(kept[0])

        def decode(self, latents):
            assert torch.equal(latents, kept[0] / 2), threading.current_thread().name
            return super().decode(latents)

    known["forgetful"] = known["other"] = Forgetful
    torch.set_num_threads(3)
    result = compare(settings("forgetful", "other", count=9))
    assert result["autoencoders"][0]["scores"]["psnr"] == 100 and not result["passed_over"]


def test_fvd_is_refused_or_left_out_with_its_reason(videos, known, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(vae.quality.networks, "folders", lambda: [tmp_path])
    monkeypatch.delenv("DIT_I3D", raising=False)
    words = ["vae", "compare", "identity", "--data", str(videos), "--frames", "17", "--lpips", "none"]
    words += ["--repeats", "0", "--workers", "0", "--height", "32", "--width", "32"]
    for more, told in {
        ("--protocol", "ucf101-recon"): "holds 4 videos, which are not those of ucf101 test1",
        ("--protocol", "fvd-google"): "gives 3 clips of 16 frames, and fvd-google takes 2048: with",
        ("--protocol", "fvd-latte-2048-stride3", "--allow-small"): "takes 48 frames of a video: --frames 48",
        (
            "--protocol",
            "fvd-videogpt",
            "--allow-small",
        ): "fvd-videogpt takes several clips of a video, and here there is one of each",
        ("--protocol", "msrvtt"): "no protocol msrvtt; did you mean msrvtt-2990?",
        ("--weights", "i3d.pt", "--protocol", "fvd-google", "--allow-small"): "i3d.pt: no such file",
    }.items():
        assert run([*words, *more]) == 1
        said = capsys.readouterr()
        assert told in said.err and "PSNR" not in said.out
    assert run([*words, "--protocol", "fvd-google", "--allow-small"]) == 0
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert "rFVD left out: FVD needs the weights of i3d, and there are none" in text


def test_wrong_settings_are_told(tiny, videos, tmp_path, capsys):
    (tmp_path / "none").mkdir()
    link = tmp_path / "same"
    link.symlink_to(tiny)
    shapes = ["--data", "shapes"]
    for words, told in {
        (): "which autoencoders? dit vae compare builtin",
        ("builtin",): "give --data: a folder of videos, a manifest, or `shapes`",
        ("builtin", "nowhere", *shapes): "nowhere: no autoencoder there",
        ("some/original", *shapes): "`original` is what the clips themselves are called",
        ("builtin", "builtin", *shapes): "builtin is given twice",
        (str(tiny), str(link), *shapes): f"{tiny} and {link} are one, which is given twice",
        ("builtin", "--data", str(tmp_path / "none")): "holds no video",
        ("builtin", "--data", str(videos), "--frames", "41"): "gives no clip",
        ("builtin", *shapes, "--frames", "0"): "frames = 0: it must be at least 1",
        ("builtin", *shapes, "--height", "8"): "height = 8: it must be at least 11",
        ("builtin", *shapes, "--fps", "0"): "fps = 0.0: it must be above 0",
        ("builtin", *shapes, "--json", str(tmp_path)): "is a folder: give a file in it",
        ("builtin", *shapes, "--save", str(tmp_path)): "is not empty: give --save a new folder",
        ("builtin", *shapes, "--smoke", "--weights", "x"): "--smoke takes seeded weights",
    }.items():
        assert run(["vae", "compare", *words]) == 1
        said = capsys.readouterr().err
        assert told in said.splitlines()[-1] and "Traceback" not in said
