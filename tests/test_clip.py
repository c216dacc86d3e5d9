"""Proves CLIPSIM: OpenAI's preprocessing and tokens, transformers' own embeddings, what a score says."""

import gzip
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import eval.clipsim
import eval.networks.clip
from configs.protocol import load_protocols, protocol_names
from dit.cli import run
from eval.clipsim import SMOKE, ClipsimSettings, clipsim
from eval.networks.clip import Bytes, Clip, load_clip, preprocess, seeded_clip
from eval.scoring import interval
from tests.conftest import REFERENCE
from vae.data.video import read_frames
from vae.data.write import write_png_frames, write_video


def vocabulary(folder: Path) -> None:
    """Writes CLIP's tokenizer for transformers, from the table of merges that OpenAI publishes."""
    table = REFERENCE / "bpe_simple_vocab_16e6.txt.gz"
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in shown}
    letters |= {byte: chr(256 + k) for k, byte in enumerate(b for b in range(256) if b not in shown)}
    base = [letters[byte] for byte in [*shown, *(b for b in range(256) if b not in shown)]]
    merges = gzip.decompress(table.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    words = base + [f"{letter}</w>" for letter in base] + ["".join(merge.split()) for merge in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: k for k, word in enumerate(words)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")


def test_pictures_are_openai_s_to_the_bit(real_clips):
    known = json.loads((REFERENCE / "clip_preprocessed.json").read_text())
    pictures = preprocess(read_frames(real_clips / "v_ApplyEyeMakeup_g01_c01.avi", known["frames"]))
    assert list(pictures.shape) == known["shape"] and pictures.dtype == torch.float32
    digest = hashlib.sha256(pictures.contiguous().numpy().tobytes()).hexdigest()
    assert digest == known["sha256_of_float32"]


def test_tokens_are_openai_s(tmp_path):
    from transformers import CLIPTokenizer

    vocabulary(tmp_path)
    clip = Clip(torch.nn.Linear(1, 1), CLIPTokenizer.from_pretrained(tmp_path))
    known = json.loads((REFERENCE / "clip_tokens.json").read_text())
    for caption, ids in zip(known["captions"], known["token_ids"], strict=True):
        assert clip.tokens([caption])["input_ids"].tolist() == [ids]
    start, end = known["token_ids"][0][0], known["token_ids"][0][-1]
    assert clip.count_cut(["word " * 75, "word " * 76, "word " * 200]) == 2
    ids = clip.tokens(["word " * 200])["input_ids"][0].tolist()
    assert len(ids) == 77 and ids[0] == start and ids[-1] == end
    both = clip.tokens(["“A  CAT”&amp;amp;", '"a cat"&'])["input_ids"].tolist()
    assert both[0] == both[1]


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_folder_is_read_back_the_same(kind, tmp_path):
    """From both kinds of weights file, with the numbers of positions that older ones hold."""
    from transformers import CLIPTokenizer

    made = seeded_clip().model
    made.save_pretrained(tmp_path)
    if kind == "bin":
        tensors = made.state_dict() | {"text_model.embeddings.position_ids": torch.arange(77)[None]}
        torch.save(tensors, tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
    vocabulary(tmp_path)
    CLIPTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    clip, weights = load_clip(tmp_path, certify=False)
    pictures = torch.randn(2, 3, 224, 224)
    again = Clip(made, Bytes()).of_pictures(pictures)
    assert torch.equal(clip.of_pictures(pictures), again) and len(weights) == 64


def test_a_square_and_tall_pictures_keep_their_middle():
    frames = torch.zeros(1, 448, 224, 3, dtype=torch.uint8)
    frames[:, 112:336] = torch.randint(256, (1, 224, 224, 3), dtype=torch.uint8)
    assert torch.equal(preprocess(frames), preprocess(frames[:, 112:336]))
    mean, std = torch.tensor(eval.networks.clip.MEAN), torch.tensor(eval.networks.clip.STD)
    wanted = (frames[0, 112, 0].float() / 255 - mean) / std
    assert torch.equal(preprocess(frames)[0, :, 0, 0], wanted)


def test_similarity_is_the_mean_of_the_cosines_of_transformers_own_forward():
    clip, pictures = seeded_clip(), torch.randn(5, 3, 224, 224)
    out = clip.model(pixel_values=pictures, **clip.tokens(["a prompt"]))
    scale = clip.model.logit_scale.exp()
    wanted = (out.logits_per_image / scale).double().mean().item()  # transformers scales cosines to logits
    assert clip.similarity(pictures, "a prompt") == pytest.approx(wanted, abs=1e-6)
    single = [clip.similarity(pictures[k : k + 1], "a prompt") for k in range(5)]
    assert clip.similarity(pictures, "a prompt") == pytest.approx(sum(single) / 5, abs=1e-6)
    assert clip.similarity(pictures, "another") != clip.similarity(pictures, "a prompt")
    again = seeded_clip()
    assert again.similarity(pictures, "a prompt") == clip.similarity(pictures, "a prompt")


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Three videos of several sizes, one with a record beside it, one with a text, one with neither."""
    folder = tmp_path_factory.mktemp("clipsim")
    for k, size in enumerate([(32, 40), (48, 32), (64, 64)]):
        random = torch.Generator().manual_seed(k)
        write_video(folder / f"{k}.mp4", torch.rand(3, 4 + k, *size, generator=random) * 2 - 1, 8.0, {})
    (folder / "0.json").write_text(json.dumps({"prompt": "a cat"}))
    (folder / "1.txt").write_text("a dog\nanother caption\n")
    return folder


def settings(folder: Path, **changes) -> ClipsimSettings:
    return replace(ClipsimSettings(videos=str(folder), smoke=True, allow_small=True, workers=0), **changes)


def test_a_score_is_the_mean_over_videos_with_prompts(videos, tmp_path, capsys):
    file = tmp_path / "score.json"
    result = clipsim(settings(videos, json=str(file)))
    clip = seeded_clip()
    frames = [read_frames(videos / f"{k}.mp4", range(4 + k)) for k in range(2)]
    alone = [clip.similarity(preprocess(f), p) for f, p in zip(frames, ("a cat", "a dog"), strict=True)]
    assert [row["value"] for row in result["each"]] == pytest.approx(alone, abs=1e-6)
    assert result["value"] == pytest.approx(sum(alone) / 2, abs=1e-6)
    assert result["stamps"] == [SMOKE, "small: 2 of 2990 videos"]
    assert result["fake"]["passed_over"] == {"2": "2 has no prompt"}
    assert json.loads(file.read_text()) == json.loads(json.dumps(result))
    assert capsys.readouterr().out.startswith(
        "NOT CLIPSIM: SEEDED NETWORK\nsmall: 2 of 2990 videos\nsimilarity"
    )
    assert clipsim(settings(videos, workers=2))["value"] == result["value"]


def test_a_table_gives_every_row_its_video(videos, tmp_path):
    table = tmp_path / "prompts.csv"
    table.write_text("path,caption\n2.mp4,a bird\n0.mp4,a cat\n0.mp4,one cat\n")
    result = clipsim(settings(videos, prompts=str(table)))
    assert [(row["video"], row["prompt"]) for row in result["each"]] == [
        ("0", "a cat"),
        ("0", "one cat"),
        ("2", "a bird"),
    ]
    table.write_text("path,caption\n0.mp4,a cat\n9.mp4,a dog\n")
    with pytest.raises(ValueError, match=r"prompts for 1 videos that are not in .* such as 9"):
        clipsim(settings(videos, prompts=str(table), allow_small=False))
    assert len(clipsim(settings(videos, prompts=str(table)))["each"]) == 1
    table.write_text("path,caption\n9.mp4,a dog\n")
    with pytest.raises(ValueError, match="prompts for none of the videos"):
        clipsim(settings(videos, prompts=str(table)))


def test_videos_are_counted_and_not_the_rows_of_a_table(videos, tmp_path, monkeypatch):
    """Two videos with 2,990 rows are two videos, each of which weighs as much."""
    table = tmp_path / "prompts.csv"
    rows = ["0.mp4,a cat"] * 2988 + ["0.mp4,a dog", "2.mp4,a bird"]
    table.write_text("\n".join(["path,caption", *rows]))
    with monkeypatch.context() as before, pytest.raises(ValueError, match="2 clips, and msrvtt-2990 takes"):
        before.setattr(eval.clipsim, "measure", lambda *_: 1 / 0)
        clipsim(settings(videos, prompts=str(table), allow_small=False))
    table.write_text("\n".join(["path,caption", *rows[-4:]]))
    result = clipsim(settings(videos, prompts=str(table)))
    alone = {(row["video"], row["prompt"]): row["value"] for row in result["each"]}
    first = (2 * alone["0", "a cat"] + alone["0", "a dog"]) / 3
    assert result["value"] == pytest.approx((first + alone["2", "a bird"]) / 2, rel=1e-12)
    assert result["stamps"][1] == "small: 2 of 2990 videos" and result["fake"]["clips"] == 2
    one = clipsim(settings(videos, prompts=str(table), resamples=0))
    table.write_text("path,caption\n0.mp4,a cat\n2.mp4,a bird\n")
    again = clipsim(settings(videos, prompts=str(table), resamples=0))
    for fact in ("files_sha256", "rgb_sha256"):
        assert one["fake"][fact] == again["fake"][fact]


def written(folder: Path, *names: str, record: dict | None = None) -> Path:
    """A folder of small videos of noise."""
    for name in names:
        write_video(folder / name, torch.rand(3, 2, 32, 32) * 2 - 1, 8.0, record or {})
    return folder


def test_prompts_are_those_of_the_videos_own_records(tmp_path, capsys):
    written(tmp_path, "inside.mp4", record={"prompt": "a  cat"})
    written(tmp_path, "null.mp4", "text.mp4", "other.mp4", "long.v2.mp4")
    (tmp_path / "null.json").write_text('{"prompt": null}')
    (tmp_path / "text.txt").write_bytes("\ufeff\na dog\u2028asleep\nanother".encode())
    (tmp_path / "long.v2.json").write_text(json.dumps({"prompt": "word " * 90}))
    write_png_frames(tmp_path / "frames.v1", torch.zeros(3, 2, 32, 32))
    (tmp_path / "frames.v1.json").write_text('{"prompt": "grey"}')
    result = clipsim(settings(tmp_path, resamples=0))
    assert {row["video"]: row["prompt"] for row in result["each"]} == {
        "inside": "a cat",
        "text": "a dog asleep",
        "long.v2": ("word " * 90).strip(),
    }
    assert sorted(result["fake"]["passed_over"]) == ["null", "other"] and result["prompts_cut"] == 1
    assert (
        "note: 1 of 3 prompts have more than CLIP's 77 tokens: they are cut there\n"
        in capsys.readouterr().err
    )
    for file in tmp_path.glob("*.mp4"):
        file.unlink()
    assert [row["prompt"] for row in clipsim(settings(tmp_path, resamples=0))["each"]] == ["grey"]
    (tmp_path / "frames.v1.json").write_bytes(b'{"prompt": "caf\xe9"}')
    with pytest.raises(ValueError, match=r"frames\.v1\.json is not UTF-8"):
        clipsim(settings(tmp_path))


def test_a_table_names_videos_with_dots_and_its_columns_are_told(tmp_path):
    written(tmp_path / "videos", "clip.v1.mp4", "clip.v2.mp4")
    table = tmp_path / "t.csv"
    for rows in ("path;text\nclip.v1;one\nclip.v2;two\n", "clip.v1.avi|one\nclip.v2.avi|two\n"):
        table.write_text(rows)
        result = clipsim(settings(tmp_path / "videos", prompts=str(table), resamples=0))
        assert [(row["video"], row["prompt"]) for row in result["each"]] == [
            ("clip.v1", "one"),
            ("clip.v2", "two"),
        ]
    table.write_text("name,score\nclip.v1,3\n")
    with pytest.raises(
        ValueError, match=r"t\.csv has the columns 'name', 'score'; wanted is a column for file \(path"
    ):
        clipsim(settings(tmp_path / "videos", prompts=str(table)))
    table.write_text("path,caption\nclip.v1,\n")
    with pytest.raises(ValueError, match="has prompts for none of the videos"):
        clipsim(settings(tmp_path / "videos", prompts=str(table)))


def test_the_interval_is_that_of_a_mean():
    values = torch.randn(400, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = interval(lambda drawn: drawn.mean().item(), (values,), 1000, 0)
    assert found["high"] - values.mean().item() == pytest.approx(1.96 * values.std().item() / 20, rel=0.15)
    assert found["low"] - values.mean().item() == pytest.approx(-1.96 * values.std().item() / 20, rel=0.15)


def test_only_openai_s_weights_are_certified(tmp_path, videos, monkeypatch, capsys):
    seeded_clip().model.save_pretrained(tmp_path / "clip")
    with pytest.raises(ValueError, match=r"model\.safetensors is not OpenAI's published ViT-B/32"):
        load_clip(tmp_path / "clip")
    with pytest.raises(ValueError, match="holds no CLIP model"):
        load_clip(tmp_path)
    monkeypatch.setenv("DIT_CLIP", str(tmp_path / "clip"))
    assert run(["eval", "clipsim", "--videos", str(videos), "--allow-small"]) == 1
    assert "is not OpenAI's published ViT-B/32" in capsys.readouterr().err
    assert run(["eval", "weights"]) == 0
    assert "NOT certified: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"videos": ""}, "no --videos"),
        ({"videos": "nowhere"}, "nowhere: no such folder"),
        ({"protocol": "fvd-google"}, "fvd-google is a protocol of fvd, not of clipsim"),
        ({"prompts": "nowhere.csv"}, r"nowhere\.csv: no such file"),
        ({"prompts": "README.md"}, r"README\.md: give a table of files and captions"),
        (
            {"allow_small": False},
            "gives 2 clips, and msrvtt-2990 takes 2990: with --allow-small .*: 2 has no prompt",
        ),
    ],
)
def test_wrong_settings_are_told(videos, changes, message):
    with pytest.raises(ValueError, match=message):
        clipsim(settings(videos, **changes))


def test_nothing_is_drawn_that_could_be_repeated(videos, capsys):
    every = [load_protocols(name).get("clipsim") for name in protocol_names()]
    assert {(p.start, p.frames) for p in every if p} == {("first", 0)}
    assert run(["eval", "clipsim", "--videos", str(videos), "--repeats", "2"]) == 1
    assert "unknown setting --repeats" in capsys.readouterr().err
