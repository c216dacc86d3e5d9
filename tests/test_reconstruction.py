"""Proves that pairs of videos are compared frame by frame, and that what cannot be is named."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy
import pytest
import torch
from skimage.metrics import structural_similarity

import eval.reconstruction
import vae.quality.networks
from dit.cli import run
from eval.compare import compare
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


def luma(frames_THWC: torch.Tensor) -> numpy.ndarray:
    return numpy.rint(frames_THWC.numpy() @ numpy.array([0.299, 0.587, 0.114])).astype(numpy.uint8)


@pytest.mark.long
def test_the_four_columns_of_pose_papers_are_those_of_their_code(folders, quick, tmp_path, capsys):  # noqa: F811
    """Beside numpy's bytes and scikit-image's default on grey, over the frames of all videos alike."""
    words = [
        "--real",
        str(folders[0]),
        "--fake",
        str(folders[1]),
        "--lpips",
        "none",
        "--workers",
        "0",
        "--smoke",
    ]
    found, told = {}, {}
    for name in ("pose-quadruple", "pose-quadruple-disco"):
        file = tmp_path / f"{name}.json"
        asked = [*words, "--protocol", name, "--json", str(file), "--report", str(file.with_suffix(".html"))]
        assert run(["eval", "reconstruction", *asked]) == 0
        found[name], told[name] = json.loads(file.read_text()), capsys.readouterr().out
    right, wrapped, similar = [], [], []
    for file in sorted(folders[0].rglob("*.mp4")):
        pair = [
            read_frames(side, range(probe(side).frames))
            for side in (file, folders[1] / file.relative_to(folders[0]))
        ]
        for one, other in zip(*(frames.numpy() for frames in pair), strict=True):
            wrapped.append(10 * numpy.log10(255**2 / numpy.mean((one - other) ** 2)))
            right.append(10 * numpy.log10(255**2 / numpy.mean((one.astype(float) - other) ** 2)))
        greys = zip(*map(luma, pair), strict=True)
        similar += [structural_similarity(one, other) for one, other in greys]
    assert len(wrapped) == sum(range(16, 21))  # five videos of several lengths
    disco, plain = found["pose-quadruple-disco"], found["pose-quadruple"]
    assert plain["row"]["psnr"] == plain["scores"]["psnr"] == pytest.approx(numpy.mean(right), rel=1e-6)
    assert (
        disco["row"]["psnr"]
        == disco["scores"]["wrapped_psnr"]
        == pytest.approx(numpy.mean(wrapped), rel=1e-9)
    )
    assert disco["scores"]["psnr"] == plain["scores"]["psnr"] < 20 < disco["row"]["psnr"]
    for result in (disco, plain):
        assert result["row"]["ssim"] == pytest.approx(numpy.mean(similar), rel=1e-6)
        assert result["row"]["lpips"] is None and result["row"]["fvd"] == result["fvd"]["value"] > 0
        assert result["fvd"]["real"]["clips"] == result["fvd"]["fake"]["clips"] == 15  # 1 + 2 + 3 + 4 + 5
    assert "unrelated pictures score 27.9 dB" in told["pose-quadruple-disco"]
    assert (
        "27.9" not in told["pose-quadruple"]
        and "90 frames, means over all of these" in told["pose-quadruple"]
    )
    row = f"SSIM {plain['row']['ssim']:.4g}, PSNR {plain['row']['psnr']:.4g}, distance "
    row += f"{plain['row']['fvd']:.4g} [NOT FVD: seeded network]"
    assert f"pose-quadruple ({plain['protocol_sha256'][:12]}): {row}\n" in told["pose-quadruple"]
    assert f'<p class="soft">{row}.</p>' in (tmp_path / "pose-quadruple.html").read_text()
    with pytest.raises(ValueError, match="do not compare: lpips: 'lpips' and 'unit_lpips'; and also psnr: "):
        compare([str(tmp_path / f"{name}.json") for name in found])
    shown = compare([str(tmp_path / "pose-quadruple-disco.json")], published=True)
    assert "27.9 dB by it" in shown and "dance table" in shown and "fashion table" not in shown
    beside = "ssim beside ssim grey uniform, psnr beside wrapped psnr, lpips beside unit lpips"
    assert f"---- of the columns above, its {beside}\n" in shown
    shown = compare([str(tmp_path / "pose-quadruple.json")], published=True)
    assert "its ssim beside ssim grey uniform\n" in shown and "fashion table" in shown


def test_lpips_of_pose_papers_is_given_half_its_range(sides, monkeypatch):
    model = Lpips("vgg").eval()
    for head in model.heads:
        head.data = torch.rand_like(head)
    asked = []
    monkeypatch.setattr(eval.reconstruction, "load_lpips", lambda *given: asked.append(given) or (model, "w"))
    monkeypatch.setattr(eval.reconstruction, "fvd", lambda _: None)
    result = reconstruction(settings(sides, lpips="alex", protocol="pose-quadruple-disco"))
    assert asked[0][0] == "vgg" and result["lpips"]["trunk"] == "vgg"
    weighed = {"lpips": 0.0, "unit_lpips": 0.0}
    with torch.no_grad():
        for k in range(3):
            frames = [video_of(side / f"{k}.mp4").movedim(0, 1) for side in sides]
            weighed["lpips"] += model(*frames).sum().item() / 15
            weighed["unit_lpips"] += model(*(side / 2 + 0.5 for side in frames)).sum().item() / 15
    assert {name: result["scores"][name] for name in weighed} == pytest.approx(weighed, rel=1e-5)
    assert result["row"]["lpips"] == result["scores"]["unit_lpips"] != result["scores"]["lpips"]


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
