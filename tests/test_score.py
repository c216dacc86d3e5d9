"""Proves that the drawn world's score counts what it says: true videos fully, false ones not at all."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import eval.shapes
from configs.data import DataConfig
from configs.load import to_json
from configs.model import AutoencoderConfig, TextConfig, TransformerConfig
from configs.sampling import SamplerConfig
from configs.train import TransformerRun
from dit.cli import run
from dit.generate import generate
from dit.load import BUILTIN, TRANSFORMER, Denoiser, Model, load_model
from eval.scoring import aligned, check_outputs
from eval.shapes import (
    Case,
    EvalSettings,
    cells,
    make_cases,
    make_request,
    run_cases,
    score,
    short_weights,
    table,
    wilson,
)
from vae.data.clips import DrawnWorld
from vae.data.drawn_world import BACKGROUNDS, COLOURS, HELD_OUT, SHAPES, Scene, draw, random_scene
from vae.load import WEIGHTS as AUTOENCODER
from vae.model import Autoencoder
from vae.training.weights import save_weights

COUNT = 14
RUN = TransformerRun(
    data=DataConfig(frames=5, size=64),
    model=TransformerConfig(width=24, depth=2, heads=2, mlp_width=32, text_width=16, latent_channels=4),
    text=TextConfig(width=16, depth=1, heads=2, mlp_width=16, max_tokens=96),
    sampler=SamplerConfig(steps=2, solver="euler", guidance=2.0),
)
TINY = AutoencoderConfig(
    base_width=4, decoder_base_width=4, latent_channels=4, width_multipliers=(1, 1, 1, 1), residual_blocks=1
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model folder with random weights, in which every parameter matters."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("tiny")
    denoiser, autoencoder = Denoiser(RUN.model, RUN.text), Autoencoder(TINY)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.normal_(std=0.3)
    save_weights(path / TRANSFORMER, denoiser.trained_state(), "transformer", to_json(RUN))
    save_weights(path / AUTOENCODER, autoencoder.state_dict(), "autoencoder", {"model": to_json(TINY)})
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    """The model of that folder."""
    return load_model(str(folder), torch.device("cpu"), torch.float32)


@pytest.fixture
def judged(folder: Path, monkeypatch) -> Callable:
    """Scores a pretended model: what it draws for the scene that was asked for."""

    def judged(answer: Callable[[Scene], torch.Tensor], **changes) -> dict:
        settings = EvalSettings(model=str(folder), count=COUNT, reconstructions=1, batch=5)
        settings = replace(settings, **changes)
        cases = [
            case
            for split in ("train", "unseen_triples")
            for case in make_cases(settings.seed, settings.count, split)
        ]
        scenes = {(case.prompt, case.seed): case.scene for case in cases}
        assert len(scenes) == len(cases)

        def generate_videos(model, requests, sampler, on_step):
            return [answer(scenes[request.condition.prompt, request.seed]) for request in requests]

        monkeypatch.setattr(eval.shapes, "generate_videos", generate_videos)
        return score(settings)

    return judged


def values(result: dict, part: str) -> dict[str, float]:
    """The scores of a part, without targets."""
    return {name: entry["value"] for name, entry in result["scores"][part].items()}


def drawn(scene: Scene) -> torch.Tensor:
    """The right video, at the tiny model's size."""
    return draw(scene, 5)


def next_of(names, name: str) -> str:
    """The name after this one."""
    names = list(names)
    return names[(names.index(name) + 1) % len(names)]


