"""Proves that pairs of videos are compared frame by frame, and that what cannot be is named."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import vae.quality.networks
from dit.cli import run
from eval.reconstruction import ReconstructionSettings, reconstruction
from tests.test_fvd import folders, quick  # noqa: F401
from vae.data.video import probe, read_frames, to_video
from vae.data.write import write_video
from vae.quality.lpips import Lpips
from vae.quality.psnr_ssim import grey, pooled_psnr, psnr, ssim


@pytest.fixture(scope="module")
def sides(tmp_path_factory) -> tuple[Path, Path]:
    """Three videos and their noisy doubles, of several sizes and lengths."""
    home = tmp_path_factory.mktemp("pairs")
    for k, (frames, height, width) in enumerate([(5, 48, 40), (9, 32, 64), (1, 40, 40)]):
        random = torch.Generator().manual_seed(k)
        coarse = torch.rand(1, 3, frames, 4, 5, generator=random) * 2 - 1
        video = torch.nn.functional.interpolate(coarse, (frames, height, width), mode="trilinear")[0]
        noise = torch.randn(video.shape, generator=random) * torch.linspace(0.05, 0.4, frames)[:, None, None]
        write_video(home / "real" / f"{k}.mp4", video, 8.0, {})
        write_video(home / "fake" / f"{k}.mp4", video + noise, 8.0, {})
    return home / "real", home / "fake"


def settings(sides: tuple[Path, Path], **changes) -> ReconstructionSettings:
    real, fake = map(str, sides)
    return replace(ReconstructionSettings(real=real, fake=fake, lpips="none", workers=0), **changes)


def video_of(file: Path) -> torch.Tensor:
    return to_video(read_frames(file, range(probe(file).frames)))


def test_scores_are_means_over_videos_of_what_each_measure_says(sides, tmp_path, capsys):
    file = tmp_path / "scores.json"
    result = reconstruction(settings(sides, json=str(file), workers=2))
    pairs = [[video_of(side / f"{k}.mp4") for side in sides] for k in range(3)]
    measures = {"psnr": psnr, "pooled_psnr": pooled_psnr, "ssim": ssim}
    measures["ssim_grey"] = lambda original, other: ssim(grey(original), grey(other))
    measures["ssim_uniform"] = partial(ssim, uniform=True)
    for name, measure in measures.items():
        alone = [measure(*pair) for pair in pairs]
        assert [row[name] for row in result["each"]] == pytest.approx(alone, rel=1e-12)
        assert result["scores"][name] == pytest.approx(sum(alone) / 3, rel=1e-12)
    assert result["scores"]["pooled_psnr"] < result["scores"]["psnr"] - 0.1
    assert json.loads(file.read_text()) == result
    assert "dB, of the squared error of all frames together" in capsys.readouterr().out
    assert reconstruction(settings((sides[0], sides[0])))["scores"]["ssim"] == pytest.approx(1)


def test_fvd_between_the_sides_is_that_of_its_own_verb(folders, quick, tmp_path, capsys):  # noqa: F811
    file = tmp_path / "scores.json"
    words = ["--protocol", "fvd-google", "--smoke", "--allow-small", "--workers", "0"]
    words += ["--real", str(folders[0]), "--fake", str(folders[1])]
    assert run(["eval", "reconstruction", *words, "--lpips", "none", "--json", str(file)]) == 0
    between = json.loads(file.read_text())["fvd"]
    assert run(["eval", "fvd", *words, "--copies-of", str(folders[0]), "--json", str(file)]) == 0
    alone = json.loads(file.read_text())
    assert between["value"] == alone["value"] > 0 and between["stamps"] == alone["stamps"] != []
    told = capsys.readouterr().out
    assert told.count(f"distance {alone['value']:.2f}") == 2 and "FVD left out" not in told
    words[-1] = words[-3]  # the originals beside themselves
    assert run(["eval", "reconstruction", *words, "--lpips", "none", "--json", str(file)]) == 0
    assert json.loads(file.read_text())["fvd"]["value"] == pytest.approx(0, abs=1e-9)


def test_fvd_that_cannot_be_is_told_before_anything_is_compared(sides, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(vae.quality.networks, "folders", lambda: [tmp_path])
    monkeypatch.delenv("DIT_I3D", raising=False)
    words = ["--real", str(sides[0]), "--fake", str(sides[1]), "--lpips", "none"]
    assert run(["eval", "reconstruction", *words]) == 0
    assert "FVD left out: --protocol ucf101-recon" in capsys.readouterr().out
    assert run(["eval", "reconstruction", *words, "--protocol", "ucf101-recon"]) == 1
    told = capsys.readouterr()
    assert "FVD needs the weights of i3d, and there are none" in told.err and "psnr" not in told.out


def test_pairs_that_do_not_fit_are_named(sides, tmp_path, capsys):
    real, fake = tmp_path / "real", tmp_path / "fake"
    for side, copy in zip(sides, (real, fake), strict=True):
        shutil.copytree(side, copy)
    shutil.copy(real / "1.mp4", real / "alone.mp4")
    shutil.copy(real / "1.mp4", fake / "made up.mp4")
    shutil.copy(fake / "0.mp4", fake / "1.mp4")
    (fake / "2.mp4").write_bytes(b"no video")
    result = reconstruction(settings((real, fake)))
    assert result["videos"] == 1 and [row["video"] for row in result["each"]] == ["0"]
    passed = result["passed_over"]
    assert passed["alone"] == "has no reconstruction" and passed["made up"] == "has no original"
    assert "has 5 frames of 48x40, its original 9 frames of 32x64" in passed["1"]
    assert "cannot be read" in passed["2"] and "4 passed over: " in capsys.readouterr().out
    (fake / "0.mp4").unlink()
    with pytest.raises(ValueError, match="no pair can be compared"):
        reconstruction(settings((real, fake)))


def test_lpips_needs_certified_weights_or_says_that_it_is_left_out(sides, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    result = reconstruction(settings(sides, lpips="alex"))
    assert "lpips" not in result["scores"] and "LPIPS left out: " in capsys.readouterr().out
    model = Lpips("alex").eval()
    for head in model.heads:
        head.data = torch.rand_like(head)
    trunk = {f"features.{name}": tensor for name, tensor in model.features.state_dict().items()}
    heads = {f"lin{k}.model.1.weight": head.data[None, :, None, None] for k, head in enumerate(model.heads)}
    files = tmp_path / "trunk.pth", tmp_path / "heads.pth"
    for file, tensors in zip(files, (trunk, heads), strict=True):
        torch.save(tensors, file)
    given = {"lpips": "alex", "lpips_trunk": str(files[0]), "lpips_heads": str(files[1])}
    with pytest.raises(ValueError, match=r"trunk\.pth is not torchvision's alexnet-owt-7be5be79\.pth"):
        reconstruction(settings(sides, **given))
    for name in ("lpips-alex-trunk", "lpips-alex-heads"):
        monkeypatch.setitem(
            vae.quality.networks.NETWORKS, name, replace(vae.quality.networks.NETWORKS[name], sha256="")
        )  # now any is right
    result = reconstruction(settings(sides, **given))
    with torch.no_grad():
        for row, k in zip(result["each"], range(3), strict=True):
            frames = [video_of(side / f"{k}.mp4").movedim(0, 1) for side in sides]
            assert row["lpips"] == pytest.approx(model(*frames).mean().item(), rel=1e-5)


def test_wrong_settings_are_told(sides, tmp_path, capsys):
    assert run(["eval", "reconstruction", "--real", str(sides[0])]) == 1
    assert "give both --real and --fake" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    shutil.copy(sides[0] / "0.mp4", tmp_path / "other" / "x.mp4")
    with pytest.raises(ValueError, match="have no video of one name"):
        reconstruction(settings((sides[0], tmp_path / "other")))
