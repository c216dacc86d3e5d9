"""Proves what a page says and draws of a score: bars, lines, intervals, stamps, columns and classes."""

import pytest

from eval.networks.certify import SMOKE
from eval.report.charts import beside_chance, means_of_classes, of_motion, side_by_side, to_infinity
from eval.report.facts import section
from eval.report.page import Page, html
from eval.report.pictures import Shelf
from tests.test_compare import score
from tests.test_fvd import folders, quick, settings, video  # noqa: F401
from tests.test_report import checked


def test_bars_are_as_long_as_their_values():
    panel = {"floor": {"value": 1.0, "clips": [8, 8]}}
    about = {"value": 4.0, "interval": {"low": 3.0, "high": 8.0}, "panel": panel}
    bars = beside_chance(about, 2)
    assert [bar.length for bar in bars] == [12.5, 50.0]
    assert [bar.own for bar in bars] == [False, True] and bars[1].ends == (37.5, 100.0)
    assert [bar.text for bar in bars] == ["1.00", "4.00"]
    assert beside_chance({"value": 4.0, "panel": None}, 2) == [] == of_motion({"motion": None}, 2)
    itself = {"shuffled": 0.5, "reversed": 0.25, "frozen": 8.0}
    apart = {"whole": (4.0, 0.5), "content": (2.0, 0.125), "motion": (1.0, -0.25)}
    both = {part: dict(zip(("frechet", "kernel"), pair, strict=True)) for part, pair in apart.items()}
    bars = of_motion({"motion": {"clips": 8, "itself": itself, "apart": both}}, 2)
    assert [(bar.length, bar.own, bar.remark) for bar in bars[:3]] == [
        (50.0, True, "KVD 0.500"),
        (25.0, True, "KVD 0.125"),
        (12.5, True, "KVD -0.250"),
    ]
    assert [(bar.length, bar.own) for bar in bars[3:]] == [(6.25, False), (3.12, False), (100.0, False)]
    rows = [("a", -1.0, None), ("b", 2.0, {"low": 1.0, "high": 4.0})]
    assert [(bar.length, bar.ends) for bar in side_by_side(rows, 2)] == [(0.0, None), (50.0, (25.0, 100.0))]
    assert [bar.length for bar in side_by_side([("a", 0.0, None)], 2)] == [0.0]


def test_the_line_to_many_clips_goes_through_its_points():
    sizes = [100, 200, 400]
    line = to_infinity(
        {"infinity": {"value": 7.0, "slope": 50.0, "sizes": sizes, "values": [7.5, 7.25, 7.125]}}, 2
    )
    (x0, y0), (x1, y1) = line["ends"]
    assert x0 == 0 and x1 == 100 and (line["value"], line["fewest"], line["most"]) == ("7.00", 100, 400)
    for x, y, _ in line["points"]:
        assert y == pytest.approx(y0 + (y1 - y0) * x / 100, abs=0.02)
    assert [x for x, _, _ in line["points"]] == pytest.approx([23.81, 47.62, 95.24])
    assert to_infinity({"infinity": None}, 2) is None
    huge = {"value": 1e308, "slope": 1e308, "sizes": [1, 2], "values": [1e308, -1e308]}
    assert to_infinity({"infinity": huge}, 2) is None  # no place on a page is `nan`


def test_each_interval_says_what_it_is_one_of():
    ends = {"low": 1.0, "high": 2.0}
    about = score("fvd", 1.5, interval=ends, true_interval=ends | {"high": 1.75, "value": 1.25})
    about["infinity"] = {"value": 1.2, "slope": 50.0, "sizes": [10, 20], "values": [6.2, 3.7]} | ends
    part = section(about, "", "", {}, Shelf())
    assert [said.split(":")[0] for _, said in part.intervals] == ["1.00 to 2.00", "1.00 to 1.75"]
    assert (
        "of the expected score" in part.intervals[0][1] and "bias the score is 1.25" in part.intervals[1][1]
    )
    assert "about 1.20 (95 % interval 1.00 to 2.00), by the line below" in part.remarks[-1] and part.line
    refused = {"refused": "5 clips are fewer than 4 times the rank"}
    part = section(about | {"true_interval": refused, "infinity": refused}, "", "", {}, Shelf())
    assert part.intervals[1] == (
        "True distance",
        "No interval of it: 5 clips are fewer than 4 times the rank.",
    )
    assert part.line is None and not any("infinitely" in remark for remark in part.remarks)


def test_a_score_of_several_numbers_has_the_interval_of_each():
    about = score("clipsim", 0.0) | {"scores": {"speed": 3.0, "psnr": 30.123}, "measures": {"psnr": "dB"}}
    del about["value"]
    about["intervals"] = {"speed": {"low": 2.0, "high": 4.0}, "psnr": None}
    part = section(about, "", "", {}, Shelf())
    assert part.values == [("speed", "3.0000", "2.0000 to 4.0000", ""), ("PSNR", "30.12", "", "dB")]
    document = checked(html(Page("t", "", "", [part])))
    assert "2.0000 to 4.0000" in document.text and "30.12" in document.text


def test_stamps_are_said_once_and_strike_only_what_a_seeded_network_made():
    small = "small: 5 of 10 real clips"
    fvd_ = score("fvd", 3.0) | {"stamps": [SMOKE, small]}
    several = score("clipsim", 0.0) | {"scores": {"still": 0.5, "alike": 0.25}, "intervals": {}}
    del several["value"]
    several |= {
        "networks": {"still": [], "alike": ["seeded"]},
        "stamps": ["NOT alike: seeded network", small],
    }
    parts = [section(about, "", "", {}, Shelf()) for about in (fvd_, several)]
    text = html(Page("t", "", "", parts))
    assert text.count('class="stamp"') == 3
    assert f"NOT FVD, alike: seeded network<br>{small}</p>" in text
    assert '<div class="weightless"><strong>still</strong>' in text and "<div><strong>alike</strong>" in text
    assert not parts[1].title.startswith("NOT") and parts[0].title == "NOT FVD"


def test_a_pose_table_begins_with_its_columns():
    values = {"psnr": 7.75, "wrapped_psnr": 27.9, "ssim_grey_uniform": 0.5}
    about = score("clipsim", 0.0) | {"scores": values}
    del about["value"]
    about |= {
        "protocol": {"name": "x", "ssim": "ssim_grey_uniform", "psnr": "wrapped_psnr", "lpips": "lpips"}
    }
    names = [name for name, *_ in section(about, "", "", {}, Shelf()).values]
    assert names == ["SSIM, grey, uniform", "wrapped PSNR", "PSNR"]


def test_classes_are_ranked_by_the_means_of_their_videos():
    values = {"a/0": 1.0, "b/0": 4.0, "a/1": 2.0, "c/0": 3.0, "alone": 9.0}
    each = [{"video": name, "value": value} for name, value in values.items()]
    bars = section(score("clipsim", 1.0, each=each), "", "", {}, Shelf()).classes
    assert [(bar.label, bar.text, bar.length) for bar in bars] == [
        ("a, 2 videos", "1.5000", 37.5),
        ("c, 1 videos", "3.0000", 75.0),
        ("b, 1 videos", "4.0000", 100.0),
    ]
    assert [
        bar.label[0] for bar in means_of_classes(["value"], sorted(each, key=lambda row: row["value"]))
    ] == ["b", "c", "a"]
    assert means_of_classes(["value"], each[:1]) == [] == means_of_classes([], [])
