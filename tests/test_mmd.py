"""Proves kernel distances: reference values, the definition, no bias, blocks, resamples, shared features."""

import dataclasses
import json
from dataclasses import replace

import numpy
import pytest
import torch

import eval.kernel
import eval.mmd
import eval.sides
from configs.protocol import DistanceProtocol, FvdProtocol, KernelProtocol, load_protocol
from dit.cli import run
from eval.fvd import fvd
from eval.kernel import discrepancies, discrepancy
from eval.mmd import MmdSettings, mmd
from eval.scoring import interval
from tests.conftest import REFERENCE
from tests.test_fvd import folders, launched, quick, settings  # noqa: F401
from tests.tiny import environment

KVD, JEDI, CMMD = (load_protocol(name, "mmd") for name in ("kvd-tats", "jedi-vjepa2", "cmmd-clip-frames"))
PLAIN = replace(JEDI, scale=1.0)


def by_definition(real: torch.Tensor, fake: torch.Tensor, protocol: KernelProtocol) -> float:
    """The discrepancy pair by pair, in Python's own numbers."""

    def kernel(x: list[float], y: list[float]) -> float:
        if protocol.mmd_kernel == "gaussian":
            return numpy.exp(-sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / 2 / protocol.sigma**2)
        return (sum(a * b for a, b in zip(x, y, strict=True)) / len(x) + protocol.offset) ** protocol.degree

    def mean(one: list, other: list, same: bool) -> float:
        values = [
            kernel(x, y)
            for k, x in enumerate(one)
            for m, y in enumerate(other)
            if not (same and protocol.unbiased and k == m)
        ]
        return sum(values) / len(values)

    x, y = real.tolist(), fake.tolist()
    return protocol.scale * (mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False))


def random_pair(seed: int, counts: tuple[int, int] = (9, 7)) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    one, other = (torch.randn(count, 5, generator=random, dtype=torch.float64) for count in counts)
    return one, other + 0.5


def test_values_of_the_reference():
    stored = json.loads((REFERENCE / "kernel_distances.json").read_text())
    x = torch.arange(1.0, 10).reshape(3, 3)
    y = torch.tensor([[7.0, 6, 5], [4, 3, 2], [1, 1, 8], [0, 2, 5]])
    cubic = replace(PLAIN, degree=3, offset=1.0)
    assert discrepancy(x, y, cubic) == pytest.approx(stored["jedi_selftest_poly3_coef1"], rel=1e-12)
    assert discrepancy(x, y, PLAIN) == pytest.approx(stored["jedi_selftest_poly2_coef0"], rel=1e-12)
    features = numpy.load(REFERENCE / "i3d_seeded_features.npz")
    sides = [torch.from_numpy(features[f"{side}|squash|eps1e-3"]) for side in ("A", "A_blur")]
    assert discrepancy(*sides, JEDI) == pytest.approx(stored["jedi_poly2_x100(A,A_blur)"], rel=1e-9)
    assert discrepancy(*sides, KVD) == pytest.approx(stored["tats_kvd_f64(A,A_blur)"], rel=1e-9)
    assert discrepancy(*sides, KVD) == pytest.approx(stored["tats_kvd_f32(A,A_blur)"], rel=1e-5)
    assert discrepancy(*sides, CMMD) == pytest.approx(stored["cmmd_on_i3d_feats(A,A_blur)"], rel=1e-9)


@pytest.mark.parametrize("protocol", [KVD, JEDI, CMMD, replace(CMMD, unbiased=True)], ids=lambda p: p.name)
def test_it_is_the_definition_in_any_blocks(protocol, monkeypatch):
    pair = random_pair(0)
    expected = by_definition(*pair, protocol)
    for block in (1, 4, 512):
        monkeypatch.setattr(eval.kernel, "BLOCK", block)
        assert discrepancy(*pair, protocol) == pytest.approx(expected, rel=1e-9)


def test_the_unbiased_one_is_nought_on_average_where_the_biased_one_is_not():
    values = {True: [], False: []}
    for seed in range(60):
        random = torch.Generator().manual_seed(seed)
        pair = [torch.randn(12, 5, generator=random, dtype=torch.float64) for _ in range(2)]
        for unbiased in values:
            values[unbiased].append(discrepancy(*pair, replace(KVD, unbiased=unbiased)))
    means = {u: numpy.mean(v) / (numpy.std(v) / len(v) ** 0.5) for u, v in values.items()}  # in its errors
    assert abs(means[True]) < 3 and means[False] > 10


