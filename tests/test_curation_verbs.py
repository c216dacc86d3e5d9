"""Proves the verbs of curation on files: what they add, keep and refuse, captions, their origin, and
judges' pages."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy
import pyarrow.parquet
import pytest
from scipy import stats

from dit.audit import data_card, found, wilson
from dit.caption import CaptionSettings, caption
from dit.cli import run
from dit.describe import load_writer
from tests.bench.curation_world import encode, joined, scene
from vae.data.drawn_captions import plain_caption
from vae.data.drawn_world import draw, random_scene
from vae.data.manifest import load_manifest
from vae.data.video import read_frames
from vae.data.write import to_frames

CALLS: list[tuple[str, tuple]] = []


def loud(prompts, videos) -> list[str]:
    """A writer that says what it saw."""
    CALLS.extend((prompt, frames.shape) for prompt, frames in zip(prompts, videos, strict=True))
    return [f" {frames.mean():.0f} " for frames in videos]


def failing(prompts, videos) -> list[str]:
    """A writer that stops in the middle of its work."""
    if len(CALLS) >= 2:
        raise ValueError("the model is gone")
    return loud(prompts, videos)


@pytest.fixture(scope="module")
def footage(tmp_path_factory) -> Path:
    """A folder with an index: two shots in one file, a copy of the second, and a picture that stands."""
    folder = tmp_path_factory.mktemp("footage")
    one, other = scene(24, 96, 128, 12.0, "verbs", 0), scene(24, 96, 128, 12.0, "verbs", 1)
    encode(folder / "two.mp4", joined(one, other, "cut", 12.0)[0], 12.0, "h264")
    encode(folder / "copy.mp4", other[:, ::2, ::2], 12.0, "h264")
    encode(folder / "still.mp4", scene(24, 96, 128, 12.0, "verbs", 2)[:1].repeat(24, 0), 12.0, "h264")
    (folder / "two.txt").write_text("what it was called\n")
    assert run(["data", "index", str(folder)]) == 0
    return folder


def rows(file: Path) -> list[dict]:
    """The rows of a manifest."""
    return pyarrow.parquet.read_table(file).to_pylist()


@pytest.mark.long
def test_footage_is_cut_filtered_and_made_distinct(footage, tmp_path, capsys):
    before = rows(footage / "manifest.parquet")
    cut, filtered, distinct = (tmp_path / f"{name}.parquet" for name in ("cut", "filtered", "distinct"))
    manifest = str(footage / "manifest.parquet")
    assert run(["data", "cut", manifest, "--out", manifest]) == 1 and rows(Path(manifest)) == before
    assert run(["data", "cut", str(footage), "--out", str(cut), "--workers", "1"]) == 0
    spans = [(Path(row["path"]).stem, row["start"], row["end"], row["cut_by"]) for row in rows(cut)]
    assert spans == [
        (name, *span, "cells 1")
        for name, *span in (("copy", 0, 24), ("still", 0, 24), ("two", 0, 24), ("two", 24, 48))
    ]
    entry = load_manifest(cut)[3]
    whole = load_manifest(footage)[2]
    assert (read_frames(entry.path, [0, 5], entry) == read_frames(whole.path, [24, 29], whole)).all()

    assert run(["data", "filter", str(cut), "--out", str(filtered), "--workers", "1"]) == 0
    by_name = {(Path(row["path"]).stem, row["start"]): row for row in rows(filtered)}
    assert [why.split(" (")[0] for why in by_name["still", 0]["rejected"]] == ["filter: static"]
    assert by_name["two", 0]["rejected"] == by_name["two", 24]["rejected"] == []
    assert by_name["two", 0]["motion"] > 0.01 > 100 * by_name["still", 0]["change"]
    assert [each["text"] for each in by_name["two", 24]["captions"]] == ["what it was called"]

    rules = tmp_path / "rules.toml"
    rules.write_text('[any]\nwidth = "> 0"\n')
    drawn, words = tmp_path / "pictures.png", ["--rules", str(rules), "--out", str(filtered)]
    assert run(["data", "filter", str(filtered), *words, "--pictures", str(drawn)]) == 0
    assert drawn.read_bytes()[:4] == b"\x89PNG"
    assert {tuple(why.split(" (")[0] for why in row["rejected"]) for row in rows(filtered)} == {
        ("filter: any",)
    }
    assert run(["data", "filter", str(filtered), "--out", str(filtered)]) == 0

    held = tmp_path / "held"
    held.mkdir()
    encode(held / "leaked.avi", scene(24, 96, 128, 12.0, "verbs", 0), 12.0, "mpeg4")
    assert run(["data", "index", str(held)]) == 0
    words = ["--against", str(held), "--out", str(distinct), "--workers", "1"]
    assert run(["data", "dedup", str(filtered), *words]) == 0
    said = {(Path(row["path"]).stem, row["start"]): row["rejected"] for row in rows(distinct)}
    assert said["two", 24] == [] and said["copy", 0][-1].startswith("dedup: copy (two.mp4 24-48, ")
    assert said["two", 0][-1].startswith(f"dedup: leak of {held} (leaked.avi 0-24, ")
    assert [row["path"].split("/")[-1] for row in rows(footage / "manifest.parquet")] == [
        row["path"].split("/")[-1] for row in before
    ]
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".jsonl"]


@pytest.mark.long
def test_captions_are_added_and_an_interrupted_run_goes_on(footage, tmp_path, capsys):
    CALLS.clear()
    out = tmp_path / "captioned.parquet"
    settings = dict(
        source=str(footage), out=str(out), batch=1, lengths=("short", "long"), languages=("English", "French")
    )
    with pytest.raises(ValueError, match="the model is gone"):
        caption(CaptionSettings(by="tests.test_curation_verbs:failing", model="loud", **settings))
    assert not out.exists() and len(CALLS) == 2
    caption(CaptionSettings(by="tests.test_curation_verbs:loud", model="loud", **settings))
    assert len(CALLS) == 12  # what was said before is not asked again
    captions = {Path(row["path"]).stem: row["captions"] for row in rows(out)}
    assert captions["two"][0]["text"] == "what it was called" and captions["two"][0]["origin"] in (
        "",
        "text file",
    )
    new = captions["two"][1:]
    assert [each["language"] for each in new] == ["English", "English", "French", "French"]
    assert {each["origin"] for each in new} == {"model loud"} and "in French" in new[3]["prompt"]
    assert new[0]["text"].isdigit() and new[0]["prompt"] != new[1]["prompt"]
    caption(
        CaptionSettings(by="tests.test_curation_verbs:loud", model="loud", **settings | {"source": str(out)})
    )
    assert len(CALLS) == 12
    caption(
        CaptionSettings(
            by="tests.test_curation_verbs:loud",
            model="other",
            **settings | {"source": str(out), "lengths": ("short",)},
        )
    )
    assert len(CALLS) == 18
    assert [len(row["captions"]) for row in rows(out)] == [6, 6, 7]


def test_the_drawn_worlds_describer_is_exact():
    write, origin = load_writer("eval.judge:describe", "", "", 1, "cpu")
    scenes = [random_scene(3, k, "any") for k in range(12)]
    videos = [to_frames(draw(each)).numpy() for each in scenes]
    assert write([""] * 12, videos) == [plain_caption(each) for each in scenes]
    assert write([""], [numpy.full((4, 64, 64, 3), 9, numpy.uint8)]) == [""]
    assert origin == "model eval.judge:describe"


@contextmanager
def answering(answers: list[tuple[int, object]]):
    """A server on loopback that gives answers in turn, and what it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, self.headers.get("Authorization"), body))
            status, answer = answers[min(len(asked), len(answers)) - 1]
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()


