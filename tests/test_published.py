"""Proves that the literature's values are what its tables say, and are never taken for comparable ones."""

import json
from collections import Counter

import pytest

from configs.protocol import load_protocols, protocol_names
from dit.cli import run
from eval.published import FILE, below, literature, published, sureness
from eval.report.facts import markdown
from tests.test_compare import PROTOCOLS, score
from vae.training.files import write_json


def values(paper: str, task: str, metric: str) -> dict[str, float]:
    found = [v for v in literature()["values"] if (v["task"], v["metric"]) == (task, metric)]
    return {v["model"]: v["value"] for v in found if paper in v["paper"]}


ZEROSHOT, MSRVTT = "UCF-101, zero-shot text-to-video", "MSR-VTT, zero-shot text-to-video"


def test_two_tables_of_one_task_agree_after_rounding():
    exact = values("Stable Video Diffusion", ZEROSHOT, "fvd")
    rounded = values("VideoPoet", ZEROSHOT, "fvd")
    both = {model: (round(exact[model]), rounded[model]) for model in exact.keys() & rounded.keys()}
    assert {model: pair[0] for model, pair in both.items()} == {
        "CogVideo (English)": 702,
        "Make-A-Video": 367,
        "Video LDM": 551,
        "MagicVideo": 655,
    }
    assert all(one == other for one, other in both.values())


def test_tables_are_whole():
    """How many values each has, and their sums, which were added up by hand from the printed tables."""
    assert len(values("VideoPoet", MSRVTT, "clipsim")) == 9 and len(values("VideoPoet", MSRVTT, "fvd")) == 5
    assert sum(values("VideoPoet", MSRVTT, "clipsim").values()) == pytest.approx(2.6739, abs=1e-9)
    assert sum(values("VideoPoet", MSRVTT, "fvd").values()) == 1294 + 998 + 550 + 538 + 213
    assert sum(values("VideoPoet", ZEROSHOT, "is").values()) == pytest.approx(186.62, abs=1e-9)
    fashion, dance = (
        {metric: values(f"{name} table", task, metric) for metric in ("ssim", "psnr", "lpips", "fvd")}
        for name, task in (
            ("fashion", "fashion video by poses (UBC)"),
            ("dance", "dance video by poses (TikTok)"),
        )
    )
    assert [len(fashion[m]) for m in fashion] == [6, 3, 6, 6] and [len(dance[m]) for m in dance] == [5] * 4
    assert sum(fashion["fvd"].values()) == pytest.approx(1249.3) and sum(
        dance["fvd"].values()
    ) == pytest.approx(1460.8)
    assert sum(dance["psnr"].values()) == pytest.approx(146.17)
    assert fashion["ssim"]["Animate Anyone"] == 0.931 and dance["ssim"]["Animate Anyone"] == 0.718


def test_every_value_says_where_it_stands_and_how_sure_it_is():
    known = {metric for name in protocol_names() for metric in load_protocols(name)} | {
        "ssim",
        "psnr",
        "lpips",
    }
    for value in literature()["values"]:
        assert value["metric"] in known and value["value"] > 0 and value["task"] in literature()["tasks"]
        assert all(value[part].strip() for part in ("model", "paper", "protocol", "source"))
        assert not (value["confirmed"] and value["source"] == "memory")
    starred = [v for v in literature()["values"] if v["confirmed"] and "survey" in v["source"]]
    assert Counter((v["task"], v["metric"]) for v in starred) == {
        (ZEROSHOT, "fvd"): 5,  # Make-A-Video, Video LDM, PYoCo, Stable Video Diffusion; VideoPoet
        (ZEROSHOT, "is"): 2,  # Make-A-Video, VideoPoet
        (MSRVTT, "clipsim"): 3,  # Video LDM, Make-A-Video, VideoPoet
        (MSRVTT, "fvd"): 1,  # VideoPoet
    }
    users = [v for v in literature()["values"] if v["value"] == 168]
    assert [v["model"] for v in users] == ["Latte, measured by a user"] and "maintainer" in users[0]["source"]
    names = {name for names in literature()["tasks"].values() for name in names}
    assert names <= {*protocol_names()}


def test_what_our_sources_leave_open_is_left_open():
    of_magic = {v["value"]: v["paper"] for v in literature()["values"] if v["model"].startswith("MoCoGAN-HD")}
    assert of_magic[838] == "its own paper" and of_magic[700].startswith(of_magic[33.95].split(":")[0])
    assert of_magic[700].startswith("not known to us")
    range_of = values("its own", "UCF-101, trained on it", "is")
    assert sorted(v for model, v in range_of.items() if model.startswith("Latte")) == [68, 73]
    assert all("not named" in v["source"] for v in literature()["values"] if "survey" in v["source"])


def test_published_values_stand_below_a_line_and_compare_with_none(tmp_path, capsys):
    zeroshot = PROTOCOLS["fvd"] | {"name": "ucf101-zeroshot-10k"}
    files = [str(tmp_path / f"{k}.json") for k in range(2)]
    for k, file in enumerate(files):
        write_json(tmp_path / file, score("fvd", 300.0 + k, protocol=zeroshot))
    assert run(["eval", "compare", *files]) == 0
    plain = capsys.readouterr().out.splitlines()
    assert run(["eval", "compare", *files, "--published"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[: len(plain)] == plain
    line, *rows = shown[len(plain) :]
    assert line.startswith("---- from the literature, not measured here: none is known to have this protocol")
    assert len(rows) == len(published("ucf101-zeroshot-10k", "fvd")) == 18
    (svd,) = [row for row in rows if row.startswith("Stable Video Diffusion  ")]
    for words in (
        "fvd 242.02",
        "table 2",
        "number of videos and prompts not stated",
        "confirmed by a second",
    ):
        assert words in svd
    assert sum("not confirmed" in row for row in rows) == 13
    other = str(tmp_path / "other.json")
    write_json(tmp_path / other, score("fvd", 3.0))
    assert run(["eval", "compare", other, "--published"]) == 0
    assert "---- no value of the literature is of fvd-any" in capsys.readouterr().out


def test_values_of_a_task_are_those_of_its_protocols_and_metric():
    assert {v["task"] for v in published("msrvtt-2990", "clipsim")} == {MSRVTT}
    assert published("fvd-google", "fvd") == published("msrvtt-2990", "is") == []
    poses = {v["task"] for v in published("pose-quadruple", "psnr")}
    assert len(poses) == 2 and below("pose-quadruple", ("psnr",))[0].startswith("---- from the literature")
    memory = next(v for v in literature()["values"] if v["source"] == "memory")
    assert sureness(memory) == "memory, not confirmed"
    assert json.loads(FILE.read_text()) == literature()


def test_a_report_says_that_the_literature_was_not_measured_here():
    result = score("fvd", 3.0, protocol={"name": "fvd-latte-2048-stride3", "metric": "fvd"})
    result["real"]["clips"] = 4
    text = markdown(result)
    assert "From the literature, not measured here, of other protocols and clips:" in text
    assert "| Latte, measured by a user | 168 | Vchitect/Latte, issue 123; " in text
