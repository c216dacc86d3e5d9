"""Proves that prompts and requests are read from files, guided from negative prompts, and made again."""

import json
from pathlib import Path

import pytest
import torch

from configs.model import TextConfig
from configs.sampling import SamplerConfig, SampleSettings
from dit.cli import run
from dit.condition import Condition
from dit.generate import Request, generate
from dit.load import load_model
from dit.requests import Asked, read_asked
from dit.text import cut_note
from tests.test_sample import folder, message, picture  # noqa: F401
from vae.data.write import read_metadata


def asked(file: Path, content: str | bytes, **settings) -> list[Asked]:
    """What a prompts file with this content asks for."""
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_asked(SampleSettings(prompts_file=str(file), **settings))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_text_has_a_prompt_a_line_and_comments(tmp_path, encoding):
    text = "# of a café\r\na café\r\n\r\n  a star # spins \n   # not this\na\u2028b\r"
    found = asked(tmp_path / "p.txt", text.encode(encoding), prompts=("first",))
    assert [one.prompt for one in found] == ["first", "a café", "a star # spins", "a\u2028b"]


def test_a_request_says_what_is_its_own(tmp_path):
    rows = [
        {"prompt": "a", "seed": 7, "negative": "n", "frames": 9, "height": 32, "width": 48},
        {"Prompt": " b ", "image": "deep/first.png", "negative_prompt": "m"},
        {"prompt": 7, "seed": float("nan"), "image": None},
    ]
    wanted = [
        Asked("a", "n", 7, 9, 32, 48),
        Asked("a", "n", 8, 9, 32, 48),
        Asked("b", "m", 3, 5, image=f"{tmp_path}/deep/first.png"),
        Asked("b", "m", 4, 5, image=f"{tmp_path}/deep/first.png"),
        Asked("7", "all", 3, 5),
        Asked("7", "all", 4, 5),
    ]
    settings = {"number": 2, "seed": 3, "frames": 5, "negative": "all"}
    assert asked(tmp_path / "p.jsonl", "\n".join(map(json.dumps, rows)), **settings) == wanted
    assert asked(tmp_path / "p.json", json.dumps(rows), **settings) == wanted
    table = (
        "prompt;negative;seed;image;frames;height;width\na;n;7;;9;32;48\nb;m;;deep/first.png;;;\n7;;;;;;\n"
    )
    assert asked(tmp_path / "p.csv", table, **settings) == wanted
    assert [one.prompt for one in asked(tmp_path / "p.json", '["a, b", "c"]')] == ["a, b", "c"]
    assert [one.prompt for one in asked(tmp_path / "p.csv", "text\na, b\n")] == ["a, b"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.txt", "a caf\u00e9\n".encode("cp1252"), r"p\.txt, line 1, is not UTF-8"),
        ("p.txt", "# nothing\n\n", "no prompt"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": null}', r"p\.jsonl, line 2, has no prompt"),
        ("p.jsonl", '{"prompt": "a"}\n{"seed": 3}', r"p\.jsonl, line 2, has no prompt"),
        ("p.jsonl", '{"prompt": "a"}\nnull', r"p\.jsonl, line 2, has no prompt"),
        ("p.jsonl", '{"prompt": ["a", "b"]}', r"p\.jsonl, line 1: prompt = \['a', 'b'\]: it must be"),
        ("p.jsonl", '{"prompt": "a", "sede": 3}', r"line 1: unknown setting sede; did you mean seed\?"),
        ("p.jsonl", '{"prompt": "a", "seed": -1}', r"p\.jsonl, line 1: seed = -1: it must be at least 0"),
        ("p.jsonl", '{"prompt": "a", "seed": 1.5}', r"p\.jsonl, line 1: seed = 1\.5: it must be"),
        ("p.jsonl", '{"prompt": "a", "frames": "9"}', r"p\.jsonl, line 1: frames = '9': it must be"),
        ("p.csv", "prompt,seed\na,x\n", r"p\.csv, line 2: seed = 'x': it must be"),
        ("p.csv", "prompt,seed\na, b,3\n", r"p\.csv, line 2, has 3 cells; wanted are 2 \(prompt, seed\)"),
        ("p.csv", "a red circle\n", r"p\.csv has the columns 'a red circle'; wanted is a column for prompt"),
        ("p.jsonl", '{"prompt": "a", "image": "b.png", "frames": 1}', "leaves nothing to sample"),
        ("p.jsonl", '{"prompt": "a", "seed": 9223372036854775807}', "with 2 videos it reaches 2"),
    ],
)
def test_a_request_that_is_wrong_is_named(tmp_path, name, content, said):
    with pytest.raises(ValueError, match=said):
        asked(tmp_path / name, content, number=2)


