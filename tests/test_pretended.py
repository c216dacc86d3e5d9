"""Proves on a pretended device that tensors lie right, the host waits where it may, numbers are the CPU's."""

import copy
import gc
import inspect
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import dit.train
import eval.networks.load
import vae.train
from configs.data import ClipConfig
from configs.load import to_json
from configs.sampling import SampleSettings
from configs.train import (
    AutoencoderRun,
    DiscriminatorConfig,
    FlowConfig,
    OptimizerConfig,
    TaskWeights,
    TransformerRun,
)
from dit.bench import measure
from dit.bench import transformer as bench
from dit.encode import EncodeSettings, encode
from dit.sample import sample
from eval.fvd import FvdSettings, fvd
from eval.networks.certify import SMOKE
from samplers.solvers import SOLVERS
from tests import pretended
from tests.tiny import (
    MODEL,
    ROOT,
    assert_same_run,
    autoencoder_run,
    environment,
    fresh_accelerator,  # noqa: F401
    rows,
    state,
    transformer_run,
    write_config,
)
from vae import tiles
from vae.data.video import read_frames
from vae.data.write import write_video
from vae.interface import Statistics
from vae.load import load_autoencoder
from vae.model import Autoencoder
from vae.train import StepClips
from vae.training.device import arrived, autocast, forked_randomness, own_device, send, sent, side_stream
from vae.training.seeds import normal
from vae.training.session import Session
from vae.training.weights import load_weights, save_weights

TENSORS = 15  # at least, that a pack of a step is made of
EVERY = {"log_every": 2, "save_every": 2, "show_every": 2}  # of four steps, the third says nothing


class Enough(Exception):
    """What ends a training whose first steps are all that is looked at."""


def alone(check: Callable, *arguments) -> str:
    """What a check of this file prints that is run on the device: in a process of its own, which keeps it."""
    code = (
        "import sys; from tests import pretended; pretended.install(); from tests import test_pretended; "
        "getattr(test_pretended, sys.argv[1])(*sys.argv[2:])"
    )
    words = [sys.executable, "-c", code, check.__name__, *map(str, arguments)]
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout


def write_autoencoder(file: Path) -> Path:
    """A tiny autoencoder of random weights, with statistics."""
    torch.manual_seed(0)
    model = Autoencoder(MODEL)
    model.set_statistics(Statistics((0.1, 0.0, -0.2, 0.1), (0.5, 0.6, 0.4, 0.5)))
    save_weights(file, model.state_dict(), "autoencoder", {"model": to_json(MODEL)})
    return file


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory) -> Path:
    return write_autoencoder(tmp_path_factory.mktemp("autoencoder") / "autoencoder.safetensors")


@pytest.fixture(scope="module")
def cache(tmp_path_factory, autoencoder) -> Path:
    """Latents of eight drawn scenes, encoded on the CPU."""
    out = tmp_path_factory.mktemp("cache")
    return encode(encode_settings(out, autoencoder))


def encode_settings(out: Path | str, autoencoder: Path | str) -> EncodeSettings:
    data = ClipConfig(**{name: getattr(transformer_run("", "").data, name) for name in ("frames", "size")})
    return EncodeSettings("shapes", str(out), str(autoencoder), replace(data, workers=0), scenes=8)


@contextmanager
def waits_of_steps(last: int | None = None) -> Iterator[dict[int, Counter]]:
    """Where the host waits in each step of the trainings within; and no network lies on the CPU meanwhile.

    After the `last` step, where one is given, Enough is raised.
    """
    each, steps = {}, Session.steps

    def counted(self, *arguments):
        before, current = Counter(pretended.waits), None
        for step, batch in steps(self, *arguments):
            each[current] = pretended.waits - before
            if current == last is not None:
                raise Enough
            before, current = Counter(pretended.waits), step
            if step == 2:
                assert networks_on_the_cpu() == set()
            yield step, batch
        each[current] = pretended.waits - before

    Session.steps = counted
    try:
        yield each
    finally:
        Session.steps = steps
        each.pop(None, None)