@pytest.mark.parametrize("protocol", [KVD, JEDI], ids=lambda p: p.name)
def test_resamples_are_those_of_the_clips_themselves(protocol):
    """Of an unbiased one pairs of one clip and its copy are left out, as a clip with itself is."""
    pair = random_pair(1)
    value = discrepancy(*pair, protocol)
    least = -torch.inf if protocol.unbiased else 0.0

    def mean(side: torch.Tensor, other: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        values = (side.double() @ other.double().T / side.shape[1] + protocol.offset) ** protocol.degree
        return values[kept].mean()

    def plain(one_N: torch.Tensor, other_N: torch.Tensor) -> float:
        one, other = pair[0][one_N], pair[1][other_N]
        apart = [
            index[:, None] != index if protocol.unbiased else torch.ones(len(index), len(index)) > 0
            for index in (one_N, other_N)
        ]
        across = mean(one, other, torch.ones(len(one), len(other)) > 0)
        return (
            protocol.scale * (mean(one, one, apart[0]) + mean(other, other, apart[1]) - 2 * across)
        ).item()

    places = tuple(torch.arange(len(side)) for side in pair)
    slow = interval(plain, places, 25, 0, value, least)
    fast = eval.mmd._interval(*pair, replace(protocol, seed=0), 25, value)
    assert fast == slow | {end: pytest.approx(slow[end], rel=1e-9) for end in ("low", "high")}
    assert eval.mmd._interval(*pair, protocol, 0, value) is None


def test_features_are_shared_where_all_that_makes_them_is_equal():
    base = KVD.making()
    for field, value in (
        ("eps", 1e-3),
        ("size", 112),
        ("network", "vjepa2"),
        ("network_sha256", "0"),
        ("kernel", "a"),
    ):
        assert replace(KVD, **{field: value}).making() != base
    for field, value in (("pixels", "unit"), ("pooling", "attentive"), ("stored_size", 256), ("fit", "crop")):
        assert replace(KVD, **{field: value}).making() != base
    assert replace(KVD, name="a", real=3, fake=4, degree=2, data="b", frames=8, seed=1).making() == base


def test_tats_distances_are_of_the_same_features():
    both = [load_protocol("ucf101-class-tats", metric) for metric in ("fvd", "mmd")]
    of_clips = {field.name for field in dataclasses.fields(DistanceProtocol)} - {"metric"}
    assert [getattr(both[0], name) for name in of_clips] == [getattr(both[1], name) for name in of_clips]
    kernel = ("title", "mmd_kernel", "degree", "offset", "unbiased", "scale")
    assert [getattr(KVD, name) for name in kernel] == [getattr(both[1], name) for name in kernel]


def test_one_clip_has_no_unbiased_distance():
    one = torch.ones(1, 3)
    with pytest.raises(ValueError, match="1 clips have no KVD: it takes two of each side"):
        discrepancies(one, one, KVD, *(torch.ones(1, 1),) * 2)
    assert discrepancy(one, one, JEDI) == pytest.approx(0)


def asked(folders, **changes) -> MmdSettings:  # noqa: F811
    real, fake = map(str, folders)
    plain = MmdSettings(real=real, fake=fake, protocol="kvd-tats", smoke=True, allow_small=True)
    return replace(plain, **{"workers": 0, "resamples": 20} | changes)


def test_distances_that_share_a_network_share_its_features(folders, quick, tmp_path, monkeypatch, capsys):  # noqa: F811
    read, whole = [], eval.sides.extract
    monkeypatch.setattr(eval.sides, "extract", lambda *a: read.append(a[-1]) or whole(*a))
    first = mmd(asked(folders, json=str(tmp_path / "kvd.json")))
    assert read == ["real", "fake"] and json.loads((tmp_path / "kvd.json").read_text()) == first
    said = capsys.readouterr().out
    assert said.startswith("NOT KVD: SEEDED NETWORK\nsmall: 5 of 2048 real clips") and "\ndistance " in said
    assert fvd(settings(folders, protocol="fvd-google"))["value"] > 0
    assert read[2:] == ["real", "fake"]  # another resize, another eps
    saved = (tmp_path / "real.safetensors", folders[1])
    same = FvdProtocol(name="fvd", real=2048, fake=2048, eps=1e-5)
    with monkeypatch.context() as patch:
        patch.setattr(eval.sides, "load_protocol", lambda *_: same)
        beside = fvd(settings(folders, save_real=str(saved[0])))
    assert read[4:] == [] and beside["real"]["rgb_sha256"] == first["real"]["rgb_sha256"]
    assert mmd(asked(saved))["value"] == first["value"]
    capsys.readouterr()
    words = [f"--{side}={where}" for side, where in zip(("real", "fake"), saved, strict=True)]
    assert run(["eval", "mmd", *words, "--protocol", "kvd-tats", "--smoke"]) == 1
    assert "small: 5 of 2048 real clips; with --allow-small" in capsys.readouterr().err


SCORES = """import importlib
import sys
import eval.networks.load
from tests.test_fvd import SMOKE, Means
eval.networks.load.load_i3d = lambda eps, given, smoke: (Means(), SMOKE)
importlib.import_module(f"eval.{sys.argv[1]}").main(sys.argv[2:])
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("metric", "protocol", "more"),
    [("fvd", "fvd-stylegan-v-2048", ["--repeats", 2, "--panel"]), ("mmd", "kvd-tats", [])],
)
def test_two_processes_write_what_one_writes(folders, tmp_path, metric, protocol, more):  # noqa: F811
    (tmp_path / "scores.py").write_text(SCORES)
    written = []
    for processes in (1, 2):
        home = tmp_path / str(processes)
        home.mkdir()
        words = [metric, "--real", folders[0], "--fake", folders[1], "--protocol", protocol, "--smoke", *more]
        words += ["--allow-small", "--workers", 0, "--resamples", 20, "--json", home / "score.json"]
        words += ["--report", home / "page.html", "--save-real", home / "real.safetensors"]
        variables = environment() | {"XDG_CACHE_HOME": str(home / "cache")}
        for _ in range(2):  # the second time from the cache
            launched([tmp_path / "scores.py", *words], processes, variables)
            saved = (home / "real.safetensors").read_bytes()
            written.append((json.loads((home / "score.json").read_text()), saved))
        assert (home / "page.html").is_file()
    assert all(one == written[0] for one in written)