GOOD = {"choices": [{"message": {"role": "assistant", "content": "a scene"}}]}


def test_an_address_is_asked_as_openai_has_it(tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    key = tmp_path / "key"
    key.write_text("secret\n")
    frames = numpy.zeros((2, 8, 8, 3), numpy.uint8)
    with answering([(503, {}), (200, GOOD)]) as (address, asked):
        write, origin = load_writer(address, "seer", str(key), 9, "cpu")
        assert write(["what?"], [frames]) == ["a scene"] and origin == "model seer"
        path, authorization, body = asked[1]
        assert (len(asked), path, authorization) == (2, "/v1/chat/completions", "Bearer secret")
        assert (body["model"], body["max_tokens"]) == ("seer", 9)
        kinds = [part["type"] for part in body["messages"][0]["content"]]
        assert kinds == ["image_url", "image_url", "text"]
        assert write(["a", "b"], [None, None]) == ["a scene"] * 2
        assert [part["type"] for part in asked[-1][2]["messages"][0]["content"]] == ["text"]


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ([(401, {"error": "no key"})], "status 401: .*no key"),
        ([(200, {"choices": []})], "does not answer as OpenAI's"),
        ([(500, {})], "status 500"),
    ],
)
def test_an_address_that_does_not_answer_is_named(answers, why, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    with answering(answers) as (address, _), pytest.raises(ValueError, match=why):
        load_writer(address, "seer", "", 9, "cpu")[0]([""], [None])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nowhere", "give a folder of transformers, an address, or MODULE:FUNCTION"),
        ("eval.judge:nothing", "there is no such function"),
        ("http://localhost", "which of its models writes"),
    ],
)
def test_a_writer_that_is_none_is_refused(name, why):
    with pytest.raises(ValueError, match=why):
        load_writer(name, "", "", 9, "cpu")


