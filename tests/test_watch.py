"""Proves what a run says of itself: FLOPs against a counter, goodput against a closed form, its start."""

import json
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

import dit.train
import vae.training.session as session
from configs.load import to_json
from configs.train import TaskWeights
from dit.bench.flops import step_flops
from dit.condition import Condition
from dit.load import Denoiser
from dit.loss import SampleDraw, draw_pack, draw_validation, flow_loss, make_batch
from dit.steps import draw_steps
from dit.times import VALIDATION_TIMES
from tests.test_bench import count_flops
from tests.tiny import (
    MODEL,
    autoencoder_run,
    fresh_accelerator,  # noqa: F401
    load_checkpoint,
    rows,
    state,
    transformer_run,
)
from vae.cache.clips import open_clips
from vae.interface import Statistics
from vae.load import load_autoencoder
from vae.model import Autoencoder
from vae.training.checkpoints import checkpoints
from vae.training.log import add_start, live_line, read_log
from vae.training.processes import COUNTS, check_launched
from vae.training.session import Session
from vae.training.weights import save_weights

CPU = torch.device("cpu")


@pytest.fixture
def autoencoder(tmp_path):
    torch.manual_seed(0)
    model = Autoencoder(MODEL)
    model.set_statistics(Statistics((0.0,) * 4, (1.0,) * 4))
    file = tmp_path / "autoencoder.safetensors"
    save_weights(file, model.state_dict(), "autoencoder", {"model": to_json(MODEL)})
    return file


def test_a_step_s_flops_are_three_times_those_counted_in_its_forward_pass(autoencoder):
    """Also of first frames with a time of their own; padding is computed, and is no work of the model's."""
    config = transformer_run("", autoencoder)
    config = replace(config, flow=replace(config.flow, tasks=TaskWeights(none=0.5, first=0.5)))
    codec, model = load_autoencoder(autoencoder), Denoiser(config.model, config.text)
    data, _ = open_clips(config.data, 0, 2, codec, False, {})
    clips = [data[k] for k in range(8)]
    shares = []
    for padded in (0, 512):
        settings = replace(config, train=replace(config.train, round_tokens=padded))
        steps = [([[k] for k in range(8)], clips)]  # packs of one text each, which no call pads
        shares += draw_steps(steps, settings, codec, model.read, CPU)
    counted, pairs = 0, []
    for pack in shares[0].packs:
        batch = pack.batch(codec, CPU)
        embeddings, lengths = model.text(batch.text)

        def forward(batch=batch, embeddings=embeddings, lengths=lengths):
            flow_loss(
                model,
                replace(
                    batch, text=model.transformer.remember(model.transformer.embed_text(embeddings, lengths))
                ),
            )

        counted += 3 * count_flops(forward)
        pairs.append(batch.layout.pairs)
    assert set(pairs) == {1, 2}, "some first frames are given"
    assert shares[0].flops(config.model, 1) == counted == 2 * shares[0].flops(config.model, 2)
    assert shares[1].flops(config.model, 1) == counted < 3 * step_flops(config.model, [512] * 8, [0] * 8, 0)


def test_goodput_and_the_time_left_are_those_of_a_clock_s_closed_form(tmp_path, monkeypatch):
    """A start takes 10 seconds, a step 2 of which 0.5 wait for data, and what follows each step 1."""
    now = [100.0]
    monkeypatch.setattr(session.time, "monotonic", lambda: now[0])
    config = autoencoder_run(tmp_path / "run", steps=6, batch=2, log_every=2)

    def batches():
        for _ in range(6):
            now[0] += 0.5
            yield []

    with Session(config, "autoencoder", "autoencoder.safetensors") as run:
        now[0] += 10
        run.begin(torch.nn.Linear(1, 1), [], [], dict, matmul_peak=1000.0)
        for step, _ in run.steps(batches()):
            now[0] += 1.5
            run.check_step(step, torch.tensor(1.0), torch.tensor(1.0))
            run.end_step(step, {"samples": 2, "model_flops": 600.0}, gradient_norm=1.0)
            now[0] += 1.0
    log = list(read_log(tmp_path / "run" / "log.jsonl"))
    assert [row["step"] for row in log] == [1, 2, 4, 6]
    for row in log:
        n = row["step"]
        assert row["goodput"] == pytest.approx(2 * n / (10 + 2 * n + n - 1))
        assert row["seconds_left"] == pytest.approx((6 - n) * (3 * n - 1) / n)
        assert (row["samples_per_second"], row["model_flops"]) == (1.0, 300.0)
        assert (row["mfu"], row["waited"]) == (0.3, 0.25)


