"""Proves that weights files keep every bit and their settings, appear whole, and fit or say why not."""

import hashlib
import json
import os
import re
import struct

import pytest
import torch

from vae.training.files import file_hash, write_text, write_whole
from vae.training.weights import (
    KINDS,
    Header,
    load_strictly,
    load_weights,
    read_header,
    save_weights,
    tensors_hash,
)

SETTINGS = {"model": {"width": 3, "list": [1.5, True, None]}, "name": "größe"}
FACTS = {"smoothed": 0.1 + 0.2, "step": 3}


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "a": torch.randn(3, 4, generator=generator),
        "b": torch.randn(5, generator=generator).bfloat16(),
        "c": torch.arange(6).view(2, 3).t(),  # not contiguous
        "d": torch.tensor(float("-0.0")),
    }


def test_tensors_and_settings_come_back_to_the_bit(tmp_path):
    save_weights(tmp_path / "new" / "w.safetensors", tensors(), "transformer", SETTINGS, FACTS)
    loaded, header = load_weights(tmp_path / "new" / "w.safetensors", "transformer")
    assert header == Header("transformer", SETTINGS, FACTS) == read_header(tmp_path / "new" / "w.safetensors")
    assert header.facts["smoothed"].hex() == (0.1 + 0.2).hex()
    for name, tensor in tensors().items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name].nan_to_num(7.0), tensor.nan_to_num(7.0))


def test_the_file_is_plain_safetensors_by_its_published_layout(tmp_path):
    save_weights(tmp_path / "w.safetensors", tensors(), "transformer", SETTINGS)
    content = (tmp_path / "w.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])  # eight bytes of length, a JSON header, then the numbers
    header = json.loads(content[8 : 8 + length])
    assert json.loads(header["__metadata__"]["settings"]) == SETTINGS
    first, last = header["a"]["data_offsets"]
    numbers = struct.unpack("<12f", content[8 + length + first : 8 + length + last])
    assert list(numbers) == tensors()["a"].flatten().tolist()


def test_others_may_read_the_weights_as_they_may_any_file(tmp_path):
    save_weights(tmp_path / "w.safetensors", tensors(), "transformer", SETTINGS)
    (tmp_path / "any").touch()
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_a_write_that_fails_leaves_the_file_before_and_nothing_else(tmp_path):
    file = tmp_path / "file.txt"
    write_text(file, "before")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(file, fail)
    assert file.read_text() == "before" and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such weights file"),
        (b"", "is not a whole safetensors file"),
        (b"not a weights file at all", "is not a whole safetensors file"),
        ("cut", "is not a whole safetensors file"),
        ("plain", "says no kind, settings and facts: it was not written by this project, or by"),
        ("earlier", "says no kind, settings and facts: it was not written by this project, or by"),
    ],
)
def test_a_file_that_is_not_ours_is_named_with_the_reason(tmp_path, content, message):
    from safetensors.torch import save_file

    file = tmp_path / "w.safetensors"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content == "plain":
        save_file({"a": torch.ones(2)}, file)
    elif content == "earlier":
        save_file({"a": torch.ones(2)}, file, {"settings": json.dumps(SETTINGS)})
    elif content == "cut":
        save_weights(file, tensors(), "transformer", SETTINGS)
        file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ValueError, match=message) as caught:
        load_weights(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "facts"), [("{", "{}"), ("[]", "{}"), ("{}", "null"), ("{}", "[]"), ("{}", '{"step": "8"}')]
)
def test_a_damaged_header_is_named_before_anything_reads_it(tmp_path, settings, facts):
    from safetensors.torch import save_file

    file = tmp_path / "w.safetensors"
    header = {"kind": "transformer", "settings": settings, "facts": facts}
    save_file({"a": torch.ones(2)}, file, header)
    with pytest.raises(ValueError, match=f"^{re.escape(str(file))}, (settings|facts) in its header"):
        load_weights(file, "transformer")


def test_a_file_of_another_kind_is_refused_with_the_verb_that_makes_the_right_one(tmp_path):
    file = tmp_path / "w.safetensors"
    for kind in KINDS:
        save_weights(file, tensors(), kind, SETTINGS, {"step": 1, "smoothed": 0.5})
        assert load_weights(file, kind)[1].kind == read_header(file, "features", kind).kind == kind
        for wanted in KINDS.keys() - {kind}:
            message = f"{file} is of kind {kind}, where {wanted} is needed: `{KINDS[wanted]}` makes one"
            for read in (load_weights, read_header):
                with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                    read(file, wanted)


def test_weights_that_do_not_fit_are_named():
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    good = {name: tensor.half() for name, tensor in module.state_dict().items()}
    load_strictly(module, {name: tensor + 1 for name, tensor in good.items()}, "file")
    assert all(torch.equal(module.state_dict()[name], (good[name] + 1).float()) for name in good)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for wrong, message in [
        ({k: v for k, v in good.items() if k != "0.bias"}, "file does not fit .*: 0.bias is missing$"),
        (good | {"2.bias": torch.ones(1)}, "2.bias has no place$"),
        (good | {"0.weight": torch.ones(2, 3)}, r"0.weight is \(2, 3\), not \(3, 2\)$"),
        ({}, "0.weight is missing; 0.bias is missing and 2 more$"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_strictly(module, wrong, "file")
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in before.items())


def test_hashes_follow_the_content_alone(tmp_path):
    save_weights(tmp_path / "w.safetensors", tensors(), "transformer", SETTINGS)
    assert (
        file_hash(tmp_path / "w.safetensors")
        == hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()
    )
    same = dict(reversed(tensors().items()))
    assert tensors_hash(same) == tensors_hash(tensors())
    assert tensors_hash(tensors() | {"a": tensors()["a"] + 1e-6}) != tensors_hash(tensors())
    renamed = {("e" if name == "a" else name): tensor for name, tensor in tensors().items()}
    assert tensors_hash(renamed) != tensors_hash(tensors())


def test_equal_weights_are_equal_bytes(tmp_path):
    for name in ("a.safetensors", "b.safetensors", "c.safetensors", "d.safetensors"):
        tensors = {"x": torch.ones(3), "y\u00fc": torch.zeros(2, 2)}
        save_weights(tmp_path / name, tensors, "transformer", {"out": "\u732b"}, {"step": 1})
    assert len({file.read_bytes() for file in tmp_path.iterdir()}) == 1
    tensors, header = load_weights(tmp_path / "a.safetensors", "transformer")
    assert torch.equal(tensors["x"], torch.ones(3)) and header.settings == {"out": "\u732b"}
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    """The process's own."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_weights_of_ours_whose_bytes_have_changed_are_damaged(tmp_path):
    file = tmp_path / "model.safetensors"
    save_weights(file, tensors() | {"none": torch.ones(0, 2)}, "transformer", {})
    load_weights(file, "transformer")
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    for damaged in (content[:start] + bytes(len(content) - start), flipped):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged"):
            load_weights(file, "transformer")


def test_a_checksum_does_not_depend_on_the_order_or_layout_of_tensors(tmp_path):
    x, y = torch.randn(3, 4), torch.randn(2)
    save_weights(tmp_path / "1", {"x": x, "y": y}, "transformer", {})
    save_weights(tmp_path / "2", {"y": y, "x": x.T.contiguous().T}, "transformer", {})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