def test_true_videos_score_everything(judged):
    result = judged(drawn)
    everything = {"shape": 1.0, "colour": 1.0, "motion": 1.0, "all": 1.0}
    assert values(result, "prompts") == values(result, "unseen") == everything
    assert values(result, "image") == {"kept": 1.0, "motion": 1.0, "kept and moved": 1.0, "psnr": 100.0}
    assert result["failures"] == []
    for part in ("prompts", "unseen", "image"):
        for confusion in result["confusions"][part].values():
            assert all(list(row) == [asked] for asked, row in confusion.items())
            assert sum(sum(row.values()) for row in confusion.values()) == COUNT
    met = [
        entry["met"]
        for part in ("prompts", "unseen", "image")
        for entry in result["scores"][part].values()
        if "met" in entry
    ]
    assert met == [True] * 6


def test_the_wrong_colour_scores_no_colour_and_all_else(judged):
    result = judged(lambda scene: drawn(replace(scene, colour=next_of(COLOURS, scene.colour))))
    for part in ("prompts", "unseen"):
        assert values(result, part) == {"shape": 1.0, "colour": 0.0, "motion": 1.0, "all": 0.0}
    assert values(result, "image")["kept"] == values(result, "image")["kept and moved"] == 0.0
    assert values(result, "image")["motion"] == 1.0
    assert values(result, "image")["psnr"] < 30
    for asked, row in result["confusions"]["prompts"]["colour"].items():
        assert list(row) == [next_of(COLOURS, asked)]
    assert len(result["failures"]) == 3 * COUNT


def test_the_wrong_shape_scores_no_shape_and_all_else(judged):
    result = judged(lambda scene: drawn(replace(scene, shape=next_of(SHAPES, scene.shape))))
    assert values(result, "prompts") == {"shape": 0.0, "colour": 1.0, "motion": 1.0, "all": 0.0}


def test_the_wrong_motion_scores_no_motion_though_the_first_frame_is_kept(judged):
    still = judged(lambda scene: drawn(replace(scene, speed=0.0)))
    rest = sum(case.scene.motion == "stays" for case in make_cases(1000, COUNT, "train")) / COUNT
    assert 0 < rest < 1
    assert values(still, "prompts") == {"shape": 1.0, "colour": 1.0, "motion": rest, "all": rest}
    assert values(still, "image") == {"kept": 1.0, "motion": rest, "kept and moved": rest, "psnr": 100.0}


@pytest.mark.parametrize("noise", [0.0, 1.0], ids=["blank", "noise"])
def test_no_object_scores_nothing(judged, noise):
    result = judged(lambda scene: noise * torch.randn(3, 5, 64, 64))
    for part in ("prompts", "unseen"):
        assert set(values(result, part).values()) == {0.0}
        for confusion in result["confusions"][part].values():
            assert all(list(row) == ["none"] for row in confusion.values())
    assert values(result, "image")["kept and moved"] == values(result, "image")["motion"] == 0.0


def test_a_share_of_true_videos_is_the_score_and_the_rest_are_the_failures(judged, tmp_path):
    wrong = {case.scene for case in make_cases(1000, COUNT, "train")[::3]}

    def spoilt(colour: str) -> str:
        return "red" if colour == "blue" else "blue"

    files = {"json": str(tmp_path / "deep" / "score.json"), "picture": str(tmp_path / "failures.png")}
    result = judged(
        lambda scene: drawn(replace(scene, colour=spoilt(scene.colour)) if scene in wrong else scene), **files
    )
    share = (COUNT - len(wrong)) / COUNT
    assert values(result, "prompts") == {"shape": 1.0, "colour": share, "motion": 1.0, "all": share}
    assert [f["prompt"] for f in result["failures"] if f["part"] == "prompts"] == [
        case.prompt for case in make_cases(1000, COUNT, "train")[::3]
    ]
    for failure in result["failures"]:  # a failure holds all that is needed to see it again
        assert failure["judged"]["colour"] == spoilt(failure["scene"]["colour"])
        assert failure["seed"] in range(1000, 1000 + COUNT)
    written = json.loads(Path(files["json"]).read_text())
    assert written == json.loads(json.dumps(result))
    assert Path(files["picture"]).read_bytes()[:4] == b"\x89PNG"
    lines = table(result).splitlines()
    line = next(line for line in lines if line.startswith("  colour"))
    low, high = wilson(COUNT - len(wrong), COUNT)
    for cell in (f"{100 * share:.1f} %", f"{100 * low:.1f} to {100 * high:.1f}", "97 %", "MISSED"):
        assert cell in line
    assert "met" in next(line for line in lines if line.startswith("  shape"))


