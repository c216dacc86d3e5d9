"""Proves that training starts from folders of diffusers, and that settings that do not fit are refused."""

import json
from dataclasses import replace

import pytest
import torch

from configs.load import from_json, to_json
from configs.model import TextConfig
from configs.train import OptimizerConfig, TransformerRun
from dit.cli import run
from dit.load import load_model
from dit.start import check_text
from dit.train import train
from dit.wan import to_diffusers, transformer_settings
from tests.test_train import autoencoder  # noqa: F401
from tests.test_train_loss import random_denoiser
from tests.tiny import fresh_accelerator, state, transformer_run  # noqa: F401
from vae.data.write import write_video
from vae.diffusers_folder import write_folder


def test_a_frozen_encoder_of_another_width_is_refused_unloaded(autoencoder, tmp_path):  # noqa: F811
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "config.json").write_text('{"model_type": "t5", "d_model": 20}')
    config = transformer_run(tmp_path / "run", autoencoder)
    with pytest.raises(ValueError, match=r"model.text_width = 16 must be the width of \S+text, 20"):
        train(replace(config, text=replace(config.text, folder=str(tmp_path / "text"))))
    assert not (tmp_path / "run").exists()


def test_fine_tuning_starts_from_a_diffusers_folder(autoencoder, tmp_path, capsys):  # noqa: F811
    config = transformer_run(tmp_path / "run", autoencoder, steps=1)
    given = random_denoiser(config).transformer
    tensors = to_diffusers(given.state_dict(), config.model)
    write_folder(tmp_path / "wan" / "transformer", transformer_settings(config.model), tensors)
    still = OptimizerConfig(learning_rate=0.0)
    config = replace(config, init=str(tmp_path / "wan"), optimizer=still)
    with pytest.raises(ValueError, match=r"nothing says which latents --init \S+ knows .*--new-latents"):
        train(config)  # the folder has no autoencoder
    train(replace(config, new_latents=True))
    assert "only the transformer is taken, the text encoder starts from random\n" in capsys.readouterr().err
    kept = state(config.out)
    assert all(torch.equal(kept[f"model/transformer.{k}"], v) for k, v in given.state_dict().items())


@pytest.mark.parametrize("padded", [True, False])
def test_text_of_a_diffusers_folder_is_that_of_its_transformer(autoencoder, tmp_path, padded):  # noqa: F811
    wan, other = tmp_path / "wan", tmp_path / "other"
    for folder, data in {wan: b"weights", other: b"weightz"}.items():
        for part in ("transformer", "text_encoder"):
            (folder / part).mkdir(parents=True)
            (folder / part / "config.json").write_text('{"model_type": "umt5", "d_model": 16}')
        (folder / "text_encoder" / "model.safetensors").write_bytes(data)
    if not padded:  # as `dit export` writes it beside a model whose text was not padded
        (wan / "dit.json").write_text(json.dumps({"text": to_json(TextConfig(padded=False))}))
    own, flag = TextConfig(folder=str(wan), padded=padded), "--text.padded" if padded else "--text.no-padded"
    assert check_text(own, wan) == check_text(TextConfig(), tmp_path) == ""
    assert f"starts from random; --text.folder {wan} {flag} takes" in check_text(TextConfig(), wan)
    assert f"{other} is not the text encoder of {wan}" in check_text(TextConfig(folder=str(other)), wan)
    config = replace(transformer_run(tmp_path / "run", autoencoder), init=str(wan))
    with pytest.raises(ValueError, match=rf"{wan} was trained with other text padding: give {flag}$"):
        train(replace(config, text=replace(config.text, folder=str(wan), padded=not padded)))
    assert not (tmp_path / "run").exists()


def test_a_frozen_text_encoder_trains_nothing_of_itself(autoencoder, tmp_path):  # noqa: F811
    from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

    folder = tmp_path / "text"
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    encoder = T5EncoderModel(T5Config(vocab_size=384, feed_forward_proj="gated-gelu", **sizes))
    encoder.save_pretrained(folder)
    ByT5Tokenizer().save_pretrained(folder)
    config = transformer_run(tmp_path / "run", autoencoder, steps=2, precision="bf16", show_every=2)
    config = replace(config, text=replace(config.text, folder=str(folder)))
    train(config)
    assert not [name for name in state(config.out) if "text." in name]
    cpu = torch.device("cpu")
    with pytest.raises(ValueError, match=rf"text encoder {folder}, which is not read unless you name"):
        load_model(config.out, cpu, torch.float32)
    other = tmp_path / "other"
    torch.manual_seed(1)
    T5EncoderModel(encoder.config).save_pretrained(other)
    ByT5Tokenizer().save_pretrained(other)
    with pytest.raises(ValueError, match=rf"{other} is not the text encoder that \S+ was trained with"):
        load_model(config.out, cpu, torch.float32, str(other))
    longer = replace(config, train=replace(config.train, steps=3))
    with pytest.raises(ValueError, match=r"holds a run with text\.folder = "):
        train(replace(longer, text=replace(config.text, folder=str(other))))
    model = load_model(config.out, cpu, torch.float32, str(folder))
    kept = model.denoiser.text.model.state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in encoder.state_dict().items())
    embeddings, lengths = model.denoiser.text(["a red circle", ""])
    ids = torch.tensor([[byte + 3 for byte in b"a red circle"] + [1]])
    expected = encoder.eval()(ids)[0][0]
    torch.testing.assert_close(embeddings[: len(expected)], expected, rtol=1e-5, atol=1e-5)
    assert lengths == [13, 1]


