"""Proves that a planted law of scaling is found again, how forecasts are kept and judged, what is refused."""

import json
import re
from dataclasses import replace

import numpy
import pytest
from scipy.optimize import least_squares

from dit.cli import run
from dit.runs.history import read_histories
from dit.runs.law import HUBER, SETTLES, fit, optimal_split
from dit.runs.scaled import best_rate, growth_of_flops, parameters_of, runs_of
from dit.runs.scaling import law_of
from tests.written_runs import row, settings, write_run

TRUE = {"E": 0.3, "A": 60.0, "a": 0.35, "B": 40.0, "b": 0.4}
SIZES, LENGTHS = numpy.array([1e5, 3e5, 1e6, 3e6]), numpy.array([3e3, 1e4, 3e4])
N, D = map(numpy.ravel, numpy.meshgrid(SIZES, LENGTHS))


def planted(n, d, t=TRUE):
    return t["E"] + t["A"] / n ** t["a"] + t["B"] / d ** t["b"]


def noisy(noise: float, seed: int = 0):
    return planted(N, D) * numpy.exp(noise * numpy.random.default_rng(seed).standard_normal(len(N)))


def test_a_planted_law_is_found_again_and_its_best_split_is_the_best():
    law = fit(("N", "D"), True, {"N": N, "D": D}, planted(N, D), redraws=10)
    assert {k: v[0] for k, v in law.constants(0.9).items()} == pytest.approx(TRUE, rel=1e-6)
    growth = (30.0, 1.1)
    (size,), (samples,) = optimal_split(law, growth, numpy.array([1e13]))
    every = numpy.geomspace(size / 30, size * 30, 20_001)
    losses = planted(every, 1e13 / (growth[0] * every ** growth[1]))
    assert size == pytest.approx(every[losses.argmin()], rel=2e-3)
    assert growth[0] * size ** growth[1] * samples == pytest.approx(1e13)


def test_the_fit_has_the_least_huber_loss_that_scipy_finds():
    losses = noisy(0.01)
    losses[3] *= 1.2  # an outlier, which squares would follow
    law = fit(("N", "D"), True, {"N": N, "D": D}, losses, redraws=10)

    def residuals(p):
        return numpy.log(planted(N, D, dict(zip("EAaBb", numpy.exp(p), strict=True)))) - numpy.log(losses)

    start = numpy.log([v[0] for v in law.constants(0.9).values()])
    limit = HUBER * SETTLES * law.scatter
    found = least_squares(
        residuals, start + 0.05, loss="huber", f_scale=limit, x_scale="jac", xtol=1e-14, ftol=1e-14
    )
    mine = numpy.abs(residuals(start))
    cost = numpy.where(mine < limit, mine**2 / 2, limit * (mine - limit / 2)).sum()
    assert cost == pytest.approx(found.cost, rel=0.02)
    assert law.losses({"N": 1e7, "D": 1e5})[0] == pytest.approx(planted(1e7, 1e5), rel=0.05)


def test_intervals_hold_what_was_planted():
    """`python -m tests.bench.scaling` counts over 200 draws; here one forecast of each of a few."""
    inside = 0
    for seed in range(4):
        law = fit(("N", "D"), True, {"N": N, "D": D}, noisy(0.005, seed), redraws=100, seed=seed)
        _, low, high = law.forecast({"N": 1e7, "D": 1e5}, 0.9)
        inside += low <= planted(1e7, 1e5) <= high
        assert (high - low) / low < 0.5, "an interval that holds everything says nothing"
    assert inside >= 3


def tiny_runs(home, widths=(32, 64, 96), lengths=(100, 200, 400), noise=0.003, **changes):
    """Folders of runs whose last validation loss a law decides."""
    random, folders = numpy.random.default_rng(0), []
    for width in widths:
        for steps in lengths:
            config = settings(width=width, steps=steps)
            size = parameters_of(config.model)
            loss = 0.2 + 50 / size**0.4 + 8 / (8 * steps) ** 0.35
            loss *= numpy.exp(noise * random.standard_normal())
            flops = 6.0 * size
            rows = [row(1, 2.0, 1, flops=flops), row(steps, 1.0, steps, flops=flops, validation=loss)]
            folders.append(str(write_run(home / f"w{width}-{steps}", replace(config, **changes), rows)))
    return folders


