"""Proves that no code loads a pickle, and that a pickle is seen however it is loaded."""

import ast

import pytest

from tests.tiny import ROOT

FORBIDDEN = {"torch.load", "torch.save", "pickle", "np.load", "numpy.load", "joblib", "shelve"}


def pickles(source: str) -> list[str]:
    """What could load a pickle in a source: a name of those forbidden, or weights in any format they come.

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
            safe = any(ast.unparse(keyword) == "use_safetensors=True" for keyword in node.keywords)
            found += [] if safe or "Tokenizer" in ast.unparse(node.func) else [ast.unparse(node)]
    return found


def test_no_code_loads_a_pickle():
    for folder in ("configs", "samplers", "vae", "dit", "eval"):
        for file in (ROOT / folder).rglob("*.py"):
            assert pickles(file.read_text()) == [], file.name


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
        ("T5EncoderModel.from_pretrained(folder, use_safetensors=True)", 0),
        ("AutoTokenizer.from_pretrained(folder)", 0),
    ],
)
def test_a_pickle_is_seen_however_it_is_loaded(source, many):
    assert len(pickles(source)) == many
