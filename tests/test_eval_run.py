"""Proves that a data set's prompts are sampled once, the same on any number of processes, and then scored."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file

import configs.protocols
import eval.benchmark
import eval.fvd
import eval.networks.load
import vae.quality.networks
from dit.cli import VERBS
from dit.cli import run as run_command
from dit.pipelines import generate_with, load_pipeline
from eval.benchmark import RunEvalSettings, plan, protocols_of, run
from tests.test_diffusers_format import write_run, write_wan
from tests.test_fvd import video
from tests.test_sample import frames_hash
from tests.tiny import launch
from vae.data.manifest import load_manifest
from vae.data.ucf101 import PROMPTS
from vae.data.video import read_frames
from vae.data.write import to_frames, write_video

CLASSES = sorted(PROMPTS)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A tiny model of ours with random weights."""
    folder = tmp_path_factory.mktemp("model")
    write_run(folder)
    return folder


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    """Three videos in a class's folder."""
    folder = tmp_path_factory.mktemp("real")
    for k in range(3):
        write_video(folder / CLASSES[k % 2] / f"{k}.mp4", video(k, 16 + k), 8.0, {})
    return folder


def settings(model: Path, out: Path, **changes) -> RunEvalSettings:
    plain = RunEvalSettings(
        job="ucf101-zeroshot",
        model=str(model),
        out=str(out),
        count=5,
        steps=2,
        frames=17,
        batch=2,
        smoke=True,
        allow_small=True,
        workers=0,
        metrics=("fvd",),
        sample_only=True,
    )
    return replace(plain, **changes)


def files_of(out: Path) -> dict[str, bytes]:
    videos = out / "videos"
    return {str(file.relative_to(videos)): file.read_bytes() for file in sorted(videos.rglob("*.mkv"))}


def test_a_video_that_is_there_is_not_made_again(model, tmp_path, monkeypatch, capsys):
    run(settings(model, tmp_path))
    whole = files_of(tmp_path)
    assert list(whole) == [f"{kind}/{k:05d}.mkv" for k, kind in enumerate(CLASSES[:5])]
    record = json.loads((tmp_path / "videos" / CLASSES[3] / "00003.json").read_text())
    assert (record["prompt"], record["seed"], record["place"]) == (PROMPTS[CLASSES[3]], 3, 1)
    assert (tmp_path / "contact-sheet.png").is_file()
    assert [entry.captions for entry in load_manifest(tmp_path / "videos")] == [
        (PROMPTS[kind],) for kind in CLASSES[:5]
    ]
    (tmp_path / "videos" / CLASSES[3] / "00003.mkv").unlink()
    (tmp_path / "videos" / CLASSES[4] / "00004.json").write_text("{")
    stamps = {name: (tmp_path / "videos" / name).stat().st_mtime_ns for name in files_of(tmp_path)}
    calls = []
    plain = eval.benchmark.generate_videos
    monkeypatch.setattr(eval.benchmark, "generate_videos", lambda *a: calls.append(len(a[1])) or plain(*a))
    run(settings(model, tmp_path))
    assert calls == [2]  # the call that it is of, whole; the other's record is in the video too
    assert json.loads((tmp_path / "videos" / CLASSES[4] / "00004.json").read_text())["seed"] == 4
    assert files_of(tmp_path) == whole
    kept = [name for name in stamps if (tmp_path / "videos" / name).stat().st_mtime_ns == stamps[name]]
    assert kept == [*list(whole)[:3], list(whole)[4]]
    assert "5 videos of 5 classes, 4 are there" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"00000\.mkv was made otherwise: sample\.steps was 2, and is 3; "):
        run(settings(model, tmp_path, steps=3))
    with pytest.raises(ValueError, match=r"00000\.mkv was made otherwise: seed was 0, and is 1; "):
        run(settings(model, tmp_path, seed=1))
    assert files_of(tmp_path) == whole
    again = tmp_path / "again.mp4"  # and a video of it is made again from itself
    assert (
        run_command(
            [
                "sample",
                "--again",
                str(tmp_path / "videos" / list(whole)[3]),
                "--model",
                str(model),
                "--out",
                str(again),
            ]
        )
        == 0
    )