def test_without_failures_there_is_no_picture(judged, tmp_path):
    judged(drawn, picture=str(tmp_path / "failures.png"))
    assert not (tmp_path / "failures.png").exists()


def test_prompts_are_new_and_name_what_is_judged():
    seen, unseen = make_cases(1000, 300, "train"), make_cases(1000, 300, "unseen_triples")
    for cases, held_out in ((seen, False), (unseen, True)):
        for case in cases:
            triple = (case.scene.shape, case.scene.colour, case.scene.motion)
            assert (triple in HELD_OUT) == held_out
            assert case.scene.shape in case.prompt.lower() and case.scene.colour in case.prompt.lower()
    world = DrawnWorld(DataConfig(), 0)
    trained = {random_scene(seed, k, world.split) for seed in (0, 1) for k in range(3000)}
    words = {world.caption(k, k).lower().rstrip(".") for k in range(3000)}
    assert not trained & {case.scene for case in seen}
    assert not words & {case.prompt.lower().rstrip(".") for case in seen + unseen}
    assert {case.scene.background for case in seen} == set(BACKGROUNDS)


def test_the_given_first_frame_is_the_scenes_own_and_is_kept_to_the_bit(model):
    case = make_cases(1000, 1, "train")[0]
    request = make_request(model, case, given=True)
    frame = drawn(case.scene)[None, :, :1]
    (given,) = request.condition.givens
    assert torch.equal(given.latents_CTHW, model.autoencoder.encode(frame)[0])
    latents = generate(model.denoiser, [request], model.flow, model.sampler)[0]
    assert torch.equal(latents[:, :1], given.latents_CTHW)
    free = generate(model.denoiser, [make_request(model, case, given=False)], model.flow, model.sampler)[0]
    assert (latents[:, 1:] - free[:, 1:]).abs().max() > 1e-3  # what is given is also seen


@pytest.mark.parametrize("given", [False, True], ids=["text", "image"])
def test_videos_do_not_depend_on_the_batch(model, given, monkeypatch):
    cases = make_cases(1000, 5, "train")
    seen: list[torch.Tensor] = []

    def generate_latents(model, requests, sampler, on_step):
        made = generate(model.denoiser, requests, model.flow, sampler, on_step)
        seen.extend(made)
        return [torch.zeros(3, 5, 64, 64)] * len(made)

    monkeypatch.setattr(eval.shapes, "generate_videos", generate_latents)
    by_batch = {}
    for batch in (1, 3, 5):
        seen.clear()
        assert [
            outcome.case for outcome, _ in run_cases(model, cases, model.sampler, batch, given, "")
        ] == cases
        by_batch[batch] = torch.stack(seen)
    for batch in (3, 5):
        assert torch.allclose(by_batch[batch], by_batch[1], rtol=1e-4, atol=1e-4)
    apart = torch.pdist(by_batch[1].flatten(1))
    assert apart.min() > 1  # every case has its own noise


def test_again_it_is_the_same_score_and_another_seed_asks_for_other_scenes(folder):
    settings = EvalSettings(
        model=str(folder), count=2, reconstructions=2, steps=1, guidance=1.0, solver="heun"
    )
    first = score(settings)
    assert score(settings) == first
    assert first["protocol"]["sampler"] == {"steps": 1, "solver": "heun", "guidance": 1.0, "seed": 1000}
    assert first["protocol"]["model"] == to_json(RUN)
    other = score(replace(settings, seed=2000))
    assert other["failures"][0]["scene"] != first["failures"][0]["scene"]
    assert other["protocol"]["weights"] == first["protocol"]["weights"]
    assert score(replace(settings, solver=None, steps=None, guidance=None))["protocol"]["sampler"] == {
        "steps": 2,
        "solver": "euler",
        "guidance": 2.0,
        "seed": 1000,
    }


