"""Proves that a score depends on its protocol, its videos and its weights alone, and says what it is."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import eval.frechet
import eval.fvd
import eval.networks.load
import eval.sides
from configs.protocol import differences, load_protocol, load_protocols, protocol_names
from dit.cli import run
from eval.compare import compare
from eval.frechet import at_infinity, checked_distance, distance_of_features, quickest_distance
from eval.fvd import FvdSettings, fvd, sentence
from eval.networks.certify import SMOKE
from eval.scoring import interval
from tests.tiny import ROOT, environment
from vae.data.index import list_hash
from vae.data.ucf101 import read_split
from vae.data.write import write_video
from vae.training.weights import load_weights, save_weights


def video(seed: int, frames: int = 16) -> torch.Tensor:
    """A video of soft moving noise."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, frames, 4, 5, generator=random)
    fine = torch.nn.functional.interpolate(coarse, (frames, 32, 40), mode="trilinear")
    return fine[0] * 2 - 1


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """Five real and five generated videos."""
    home = tmp_path_factory.mktemp("videos")
    for side, first in (("real", 0), ("fake", 100)):
        for k in range(5):
            write_video(home / side / f"class{k % 2}" / f"{k}.mp4", video(first + k, 16 + k), 8.0, {})
    return home / "real", home / "fake"


