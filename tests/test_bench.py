"""Proves that `dit bench` and `dit doctor` tell the truth, and that the model's shortcuts change nothing."""

import copy
import importlib.metadata
import importlib.util
import json
import math
import mmap
import resource
import sys
import weakref
from dataclasses import replace
from time import perf_counter
from types import SimpleNamespace

import pytest
import torch

from configs.model import AutoencoderConfig, TransformerConfig
from configs.train import OptimizerConfig, TransformerRun
from dit import doctor
from dit.bench import autoencoder as bench_vae
from dit.bench import measure
from dit.bench import transformer as bench
from dit.bench.flops import step_flops, text_flops, training_flops
from dit.bench.transformer import BenchSettings
from dit.blocks import why_not_compiled
from dit.cli import run
from dit.model import norm_and_rotate
from dit.pack import make_layout
from vae.compression import PATCH
from vae.data.write import write_video
from vae.quality.networks import NETWORKS
from vae.training.seeds import normal

TINY = TransformerConfig(width=48, depth=2, heads=2, mlp_width=80, text_width=20, time_frequencies=32)
CPU = torch.device("cpu")
GRIDS = [(3, 2, 4), (1, 3, 2), (1, 3, 2)]


def count_flops(call) -> int:
    """What PyTorch counts in a call, and the CPU's flash attention, which it leaves out, by the same rule."""
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def forward(q, k, v, *_, **__) -> int:
        return sdpa_flop_count(q, k, v)

    def backward(_, q, k, v, *__, **___) -> int:
        return 2 * sdpa_flop_count(q, k, v)

    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    with FlopCounterMode(display=False, custom_mapping={flash: forward, flash_backward: backward}) as counter:
        call()
    return counter.get_total_flops()


@pytest.fixture
def model():
    """A tiny transformer with random weights."""
    return bench.random_model(TINY, CPU)


def evaluate(model, pack):
    """Velocities in fp32."""
    with torch.no_grad():
        return bench.forward(model, pack, torch.float32)


def test_formula_counts_what_pytorch_counts(model):
    pack = bench.make_pack(TINY, GRIDS, 5, CPU)
    tokens, text, pairs = [math.prod(grid) for grid in GRIDS], [5, 5, 5], pack.layout.pairs
    embedded = model.remember(model.embed_text(pack.text, text))
    assert count_flops(lambda: model.remember(model.embed_text(pack.text, text))) == text_flops(TINY, 15)
    step = count_flops(lambda: model(pack.tokens, pack.times, embedded, pack.layout))
    assert step == step_flops(TINY, tokens, text, pairs)
    both = count_flops(lambda: bench.forward(model, pack, torch.float32).square().mean().backward())
    patch = TINY.latent_channels * math.prod(PATCH)
    inputs = sum(tokens) * patch + 15 * TINY.text_width + pairs * TINY.time_frequencies
    no_gradient_of_inputs = 2 * TINY.width * inputs
    assert both == training_flops(TINY, tokens, text, pairs) - no_gradient_of_inputs


def test_sides_take_turns_and_medians():
    now, order = [0.0], []
    durations = {"a": iter([9, 1, 50, 2]), "b": iter([9, 7, 5, 6])}  # the first is the warm-up

    def side(name):
        order.append(name)
        now[0] += next(durations[name])

    calls = {"a": lambda: side("a"), "b": lambda: side("b")}
    assert measure.medians_in_turn(calls, 3, lambda: now[0]) == {"a": 2, "b": 6}
    assert order == ["a", "b"] * 4


def test_padded_side_does_the_same_work(model):
    pack = bench.make_pack(TINY, GRIDS, 5, CPU)
    other, attention, real = bench.padded(pack)
    packed = evaluate(model, pack)
    masked = copy.copy(model)
    masked.self_attention = attention
    assert len(other.tokens) == 3 * 24 and real.sum() == 36
    assert measure.largest_difference(evaluate(masked, other)[real], packed) < 1e-5
    filled = replace(other, tokens=torch.where(real[:, None], other.tokens, 100.0))
    assert measure.largest_difference(evaluate(masked, filled)[real], packed) < 1e-5
    assert (
        measure.largest_difference(evaluate(model, filled)[real], packed) > 1e-3
    )  # without the mask it shows