@pytest.mark.long
def test_any_number_of_processes_makes_the_same_videos(model, tmp_path):
    run(settings(model, tmp_path / "one", metrics=()))
    words = ["ucf101-zeroshot", "--model", model, "--out", tmp_path / "two", "--count", 5, "--steps", 2]
    words += ["--frames", 17, "--batch", 2, "--sample-only", "--allow-small", "--smoke"]
    for metrics in range(2):  # the second time nothing is made
        done = launch("eval.benchmark", *words, processes=2)
        assert done.returncode == 0, done.stderr
        assert f"5 videos of 5 classes, {5 * metrics} are there" in done.stderr
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two") != {}


def test_only_the_plan_s_videos_are_scored(model, real, tmp_path, monkeypatch, capsys):
    """The job's score is that of the verb of its metric; what else lies in the folder is not scored."""
    from tests.test_fvd import SMOKE, Means

    monkeypatch.setattr(eval.networks.load, "load_i3d", lambda eps, given, smoke: (Means(), SMOKE))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "out"
    run(settings(model, out))
    write_video(out / "videos" / "other.mp4", video(9), 8.0, {})
    scores = run(settings(model, out, sample_only=False, real=str(real)))
    assert scores["fvd"]["fake"]["clips"] == 5 and scores["fvd"]["stamps"][0] == SMOKE
    assert set(scores["fvd"]["classes"]) == set()  # one generated video a class is no distance
    kept = json.loads((out / "scores.json").read_text())
    assert kept["scores"]["fvd"]["value"] == scores["fvd"]["value"] and (out / "report.html").is_file()
    (out / "videos" / "manifest.parquet").unlink()
    (out / "videos" / "other.mp4").unlink()
    words = ["--real", str(real), "--fake", str(out / "videos"), "--protocol", "ucf101-zeroshot-10k"]
    assert (
        run_command(["eval", "fvd", *words, "--smoke", "--allow-small", "--json", str(tmp_path / "a")]) == 0
    )
    assert json.loads((tmp_path / "a").read_text())["value"] == scores["fvd"]["value"] > 0


def test_scores_are_of_lossless_frames_and_what_h264_would_have_cost_is_said(
    model, real, tmp_path, monkeypatch, capsys
):
    from tests.test_fvd import SMOKE, Means

    monkeypatch.setattr(eval.networks.load, "load_i3d", lambda eps, given, smoke: (Means(), SMOKE))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made, plain = [], eval.benchmark.generate_videos
    monkeypatch.setattr(eval.benchmark, "generate_videos", lambda *a: made.extend(v := plain(*a)) or v)
    asked = settings(model, tmp_path, sample_only=False, real=str(real), count=3, frames=21, h264=True)
    score = run(asked)["fvd"]
    assert score["motion"] and json.loads((tmp_path / "h264" / "fvd.json").read_text())["motion"] is None
    lossless = [read_frames(file, range(21)) for file in sorted((tmp_path / "videos").rglob("*.mkv"))]
    assert [frames.tolist() for frames in lossless] == [to_frames(video).tolist() for video in made]
    told = capsys.readouterr().out
    summary = json.loads((tmp_path / "scores.json").read_text())["scores"]["fvd"]
    copies = tmp_path / "h264" / "videos"
    words = ["--real", str(real), "--fake", str(copies), "--protocol", "ucf101-zeroshot-10k", "--smoke"]
    words += ["--allow-small", "--copies-of", str(tmp_path / "videos"), "--json", str(tmp_path / "a")]
    assert run_command(["eval", "fvd", *words]) == 0
    other = json.loads((tmp_path / "a").read_text())["value"]
    assert summary["h264"] == {"value": other, "difference": other - score["value"]}
    assert summary["value"] == score["value"] != other
    line = (
        f"{score['value']:.2f} from lossless frames, {other:.2f} through H.264: {other - score['value']:+.2f}"
    )
    assert f"NOT FVD: seeded network, {line}" in told
    assert line.partition(" ")[2] in (tmp_path / "report.html").read_text()
    record = json.loads((copies / CLASSES[1] / "00001.json").read_text())
    assert record == json.loads((tmp_path / "videos" / CLASSES[1] / "00001.json").read_text())
    times = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.m[pk][4v]")}
    (copies / CLASSES[1] / "00001.mp4").unlink()
    run(asked)
    assert len(made) == 3
    again = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.m[pk][4v]")}
    assert [file.name for file in times if again[file] != times[file]] == ["00001.mp4"]


