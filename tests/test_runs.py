"""Proves that the history of a run is what its folder says, and that its page shows that, and offline."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy
import pytest
from PIL import Image

from configs.load import to_json
from configs.train import AutoencoderRun
from dit.cli import run
from dit.runs.curves import BOTTOM, LEFT, PANELS, RIGHT, TOP, Panel, chart, log_ticks, panels_of, ticks
from dit.runs.dashboard import DashboardSettings, page_of
from dit.runs.history import read_histories, read_history
from dit.train import train
from tests.browser import browsing
from tests.tiny import MODEL, fresh_accelerator, transformer_run
from tests.written_runs import at, row, settings, write_run
from vae.model import Autoencoder
from vae.training.weights import save_weights

__all__ = ["fresh_accelerator"]


@pytest.mark.long
def test_the_history_of_a_real_run_has_all_that_its_log_says(tmp_path):
    model = Autoencoder(MODEL)
    file = tmp_path / "autoencoder" / "autoencoder.safetensors"
    save_weights(file, model.state_dict(), "autoencoder", {"model": to_json(MODEL)})
    config = transformer_run(tmp_path / "run", file, steps=4, log_every=2, show_every=4)
    train(config)
    history = read_history(tmp_path / "run")
    assert (history.step, history.first, list(history.sheets)) == (4, 0, [4])
    assert history.series["loss"].steps.tolist() == [1, 2, 4]
    assert history.total("tokens") == pytest.approx(
        4 * config.train.batch * 2 * 2 * 2
    )  # of 5 frames of 32 x 32
    rate = history.last("model_flops") / history.last("tokens_per_second")
    assert history.total("flops") == pytest.approx(rate * history.total("tokens"), rel=0.2)
    assert 0 <= history.total("device_hours") < 1
    keys = {panel.key for panel in panels_of([history])}
    assert keys >= {"smoothed", "validation", "validation_t0.125", "gradient_norm", "learning_rate", "mfu"}
    assert run(["dashboard", str(tmp_path / "run"), "--out", str(tmp_path / "page.html")]) == 0


def test_device_hours_are_those_of_every_start_on_its_processes(tmp_path):
    starts = [{"time": at(0), "step": 0, "processes": 2}, {"time": at(7200), "step": 20, "processes": 8}]
    rows = [row(10, 1.0, 900), row(20, 1.0, 1800), row(30, 1.0, 7200 + 900)]
    history = read_history(write_run(tmp_path / "run", settings(), rows, starts))
    # A half hour on 2; the hour and a half till it was started again is nobody's; a quarter hour on 8.
    assert history.at("device_hours", [0, 10, 20, 30]).tolist() == pytest.approx([0, 0.5, 1.0, 3.0])
    assert history.at("device_hours", [25]).tolist() == pytest.approx([2.0])  # of what lies between rows


def test_tokens_are_those_of_the_samples_between_rows_or_as_they_are_set(tmp_path):
    rows = [row(10, 1.0, 1, tokens=32), row(20, 1.0, 2, tokens=96), row(40, 1.0, 3, tokens=10, flops=2e6)]
    history = read_history(write_run(tmp_path / "batch", settings(), rows))
    assert history.at("tokens", [10, 20, 40]).tolist() == pytest.approx(
        [2560, 2560 + 7680, 2560 + 7680 + 1600]
    )
    assert history.total("flops") == pytest.approx((2560 + 7680) * 1e6 + 1600 * 2e6)
    history = read_history(write_run(tmp_path / "tokens", settings(tokens=500), rows))
    assert history.at("tokens", [10, 40]).tolist() == pytest.approx([5000, 20000])
    bare = [{k: v for k, v in r.items() if k in ("step", "loss", "smoothed")} for r in rows]
    history = read_history(write_run(tmp_path / "bare", settings(), bare, starts=[]))
    assert [history.total(axis) for axis in ("tokens", "flops", "device_hours")] == [None] * 3


def test_what_a_log_holds_besides_figures_is_no_figure(tmp_path):
    rows = [row(1, float("nan"), 0, word="x", flag=True), row(2, 0.5, 1)]
    rows += [{"step": 2, "event": "skipped", "samples": ["a"], "gradient_norm": 9.0}]
    folder = write_run(tmp_path / "run", settings(), rows)
    (folder / "spike-00000003").mkdir()
    (folder / "spike-00000003" / "spike.json").write_text(json.dumps({"step": 3, "samples": ["b"]}))
    with open(folder / "log.jsonl", "a") as log:
        log.write('{"step": 3, "loss": 0.')  # as a kill leaves it
    history = read_history(folder)
    assert history.series["loss"].steps.tolist() == [2]
    assert not {"word", "flag", "event"} & history.series.keys()
    assert history.series["gradient_norm"].values.tolist() == [1.0, 1.0]  # none of an event's
    assert [(event["step"], event["event"]) for event in history.events] == [(2, "skipped"), (3, "stopped")]


def places(line) -> numpy.ndarray:
    """The points of a line of a chart."""
    return numpy.array([[float(number) for number in pair.split(",")] for pair in line.points.split()])


def back(drawn, points: numpy.ndarray) -> numpy.ndarray:
    """What points of a chart stand for, by its edges alone."""
    left, right, low, high = drawn.edges
    across, up = (points[:, 0] - LEFT) / (RIGHT - LEFT), (BOTTOM - points[:, 1]) / (BOTTOM - TOP)
    y = low * (high / low) ** up if drawn.logarithmic else low + up * (high - low)
    return numpy.stack([left + across * (right - left), y], 1)


def test_a_chart_stands_for_the_values_that_it_was_drawn_from(tmp_path):
    rows = [row(step, 3 / step, step, tokens=10) for step in range(1, 41)]
    histories = [read_history(write_run(tmp_path / "run", settings(), rows))]
    for axis, unit in (("step", 1), ("tokens", 80), ("device_hours", 1 / 3600)):
        for panel in (Panel("loss", "loss"), Panel("loss", "loss", scale=100.0, from_zero=True)):
            drawn = chart(panel, axis, histories)
            assert drawn.logarithmic != panel.from_zero
            found = back(drawn, places(drawn.lines[0]))
            assert found[:, 0] == pytest.approx(unit * numpy.arange(1, 41), abs=0.02 * unit)
            assert found[:, 1] == pytest.approx(
                panel.scale * 3 / numpy.arange(1, 41), rel=0.01, abs=0.001 * panel.scale
            )
            for place, label in drawn.x_ticks:
                assert back(drawn, numpy.array([[place, 0]]))[0, 0] == pytest.approx(
                    float(label.replace("k", "e3")), rel=1e-3
                )


def test_a_long_log_is_thinned_and_shows_its_extremes(tmp_path):
    losses = numpy.random.default_rng(0).normal(5.0, 0.1, 6_000)
    losses[[2_777, 5_000]] = 5.9, 4.1
    rows = [row(step + 1, loss, step) for step, loss in enumerate(losses.tolist())]
    drawn = chart(PANELS[0], "step", [read_history(write_run(tmp_path / "run", settings(steps=6_000), rows))])
    assert [line.style for line in drawn.lines] == ["faint", "solid"]
    for line in drawn.lines:
        found = back(drawn, places(line))
        assert len(found) <= 800
        assert found[:, 1].max() == pytest.approx(5.9, abs=0.01) and found[:, 1].min() == pytest.approx(
            4.1, abs=0.01
        )
    assert drawn.edges[2:] == pytest.approx((4.73, 5.27), abs=0.03)  # the rest keeps the room


def test_ticks_are_round_and_within():
    for low, high in ((0.0, 1.0), (0.23, 0.71), (-3.0, 17000.0), (1e-7, 3e-7)):
        found = ticks(low, high, 5)
        assert 3 <= len(found) <= 8 and min(found) >= low - 1e-12 and max(found) <= high + 1e-12 * high
        steps = numpy.diff(found) / 10.0 ** numpy.floor(numpy.log10(numpy.diff(found)) + 1e-9)
        assert set(numpy.round(steps, 6)) <= {1.0, 2.0, 5.0}
    assert log_ticks(0.09, 11.0) == pytest.approx([0.1, 0.2, 0.5, 1, 2, 5, 10])


class Tables(HTMLParser):
    """The cells of every table of a page, under the heading that stands before it, and what it refers to."""

    def __init__(self):
        super().__init__()
        self.tables, self.heading, self.within, self.outside = {}, "", "", []

    def handle_starttag(self, tag, attributes):
        self.within = tag
        if tag == "tr":
            self.tables.setdefault(self.heading, []).append([])
        if tag in ("td", "th"):
            self.tables[self.heading][-1].append("")
        self.outside += [v for k, v in attributes if k in ("src", "href") and not v.startswith("data:")]

    def handle_endtag(self, tag):
        self.within = "" if tag in ("h2", "td", "th") else self.within

    def handle_data(self, data):
        if self.within == "h2":
            self.heading = data
        elif self.within in ("td", "th", "b") and self.heading in self.tables and data.strip():
            self.tables[self.heading][-1][-1] += data


@pytest.fixture
def two(tmp_path):
    """Two runs that differ in width, rate and a prompt that is no friend of pages, and their sheets."""
    evil = "</script><script>alert(1)</script> & <b>"
    one = write_run(tmp_path / "a" / "run", settings(64, 1e-3), [row(s, 3 / s, s) for s in range(1, 61)])
    config = replace(settings(128, 2e-3), prompts=(evil,))
    starts = [{"time": at(0), "step": 0, "processes": 4, "device": "NVIDIA H100", "code": "0.1.0"}]
    events = [{"step": 9, "event": "skipped", "samples": [evil], "gradient_norm": 7.0}]
    rows = [row(s, 2 / s, 60 * s, validation=2 / s, validation_weights=3 / s) for s in range(1, 101)]
    other = write_run(tmp_path / "b" / "run", config, rows + events, starts)
    for folder, steps in ((one, (20, 40, 60)), (other, (40, 60, 80))):
        for step in steps:
            colour = (step, 100, 0) if folder == one else (step, 0, 100)
            Image.new("RGB", (900, 60), colour).save(folder / f"samples-{step:06d}.png")
    return one, other


def test_the_page_says_what_the_runs_say_and_refers_to_nothing(two, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert run(["dashboard", *map(str, two), "--out", str(out), "--price", "3"]) == 0
    page = Tables()
    page.feed(out.read_text())
    head, *rows = page.tables["Runs"]
    first, second = (dict(zip(head, cells, strict=True)) for cells in rows)
    assert (first["run"], second["run"]) == ("a/run", "b/run")
    assert second["device-hours"] == "6.67" and second["cost"] == "20.00"  # 4 devices for 100 minutes at 3
    assert second["tokens"] == "25.6k" and second["steps"] == "100 of 100" and first["steps"] == "60 of 100"
    assert second["model FLOPs"] == "25.6G" and second["validation, least"] == "0.02"
    assert first["validation, least"] == "unknown"  # which is no zero
    found = {cells[0]: cells[1:] for cells in page.tables["Settings that differ"][1:]}
    evil = "</script><script>alert(1)</script> & <b>"
    assert found == {
        "model.width": ["64", "128"],
        "model.mlp_width": ["192", "384"],
        "optimizer.learning_rate": ["0.001", "0.002"],
        "prompts": ["", evil],
        "(processes)": ["1", "4"],
    }
    assert page.tables["Events"][1:] == [["b/run", "9", "skipped", f"gradient norm 7; {evil}"]]
    assert page.outside == []
    assert not re.search(r"https?://(?!www\.w3\.org)", out.read_text())


def test_sheets_stand_side_by_side_at_equal_steps(two):
    histories = read_histories([*map(str, two)])
    shown = page_of(histories, DashboardSettings(tuple(map(str, two)))).sheets
    assert [title for title, _ in shown] == ["step 40", "step 60", "the newest of each, at different steps"]
    assert all([number for number, _ in sheets] == [0, 1] for _, sheets in shown)
    assert shown[0][1][0][1] != shown[0][1][1][1] != shown[1][1][1][1]
    assert shown[1][1][0][1] == shown[2][1][0][1]  # of run a step 60 is the newest
    assert page_of(histories, DashboardSettings(sheets=1)).sheets[0][0] == "step 40"


def test_one_run_is_shown_beside_the_defaults_and_an_autoencoder_by_what_it_has(tmp_path):
    rows = [{"step": s, "loss": 1 / s, "smoothed": 1 / s, "psnr": 20.0 + s, "time": at(s)} for s in (1, 2, 3)]
    config = AutoencoderRun(crop=32)
    history = read_history(write_run(tmp_path / "run", config, rows, kind="autoencoder"))
    page = page_of([history], DashboardSettings((str(tmp_path / "run"),)))
    assert page.settings == [["crop", "32", "64"]]
    assert list(page.axes) == ["step", "device_hours"]  # it counts no tokens
    assert [charts["step"].title for charts in page.charts] == ["Loss, smoothed", "psnr"]
    assert page.summary[0][page.head.index("PSNR")] == "23 dB"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda home: None, "no such folder of a run"),
        (lambda home: home.mkdir(), "is no folder of a run: it has no run.json"),
        (
            lambda home: write_run(home, settings(), []),
            "has no row in its log.jsonl yet: no step of it has ended",
        ),
        (lambda home: (write_run(home, settings(), []) / "run.json").write_text("{"), "run.json is not JSON"),
        (
            lambda home: (write_run(home, settings(), []) / "run.json").write_text("{}"),
            "run.json: kind is missing",
        ),
    ],
)
def test_a_folder_of_no_run_is_refused_in_a_sentence(make, said, tmp_path, capsys):
    make(tmp_path / "run")
    out = tmp_path / "page.html"
    assert run(["dashboard", str(tmp_path / "run"), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not out.exists()


def test_a_file_that_is_no_page_is_not_written_over(two, tmp_path, capsys):
    out = tmp_path / "notes.html"
    out.write_text("my notes")
    assert run(["dashboard", str(two[0]), "--out", str(out)]) == 1
    assert "not of the kind" in capsys.readouterr().err and out.read_text() == "my notes"
    assert run(["dashboard", str(two[0]), str(two[0] / "../run"), "--out", str(tmp_path / "p.html")]) == 1
    assert "is given twice" in capsys.readouterr().err


@pytest.mark.long
def test_a_browser_draws_the_page_switches_axes_and_reads_values(two, tmp_path):
    out = tmp_path / "page.html"
    assert run(["dashboard", *map(str, two), "--out", str(out)]) == 0
    with browsing() as page:
        page.open(out, width=1200)
        assert page.sideways() == 0
        page.resize(400, 800)
        assert page.sideways() == 0
        page.resize(1200, 800)
        shown = "[...document.querySelectorAll('svg.chart')].filter(c => c.checkVisibility()).length"
        count = page.evaluate(shown)
        page.evaluate("document.querySelector('label[for=over-tokens]').click()")
        assert page.evaluate(shown) == count > 5
        read = """(() => {
          const chart = [...document.querySelectorAll('svg.chart')].find(c => c.checkVisibility());
          const box = chart.getBoundingClientRect();
          const [left, right] = chart.dataset.area.split(' ').map(Number);
          const x = box.left + box.width / chart.viewBox.baseVal.width * (left + (right - left) / 2);
          chart.dispatchEvent(new PointerEvent('pointermove', {clientX: x, clientY: box.top + 50}));
          return document.getElementById('said').innerText; })()"""
        axis, *values = page.evaluate(read).splitlines()
        assert axis == "12.8k tokens"  # the middle of 25.6k, which is step 50
        found = {value.split()[1]: float(value.split()[0]) for value in values}
        assert found == {"a/run": pytest.approx(3 / 50, rel=0.02), "b/run": pytest.approx(2 / 50, rel=0.02)}
        page.evaluate("document.querySelector('label[for=show-0]').click()")
        assert [line.split()[1] for line in page.evaluate(read).splitlines()[1:]] == ["b/run"]
        assert page.evaluate("document.title") == "a/run | b/run"
        assert page.requests() == [page.evaluate("location.href")] and page.complaints() == []