def test_sampling_step_is_a_guided_euler_step(model):
    pack = bench.make_pack(TINY, [GRIDS[0]], 5, CPU, copies=2)
    texts = pack.text.chunk(2)
    alone = bench.make_pack(TINY, [GRIDS[0]], 5, CPU)
    prompt, null = (evaluate(model, replace(alone, text=text)) for text in texts)
    expected = alone.tokens - 0.05 * (null + bench.GUIDANCE * (prompt - null))
    torch.testing.assert_close(bench.sampling_step(model, pack)(), expected, rtol=1e-5, atol=1e-5)


def test_training_step_is_one_of_adamw(model):
    pack = bench.make_pack(TINY, GRIDS, 5, CPU)
    before = copy.deepcopy(model)
    step = bench.training_step(model, pack, OptimizerConfig(), "fp32")
    target = normal(pack.tokens.shape, "target")
    (bench.forward(before, pack, torch.float32) - target).square().mean().backward()
    step()
    rate, checked = OptimizerConfig().learning_rate, 0
    for name, parameter in model.named_parameters():
        old = before.get_parameter(name)
        sure = old.grad.abs() > 1e-6  # the first step of Adam goes by the sign of the gradient alone
        moved = (old - parameter)[sure] / rate
        torch.testing.assert_close(moved, old.grad[sure].sign(), rtol=0, atol=0.05, msg=name)
        checked += int(sure.sum())
    assert checked > sum(parameter.numel() for parameter in model.parameters()) / 2


def test_peak_memory_sees_what_a_call_holds():
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux forgets an earlier peak of a process")

    def hold(mebibytes: int) -> None:  # new pages, whatever the C library keeps of earlier tests
        with mmap.mmap(-1, mebibytes << 20) as memory:
            for _ in range(mebibytes):
                memory.write(b"\1" * (1 << 20))

    hold(400)  # an earlier peak
    little = measure.peak_memory(lambda: hold(1), CPU)
    much = measure.peak_memory(lambda: hold(200), CPU)
    assert 195 * 2**20 < much - little < 260 * 2**20


def test_peak_memory_without_a_way_to_forget_is_that_since_the_start(monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "RESET_PEAK", tmp_path / "nowhere" / "clear_refs")
    held = measure.peak_memory(lambda: torch.ones(1).sum(), CPU)
    unit = 1 if sys.platform == "darwin" else 1024
    assert held == unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_a_row_s_memory_holds_no_other_row_s_model(monkeypatch):
    models = []

    def make(*arguments):
        assert all(model() is None for model in models)
        model = random_model(*arguments)
        models.append(weakref.ref(model))
        return model

    random_model = bench.random_model
    monkeypatch.setattr(bench, "random_model", make)
    monkeypatch.setattr(measure, "matmul_peak", lambda *_: 2e9)
    settings = BenchSettings(text_tokens=5, repeats=1)
    rows = list(bench.measure_model(TransformerRun(model=TINY), (1, 2, 2), settings, CPU, perf_counter))
    assert len(rows) == len(models) == 4


def test_one_row_per_run_equals_one_row_per_token(model):
    pack = bench.make_pack(TINY, GRIDS, 5, CPU)
    first_frame = torch.full((24,), 0.7)
    first_frame[:8] = 0.0
    rest = [torch.tensor([0.5]), torch.tensor([0.5])]
    cases = {  # the first sample's times, and the longest run that divides all runs of one time
        "one time each": (torch.tensor([0.2]), 6),
        "first frame given": (first_frame, 2),
        "scattered": (torch.arange(24) % 3 / 3, 1),
    }
    for name, (time, run_length) in cases.items():
        layout, distinct = make_layout(GRIDS, [time, *rest], 24, CPU)
        assert layout.run_length == run_length, name
        by_token = replace(layout, run_length=1, rows=layout.rows.repeat_interleave(layout.run_length))
        fast = evaluate(model, replace(pack, times=distinct, layout=layout))
        slow = evaluate(model, replace(pack, times=distinct, layout=by_token))
        assert measure.largest_difference(fast, slow) < 1e-6, name