def test_the_reconstruction_is_measured_against_the_drawing(folder, judged, monkeypatch):
    random = judged(drawn)["scores"]["autoencoder"]
    assert random["psnr"]["value"] < 20 and not random["psnr"]["met"]
    monkeypatch.setattr(Autoencoder, "encode", lambda self, video: video)
    monkeypatch.setattr(Autoencoder, "decode", lambda self, video: video + 2 * 10 ** (-36 / 20))
    near = judged(drawn, reconstructions=3)["scores"]["autoencoder"]
    assert near["psnr"]["value"] == pytest.approx(36, abs=1e-3) and near["psnr"]["met"]
    assert 0.9 < near["ssim"]["value"] < 1


@pytest.mark.parametrize(("right", "of"), [(0, 10), (1, 7), (5, 10), (500, 512), (24, 24)])
def test_wilson_ends_where_the_share_is_z_standard_errors_away(right, of):
    z, share = 1.959964, right / of
    low, high = wilson(right, of)
    for end in {low if right else high, high if right < of else low}:
        assert abs(share - end) == pytest.approx(z * math.sqrt(end * (1 - end) / of))
    assert low <= share <= high
    assert (low == 0) == (right == 0) and (high == 1) == (right == of)


@pytest.mark.parametrize("truth", [0.5, 0.9, 0.97])
def test_wilson_covers_the_truth_nineteen_times_in_twenty(truth):
    of = 512
    log = [math.lgamma(of + 1) - math.lgamma(k + 1) - math.lgamma(of - k + 1) for k in range(of + 1)]
    chance = [math.exp(log[k] + k * math.log(truth) + (of - k) * math.log(1 - truth)) for k in range(of + 1)]
    inside = sum(p for k, p in enumerate(chance) if wilson(k, of)[0] <= truth <= wilson(k, of)[1])
    assert inside == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "0"], "count = 0: it must be at least 1"),
        (["--guidance", "-3"], "guidance = -3.0: it must be at least 0"),
        (["--picture", "failures.jpg"], "give a name that ends in .png"),
        (["--json", "dit"], "dit is a folder: give a file in it"),
        (["--json", "README.md/score.json"], "README.md/score.json: Not a directory"),
        (["--cuont", "3"], "unknown setting --cuont; did you mean --count?"),
        (["--model", "no/such/folder"], "no/such/folder: no such model folder"),
    ],
)
def test_wrong_settings_are_told_in_one_line(arguments, message, capsys):
    assert run(["eval", "shapes", *arguments]) == 1
    told = capsys.readouterr().err.strip()
    assert message in told and "\n" not in told


