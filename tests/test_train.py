"""Proves that a transformer's training depends on its settings alone, however stopped, killed or spread."""

import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import dit.train
from configs.load import from_json, to_json
from configs.train import FlowConfig, OptimizerConfig, TaskWeights, TransformerRun
from dit.encode import EncodeSettings
from dit.encode import encode as encode_cache
from dit.generate import generate
from dit.load import AVERAGE, TRANSFORMER, load_model
from dit.loss import check_first_loss, make_batch
from dit.pack import patchify
from dit.steps import latent_shape
from dit.train import train, validate, validation_packs
from tests.test_train_loss import random_denoiser
from tests.tiny import (
    MODEL,
    ROOT,
    assert_same_run,
    command,
    environment,
    fresh_accelerator,  # noqa: F401
    largest_difference,
    launch,
    newest_step,
    rows,
    session,
    state,
    transformer_run,
    write_config,
)
from vae.cache.clips import open_cached
from vae.cache.index import load_cache
from vae.compression import Compression
from vae.data.clips import Clip, batches, open_data, shares_of
from vae.interface import Statistics
from vae.load import load_autoencoder
from vae.model import Autoencoder
from vae.training.optimizer import update_average
from vae.training.signals import Stopped
from vae.training.weights import TRANSFORMERS, load_weights, read_header, save_weights


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory) -> Path:
    """Random weights of an autoencoder that knows its latents' statistics."""
    torch.manual_seed(0)
    model = Autoencoder(MODEL).eval().requires_grad_(False)
    data, _ = open_data(transformer_run("", "").data, 3, 1, Compression())
    means = model.encode_moments(torch.stack([data[draw].video for draw in range(32)]))[0]
    flat = means.transpose(0, 1).flatten(1)
    model.set_statistics(Statistics(tuple(flat.mean(1).tolist()), tuple(flat.std(1).tolist())))
    file = tmp_path_factory.mktemp("autoencoder") / "autoencoder.safetensors"
    save_weights(file, model.state_dict(), "autoencoder", {"model": to_json(MODEL)})
    return file


def cache_of(scenes: int, out: Path, autoencoder: Path) -> str:
    """A cache of the drawn world's first scenes."""
    data = transformer_run("", "").data
    return str(encode_cache(EncodeSettings("shapes", str(out), str(autoencoder), data, scenes=scenes)))


@pytest.fixture(scope="module")
def sources(tmp_path_factory, autoencoder) -> dict[str, str]:
    """The drawn world, and a cache of eight scenes of it."""
    cache = cache_of(8, tmp_path_factory.mktemp("latents"), autoencoder)
    return {"online": "shapes", "cached": cache}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, autoencoder, sources) -> dict[str, Path]:
    """Runs of six steps that nothing stopped, by their data: encoding online, and from a cache."""
    folder = tmp_path_factory.mktemp("whole")
    for name, source in sources.items():
        train(transformer_run(folder / name, autoencoder, source))
    return {name: folder / name for name in sources}


@pytest.mark.parametrize("data", ["online", "cached"])
def test_stopped_by_a_signal_and_resumed_equals_never_stopped(
    whole, autoencoder, sources, tmp_path, monkeypatch, capsys, data
):
    out, steps = tmp_path / "run", []

    def update_and_signal(average, model, step, *rest):
        steps.append(step)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        update_average(average, model, step, *rest)

    monkeypatch.setattr(dit.train, "update_average", update_and_signal)
    with pytest.raises(Stopped):
        train(transformer_run(out, autoencoder, sources[data]))
    assert newest_step(out) == 3 and not (out / TRANSFORMER).exists()
    assert "validation" not in str(rows(out))  # what is due at the step is done when the run goes on
    assert "stopped at step 3" in capsys.readouterr().err
    train(transformer_run(out, autoencoder, sources[data]))
    assert steps == [1, 2, 3, 4, 5, 6]
    assert_same_run(out, whole[data])


