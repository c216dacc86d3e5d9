"""Proves the Inception score: values of three variants, closed forms, C3D as TGANv2's code runs it."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch

from configs.protocol import load_protocol
from dit.cli import run
from eval.inception import SMOKE, inception_score, of_protocol
from eval.networks import c3d
from eval.networks.c3d import C3D, read_c3d, seeded_c3d
from eval.preprocess import prepare
from tests.conftest import REFERENCE
from vae.data.write import write_video


def drawn(count: int, seed: int = 0) -> torch.Tensor:
    """Rows of probabilities, as the reference values' recipe draws them."""
    logits = numpy.random.RandomState(seed).standard_normal((count, 101)) * 2
    return torch.from_numpy(logits).softmax(dim=1)


def test_reference_values():
    known = json.loads((REFERENCE / "inception_score.json").read_text())
    p = drawn(2048)
    scores = {
        "IS_styleganv_10splits_shuffle42": of_protocol(p, load_protocol("is-stylegan-v-2048", "is")),
        "IS_tgan2_1split": of_protocol(p, load_protocol("is-c3d-10k-one-split", "is")),
        "IS_tgan2_10splits_noshuffle": inception_score(p, splits=10, added=1e-20),
    }
    for name, score in scores.items():
        assert score == pytest.approx(known[name], rel=1e-9, abs=1e-12), name


def test_closed_forms():
    assert inception_score(torch.full((30, 5), 0.2), 1) == (pytest.approx(1), 0)
    for classes in (1, 4, 101):
        sure = torch.eye(classes).repeat(3, 1)
        assert inception_score(sure, 1)[0] == pytest.approx(classes, rel=1e-12)
    half = torch.tensor([[0.9, 0.1], [0.1, 0.9]])  # exp(KL) of a coin of 0.9 from a fair one
    wanted = math.exp(0.9 * math.log(1.8) + 0.1 * math.log(0.2))
    assert inception_score(half, 1)[0] == pytest.approx(wanted, rel=1e-6)


def test_splits_are_parts_and_their_mean_and_deviation_is_given():
    p = drawn(50)
    parts = [inception_score(p[k : k + 10], 1)[0] for k in range(0, 50, 10)]
    mean, deviation = inception_score(p, 5)
    assert mean == pytest.approx(numpy.mean(parts), rel=1e-12)
    assert deviation == pytest.approx(numpy.std(parts), rel=1e-9)
    assert inception_score(p, 5, shuffle=42)[0] != mean


def test_tgan2_reports_ten_sets_which_are_the_splits_of_their_union():
    p = drawn(200)
    order = torch.from_numpy(numpy.random.RandomState(42).permutation(200))
    alone = [inception_score(rows, 1, added=1e-20)[0] for rows in p[order].split(20)]
    protocol = load_protocol("is-tgan2-2048x10", "is")
    assert of_protocol(p, protocol) == pytest.approx((numpy.mean(alone), numpy.std(alone)), rel=1e-12)
    assert protocol.fake == 10 * 2048


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.rand(4, 5) + 1, "each of sum 1"),
        (torch.full((4, 2), torch.nan), "each of sum 1"),
        (torch.tensor([[1.5, -0.5]]), "each of sum 1"),
        (torch.full((4,), 0.25), "rows of probabilities"),
    ],
)
def test_what_is_no_probability_is_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        inception_score(rows, 1)
    with pytest.raises(ValueError, match="4 clips do not make 10 splits"):
        inception_score(torch.full((4, 2), 0.5), 10)


@pytest.fixture(scope="module")
def seeded() -> tuple:
    """C3D's seeded weights and mean, drawn once: they are 78 million numbers."""
    return seeded_c3d()


@pytest.fixture(scope="module")
def network(seeded) -> C3D:
    """C3D with seeded weights."""
    return C3D(*seeded).eval()


@torch.no_grad()
@pytest.mark.parametrize("size", ["64x64", "112x112", "128x160"])
def test_c3d_is_that_of_tgan2_in_chainer(size, network):
    """What TGANv2's code gave under Chainer 7.8.1 with the same weights and videos."""
    wanted = torch.tensor(json.loads((REFERENCE / "c3d_seeded.json").read_text())[size])
    height, width = map(int, size.split("x"))
    random = numpy.random.RandomState(height + width)
    frames = torch.from_numpy(random.randint(0, 256, (2, 16, height, width, 3)).astype(numpy.uint8))
    protocol = load_protocol("is-c3d-10k", "is")
    made = network(torch.stack([prepare(clip, protocol) for clip in frames]))
    assert (made - wanted).norm() < 1e-5 * wanted.norm()
    turned = network(torch.stack([prepare(clip.flip(-1), protocol) for clip in frames]))
    assert (turned - wanted).norm() > 0.01 * wanted.norm()  # red is not blue


def test_c3d_takes_its_own_clips_alone(network):
    with pytest.raises(ValueError, match="B 3 16 112 112"):
        network(torch.zeros(1, 3, 17, 112, 112))