def test_captions_that_are_cut_and_files_without_one_are_said_once(autoencoder, tmp_path, capsys):  # noqa: F811
    for k in range(4):
        write_video(tmp_path / "set" / f"{k}.mp4", torch.rand(3, 5, 32, 32) * 2 - 1, 8, {})
    (tmp_path / "set" / "0.txt").write_text("word " * 400 + "\nshort")
    (tmp_path / "set" / "1.txt").write_text("short")
    assert run(["data", "index", str(tmp_path / "set")]) == 0
    config = transformer_run(tmp_path / "run", autoencoder, str(tmp_path / "set"), steps=2)
    train(replace(config, prompts=("long " * 200,)))
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert said == [
        "note: 2 of 4 files have no caption: they are trained on without a prompt",
        "note: 2 of 3 captions and prompts have more than text.max_tokens = 512: cut there",
    ]
    config = transformer_run(tmp_path / "drawn", autoencoder, steps=1)
    train(replace(config, text=replace(config.text, max_tokens=8)))
    assert "captions and prompts have more than text.max_tokens = 8: cut there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: replace(c, model=replace(c.model, heads=5)), "model.width = 32 must be an even multiple"),
        (
            lambda c: replace(c, model=replace(c.model, text_width=64)),
            "model.text_width = 64 must be text.wi",
        ),
        (lambda c: replace(c, model=replace(c.model, latent_channels=16)), "the autoencoder has 4"),
        (lambda c: replace(c, model=replace(c.model, heads=0)), "model.heads = 0: it must be at least 1"),
        (lambda c: replace(c, text=replace(c.text, depth=0)), "text.depth = 0: it must be at least 1"),
        (
            lambda c: replace(c, model=replace(c.model, time_frequencies=15)),
            "frequencies = 15: .* multiple of 2",
        ),
        (lambda c: replace(c, sampler=replace(c.sampler, steps=0)), "sampler.steps = 0: it must be at least"),
        (lambda c: replace(c, flow=replace(c.flow, shift=-1.0)), "flow.shift = -1.0: it must be above 0"),
        (lambda c: replace(c, flow=replace(c.flow, shift_tokens=-1)), "flow.shift_tokens = -1"),
        (lambda c: replace(c, data=replace(c.data, workers=-1)), "data.workers = -1: it must be at least 0"),
        (
            lambda c: replace(c, optimizer=OptimizerConfig(warmup_steps=-1)),
            "optimizer.warmup_steps = -1: it must be at least 0",
        ),
        (
            lambda c: replace(c, optimizer=OptimizerConfig(max_gradient_norm=-1.0)),
            "optimizer.max_gradient_norm = -1.0: it must be above 0",
        ),
        (lambda c: replace(c, optimizer=OptimizerConfig(ema_decay=1.0)), "ema_decay = 1.0: .* below 1"),
        (lambda c: replace(c, train=replace(c.train, seed=-1)), "train.seed = -1: it must be at least 0"),
        (lambda c: replace(c, flow=replace(c.flow, prompt_dropout=1.5)), "flow.prompt_dropout = 1.5"),
        (lambda c: replace(c, flow=replace(c.flow, time_std=-1.0)), "flow.time_std = -1.0"),
        (lambda c: replace(c, init="nowhere"), "nowhere: no such model folder"),
        (lambda c: replace(c, init="builtin"), "has other latents than those that --init builtin knows"),
        (
            lambda c: replace(c, init="builtin", new_latents=True),
            "builtin.transformer.safetensors does not fit",
        ),
        (lambda c: replace(c, data=replace(c.data, size=40)), "data.size = 40 is no multiple of 16"),
        (lambda c: replace(c, data=replace(c.data, frames=6)), "frames"),
        (lambda c: replace(c, autoencoder="nowhere"), "nowhere: no autoencoder there"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused_before_anything_is_written(
    autoencoder,  # noqa: F811
    tmp_path,
    change,
    words,
):
    config = change(transformer_run(tmp_path / "run", autoencoder))
    with pytest.raises(ValueError, match=words):
        train(from_json(TransformerRun, to_json(config)))
    assert not (tmp_path / "run").exists()