def test_a_metric_is_added_in_three_places(model, tmp_path, monkeypatch, capsys):
    """A file of its verb, a file of its protocol, and a row in the table of verbs: nothing else."""
    example = Path(__file__).parent / "example_metric"
    monkeypatch.setattr(
        configs.protocols, "__path__", [*configs.protocols.__path__, str(example / "protocols")]
    )
    monkeypatch.setitem(VERBS, "eval brightness", ("tests.example_metric.brightness", "how bright it is"))
    asked = {"job": "ucf101-class", "metrics": ("brightness",), "sample_only": False}
    with pytest.raises(ValueError, match="--count 5: brightness-16 takes 2048 videos for its brightness"):
        run(settings(model, tmp_path, **asked, allow_small=False))
    score = run(settings(model, tmp_path, **asked))["brightness"]
    means = [
        read_frames(file, range(16)).double().mean() / 255 for file in (tmp_path / "videos").rglob("*.mkv")
    ]
    assert score["value"] == pytest.approx(sum(means).item() / 5, rel=1e-12)
    assert score["stamps"] == ["small: 5 of 2048 videos"] and score["fake"]["clips"] == 5
    assert json.loads((tmp_path / "brightness.json").read_text()) == score
    summary = json.loads((tmp_path / "scores.json").read_text())["scores"]
    assert summary["brightness"]["protocol"] == "brightness-16" and list(summary) == ["brightness"]
    capsys.readouterr()
    words = ["--videos", str(tmp_path / "videos"), "--allow-small"]
    assert run_command(["eval", "brightness", *words]) == 0
    assert f"brightness {score['value']:.4f}" in capsys.readouterr().out
    assert run_command(["eval", "protocols", "brightness-16"]) == 0
    assert score["protocol_sha256"] in capsys.readouterr().out


def annotations(folder: Path) -> Path:
    """Two test videos of two captions in MSR-VTT's official shape, and one of training."""
    videos = [{"video_id": f"video{k}", "split": "test"} for k in (7011, 7010)]
    videos += [{"video_id": "video3", "split": "train"}]
    sentences = [
        {"video_id": f"video{k}", "sen_id": number, "caption": f"{word} {k}"}
        for k in (7010, 7011, 3)
        for number, word in enumerate(("a cat", "a dog"))
    ]
    folder.mkdir(exist_ok=True)
    (folder / "test_videodatainfo.json").write_text(json.dumps({"videos": videos, "sentences": sentences}))
    return folder


def test_captions_of_msrvtt_become_videos_of_their_names(model, tmp_path):
    given = {"annotations": str(annotations(tmp_path / "msrvtt")), "metrics": ("clipsim",), "count": None}
    every = settings(model, tmp_path, **given, job="msrvtt-all-captions")
    made = plan(every, protocols_of(every))
    assert [(sample.name, sample.prompt, sample.seed) for sample in made] == [
        ("video7010-00", "a cat 7010", 0),
        ("video7010-01", "a dog 7010", 1),
        ("video7011-00", "a cat 7011", 2),
        ("video7011-01", "a dog 7011", 3),
    ]
    one = settings(model, tmp_path, **given, job="msrvtt")
    assert [sample.name for sample in plan(one, protocols_of(one))] == ["video7010", "video7011"]
    drawn = {tuple(s.prompt[2:5] for s in plan(replace(one, seed=k), protocols_of(one))) for k in range(20)}
    assert len(drawn) == 4  # either caption of either video
    scores = run(replace(one, sample_only=False, steps=1))
    assert [(row["video"], row["prompt"]) for row in scores["clipsim"]["each"]] == [
        (sample.name, sample.prompt) for sample in plan(one, protocols_of(one))
    ]
    assert scores["clipsim"]["protocol"]["name"] == "msrvtt-2990"