def test_weights_files_are_read_by_name_and_shape(tmp_path, monkeypatch):
    shapes = {"conv1a/W": (2, 3), "conv1a/b": (2,)}
    monkeypatch.setattr(c3d, "SHAPES", shapes)
    good = {name: numpy.ones(shape, numpy.float32) for name, shape in shapes.items()}
    weights, mean = tmp_path / "weights.npz", tmp_path / "mean.npz"
    numpy.savez(mean, mean=numpy.full(c3d.MEAN, 7, numpy.float32).reshape(1, *c3d.MEAN))
    numpy.savez(weights, **good, extra=numpy.zeros(1))
    tensors, cube = read_c3d(weights, mean)
    assert tensors.keys() == shapes.keys() and cube.shape == c3d.MEAN
    numpy.savez(weights, **(good | {"conv1a/b": numpy.zeros(3)}))
    with pytest.raises(ValueError, match=r"conv1a/b is \(3,\), not \(2,\)"):
        read_c3d(weights, mean)
    numpy.savez(weights, **{"conv1a/W": good["conv1a/W"]})
    with pytest.raises(ValueError, match="it has no conv1a/b"):
        read_c3d(weights, mean)
    numpy.savez(weights, **good)
    with pytest.raises(ValueError, match="is not the mean of C3D"):
        read_c3d(weights, weights)
    mean.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"is no .npz file of numbers"):
        read_c3d(weights, mean)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Twelve short videos, and one that is too short."""
    folder = tmp_path_factory.mktemp("videos")
    for k in range(13):
        random = torch.Generator().manual_seed(k)
        frames = torch.rand(3, 1, 6, 8, generator=random).repeat(1, 16 if k else 9, 8, 8) * 2 - 1
        write_video(folder / f"{k:02d}.mp4", frames, 8.0, {})
    return folder


@pytest.mark.long
def test_the_verb_scores_and_stamps(videos, seeded, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("eval.networks.certify.seeded_c3d", lambda: seeded)
    out = tmp_path / "is.json"
    common = ["eval", "is", "--videos", str(videos), "--smoke", "--workers", "0", "--resamples", "20"]
    assert run([*common, "--allow-small", "--json", str(out)]) == 0
    told = capsys.readouterr().out
    assert SMOKE.upper() in told and "small: 12 of 10000 videos" in told
    assert "in the splits of is-c3d-10k-one-split" in told and "00.mp4 has 9 frames" in told
    score = json.loads(out.read_text())
    assert score["value"] >= 1 and score["stamps"][0] == SMOKE and score["fake"]["clips"] == 12
    assert 1 <= score["interval"]["low"] < score["value"] < score["interval"]["high"]
    assert run(common) == 1
    assert "gives 12 clips of 16 frames, and is-c3d-10k takes 10000" in capsys.readouterr().err
    few = tmp_path / "few"
    few.mkdir()
    shutil.copy(videos / "01.mp4", few)
    assert run([*common[:3], str(few), *common[4:], "--allow-small"]) == 1
    assert "gives 1 clip of 16 frames" in capsys.readouterr().err


def test_repeats_are_refused_where_all_videos_are_taken(videos, seeded, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("eval.networks.certify.seeded_c3d", lambda: seeded)
    plain = load_protocol("is-c3d-10k", "is")
    (tmp_path / "few").mkdir()
    for k in range(4):
        shutil.copy(videos / f"{k:02d}.mp4", tmp_path / "few")
    common = ["eval", "is", "--videos", str(tmp_path / "few"), "--smoke", "--workers", "0"]
    for takes, refused in ((3, True), (2, False)):  # the first of four is too short
        protocol = replace(plain, start="first", fake=takes, splits=1)
        monkeypatch.setattr("eval.inception.load_protocol", lambda *_, found=protocol: found)
        out = tmp_path / f"{takes}.json"
        assert run([*common, "--resamples", "0", "--repeats", "2", "--json", str(out)]) == refused
        assert ("is-c3d-10k draws no videos and no starts" in capsys.readouterr().err) == refused
    assert json.loads(out.read_text())["repeats"]["count"] == 2


@pytest.mark.long
def test_without_weights_that_anything_certifies_there_is_no_score(
    videos, seeded, monkeypatch, tmp_path, capsys
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    call = ["eval", "is", "--videos", str(videos), "--allow-small", "--workers", "0"]
    assert run(call) == 1
    assert "conv3d_deepnetA_ucf.npz of TGANv2's release" in capsys.readouterr().err
    monkeypatch.setattr("eval.networks.certify.read_c3d", lambda *_: seeded)
    monkeypatch.setattr("eval.networks.certify.find_weights", lambda *_: tmp_path)
    assert run(call) == 1
    assert "--uncertified scores with them" in capsys.readouterr().err
    assert run([*call, "--uncertified", "--resamples", "0"]) == 0
    told = capsys.readouterr().out
    assert "C3D is not certified" in told and "IS " in told