def test_a_forecast_is_kept_before_the_run_and_compared_with_it(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = tiny_runs(tmp_path)
    wide = settings(width=128, steps=800)
    size = parameters_of(wide.model)
    words = ["scaling", *folders, "--parameters", str(size), "--samples", "6400", "--redraws", "100"]
    assert run([*words, "--keep", "kept.json"]) == 0
    kept = json.loads((tmp_path / "kept.json").read_text())
    truth = 0.2 + 50 / size**0.4 + 8 / 6400**0.35
    said = kept["forecast"]
    assert said["low"] < truth < said["high"] and said["validation"] == pytest.approx(truth, rel=0.05)
    assert len(kept["runs"]) == 9 and all(re.fullmatch("[0-9a-f]{64}", each["hash"]) for each in kept["runs"])
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert run([*words, "--keep", "kept.json"]) == 1 and "not made twice" in capsys.readouterr().err

    late = {"time": "2099-01-01T00:00:00+00:00", "step": 0, "processes": 1}
    rows = [row(800, 1.0, 800, validation=truth * 1.001)]
    after = write_run(tmp_path / "after", wide, rows, [late])
    before = write_run(tmp_path / "before", wide, [row(800, 1.0, 800, validation=9.0)])
    small = write_run(tmp_path / "small", settings(width=64, steps=800), rows, [late])
    capsys.readouterr()
    assert run(["scaling", str(after), "--against", "kept.json"]) == 0
    out = capsys.readouterr().out
    assert (
        f"{truth * 1.001 / said['validation'] - 1:+.1%} off, inside" in out and "before the run began" in out
    )
    assert run(["scaling", str(before), "--against", "kept.json"]) == 0
    out = capsys.readouterr().out
    assert "OUTSIDE" in out and "it is no forecast" in out
    assert run(["scaling", str(small), "--against", "kept.json"]) == 1
    assert "the forecast is of" in capsys.readouterr().err


def test_fewer_runs_give_fewer_terms_which_is_said(tmp_path):
    def law(name, **which):
        return law_of(runs_of(read_histories(tiny_runs(tmp_path / name, **which))), 100)

    one, words = law("n", widths=(32, 64, 96, 128), lengths=(100,))
    assert one.terms == ("N",) and one.floor and "the same samples" in words[0]
    one, words = law("few", lengths=(100,))
    assert one.terms == ("N",) and not one.floor and "too few runs to fit a floor" in words[-1]
    one, words = law("d", widths=(32,), lengths=(100, 200, 400, 800))
    assert one.terms == ("D",)
    line = [tiny_runs(tmp_path / f"c{w}", (w,), (s,))[0] for w, s in ((32, 100), (64, 200), (96, 400))]
    one, words = law_of(runs_of(read_histories(line)), 100)
    assert one.terms == ("C",) and "grow together" in words[0]
    with pytest.raises(ValueError, match="a law needs 3 runs of different size, or of different length"):
        law("square", widths=(32, 64), lengths=(100, 200))
    with pytest.raises(
        ValueError, match="a law needs 3 finished runs of different size or length; there are 2"
    ):
        law("two", widths=(32, 64), lengths=(100,))


def test_runs_that_cannot_be_compared_are_refused_in_words(tmp_path):
    one = tiny_runs(tmp_path, widths=(32,), lengths=(100,))
    base = settings(width=64)
    rows = [row(100, 1.0, 100, validation=1.0)]
    changes = {
        "other noise to validate": replace(base, train=replace(base.train, seed=1)),
        "other times or tasks": replace(base, flow=replace(base.flow, shift=1.0)),
        "other data": replace(base, data=replace(base.data, frames=5)),
        "another start": replace(base, init="somewhere"),
    }
    for number, (why, config) in enumerate(changes.items()):
        other = write_run(tmp_path / f"other-{number}", config, rows)
        with pytest.raises(ValueError, match=why):
            runs_of(read_histories([*one, str(other)]))
    other = write_run(tmp_path / "files", base, rows, data="e" * 64)
    with pytest.raises(ValueError, match="other data"):
        runs_of(read_histories([*one, str(other)]))
    assert run(["scaling", *one, str(tmp_path / "nothing")]) == 1


def test_costs_grow_as_the_logs_say_and_a_parabola_finds_the_best_rate(tmp_path):
    runs = runs_of(read_histories(tiny_runs(tmp_path, lengths=(100,))))
    k, m = growth_of_flops(runs)
    assert m == pytest.approx(1) and k == pytest.approx(6 * 32)  # 32 tokens a sample, 6 FLOPs a parameter
    losses = {2.0**x: 1 + (x + 6.3) ** 2 for x in range(-9, -3)}
    assert best_rate(losses) == pytest.approx(2**-6.3)