def networks_on_the_cpu() -> set[str]:
    """The classes of networks alive whose weights or buffers are not on the device."""
    networks = [thing for thing in gc.get_objects() if issubclass(type(thing), nn.Module)]
    tensors = [
        (type(m).__name__, x) for m in networks for x in (*m._parameters.values(), *m._buffers.values())
    ]
    return {name for name, x in tensors if x is not None and x.device != pretended.device()}


def the_device_itself() -> None:
    """Numbers, places, waits, autocast, memory, copies and optimizers of the device are CUDA's ways."""
    device, waits = pretended.device(), pretended.waits
    assert own_device() == device
    x = torch.arange(12.0).view(3, 4).to(device)
    assert (x.device, x.inside.device) == (device, torch.device("cpu")) and waits.total() == 1
    assert next(iter(waits)).startswith("aten.copy_ at tests/test_pretended.py:")

    # Only what is the host's can be pinned; what is sent twice stays.
    with pytest.raises(RuntimeError, match="only dense CPU tensors can be pinned"):
        x.pin_memory()
    assert send(x, device) is x

    # What waits, and what does not.
    def waited(call: Callable) -> int:
        before = waits.total()
        call()
        return waits.total() - before

    mask, places = x > 3, torch.zeros(1, dtype=torch.long, device=device)
    pinned = torch.ones(4).pin_memory()
    free = [
        lambda: (x + 1) @ x.T,
        lambda: x[places],
        lambda: x.clone().masked_fill_(mask, 0.0),
        lambda: torch.where(mask, x, 0.0),
        lambda: torch.full((3,), 2.0, device=device),
        lambda: torch.arange(5, device=device),
        lambda: x * torch.tensor(2.0),
        lambda: pinned.to(device, non_blocking=True),
        lambda: pinned[1:].to(device, non_blocking=True),
        lambda: send(torch.ones(3), device),
        lambda: x.new_zeros(3),
        lambda: x.repeat_interleave(places.expand(3) + 1, 0, output_size=3),
    ]
    waiting = [
        lambda: x.sum().item(),
        lambda: bool(x.any()),
        lambda: x.tolist(),
        lambda: x.cpu(),
        lambda: x[mask],
        lambda: mask.nonzero(),
        lambda: x.masked_select(mask),
        lambda: torch.equal(x, x),
        lambda: x[torch.tensor([0])],
        lambda: torch.tensor([1.0, 2.0], device=device),
        lambda: torch.ones(3).to(device),
        lambda: torch.ones(3).to(device, non_blocking=True),
        lambda: x[0].copy_(torch.ones(4)),
        lambda: x.repeat_interleave(places.expand(3) + 1, 0),
        lambda: torch.get_device_module(device).synchronize(),
        lambda: f"{x.sum():.1f}",
    ]
    for calls, wanted in ((free, 0), (waiting, 1)):
        counts = {inspect.getsource(call).strip(): waited(call) for call in calls}
        assert set(counts.values()) == {wanted}, counts

    # Two devices in one operation.
    for call in (
        lambda: x + torch.ones(4),
        lambda: torch.cat([x, torch.ones(1, 4)]),
        lambda: x @ torch.ones(4),
    ):
        with pytest.raises(
            RuntimeError, match=r"at tests/test_pretended.py:\d+: tensors on pretended:0 and on cpu"
        ):
            call()
    with pytest.raises(RuntimeError):
        x.numpy()

    # Complex numbers: a conjugate is a bit of a view, which must not get lost.
    y = torch.view_as_complex(x.cpu().view(3, 2, 2))
    product = torch.view_as_complex(x.view(3, 2, 2)).conj() * y.to(device)
    assert torch.equal(product.cpu(), y.conj() * y) and torch.equal(product.imag.cpu(), torch.zeros(3, 2))

    # Autocast's two kinds of operations, forward and backward; and fp32 within, where it is off.
    weight = torch.ones(2, 4, device=device, requires_grad=True)
    with autocast(x):
        product = F.linear(x, weight)
        norm = F.layer_norm(product, (2,))
        assert (product.dtype, norm.dtype, F.gelu(product).dtype) == (
            torch.bfloat16,
            torch.float32,
            torch.bfloat16,
        )
        assert F.conv2d(x[None, None], weight[None, None]).dtype == torch.bfloat16
        with autocast(x, False):
            assert F.linear(x, weight).dtype == torch.float32
    product.sum().backward()
    assert (weight.grad.dtype, weight.grad.device) == (torch.float32, device)
    assert torch.equal(weight.grad.cpu(), x.cpu().sum(0).expand(2, 4))

    # Optimizers of one tensor, of lists, and fused, as on the CPU; a module, its copy and its casts.
    torch.manual_seed(0)
    plain = nn.Linear(4, 3)
    for how in ({}, {"foreach": True}, {"fused": True}):
        networks = [nn.Linear(4, 3) for _ in range(2)]
        networks[1].load_state_dict(networks[0].state_dict())
        networks[1].to(device)
        for network, inputs in zip(networks, (x.cpu(), x), strict=True):
            optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, **how)
            for _ in range(3):
                network(inputs).square().mean().backward()
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        for one, other in zip(*(network.parameters() for network in networks), strict=True):
            torch.testing.assert_close(other.detach().cpu(), one.detach())
    copied = copy.deepcopy(plain.to(device))
    assert isinstance(copied.weight, nn.Parameter) and copied.weight.inside is not plain.weight.inside
    copied.weight.data = copied.weight.data.to(torch.bfloat16)
    assert copied.weight.dtype == copied.weight.inside.dtype == torch.bfloat16 != plain.weight.dtype

    # Memory: each storage once, given back with the last tensor that looks at it.
    module = torch.get_device_module(device)
    before = module.memory_allocated()
    module.reset_peak_memory_stats()
    large = torch.zeros(1000, device=device)
    view, other = large[10:], torch.zeros(500, device=device)
    del large, other
    assert module.memory_allocated() - before == 4000 and module.max_memory_allocated() - before == 6000
    del view
    assert module.memory_allocated() == before

    # What a side stream copied is waited for before it is read, and its memory is held meanwhile.
    numbers = StepClips([], [(torch.ones(3), torch.zeros(3))])
    there, copied = sent(numbers, device, side_stream(device))
    (copy_of_ones, _), stream = there.groups[0], module.current_stream()
    before = waits.total()
    with pytest.raises(RuntimeError, match=r"another stream, which is not waited for"):
        copy_of_ones + 1
    stream.wait_event(copied)
    with pytest.raises(RuntimeError, match=r"another stream, whose memory is not held"):
        copy_of_ones + 1
    (copy_of_ones, _) = arrived(there, device, copied).groups[0]
    assert waits.total() == before and (copy_of_ones + 1).tolist() == [2, 2, 2]

    # Randomness that is forked is put back.
    torch.manual_seed(5)
    with forked_randomness(x):
        torch.manual_seed(7)
    assert module.get_rng_state().tolist() == [5]


