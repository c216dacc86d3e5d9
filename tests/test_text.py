"""Proves that the text encoders are T5's and UMT5's, and that packed text is the padded and masked text."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from configs.model import TextConfig
from dit.byte_t5 import ByteEncoder, byte_tokens
from dit.text import (
    as_transformers,
    clean,
    cut_note,
    encoder_hash,
    load_tokenizer,
    make_encoder,
    write_encoder,
)

TINY = TextConfig(width=24, depth=3, heads=3, mlp_width=40, max_tokens=300)
PROMPTS = [
    "a red circle moves left",
    "",
    "Zwölf große Bälle – 十二 🟡",
    "a",
    "one two three " * 30,  # longer than the longest, and farther apart than the last position bucket
]


def random_encoder(config: TextConfig) -> ByteEncoder:
    """A byte-level encoder in which every parameter matters."""
    encoder = ByteEncoder(config)
    with torch.no_grad():
        for parameter in encoder.parameters():
            noise = torch.randn(parameter.shape)
            parameter.copy_(1 + 0.3 * noise if parameter.ndim == 1 else noise * parameter.shape[-1] ** -0.5)
    return encoder


def tiny_umt5(folder: Path, kind: str = "UMT5") -> None:
    """Writes a UMT5 or T5 encoder with random weights and a tokenizer of single letters, offline."""
    import transformers

    scores = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    scores += [(letter, -3.0 - k / 10) for k, letter in enumerate("abcdefghijklmnopqrstuvwxyz&")]
    tokenizer = transformers.T5Tokenizer(vocab=scores, extra_ids=0)
    tokenizer.save_pretrained(folder / "tokenizer")
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(scores), d_model=20, d_kv=6, d_ff=32, num_layers=2, num_heads=4
    )
    model = getattr(transformers, f"{kind}EncoderModel")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    model.save_pretrained(folder / "text_encoder")


@pytest.mark.parametrize("prompt", PROMPTS)
def test_token_ids_are_those_of_byt5(prompt: str):
    from transformers import ByT5Tokenizer

    wanted = ByT5Tokenizer()(prompt, truncation=True, max_length=TINY.max_tokens)["input_ids"]
    assert byte_tokens(prompt, TINY.max_tokens) == wanted


def test_the_byte_encoder_is_t5():
    encoder = random_encoder(TINY)
    model, tokenizer = as_transformers(encoder)
    batch = tokenizer(PROMPTS, padding=True, truncation=True, max_length=TINY.max_tokens, return_tensors="pt")
    wanted = model(**batch).last_hidden_state[batch["attention_mask"].bool()]
    packed, lengths = encoder(PROMPTS)
    assert lengths == batch["attention_mask"].sum(1).tolist()
    assert (packed - wanted).abs().max() < 1e-5 * wanted.abs().max()

    probe = torch.randn_like(packed)
    (packed * probe).sum().backward()
    (wanted * probe).sum().backward()
    theirs = dict(model.named_parameters())
    for name, parameter in encoder.named_parameters():
        difference = (parameter.grad - theirs[name].grad).abs().max()
        assert difference < 1e-4 * theirs[name].grad.abs().max(), name


def test_a_prompt_does_not_depend_on_its_neighbours():
    encoder = random_encoder(TINY)
    packed, lengths = encoder(PROMPTS)
    for prompt, together in zip(PROMPTS, packed.split(lengths), strict=True):
        alone, (length,) = encoder([prompt])
        assert length == len(together)
        assert torch.allclose(alone, together, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["T5", "UMT5"])
def test_packed_text_is_padded_and_masked_text(tmp_path: Path, kind: str):
    import transformers

    tiny_umt5(tmp_path, kind)
    encoder = make_encoder(TextConfig(folder=str(tmp_path), max_tokens=16))
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    prompts = ["a red circle", "", "a word that is far too long for this"]
    packed, lengths = encoder(prompts)

    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    model = getattr(transformers, f"{kind}EncoderModel").from_pretrained(tmp_path / "text_encoder")
    batch = tokenizer(prompts, padding="max_length", truncation=True, max_length=16, return_tensors="pt")
    wanted = model(**batch).last_hidden_state
    assert lengths == batch["attention_mask"].sum(1).tolist() == [14, 1, 16]
    for text, row, length in zip(packed.split(lengths), wanted, lengths, strict=True):
        assert torch.allclose(text, row[:length], rtol=0, atol=1e-5 * wanted.abs().max().item())


def test_names_in_a_tokenizers_settings_steer_no_terminal(tmp_path: Path, capfd):
    """The tokenizers library prints the names that it does not know: they are refused before."""
    tiny_umt5(tmp_path)
    file = tmp_path / "tokenizer" / "tokenizer_config.json"
    known = json.loads(file.read_text())
    token = {"content": "<x>", "special": True, "\x1b[31mred": 1}
    file.write_text(json.dumps(known | {"added_tokens_decoder": {"5": token}}))
    with pytest.raises(ValueError, match=r"tokenizer_config.json has the setting '\\x1b\[31mred'"):
        load_tokenizer(TextConfig(folder=str(tmp_path)))
    assert "\x1b" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("padded", [False, True])
def test_prompts_that_are_cut_are_those_with_more_tokens(tmp_path: Path, padded: bool):
    """By the tokenizer that is told not to cut, on prompts around the limit, ASCII or not."""
    tiny_umt5(tmp_path)
    config = TextConfig(folder=str(tmp_path), max_tokens=16, padded=padded)
    prompts = [
        "",
        "a" * 13,
        "a" * 14,
        "a" * 15,
        "a" * 16,
        "b " * 9,
        "&amp; ab cd e",
        "\ufdfa",
        "\ufdfa" * 2,
        "é" * 14,
    ]
    tokenizer = make_encoder(config).tokenizer
    seen = [clean(prompt) if padded else prompt for prompt in prompts]
    wanted = sum(len(tokenizer(prompt)["input_ids"]) > 16 for prompt in seen)
    assert 2 < wanted < 8
    said = f"note: {wanted} of 10 prompts have more than text.max_tokens = 16: cut there"
    assert cut_note(config, [*prompts, *prompts]) == said and cut_note(config, prompts[:3]) == ""


def test_padded_text_is_what_the_wan_pipeline_feeds(tmp_path: Path):
    from diffusers import WanPipeline
    from transformers import AutoTokenizer, UMT5EncoderModel

    tiny_umt5(tmp_path)
    encoder = make_encoder(TextConfig(folder=str(tmp_path), padded=True))
    prompts = ["a red  circle &amp; a dot\n", "", "far " * 200]
    packed, lengths = encoder(prompts)

    pipeline = WanPipeline(
        tokenizer=AutoTokenizer.from_pretrained(tmp_path / "tokenizer"),
        text_encoder=UMT5EncoderModel.from_pretrained(tmp_path / "text_encoder"),
        vae=None,
        scheduler=None,
        transformer=None,
    )
    with torch.no_grad():
        wanted, _ = pipeline.encode_prompt(
            prompts, do_classifier_free_guidance=False, max_sequence_length=512
        )
    assert lengths == [512] * 3
    assert (packed - wanted.flatten(0, 1)).abs().max() < 1e-5 * wanted.abs().max()
    assert not packed[512 + 1 : 1024].any() and packed[1024:].abs().amin(-1).all()


def test_prompts_are_cleaned_as_the_wan_pipeline_cleans_them():
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean

    for prompt in ("“a  cat’s”\n&amp;quot;tail&amp;quot; ", "schÃ¶n ﬁne\u00a0…", "", "赤い、円"):
        assert clean(prompt) == prompt_clean(prompt)


def test_a_written_encoder_is_read_back_the_same(tmp_path: Path):
    encoder = random_encoder(TINY)
    assert write_encoder(encoder, tmp_path) == {
        "text_encoder": "T5EncoderModel",
        "tokenizer": "ByT5Tokenizer",
    }
    again = make_encoder(replace(TINY, folder=str(tmp_path)))
    (packed, lengths), (packed_again, lengths_again) = encoder(PROMPTS), again(PROMPTS)
    assert lengths == lengths_again
    assert (packed - packed_again).abs().max() < 1e-5 * packed.abs().max()


def test_a_folder_without_an_encoder_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="holds no text encoder"):
        make_encoder(TextConfig(folder=str(tmp_path)))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="of type bert"):
        make_encoder(TextConfig(folder=str(tmp_path)))
    tiny_umt5(tmp_path / "pipeline")
    for file in (tmp_path / "pipeline" / "tokenizer").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="holds no tokenizer"):
        make_encoder(TextConfig(folder=str(tmp_path / "pipeline")))


def test_weights_become_fp32_and_only_safetensors_are_read(tmp_path: Path):
    import transformers

    tiny_umt5(tmp_path)
    model = transformers.UMT5EncoderModel.from_pretrained(tmp_path / "text_encoder")
    model.bfloat16().save_pretrained(tmp_path / "text_encoder")
    encoder, other = make_encoder(TextConfig(folder=str(tmp_path))), model.state_dict()
    kept = encoder.model.state_dict()
    assert all(torch.equal(tensor, other[name].float()) for name, tensor in kept.items())
    assert {tensor.dtype for tensor in kept.values()} == {torch.float32}
    file = tmp_path / "text_encoder" / "model.safetensors"
    for damage, words in (
        (lambda: file.write_bytes(file.read_bytes()[:-8]), r"model\.safetensors cannot be read as weights"),
        (lambda: file.rename(file.with_suffix(".bin")), "text_encoder holds no text encoder"),
    ):
        damage()
        with pytest.raises(ValueError, match=words):
            make_encoder(TextConfig(folder=str(tmp_path)))


def test_the_hash_of_a_frozen_encoder_is_that_of_its_weights(tmp_path: Path):
    from safetensors.torch import save_file

    (tmp_path / "config.json").write_text("{}")
    weights, config = tmp_path / "model.safetensors", TextConfig(folder=str(tmp_path))
    tensors = {"a": torch.randn(3, 4), "b": torch.randn(2**18)}
    hashes = []
    for change in ({}, {}, {"a": tensors["a"] + 1e-6}, {"b": tensors["b"] * 1.001}, {"c": torch.zeros(1)}):
        save_file(tensors | change, weights)
        hashes.append(encoder_hash(config))
    assert hashes[0] == hashes[1] and len(set(hashes)) == 4


def test_a_new_byte_encoder_reads_neighbours_first():
    torch.manual_seed(0)
    encoder = ByteEncoder(TextConfig(width=32, depth=1, heads=4, mlp_width=32))
    prompt = "a" * 40
    with torch.no_grad():
        before, near, far = (
            encoder([text])[0][20] for text in (prompt, change(prompt, 21), change(prompt, 33))
        )
    assert (near - before).norm() > 20 * (far - before).norm()


def change(text: str, place: int) -> str:
    """The text with another letter at one place."""
    return f"{text[:place]}z{text[place + 1 :]}"