class Means(torch.nn.Module):
    """A network that is quick: the mean and the spread of each channel in each third of the clip."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        thirds = x.contiguous().tensor_split(3, dim=2)
        return torch.cat([part.flatten(2).mean(2) for part in thirds] + [x.flatten(2).std(2)], dim=1)


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """The quick network in place of I3D, and a cache of its own."""
    monkeypatch.setattr(eval.networks.load, "load_i3d", lambda eps, given, smoke: (Means(), SMOKE))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def settings(folders: tuple[Path, Path], **changes) -> FvdSettings:
    real, fake = map(str, folders)
    plain = FvdSettings(real=real, fake=fake, protocol="fvd-google", smoke=True, allow_small=True)
    return replace(plain, **{"workers": 0, "resamples": 20} | changes)


def test_workers_batches_and_order_do_not_move_the_score(folders, quick, tmp_path):
    base = fvd(settings(folders, cache=False))["value"]
    assert base > 0
    for changes in ({"workers": 2}, {"workers": 1, "batch": 2}):
        assert fvd(settings(folders, cache=False, **changes))["value"] == base
    copies = []
    for side in folders:  # written in another order, to another place
        copy = tmp_path / side.name
        for file in sorted(side.rglob("*.mp4"), reverse=True):
            (copy / file.relative_to(side)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy / file.relative_to(side))
        copies.append(copy)
    assert fvd(settings(tuple(copies), cache=False))["value"] == base


SEVERAL = """import sys
import eval.fvd
import eval.networks.load
from tests.test_fvd import SMOKE, Means
eval.networks.load.load_i3d = lambda eps, given, smoke: (Means(), SMOKE)
eval.fvd.main(sys.argv[1:])
"""


def launched(words: list, processes: int, variables: dict[str, str]) -> list[tuple[str, str]]:
    """Output and errors of as many processes of a command; what torchrun does, without its own start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(processes):
        shared = {"WORLD_SIZE": processes, "RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        own = variables | {name: str(value) for name, value in shared.items()}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([sys.executable, *map(str, words)], env=own, **pipes))
    ended = [process.communicate(timeout=600) for process in started]
    assert [process.returncode for process in started] == [0] * processes, ended
    return ended


@pytest.mark.long
def test_one_two_and_three_processes_give_the_same_bits(folders, quick, tmp_path):
    (tmp_path / "several.py").write_text(SEVERAL)
    scores = [fvd(settings(folders, cache=False, batch=2, json=str(tmp_path / "1.json")))]
    words = [
        *("--real", folders[0], "--fake", folders[1], "--protocol", "fvd-google", "--smoke", "--allow-small")
    ]
    words += ["--no-cache", "--batch", "2", "--workers", "0", "--resamples", "20"]
    for processes in (2, 3):
        file = tmp_path / f"{processes}.json"
        ended = launched([tmp_path / "several.py", *words, "--json", file], processes, environment())
        assert [out.count("NOT FVD: SEEDED NETWORK") for out, _ in ended] == [1] + [0] * (processes - 1)
        scores.append(json.loads(file.read_text()))
    assert scores[0] == scores[1] == scores[2]


@pytest.mark.long
def test_threads_processes_and_batches_do_not_move_i3d(folders, tmp_path):
    """A launcher gives each of its processes one thread, which rounds other sums than several do."""
    real, fake = (side / "class1" for side in folders)
    plain = settings((real, fake), cache=False, batch=2, resamples=0)
    base = fvd(plain)["value"]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert fvd(plain)["value"] == pytest.approx(base, rel=1e-9)
    finally:
        torch.set_num_threads(before)
    file = tmp_path / "two.json"
    words = ["--real", real, "--fake", fake, "--protocol", "fvd-google", "--smoke", "--allow-small"]
    words += ["--no-cache", "--batch", 2, "--workers", 0, "--resamples", 0, "--json", file]
    launched(["-m", "eval.fvd", *words], 2, environment() | {"OMP_NUM_THREADS": "1"})
    assert json.loads(file.read_text())["value"] == pytest.approx(base, rel=1e-9)
    assert fvd(replace(plain, batch=1))["value"] == base


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for a process's children")
def test_a_signal_to_the_whole_group_ends_scoring_in_one_sentence(folders):
    words = ["--real", folders[0], "--fake", folders[1], "--protocol", "fvd-google", "--smoke"]
    words += ["--allow-small", "--no-cache", "--workers", "2"]
    pipes = {"stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    process = subprocess.Popen(
        [sys.executable, "-m", "eval.fvd", *map(str, words)], cwd=ROOT, env=environment(), **pipes
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    readers, least = [], time.monotonic() + 120
    while process.poll() is None and len(readers) < 2 and time.monotonic() < least:
        readers = children.read_text().split()
        time.sleep(0.01)
    time.sleep(0.5)  # they have begun
    os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 143 and said.splitlines()[-1] == "dit eval fvd: stopped", said[-2000:]
    assert "Traceback" not in said and "terminate" not in said


def test_other_rates_are_noted(folders, quick, tmp_path, capsys):
    fvd(settings(folders, cache=False))
    assert "frames a second" not in capsys.readouterr().out
    for k in range(3):
        write_video(tmp_path / "fast" / f"{k}.mp4", video(k), 25.0 if k else 24.0, {})
    result = fvd(settings((folders[0], tmp_path / "fast"), cache=False))
    assert result["fake"]["rates"] == {"24": 1, "25": 2} and result["real"]["sizes"] == {"40x32": 5}
    said = "note: real videos have 8 frames a second, generated ones 24, 25; a protocol counts frames"
    assert said in capsys.readouterr().out


def test_few_clips_are_refused_or_stamped(folders, quick, capsys):
    words = ["eval", "fvd", "--real", str(folders[0]), "--fake", str(folders[1]), "--protocol", "fvd-google"]
    assert run([*words, "--smoke"]) == 1
    told = capsys.readouterr().err
    assert (
        "gives 5 clips of 16 frames, and fvd-google takes 2048: with --allow-small the score is stamped"
        in told
    )
    result = fvd(settings(folders))
    assert result["stamps"] == [SMOKE, "small: 5 of 2048 real clips", "small: 5 of 2048 generated clips"]
    assert sentence(result).startswith("NOT FVD: SEEDED NETWORK\nsmall: 5 of 2048 real clips\n")
    assert "FVD" not in sentence(result).replace("NOT FVD: SEEDED", "").splitlines()[3]


def test_real_videos_are_those_of_the_list(folders, quick, ucf101_lists, monkeypatch):
    with pytest.raises(
        ValueError, match=r"holds 5 videos, which are not those of ucf101 test1: make a manifest"
    ):
        fvd(settings(folders, protocol="ucf101-recon", allow_small=False))
    stamps = fvd(settings(folders, protocol="ucf101-recon"))["stamps"]
    assert stamps[:3] == [SMOKE, "other videos than ucf101 test1", "small: 5 of 3783 real clips"]
    for name, split in (("ucf101-recon", "test1"), ("ucf101-zeroshot-10k", "all")):
        protocol = load_protocol(name, "fvd")
        files = read_split(ucf101_lists, split)
        assert protocol.split == split
        assert protocol.list_sha256 == list_hash([Path(file).stem for file in files])
    own = replace(load_protocol("ucf101-recon", "fvd"), list_sha256=list_hash([str(k) for k in range(5)]))
    monkeypatch.setattr(eval.sides, "load_protocol", lambda *_: own)
    assert fvd(settings(folders))["stamps"][1] == "small: 5 of 3783 real clips"


def test_features_are_kept_under_what_made_them(folders, quick, tmp_path, monkeypatch):
    real = tmp_path / "real"
    shutil.copytree(folders[0], real)
    count = []
    whole = eval.sides.extract
    monkeypatch.setattr(eval.sides, "extract", lambda *a: count.append(a[-1]) or whole(*a))
    first = fvd(settings((real, folders[1])))
    assert count == ["real", "fake"]
    again = fvd(settings((real, folders[1])))
    assert count == ["real", "fake"] and again["value"] == first["value"]
    write_video(real / "class0" / "0.mp4", video(55), 8.0, {})  # one file changes
    changed = fvd(settings((real, folders[1])))
    assert count[2:] == ["real"] and changed["value"] != first["value"]
    other = settings((real, folders[1]), protocol="fvd-videogpt")
    fvd(other)
    assert count[3:] == ["real", "fake"]
    monkeypatch.setattr(eval.networks.load, "load_i3d", lambda eps, given, smoke: (Means(), "other weights"))
    fvd(settings((real, folders[1])))
    assert count[5:] == ["real", "fake"]


def test_saved_features_are_the_real_side_and_only_under_their_protocol(
    folders, quick, tmp_path, monkeypatch
):
    saved = tmp_path / "real.safetensors"
    first = fvd(settings(folders, save_real=str(saved)))
    again = fvd(settings((saved, folders[1])))
    assert again["value"] == first["value"] and again["real"] == first["real"]
    assert again["stamps"] == first["stamps"] and "small: 5 of 2048 real clips" in again["stamps"]
    with pytest.raises(ValueError, match="small: 5 of 2048 real clips; with --allow-small"):
        fvd(settings((saved, folders[1]), allow_small=False))
    with pytest.raises(ValueError, match=r"made under another protocol: .*kernel"):
        fvd(settings((saved, folders[1]), protocol="fvd-videogpt"))
    monkeypatch.setattr(eval.networks.load, "load_i3d", lambda eps, given, smoke: (Means(), "other weights"))
    with pytest.raises(ValueError, match="made with other weights"):
        fvd(settings((saved, folders[1])))
    tensors, header = load_weights(Path(saved), "features")
    side = header.facts["side"]
    for odd, where in (
        (side | {"made_with": []}, "made_with"),
        ({name: side[name] for name in side if name != "clips"}, "clips"),
    ):
        save_weights(Path(saved), tensors, "features", header.settings, header.facts | {"side": odd})
        with pytest.raises(ValueError, match=rf"facts in its header: side\.{where}"):
            fvd(settings((saved, folders[1])))


def test_saved_features_are_generated_ones_only_where_both_sides_are_chosen_alike(folders, quick, tmp_path):
    saved = tmp_path / "generated.safetensors"
    first = fvd(settings(folders))
    fvd(settings(folders[::-1], save_real=str(saved)))
    header = load_weights(saved, "features")[1]
    assert header.facts["side"]["which"] == "real"
    assert fvd(settings((folders[0], saved)))["value"] == first["value"]
    name, saved = (
        "fvd-stylegan-v-2048",
        tmp_path / "real.safetensors",
    )  # generated clips start at the first frame
    fvd(settings(folders, protocol=name, save_real=str(saved)))
    fvd(settings((saved, folders[1]), protocol=name))
    with pytest.raises(ValueError, match=rf"of the real side, and {name} chooses --fake clips otherwise"):
        fvd(settings((folders[0], saved), protocol=name))


def test_only_scores_of_one_protocol_stand_side_by_side(folders, quick, tmp_path, capsys):
    files = [str(tmp_path / f"{k}.json") for k in range(3)]
    fvd(settings(folders, json=files[0]))
    fvd(settings((folders[0], folders[0]), json=files[1]))
    fvd(settings(folders, json=files[2], protocol="fvd-stylegan-v-2048"))
    shown = compare(files[:2]).splitlines()
    assert len(shown) == 4 and all(file in line for file, line in zip(files, shown[2:], strict=False))
    assert run(["eval", "compare", *files]) == 1
    told = capsys.readouterr().err
    for word in (
        "ddof: 1 and 0",
        "kernel: 'bilinear-tf1' and 'bilinear'",
        "stored_codec: 'none' and 'jpeg-75'",
    ):
        assert word in told
    score = json.loads(Path(files[1]).read_text())
    score["real"]["rgb_sha256"] = "0" * 64
    Path(files[1]).write_text(json.dumps(score))
    with pytest.raises(ValueError, match="do not compare: real frames"):
        compare(files[:2])
    for text, message in (("{", "is not JSON"), ('{"value": 3}', "is no score"), ("3", "must be a set of")):
        Path(files[0]).write_text(text)
        with pytest.raises(ValueError, match=message):
            compare(files[:1])


def test_protocols_are_told_apart_by_their_hash():
    found = {name: load_protocols(name) for name in protocol_names()}
    for name, by_metric in found.items():
        assert by_metric and {(p.name, p.metric) for p in by_metric.values()} == {
            (name, m) for m in by_metric
        }
    assert set(found["msrvtt-2990"]) == set(found["msrvtt-all-captions"]) == {"fvd", "clipsim"}
    protocols = [protocol for by_metric in found.values() for protocol in by_metric.values()]
    assert len({protocol.hash() for protocol in protocols}) == len(protocols) >= 15
    for protocol in protocols:
        for name, value in vars(protocol).items():
            more = {str: "x", tuple: ("x",)}.get(type(value), 1)
            changed = (value or 0) + more if more == 1 else value + more
            other = replace(protocol, **{name: changed})
            assert other.hash() != protocol.hash()
            assert [line.split(":")[0] for line in differences(vars(protocol), vars(other))] == [name]
    with pytest.raises(ValueError, match=r"no protocol fvd-googel; did you mean fvd-google\?"):
        load_protocol("fvd-googel", "fvd")


def test_protocols_are_shown(capsys):
    assert run(["eval", "protocols"]) == 0
    groups, title, names = {}, "", []
    for line in capsys.readouterr().out.splitlines():
        if line.startswith("  "):
            names.append(line.split()[0])
            groups[title].append(names[-1])
        else:
            title, groups[line] = line, []
    assert sorted(names) == protocol_names() and all(groups.values())
    assert {"ucf101-zeroshot-2048", "ucf101-recon", "fvd-videogpt"} <= {*groups["fvd of ucf101"]}
    assert "fvd-google" in groups["fvd"] and groups["clipsim, fvd of msrvtt"][0] == "msrvtt-2990"
    assert run(["eval", "protocols", "fvd-latte-2048-stride3"]) == 0
    shown = capsys.readouterr().out
    assert "real_stride      3" in shown and load_protocol("fvd-latte-2048-stride3", "fvd").hash() in shown


def normal(count: int, seed: int, width: int = 20) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_the_interval_covers_what_other_sets_give():
    """It is as wide as the middle 95 % of the distances of 100 pairs of fresh sets."""
    distance = partial(quickest_distance, ddof=1)
    sides = normal(100, 1), normal(100, 2) + 1
    result = interval(distance, sides, 200, 0, around=100.0, least=0.0)
    width = result["high"] - result["low"]
    fresh = [checked_distance(normal(100, 10 + k), normal(100, 500 + k) + 1, 1)[0] for k in range(100)]
    others = torch.tensor(fresh, dtype=torch.float64)
    assert 0.7 < width / (others.quantile(0.975) - others.quantile(0.025)) < 1.4
    assert interval(distance, sides, 200, 0, around=100.0, least=0.0) == result  # seeded
    assert interval(distance, sides, 200, 1, around=100.0, least=0.0) != result
    assert result["low"] < 100 < result["high"]
    alike = normal(100, 1), normal(100, 2)
    assert interval(distance, alike, 200, 0, around=0.0, least=0.0)["low"] == 0  # no distance is less
    assert interval(distance, alike, 0, 0) is None


def test_at_infinity_equal_sets_are_at_zero():
    """Fresh sets of one Gaussian are apart by about 1 / N; with infinitely many they are not."""
    values, ends, units = [], [], (torch.arange(400),) * 2
    for k in range(6):
        one, other = normal(400, 2 * k), normal(400, 2 * k + 1)
        values.append(checked_distance(one, other, 1)[0])
        line = at_infinity(one, other, 1, 0, units)
        ends.append(line["value"])
    assert sum(values) / 6 > 0.5 and abs(sum(ends) / 6) < 0.1 * sum(values) / 6
    assert (line["sizes"][0], line["sizes"][-1]) == (400, 200) and line["residual"] < 0.05 * values[0]


def test_two_methods_that_disagree_are_an_error(monkeypatch):
    one, other = normal(30, 1), normal(30, 2) + 1
    assert checked_distance(one, other, 1)[0] == distance_of_features(one, other, 1)
    monkeypatch.setattr(eval.frechet, "distance", lambda *a: 0.5)
    with pytest.raises(ValueError, match="two methods disagree"):
        checked_distance(one, other, 1)


@pytest.mark.parametrize("count", [3, 5, 8, 40, 60])
def test_sides_that_are_almost_one_have_a_score(count):
    """As those of a good autoencoder are; of fewer clips than features, covariances lose half the digits."""
    for seed in range(10):
        one = normal(count, seed)
        assert checked_distance(one, one, 1)[0] == pytest.approx(0, abs=1e-12)
        near = one + 1e-3 * normal(count, seed + 100)
        assert checked_distance(one, near, 1)[0] == distance_of_features(one, near, 1) > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": ""}, "no protocol .none given.: .*fvd-cdfvd"),
        ({"real": ""}, "no --real: a folder of videos"),
        ({"real": "nowhere"}, "nowhere: no such folder or manifest"),
        ({"fake": "samplers"}, "samplers holds no video, and no folder of frames"),
        ({"json": "tests"}, "tests is a folder: give a file in it"),
        ({"protocol": "is-c3d-10k"}, "is-c3d-10k is a protocol of is, not of fvd"),
        ({"save_real": "real.npz"}, "give a name that ends in .safetensors"),
        ({"real": "nowhere.safetensors"}, r"nowhere\.safetensors: no such weights file"),
    ],
)
def test_wrong_settings_are_told(folders, quick, changes, message):
    with pytest.raises(ValueError, match=message):
        fvd(settings(folders, **changes))


def test_without_weights_there_is_no_score(folders, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("DIT_I3D", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    words = ["--real", str(folders[0]), "--fake", str(folders[1]), "--protocol", "fvd-google"]
    assert run(["eval", "fvd", *words]) == 1
    assert "FVD needs the weights of i3d, and there are none" in capsys.readouterr().err


def test_saved_features_replace_no_other_weights(folders, quick, tmp_path):
    other = tmp_path / "model.safetensors"
    save_weights(other, {"a": torch.ones(1)}, "autoencoder", {})
    before = other.read_bytes()
    with pytest.raises(ValueError, match="is of kind autoencoder, where features is needed"):
        fvd(settings(folders, save_real=str(other)))
    assert other.read_bytes() == before