def test_requests_are_sampled_as_alone_and_made_again(folder, picture, tmp_path, capsys):  # noqa: F811
    rows = [
        {"prompt": "one", "seed": 7, "frames": 9},
        {"prompt": "two", "negative": "dull", "image": picture.name, "height": 32, "width": 48},
        {"prompt": "three", "seed": 8, "frames": 9, "negative": "dull"},
    ]
    file = tmp_path / "requests.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    words = ["sample", "--prompts-file", str(file), "--model", str(folder), "--batch", "2"]
    assert run([*words, "--out", str(tmp_path / "all")]) == 0
    files = capsys.readouterr().out.split()[:-1]
    records = [read_metadata(name) for name in files]
    assert [record["prompt"] for record in records] == ["one", "two", "three"]
    assert [record["negative"] for record in records] == ["", "dull", "dull"]
    assert [record["seed"] for record in records] == [7, 0, 8]
    sizes = [tuple(r["video"][name] for name in ("frames", "height", "width")) for r in records]
    assert sizes == [(9, 32, 32), (5, 32, 48), (9, 32, 32)]
    assert "givens" in records[1] and records[0]["pack"] == [["one", "", 7], ["three", "dull", 8]]
    for name, record in zip(files, records, strict=True):
        assert run(["sample", "--again", name, "--model", str(folder)]) == 0
        again = read_metadata(capsys.readouterr().out.strip())
        assert again["frames_sha256"] == record["frames_sha256"] and again["negative"] == record["negative"]
    alone = [
        "sample",
        "two",
        "--negative",
        "dull",
        "--image",
        str(picture),
        "--height",
        "32",
        "--width",
        "48",
    ]
    assert run([*alone, "--model", str(folder), "--out", str(tmp_path / "two.mp4")]) == 0
    assert read_metadata(tmp_path / "two.mp4")["frames_sha256"] == records[1]["frames_sha256"]
    free = [word for word in alone if word not in ("--negative", "dull")]
    assert run([*free, "--model", str(folder), "--out", str(tmp_path / "free.mp4")]) == 0
    assert read_metadata(tmp_path / "free.mp4")["frames_sha256"] != records[1]["frames_sha256"]


def test_guidance_leads_from_the_negative_prompt(folder):  # noqa: F811
    """One Euler step is x0 = noise - v, so that guided videos lie on the line through two unguided ones."""
    model, shape = load_model(str(folder), torch.device("cpu"), torch.float32), (4, 2, 4, 4)

    def sampled(scale: float, *conditions: Condition) -> list[torch.Tensor]:
        sampler = SamplerConfig(steps=1, solver="euler", guidance=scale)
        return generate(model.denoiser, [Request(c, shape, 5) for c in conditions], model.flow, sampler)

    prompt, negative, nothing = sampled(1.0, Condition("a star"), Condition("dull"), Condition(""))
    guided, plain = sampled(3.0, Condition("a star", negative="dull"), Condition("a star"))
    torch.testing.assert_close(guided, negative + 3.0 * (prompt - negative), atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(plain, nothing + 3.0 * (prompt - nothing), atol=2e-4, rtol=1e-4)
    assert (guided - plain).abs().max() > 1e-2


def test_a_negative_prompt_without_guidance_and_a_size_that_does_not_fit_are_told(folder, tmp_path, capsys):  # noqa: F811
    words = ("a", "--negative", "b", "--guidance", "1", "--model", folder)
    assert "a negative prompt has no part where --guidance is 1" in message(capsys, *words)
    (tmp_path / "p.jsonl").write_text('{"prompt": "good"}\n{"prompt": "odd one", "height": 50}')
    words = ("--prompts-file", tmp_path / "p.jsonl", "--model", folder)
    assert "the request 'odd one': height 50 is no positive multiple of 16" in message(capsys, *words)
    (tmp_path / "p.jsonl").write_text('{"prompt": "odd one", "height": 0}')
    assert "height = 0: it must be at least 1" in message(capsys, *words)


def test_prompts_that_are_cut_are_counted_once(folder, tmp_path, capsys):  # noqa: F811
    words = [
        "sample",
        "a",
        "b" * 600,
        "--negative",
        "c" * 512,
        "--model",
        str(folder),
        "--out",
        str(tmp_path),
    ]
    assert run(words) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    assert said == ["note: 2 of 3 prompts have more than text.max_tokens = 512: cut there"]
    assert cut_note(TextConfig(max_tokens=4), ["abc", "abc"]) == ""
    assert "1 of 2 captions" in cut_note(TextConfig(max_tokens=4), ["abcd", "é", "abcd"], "captions")


def test_a_request_may_ask_for_no_negative_prompt(tmp_path):
    file = tmp_path / "requests.jsonl"
    file.write_text('{"prompt": "a", "negative": ""}\n{"prompt": "b"}\n')
    asked = read_asked(SampleSettings(prompts_file=str(file), negative="dull"))
    assert [one.negative for one in asked] == ["", "dull"]
    file.write_text('{"prompt": "a", "negative": "x", "negative_prompt": "y"}')
    with pytest.raises(ValueError, match="has both negative and negative_prompt"):
        read_asked(SampleSettings(prompts_file=str(file)))
