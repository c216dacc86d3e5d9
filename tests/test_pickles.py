"""Proves that no code loads a pickle or runs a folder's own code, and that either is seen."""

import ast
import contextlib
import json
import re

import pytest

from configs.model import TextConfig
from dit.text import make_encoder
from tests.test_text import tiny_umt5
from tests.tiny import ROOT

SAFE = {"trust_remote_code=False", "local_files_only=True", "use_safetensors=True"}
FORBIDDEN = {"torch.load", "torch.save", "pickle", "np.load", "numpy.load", "joblib", "shelve"}


def pickles(source: str) -> list[str]:
    """What could load a pickle or run code: a name of those forbidden, or `from_pretrained` of all there is.

    `torch.load` with `weights_only=True` builds tensors alone, `numpy.load` with `allow_pickle=False` arrays.
    """
    found, tree = [], ast.parse(source)
    only = {
        node.func
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and {"weights_only=True", "allow_pickle=False"} & set(map(ast.unparse, node.keywords))
    }
    for node in ast.walk(tree):
        if node in only:
            continue
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        names += [ast.unparse(node)] if isinstance(node, ast.Attribute) else []
        found += FORBIDDEN & set(names)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".from_pretrained"):
            safe = set(map(ast.unparse, node.keywords))
            weightless = re.search("Tokenizer|Processor", ast.unparse(node.func))
            safe |= {"use_safetensors=True"} if weightless else set()
            found += [] if safe >= SAFE else [ast.unparse(node)]
    return found


def test_no_code_loads_a_pickle():
    for folder in ("configs", "samplers", "vae", "dit", "eval"):
        for file in (ROOT / folder).rglob("*.py"):
            assert pickles(file.read_text()) == [], file.name


def test_weights_come_in_by_one_door():
    for folder in ("configs", "samplers", "vae", "dit", "eval"):
        for file in (ROOT / folder).rglob("*.py"):
            doors = {"vae/training/weights.py"} | {"vae/cache/check.py"}  # which names rows, not files
            if file.relative_to(ROOT).as_posix() not in doors:
                assert not re.search(r"\bload_file\(|\bsafe_open\(|torch\.load\(", file.read_text()), (
                    file.name
                )


@pytest.mark.parametrize("name", ["tokenizer", "text_encoder"])
def test_a_folder_s_own_code_is_not_run(tmp_path, monkeypatch, name):
    tiny_umt5(tmp_path)
    asked = []
    monkeypatch.setattr("builtins.input", lambda *_: asked.append(1) or "y")
    planted = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
    (tmp_path / name / "own.py").write_text(planted)
    classes = {"AutoTokenizer": ["own.Own", None], "AutoConfig": "own.Own", "AutoModel": "own.Own"}
    for file in (tmp_path / name).glob("*config.json"):
        values = json.loads(file.read_text()) | {"tokenizer_class": "Own", "auto_map": classes}
        file.write_text(json.dumps(values))
    with contextlib.suppress(ValueError):
        make_encoder(TextConfig(folder=str(tmp_path)))
    assert not asked and not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("source", "many"),
    [
        ("from torch import load", 1),
        ("import pickle", 1),
        ("x = torch.load(file)", 1),
        ("x = torch.load(file, weights_only=False)", 1),
        ("x = torch.load(file, weights_only=True)", 0),
        ("x = numpy.load(file)", 1),
        ("x = numpy.load(file, allow_pickle=True)", 1),
        ("x = numpy.load(file, allow_pickle=False)", 0),
        ("T5EncoderModel.from_pretrained(folder)", 1),
        ("kinds[kind].from_pretrained(folder, use_safetensors=False)", 1),
        ("T5EncoderModel.from_pretrained(folder, use_safetensors=True)", 1),
        ("A.from_pretrained(f, use_safetensors=True, local_files_only=True, trust_remote_code=False)", 0),
        ("A.from_pretrained(f, use_safetensors=True, local_files_only=True, trust_remote_code=True)", 1),
        ("A.from_pretrained(f, use_safetensors=True, trust_remote_code=False)", 1),
        ("AutoTokenizer.from_pretrained(folder)", 1),
        ("AutoTokenizer.from_pretrained(folder, local_files_only=True)", 1),
        ("AutoTokenizer.from_pretrained(f, local_files_only=True, trust_remote_code=False)", 0),
    ],
)
def test_a_pickle_is_seen_however_it_is_loaded(source, many):
    assert len(pickles(source)) == many