def write_cogvideox(folder: Path):
    """A pipeline of another architecture with tiny random weights, its tokenizer one that needs no file."""
    from diffusers import (
        AutoencoderKLCogVideoX,
        CogVideoXDDIMScheduler,
        CogVideoXPipeline,
        CogVideoXTransformer3DModel,
    )
    from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

    torch.manual_seed(0)
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=16,
        num_layers=1,
        sample_width=4,
        sample_height=4,
        sample_frames=17,
        patch_size=2,
        max_text_seq_length=226,
    )
    autoencoder = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
    )
    text = T5EncoderModel(T5Config(vocab_size=384, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2))
    pipeline = CogVideoXPipeline(
        tokenizer=ByT5Tokenizer(),
        text_encoder=text.eval(),
        vae=autoencoder.eval(),
        transformer=transformer.eval(),
        scheduler=CogVideoXDDIMScheduler(),
    )
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_any_pipeline_of_diffusers_is_sampled(tmp_path, monkeypatch):
    """Its videos are those that diffusers' own call gives, and are not made twice."""
    pipeline = write_cogvideox(tmp_path / "cog")
    changes = {"batch": 1, "count": 2, "height": 32, "width": 32, "guidance": 3.0}
    run(settings(tmp_path / "cog", tmp_path, **changes))
    run(settings(tmp_path / "cog", tmp_path / "its own frames", **changes, frames=None))
    for k in range(2):
        record = json.loads((tmp_path / "videos" / CLASSES[k] / f"{k:05d}.json").read_text())
        made = pipeline(
            PROMPTS[CLASSES[k]],
            num_frames=17,
            height=32,
            width=32,
            num_inference_steps=2,
            guidance_scale=3.0,
            generator=torch.Generator().manual_seed(k),
            output_type="np",
        )
        frames = torch.from_numpy(numpy.asarray(made.frames[0])).permute(3, 0, 1, 2)
        assert record["frames_sha256"] == frames_hash(frames * 2 - 1)
        assert record["model"]["class"] == "CogVideoXPipeline"
    monkeypatch.setattr(eval.benchmark, "generate_with", lambda *_: 1 / 0)
    run(settings(tmp_path / "cog", tmp_path, **changes))
    with pytest.raises(ValueError, match=r"made otherwise: sample\.guidance was 3.0, and is 4.0"):
        run(settings(tmp_path / "cog", tmp_path, **changes | {"guidance": 4.0}))
    for wrong, message in (({"batch": 2}, "takes no --solver and no --batch"),):
        with pytest.raises(ValueError, match=message):
            run(settings(tmp_path / "cog", tmp_path, **changes | wrong))
    other = next((tmp_path / "cog" / "transformer").glob("*.safetensors"))
    shutil.move(other, other.with_suffix(".bin"))
    with pytest.raises(ValueError, match=r"cog: diffusers cannot load it: .*safetensors"):
        run(settings(tmp_path / "cog", tmp_path, **changes))


def test_a_wan_pipeline_of_another_kind_goes_through_diffusers(tmp_path):
    """Two transformers, as Wan 2.2's large model has them, are not ours to sample."""
    write_wan(tmp_path)
    assert not eval.benchmark.is_foreign(str(tmp_path / "wan"))
    shutil.copytree(tmp_path / "wan" / "transformer", tmp_path / "wan" / "transformer_2")
    index = json.loads((tmp_path / "wan" / "model_index.json").read_text())
    index |= {"transformer_2": ["diffusers", "WanTransformer3DModel"], "boundary_ratio": 0.5}
    (tmp_path / "wan" / "model_index.json").write_text(json.dumps(index))
    assert eval.benchmark.is_foreign(str(tmp_path / "wan"))
    pipeline = load_pipeline(str(tmp_path / "wan"), torch.device("cpu"), torch.float32)
    sizes = {"frames": 5, "height": 32, "width": 32, "steps": 2}
    one, other = (generate_with(pipeline, "a cat", seed, sizes) for seed in (0, 1))
    assert one.shape == (3, 5, 32, 32) and not torch.equal(one, other)
    assert torch.equal(one, generate_with(pipeline, "a cat", 0, sizes))
    with pytest.raises(ValueError, match="WanPipeline takes no strength: leave it to the model"):
        generate_with(pipeline, "a cat", 0, {"strength": 1.0})
    with pytest.raises(
        ValueError, match="seed = 4294967296: WanPipeline draws by PyTorch, which keeps 32 bits"
    ):
        generate_with(pipeline, "a cat", 2**32, sizes)