@pytest.mark.long
def test_a_vision_language_model_of_transformers_writes_from_its_folder(tmp_path):
    import torch

    tokenizers = pytest.importorskip("tokenizers")
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    words = ["<pad>", "<s>", "</s>", "<unk>", "<image>", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )
    template = (
        "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image> {% else %}"
        "{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = LlavaProcessor(
        images,
        fast,
        patch_size=8,
        vision_feature_select_strategy="full",
        chat_template=template,
        image_token="<image>",
        num_additional_image_tokens=1,
    )
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    text = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=4,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    model = LlavaForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    write, origin = load_writer(str(tmp_path), "", "", 6, "cpu")
    frames = numpy.random.default_rng(0).integers(0, 255, (2, 16, 24, 3), numpy.uint8)
    together = write(["a b c", "d"], [frames, frames[::-1]])
    assert (
        together == [*write(["a b c"], [frames]), *write(["d"], [frames[::-1]])]
        and origin == f"model {tmp_path.name}"
    )
    assert (
        all(isinstance(each, str) for each in together) and write(["a b c"], [255 - frames]) != together[:1]
    )


@pytest.mark.long
def test_an_audit_is_a_page_and_a_card_that_hold_what_was_sampled(tmp_path, footage, capsys):
    assert run(["data", "audit", str(footage), "--out", str(tmp_path / "page.html"), "--side", "64"]) == 0
    page = (tmp_path / "page.html").read_text()
    assert page.count("<article") == 1 and "what it was called" in page and "data-origin=" in page
    assert "http" not in page.replace("http-equiv", "")
    card = data_card(load_manifest(footage), "footage")
    assert "3 clips of 3 are kept" in card and "## Origins of captions" in card
    assert (tmp_path / "page.card.md").read_text() == card.replace(
        "card of footage", f"card of {footage.name}"
    )


def test_what_judges_found_has_intervals():
    one = {
        "page": "p",
        "judge": "a",
        "answers": {"1": "right", "2": "wrong", "3": "right"},
        "origins": {"1": "m", "2": "m", "3": "n"},
    }
    two = one | {"judge": "b", "answers": {"1": "right", "2": "right", "3": "unsure"}}
    lines = found([one, two])
    assert lines[0].startswith("all: 2 of 2 captions are right, 100.0%") and lines[0].endswith(
        "1 unsure or divided"
    )
    assert [line.split(":")[0] for line in lines] == [
        "all",
        "m",
        "n",
        "two judges agree on 1 of 3, 33.3% (6.1% to 79.2%)",
    ]
    for hits, count in ((0, 5), (3, 7), (50, 50), (480, 500)):
        interval = stats.binomtest(hits, count).proportion_ci(method="wilson")
        assert wilson(hits, count) == pytest.approx((interval.low, interval.high), abs=1e-6)
    with pytest.raises(ValueError, match="different pages"):
        found([one, two | {"page": "q"}])
    with pytest.raises(ValueError, match="it must be one of right, wrong, unsure"):
        found([one | {"answers": {"1": "yes"}}])