def strict_and_quiet(home: str) -> None:
    """The device itself, latents encoded on it, and three steps that log nothing: where those wait."""
    the_device_itself()
    file = write_autoencoder(Path(home) / "autoencoder.safetensors")
    source = encode(encode_settings(Path(home) / "cache", file))
    rare = {"steps": 9, "log_every": 9, "save_every": 9, "show_every": 9}
    config = transformer_run(Path(home) / "run", file, str(source), **rare)
    with waits_of_steps(last=4) as waits, pytest.raises(Enough):
        dit.train.train(config)
    copied = sum(
        count for line, count in pretended.beside.items() if line.startswith("vae/training/device.py")
    )
    print(json.dumps({step: waits[step] for step in (2, 3, 4)} | {"copied beside": copied}))


def muon_on_device(out: str, autoencoder: str, source: str) -> None:
    """Two steps of Muon, with a limit of loss and gradient, that say nothing: where those wait."""
    rare = {"steps": 9, "log_every": 9, "save_every": 9, "show_every": 9, "spike_factor": 1e6}
    config = transformer_run(Path(out), Path(autoencoder), source, **rare)
    config = replace(config, optimizer=OptimizerConfig(kind="muon"))
    with waits_of_steps(last=3) as waits, pytest.raises(Enough):
        dit.train.train(config)
    print(json.dumps({step: waits[step] for step in (2, 3)}))