def test_a_signal_while_a_resumed_run_draws_its_first_picture_ends_it_after_the_next_step(
    whole, autoencoder, sources, tmp_path, monkeypatch, capsys
):
    out, show_samples = tmp_path / "run", dit.train.show_samples

    def update_and_signal(*arguments):
        if arguments[2] == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        update_average(*arguments)

    def show_and_signal(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        show_samples(*arguments)

    with monkeypatch.context() as first:
        first.setattr(dit.train, "update_average", update_and_signal)
        with pytest.raises(Stopped):
            train(transformer_run(out, autoencoder, sources["cached"]))
    assert newest_step(out) == 3 and "validation" not in str(rows(out))
    with monkeypatch.context() as second:
        second.setattr(dit.train, "show_samples", show_and_signal)
        with pytest.raises(Stopped):
            train(transformer_run(out, autoencoder, sources["cached"]))
    assert newest_step(out) == 4 and "stopped at step 4" in capsys.readouterr().err
    assert [row["step"] for row in rows(out) if "validation" in row] == [3]
    train(transformer_run(out, autoencoder, sources["cached"]))
    assert_same_run(out, whole["cached"])


@pytest.mark.parametrize("data", ["online", "cached"])
def test_three_steps_made_six_equal_six(whole, autoencoder, sources, tmp_path, data):
    out = tmp_path / "run"
    train(transformer_run(out, autoencoder, sources[data], steps=3))
    assert load_model(str(out), torch.device("cpu"), torch.float32).facts["step"] == 3
    train(transformer_run(out, autoencoder, sources[data], steps=6))
    assert_same_run(out, whole[data])
    ours, others = load_weights(out / TRANSFORMER)[0], load_weights(whole[data] / TRANSFORMER)[0]
    assert all(torch.equal(ours[name], tensor) for name, tensor in others.items())


def test_the_finished_weights_are_the_average(whole):
    finished, average = (
        load_weights(file)[0]
        for file in (whole["online"] / TRANSFORMER, whole["online"] / "step-00000006" / AVERAGE)
    )
    weights = load_weights(whole["online"] / "step-00000006" / "model.safetensors")[0]
    assert all(torch.equal(finished[name], tensor) for name, tensor in average.items())
    assert not torch.equal(finished["transformer.proj_out.weight"], weights["transformer.proj_out.weight"])


@pytest.mark.long
def test_killed_and_resumed_equals_never_stopped(autoencoder, sources, tmp_path):
    config = transformer_run(
        tmp_path / "run", autoencoder, sources["cached"], steps=400, save_every=1, show_every=400
    )
    file = write_config(tmp_path / "killed.py", config)
    process = subprocess.Popen(
        command("dit.train", file), cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL
    )
    while newest_step(config.out) < 5 and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    steps = newest_step(config.out) + 3
    assert 8 <= steps < 400
    again = replace(config, train=replace(config.train, steps=steps, show_every=100))
    train(again)
    train(replace(again, out=str(tmp_path / "other")))
    assert not list((tmp_path / "run").rglob(".*"))
    assert_same_run(config.out, tmp_path / "other")


@pytest.mark.long
def test_two_processes_equal_one(whole, autoencoder, sources, tmp_path):
    out = tmp_path / "run"
    config = write_config(tmp_path / "two.py", transformer_run(out, autoencoder, sources["cached"]))
    done = launch("dit.train", config, processes=2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert largest_difference(out, whole["cached"]) < 1e-5
    for one, two in zip(rows(out), rows(whole["cached"]), strict=True):
        assert one == pytest.approx(two, rel=1e-5)
    # A check that fails on the first process alone ends the other too.
    done = launch("dit.train", config, "--flow.shift", "1.0", processes=2)
    assert done.returncode != 0
    assert "holds a run with flow.shift = 3.0, not 1.0" in done.stderr


@pytest.mark.parametrize(
    "packing", [{"pack_tokens": 8}, {"pack_tokens": 17, "round_tokens": 5}, {"tokens": 32}]
)
def test_a_step_in_packs_of_any_size_is_the_step(whole, autoencoder, sources, tmp_path, packing):
    """Four samples of eight tokens: in packs of one, of two with padding, and as a budget of tokens."""
    config = transformer_run(tmp_path / "run", autoencoder, sources["cached"], **packing)
    train(config)
    assert largest_difference(config.out, whole["cached"]) < 1e-5
    losses = [[row["loss"] for row in rows(out) if "loss" in row] for out in (config.out, whole["cached"])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.long
def test_a_signal_that_one_process_has_stops_all_within_seconds(autoencoder, sources, tmp_path):
    """However far the next line of the log is, and all at one step."""
    out = tmp_path / "run"
    run = transformer_run(out, autoencoder, sources["cached"], steps=10**6, log_every=10**6)
    run = replace(run, train=replace(run.train, save_every=10**6, show_every=10**6))
    words = command("dit.train", write_config(tmp_path / "two.py", run), processes=2)
    launcher = subprocess.Popen(words, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)
    while not (out / "log.jsonl").is_file() or not rows(out):
        assert launcher.poll() is None
        time.sleep(0.1)
    workers = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    (second,) = (w for w in workers if b"\0RANK=1\0" in Path(f"/proc/{w}/environ").read_bytes())
    os.kill(int(second), signal.SIGTERM)
    _, said = launcher.communicate(timeout=60)
    assert launcher.returncode != 0 and newest_step(out) > 1
    assert f"stopped at step {newest_step(out)}" in said


def test_a_finished_run_does_nothing_and_says_so(whole, autoencoder, capsys):
    out = whole["online"]
    files = {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.name != "run.json"}
    train(transformer_run(out, autoencoder))
    assert "finished at step 6: nothing to do" in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.name != "run.json"} == files


def test_changed_settings_are_refused_by_name(whole, autoencoder):
    config = transformer_run(whole["online"], autoencoder)
    with pytest.raises(ValueError, match=r"holds a run with flow.shift = 3.0, not 1.0"):
        train(replace(config, flow=replace(config.flow, shift=1.0)))
    with pytest.raises(ValueError, match="holds a run with new_latents = False, not True"):
        train(replace(config, new_latents=True))


def test_a_run_keeps_its_own_autoencoder(whole, autoencoder, tmp_path):
    copy = tmp_path / "autoencoder.safetensors"
    copy.write_bytes(autoencoder.read_bytes())
    out = tmp_path / "run"
    train(transformer_run(out, copy, steps=3))
    tensors, header = load_weights(copy)
    save_weights(copy, {name: tensor * 2 for name, tensor in tensors.items()}, "autoencoder", header.settings)
    train(transformer_run(out, copy, steps=6))
    kept = load_weights(out / "autoencoder.safetensors")[0]
    assert all(torch.equal(kept[name], tensor) for name, tensor in tensors.items())
    now, before = state(out), state(whole["online"])
    assert all(torch.equal(now[name], tensor) for name, tensor in before.items())


def test_every_file_carries_the_complete_config(whole, autoencoder, sources):
    weights = [*whole["cached"].glob("step-*/*.safetensors"), whole["cached"] / TRANSFORMER]
    assert len(weights) == 7
    for file in weights:
        assert from_json(TransformerRun, read_header(file, *TRANSFORMERS).settings) == transformer_run(
            whole["cached"], autoencoder, sources["cached"]
        )
    suffixes = {file.suffix for file in whole["cached"].rglob("*") if file.is_file()}
    assert suffixes == {".safetensors", ".json", ".jsonl", ".png"}


@pytest.mark.long
def test_it_learns_one_clip_by_heart(autoencoder, tmp_path):
    cache = cache_of(1, tmp_path / "latents", autoencoder)
    loop = {"steps": 250, "batch": 16, "log_every": 50, "save_every": 250, "show_every": 250}
    config = transformer_run(tmp_path / "run", autoencoder, cache, **loop)
    config = replace(
        config,
        model=replace(config.model, width=64, mlp_width=128),
        flow=FlowConfig(shift=1.0, shift_tokens=0, prompt_dropout=0.0, tasks=TaskWeights(first=0.0)),
        optimizer=OptimizerConfig(learning_rate=5e-3, warmup_steps=10, ema_decay=0.99),
    )
    train(config)
    losses = [row for row in rows(config.out) if "loss" in row]
    data, _ = open_cached(load_cache(cache), config.data, 0, 1, load_autoencoder(autoencoder), False)
    mean = data[0].posterior[0]
    assert losses[0]["loss"] == pytest.approx(1 + mean.square().mean().item(), rel=0.15)
    assert losses[-1]["smoothed"] < 0.5 * losses[0]["loss"]


def test_fine_tuning_starts_from_the_weights_of_init(whole, autoencoder, tmp_path):
    config = transformer_run(tmp_path / "run", autoencoder, steps=1)
    still = replace(config, init=str(whole["online"]), optimizer=OptimizerConfig(learning_rate=0.0))
    train(still)
    start, kept = load_weights(whole["online"] / TRANSFORMER)[0], state(still.out)
    assert all(torch.equal(kept[f"model/{name}"], tensor) for name, tensor in start.items())
    deeper = replace(still, out=str(tmp_path / "deeper"), model=replace(still.model, depth=2))
    with pytest.raises(ValueError, match=r"transformer.safetensors does not fit .*blocks\.1\.\S+ is missing"):
        train(deeper)
    assert not Path(deeper.out).exists()


def test_a_run_goes_on_without_the_weights_it_started_from(whole, autoencoder, tmp_path):
    init = tmp_path / "init"
    shutil.copytree(whole["online"], init)
    config = replace(transformer_run(tmp_path / "run", autoencoder, steps=1), init=str(init))
    train(config)
    shutil.rmtree(init)
    train(replace(config, train=replace(config.train, steps=2)))
    assert newest_step(config.out) == 2


def test_the_average_leaves_alone_what_is_frozen():
    model, average = (torch.nn.Linear(2, 2) for _ in range(2))
    model.bias.requires_grad_(False)
    weight, bias = average.weight.detach().clone(), average.bias.detach().clone()
    update_average(average, model, 10, 0.9, torch.tensor(False))
    assert torch.equal(average.bias, bias)
    torch.testing.assert_close(average.weight, weight.lerp(model.weight, 1 - 11 / 20))


def test_bf16_computes_near_fp32_and_keeps_fp32_weights(whole, autoencoder, tmp_path):
    config = transformer_run(tmp_path / "run", autoencoder, precision="bf16")
    train(config)
    tensors = state(config.out)
    assert {tensor.dtype for name, tensor in tensors.items() if "/" in name} == {torch.float32}
    ours = [row["loss"] for row in rows(config.out) if "loss" in row]
    others = [row["loss"] for row in rows(whole["online"]) if "loss" in row]
    assert ours == pytest.approx(others, rel=0.02) and ours != others


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_ranks_share_the_batches_of_one_process(ranks):
    data, _ = open_data(transformer_run("", "").data, 0, 1, Compression())
    whole = [[clip.source for clip in clips] for clips in batches(data, shares_of(4, 2, 4, 0, 1), 0)]
    parts = [list(batches(data, shares_of(4, 2, 4, rank, ranks), 0)) for rank in range(ranks)]
    assert whole == [[f"scene {draw}" for draw in range(8, 12)], [f"scene {draw}" for draw in range(12, 16)]]
    for step, sources in enumerate(whole):
        shares = [[clip.source for clip in part[step]] for part in parts]
        assert [shares[k % ranks][k // ranks] for k in range(4)] == sources


def test_clips_of_one_shape_are_encoded_together_and_each_as_it_would_be_alone(autoencoder):
    """To the bit, so that neither the number of processes nor a neighbour changes a latent."""
    model, random = load_autoencoder(autoencoder), torch.Generator().manual_seed(0)
    sizes = [(5, 32, 32), (1, 32, 32), (5, 16, 48), (5, 32, 32), (1, 32, 32)]
    videos = [torch.rand(3, *size, generator=random) * 2 - 1 for size in sizes]
    clips = [Clip(video, "", "", draw=draw) for draw, video in enumerate(videos)]
    cached = Clip(None, "", "", posterior=(torch.ones(4, 2, 4, 4), torch.zeros(4, 2, 4, 4)), draw=5)
    every = [*clips, cached]
    noises = [torch.randn(latent_shape(clip, model), generator=random) for clip in every]
    for k, (drawn, mean) in enumerate(zip(model.latents(every, noises), model.latents(every), strict=True)):
        assert torch.equal(drawn, model.latents(every[k : k + 1], noises[k : k + 1])[0])
        assert torch.equal(mean, model.latents(every[k : k + 1])[0])
    calls = []
    model.encode, whole = lambda video: calls.append(tuple(video.shape)) or whole(video), model.encode
    model.latents(clips)
    assert sorted(calls) == [(1, 3, 1, 32, 32), (1, 3, 1, 32, 32), (1, 3, 5, 16, 48), (2, 3, 5, 32, 32)]


def test_the_first_loss_is_one_and_the_latents_variance_and_says_so(whole, autoencoder):
    assert check_first_loss(2.02, 1.01, 2048).endswith(": good")
    assert "WARNING" in check_first_loss(1.2, 1.01, 2048) and "target" in check_first_loss(1.2, 1.01, 2048)
    assert "latent statistics" in check_first_loss(10.0, 9.0, 2048)
    assert "WARNING" not in check_first_loss(1.2, 1.0, 64)
    config = transformer_run("", autoencoder)
    data, _ = open_data(config.data, config.train.seed, 1, Compression())
    clips = [data[draw] for draw in range(config.train.batch)]
    variance = torch.cat([z.flatten() for z in load_autoencoder(autoencoder).latents(clips)]).square().mean()
    assert rows(whole["online"])[0]["loss"] == pytest.approx(1 + variance.item(), rel=0.15)


def test_validation_has_one_noise_for_ever_and_is_the_same_on_any_number_of_processes(autoencoder):
    config = transformer_run("", autoencoder)
    model = load_autoencoder(autoencoder)
    _, held_out = open_data(config.data, 0, 4, Compression())

    def batches(rank: int = 0, ranks: int = 1, pack_tokens: int = 0) -> list:
        capped = replace(config, train=replace(config.train, pack_tokens=pack_tokens))
        packs = validation_packs(held_out, model, capped, session(Path(), rank, ranks))
        return [(part, make_batch(*pair)) for part, pairs in packs.items() for pair in pairs]

    whole = batches()
    assert all(torch.equal(one[1].tokens, two[1].tokens) for one, two in zip(whole, batches(), strict=True))
    assert [len(batch.tokens) for _, batch in batches(pack_tokens=17)] == [16] * len(whole) * 2
    shares = [batches(rank, 2) for rank in (0, 1)]
    of_parts = [f"t{t}" for t in dit.train.VALIDATION_TIMES] + ["first"]
    assert {part for part, _ in whole} == set(of_parts)
    for name in of_parts:
        total = torch.cat([batch.target for part, batch in whole if part == name])
        parts = torch.cat([batch.target for share in shares for part, batch in share if part == name])
        assert total.shape == parts.shape
        torch.testing.assert_close(total.square().mean(), parts.square().mean())
        assert total.square().mean().item() == pytest.approx(2, abs=0.4)


@pytest.mark.parametrize("prompts", [(), ("one", "two", "three")])
@pytest.mark.parametrize("seed", [0, 7])
def test_each_picture_has_its_clip_s_shape_and_its_own_seed(
    autoencoder, tmp_path, monkeypatch, prompts, seed
):
    config = transformer_run("", autoencoder)
    config = replace(config, prompts=prompts, sampler=replace(config.sampler, seed=seed))
    sizes = [(5, 32, 32), (5, 16, 48), (1, 32, 32), (5, 32, 32)]
    held_out = [Clip(torch.zeros(3, *size), f"clip {k}", "") for k, size in enumerate(sizes)]
    asked, sheets = [], []

    def note(average, group, *rest):
        asked.extend(group)
        assert len({request.shape for request in group}) == 1, "one shift of the times in a call"
        return generate(average, group, *rest)

    monkeypatch.setattr(dit.train, "generate", note)
    monkeypatch.setattr(
        dit.train, "contact_sheet", lambda videos, captions, _: sheets.append((videos, captions))
    )
    model = load_autoencoder(autoencoder)
    dit.train.show_samples(random_denoiser(config), model, config, held_out, session(tmp_path), 1)
    ((videos, captions),) = sheets
    wanted = [sizes[0]] * 3 if prompts else sizes
    if not prompts:  # below each is the clip itself
        assert captions[1::2] == ["the clip itself"] * 4
        assert all(torch.equal(video, clip.video) for video, clip in zip(videos[1::2], held_out, strict=True))
        videos, captions = videos[::2], captions[::2]
    assert captions == list(prompts or [f"clip {k}" for k in range(4)])
    assert [tuple(video.shape[1:]) for video in videos] == wanted
    by_prompt = {request.condition.prompt: request.seed for request in asked}
    assert [by_prompt[caption] for caption in captions] == [seed + k for k in range(len(captions))]


def test_a_task_is_validated_by_itself_on_what_it_does_not_give(autoencoder):
    """Of zeros for a prediction, the loss is the mean square of the target's tokens outside the task."""
    config = transformer_run("", autoencoder)
    config = replace(config, flow=FlowConfig(tasks=TaskWeights(first=0.0, suffix=1.0, middle_missing=1.0)))
    model, run = load_autoencoder(autoencoder), session(Path(), 0, 1)
    _, held_out = open_data(config.data, 0, 4, Compression())
    packs = validation_packs([held_out[draw] for draw in range(4)], model, config, run)
    row = validate(lambda tokens, *_: torch.zeros_like(tokens), packs, run)
    times = [f"validation_t{t}" for t in dit.train.VALIDATION_TIMES]
    assert [*row] == ["validation", *times, "validation_suffix"]  # two latent frames have no middle
    ((latents, pack),) = packs["suffix"]
    target = (pack.noise_LP - torch.cat([patchify(z)[0] for z in latents])).unflatten(0, (4, 2, 4))
    assert row["validation_suffix"] == pytest.approx(target[:, 0].square().mean().item(), rel=1e-5)
    assert len(pack.times_M.unique()) == 5  # t = 0, and a bin each of the four clips
