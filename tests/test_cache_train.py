"""Proves that training from a cache has the losses of training online, and other settings are refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import dit.train
import vae.load
import vae.train
from configs.model import TextConfig
from configs.train import AutoencoderRun, FlowConfig, LoraConfig, TaskWeights
from dit.encode import encode
from dit.text import EmbeddedText, StoredText, make_encoder
from tests.test_cache import DATA, autoencoder, folder, made, settings, text_folder  # noqa: F401
from tests.test_text import tiny_umt5
from tests.tiny import assert_same_run, fresh_accelerator, launch, rows, transformer_run, write_config  # noqa: F401
from vae.cache.index import is_cache, load_cache
from vae.data.clips import VideoFiles, open_data
from vae.load import WEIGHTS, load_autoencoder
from vae.training.folder import open_run
from vae.training.weights import load_weights, save_weights


def online_and_cached(folder, autoencoder, made, tmp_path, **changes) -> tuple[Path, Path]:  # noqa: F811
    """The folders of two runs, one that encodes in every step and one from the cache."""
    outs = []
    for name, source in (("online", folder), ("cached", made)):
        config = transformer_run(tmp_path / name, autoencoder, steps=5, save_every=5, show_every=5)
        config = replace(config, data=replace(DATA, source=str(source)), **changes)
        dit.train.train(config)
        outs.append(tmp_path / name)
    return tuple(outs)


@pytest.mark.parametrize("posterior", ["mean", "sample"])
def test_training_from_a_cache_is_training_online_to_the_bit(folder, autoencoder, made, tmp_path, posterior):  # noqa: F811
    """The byte-level encoder, first frames that are given, dropped prompts, several captions, an image."""
    flow = FlowConfig(tasks=TaskWeights(none=0.5, first=0.5), prompt_dropout=0.3)
    online, cached = online_and_cached(folder, autoencoder, made, tmp_path, flow=flow, posterior=posterior)
    assert_same_run(online, cached)
    assert len({row["loss"] for row in rows(online) if "loss" in row}) == 5


def test_a_mixture_of_a_cache_and_the_drawn_world_is_that_of_its_files_and_goes_on_where_it_stopped(
    folder,  # noqa: F811
    autoencoder,  # noqa: F811
    made,  # noqa: F811
    tmp_path,
):
    """With steps by tokens, in packs: the same losses and weights; other shares are refused."""
    outs = []
    for name, source, stops in (("online", folder, [4]), ("stopped", made, [2, 4])):
        data = replace(DATA, sources=(f"{source}=3", "shapes=1"))
        for steps in stops:
            loop = {"steps": steps, "save_every": 2, "show_every": 2, "tokens": 40, "pack_tokens": 24}
            config = transformer_run(tmp_path / name, autoencoder, **loop)
            dit.train.train(replace(config, data=data))
        outs.append(tmp_path / name)
    assert_same_run(*outs)
    with pytest.raises(ValueError, match=r"a run on other data than .*cache=1, shapes=1 now has"):
        dit.train.train(replace(config, data=replace(DATA, sources=(f"{made}=1", "shapes=1"))))


@pytest.mark.long
def test_a_mixture_by_tokens_is_the_same_on_any_number_of_processes(folder, autoencoder, made, tmp_path):  # noqa: F811
    """Stopped on two processes and gone on with on three, in packs; no sample twice and none left out."""
    data = replace(DATA, sources=(f"{folder}=1", f"{made}=2", "shapes=1"))
    outs = []
    for name, worlds in (("one", [(6, 1, 0)]), ("several", [(3, 2, 24), (6, 3, 30)])):
        for steps, processes, cap in worlds:
            loop = {"steps": steps, "save_every": 3, "show_every": 3, "tokens": 60, "pack_tokens": cap}
            config = transformer_run(tmp_path / name, autoencoder, **loop)
            config = replace(config, data=data)
            if processes == 1:
                dit.train.train(config)
                continue
            file = write_config(tmp_path / f"{name}{steps}.py", config)
            done = launch("dit.train", file, processes=processes)
            assert done.returncode == 0, done.stderr[-2000:]
        outs.append(tmp_path / name)
    for one, several in zip(*map(rows, outs), strict=True):
        assert one == pytest.approx(several, rel=1e-5)
    losses = [[row["loss"] for row in rows(out) if "loss" in row] for out in outs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and len(set(losses[0])) == 6


def test_the_posterior_s_draws_move_the_loss(folder, autoencoder, made, tmp_path):  # noqa: F811
    losses = []
    for posterior in ("mean", "sample"):
        config = transformer_run(tmp_path / posterior, autoencoder, steps=1, save_every=1, show_every=1)
        dit.train.train(replace(config, data=replace(DATA, source=str(made)), posterior=posterior))
        losses.append(rows(tmp_path / posterior)[0]["loss"])
    assert abs(losses[0] - losses[1]) > 1e-3


@pytest.mark.parametrize("padded", [False, True])
def test_training_from_a_cache_with_a_frozen_encoder_has_the_same_losses(
    folder,  # noqa: F811
    autoencoder,  # noqa: F811
    made,  # noqa: F811
    text_folder,  # noqa: F811
    tmp_path,
    padded,
    monkeypatch,
):
    text = TextConfig(folder=str(text_folder), max_tokens=32, padded=padded)
    if padded:
        made = encode(settings(folder, tmp_path / "padded", autoencoder, text=text))
    config = transformer_run("", "")
    changes = {"text": text, "model": replace(config.model, text_width=20), "prompts": ("a word it lacks",)}
    changes["flow"] = FlowConfig(tasks=TaskWeights(none=0.5, first=0.5), prompt_dropout=0.3)
    online, cached = online_and_cached(folder, autoencoder, made, tmp_path, **changes)
    for one, two in zip(rows(online), rows(cached), strict=True):
        assert one == pytest.approx(two, rel=1e-5), "batches are padded otherwise, which moves last digits"


def test_kept_embeddings_are_the_encoder_s(made, text_folder):  # noqa: F811
    """Also of a prompt that the cache lacks, and with the padding of open weights."""
    text = TextConfig(folder=str(text_folder), max_tokens=32)
    found = load_cache(made)
    places = {c: p for file in found.files for c, p in zip(file.captions, file.texts, strict=True)}
    places[""] = found.empty
    kept = EmbeddedText(text, {c: StoredText(made, torch.float32, p) for c, p in places.items()})
    prompts = ["a red circle", "", "w", "not in the cache"]
    kept.keep(prompts)
    packed, lengths = kept(prompts)
    wanted, wanted_lengths = make_encoder(text)(prompts)
    assert lengths == wanted_lengths
    assert (packed - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_no_encoder_is_loaded_where_a_cache_has_what_it_gives(
    autoencoder,  # noqa: F811
    made,  # noqa: F811
    text_folder,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    """Nor the decoder but for pictures, by a run, by the same that goes on, and by adapters of it."""
    loaded, pictures = [], []
    read, show = vae.load._load_ours, dit.train.show_samples

    def load(path):
        assert pictures, f"{path} is loaded outside of pictures"
        loaded.append(path)
        return read(path)

    def shown(*arguments):
        pictures.append(arguments[-1])
        show(*arguments)
        pictures.pop()

    def never(config):
        raise AssertionError("the text encoder is loaded")

    monkeypatch.setattr("vae.load._load_ours", load)
    monkeypatch.setattr("dit.train.show_samples", shown)
    monkeypatch.setattr("dit.text.load_pretrained", never)
    base = transformer_run(tmp_path / "run", autoencoder, steps=1, save_every=1, show_every=1)
    base = replace(base, data=replace(DATA, source=str(made)), model=replace(base.model, text_width=20))
    base = replace(base, text=TextConfig(folder=str(text_folder), max_tokens=32))
    longer = replace(base, train=replace(base.train, steps=2))
    lora = replace(longer, out=str(tmp_path / "lora"), init=base.out, lora=LoraConfig(rank=2))
    for config in (base, longer, lora):
        dit.train.train(config)
        assert rows(config.out)[-1]["step"] == config.train.steps
    kept = Path(base.out) / WEIGHTS
    assert loaded == [autoencoder, kept, autoencoder, autoencoder]
    assert kept.read_bytes() == autoencoder.read_bytes()
    assert len(list(Path(lora.out).glob("samples-*.png"))) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: replace(c, data=replace(c.data, frames=9)), "data.frames = 9, but .* was made with 5"),
        (lambda c: replace(c, data=replace(c.data, size=48)), "data.size = 48, but .* was made with 32"),
        (lambda c: replace(c, data=replace(c.data, fps=4.0)), "data.fps = 4.0, but .* was made with 8.0"),
        (
            lambda c: replace(c, data=replace(c.data, clips_per_file=0)),
            "clips_per_file = 0, .* with 3: give --data.clips-per-file 3",
        ),
        (
            lambda c: replace(c, autoencoder=c.autoencoder + ".2.safetensors"),
            "was made by another autoencoder",
        ),
    ],
)
def test_a_run_that_wants_other_clips_than_the_cache_s_is_told_which_setting(
    autoencoder,  # noqa: F811
    made,  # noqa: F811
    tmp_path,
    change,
    words,
):
    tensors, header = load_weights(autoencoder)
    tensors["latent_mean"].zero_()
    save_weights(Path(f"{autoencoder}.2.safetensors"), tensors, "autoencoder", header.settings)
    config = transformer_run(tmp_path / "run", autoencoder)
    with pytest.raises(ValueError, match=words):
        dit.train.train(change(replace(config, data=replace(DATA, source=str(made)))))
    assert not (tmp_path / "run").exists()


def test_embeddings_of_another_encoder_are_refused_and_missing_ones_made_in_training(
    folder,  # noqa: F811
    autoencoder,  # noqa: F811
    made,  # noqa: F811
    text_folder,  # noqa: F811
    tmp_path,
    capsys,
):
    torch.manual_seed(9)
    tiny_umt5(tmp_path / "other")
    config = transformer_run(tmp_path / "run", autoencoder, steps=1, save_every=1, show_every=1)
    config = replace(config, model=replace(config.model, text_width=20), data=replace(DATA, source=str(made)))
    for text, words in (
        (TextConfig(folder=str(tmp_path / "other"), max_tokens=32), "embeddings of another text encoder"),
        (TextConfig(folder=str(text_folder)), "embeddings of text.max_tokens = 32, not 512"),
        (TextConfig(folder=str(text_folder), max_tokens=32, padded=True), "of text.padded = False, not True"),
    ):
        with pytest.raises(ValueError, match=words):
            dit.train.train(replace(config, text=text))
    bare = encode(settings(folder, tmp_path / "bare", autoencoder))
    config = replace(config, text=TextConfig(folder=str(text_folder), max_tokens=32))
    dit.train.train(replace(config, data=replace(DATA, source=str(bare))))
    assert "has no embeddings, the text encoder runs in every step" in capsys.readouterr().err


def test_an_autoencoder_is_not_trained_on_latents(made, folder, autoencoder, tmp_path):  # noqa: F811
    with pytest.raises(ValueError, match="holds latents and no video: give the manifest it was made of"):
        vae.train.train(AutoencoderRun(out=str(tmp_path / "run"), data=replace(DATA, source=str(made))))
    with pytest.raises(ValueError, match="holds a manifest: give the cache a folder of its own"):
        encode(settings(folder, folder, autoencoder))
    open_run(tmp_path, "transformer", AutoencoderRun(), "")
    with pytest.raises(ValueError, match="holds a run: give the cache a folder of its own"):
        encode(settings(folder, tmp_path, autoencoder))
    assert not is_cache(folder) and isinstance(
        open_data(replace(DATA, source=str(folder)), 0, 1, load_autoencoder(autoencoder).compression)[0],
        VideoFiles,
    )
