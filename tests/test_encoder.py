"""Proves that a folder of transformers is a feature network: its own outputs, pooled, by its hash alone."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
import transformers
from PIL import Image

from configs.protocol import DistanceProtocol, FvdProtocol, load_protocol
from dit.cli import run
from eval.networks.encoder import KINDS, MODELS, encoder_hash, load_encoder, seeded_encoder
from eval.preprocess import prepare
from eval.weights import WeightsSettings, report
from tests.test_fvd import folders  # noqa: F401
from vae.training.files import file_hash

NAMES = {  # protocol -> its metric
    "fvd-videomae": "fvd",
    "fvd-vjepa2": "fvd",
    "jedi-vjepa2": "mmd",
    "jedi-vjepa2-mean": "mmd",
    "cmmd-clip-frames": "mmd",
}
FRAMES = torch.from_numpy(numpy.random.RandomState(0).randint(0, 256, (4, 50, 70, 3), "uint8"))
IMAGENET = transformers.image_utils.IMAGENET_DEFAULT_MEAN, transformers.image_utils.IMAGENET_DEFAULT_STD
CLIP = transformers.image_utils.OPENAI_CLIP_MEAN, transformers.image_utils.OPENAI_CLIP_STD


def small(name: str) -> DistanceProtocol:
    """A protocol of four frames of 32 pixels, or one of CLIP."""
    protocol = load_protocol(name, NAMES[name])
    sizes = {"stored_size": 32 if protocol.stored_size else 0, "size": 32}
    return replace(protocol, frames=min(4, protocol.frames), **sizes)


def written(protocol: DistanceProtocol, folder: Path) -> torch.nn.Module:
    """A small seeded model of the protocol's kind, as transformers writes it."""
    model = seeded_encoder(protocol).model
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():  # those that are made as nought or one, too
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    return model


def pixels(frames_THWC: torch.Tensor, colours: tuple | None) -> torch.Tensor:
    """Frames of bytes 32 x 32 as transformers takes them, T 3 32 32, by numpy."""
    values = frames_THWC.numpy().astype(numpy.float64) / 255
    if colours:
        values = (values - numpy.array(colours[0])) / numpy.array(colours[1])
    return torch.from_numpy(values.transpose(0, 3, 1, 2)).float()


@torch.no_grad()
def by_transformers(name: str, model: torch.nn.Module, frames_THWC: torch.Tensor) -> torch.Tensor:
    """Features by the classes of transformers themselves, pooled as the projects' code says."""
    if name == "fvd-videomae":
        inputs = torch.nn.functional.interpolate(pixels(frames_THWC, None), (32, 32), mode="bilinear")
        states = model(pixel_values=inputs[None], output_hidden_states=True).hidden_states
        return torch.nn.functional.layer_norm(
            torch.stack([token for token in states[-1][0]]).sum(0) / states[-1].shape[1],
            (64,),
            model.fc_norm.weight,
            model.fc_norm.bias,
        )
    if name == "cmmd-clip-frames":
        embeds = model(pixel_values=pixels(frames_THWC, CLIP)).image_embeds[0]
        return embeds / embeds.square().sum().sqrt()
    inputs = pixels(frames_THWC, IMAGENET)[None]
    if name == "jedi-vjepa2":
        seen = []  # what the classifier's last layer is given
        hook = model.classifier.register_forward_hook(lambda _, given, made: seen.append(given[0]))
        model(pixel_values_videos=inputs)
        hook.remove()
        return seen[0][0]
    tokens = model(pixel_values_videos=inputs).last_hidden_state[0]
    return tokens.sum(0) / len(tokens)


@pytest.mark.parametrize("name", NAMES)
def test_features_are_those_of_transformers(name, tmp_path):
    protocol = small(name)
    model = written(protocol, tmp_path)
    encoder, digest, stamps = load_encoder(tmp_path, protocol, uncertified=True)
    assert type(model).__name__ == MODELS[protocol.network, protocol.pooling][0]
    square = FRAMES[: protocol.frames, :32, :32].contiguous()  # no resize
    features = encoder(prepare(square, protocol)[None])[0]
    torch.testing.assert_close(features, by_transformers(name, model, square), rtol=1e-4, atol=1e-5)
    both = torch.stack([prepare(frames[: protocol.frames], protocol) for frames in (square, square.flip(2))])
    torch.testing.assert_close(encoder(both)[0], features, rtol=1e-4, atol=1e-5)
    other = encoder(both)[1]
    assert (other - features).abs().max() > 1e-3
    assert stamps == [f"{protocol.network} is not certified: no hash was named"]
    assert digest.startswith(file_hash(tmp_path / "model.safetensors") + "+")