@pytest.mark.long
def test_muon_and_a_limit_of_spikes_wait_for_nothing(autoencoder, cache, tmp_path):
    quiet = alone(muon_on_device, tmp_path / "run", autoencoder, cache)
    assert json.loads(quiet.splitlines()[-1]) == {"2": {}, "3": {}}


def test_the_device_is_strict_and_a_training_step_that_says_nothing_waits_for_nothing(tmp_path):
    """With cached latents: nothing in a step is read back, nor copied but from pinned memory, ahead."""
    found = json.loads(alone(strict_and_quiet, tmp_path).splitlines()[-1])
    assert found.pop("copied beside") >= 4 * TENSORS, "the numbers of a step are copied beside the one before"
    assert found == {"2": {}, "3": {}, "4": {}}


def transformer(out: Path, autoencoder: Path, source: str, precision: str, **loop) -> TransformerRun:
    """With first frames that are given, and dropped prompts."""
    config = transformer_run(out, autoencoder, source, precision=precision, **EVERY, **loop)
    return replace(config, flow=FlowConfig(tasks=TaskWeights(none=0.5, first=0.5), prompt_dropout=0.3))


def adversarial(out: Path, precision: str, **loop) -> AutoencoderRun:
    """With all networks of the recipe that need no weights: variance and discriminator."""
    config = autoencoder_run(out, precision=precision, **EVERY, **loop)
    discriminator = DiscriminatorConfig(weight=0.5, width=8, depth=2)
    return replace(config, learned_variance=True, discriminator=discriminator, image_share=0.3)


def transformer_on_device(out: str, autoencoder: str, source: str, precision: str) -> None:
    """Four steps, whole, and stopped and given again: the same to the bit; and the waits of a quiet step."""
    with waits_of_steps() as waits:
        dit.train.train(transformer(Path(out) / "whole", Path(autoencoder), source, precision, steps=4))
    print(json.dumps(waits[3]))
    for steps in (2, 4):
        dit.train.train(transformer(Path(out) / "resumed", Path(autoencoder), source, precision, steps=steps))
    assert_same_run(Path(out) / "whole", Path(out) / "resumed")


def autoencoder_on_device(out: str, precision: str) -> None:
    """The same of an autoencoder."""
    with waits_of_steps() as waits:
        vae.train.train(adversarial(Path(out) / "whole", precision, steps=4))
    print(json.dumps(waits[3]))
    for steps in (2, 4):
        vae.train.train(adversarial(Path(out) / "resumed", precision, steps=steps))
    assert_same_run(Path(out) / "whole", Path(out) / "resumed")


@pytest.mark.long
@pytest.mark.parametrize(("data", "precision", "least"), [("cached", "fp32", 1e-5), ("online", "bf16", 2e-2)])
def test_a_transformer_trains_and_goes_on(autoencoder, cache, tmp_path, data, precision, least):
    source = str(cache) if data == "cached" else "shapes"
    quiet = alone(transformer_on_device, tmp_path / "there", autoencoder, source, precision)
    dit.train.train(transformer(tmp_path / "here", autoencoder, source, precision, steps=4))
    assert_alike(tmp_path / "there" / "whole", tmp_path / "here", least)
    assert json.loads(quiet.splitlines()[-1]) == {}