def test_another_s_pipeline_runs_no_code_and_has_the_files_that_it_names(tmp_path):
    write_wan(tmp_path)
    folder = tmp_path / "wan"
    index, config = folder / "model_index.json", folder / "text_encoder" / "config.json"
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    stale, tensors = folder / "text_encoder" / "old.safetensors", load_file(weights)
    broken = tensors | {"proj_out.bias": tensors["proj_out.bias"] * float("nan")}
    parts, settings = json.loads(index.read_text()), json.loads(config.read_text())
    for harm, words, mend in (
        (
            lambda: index.write_text(json.dumps(parts | {"vae": ["subprocess", "Popen"]})),
            "vae is of subprocess: only parts of diffusers, transformers are loaded",
            lambda: index.write_text(json.dumps(parts)),
        ),
        (
            lambda: config.write_text(json.dumps(settings | {"auto_map": {"AutoModel": "own.Own"}})),
            r"text_encoder.config\.json names code of the folder \(auto_map\)",
            lambda: config.write_text(json.dumps(settings)),
        ),
        (
            lambda: stale.write_bytes(weights.read_bytes()),
            r"old\.safetensors is no part of model\.safetensors",
            stale.unlink,
        ),
        (
            lambda: save_file(broken, weights, {"format": "pt"}),
            "transformer: proj_out.bias holds NaN or infinity",
            lambda: None,
        ),
    ):
        harm()
        with pytest.raises(ValueError, match=words):
            load_pipeline(str(folder), torch.device("cpu"), torch.float32)
        mend()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"job": "ucf101-zeroshoot"}, "no job ucf101-zeroshoot; did you mean ucf101-zeroshot"),
        ({"job": ""}, "no job .none given.: ucf101-zeroshot, ucf101-zeroshot-13320"),
        ({"metrics": ("clipsim",)}, "--metrics clipsim: ucf101-zeroshot is scored by dimensions and fvd"),
        (
            {"sample_only": False, "real": "REAL", "allow_small": False},
            "--count 5: ucf101-zeroshot-10k takes 10000 videos for its fvd",
        ),
        (
            {"sample_only": False, "real": "REAL", "count": 1},
            "--count 1: ucf101-zeroshot-10k needs at least 2 videos for its fvd",
        ),
        (
            {"sample_only": False, "metrics": ("is",)},
            "--count 5: is-c3d-10k needs at least 10 videos for its is",
        ),
        ({"frames": 9}, "makes 9 frames, and a score takes 16: give --frames 17"),
        ({"frames": 18}, "18"),
        ({"model": "nowhere"}, "nowhere: no such model folder"),
        ({"job": "msrvtt"}, "no prompts: give --annotations FOLDER"),
        ({"sample_only": False}, "no --real: FVD needs the real videos"),
        (
            {"sample_only": False, "smoke": False, "real": "REAL"},
            r"needs the weights of i3d.*; --metrics leaves a",
        ),
    ],
)
def test_what_is_wrong_is_told_before_a_video_is_made(model, real, tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr(vae.quality.networks, "folders", lambda: [tmp_path])
    monkeypatch.delenv("DIT_I3D", raising=False)
    changes = changes | ({"real": str(real)} if changes.get("real") else {})
    with pytest.raises(ValueError, match=message):
        run(replace(settings(model, tmp_path), **changes))
    assert not list(tmp_path.rglob("*.m[pk][4v]"))


def test_values_that_are_no_numbers_are_named(model, tmp_path, monkeypatch):
    plain = eval.benchmark.generate_videos
    monkeypatch.setattr(eval.benchmark, "generate_videos", lambda *a: [v * torch.nan for v in plain(*a)])
    with pytest.raises(ValueError, match=r"gave NaN or infinite values for .*, seed 0"):
        run(settings(model, tmp_path))


def test_unreadable_videos_are_named_before_they_are_scored(model, tmp_path):
    run(settings(model, tmp_path))
    broken = tmp_path / "videos" / CLASSES[2] / "00002.mkv"
    broken.write_bytes(broken.read_bytes()[:900])
    with pytest.raises(
        ValueError, match=rf"^{re.escape(str(broken))} is there, and no record says .* --overwrite"
    ):
        run(settings(model, tmp_path))