def test_clip_sees_the_middle_by_pillow_as_cmmd_does():
    protocol = small("cmmd-clip-frames")
    image = Image.fromarray(FRAMES[0].numpy()).crop((10, 0, 60, 50)).resize((32, 32), Image.BICUBIC)
    wanted = torch.from_numpy(numpy.array(image)).movedim(-1, 0).float() / 127.5 - 1
    torch.testing.assert_close(prepare(FRAMES[:1], protocol)[:, 0], wanted, rtol=0, atol=1e-6)


def test_a_network_is_certified_by_the_hash_that_is_named(tmp_path):
    protocol = small("fvd-vjepa2")
    written(protocol, tmp_path / "one")
    digest = encoder_hash(tmp_path / "one")
    with pytest.raises(ValueError, match=rf"names no hash .*--encoder-sha256 {digest[:9]}.*--uncertified"):
        load_encoder(tmp_path / "one", protocol, uncertified=False)
    named = replace(protocol, network_sha256=digest)
    assert load_encoder(tmp_path / "one", named, uncertified=False)[1:] == (digest, [])
    for uncertified in (False, True):
        with pytest.raises(ValueError, match="is not the network of fvd-vjepa2: its SHA-256 is"):
            load_encoder(tmp_path / "one", replace(protocol, network_sha256="0" * 64), uncertified)
    assert digest in report(WeightsSettings(encoder=str(tmp_path / "one")))
    for field, value, moves in (("layer_norm_eps", 0.1, True), ("transformers_version", "1.0", False)):
        other = tmp_path / field
        shutil.copytree(tmp_path / "one", other)
        config = json.loads((other / "config.json").read_text())
        (other / "config.json").write_text(json.dumps(config | {field: value}))
        assert (encoder_hash(other) != digest) == moves


@pytest.mark.parametrize("name", ["fvd-videomae", "fvd-vjepa2", "cmmd-clip-frames"])
def test_other_models_are_refused(name, tmp_path):
    protocol = small(name)
    written(protocol, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    file = tmp_path / "config.json"

    def told(**changes) -> str:
        file.write_text(json.dumps(config | changes))
        with pytest.raises(ValueError) as error:
            load_encoder(tmp_path, protocol, uncertified=True)
        return str(error.value)

    assert f"holds a model of type bert; {name} takes one of type {KINDS[protocol.network]}" in told(
        model_type="bert"
    )
    assert "is missing" in told(num_hidden_layers=3)
    if name != "fvd-vjepa2":  # whose places are relative
        assert f"takes image_size 64, and {name} gives it 32" in told(image_size=64)
    file.unlink()
    with pytest.raises(ValueError, match="holds no model of transformers: it needs config"):
        load_encoder(tmp_path, protocol, uncertified=True)


def test_code_of_a_folder_is_not_run_and_pickles_are_not_read(tmp_path):
    protocol = small("fvd-vjepa2")
    written(protocol, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: pass\n")
    config["auto_map"] = {"AutoModel": "mine.Mine", "AutoConfig": "mine.Mine"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    load_encoder(tmp_path, protocol, uncertified=True)
    assert not (tmp_path / "ran").exists()
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="holds no model of transformers"):
        load_encoder(tmp_path, protocol, uncertified=True)


def test_a_score_says_which_network_and_whether_it_is_certified(folders, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    protocol = FvdProtocol(
        name="tiny", real=5, fake=5, frames=4, size=32, network="vjepa2", pixels="imagenet"
    )
    monkeypatch.setattr("eval.sides.load_protocol", lambda *_: protocol)
    written(protocol, tmp_path / "folder")
    digest = encoder_hash(tmp_path / "folder")
    words = ["eval", "fvd", "--real", str(folders[0]), "--fake", str(folders[1]), "--protocol", "tiny"]
    words += ["--workers", "0", "--resamples", "0"]
    mine, out = ["--weights", str(tmp_path / "folder")], tmp_path / "score.json"
    assert run([*words, *mine]) == 1
    assert f"--encoder-sha256 {digest} names yours" in capsys.readouterr().err
    values = []
    for more, stamps in (
        (["--uncertified"], ["vjepa2 is not certified: no hash was named"]),
        (["--encoder-sha256", digest], []),
    ):
        assert run([*words, *mine, *more, "--json", str(out)]) == 0
        score = json.loads(out.read_text())
        values.append(score["value"])
        assert score["stamps"] == stamps and score["weights"] == digest
        assert score["protocol"]["network_sha256"] == ("" if stamps else digest)
        capsys.readouterr()
    assert values[0] == values[1] > 0
    assert run([*words, "--smoke", "--json", str(out)]) == 0
    assert json.loads(out.read_text())["stamps"] == ["NOT FVD: seeded network"]


def test_reconstructions_are_scored_by_i3d(folders, capsys):  # noqa: F811
    sides = ["--real", str(folders[0]), "--fake", str(folders[0]), "--lpips", "none"]
    assert run(["eval", "reconstruction", *sides, "--protocol", "fvd-vjepa2"]) == 1
    assert "fvd-vjepa2 takes vjepa2: dit eval fvd --real" in capsys.readouterr().err