@pytest.mark.long
@pytest.mark.parametrize(("precision", "least"), [("fp32", 1e-5), ("bf16", 2e-2)])
def test_an_autoencoder_trains_and_goes_on(tmp_path, precision, least):
    quiet = alone(autoencoder_on_device, tmp_path / "there", precision)
    vae.train.train(adversarial(tmp_path / "here", precision, steps=4))
    assert_alike(tmp_path / "there" / "whole", tmp_path / "here", least)
    assert json.loads(quiet.splitlines()[-1]) == {}


def both_ways(autoencoder: str, out: str) -> None:
    """What an autoencoder makes on the verbs' device: moments, streams, tiles, in fp32 and bf16."""
    model = load_autoencoder(autoencoder, own_device()).eval().requires_grad_(False)
    video = normal((1, 3, 9, 64, 64), "video").clamp(-1, 1).to(own_device())
    made = {}
    for precision in ("fp32", "bf16"):
        with autocast(own_device(), precision == "bf16"):
            mean, variance = model.posterior(video)
            made[f"{precision} mean"], made[f"{precision} variance"] = mean, variance
            made[f"{precision} decoded"] = model.decode(mean)
            made[f"{precision} encoded stream"] = torch.cat([*model.encode_stream([video])], 2)
            made[f"{precision} decoded stream"] = torch.cat([*model.decode_stream([mean])], 2)
    made["tiles"] = tiles.decode(model, made["fp32 mean"], 4)
    save_weights(Path(out), {name: x.cpu() for name, x in made.items()}, "autoencoder", {})


@pytest.mark.long
def test_an_autoencoder_encodes_and_decodes(autoencoder, tmp_path):
    files = [tmp_path / f"{name}.safetensors" for name in ("there", "here")]
    alone(both_ways, autoencoder, files[0])
    both_ways(autoencoder, files[1])
    (there, _), (here, _) = map(load_weights, files)
    assert there.keys() == here.keys() and len(here) == 11
    for name, x in here.items():
        least = 1e-5 if name.startswith(("fp32", "tiles")) else 0.05
        assert measure.largest_difference(there[name], x) < least, name


def samples_on_device(out: str) -> None:
    """A video by each solver; where the host waits between a solver's first and last step."""
    waits, solvers = Counter(), dict(SOLVERS)

    def counted(solver: Callable) -> Callable:
        def solve(*arguments):
            before = Counter(pretended.waits)
            x = solver(*arguments)
            waits.update(pretended.waits - before)
            return x

        return solve

    SOLVERS.update({name: counted(solver) for name, solver in solvers.items()})
    make_samples(Path(out))
    print(json.dumps(waits))


def make_samples(out: Path) -> None:
    """Videos of the built-in model from text, and from text and a first frame, in files without loss."""
    out.mkdir()
    Image.new("RGB", (64, 64), (200, 30, 30)).save(out / "first.png")
    for k, solver in enumerate(SOLVERS):
        image = str(out / "first.png") * (k == 1)
        asked = SampleSettings(
            prompts=("a red circle moves left",), out=str(out / f"{solver}.mkv"), image=image
        )
        sample(replace(asked, steps=3, solver=solver, frames=5, precision="fp32"))


@pytest.mark.long
def test_sampling_waits_for_nothing_in_the_solver_s_loop(tmp_path):
    """And its videos are the CPU's, but for a level where a value lies between two."""
    found = json.loads(alone(samples_on_device, tmp_path / "there").splitlines()[-1])
    make_samples(tmp_path / "here")
    for solver in SOLVERS:
        there, here = (read_frames(tmp_path / side / f"{solver}.mkv", range(5)) for side in ("there", "here"))
        assert here.shape == (5, 64, 64, 3) and here.float().std() > 10
        assert (there.int() - here.int()).abs().max() <= 1
    assert found == {}


