"""Proves that a page says all of its scores, plays their clips, opens offline, and trusts no text in it."""

import ast
import base64
import dataclasses
import importlib
import json
import re
import shlex
import shutil
import tomllib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import eval.report.facts
from configs.load import Positional, parse, words_of
from configs.protocol import load_protocols, protocol_names
from dit.cli import VERBS, run
from eval.benchmark import RunEvalSettings
from eval.clips import choose_clips, find_sources, read_clip
from eval.clipsim import ClipsimSettings
from eval.fvd import FvdSettings, fvd
from eval.inception import UNCERTIFIED, InceptionSettings
from eval.networks.certify import SMOKE
from eval.published import published
from eval.reconstruction import ReconstructionSettings
from eval.report.facts import explanations, markdown, meaning_of, section
from eval.report.page import Page, command_of, html
from eval.report.pictures import MOST_FRAMES, Shelf, Shown, choice_of
from eval.report.several import ReportSettings, report
from eval.sides import distance_protocol
from tests.browser import browsing
from tests.conftest import ROOT
from tests.test_compare import reconstruction, score
from tests.test_fvd import folders, quick, settings, video  # noqa: F401
from vae.data.video import read_frames, to_video
from vae.data.write import write_video
from vae.quality.psnr_ssim import psnr
from vae.training.files import write_json

EVIL = "<script>alert('{{ 1234 * 9 }}')</script>&amp;\"'"
WHOLE = choice_of({}, "")  # of what has no protocol
EMPTY = {"meta", "br", "img", "path", "line"}