def test_the_command_prints_the_table_and_writes_the_same_scores(folder, tmp_path, capsys):
    file = tmp_path / "score.json"
    words = ["--model", str(folder), "--count", "2", "--reconstructions", "1", "--steps", "1"]
    assert run(["eval", "shapes", *words, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert printed == f"{table(json.loads(file.read_text()))}\n{file}\n"
    assert "drawn-world-2" in printed and "1 euler steps" in printed and "(2 videos)" in printed


@pytest.mark.parametrize("seed", [0, 1])
def test_the_scenes_of_training_are_refused(folder, capsys, seed):
    assert run(["eval", "shapes", "--model", str(folder), "--seed", str(seed)]) == 1
    assert f"--seed {seed} draws the scenes that this model was trained on" in capsys.readouterr().err


def test_the_readme_shows_the_recorded_score():
    recorded = json.loads((BUILTIN / "score.json").read_text())
    shown = (BUILTIN.parents[1] / "README.md").read_text()
    assert recorded["protocol"]["count"] == EvalSettings().count == 512
    parts = [("prompts", name) for name in ("shape", "colour", "motion", "all")]
    parts += [("unseen", "all"), ("image", "kept and moved"), ("autoencoder", "psnr")]
    for part, name in parts:
        came_to, interval, *_ = cells(recorded["scores"][part][name])
        assert f" | {came_to} | {interval} |\n" in shown, (part, name)


def test_the_built_in_model_scores_as_it_is_recorded():
    """The recorded score is of these weights, and its first cases fail and succeed here as they did there."""
    if not (BUILTIN / TRANSFORMER).is_file():
        pytest.skip("the built-in weights are not in this checkout")
    recorded = json.loads((BUILTIN / "score.json").read_text())
    builtin = load_model("builtin", torch.device("cpu"), torch.float32)
    assert recorded["protocol"]["weights"] == builtin.weights
    cases: list[Case] = make_cases(recorded["protocol"]["seed"], 12, "train")
    outcomes = [outcome for outcome, _ in run_cases(builtin, cases, builtin.sampler, 8, False, "built-in")]
    failed = {outcome.case.seed for outcome in outcomes if outcome.failed}
    expected = {failure["seed"] for failure in recorded["failures"] if failure["part"] == "prompts"}
    expected &= {case.seed for case in cases}
    assert len(failed ^ expected) <= 1  # other kernels may turn a close case


def test_columns_line_up_by_what_a_terminal_shows():
    """A Chinese character takes two cells; brackets and colons are no markup."""
    rows = [("", "[bold]", ":smile:"), ("  interval", "1", "22"), ("模型", "333", "4")]
    assert aligned(rows) == ["            [bold]  :smile:", "  interval  1       22", "模型        333     4"]
    assert aligned(rows, right=True)[1:] == ["  interval       1       22", "模型           333        4"]
    (line,) = aligned([("x" * 500, "y")])
    assert line == "x" * 500 + "  y"


@pytest.mark.parametrize("name", ["a.mp4", "table.json", "page.html"])
def test_a_score_replaces_nothing_else(tmp_path, name):
    file = tmp_path / name
    file.write_text('{"mine": 1}')
    with pytest.raises(ValueError, match=f"{name} is there, and is not of the kind"):
        check_outputs(str(file))
    (tmp_path / "score.json").write_text('{"metric": "fvd"}')
    check_outputs(str(tmp_path / "score.json"), str(tmp_path / "new.json"), "")
    with pytest.raises(ValueError, match=r"score\.json is there, and is not of the kind"):
        check_outputs("", str(tmp_path / "score.json"))  # a page would take a score's place
    (tmp_path / "mine.html").write_text("<!doctype html>")
    with pytest.raises(ValueError, match=r"mine\.html is there, and is not of the kind"):
        check_outputs(str(tmp_path / "mine.html"))
    check_outputs("", str(tmp_path / "mine.html"))
    with pytest.raises(ValueError, match=r"new\.json is asked for twice"):
        check_outputs(str(tmp_path / "new.json"), str(tmp_path / "a" / ".." / "new.json"))


def test_a_page_replaces_no_score(tmp_path, capsys):
    (tmp_path / "score.json").write_text('{"metric": "fvd"}')
    words = ["eval", "report", str(tmp_path / "score.json"), "--out", str(tmp_path / "score.json")]
    assert run(words) == 1 and "is there, and is not of the kind" in capsys.readouterr().err
    assert (tmp_path / "score.json").read_text() == '{"metric": "fvd"}'


def test_the_weights_of_a_score_name_the_adapters_that_were_added():
    base, adapters = 64 * "ab", 64 * "cd"
    assert short_weights(base) == "abababababab"
    assert short_weights(f"{base}+{adapters}@0.5") == "abababababab + cdcdcdcdcdcd@0.5"
