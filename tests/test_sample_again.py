"""Proves that a video carries its truth: by it alone the same is made again, and what differs is told."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from configs.load import to_json
from configs.sampling import SampleSettings
from dit.cli import run
from dit.generate import generate
from dit.load import TRANSFORMER, load_model
from dit.record import sidecar
from dit.sample import sample
from eval.shapes import short_weights
from tests.test_sample import RUN, folder, message, picture, write_model  # noqa: F401
from vae.data.video import read_frames
from vae.data.write import read_metadata, write_video
from vae.load import WEIGHTS as AUTOENCODER
from vae.training.files import file_hash


@pytest.mark.parametrize("given", [False, True])
def test_a_video_is_made_again_from_itself(folder, picture, tmp_path, capsys, given):  # noqa: F811
    out = tmp_path / "one.mp4"
    image = ["--image", str(picture)] if given else []
    words = ["--model", str(folder), "--seed", "7", "--solver", "heun", "--steps", "2", *image]
    assert run(["sample", 'a "red" circle; 赤い\\n=#', *words, "--out", str(out)]) == 0
    picture.unlink()  # all that is needed is in the video
    assert run(["sample", "--again", str(out), "--model", str(folder)]) == 0
    again = tmp_path / "one-again.mp4"
    assert capsys.readouterr().out.split() == [str(out), str(again)]
    frames = [read_frames(file, range(5)) for file in (out, again)]
    assert torch.equal(*frames)
    first, second = (read_metadata(file) for file in (out, again))
    assert first["frames_sha256"] == second["frames_sha256"]
    assert first["sample"] | {"out": "", "image": ""} == second["sample"] | {"out": "", "image": ""}


def test_a_video_of_a_packed_call_is_made_again_in_that_call(folder, tmp_path, capsys, monkeypatch):  # noqa: F811
    packs = []

    def watched(denoiser, requests, *rest):
        packs.append([(request.condition.prompt, request.seed) for request in requests])
        return generate(denoiser, requests, *rest)

    monkeypatch.setattr("dit.sample.generate", watched)
    words = ["a circle", "a much longer prompt", "--number", "2", "--batch", "3", "--model", str(folder)]
    assert run(["sample", *words, "--out", str(tmp_path)]) == 0
    files = capsys.readouterr().out.split()[:4]
    made = list(packs)
    assert [len(pack) for pack in made] == [3, 1]
    for file, pack in zip(files, [0, 0, 0, 1], strict=True):
        assert run(["sample", "--again", file, "--model", str(folder)]) == 0
        again = capsys.readouterr().out.split()
        assert again == [file.replace(".mp4", "-again.mp4")] and packs[-1] == made[pack]
        one, two = (read_metadata(name) for name in (file, *again))
        assert one["frames_sha256"] == two["frames_sha256"] and one.get("pack") == two.get("pack")
        assert (one["prompt"], one["seed"]) == (two["prompt"], two["seed"])


@pytest.mark.parametrize(("name", "again"), [("a.gif", "a-again.gif"), ("a.b.png", "a.b-again")])
def test_what_is_no_mp4_is_made_again_from_its_sidecar(folder, tmp_path, capsys, name, again):  # noqa: F811
    words = ["sample", "a prompt", "--model", str(folder), "--out", str(tmp_path / name)]
    assert run(words) == 0
    made = Path(capsys.readouterr().out.strip())
    assert run(["sample", "--again", str(made), "--model", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / again)
    files = [sorted(file.glob("*")) if file.is_dir() else [file] for file in (made, tmp_path / again)]
    assert len(files[0]) == (5 if made.is_dir() else 1)
    assert all(one.read_bytes() == two.read_bytes() for one, two in zip(*files, strict=True))
    sidecar(made).unlink()
    assert "holds the record" in message(capsys, "--again", made, "--model", folder)


@pytest.mark.parametrize("pack", [[["a prompt", "", 0], ["b"]], [["a", "", -1]], [[1, "", 0]], 7, [None]])
def test_a_record_whose_pack_is_none_is_refused_by_name(folder, tmp_path, capsys, pack):  # noqa: F811
    assert run(["sample", "a prompt", "--model", str(folder), "--out", str(tmp_path / "a.gif")]) == 0
    record = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps(record | {"pack": pack, "place": 0}))
    assert str(tmp_path / "a.gif") in message(capsys, "--again", tmp_path / "a.gif", "--model", folder)


def test_other_frames_are_an_error_and_kept(folder, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "one.mp4"
    sample(SampleSettings(prompts=("a prompt",), model=str(folder), out=str(out)))
    assert run(["sample", "--again", str(out), "--model", str(folder), "--precision", "bf16"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and "its frames differ from those of" in captured.err.splitlines()[-1]
    assert len(read_frames(tmp_path / "one-again.mp4", range(5))) == 5


def test_a_video_carries_its_truth(folder, tmp_path):  # noqa: F811
    out = tmp_path / "one.mp4"
    sample(SampleSettings(prompts=("a prompt",), model=str(folder), seed=3, out=str(out)))
    record = read_metadata(out)
    assert record["prompt"] == "a prompt"
    assert record["seed"] == 3
    assert record["ai_generated"] is True and "AI-generated" in record["label"]
    assert record["weights"] == f"{file_hash(folder / TRANSFORMER)}+{file_hash(folder / AUTOENCODER)}"
    assert record["model"] == json.loads(json.dumps(to_json(RUN)))
    assert record["sampler"] == {"steps": 3, "solver": "multistep", "guidance": 2.0, "seed": 3}
    sidecar = json.loads(out.with_suffix(".json").read_text())
    assert {key: record[key] for key in sidecar} == sidecar


def test_other_weights_are_refused(folder, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "one.mp4"
    sample(SampleSettings(prompts=("a prompt",), model=str(folder), out=str(out)))
    other = write_model(tmp_path / "other", seed=1)
    assert "other weights" in message(capsys, "--again", out, "--model", other)
    (other / TRANSFORMER).write_bytes((folder / TRANSFORMER).read_bytes())  # the autoencoder counts too
    assert "other weights" in message(capsys, "--again", out, "--model", other)


def test_paths_out_of_a_video_are_not_followed(folder, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "one.mp4"
    sample(SampleSettings(prompts=("a prompt",), model=str(folder), out=str(out)))
    assert "not read unless you name it: --model" in message(capsys, "--again", out)
    record, secret = read_metadata(out), tmp_path / "secret"
    secret.write_text("a line of a file that no one named")
    paths = {"prompts_file": str(secret), "text_folder": str(secret)}
    hostile = record | {"sample": record["sample"] | paths}
    write_video(tmp_path / "hostile.mp4", torch.zeros(3, 5, 32, 32), 8.0, hostile)
    assert run(["sample", "--again", str(tmp_path / "hostile.mp4"), "--model", str(folder)]) == 0
    made = read_metadata(tmp_path / "hostile-again.mp4")
    assert made["prompt"] == "a prompt" and str(secret) not in json.dumps(made)
    image = record | {"sample": record["sample"] | {"image": str(secret)}}
    write_video(tmp_path / "image.mp4", torch.zeros(3, 5, 32, 32), 8.0, image)
    assert "holds nothing that was given" in message(
        capsys, "--again", tmp_path / "image.mp4", "--model", folder
    )


def test_again_takes_no_setting_of_another_video(folder, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "one.mp4"
    sample(SampleSettings(prompts=("a prompt",), model=str(folder), out=str(out)))
    assert "takes no steps;" in message(capsys, "--again", out, "--steps", "2", "--seed", "9")
    assert "takes no prompts;" in message(capsys, "another", "--again", out)
    write_video(tmp_path / "foreign.mp4", torch.zeros(3, 1, 32, 32), 8.0, {"sample": {}})
    assert "no whole record" in message(capsys, "--again", tmp_path / "foreign.mp4")


@pytest.mark.parametrize("solver", ["euler", "heun", "multistep"])
def test_the_recorded_evaluations_are_those_that_were_made(folder, tmp_path, monkeypatch, solver):  # noqa: F811
    model, calls = load_model(str(folder), torch.device("cpu"), torch.float32), []
    model.denoiser.transformer.register_forward_hook(lambda *_: calls.append(1))
    monkeypatch.setattr("dit.load.load_model", lambda *_: model)
    out = tmp_path / "one.mp4"
    sample(SampleSettings(prompts=("a",), steps=3, solver=solver, out=str(out)))
    assert read_metadata(out)["evaluations"] == len(calls)


def test_a_video_of_adapters_is_made_again_with_them_in_any_order(folder, tmp_path, capsys):  # noqa: F811
    """Their scales are the record's; a file that is missing, or was not there, is named."""
    random, files = torch.Generator().manual_seed(0), []
    width = RUN.model.width
    for name in "abc":
        pair = {"A": (2, width), "B": (width, 2)}
        tensors = {k: torch.randn(size, generator=random) for k, size in pair.items()}
        layer = f"transformer.blocks.0.attn1.to_{'q' if name == 'a' else 'v'}"
        files.append(tmp_path / f"{name}.safetensors")
        save_file({f"{layer}.lora_{k}.weight": x for k, x in tensors.items()}, files[-1])
    one, two, three = map(str, files)
    out, words = tmp_path / "one.mp4", ["--model", str(folder)]
    assert run(["sample", "a circle", *words, "--lora", f"{one}:0.7", two, "--out", str(out)]) == 0
    assert run(["sample", "--again", str(out), *words, "--lora", two, f"{one}:3"]) == 0
    record, again = (read_metadata(file) for file in (out, tmp_path / "one-again.mp4"))
    assert record["frames_sha256"] == again["frames_sha256"] and record["weights"] == again["weights"]
    digits = file_hash(files[1])[:12]
    said = message(capsys, "--again", out, *words, "--lora", one)
    assert f"was made with the adapters b.safetensors, SHA-256 {digits}…, which no --lora names" in said
    said = message(capsys, "--again", out, *words, "--lora", one, two, three)
    assert f"was made without {three}" in said
    assert "--lora a.safetensors b.safetensors" in message(capsys, "--again", out, *words)
    parts = short_weights(record["weights"]).split(" + ")
    assert parts[-2:] == [f"{file_hash(files[0])[:12]}@0.7", f"{digits}@1.0"] and len(parts) == 4