class Document(HTMLParser):
    """A page taken apart: it must close what it opens, and say no attribute and no id twice."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.texts, self.ids, self.links = [], [], [], [], []
        self.title = ""
        self.feed(text)
        self.close()
        assert not self.open and len({*self.ids}) == len(self.ids)

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len({*names}) == len(names)
        self.tags.append(tag)
        self.ids += [value for name, value in attributes if name == "id"]
        self.links += [value for name, value in attributes if name in ("src", "href", "poster", "action")]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        self.title += data if self.open[-1:] == ["title"] else ""

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


def checked(text: str) -> Document:
    """The page, which asks for nothing outside it, runs nothing, and may not."""
    document = Document(text)
    assert all(re.match(r"data:video/mp4;base64,[\w+/=]+$|#", link) for link in document.links)
    assert {link[1:] for link in document.links if link[0] == "#"} <= {*document.ids}
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {*document.tags}
    assert not re.search(r"(?i)url\(|@import|javascript:|\son\w+=", re.sub(r"base64,[\w+/=]+", "", text))
    assert "default-src 'none'" in text and text.startswith("<!doctype html>")
    return document


@pytest.fixture(scope="module")
def sides(folders, tmp_path_factory) -> tuple[Path, Path]:  # noqa: F811
    """The folders of two sides, with a real video that is too short, whose name is foreign text."""
    home = tmp_path_factory.mktemp("sides")
    for side in folders:
        shutil.copytree(side, home / side.name)
    write_video(home / "real" / "<b>short & sweet.mp4", video(3, 5), 8.0, {})
    return home / "real", home / "fake"


@pytest.fixture(scope="module")
def made(sides, tmp_path_factory) -> tuple[Path, dict]:
    """A page of FVD with its panel, and its score."""
    home = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        quick.__wrapped__(patch, home)
        patch.setattr(eval.report.facts, "CLIPS", 2)
        result = fvd(settings(sides, panel=True, report=str(home / "fvd.html")))
    return home / "fvd.html", result


def test_a_page_of_fvd_says_all_of_its_score(made):
    file, result = made
    text = file.read_text()
    document = checked(text)
    facts = [result["protocol_sha256"], result["real"]["rgb_sha256"], SMOKE, "small: 5 of 2048 real clips"]
    itself, whole = result["motion"]["itself"], result["motion"]["apart"]["whole"]["frechet"]
    facts += [
        f"{itself['frozen'] / whole:.2f} times as far",
        f"shuffled {itself['shuffled'] / whole:.2f} times",
    ]
    facts += [
        f"KVD {both['kernel']:.3f} {both['frechet']:.2f}" for both in result["motion"]["apart"].values()
    ]
    facts += [f"{row['value']:.2f}" for row in result["classes"].values()]
    facts += ["<b>short & sweet.mp4 has 5 frames, and a clip takes 16", "| this |", "class0, 3 and 3 clips"]
    facts += [f"real {pair['real']}" for pair in result["nearest"]["pairs"][:2]]
    assert [fact for fact in facts if fact not in document.text] == []
    assert document.title == f"NOT FVD: fake beside real {result['value']:.2f}" and "<b>short" not in text
    assert document.tags.count("video") == 8  # two pairs that are near, and two that are far
    about = load_protocols("fvd-google")["fvd"]
    said = [*explanations(type(about)).values(), *dataclasses.asdict(about)]
    assert [each for each in said if each not in document.text] == []


def test_the_command_on_a_page_makes_its_bytes_again(made, quick, monkeypatch, tmp_path):
    file, _ = made
    before = file.read_bytes()
    monkeypatch.setattr(eval.report.facts, "CLIPS", 2)
    [command] = re.findall(r"<pre>(dit eval fvd .*)</pre>", file.read_text())
    words = shlex.split(html_text(command))
    assert words[0] == "dit" and run(words[1:]) == 0
    assert file.read_bytes() == before


def html_text(text: str) -> str:
    """A text of a page as a person reads it."""
    return Document(f"<p>{text}</p>").texts[0]


COMMANDS = [
    FvdSettings(real="a b/real's", fake="-odd", protocol="fvd-google", panel=True, cache=False, batch=3),
    ClipsimSettings(videos="x", prompts='p "q".csv', resamples=0, smoke=True),
    InceptionSettings(videos="x", uncertified=True, report="r.html"),
    ReconstructionSettings(real="r", fake="f", lpips="none", workers=0),
    RunEvalSettings(job="msrvtt", metrics=("fvd", "clipsim"), count=3, guidance=1.5, allow_small=True),
    ReportSettings(scores=("a.json", "b c"), videos=("x", "y z"), out="o.html"),
]


@pytest.mark.parametrize("asked", COMMANDS, ids=lambda asked: type(asked).__name__)
def test_a_command_line_gives_the_settings_that_it_is_of(asked):
    words = shlex.split(command_of(asked))
    verb = next(verb for verb, (module, _) in VERBS.items() if module == type(asked).__module__)
    assert words[: 1 + len(verb.split())] == ["dit", *verb.split()]
    assert parse(type(asked), words[1 + len(verb.split()) :], "dit") == asked


def test_what_no_command_line_says_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Some:
        number: int | None = 3
        name: Positional[str] = ""

    assert words_of(Some(name="x")) == ["x"] and words_of(Some()) == []
    with pytest.raises(ValueError, match="no command line takes --number away"):
        words_of(Some(number=None))


def test_clips_on_a_page_are_those_that_are_scored(sides, tmp_path):
    protocol = replace(load_protocols("fvd-google")["fvd"], fake_stride=2, frames=7)
    [*clips], _ = choose_clips(find_sources(sides[1]), protocol, 0, 2)
    assert len({clip.frames[0] for clip in clips}) > 1  # of random starts
    shelf = Shelf()
    for clip in clips[:3]:
        address = shelf.video(Shown("", str(sides[1]), clip.source.name), protocol)
        file = tmp_path / "shown.mp4"
        file.write_bytes(base64.b64decode(address.removeprefix("data:video/mp4;base64,")))
        shown = to_video(read_frames(file, range(7)))
        assert shown.shape[2:] == (32 * 4, 40 * 4)
        assert psnr(shown, to_video(read_clip(clip)).repeat_interleave(4, 2).repeat_interleave(4, 3)) > 35


def test_a_long_large_video_becomes_a_short_small_one(tmp_path):
    write_video(tmp_path / "v" / "long.mp4", video(0, 50).repeat(1, 1, 6, 6), 30.0, {})
    address = Shelf().video(Shown("", str(tmp_path / "v"), "long"), WHOLE)
    (tmp_path / "shown.mp4").write_bytes(base64.b64decode(address.partition(",")[2]))
    [source] = find_sources(tmp_path / "v")
    [clip], _ = choose_clips(find_sources(tmp_path / "v"), load_protocols("fvd-google")["fvd"], 1, 1)
    assert clip.source.known.frames == 50 and source.name == "long"
    shown = read_frames(tmp_path / "shown.mp4", range(MOST_FRAMES))
    assert shown.shape == (MOST_FRAMES, 154, 192, 3)
    with pytest.raises((ValueError, IndexError)):
        read_frames(tmp_path / "shown.mp4", [MOST_FRAMES])


def test_a_page_has_room_for_so_many_bytes_and_says_what_is_left_out(sides):
    names = [f"class0/{k}" for k in (0, 2, 4)]
    wanted = [Shown("", str(sides[1]), name) for name in names]
    sizes = [len(Shelf().video(shown, WHOLE)) for shown in wanted]
    shelf = Shelf(left=sizes[0] + sizes[1] - 1)
    assert [bool(shelf.video(shown, WHOLE)) for shown in wanted[:2]] == [True, False]
    assert shelf.without == 1 and shelf.left == sizes[1] - 1
    page = Page("t", "", "", [section(score("fvd", 1.0), "a", "", {}, shelf)], without=shelf.without)
    assert "1 more videos had no room on this page" in html(page)
    assert Shelf().video(Shown("", str(sides[1]), "class0/none"), WHOLE) == ""
    assert Shelf().names("real.safetensors") == [] == Shelf().names("")


def test_foreign_text_is_text(tmp_path):
    about = score("clipsim", 0.25) | {"stamps": [EVIL], "weights": EVIL}
    about["each"] = [
        {"video": EVIL, "prompt": EVIL, "value": 0.5},
        {"video": "b", "prompt": "", "value": 0.1},
    ]
    about["fake"] = {"where": EVIL, "clips": 2, "passed_over": {EVIL: EVIL}}
    about["protocol"] = {"name": EVIL, EVIL: EVIL}
    part = section(about, EVIL, EVIL, {}, Shelf())
    text = html(Page(EVIL, EVIL, EVIL, [part]))
    document = checked(text)
    assert document.text.count("alert('{{ 1234 * 9 }}')") > 10 and "11106" not in document.text


@pytest.mark.parametrize(
    "wrong",
    [
        {"classes": {"a": {"value": "1", "clips": [1, 2]}}},
        {"nearest": {"pairs": []}},
        {"panel": {"floor": {"value": 1.0}}},
        {"motion": {"clips": 3, "itself": {}, "apart": {"whole": {"frechet": 1.0}}}},
        {"each": [{"video": ["a"]}]},
        {"interval": [1, 2]},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_part_of_another_type_is_named(wrong):
    with pytest.raises(ValueError, match=rf"odd\.json: {next(iter(wrong))}"):
        section(score("fvd", 1.0) | wrong, "odd.json", "", {}, Shelf())


WRONG = (None, -1.5, "x", [1], {}, {"a": 1}, [{}])


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_no_part_of_a_foreign_score_breaks_a_page_but_by_a_sentence(made, wrong):
    whole = json.loads(json.dumps(made[1]))
    names = [(name,) for name in whole] + [(k, n) for k, v in whole.items() if isinstance(v, dict) for n in v]
    for first, *rest in names:
        about = json.loads(json.dumps(whole))
        part, name = (about[first], rest[0]) if rest else (about, first)
        part[name] = wrong
        if wrong is None:
            del part[name]
        try:
            html(Page("t", "", "", [section(about, "odd", "", {}, Shelf())]))
        except ValueError as error:
            assert str(error).startswith("odd: ")


def test_best_and_worst_videos_are_those_of_the_metric(tmp_path):
    each = [{"video": f"v{k}", "prompt": f"p{k}", "value": k / 100} for k in (3, 1, 4, 15, 9, 2, 6)]
    ranking = section(score("clipsim", 0.05, each=each), "", "", {}, Shelf()).ranking
    assert [row[0] for row in ranking.best] == ["v15", "v9", "v6", "v4"]
    assert [row[0] for row in ranking.worst] == ["v1", "v2", "v3"] and ranking.worst[0][1:] == [
        "p1",
        "0.0100",
    ]
    assert ranking.head == ["video", "prompt", "CLIPSIM"]
    pairs = [{"video": f"v{k}", "ssim": 1 - k / 10, "psnr": 30.0 + k} for k in range(3)]
    ranking = section(reconstruction(30.0, each=pairs), "", "", {}, Shelf()).ranking
    assert ranking.head == ["video", "PSNR", "SSIM"] and ranking.best[0] == ["v2", "32.00", "0.8000"]


def test_every_choice_of_every_protocol_is_explained_and_published_values_have_sources():
    for name in protocol_names():
        for metric, protocol in load_protocols(name).items():
            said = explanations(type(protocol))
            assert said.keys() >= dataclasses.asdict(protocol).keys() and all(said.values())
            lines = markdown(
                score(metric if metric in ("fvd", "clipsim") else "fvd", 1.0)
                | {"metric": metric, "protocol": dataclasses.asdict(protocol)}
            )
            for row in published(name, metric):
                assert f"| {row['model']} | {row['value']:g} | {row['paper']}; {row['protocol']}; " in lines
            assert ("not measured here" in lines) == bool(published(name, metric))


def test_every_metric_says_what_it_means_and_goes_to_a_page():
    metrics = [
        verb
        for verb, (module, _) in VERBS.items()
        if "METRIC = " in source_of(module) or verb == "eval reconstruction"
    ]
    assert len(metrics) >= 4
    for verb in metrics:
        module, _ = VERBS[verb]
        meaning = meaning_of(verb.removeprefix("eval "), {})
        assert meaning.measures and meaning.blind and meaning.better in ("lower", "higher"), verb
        calls = [
            ast.unparse(node) for node in ast.walk(ast.parse(source_of(module))) if isinstance(node, ast.Call)
        ]
        assert any(re.match(r"(\w+\.)?publish\(result, settings, ", call) for call in calls), verb
        assert any("check_outputs(settings.json, settings.report" in call for call in calls), verb


def test_words_are_of_what_is_computed():
    assert "name" not in eval.report.facts.WORDS["files_sha256"]  # see `side_hash`
    kinds = {p.mean for name in protocol_names() if (p := load_protocols(name).get("reconstruction"))}
    said = meaning_of("reconstruction", {}).measures
    assert all(kind in said for kind in kinds) and "frames" in kinds


def source_of(module: str) -> str:
    return (ROOT / (module.replace(".", "/") + ".py")).read_text()


def test_a_page_of_reconstructions_plays_each_beside_its_original(sides, monkeypatch, tmp_path):
    monkeypatch.setattr(eval.report.facts, "CLIPS", 1)
    words = ["--real", str(sides[1]), "--fake", str(sides[1]), "--lpips", "none", "--workers", "0"]
    assert run(["eval", "reconstruction", *words, "--report", str(tmp_path / "r.html")]) == 0
    document = checked((tmp_path / "r.html").read_text())
    assert document.tags.count("video") == 4 and "original class0/0" in document.text
    assert "PSNR 100.00" in document.text and "dB, of the squared error of all frames" in document.text


def test_scores_that_compare_share_a_chart_and_others_say_why_not(sides, monkeypatch, tmp_path):
    monkeypatch.setattr(eval.report.several, "CLIPS", 1)
    other = score("fvd", 3.0)["protocol"] | {"frames": 8}
    for name, about in {
        "a": score("fvd", 1.0),
        "b": score("fvd", 2.0) | {"made_with": {"torch": "9.9"}},
        "c": score("fvd", 3.0, protocol=other),
        "e": score("fvd", 4.0, stamps=[SMOKE]),
        "d": score("clipsim", 0.3, each=[{"video": "class0/0", "prompt": "a prompt", "value": 0.3}]),
    }.items():
        write_json(tmp_path / f"{name}.json", about)
    monkeypatch.chdir(tmp_path)
    names = tuple(f"{name}.json" for name in "abced")
    report(ReportSettings(scores=names, videos=("", str(sides[0]), "", str(sides[0]), str(sides[1]))))
    text = Path("report.html").read_text()
    document = checked(text)
    assert "Does not compare with a.json: frames: 16 and 8." in document.text
    assert re.search("a.json and b.json were not made alike: .*'9.9'", document.text)
    charts = text.split("<h3>")[1:5]
    assert [re.findall(r"<span>(\w\.json)", chart) for chart in charts] == [
        ["a.json", "b.json"],
        ["c.json"],
        ["e.json"],
        ["d.json"],
    ]
    assert "NOT FVD, lower is better" in charts[2] and SMOKE in charts[2] and "NOT FVD" not in charts[0]
    assert "a prompt" in document.text and "b.json, e.json: class0/0" in document.text
    assert document.tags.count("section") == 5 and document.tags.count("video") > 2
    with pytest.raises(ValueError, match="--videos has 1 folders, and there are 5 scores"):
        report(ReportSettings(scores=names, videos=("x",)))
    with pytest.raises(ValueError, match="which scores"):
        report(ReportSettings())
    Path("report.html").write_text("mine")
    with pytest.raises(ValueError, match=r"report\.html is there, and is not of the kind"):
        report(ReportSettings(scores=names))


def test_a_page_of_saved_scores_names_the_command_that_scores_again(tmp_path, monkeypatch):
    about = score("fvd", 1.0, stamps=[SMOKE, "small: 5 of 2048 real clips"])
    about["real"]["where"], about["fake"]["where"] = "my videos", "samples"
    write_json(tmp_path / "a.json", about)
    monkeypatch.chdir(tmp_path)
    report(ReportSettings(scores=("a.json",), out="x.html"))
    text = checked(Path("x.html").read_text()).text
    assert "dit eval fvd --allow-small --smoke --real 'my videos' --fake samples --protocol fvd-any" in text
    assert "dit eval report a.json --out x.html" in text


@pytest.mark.parametrize(
    ("metric", "name", "stamp", "flag"),
    [
        ("fvd", "ucf101-zeroshot-10k", "other contents: 3 of 13320 real videos", "allow_small"),
        ("fvd", "ucf101-zeroshot-10k", "contents not certified: 3 of 13320 real videos are, by hash", ""),
        ("mmd", "jedi-vjepa2", "vjepa2 is not certified: no hash was named", "uncertified"),
        ("mmd", "jedi-vjepa2", "", "encoder_sha256"),
        ("is", "is-c3d-10k", UNCERTIFIED, "uncertified"),
        ("dimensions", "vbench-like", "dino and aesthetic not certified: no checksum is", "uncertified"),
    ],
)
def test_the_command_on_a_page_of_saved_scores_has_every_flag_that_it_takes(
    tmp_path, monkeypatch, metric, name, stamp, flag
):
    protocol = load_protocols(name)[metric]
    if flag == "encoder_sha256":
        protocol = replace(protocol, network_sha256="a" * 64 + "+" + "b" * 64)
    about = score("fvd", 1.0, stamps=[stamp] * bool(stamp)) | {"metric": metric}
    about |= {"protocol": dataclasses.asdict(protocol), "protocol_sha256": protocol.hash()}
    if metric == "dimensions":
        about |= {"scores": {"temporal_flickering": 1.0}, "intervals": {}}
        del about["value"], about["interval"]
    write_json(tmp_path / "a.json", about)
    monkeypatch.chdir(tmp_path)
    report(ReportSettings(scores=("a.json",), out="x.html"))
    [command] = re.findall(rf"<pre>(dit eval {metric}.*)</pre>", Path("x.html").read_text())
    kind = importlib.import_module(VERBS[f"eval {metric}"][0]).METRIC.settings
    asked = parse(kind, shlex.split(html_text(command))[3:], prog="dit")
    flags = {flag for flag in ("allow_small", "uncertified", "encoder_sha256") if getattr(asked, flag, "")}
    assert flags == {flag} - {""}
    if metric in ("fvd", "mmd"):
        assert distance_protocol(asked, metric) == protocol


def test_the_template_is_part_of_the_package():
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "eval.report" in tool["packages"]
    patterns = tool["package-data"]["eval.report"]
    others = [file for file in (ROOT / "eval" / "report").iterdir() if file.suffix not in (".py", "")]
    assert others and all(any(file.match(pattern) for pattern in patterns) for file in others)


@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_it_without_scrolling_sideways_and_plays_its_videos(made, dark):
    with browsing() as page:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        page.open(made[0], width=1000)
        assert page.sideways() == 0
        ready = "[...document.querySelectorAll('video')].every(v => v.readyState > 1 && v.videoWidth == 160)"
        page.wait(ready)
        page.wait(
            "document.querySelector('video').currentTime > 0 && !document.querySelector('video').paused"
        )
        for width in (400, 1600):
            page.resize(width, 800)
            assert page.sideways() == 0
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (light == "rgb(255, 255, 255)") == (not dark)
        assert page.requests() == [page.evaluate("location.href")] and page.complaints() == []