def test_a_run_says_what_it_runs_on(autoencoder, tmp_path, capsys):
    config = transformer_run(tmp_path / "run", autoencoder, steps=2, show_every=2, save_every=2)
    dit.train.train(config)
    line = next(text for text in capsys.readouterr().err.splitlines() if text.startswith("begins: "))
    assert "on cpu in 1 process, fp32, attention sdpa, 32 tokens a step, 1 pack a step, matmul peak" in line
    (start,) = map(json.loads, (tmp_path / "run" / "starts.jsonl").read_text().splitlines())
    assert start["step"] == 0 and start["processes"] == 1 and start["precision"] == "fp32"
    assert start["tokens_per_step"] == 32 and start["packs_per_step"] == 1
    assert start["matmul_peak"] > 1e8 and start["versions"]["torch"] == torch.__version__
    row = next(row for row in list(read_log(tmp_path / "run" / "log.jsonl")) if "loss" in row)
    assert row["mfu"] == pytest.approx(row["model_flops"] / start["matmul_peak"]) and 0 < row["mfu"] < 1


def test_code_that_nobody_installed_trains_too(tmp_path, monkeypatch):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("vae.training.log.version", version)
    add_start(tmp_path, 0, 1, torch.device("cpu"), {"precision": "fp32"})
    assert json.loads((tmp_path / "starts.jsonl").read_text())["code"] == "not installed"


def test_the_live_line_fits_a_hundred_columns():
    row = {"loss": 1.23456, "smoothed": 1.34567, "gradient_norm": 10.123, "tokens_per_second": 1234567.8}
    line = live_line(row | {"waited": 0.031, "mfu": 0.4123}, {})
    assert line == "loss 1.23 (1.35), gradient 10.1, 1.23 Mtokens/s, wait 3 %, MFU 41 %"
    assert len(f"step 12345/20000, {line}, 12:34:56 left") <= 100


def test_one_process_of_several_that_were_asked_for_is_refused(monkeypatch, tmp_path):
    """The environment of `accelerate launch` itself, in the forms that start one process and in those that
    start them all."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env

    config = tmp_path / "cpu.yaml"
    config.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_CPU\nuse_cpu: true\nnum_processes: 2\n"
        "num_machines: 1\nmachine_rank: 0\nmixed_precision: 'no'\n"
    )
    for name in (*COUNTS, "MASTER_ADDR", "ACCELERATE_DYNAMO_MODE"):
        monkeypatch.delenv(name, raising=False)

    def check(*words: str, number: int | None = None) -> None:
        arguments = launch_command_parser().parse_args([*words, "-m", "dit.train"])
        arguments, *_ = _validate_launch_command(arguments)
        if arguments.multi_gpu:
            environment = prepare_multi_gpu_env(arguments)
        else:
            environment = prepare_simple_launcher_cmd_env(arguments)[1]
        with monkeypatch.context() as patched:
            for name, value in environment.items():
                patched.setenv(name, value)
            if number:  # what torchrun, which it then goes through, tells each
                patched.setenv("WORLD_SIZE", str(number))
                patched.setenv("MASTER_ADDR", "127.0.0.1")
            check_launched()

    check_launched()
    check("--cpu", "--num_processes", "1")
    check("--multi_gpu", "--num_processes", "2", number=2)
    for words in (["--cpu", "--num_processes", "2"], ["--config_file", str(config)]):
        with pytest.raises(ValueError, match="has started one: give it --multi_gpu"):
            check(*words)


def test_weights_and_their_average_are_validated_and_keep_their_bits(autoencoder, tmp_path, monkeypatch):
    """Against every held-out clip by itself, in the networks that a checkpoint keeps."""
    monkeypatch.setattr(dit.train, "HELD_OUT", 6)
    monkeypatch.setattr(session, "draw_curve", lambda *_: None)
    config = transformer_run(tmp_path / "run", autoencoder, steps=3, show_every=2, save_every=3, batch=4)
    config = replace(config, optimizer=replace(config.optimizer, learning_rate=0.01, warmup_steps=0))
    dit.train.train(config)
    quiet = replace(config, out=str(tmp_path / "quiet"), train=replace(config.train, show_every=100))
    dit.train.train(quiet)
    one, two = state(config.out), state(quiet.out)
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)

    codec, row = load_autoencoder(autoencoder), [r for r in rows(config.out) if "validation" in r][-1]
    _, held_out = open_clips(config.data, config.train.seed, dit.train.HELD_OUT, codec, False, {})
    _, parts = load_checkpoint(checkpoints(Path(config.out))[-1], "transformer")
    for name, key in {"average": "validation", "model": "validation_weights"}.items():
        network = Denoiser(config.model, config.text)
        network.load_state_dict(parts[name])
        found = []
        for time in VALIDATION_TIMES:
            errors, tokens = 0.0, 0
            for number in range(min(dit.train.HELD_OUT, len(held_out))):
                clip = held_out[number]
                (z,) = codec.latents([clip])
                noise = draw_validation(z.shape, clip, time, config.train.seed).noise_CTHW
                alone = SampleDraw(noise, torch.tensor([time]), Condition(clip.caption))
                batch = make_batch([z], draw_pack([alone], config.model.width // config.model.heads))
                with torch.no_grad():
                    errors += flow_loss(network, batch).item()
                tokens += batch.tokens.shape[0]
            found.append(errors / tokens)
            assert row[f"{key}_t{time}"] == pytest.approx(found[-1], rel=1e-5)
        assert row[key] == pytest.approx(sum(found) / len(found), rel=1e-5)
    assert abs(row["validation"] - row["validation_weights"]) > 1e-3, "two networks"