class Means(nn.Module):
    """A network of features that is quick: each channel's mean in each third of a clip, and its spread."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        thirds = [part.flatten(2).mean(2) for part in x.contiguous().tensor_split(3, dim=2)]
        return self.scale * torch.cat([*thirds, x.flatten(2).std(2)], dim=1)


def write_score(real: str, fake: str, file: str) -> None:
    """The Frechet distance of two folders by a quick network, on the verbs' device."""
    eval.networks.load.load_i3d = lambda eps, given, smoke: (Means(), SMOKE)
    asked = FvdSettings(
        real=real, fake=fake, protocol="fvd-google", smoke=True, allow_small=True, cache=False
    )
    fvd(replace(asked, workers=0, resamples=20, batch=2, json=file))


@pytest.mark.long
def test_a_score_is_the_cpu_s_and_says_where_it_was_made(tmp_path, monkeypatch):
    monkeypatch.setattr(eval.networks.load, "load_i3d", None)  # put back after `write_score`
    for side, first in (("real", 0), ("fake", 100)):
        for k in range(5):
            video = normal((3, 16, 4, 5), side, k)[None].clamp(-1, 1)
            video = F.interpolate(video, (16, 32, 40), mode="trilinear")[0]
            write_video(tmp_path / side / f"{first + k}.mp4", video, 8.0, {})
    folders = tmp_path / "real", tmp_path / "fake"
    alone(write_score, *folders, tmp_path / "there.json")
    write_score(*map(str, folders), str(tmp_path / "here.json"))
    there, here = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("there", "here"))
    assert there["value"] == pytest.approx(here["value"], rel=1e-4) and here["value"] > 0.01
    assert there["made_with"]["device"] == "a pretended device" and there["device"] == "pretended"
    assert there["made_with"]["fp32 products"] == "exact" and "fp32 products" not in here["made_with"]


def bench_on_device(config: str) -> None:
    """What `dit bench` measures on the device of a tiny model."""
    measure.matmul_peak = lambda *_: 1e9
    bench.MIXED = {"two sizes": [(1, 2, 2), (2, 3, 3)]}
    asked = bench.BenchSettings(config=config, batch=2, text_tokens=5, repeats=1)
    print(json.dumps(bench.bench(asked)))


@pytest.mark.long
def test_the_bench_runs_and_its_sides_agree(tmp_path):
    run = transformer_run("runs/none", "builtin")
    file = write_config(tmp_path / "tiny.py", replace(run, model=replace(run.model, latent_channels=16)))
    result = json.loads(alone(bench_on_device, file).splitlines()[-1])
    assert result["machine"] == "a pretended device" and result["clock"] == "wall clock, the GPU waited for"
    assert {row["precision"] for row in result["model"]} == {"fp32", "bf16"}
    assert all(row["memory"] > 100_000 for row in result["model"])  # of weights and activations
    for row in result["diffusers"] + result["packs"]:
        assert row["difference"] < (1e-5 if row["what"].endswith(", fp32") else 0.05), row


def assert_alike(there: Path, here: Path, least: float = 1e-5) -> None:
    """Two runs have the same losses and gradients but for rounding, of what is largest in each.

    Weights are no measure: AdamW's first steps are as long for a gradient that is rounding alone.
    """
    for one, other in zip(rows(there), rows(here), strict=True):
        assert one.keys() == other.keys()
        assert [*one.values()] == pytest.approx([*other.values()], rel=10 * least, abs=least)
    one, other = state(there), state(here)
    assert one.keys() == other.keys()
    means = [name for name in one if name.endswith("exp_avg")]
    size = {name: other[name].abs().max().item() for name in means}
    for name in means:
        difference = (one[name] - other[name]).abs().max().item()
        assert difference < 10 * least * max(size[name], 1e-3 * max(size.values())), name