def test_own_gradient_of_norm_and_rotary_is_autograds(monkeypatch):
    layout, _ = make_layout(GRIDS, [torch.tensor([0.5])] * 3, 24, CPU)
    x, weight = torch.randn(36, 3, 2, 24, requires_grad=True), torch.randn(2, 2, 24, requires_grad=True)
    upstream = torch.randn(36, 2, 2, 24)

    def run():
        y = norm_and_rotate(x[:, :2], weight, layout, 0.1)
        return [y, *torch.autograd.grad(y, (x, weight), upstream)]

    ours = run()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # takes the plain formula
    for one, other in zip(ours, run(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_bench_prints_what_it_measures(tmp_path, capsys, monkeypatch):
    pytest.importorskip("diffusers", reason="the comparison needs diffusers")
    monkeypatch.setattr(bench, "MIXED", {"two sizes": GRIDS, "one": [(1, 2, 2)] * 2})
    monkeypatch.setattr(measure, "matmul_peak", lambda *_: 2e9)
    config = tmp_path / "tiny.py"
    config.write_text(
        "from configs.train import DataConfig, TransformerConfig, TransformerRun\n"
        f"config = TransformerRun(data=DataConfig(frames=5, size=48), model={TINY!r})\n"
    )
    file = tmp_path / "new" / "figures.json"
    result = bench.bench(BenchSettings(config=str(config), batch=2, text_tokens=5, repeats=1, json=str(file)))
    assert json.loads(file.read_text()) == json.loads(json.dumps(result))
    printed = capsys.readouterr().out
    for part in ("model", "diffusers", "packs"):
        for row in result[part]:
            assert row["what"] in printed
    assert {(row["what"], row["precision"]) for row in result["model"]} == {
        (what, precision) for what in ("training step", "sampling step") for precision in ("fp32", "bf16")
    }
    assert len(result["diffusers"]) == 8 and len(result["packs"]) == 8
    for row in result["model"]:
        assert row["of_peak"] == pytest.approx(row["flops"] / row["seconds"] / 2e9)
        assert row["tokens"] == 2 * 2 * 3 * 3
    for row in result["diffusers"] + result["packs"]:
        assert row["ratio"] == row["ours"] / row["other"]
        assert row["difference"] < (1e-5 if row["what"].endswith(", fp32") else 0.05), row


@pytest.mark.long
def test_compiled_blocks_are_measured_beside_eager_ones_of_the_same_numbers(monkeypatch):
    if reason := why_not_compiled(torch.device("cpu")):
        pytest.skip(reason)
    monkeypatch.setattr(bench, "REFERENCE", TINY)
    monkeypatch.setattr(bench, "REFERENCE_GRID", (2, 3, 3))
    monkeypatch.setattr(bench, "MIXED", {"two sizes": GRIDS})
    settings = BenchSettings(
        parts=("compiled",), precisions=("fp32",), text_tokens=5, repeats=1, device="cpu"
    )
    rows = bench.bench(settings)["compiled"]
    passes = "forward", "forward + backward"
    whats = [f"{pack}, {what}, fp32" for pack in ("one size", "two sizes") for what in passes]
    assert [row["what"] for row in rows] == whats
    assert all(0 < row["difference"] < 1e-5 for row in rows)


def test_diffusers_side_keeps_in_fp32_what_its_loader_keeps(model):
    pytest.importorskip("diffusers", reason="the comparison needs diffusers")
    kept = bench.diffusers_model(model, torch.bfloat16, cast_all=False)
    fp32 = {name for name, parameter in kept.named_parameters() if parameter.dtype == torch.float32}
    assert "blocks.0.norm2.weight" in fp32 and "scale_shift_table" in fp32
    assert "condition_embedder.time_embedder.linear_1.weight" in fp32
    assert not any("attn" in name or "ffn" in name for name in fp32)
    whole = bench.diffusers_model(model, torch.bfloat16, cast_all=True)
    assert {parameter.dtype for parameter in whole.parameters()} == {torch.bfloat16}


def test_bench_refuses_what_it_cannot_measure():
    with pytest.raises(ValueError, match="repeats = 0: it must be at least 1"):
        bench.main(["--repeats", "0"])
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no GPU"):
            bench.bench(BenchSettings(device="cuda"))


def test_doctor_tells_what_is_there_and_what_is_not(capsys, monkeypatch):
    version = importlib.metadata.version

    def without_some(name):
        if name in ("accelerate", "xformers", "pyarrow"):
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without_some)
    doctor.doctor()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["torch", torch.__version__] in [line[:2] for line in lines]
    printed = {" ".join(line) for line in lines}
    assert "accelerate - pip install -e ." in printed
    assert "xformers - optional: pip install -e '.[xformers]'" in printed
    assert "packages missing: accelerate, pyarrow (pip install -e .)" in printed
    assert any(line.startswith("sdpa cpu bf16 works, and is chosen") for line in printed)
    assert any(line.startswith("varlen cpu fp32 no: ") for line in printed)
    assert any(line.startswith("works: an mp4 written and read back") for line in printed)


def test_doctor_without_the_project_s_own_record_still_tries_the_rest(capsys, monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", absent)
    monkeypatch.setattr(doctor, "attention", lambda: [("sdpa", "cpu fp32", "works, and is chosen")])
    monkeypatch.setattr(doctor, "video_round_trip", lambda: "works: says a test")
    doctor.doctor()
    printed = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "- fails PackageNotFoundError: No package metadata was found for dit-lab" in printed
    assert "packages pip install -e . in the repository: this project is not installed" in printed


def test_doctor_calls_nothing_ready_that_does_not_work_here(tmp_path, monkeypatch):
    for name in ("XDG_CACHE_HOME", "HF_HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    for name in NETWORKS.values():
        monkeypatch.delenv(name.variable, raising=False)
    rows = dict(doctor.scores())
    assert {*rows} >= {"FVD", "CLIPSIM", "the Inception score", "aesthetic quality", "LPIPS"}
    assert all(row.startswith("missing: ") for row in rows.values())
    assert "DIT_C3D" in rows["the Inception score"] and "mean2.npz" in rows["the Inception score"]
    (tmp_path / "mine.pt").write_bytes(b"")
    monkeypatch.setenv("DIT_I3D", str(tmp_path / "mine.pt"))
    assert dict(doctor.scores())["FVD"].startswith("weights are there, and `dit eval weights` says")

    def absent(*_):
        raise ValueError("no weights in this installation")

    monkeypatch.setattr("dit.load.load_model", absent)
    told = dict(doctor.features([("torch", "2", "")], [], "works: says a test"))
    assert told["sampling"] == "fails: ValueError: no weights in this installation"
    assert "ready" not in " ".join(told.values())


def test_doctor_survives_what_it_tries(capsys, monkeypatch):
    def broken(*_):
        raise RuntimeError("no such codec")

    monkeypatch.setattr("vae.data.video.ffmpeg", broken)
    monkeypatch.setattr(doctor, "attention", broken)
    monkeypatch.setattr(doctor, "devices", broken)
    doctor.doctor()
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines.count("- fails RuntimeError: no such codec") == 2
    assert "video files fails: RuntimeError: no such codec" in lines


def test_doctor_asks_every_gpu_for_itself(monkeypatch):
    cards = [
        SimpleNamespace(name=f"card {major}", total_memory=2**34, major=major, minor=5) for major in (7, 8)
    ]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda k: cards[k])
    rows = {name: words for _, name, words in doctor.devices()}
    assert rows["card 7"].endswith("no bf16") and rows["card 8"].endswith("8.5, bf16")


def test_doctor_takes_no_settings():
    with pytest.raises(ValueError, match="takes no settings"):
        doctor.main(["--fix"])


def test_bench_vae_compares_equal_work(monkeypatch, tmp_path, capsys):
    tiny = AutoencoderConfig(4, 4, 4, (1, 1, 1, 1), 1)
    monkeypatch.setattr(bench_vae, "SHAPES", {"tiny": tiny})
    file = tmp_path / "vae.json"
    words = ["bench", "vae", "--shapes", "tiny", "--frames", "9", "--size", "32", "--repeats", "1"]
    assert run([*words, "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [row["what"] for row in rows] == [
        f"tiny {way}, {precision}" for precision in ("fp32", "bf16") for way in ("encode", "decode")
    ]
    assert all(row["difference"] < (1e-5 if "fp32" in row["what"] else 0.05) for row in rows)
    for row in rows:  # a stream keeps less than the whole, and its own parts at least
        assert 0 < row["stream_memory"] <= row["memory"] and row["other_memory"] > 0
        assert min(row["ours"], row["stream"], row["other"]) > 0
    assert "tiny decode, bf16" in capsys.readouterr().out
    assert run([*words[:4], "--frames", "8"]) == 1
    assert "8 frames do not fit 1 + 4k" in capsys.readouterr().err


@pytest.mark.long
def test_bench_vae_measures_lengths_and_seams(tmp_path, capsys, monkeypatch):
    torch.manual_seed(0)
    noise = torch.nn.functional.interpolate(
        torch.rand(1, 3, 5, 6, 12) * 2 - 1, (5, 48, 196), mode="trilinear"
    )
    write_video(tmp_path / "clip.mp4", noise[0], 8.0, {})
    write_video(tmp_path / "short.mp4", noise[0, :, :1], 8.0, {})
    file = tmp_path / "vae.json"
    words = ["bench", "vae", "--repeats", "1", "--frames", "5", "--shapes", "tiny", "--precisions", "fp32"]
    where = ["--clips", str(tmp_path), "--tile", "8", "--lengths", "5"]
    assert run([*words, "--parts", "lengths", "seams", *where, "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    ((peak, before),) = figures["lengths"][0]["peaks"].values()
    assert peak > before > 1 << 26  # a process with torch in it
    seams = {row["way"]: row for row in figures["seams"]}
    assert {row["clip"] for row in seams.values()} == {"clip.mp4"}
    assert all(row["size"] == [5, 48, 192] and row["mean"] <= row["largest"] for row in seams.values())
    assert seams["encode"]["largest"] < 1e-4 and seams["decode"]["largest"] < 1e-2
    assert "tiny, fp32: 5 frames" in capsys.readouterr().out
    monkeypatch.setattr("vae.tiles.decoder_halo", lambda model: 0)  # tiles that see too little leave a seam
    assert run([*words, "--parts", "seams", *where, "--json", str(file)]) == 0
    assert json.loads(file.read_text())["seams"][1]["largest"] > 1.0
    capsys.readouterr()
    for wrong, message in (
        (["--parts", "seams"], "needs real clips"),
        (["--lengths", "8"], "8 frames do not fit 1 + 4k"),
        (["--parts", "seams", "--clips", str(tmp_path), "--frames", "9"], "no clip in it has 9 frames"),
    ):
        assert run([*words, *wrong]) == 1
        assert message in capsys.readouterr().err


def test_the_peak_is_what_a_call_holds_at_once():
    def call():
        one = torch.ones(1 << 20)
        del one
        two = torch.ones(1 << 20), torch.ones(1 << 19)
        del two

    assert measure.peak_allocated(call, torch.device("cpu")) == 4 * 3 * (1 << 19)
